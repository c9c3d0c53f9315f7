package test

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/engine/enginetest"
	"github.com/offloader/offloader/test/blackbox"
)

// Told to leave under load, the daemon makes durable what has come, brings all of it to the store,
// and is gone in seconds with exit code 0. The next one goes on there.
func TestSIGTERM(t *testing.T) {
	t.Parallel()
	times := count(t, "times told to leave", 10, 2)
	enginetest.Each(t, func(t *testing.T, kind enginetest.Kind) {
		t.Parallel()
		master := enginetest.Start(t, kind, "--repl-backlog-size", "256mb")
		d := blackbox.StartWith(t, t.TempDir(), smallSpool(master))
		began := d.Streaming("cache")
		truth := newRecord(t, master, began.ReplID, began.LastSnapshot.Offset)
		stop := load(t, master, 3)
		for range times {
			d.WaitFor(time.Second)
			acked := d.Source("cache").Durable // or more by now
			told := time.Now()
			d.Stop() // demands exit code 0
			require.Less(t, time.Since(told), 10*time.Second)

			// The store alone has all that was ever acknowledged.
			timeline, all := segments(t, blackbox.ArchiveAt(t, d.Dir), "cache")
			from, stored := storedStream(t, filepath.Join(d.Dir, "cache", timeline), all)
			end := from + int64(len(stored))
			requireSameStream(t, truth.upTo(t, end), stored, from)
			require.GreaterOrEqual(t, end, acked)
			restored := blackbox.ArchiveAt(t, d.Dir).Restore("--latest")
			require.Equal(t, end, restored.Offset)
			restored.Remove()
			d.Restart()
			d.Streaming("cache")
		}
		stop()
		require.Equal(t, "1", master.Info("stats")["sync_full"])
		master.Do("SET", "after", "2") // WAIT asks for the writes of its own connection
		require.EqualValues(t, 1, master.Do("WAIT", 1, 30_000))
		want := master.Digest()
		d.Stop()
		require.Equal(t, want, blackbox.ArchiveAt(t, d.Dir).Restore("--latest").Boot(kind).Digest())
	})
}
