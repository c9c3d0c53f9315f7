package durable

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Lock is the ownership of something by this process. The kernel takes it back when the process
// ends, however it ends.
type Lock struct{ f *os.File }

// A LockedError says that another owner is alive.
type LockedError struct {
	Path string
	Pid  int // of the owner, 0 where it could not be read
}

func (e *LockedError) Error() string {
	if e.Pid == 0 {
		return e.Path + " is locked by another process"
	}
	return fmt.Sprintf("%s is locked by process %d", e.Path, e.Pid)
}

// Hint says what to do about it.
func (e *LockedError) Hint() string {
	return "another daemon works here: stop it, or give this one a folder of its own"
}

// TryLock takes the lock that the file path stands for, creating the file where it is missing,
// and writes the process's id into it. Where another holds it the error is a *LockedError. The
// lock is flock(2)'s: it isn't inherited by processes that are started later.
func TryLock(path string) (*Lock, error) {
	f, err := create(path, os.O_RDWR)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = &LockedError{Path: path, Pid: readPid(f)}
		} else {
			err = &fs.PathError{Op: "flock", Path: path, Err: err}
		}
		return nil, errors.Join(err, f.Close())
	}
	err = f.Truncate(0)
	if err == nil {
		_, err = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &Lock{f}, nil
}

// readPid is the owner's id as it wrote it, 0 where that can't be told.
func readPid(f *os.File) int {
	b, err := io.ReadAll(io.LimitReader(f, 32))
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || pid < 1 {
		return 0
	}
	return pid
}

// Unlock gives the lock back. The file stays: removing it could take the lock of somebody who
// has opened it meanwhile.
func (l *Lock) Unlock() error { return l.f.Close() }
