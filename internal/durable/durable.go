// Package durable is the one place where bytes are made to survive a power cut: nobody else
// calls fsync or rename.
//
// A file appears under its name whole or not at all: it is written under a temporary name in the
// same folder, fsynced, renamed, and then the folder is fsynced, because a name is a folder's
// content. WriteFile replaces what was there, Create never does. A File grows at its end, and
// what was written before Sync returned is safe. A Tree is a folder that appears whole. A Lock
// says who owns one.
//
// After fsync has failed, the kernel may have dropped the pages and a second fsync would succeed
// without them on disk, so a File whose fsync failed stays failed.
package durable

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/offloader/offloader/internal/durable/internal/fault"
)

const (
	// Files hold what the master holds, so only the owner and his group may read them.
	fileMode = 0o640
	dirMode  = 0o750
)

// TempPrefix begins the names under which files are written before they have their own. What
// bears it after a crash is rubbish.
const TempPrefix = ".tmp-"

// WriteFile makes data the content of path, whole or not at all, replacing what was there.
func WriteFile(path string, data []byte) error {
	return viaTemp(path, func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	}, rename)
}

// Create makes a new file of what write writes, whole or not at all: an error from write leaves
// nothing. A file that exists already stays as it is, and the error is fs.ErrExist. Of several
// that create one path at once, one succeeds. The writer that write gets leaves copying from an
// *os.File to the kernel, and lets the disk rest now and then, see paced.
func Create(path string, write func(io.Writer) error) error {
	if _, err := os.Lstat(path); err == nil {
		return &fs.PathError{Op: "create", Path: path, Err: unix.EEXIST} // don't read a gigabyte first
	}
	return viaTemp(path, write, renameNew)
}

// viaTemp writes a temporary file beside path, durably, and has it put in place.
func viaTemp(path string, write func(io.Writer) error, place func(from, to string) error) (err error) {
	dir := filepath.Dir(path)
	temp := filepath.Join(dir, TempPrefix+rand.Text())
	f, err := create(temp, os.O_WRONLY|os.O_EXCL)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, ignoreMissing(os.Remove(temp)))
		}
	}()
	if err := write(&paced{f: f}); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := syncFile(f, (*os.File).Sync); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := place(temp, path); err != nil {
		return err
	}
	return SyncDir(dir)
}

// pace is how much may be written to a file before it is synced. The one fsync at the end of a
// large file would hold up those of others on the disk: a spool's took up to 180 ms beside it,
// and 13 to 45 ms beside a file that is synced every 8 MiB, which goes no slower.
const pace = 8 << 20

// paced syncs what is written to f every so often.
type paced struct {
	f       *os.File
	pending int64
}

func (p *paced) Write(b []byte) (int, error) {
	n, err := p.f.Write(b)
	if err == nil {
		err = p.wrote(int64(n))
	}
	return n, err
}

// ReadFrom keeps io.Copy's short way from file to file.
func (p *paced) ReadFrom(r io.Reader) (total int64, err error) {
	lr, limited := r.(*io.LimitedReader)
	for {
		part := lr // os.File sees through one limit, not through two
		if !limited || lr.N > pace {
			part = &io.LimitedReader{R: r, N: pace}
			if limited {
				part.R = lr.R
			}
		}
		want := part.N
		n, err := p.f.ReadFrom(part)
		total += n
		if limited && part != lr {
			lr.N -= n
		}
		if err == nil {
			err = p.wrote(n)
		}
		if err != nil || n < want || limited && lr.N == 0 {
			return total, err
		}
	}
}

func (p *paced) wrote(n int64) error {
	if p.pending += n; p.pending < pace {
		return nil
	}
	p.pending = 0
	return syncFile(p.f, dataSync)
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func rename(from, to string) error {
	if err := fault.At("rename", to); err != nil {
		return err
	}
	// os.Rename refuses every folder as a target; the kernel replaces an empty one.
	if err := unix.Rename(from, to); err != nil {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
	}
	return nil
}

// renameNew is rename that doesn't replace. Where the file system doesn't know how (EINVAL: NFS,
// old FUSE) or the kernel (ENOSYS), a hard link does the same in two steps.
func renameNew(from, to string) error {
	if err := fault.At("rename", to); err != nil {
		return err
	}
	err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS):
		return linkNew(from, to)
	}
	return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
}

func linkNew(from, to string) error {
	if err := os.Link(from, to); err != nil {
		return err
	}
	return os.Remove(from)
}

// MkdirAll makes path and what is missing above it, durably: the folder above each new one is
// fsynced.
func MkdirAll(path string) error {
	path = filepath.Clean(path)
	switch info, err := os.Stat(path); {
	case err == nil && info.IsDir():
		return nil
	case err == nil:
		return &fs.PathError{Op: "mkdir", Path: path, Err: unix.ENOTDIR}
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	parent := filepath.Dir(path)
	if err := MkdirAll(parent); err != nil {
		return err
	}
	if err := mkdir(path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return SyncDir(parent) // also when somebody else made it a moment ago
}

// SyncDir makes the names in the folder path durable.
func SyncDir(path string) error {
	if err := fault.At("syncdir", path); err != nil {
		return fmt.Errorf("fsync folder %s: %w", path, err)
	}
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	err = d.Sync()
	// Some network file systems can't fsync a folder and say so (EINVAL, ENOTSUP): there the
	// server has made the name durable, or nothing we can do would.
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOTSUP) {
		err = nil
	}
	return errors.Join(err, d.Close())
}

// Rename gives the file or folder from the name to, replacing what bears it, durably.
func Rename(from, to string) error {
	if err := rename(from, to); err != nil {
		return err
	}
	if err := SyncDir(filepath.Dir(to)); err != nil {
		return err
	}
	if filepath.Dir(from) == filepath.Dir(to) {
		return nil
	}
	return SyncDir(filepath.Dir(from))
}

// Remove takes a file or an empty folder away, durably.
func Remove(path string) error {
	if err := fault.At("remove", path); err != nil {
		return err
	}
	if err := os.Remove(path); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(path))
}

// RemoveAll takes path and all below it away, durably. What doesn't exist is no error.
func RemoveAll(path string) error {
	if err := fault.At("remove", path); err != nil {
		return err
	}
	if err := os.RemoveAll(path); err != nil {
		return err
	}
	return ignoreMissing(SyncDir(filepath.Dir(path)))
}

// Space tells how many bytes the file system of path can still take from an unprivileged user,
// and how many it has for such users in all, as df counts.
func Space(path string) (free, total int64, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return 0, 0, &fs.PathError{Op: "statfs", Path: path, Err: err}
	}
	block := int64(st.Frsize)
	if block == 0 {
		block = int64(st.Bsize)
	}
	free = int64(st.Bavail) * block
	return free, free + int64(st.Blocks-st.Bfree)*block, nil
}

// syncFile calls f's fsync or fdatasync.
func syncFile(f *os.File, sync func(*os.File) error) error {
	if err := fault.At("sync", f.Name()); err != nil {
		return fmt.Errorf("fsync %s: %w", f.Name(), err)
	}
	return sync(f)
}
