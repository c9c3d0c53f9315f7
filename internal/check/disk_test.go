package check

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/durable"
)

func TestFolders(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	tests := []struct {
		name  string
		f     Folder
		level Level
		says  string
	}{
		{"one that is there", Folder{Path: dir}, OK, dir + " can be written"},
		{"one to be made", Folder{Path: filepath.Join(dir, "a", "b")}, OK, "(to be made) can be written"},
		{"a file", Folder{Path: file}, Fail, "is not a folder"},
		{"below a file", Folder{Path: filepath.Join(file, "a")}, Fail, "not a directory"},
		{"no room for it", Folder{Path: dir, Needs: 1 << 60, What: "the first snapshot"}, Warn, "the first snapshot may need up to 1.0 EiB"},
		{"counts as full", Folder{Path: dir, MinFree: func(total int64) int64 { return total }}, Fail, "counts as full"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.f.Name = "store"
			list := tt.f.Check()
			require.Len(t, list, 1)
			require.Equal(t, tt.level, list[0].Level, list[0].Message)
			require.Contains(t, list[0].Message, tt.says)
		})
	}
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, left, 1, "nothing was made")
}

// A folder that its user may not write. Root may write everything, so it looks at one that
// nobody can: on a file system that takes no files.
func TestReadOnly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "closed")
	require.NoError(t, os.Mkdir(path, 0o500))
	if os.Geteuid() == 0 {
		path = "/proc/offloader"
	}
	list := Folder{Name: "store", Path: path}.Check()
	require.Equal(t, Fail, list[0].Level, list[0].Message)
}

func TestRunning(t *testing.T) {
	dir := t.TempDir()
	running, err := Running(filepath.Join(dir, "none"))
	require.NoError(t, err)
	require.False(t, running)

	lock, err := durable.TryLock(filepath.Join(dir, ".lock"))
	require.NoError(t, err)
	running, err = Running(dir)
	require.NoError(t, err)
	require.True(t, running)
	require.NoError(t, lock.Unlock())
	running, err = Running(dir)
	require.NoError(t, err)
	require.False(t, running)
	lock, err = durable.TryLock(filepath.Join(dir, ".lock"))
	require.NoError(t, err, "asking took no lock away")
	require.NoError(t, lock.Unlock())
}
