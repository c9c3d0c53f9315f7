package check

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/offloader/offloader/internal/durable"
)

// Folder is a spool or a disk store to look at.
type Folder struct {
	Name    string                  // "spool" or "store", the finding's name
	Path    string                  // it need not exist
	MinFree func(total int64) int64 // below that the file system counts as full; nil: none
	Needs   int64                   // bytes that are going to be put there first: an upper bound
	What    string                  // what they are
}

// Check tells whether the folder can be written, now or once it is made, and whether there is
// room. It creates nothing.
func (d Folder) Check() []Finding {
	var out findings
	at, err := existing(d.Path)
	if err != nil {
		out.add(Fail, d.Name, "", "%s can't be used: %v", d.Path, err)
		return out
	}
	if err := unix.Access(at, unix.W_OK|unix.X_OK|unix.R_OK); err != nil {
		out.add(Fail, d.Name, d.way(err, at), "%s can't be written by this user: %s: %v", d.Path, at, err)
		return out
	}
	free, total, err := durable.Space(at)
	if err != nil {
		out.add(Fail, d.Name, "", "%s: its file system can't be asked: %v", d.Path, err)
		return out
	}
	where := d.Path
	if at != filepath.Clean(d.Path) {
		where += " (to be made)"
	}
	usable := free
	if d.MinFree != nil {
		usable -= d.MinFree(total)
	}
	switch {
	case usable <= 0:
		out.add(Fail, d.Name, "make room, take another disk, or lower spool.min_free", "%s counts as full: %s of %s are free, and %s must stay so", where, size(free), size(total), size(free-usable))
	case usable < d.Needs:
		out.add(Warn, d.Name, "make room, or take another disk", "%s has room for %s, and %s may need up to %s", where, size(usable), d.What, size(d.Needs))
	case d.Needs == 0:
		out.ok(d.Name, "%s can be written and has room for %s", where, size(usable))
	default:
		out.ok(d.Name, "%s can be written and has room for %s; %s needs at most %s", where, size(usable), d.What, size(d.Needs))
	}
	return out
}

func (d Folder) way(err error, at string) string {
	switch {
	case errors.Is(err, unix.EROFS):
		return "its file system is mounted read-only: remount it, or take another"
	case errors.Is(err, unix.EACCES):
		return fmt.Sprintf("give %s to the user that the daemon runs as, or run this as that user", at)
	}
	return ""
}

// existing is the folder itself, or the nearest one above it that is there.
func existing(path string) (string, error) {
	at, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	for {
		info, err := os.Stat(at)
		switch {
		case err == nil && info.IsDir():
			return at, nil
		case err == nil:
			return "", fmt.Errorf("%s is not a folder", at)
		case !errors.Is(err, fs.ErrNotExist) || at == filepath.Dir(at):
			return "", err
		}
		at = filepath.Dir(at)
	}
}

// Running tells whether a daemon owns the spool at path. It asks the kernel, by a shared lock
// that it gives back at once, and leaves the file as it is.
func Running(path string) (bool, error) {
	f, err := os.Open(filepath.Join(path, ".lock"))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) { // what Check says about that is enough
		return false, nil
	}
	if err != nil {
		return false, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return true, f.Close()
	}
	return false, errors.Join(err, f.Close())
}
