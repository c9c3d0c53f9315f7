// Package store is where archives live.
//
// A Store keeps files under names with slashes. What is in it is whole: Put stores all that its
// reader gives, or nothing, durably, and never replaces what is there. Names are formed by
// package archive; no name's part begins with a dot, so what does (a spool beside the archive, a
// file that is still being written) is not seen. All stores pass storetest.
package store

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"github.com/offloader/offloader/internal/archive"
)

// Store is one place for archives. Its methods may be called at the same time.
type Store interface {
	// Put stores what r gives under name. When it returns nil the file is durable; else there is
	// none, or the one that was there: fs.ErrExist. Of several that put one name at once, one
	// succeeds.
	Put(ctx context.Context, name string, r io.Reader) error
	// Open gives a file's bytes. One that doesn't exist is fs.ErrNotExist.
	Open(ctx context.Context, name string) (io.ReadCloser, error)
	// List gives all files below the folder dir, "" for the root, however deep, sorted by name;
	// none where dir doesn't exist. Names are those that Open takes.
	List(ctx context.Context, dir string) ([]archive.Entry, error)
	// Dirs gives the names of the folders in dir, sorted; none where dir doesn't exist.
	Dirs(ctx context.Context, dir string) ([]string, error)
	// Delete takes a file away. One that doesn't exist is no error.
	Delete(ctx context.Context, name string) error
	// Kept tells what would keep Delete from taking a file away, as far as that can be asked: a lock.
	// nil is nothing.
	Kept(ctx context.Context, name string) error
	// String is the store's URL, without secrets.
	String() string
}

// Options are what opening takes beside the URL.
type Options struct {
	// Write says that files will be put there: the place is made where it is missing, and what a
	// crash has left half-written is cleared away.
	Write bool
	// MinFree is the share of the file system, from 0 to 1, that Put leaves free.
	MinFree float64
	// Now is the time at which Write clears away what is a day old.
	Now time.Time
	// Scratch is S3Options.Scratch.
	Scratch string
}

// OpenURL opens the store that an --archive argument names: /path, file:///path or s3://….
func OpenURL(ctx context.Context, rawURL string, o Options) (Store, error) {
	scheme, rest, ok := strings.Cut(rawURL, "://")
	switch {
	case rawURL == "":
		return nil, &URLError{rawURL, "it is empty"}
	case !ok:
		path, err := filepath.Abs(rawURL)
		if err != nil {
			return nil, err
		}
		return OpenDisk(ctx, path, o)
	case scheme == "file":
		path, err := url.PathUnescape(rest)
		if err != nil {
			return nil, &URLError{rawURL, err.Error()}
		}
		if !strings.HasPrefix(path, "/") {
			return nil, &URLError{rawURL, "it names a host: file:// is followed by an absolute path, as in file:///var/lib/archive"}
		}
		return OpenDisk(ctx, path, o)
	case scheme == "s3":
		options, err := ParseS3(rawURL)
		if err != nil {
			return nil, err
		}
		options.Scratch = o.Scratch
		return OpenS3(ctx, options)
	}
	return nil, &URLError{rawURL, fmt.Sprintf("%s:// is not known", scheme)}
}

// A URLError says why an argument names no store.
type URLError struct {
	URL  string
	What string
}

func (e *URLError) Error() string { return fmt.Sprintf("archive %q: %s", e.URL, e.What) }

// Hint says what to do about it.
func (e *URLError) Hint() string {
	return "name a folder, /path or file:///path, or a bucket, s3://bucket/prefix"
}

// checkName refuses what could lead out of the store, or to what is hidden in it.
func checkName(name string) error {
	if !fs.ValidPath(name) || name[0] == '.' || strings.Contains(name, "/.") || strings.ContainsRune(name, 0) {
		return &fs.PathError{Op: "open", Path: name, Err: fs.ErrInvalid}
	}
	return nil
}
