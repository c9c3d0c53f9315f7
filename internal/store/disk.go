package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dustin/go-humanize"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/durable"
)

const (
	// copySize is copied between two looks at the context.
	copySize = 1 << 20
	// leftoverAge is that of a temporary file that nobody writes any more: one that is being
	// written is younger by its last write.
	leftoverAge = 24 * time.Hour
)

// Disk is a folder that is a store.
type Disk struct {
	root    string
	minFree float64
	mount   bool // root was a mount point when the store was opened
}

// errUnmounted says that root is an empty mount point: what is put there is on another disk, and
// gone from sight when the right one comes back.
var errUnmounted = errors.New("its disk is no longer mounted")

// OpenDisk opens the folder root. It fails where that hangs: see Bounded.
func OpenDisk(ctx context.Context, root string, o Options) (*Disk, error) {
	return openDisk(ctx, root, o, hangs)
}

func openDisk(ctx context.Context, root string, o Options, patience time.Duration) (*Disk, error) {
	d := &Disk{root: filepath.Clean(root), minFree: o.MinFree}
	_, err := call(ctx, &bounded{Disk: d, patience: patience}, "", func(headway func()) (any, error) { return nil, d.open(ctx, o, headway) })
	if err != nil {
		return nil, err
	}
	return d, nil
}

// open finds the folder, and says by headway that it goes on.
func (d *Disk) open(ctx context.Context, o Options, headway func()) error {
	if o.Write {
		if err := durable.MkdirAll(d.root); err != nil {
			return d.failed("", err)
		}
		if err := d.clearAway(ctx, o.Now.Add(-leftoverAge), headway); err != nil {
			return err
		}
	}
	info, err := os.Stat(d.root)
	if err != nil {
		return d.failed("", err)
	}
	if !info.IsDir() {
		return d.failed("", &fs.PathError{Op: "open", Path: d.root, Err: unix.ENOTDIR})
	}
	if d.mount, err = durable.IsMount(d.root); err != nil {
		return d.failed("", err)
	}
	return nil
}

// there makes sure that root is still what it was: a disk that went away is no empty archive.
func (d *Disk) there() error {
	mount, err := durable.IsMount(d.root)
	if err == nil && d.mount && !mount {
		err = errUnmounted
	}
	if err != nil {
		return d.failed("", err)
	}
	return nil
}

// A DiskError says what a folder that is a store refused.
type DiskError struct {
	Root string
	Name string // of the file, "" for the store itself
	Err  error
}

func (e *DiskError) Error() string {
	what, cause := "archive "+e.Root, e.Err
	var path *fs.PathError
	var link *os.LinkError
	if errors.As(e.Err, &path) { // the cause without a path that may be a temporary one
		cause = path.Err
	} else if errors.As(e.Err, &link) {
		cause = link.Err
	}
	if e.Name != "" {
		what += ": " + e.Name
	}
	return what + ": " + cause.Error()
}

func (e *DiskError) Unwrap() error { return e.Err }

// Hint says what to do about it, "" where that isn't known.
func (e *DiskError) Hint() string {
	switch {
	case errors.Is(e.Err, unix.EROFS):
		return "the file system is mounted read-only; an archive there can be read, not written"
	case errors.Is(e.Err, fs.ErrPermission):
		return fmt.Sprintf("let user %d read and write %s and all below it", os.Getuid(), e.Root)
	case errors.Is(e.Err, errUnmounted), errors.Is(e.Err, fs.ErrNotExist) && e.Name == "":
		return "is the disk mounted, and the path right?"
	case errors.Is(e.Err, errHangs):
		return "is it a network file system whose server is gone? It goes on by itself when that is back; `umount -f` ends what waits for it"
	case errors.Is(e.Err, unix.EIO):
		return "the disk reports an error: see the kernel's log"
	}
	return ""
}

// A FullError says that a file was not stored for want of room. Nothing of it is there.
type FullError struct {
	Root    string
	Free    int64 // bytes
	MinFree int64 // bytes that must stay
}

func (e *FullError) Error() string {
	if e.Free > e.MinFree {
		return fmt.Sprintf("archive %s: no space left on the disk", e.Root)
	}
	return fmt.Sprintf("archive %s: the disk is full: %s are free, %s must stay free", e.Root,
		humanize.IBytes(uint64(max(0, e.Free))), humanize.IBytes(uint64(max(0, e.MinFree))))
}

// Hint says what to do about it.
func (e *FullError) Hint() string {
	return "make room on the disk or give it more; nothing is lost while the spool has room"
}

// Is has it recognised as ENOSPC, which it stands for.
func (e *FullError) Is(target error) bool { return target == unix.ENOSPC }

// failed gives an error of the system the words that help.
func (d *Disk) failed(name string, err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		full := &FullError{Root: d.root}
		if free, total, err := durable.Space(d.root); err == nil {
			full.Free, full.MinFree = free, int64(d.minFree*float64(total))
		}
		return full
	}
	return &DiskError{d.root, name, err}
}

// String is the folder's path.
func (d *Disk) String() string { return d.root }

func (d *Disk) path(name string) string { return filepath.Join(d.root, filepath.FromSlash(name)) }

