package durable

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/durable/durabletest"
)

// fill writes what a restore writes.
func fill(t *testing.T, dir string) {
	t.Helper()
	require.NoError(t, os.Mkdir(filepath.Join(dir, "appendonlydir"), 0o750))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "appendonlydir", "manifest"), []byte("m"), 0o600))
}

func TestTreeAppearsWhole(t *testing.T) {
	for _, c := range []struct {
		name  string
		final func(dir string) string
	}{
		{"new", func(dir string) string { return filepath.Join(dir, "out") }},
		{"new, parents missing", func(dir string) string { return filepath.Join(dir, "a", "b", "out") }},
		{"empty folder", func(dir string) string {
			path := filepath.Join(dir, "out")
			_ = os.Mkdir(path, 0o711)
			return path
		}},
		{"link to an empty folder", func(dir string) string {
			_ = os.Mkdir(filepath.Join(dir, "real"), 0o700)
			_ = os.Symlink("real", filepath.Join(dir, "out"))
			return filepath.Join(dir, "out")
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			final := c.final(t.TempDir())
			tree, err := NewTree(final)
			require.NoError(t, err)
			fill(t, tree.Path())
			_, err = os.Stat(filepath.Join(final, "appendonlydir"))
			require.Error(t, err, "seen before it was whole")
			require.NoError(t, tree.Commit())
			require.Equal(t, "m", content(t, filepath.Join(final, "appendonlydir", "manifest")))
			require.NoError(t, tree.Discard(), "after Commit it does nothing")
			require.Equal(t, []string{"appendonlydir"}, names(t, final))
			for _, name := range names(t, filepath.Dir(final)) {
				require.NotContains(t, name, "offloader")
			}
		})
	}
}

func TestTreeKeepsTheModeOfAnEmptyFolder(t *testing.T) {
	final := filepath.Join(t.TempDir(), "out")
	require.NoError(t, os.Mkdir(final, 0o711))
	tree, err := NewTree(final)
	require.NoError(t, err)
	require.NoError(t, tree.Commit())
	info, err := os.Stat(final)
	require.NoError(t, err)
	require.EqualValues(t, 0o711, info.Mode().Perm())
}

func TestTreeRefusesWhatIsThere(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(dir, "full"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "full", "dump.rdb"), []byte("REDIS"), 0o600))
	require.NoError(t, os.Symlink("nothing", filepath.Join(dir, "dangling")))
	for name, says := range map[string]string{"full": "holds dump.rdb", "full/dump.rdb": "is no folder", "dangling": "link to nothing"} {
		_, err := NewTree(filepath.Join(dir, name))
		require.ErrorContains(t, err, says)
	}
	var full *NotEmptyError
	_, err := NewTree(filepath.Join(dir, "full"))
	require.ErrorAs(t, err, &full)
	require.NotEmpty(t, full.Hint())
	require.Equal(t, []string{"dangling", "full"}, names(t, dir))
}

// Somebody puts a file there while the tree is being filled: it stays, the tree goes.
func TestTreeLosesARace(t *testing.T) {
	final := filepath.Join(t.TempDir(), "out")
	require.NoError(t, os.Mkdir(final, 0o700))
	tree, err := NewTree(final)
	require.NoError(t, err)
	fill(t, tree.Path())
	require.NoError(t, os.WriteFile(filepath.Join(final, "theirs"), nil, 0o600))
	require.Error(t, tree.Commit())
	require.Equal(t, []string{"theirs"}, names(t, final))
	require.Equal(t, []string{"out"}, names(t, filepath.Dir(final)))
}

func TestTreeThatFailsLeavesNothing(t *testing.T) {
	broken := errors.New("input/output error")
	for _, point := range []string{durabletest.Sync, durabletest.Rename} {
		t.Run(point, func(t *testing.T) {
			dir := t.TempDir()
			tree, err := NewTree(filepath.Join(dir, "out"))
			require.NoError(t, err)
			fill(t, tree.Path())
			durabletest.Fail(t, func(at, _ string) error {
				if at == point {
					return broken
				}
				return nil
			})
			require.ErrorIs(t, tree.Commit(), broken)
			require.Empty(t, names(t, dir))
		})
	}
}

func TestTreeDiscard(t *testing.T) {
	dir := t.TempDir()
	tree, err := NewTree(filepath.Join(dir, "out"))
	require.NoError(t, err)
	fill(t, tree.Path())
	require.NoError(t, tree.Discard())
	require.Empty(t, names(t, dir))
}

// What is done where nothing can be renamed over final, a mount point for one.
func TestTreeInsideItsFinalFolder(t *testing.T) {
	final := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(final, "lost+found"), 0o700))
	for _, commit := range []bool{false, true} {
		tree := &Tree{final: final, work: filepath.Join(final, ".offloader-x"), inside: true}
		require.NoError(t, os.Mkdir(tree.work, 0o700))
		fill(t, tree.Path())
		if !commit {
			require.NoError(t, tree.Discard())
			require.Equal(t, []string{"lost+found"}, names(t, final))
			continue
		}
		require.NoError(t, tree.Commit())
		require.Equal(t, []string{"appendonlydir", "lost+found"}, names(t, final))
	}
	mount, err := IsMount("/proc")
	require.NoError(t, err)
	require.True(t, mount)
	mount, err = IsMount(final)
	require.NoError(t, err)
	require.False(t, mount)
}

// A process that is killed leaves its folder behind. The next one takes it away, but not that of
// one that still works, nor what only looks similar.
func TestTreeSweepsWhatTheKilledLeft(t *testing.T) {
	dir := t.TempDir()
	final := filepath.Join(dir, "out")
	for _, name := range []string{".out.offloader-KILLED", ".other.offloader-KILLED", ".out.offloader"} {
		require.NoError(t, os.Mkdir(filepath.Join(dir, name), 0o700))
		fill(t, filepath.Join(dir, name))
	}
	working, err := NewTree(final)
	require.NoError(t, err)
	fill(t, working.Path())
	next, err := NewTree(final)
	require.NoError(t, err)
	require.ElementsMatch(t, []string{".other.offloader-KILLED", ".out.offloader", filepath.Base(working.Path()), filepath.Base(next.Path())}, names(t, dir))
	require.NoError(t, next.Discard())
	require.NoError(t, working.Commit())
	require.Equal(t, []string{".other.offloader-KILLED", ".out.offloader", "out"}, names(t, dir))

	// In a folder that exists, the rubbish doesn't make it one that isn't empty.
	empty := filepath.Join(dir, "empty")
	require.NoError(t, os.MkdirAll(filepath.Join(empty, ".offloader-KILLED"), 0o700))
	tree, err := NewTree(empty)
	require.NoError(t, err)
	require.NoError(t, tree.Commit())
	require.Empty(t, names(t, empty))
}
