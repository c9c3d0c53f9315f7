package durable

import (
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// create opens a new file, or with flags that say so one that is there. What root makes belongs to the owner of the
// folder that it is made in: a pin that was made by sudo is there to be read by a daemon that isn't root. No symbolic
// link is followed: root would give away what it leads to.
func create(path string, flags int) (*os.File, error) {
	f, err := os.OpenFile(path, flags|os.O_CREATE|unix.O_NOFOLLOW, fileMode)
	if err == nil {
		giveAway(f, filepath.Dir(path))
	}
	return f, err
}

// mkdir is create for a folder.
func mkdir(path string) error {
	if err := os.Mkdir(path, dirMode); err != nil {
		return err
	}
	// By no name that somebody may have put something else under meanwhile.
	if f, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0); err == nil {
		giveAway(f, filepath.Dir(path))
		return f.Close()
	}
	return nil
}

// giveAway gives f to the owner of the folder dir. Where that can't be, as on network file systems where root is
// nobody, it stays whose it is.
func giveAway(f *os.File, dir string) {
	if os.Geteuid() != 0 {
		return
	}
	info, err := os.Stat(dir)
	if err != nil {
		return
	}
	if owner, ok := info.Sys().(*syscall.Stat_t); ok && owner.Uid != 0 {
		_ = f.Chown(int(owner.Uid), int(owner.Gid))
	}
}
