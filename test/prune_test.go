package test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/engine/enginetest"
	"github.com/offloader/offloader/test/blackbox"
)

// TestPrune: what the window no longer holds goes while the daemon writes, but for what is pinned, and for what was there
// before a master came back empty; and the daemon goes on, also after it was killed.
func TestPrune(t *testing.T) {
	enginetest.Each(t, func(t *testing.T, kind enginetest.Kind) {
		t.Parallel()
		master := enginetest.Start(t, kind)
		w := working(t, master, 300)
		d := blackbox.StartWith(t, t.TempDir(), fmt.Sprintf(`
sources: [{name: cache, address: %q}]
stores: [{type: disk, path: $DIR/archive}]
spool: {path: $DIR/archive/.spool}
retention: {window: 1s}`, master.Addr()))
		d.Streaming("cache")
		require.NoError(t, w.Run(t.Context(), 300))
		old := note(t, master, 1)
		require.NoError(t, w.Run(t.Context(), 100))
		require.Contains(t, d.Do("prune", "--dry-run"), "would go: 0 files", "all of it is young, or newer than the only snapshot")
		require.Contains(t, d.Do("pin", "--offset", fmt.Sprint(old.offset), "--note", "before the end"), "is pinned: before the end")

		// The master comes back with nothing: a timeline that makes the first one old.
		master.Kill()
		require.NoError(t, os.Remove(filepath.Join(master.Dir(), "dump.rdb"))) // note made it
		master.Restart()
		d.Until("cache", "synced anew", func(s blackbox.SourceStatus) bool { return s.FullResyncs == 2 && s.State == "streaming" })
		w = working(t, master, 300)
		d.WaitFor(1500 * time.Millisecond) // longer than the window
		require.NoError(t, w.Run(t.Context(), 100))
		young := note(t, master, 1)
		stored(t, d, young.offset)
		timelines := d.Timelines("cache")
		require.Len(t, timelines, 2)
		first := timelines[0].Name

		// That it came back so is suspect: nothing goes before somebody has looked.
		require.Contains(t, d.Do("prune"), "deleted: 0 files")
		require.Equal(t, first, d.Aim("--latest").Timeline)
		d.Do("release")

		d.Do("prune")
		d.Do("verify") // what is missing has a reason
		old.equals(t, kind, d.Restore(append(old.byOffset(), "--timeline", first)...))
		young.equals(t, kind, d.Restore(young.byTime()...))
		require.Contains(t, d.Do("list"), ": before the end\n")
		d.Do("verify")

		d.Do("unpin", "--offset", fmt.Sprint(old.offset))
		require.Contains(t, d.Do("prune", "--dry-run"), "nothing is left of the timeline")
		require.EqualValues(t, old.offset, d.Aim(append(old.byOffset(), "--timeline", first)...).Offset, "it says so, no more")
		d.Do("prune")
		require.Equal(t, 3, d.Run("restore", "--at", stamp(old.at), "--dry-run").Code)
		require.Len(t, d.Timelines("cache"), 1)
		young.equals(t, kind, d.Restore(young.byTime()...))

		d.Do("verify")

		d.Kill()
		d.Restart()
		require.NoError(t, w.Run(t.Context(), 100))
		last := note(t, master, 1)
		last.equals(t, kind, d.Restore(last.byOffset()...))
		require.Zero(t, d.Source("cache").FullResyncs)
		require.Contains(t, d.Do("prune"), "deleted: 0 files")
		d.Do("verify")
	})
}

// stored waits until the store has all up to an offset.
func stored(t *testing.T, d *blackbox.Daemon, offset int64) {
	t.Helper()
	d.Until("cache", "stored", func(s blackbox.SourceStatus) bool { return len(s.Stores) == 1 && s.Stores[0].Stored >= offset })
}
