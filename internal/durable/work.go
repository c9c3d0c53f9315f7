package durable

import (
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// workMark is in the name of every folder in which a Tree is made.
const workMark = ".offloader-"

// makeWork makes the folder in which t is filled, under a name that begins with prefix, and locks
// it. The lock ends with the process, so an unlocked one is rubbish. Before it is locked it looks
// like that too, and may be swept away by somebody else: then another is made.
func (t *Tree) makeWork(prefix string) error {
	for {
		work := prefix + rand.Text()
		if err := os.Mkdir(work, dirMode); err != nil {
			return err
		}
		dir, err := os.Open(work)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return errors.Join(err, os.Remove(work))
		}
		err = unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		_, gone := os.Lstat(work)
		if !errors.Is(err, unix.EWOULDBLOCK) && gone == nil {
			t.work, t.alive = work, dir // where folders can't be locked (NFS), none is swept either
			return nil
		}
		if err := dir.Close(); err != nil {
			return err
		}
	}
}

// release gives the lock back.
func (t *Tree) release() error {
	if t.alive == nil {
		return nil
	}
	dir := t.alive
	t.alive = nil
	return dir.Close()
}

// sweep takes away the folders whose names begin with prefix and whose makers have ended. What it
// may not look at or remove it leaves.
func sweep(prefix string) error {
	parent, name := filepath.Split(prefix)
	entries, err := os.ReadDir(parent)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.ENOTDIR) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() && strings.HasPrefix(e.Name(), name) {
			if err := sweepOne(filepath.Join(parent, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

func sweepOne(work string) error {
	dir, err := os.Open(work)
	if err != nil {
		return nil //nolint:nilerr // gone, or not ours: it is in nobody's way
	}
	if unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
		err = RemoveAll(work)
		if errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.EROFS) {
			err = nil
		}
	}
	return errors.Join(err, dir.Close())
}
