package test

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/offloader/offloader/internal/engine/enginetest"
	"github.com/offloader/offloader/test/blackbox"
)

// The store is away and the spool reaches its bound: the link is put down and nothing more is
// acknowledged, so WAIT tells clients. When there is room again all goes on where it stopped: no
// full sync, no byte lost.
func TestSpoolFull(t *testing.T) {
	t.Parallel()
	t.Run("the store can't be written", func(t *testing.T) {
		spoolFull(t, t.TempDir(), "not a directory", func(d *blackbox.Daemon, timeline string) (undo func()) {
			// A file in the place of the folder for segments: not even root gets past it.
			name := filepath.Join(d.Dir, "cache", timeline, "log")
			require.NoError(t, os.WriteFile(name, nil, 0o600))
			return func() { require.NoError(t, os.Remove(name)) }
		})
	})
	t.Run("the store's disk is full", func(t *testing.T) {
		disk := smallDisk(t, "48m")
		if disk == "" {
			return
		}
		spoolFull(t, disk, "full", func(*blackbox.Daemon, string) (undo func()) {
			filler := fillDisk(t, disk)
			return func() { require.NoError(t, os.Remove(filler)) }
		})
	})
}

// A value that is larger than the spool can't be made durable, whatever a store does: that is said,
// with the setting, and when it is raised all goes on.
func TestSpoolTooSmallForAValue(t *testing.T) {
	t.Parallel()
	kind := enginetest.Any(t)
	master := enginetest.Start(t, kind, "--repl-backlog-size", "64mb")
	yaml := `
sources: [{name: cache, address: %q}]
spool: {path: $DIR/spool, max_size: %s, min_free: 1%%}
stores: [{type: disk, path: $DIR/archive}]
`
	d := blackbox.StartWith(t, t.TempDir(), fmt.Sprintf(yaml, master.Addr(), "2MiB"))
	d.Streaming("cache")
	master.Do("SET", "small", "1")
	require.EqualValues(t, 1, master.Do("WAIT", 1, 10_000))
	acked, at := master.Digest(), master.Offset()
	master.Do("SET", "large", noise(t, 5_000_000))
	require.EqualValues(t, 0, master.Do("WAIT", 1, 1000))
	s := d.Until("cache", "refused", func(s blackbox.SourceStatus) bool { return strings.Contains(s.Error, "transaction") })
	require.Contains(t, s.Error, "does not fit into 2.0 MiB")
	require.Contains(t, s.Hint, "raise spool.max_size")
	require.LessOrEqual(t, at, s.Durable)
	require.Equal(t, acked, d.Restore("--latest").Boot(kind).Digest())

	d.Rewrite(fmt.Sprintf(yaml, master.Addr(), "32MiB"))
	d.Stop()
	d.Restart()
	d.Streaming("cache")
	sameRestored(t, d, master)
	require.Equal(t, "1", master.Info("stats")["sync_full"])
}

func spoolFull(t *testing.T, store, says string, breakStore func(d *blackbox.Daemon, timeline string) (undo func())) {
	kind := enginetest.Any(t)
	master := enginetest.Start(t, kind, "--repl-backlog-size", "64mb")
	yaml := fmt.Sprintf(`
sources: [{name: cache, address: %q}]
spool: {path: $DIR/spool, max_size: 2MiB, min_free: 1%%}
stores: [{type: disk, path: %s/archive}]
`, master.Addr(), store)
	d := blackbox.StartWith(t, t.TempDir(), yaml)
	d.Dir = filepath.Join(store, "archive")
	began := d.Streaming("cache")
	truth := newRecord(t, master, began.ReplID, began.LastSnapshot.Offset)
	require.Eventually(t, func() bool {
		return len(files(t, d.Dir)) == 3 // timeline.json and the snapshot
	}, patience, pollEvery, "the snapshot is stored")
	undo := breakStore(d, began.Timeline)
	var acked string
	for i := 0; ; i++ {
		require.Less(t, i, 100, "the spool of 2 MiB takes 10 MB")
		acked = master.Digest()
		value := make([]byte, 100_000)
		_, err := rand.Read(value)
		require.NoError(t, err)
		master.Do("SET", fmt.Sprint("key:", i), value)
		if master.Do("WAIT", 1, 2000).(int64) == 0 {
			break
		}
	}
	full := d.Until("cache", "waiting for room", func(s blackbox.SourceStatus) bool {
		return s.State == "waiting" && s.Stores[0].Error != ""
	})
	require.Contains(t, full.Error, "is full")
	require.Contains(t, full.Error, "2.0 MiB")
	require.Contains(t, full.Hint, "spool.max_size")
	require.Contains(t, full.Stores[0].Error, says)
	require.LessOrEqual(t, full.Spool.Bytes, full.Spool.MaxBytes)
	people := d.Run("status")
	require.Equal(t, 0, people.Code, "%s", people)
	require.Contains(t, people.Stdout, "is full")
	require.Contains(t, people.Stdout, says)

	// Nothing moves meanwhile, and what was acknowledged can be restored.
	master.Do("SET", "more", "1")
	require.EqualValues(t, 0, master.Do("WAIT", 1, 500))
	require.Equal(t, full.Durable, d.Source("cache").Durable)
	require.Equal(t, "1", master.Info("replication")["connected_slaves"], "the record alone")
	require.Equal(t, acked, d.Restore("--latest").Boot(kind).Digest())

	undo()
	d.Streaming("cache")
	require.EqualValues(t, 1, master.Do("WAIT", 1, 30_000))
	want, end := master.Digest(), master.Offset()
	d.Durable("cache", end)
	require.Equal(t, "1", master.Info("stats")["sync_full"])
	d.Stop()
	timeline, all := segments(t, blackbox.ArchiveAt(t, d.Dir), "cache")
	from, stored := storedStream(t, filepath.Join(d.Dir, "cache", timeline), all)
	requireSameStream(t, truth.upTo(t, from+int64(len(stored))), stored, from)
	require.GreaterOrEqual(t, from+int64(len(stored)), end)
	require.Equal(t, want, blackbox.ArchiveAt(t, d.Dir).Restore("--latest").Boot(kind).Digest())
}

// smallDisk mounts a file system of its own, in memory. Only root may: for others it says so, and
// is "".
func smallDisk(t *testing.T, size string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size="+size, "tmpfs", dir).CombinedOutput()
	if err != nil {
		require.NotZero(t, os.Getuid(), "root can't mount a tmpfs: %s", out)
		t.Logf("a full disk is only tried by root: %s", out)
		return ""
	}
	t.Cleanup(func() {
		out, err := exec.Command("umount", "-l", dir).CombinedOutput()
		require.NoError(t, err, "%s", out)
	})
	return dir
}

// fillDisk takes all the room on a disk, into one file.
func fillDisk(t *testing.T, disk string) (filler string) {
	t.Helper()
	f, err := os.Create(filepath.Join(disk, "filler"))
	require.NoError(t, err)
	_, err = io.Copy(f, zeroes{})
	require.True(t, errors.Is(err, unix.ENOSPC), "%v", err)
	_ = f.Close() // it may report the same
	return f.Name()
}

type zeroes struct{}

func (zeroes) Read(p []byte) (int, error) { clear(p); return len(p), nil }
