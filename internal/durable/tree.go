package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/offloader/offloader/internal/durable/internal/fault"
)

// Tree is a folder in the making: it is filled under a temporary name and appears whole, or not
// at all. One of Commit and Discard ends it.
type Tree struct {
	final string
	work  string
	alive *os.File // work, locked: nobody takes it for the rubbish of a process that was killed
	// inside says that work lies in final, because nothing can be renamed over final: it is a
	// mount point, or its parent is not ours to write.
	inside bool
}

// A NotEmptyError says that there is something where a new folder should appear.
type NotEmptyError struct {
	Path string
	Has  string // one thing that is in it, "" where Path is no folder
}

func (e *NotEmptyError) Error() string {
	if e.Has == "" {
		return e.Path + " exists and is no folder"
	}
	return fmt.Sprintf("%s is not empty: it holds %s", e.Path, e.Has)
}

// Hint says what to do about it.
func (e *NotEmptyError) Hint() string { return "name a folder that is new or empty" }

// NewTree begins a folder that will be final. That must not exist, or be an empty folder: else a
// *NotEmptyError. What is missing above it is made, and what processes left that were killed while
// they made the same folder is taken away.
func NewTree(final string) (*Tree, error) {
	final, err := filepath.Abs(final)
	if err != nil {
		return nil, err
	}
	exists := true
	switch real, err := filepath.EvalSymlinks(final); {
	case err == nil:
		final = real
	case errors.Is(err, fs.ErrNotExist):
		if _, err := os.Lstat(final); err == nil {
			return nil, fmt.Errorf("%s is a symbolic link to nothing", final)
		}
		exists = false
	default:
		return nil, err
	}
	parent := filepath.Dir(final)
	t := &Tree{final: final}
	beside, inside := filepath.Join(parent, "."+filepath.Base(final)+workMark), filepath.Join(final, workMark)
	if err := errors.Join(sweep(beside), sweep(inside)); err != nil {
		return nil, err
	}
	if !exists {
		if err := MkdirAll(parent); err != nil {
			return nil, err
		}
	} else if t.inside, err = checkEmpty(final); err != nil {
		return nil, err
	}
	if !t.inside {
		err := t.makeWork(beside)
		if err == nil && exists {
			err = likeFolder(t.work, final)
		}
		if err == nil {
			return t, nil
		}
		if !exists || !errors.Is(err, fs.ErrPermission) && !errors.Is(err, unix.EROFS) {
			return nil, errors.Join(err, t.release())
		}
		t.inside = true
	}
	if err := t.makeWork(inside); err != nil {
		return nil, err
	}
	return t, nil
}

// likeFolder gives dir the mode of model and, where that may be done, its owner: whoever was
// given the empty folder keeps what replaces it.
func likeFolder(dir, model string) error {
	var st unix.Stat_t
	if err := unix.Stat(model, &st); err != nil {
		return &fs.PathError{Op: "stat", Path: model, Err: err}
	}
	if err := os.Lchown(dir, int(st.Uid), int(st.Gid)); err != nil && !errors.Is(err, fs.ErrPermission) {
		return err
	}
	return os.Chmod(dir, fs.FileMode(st.Mode).Perm())
}

// checkEmpty looks into a folder that is to be replaced. mount says that it is a mount point, a
// fresh one of which may hold lost+found.
func checkEmpty(dir string) (mount bool, err error) {
	info, err := os.Stat(dir)
	if err != nil {
		return false, err
	}
	if !info.IsDir() {
		return false, &NotEmptyError{Path: dir}
	}
	mount, err = IsMount(dir)
	if err != nil {
		return false, err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return false, err
	}
	for _, e := range entries {
		if !mount || e.Name() != "lost+found" {
			return false, &NotEmptyError{Path: dir, Has: e.Name()}
		}
	}
	return mount, nil
}

// IsMount tells whether another file system, or another part of one, begins at the folder dir.
func IsMount(dir string) (bool, error) {
	var here, above unix.Stat_t
	if err := unix.Stat(dir, &here); err != nil {
		return false, &fs.PathError{Op: "stat", Path: dir, Err: err}
	}
	if err := unix.Stat(filepath.Dir(dir), &above); err != nil {
		return false, &fs.PathError{Op: "stat", Path: filepath.Dir(dir), Err: err}
	}
	// A bind mount of the same file system has its device: the mount id tells it apart. Kernels
	// before 5.8 don't give it, and then rename says EBUSY at Commit.
	var a, b unix.Statx_t
	if unix.Statx(unix.AT_FDCWD, dir, 0, unix.STATX_MNT_ID, &a) == nil &&
		unix.Statx(unix.AT_FDCWD, filepath.Dir(dir), 0, unix.STATX_MNT_ID, &b) == nil &&
		a.Mask&b.Mask&unix.STATX_MNT_ID != 0 && a.Mnt_id != b.Mnt_id {
		return true, nil
	}
	return here.Dev != above.Dev || here.Ino == above.Ino, nil // the root is its own parent
}

// Path is the folder to fill meanwhile.
func (t *Tree) Path() string { return t.work }

// Commit makes every file and folder in the tree durable and puts it in place. Where it fails,
// the tree is discarded, and final is as it was.
//
// Where final is a mount point, or stands in a folder that may not be written, its entries are
// moved into it one by one, in order of name: each appears whole, but a power cut may come
// between two.
func (t *Tree) Commit() error {
	err := syncTree(t.work)
	if err == nil {
		if t.inside {
			err = t.moveIn()
		} else {
			err = Rename(t.work, t.final)
		}
	}
	if err != nil {
		return errors.Join(err, t.Discard())
	}
	return t.release()
}

func (t *Tree) moveIn() error {
	entries, err := os.ReadDir(t.work)
	if err != nil {
		return err
	}
	for i, e := range entries {
		if err := renameNew(filepath.Join(t.work, e.Name()), filepath.Join(t.final, e.Name())); err != nil {
			for _, moved := range entries[:i] {
				err = errors.Join(err, os.RemoveAll(filepath.Join(t.final, moved.Name())))
			}
			return err
		}
	}
	return Remove(t.work)
}

// Discard takes the tree away. After Commit it does nothing.
func (t *Tree) Discard() error { return errors.Join(RemoveAll(t.work), t.release()) }

// syncTree fsyncs all files and folders of root, and root itself.
func syncTree(root string) error {
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir():
			return SyncDir(path)
		case !d.Type().IsRegular():
			return nil
		}
		if err := fault.At("sync", path); err != nil {
			return fmt.Errorf("fsync %s: %w", path, err)
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		return errors.Join(f.Sync(), f.Close())
	})
}
