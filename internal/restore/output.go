package restore

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/offloader/offloader/internal/durable"
)

// slack is room for folders, the manifest, annotations and blocks that are not full.
const slack = 1 << 20

// checkOutput refuses a folder inside an archive or a spool: what lies there is read as one.
func checkOutput(out string, keep []string) error {
	real := resolve(out)
	for _, k := range keep {
		k, err := filepath.Abs(k)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(resolve(k), real)
		if err == nil && rel != ".." && !strings.HasPrefix(rel, "../") {
			return &OutputError{Path: out, Why: "it lies in " + k + ", which holds the archive or the spool"}
		}
	}
	return nil
}

// resolve follows the links of as much of path as exists.
func resolve(path string) string {
	rest := ""
	for {
		if real, err := filepath.EvalSymlinks(path); err == nil {
			return filepath.Join(real, rest)
		}
		parent := filepath.Dir(path)
		if parent == path {
			return filepath.Join(path, rest)
		}
		path, rest = parent, filepath.Join(filepath.Base(path), rest)
	}
}

// checkSpace looks whether bytes fit where work lies, before any are written.
func checkSpace(out, work string, bytes int64) error {
	free, _, err := durable.Space(work)
	if err != nil {
		return err
	}
	if need := bytes + bytes/1000 + slack; need > free {
		return &SpaceError{Path: out, Need: need, Free: free}
	}
	return nil
}

// notWritable gives errors of the file system a way out. Others it leaves as they are.
func notWritable(out string, err error) error {
	var path *fs.PathError
	var link *os.LinkError
	var other *OutputError
	if errors.Is(err, unix.ENOTDIR) { // which may come without a path
		return &OutputError{Path: out, Why: "a part of its path is a file, and no folder"}
	}
	if errors.As(err, &other) || (!errors.As(err, &path) && !errors.As(err, &link)) {
		return err
	}
	switch {
	case errors.Is(err, unix.EROFS):
		return &OutputError{Path: out, Why: "its file system is read-only", Err: err}
	case errors.Is(err, fs.ErrPermission):
		return &OutputError{Path: out, Why: "this user may not write there", Err: err}
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return &OutputError{Path: out, Why: "its file system got full", Err: err}
	}
	return err
}
