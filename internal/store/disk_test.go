package store_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/offloader/offloader/internal/durable/durabletest"
	"github.com/offloader/offloader/internal/store"
	"github.com/offloader/offloader/internal/store/storetest"
)

var now = time.Date(2026, 11, 23, 18, 0, 0, 0, time.UTC)

func open(t *testing.T, dir string) store.Store {
	t.Helper()
	s, err := store.OpenURL(t.Context(), dir, store.Options{Write: true, Now: now})
	require.NoError(t, err)
	return s
}

func TestDisk(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Store { return open(t, filepath.Join(t.TempDir(), "new", "archive")) })
}

func TestURLs(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(dir, "with space"), 0o700))
	for _, url := range []string{dir, "file://" + dir, dir + "/", "file://" + dir + "/with%20space"} {
		s, err := store.OpenURL(t.Context(), url, store.Options{})
		require.NoError(t, err, url)
		require.True(t, strings.HasPrefix(s.String(), dir))
	}
	for url, says := range map[string]string{
		"":                 "empty",
		"http://host/":     "http:// is not known",
		"file://host/path": "names a host",
		"file://%zz":       "invalid URL escape",
	} {
		_, err := store.OpenURL(t.Context(), url, store.Options{})
		var bad *store.URLError
		require.ErrorAs(t, err, &bad, url)
		require.ErrorContains(t, err, says)
		require.NotEmpty(t, bad.Hint())
	}
}

func hint(t *testing.T, err error) string {
	t.Helper()
	var h interface{ Hint() string }
	require.ErrorAs(t, err, &h)
	return h.Hint()
}

// Who only reads makes nothing: a store that isn't there is an error, not an empty one.
func TestReadersMakeNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "archive")
	_, err := store.OpenURL(t.Context(), dir, store.Options{})
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.ErrorContains(t, err, "archive "+dir)
	require.Contains(t, hint(t, err), "mounted")
	_, err = os.Stat(dir)
	require.ErrorIs(t, err, fs.ErrNotExist)

	require.NoError(t, os.WriteFile(dir, nil, 0o600))
	_, err = store.OpenURL(t.Context(), dir, store.Options{})
	require.ErrorIs(t, err, unix.ENOTDIR)

	// A disk that was unmounted under a reader is not an empty archive.
	s := open(t, dir+"2")
	require.NoError(t, os.Remove(dir+"2"))
	_, err = s.List(t.Context(), "")
	require.ErrorIs(t, err, fs.ErrNotExist)
	_, err = s.Dirs(t.Context(), "")
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.ErrorIs(t, s.Put(t.Context(), "src/f", strings.NewReader("x")), fs.ErrNotExist)
	require.NoDirExists(t, dir+"2", "nor is it made again on the disk below")
}

func TestHiddenThingsAreNotListed(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	require.NoError(t, s.Put(t.Context(), "src/f", strings.NewReader("x")))
	require.NoError(t, os.MkdirAll(filepath.Join(dir, ".spool", "src"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(dir, ".spool", "src", "g"), nil, 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "src", ".tmp-ABC"), nil, 0o600))
	require.NoError(t, os.Symlink("f", filepath.Join(dir, "src", "link")))
	entries, err := s.List(t.Context(), "")
	require.NoError(t, err)
	require.Len(t, entries, 1)
	dirs, err := s.Dirs(t.Context(), "")
	require.NoError(t, err)
	require.Equal(t, []string{"src"}, dirs)
}

// A daemon that was killed has left a file half-written; another one is at work.
func TestLeftoversAreClearedAway(t *testing.T) {
	dir := t.TempDir()
	old, young, other := filepath.Join(dir, "src", ".tmp-OLD"), filepath.Join(dir, "src", ".tmp-YOUNG"), filepath.Join(dir, "src", "old")
	require.NoError(t, os.Mkdir(filepath.Join(dir, "src"), 0o700))
	for path, age := range map[string]time.Duration{old: 25 * time.Hour, young: time.Hour, other: 100 * time.Hour} {
		require.NoError(t, os.WriteFile(path, nil, 0o600))
		require.NoError(t, os.Chtimes(path, now, now.Add(-age)))
	}
	_, err := store.OpenURL(t.Context(), dir, store.Options{})
	require.NoError(t, err)
	require.FileExists(t, old, "a reader changes nothing")
	open(t, dir)
	require.NoFileExists(t, old)
	require.FileExists(t, young)
	require.FileExists(t, other)
}

