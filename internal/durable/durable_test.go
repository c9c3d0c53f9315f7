package durable

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/durable/durabletest"
)

// names lists a folder.
func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	got := []string{}
	for _, e := range entries {
		got = append(got, e.Name())
	}
	return got
}

func content(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	return string(b)
}

func TestWriteFileReplaces(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "state")
	require.NoError(t, WriteFile(path, []byte("one")))
	require.NoError(t, WriteFile(path, []byte("two")))
	require.Equal(t, "two", content(t, path))
	require.Equal(t, []string{"state"}, names(t, dir))
}

func TestCreateNeverReplaces(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	put := func(s string) func(io.Writer) error {
		return func(w io.Writer) error { _, err := io.WriteString(w, s); return err }
	}
	require.NoError(t, Create(path, put("first")))
	require.ErrorIs(t, Create(path, func(io.Writer) error { t.Error("wrote for nothing"); return nil }), fs.ErrExist)
	require.Equal(t, "first", content(t, path))

	broken := errors.New("the source broke")
	err := Create(filepath.Join(dir, "g"), func(w io.Writer) error {
		_, _ = io.WriteString(w, "half")
		return broken
	})
	require.ErrorIs(t, err, broken)
	require.Equal(t, []string{"f"}, names(t, dir))

	// The name is taken while the content is written.
	err = Create(filepath.Join(dir, "h"), func(w io.Writer) error {
		return os.WriteFile(filepath.Join(dir, "h"), []byte("theirs"), 0o600)
	})
	require.ErrorIs(t, err, fs.ErrExist)
	require.Equal(t, "theirs", content(t, filepath.Join(dir, "h")))
	require.Equal(t, []string{"f", "h"}, names(t, dir))
}

// The way for file systems without RENAME_NOREPLACE keeps the same promise.
func TestLinkNewNeverReplaces(t *testing.T) {
	dir := t.TempDir()
	a, b, to := filepath.Join(dir, "a"), filepath.Join(dir, "b"), filepath.Join(dir, "to")
	require.NoError(t, os.WriteFile(a, []byte("a"), 0o600))
	require.NoError(t, os.WriteFile(b, []byte("b"), 0o600))
	require.NoError(t, linkNew(a, to))
	require.ErrorIs(t, linkNew(b, to), fs.ErrExist)
	require.Equal(t, "a", content(t, to))
	require.Equal(t, []string{"b", "to"}, names(t, dir))
}

func TestOneOfManyCreates(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	var wg sync.WaitGroup
	errs := make([]error, 16)
	for i := range errs {
		wg.Go(func() {
			errs[i] = Create(path, func(w io.Writer) error {
				_, err := w.Write(bytes.Repeat([]byte{byte('a' + i)}, 100))
				return err
			})
		})
	}
	wg.Wait()
	won := -1
	for i, err := range errs {
		if err == nil {
			require.Equal(t, -1, won, "two created it")
			won = i
		} else {
			require.ErrorIs(t, err, fs.ErrExist)
		}
	}
	require.Equal(t, strings.Repeat(string(rune('a'+won)), 100), content(t, path))
	require.Equal(t, []string{"f"}, names(t, filepath.Dir(path)))
}

func TestMkdirAll(t *testing.T) {
	dir := t.TempDir()
	var synced []string
	durabletest.Fail(t, func(point, path string) error {
		if point == durabletest.SyncDir {
			synced = append(synced, path)
		}
		return nil
	})
	require.NoError(t, MkdirAll(filepath.Join(dir, "a", "b", "c")))
	require.Equal(t, []string{dir, filepath.Join(dir, "a"), filepath.Join(dir, "a", "b")}, synced)
	require.NoError(t, MkdirAll(filepath.Join(dir, "a", "b")))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o600))
	require.Error(t, MkdirAll(filepath.Join(dir, "file")))
	require.Error(t, MkdirAll(filepath.Join(dir, "file", "x")))
}

// A fault at each call: the error comes through, and what was there before is there still.
func TestFaultsLeaveTheOldFile(t *testing.T) {
	broken := errors.New("input/output error")
	for _, point := range []string{durabletest.Sync, durabletest.Rename} {
		t.Run(point, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "state")
			require.NoError(t, WriteFile(path, []byte("old")))
			durabletest.Fail(t, func(at, _ string) error {
				if at == point {
					return broken
				}
				return nil
			})
			require.ErrorIs(t, WriteFile(path, []byte("new")), broken)
			require.ErrorIs(t, Create(path+"2", func(io.Writer) error { return nil }), broken)
			require.Equal(t, "old", content(t, path))
			require.Equal(t, []string{"state"}, names(t, dir))
		})
	}
}

func TestAppend(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	f, err := CreateAppend(path)
	require.NoError(t, err)
	_, err = CreateAppend(path)
	require.ErrorIs(t, err, fs.ErrExist)
	_, err = f.Write([]byte("hello, "))
	require.NoError(t, err)
	require.NoError(t, f.Sync())
	require.NoError(t, f.Close())

	f, err = OpenAppend(path)
	require.NoError(t, err)
	_, err = f.Write([]byte("world!!!"))
	require.NoError(t, err)
	require.NoError(t, f.Truncate(12))
	size, err := f.Size()
	require.NoError(t, err)
	require.EqualValues(t, 12, size)
	_, err = f.Write([]byte("."))
	require.NoError(t, err)
	require.NoError(t, f.Sync())
	require.NoError(t, f.Close())
	require.Equal(t, "hello, world.", content(t, path))

	_, err = OpenAppend(path + "2")
	require.ErrorIs(t, err, fs.ErrNotExist)
}

