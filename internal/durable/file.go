package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/offloader/offloader/internal/durable/internal/fault"
)

// File is an append-only file. Write and Sync may be called at the same time: Sync covers what
// was written before it was called. Its methods fail for ever once a Sync has failed.
type File struct {
	f *os.File

	mu     sync.Mutex
	failed error  // of a Sync
	newDir string // the folder that doesn't durably hold the file's name yet
}

// OpenAppend opens a file that exists.
func OpenAppend(path string) (*File, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return nil, err
	}
	return &File{f: f}, nil
}

// CreateAppend makes a new, empty file; one that exists is fs.ErrExist. Its name is durable when
// the first Sync has returned.
func CreateAppend(path string) (*File, error) {
	f, err := create(path, os.O_WRONLY|os.O_APPEND|os.O_EXCL)
	if err != nil {
		return nil, err
	}
	return &File{f: f, newDir: filepath.Dir(path)}, nil
}

// Name is the path it was opened with.
func (f *File) Name() string { return f.f.Name() }

// Write appends p. When it fails, n bytes of p may be in the file.
func (f *File) Write(p []byte) (n int, err error) {
	if err := f.broken(); err != nil {
		return 0, err
	}
	if err := fault.At("write", f.Name()); err != nil {
		return 0, &fs.PathError{Op: "write", Path: f.Name(), Err: err}
	}
	return f.f.Write(p)
}

// Truncate cuts the file to size bytes: what a crash tore, or a write that failed half-way. It is
// durable after the next Sync.
func (f *File) Truncate(size int64) error {
	if err := f.broken(); err != nil {
		return err
	}
	if err := fault.At("truncate", f.Name()); err != nil {
		return &fs.PathError{Op: "truncate", Path: f.Name(), Err: err}
	}
	return f.f.Truncate(size)
}

// Size is how many bytes the file holds.
func (f *File) Size() (int64, error) {
	info, err := f.f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// Sync makes durable what was written before it was called. Failed once, it fails for ever: the
// kernel may have dropped what it couldn't write, and would not say so again.
func (f *File) Sync() error {
	if err := f.broken(); err != nil {
		return err
	}
	err := syncFile(f.f, dataSync)
	f.mu.Lock()
	defer f.mu.Unlock()
	if err == nil && f.newDir != "" {
		if err = SyncDir(f.newDir); err == nil {
			f.newDir = ""
		}
	}
	if err != nil && f.failed == nil && !errors.Is(err, os.ErrClosed) {
		f.failed = err
	}
	return err
}

// dataSync is fdatasync: it writes the size as well, which is the only metadata that a reader needs.
func dataSync(f *os.File) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	if err := raw.Control(func(fd uintptr) {
		for {
			if failed = unix.Fdatasync(int(fd)); !errors.Is(failed, unix.EINTR) {
				return
			}
		}
	}); err != nil {
		return err
	}
	if failed != nil {
		return &fs.PathError{Op: "fdatasync", Path: f.Name(), Err: failed}
	}
	return nil
}

// broken is the error of a Sync that failed.
func (f *File) broken() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failed != nil {
		return fmt.Errorf("%s can't be trusted since it could not be synced: %w", f.Name(), f.failed)
	}
	return nil
}

// Close closes the file without syncing it.
func (f *File) Close() error { return f.f.Close() }