// Put implements Store. A reader that is an *os.File is copied by the kernel.
func (d *Disk) Put(ctx context.Context, name string, r io.Reader) error {
	if err := checkName(name); err != nil {
		return err
	}
	if err := d.there(); err != nil {
		return err
	}
	if err := d.room(); err != nil {
		return err
	}
	path := d.path(name)
	if err := durable.MkdirAll(filepath.Dir(path)); err != nil {
		return d.failed(name, err)
	}
	var readErr error
	err := durable.Create(path, func(w io.Writer) error {
		for {
			if ctx.Err() != nil {
				readErr = context.Cause(ctx)
				return readErr
			}
			src := &source{r: r}
			var from io.Reader = src
			if f, ok := r.(*os.File); ok {
				from = f
			}
			n, err := io.Copy(w, &io.LimitedReader{R: from, N: copySize})
			if readErr = src.err; readErr != nil {
				return readErr
			}
			if err != nil || n < copySize {
				return err
			}
		}
	})
	switch {
	case err == nil, errors.Is(err, fs.ErrExist):
		return err
	case readErr != nil:
		return fmt.Errorf("archive %s: %s: %w", d.root, name, readErr)
	}
	return d.failed(name, err)
}

// source remembers that it was reading that failed.
type source struct {
	r   io.Reader
	err error
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

// room refuses to begin a file on a disk that counts as full.
func (d *Disk) room() error {
	if d.minFree <= 0 {
		return nil
	}
	free, total, err := durable.Space(d.root)
	if err != nil {
		return d.failed("", err)
	}
	if must := int64(d.minFree * float64(total)); free <= must {
		return &FullError{d.root, free, must}
	}
	return nil
}

// Open implements Store.
func (d *Disk) Open(_ context.Context, name string) (io.ReadCloser, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	f, err := os.Open(d.path(name))
	if errors.Is(err, unix.ENOTDIR) { // a file stands where the name has a folder
		err = &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	if err != nil {
		return nil, d.failed(name, err)
	}
	return f, nil
}

// List implements Store.
func (d *Disk) List(ctx context.Context, dir string) ([]archive.Entry, error) {
	return d.list(ctx, dir, func() {})
}

// list is List, and says by headway that it goes on.
func (d *Disk) list(ctx context.Context, dir string, headway func()) ([]archive.Entry, error) {
	var entries []archive.Entry
	err := d.walk(ctx, dir, func(name string, e fs.DirEntry) error {
		headway()
		if hidden(e.Name()) || !e.Type().IsRegular() {
			return nil
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil // it was deleted a moment ago
		}
		if err == nil {
			entries = append(entries, archive.Entry{Name: name, Size: info.Size()})
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	// A walk goes folder by folder: "a/b" comes before "a-b" there.
	slices.SortFunc(entries, func(a, b archive.Entry) int { return strings.Compare(a.Name, b.Name) })
	return entries, nil
}

func hidden(name string) bool { return name[0] == '.' }

// walk shows each file below dir that is no folder, without going into what is hidden.
func (d *Disk) walk(ctx context.Context, dir string, show func(name string, e fs.DirEntry) error) error {
	if dir != "" {
		if err := checkName(dir); err != nil {
			return err
		}
	}
	if err := d.there(); err != nil {
		return err
	}
	top := d.path(dir)
	err := filepath.WalkDir(top, func(path string, e fs.DirEntry, err error) error {
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return err
		case e.IsDir() && path != top && hidden(e.Name()):
			return filepath.SkipDir
		case e.IsDir():
			return nil
		}
		name, err := filepath.Rel(d.root, path)
		if err != nil {
			return err
		}
		return show(filepath.ToSlash(name), e)
	})
	if err != nil && ctx.Err() == nil {
		return d.failed(dir, err)
	}
	return err
}

// Dirs implements Store.
func (d *Disk) Dirs(_ context.Context, dir string) ([]string, error) {
	if dir != "" {
		if err := checkName(dir); err != nil {
			return nil, err
		}
	}
	if err := d.there(); err != nil {
		return nil, err
	}
	all, err := os.ReadDir(d.path(dir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, d.failed(dir, err)
	}
	var names []string
	for _, e := range all {
		if e.IsDir() && !hidden(e.Name()) {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// Delete implements Store.
func (d *Disk) Delete(_ context.Context, name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	if err := durable.Remove(d.path(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return d.failed(name, err)
	}
	return nil
}

// Kept implements Store: a folder locks nothing.
func (d *Disk) Kept(_ context.Context, name string) error { return checkName(name) }

// clearAway removes temporary files that were last written before that time. Younger ones may be
// another daemon's, at work.
func (d *Disk) clearAway(ctx context.Context, before time.Time, headway func()) error {
	return d.walk(ctx, "", func(name string, e fs.DirEntry) error {
		headway()
		if !strings.HasPrefix(e.Name(), durable.TempPrefix) {
			return nil
		}
		info, err := e.Info()
		if err == nil && info.ModTime().Before(before) {
			err = os.Remove(d.path(name)) // if it comes back after a power cut, there is a next time
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
}