// The folder of a new file is fsynced before the first Sync returns, and not again.
func TestFirstSyncCoversTheName(t *testing.T) {
	var dirs int
	durabletest.Fail(t, func(point, _ string) error {
		if point == durabletest.SyncDir {
			dirs++
		}
		return nil
	})
	f, err := CreateAppend(filepath.Join(t.TempDir(), "log"))
	require.NoError(t, err)
	require.NoError(t, f.Sync())
	require.NoError(t, f.Sync())
	require.Equal(t, 1, dirs)
	require.NoError(t, f.Close())
}

func TestFailedSyncStaysFailed(t *testing.T) {
	broken := errors.New("input/output error")
	fail := true
	durabletest.Fail(t, func(point, _ string) error {
		if point == durabletest.Sync && fail {
			return broken
		}
		return nil
	})
	f, err := CreateAppend(filepath.Join(t.TempDir(), "log"))
	require.NoError(t, err)
	require.ErrorIs(t, f.Sync(), broken)
	fail = false
	require.ErrorIs(t, f.Sync(), broken)
	_, err = f.Write([]byte("x"))
	require.ErrorIs(t, err, broken)
	require.ErrorIs(t, f.Truncate(0), broken)
	require.NoError(t, f.Close())
}

func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	l, err := TryLock(path)
	require.NoError(t, err)
	_, err = TryLock(path)
	var held *LockedError
	require.ErrorAs(t, err, &held)
	require.Equal(t, LockedError{path, os.Getpid()}, *held)
	require.NotEmpty(t, held.Hint())

	child := exec.Command("sleep", "60") // a child doesn't keep its parent's lock
	require.NoError(t, child.Start())
	t.Cleanup(func() { _ = child.Process.Kill(); _ = child.Wait() })
	require.NoError(t, l.Unlock())
	l, err = TryLock(path)
	require.NoError(t, err)
	require.NoError(t, l.Unlock())
}

func TestSpace(t *testing.T) {
	free, total, err := Space(t.TempDir())
	require.NoError(t, err)
	require.Greater(t, free, int64(0))
	require.GreaterOrEqual(t, total, free)
	_, _, err = Space("/does/not/exist")
	require.ErrorIs(t, err, fs.ErrNotExist)
}

// A large file is synced on the way, however it is written, and arrives whole.
func TestCreateLetsTheDiskRest(t *testing.T) {
	dir := t.TempDir()
	data := bytes.Repeat([]byte("0123456789abcdef"), 20<<20/16)
	src := filepath.Join(dir, "src")
	require.NoError(t, os.WriteFile(src, data, 0o600))
	syncs := 0
	durabletest.Fail(t, func(point, _ string) error {
		if point == durabletest.Sync {
			syncs++
		}
		return nil
	})
	open := func() *os.File {
		f, err := os.Open(src)
		require.NoError(t, err)
		t.Cleanup(func() { _ = f.Close() })
		return f
	}
	for name, write := range map[string]func(io.Writer) error{
		"write": func(w io.Writer) error {
			_, err := w.Write(data[:9<<20])
			_, err2 := w.Write(data[9<<20:])
			return errors.Join(err, err2)
		},
		"buffer":   func(w io.Writer) error { _, err := io.Copy(w, onlyReader{bytes.NewReader(data)}); return err },
		"file":     func(w io.Writer) error { _, err := io.Copy(w, open()); return err },
		"pieces":   func(w io.Writer) error { return inPieces(w, open(), 1<<20, len(data)) },
		"largest":  func(w io.Writer) error { return inPieces(w, open(), 10<<20, len(data)) },
		"too long": func(w io.Writer) error { _, err := io.Copy(w, io.LimitReader(open(), 1<<40)); return err },
	} {
		syncs = 0
		require.NoError(t, Create(filepath.Join(dir, name), write), name)
		require.Equal(t, string(data), content(t, filepath.Join(dir, name)), name)
		require.GreaterOrEqual(t, syncs, 3, name)
		require.LessOrEqual(t, syncs, 4, name)
	}
}

type onlyReader struct{ io.Reader }

func inPieces(w io.Writer, r io.Reader, size int64, all int) error {
	for done := int64(0); done < int64(all); done += size {
		if _, err := io.CopyN(w, r, min(size, int64(all)-done)); err != nil {
			return err
		}
	}
	return nil
}

// What root makes in somebody's folder is theirs, as a daemon's archive, in which people work by sudo.
func TestWhoseItIs(t *testing.T) {
	dir, owner := t.TempDir(), os.Geteuid()
	if owner == 0 {
		owner = 65534
		require.NoError(t, os.Chown(dir, owner, owner))
	}
	at := func(name string) string { return filepath.Join(dir, name) }
	require.NoError(t, WriteFile(at("state"), nil))
	require.NoError(t, MkdirAll(at("events/deep")))
	require.NoError(t, Create(at("events/deep/pin"), func(io.Writer) error { return nil }))
	f, err := CreateAppend(at("chunk"))
	require.NoError(t, err)
	require.NoError(t, f.Close())
	lock, err := TryLock(at(".lock"))
	require.NoError(t, err)
	require.NoError(t, lock.Unlock())
	for _, name := range []string{"state", "events", "events/deep", "events/deep/pin", "chunk", ".lock"} {
		info, err := os.Lstat(at(name))
		require.NoError(t, err)
		require.EqualValues(t, owner, info.Sys().(*syscall.Stat_t).Uid, name)
	}
}
