package export

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/offloader/offloader/internal/durable"
	"github.com/offloader/offloader/internal/store"
)

// place is where one export goes: a file, or an object.
type place struct {
	text   string
	path   string // "" for an object
	bucket store.S3Options
	key    string
}

// parsePlace reads a template that was filled in.
func parsePlace(text string) (place, error) {
	scheme, rest, isURL := strings.Cut(text, "://")
	switch {
	case text == "":
		return place{}, errors.New("it is empty: say /path/dump.rdb or s3://bucket/dump.rdb")
	case !isURL:
		return file(text, text)
	case scheme == "file":
		path, err := url.PathUnescape(rest)
		if err != nil || !strings.HasPrefix(path, "/") {
			return place{}, fmt.Errorf("%q has no absolute path: say file:///path, with three slashes", text)
		}
		return file(text, path)
	case scheme == "s3":
		return object(text)
	}
	return place{}, fmt.Errorf("nothing is known of %s://: say /path/dump.rdb or s3://bucket/dump.rdb", scheme)
}

// file makes sure that the path can be a file's. Names that begin with a dot are for what is being
// written.
func file(text, path string) (place, error) {
	base := filepath.Base(path)
	switch {
	case strings.ContainsRune(path, 0):
		return place{}, fmt.Errorf("%q is not a path", text)
	case strings.HasSuffix(path, "/"), base == ".", base == "..":
		return place{}, fmt.Errorf("%q is a folder: name the file too, like %s", text, filepath.Join(path, "dump.rdb"))
	case base[0] == '.':
		return place{}, fmt.Errorf("%q begins with a dot: name the file otherwise", base)
	}
	return place{text: text, path: filepath.Clean(path)}, nil
}

// object takes a URL apart. Its key is all that follows the bucket.
func object(text string) (place, error) {
	bucket, err := store.ParseS3(text)
	var wrong *store.URLError
	if errors.As(err, &wrong) { // in words that don't speak of archives
		err = fmt.Errorf("%q: %s", wrong.URL, wrong.What)
	}
	if err != nil {
		return place{}, err
	}
	whole, _, _ := strings.Cut(text, "?")
	key := bucket.Prefix
	if key == "" || strings.HasSuffix(whole, "/") {
		return place{}, fmt.Errorf("%q names no object: say s3://bucket/key, like %s/dump.rdb", text, strings.TrimSuffix(whole, "/"))
	}
	for part := range strings.SplitSeq(key, "/") {
		if part == "" || part[0] == '.' {
			return place{}, fmt.Errorf("%q has a part that is empty or begins with a dot: name the object otherwise", text)
		}
	}
	bucket.Prefix = ""
	return place{text: text, bucket: bucket, key: key}, nil
}

// A WriteError says what kept an export from being written.
type WriteError struct {
	To  string
	Err error
}

func (e *WriteError) Error() string { return "export to " + e.To + ": " + e.Err.Error() }
func (e *WriteError) Unwrap() error { return e.Err }

// Hint says what to do about it, "" where that isn't known.
func (e *WriteError) Hint() string {
	var way interface{ Hint() string }
	switch {
	case errors.Is(e.Err, fs.ErrPermission):
		return fmt.Sprintf("let user %d write there, or name another place", os.Getuid())
	case errors.Is(e.Err, unix.EROFS):
		return "the file system is mounted read-only for this program: a unit of systemd opens it with ReadWritePaths="
	case errors.Is(e.Err, unix.ENOSPC), errors.Is(e.Err, unix.EDQUOT):
		return "make room on that disk, or name another place"
	case errors.As(e.Err, &way):
		return way.Hint()
	}
	return ""
}

// String is where it lies, for who looks for it.
func (p place) String() string {
	if p.path == "" {
		return p.text
	}
	if whole, err := filepath.Abs(p.path); err == nil {
		return whole
	}
	return p.path
}

// open makes the place ready to be written to, and gives the name to use there.
func (p place) open(ctx context.Context, o Options) (store.Store, string, error) {
	if p.path == "" {
		p.bucket.Scratch = o.Scratch
		st, err := store.OpenS3(ctx, p.bucket)
		return st, p.key, err
	}
	dir, name := filepath.Split(p.String())
	if info, err := os.Stat(p.path); err == nil && info.IsDir() {
		return nil, "", fmt.Errorf("%s is a folder: name the file too, like %s", p.path, filepath.Join(p.path, "dump.rdb"))
	}
	if err := durable.MkdirAll(dir); err != nil {
		return nil, "", err
	}
	if err := tidy(dir, time.Now().Add(-leftoverAge)); err != nil {
		return nil, "", fmt.Errorf("clear away what a crash has left: %w", err)
	}
	// It isn't opened to be written as an archive is: whatever else lies in the folder is not ours.
	st, err := store.OpenDisk(ctx, dir, store.Options{MinFree: o.MinFree})
	return st, name, err
}

// leftoverAge is that of a temporary file that nobody writes any more: one that is being written is
// younger by its last write.
const leftoverAge = 24 * time.Hour

// tidy removes what exports have left in the folder that were killed, and not written since that
// time. Theirs are the files with a temporary name, which is random and long.
func tidy(dir string, before time.Time) error {
	all, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range all {
		random, ours := strings.CutPrefix(e.Name(), durable.TempPrefix)
		if !ours || len(random) != len(rand.Text()) || !e.Type().IsRegular() {
			continue
		}
		info, err := e.Info()
		if err == nil && info.ModTime().Before(before) {
			err = os.Remove(filepath.Join(dir, e.Name())) // if it comes back after a power cut, there is a next time
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission) {
			return err
		}
	}
	return nil
}