// What the system refuses, and what is said of it. Nothing is left behind, and once the cause is
// gone the same put succeeds.
func TestRefusals(t *testing.T) {
	for _, c := range []struct {
		name, point string
		err         error
		says, hint  string
	}{
		{"full disk", durabletest.Sync, &fs.PathError{Op: "fsync", Path: "/x/.tmp-1", Err: unix.ENOSPC}, "no space left", "make room"},
		{"over quota", durabletest.Sync, unix.EDQUOT, "no space left", "make room"},
		{"read-only", durabletest.Rename, &os.LinkError{Op: "rename", Old: "/x/.tmp-1", New: "/x/f", Err: unix.EROFS}, "src/f: read-only file system", "mounted read-only"},
		{"not allowed", durabletest.Rename, unix.EACCES, "src/f: permission denied", "let user"},
		{"broken disk", durabletest.Sync, unix.EIO, "src/f: fsync", "kernel's log"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			s := open(t, dir)
			broken := true
			durabletest.Fail(t, func(point, _ string) error {
				if broken && point == c.point {
					return c.err
				}
				return nil
			})
			err := s.Put(t.Context(), "src/f", strings.NewReader("x"))
			require.ErrorContains(t, err, "archive "+dir+": ")
			require.ErrorContains(t, err, c.says)
			require.Contains(t, hint(t, err), c.hint)
			left, err := os.ReadDir(filepath.Join(dir, "src"))
			require.NoError(t, err)
			require.Empty(t, left)
			broken = false
			require.NoError(t, s.Put(t.Context(), "src/f", strings.NewReader("x")))
		})
	}
}

// A disk counts as full at min_free: nothing is begun there.
func TestMinFree(t *testing.T) {
	dir := t.TempDir()
	s, err := store.OpenURL(t.Context(), dir, store.Options{Write: true, Now: now, MinFree: 1})
	require.NoError(t, err)
	err = s.Put(t.Context(), "src/f", strings.NewReader("x"))
	var full *store.FullError
	require.ErrorAs(t, err, &full)
	require.ErrorIs(t, err, unix.ENOSPC)
	require.ErrorContains(t, err, "must stay free")
	require.Contains(t, full.Hint(), "make room")
	require.NoDirExists(t, filepath.Join(dir, "src"))
}

// A file goes from disk to disk whole, whatever its length is to the copying's.
func TestPutOfFiles(t *testing.T) {
	dir := t.TempDir()
	s := open(t, filepath.Join(dir, "archive"))
	for _, size := range []int{0, 1, 1<<20 - 1, 1 << 20, 3<<20 + 5, 9 << 20} {
		data := []byte(strings.Repeat("x", size))
		path := filepath.Join(dir, "file")
		require.NoError(t, os.WriteFile(path, data, 0o600))
		f, err := os.Open(path)
		require.NoError(t, err)
		require.NoError(t, s.Put(t.Context(), "src/f", f))
		require.NoError(t, f.Close())
		got, err := os.ReadFile(filepath.Join(dir, "archive", "src", "f"))
		require.NoError(t, err)
		require.Equal(t, len(data), len(got))
		require.NoError(t, s.Delete(t.Context(), "src/f"))
	}
}

// What is deleted or put while a listing runs disturbs it as little as anything can.
func TestListingWhileFilesGo(t *testing.T) {
	s := open(t, t.TempDir())
	names := []string{}
	for i := range 300 {
		names = append(names, "src/"+strings.Repeat("a", i%7)+string(rune('a'+i%26))+"/"+strings.Repeat("f", i/26+1))
	}
	for _, name := range names {
		err := s.Put(t.Context(), name, strings.NewReader("x"))
		if !errors.Is(err, fs.ErrExist) {
			require.NoError(t, err)
		}
	}
	require.NoError(t, s.Put(t.Context(), "src/~stays", strings.NewReader("x")))
	done := make(chan error, 1)
	go func() {
		var err error
		for _, name := range names {
			err = errors.Join(err, s.Delete(context.WithoutCancel(t.Context()), name))
		}
		done <- err
	}()
	for running := true; running; {
		select {
		case err := <-done:
			require.NoError(t, err)
			running = false
		default:
		}
		entries, err := s.List(t.Context(), "src")
		require.NoError(t, err)
		require.Equal(t, "src/~stays", entries[len(entries)-1].Name)
	}
}
