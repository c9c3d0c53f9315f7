package store

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// A disk is unmounted under a daemon: its mount point is an empty folder of another disk. What
// would be put there would be out of sight once the right disk is back.
func TestUnmountedDiskIsNoEmptyArchive(t *testing.T) {
	dir := t.TempDir()
	d, err := OpenDisk(t.Context(), dir, Options{})
	require.NoError(t, err)
	require.False(t, d.mount)
	d.mount = true // it was a mount point once
	err = d.Put(t.Context(), "src/f", strings.NewReader("x"))
	require.ErrorIs(t, err, errUnmounted)
	var refusal *DiskError
	require.ErrorAs(t, err, &refusal)
	require.Contains(t, refusal.Hint(), "mounted")
	_, err = d.List(t.Context(), "")
	require.ErrorIs(t, err, errUnmounted)
	_, err = d.Dirs(t.Context(), "")
	require.ErrorIs(t, err, errUnmounted)
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, left)
}
