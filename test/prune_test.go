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
	t.Parallel()
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

// TestPruneWithinATimeline: in a timeline that goes on, the window moves from snapshot to snapshot. Each of
// two stores keeps what its own retention says: all that it holds boots as the master was, and what it let go
// is no longer a point.
func TestPruneWithinATimeline(t *testing.T) {
	t.Parallel() // it waits for the window
	const window = 2 * time.Second
	kind := enginetest.Any(t)
	master := enginetest.Start(t, kind)
	n := 0
	work := func() {
		for range 50 {
			n++
			master.Do("SET", fmt.Sprint("key:", n%70), n)
			master.Do("RPUSH", "list", n)
		}
	}
	work()
	dir := t.TempDir()
	d := blackbox.StartWith(t, dir, fmt.Sprintf(`
sources: [{name: cache, address: %q}]
spool: {path: $DIR/spool, min_free: 1%%}
retention: {window: 7d}
ack: store
stores:
  - {type: disk, path: $DIR/archive, retention: {window: %s}}
  - {type: disk, path: $DIR/all}`, master.Addr(), window))
	d.Streaming("cache")
	var moments []moment
	for range 3 {
		work()
		moments = append(moments, note(t, master, 1))
		work() // so that the snapshot is behind the moment
		d.Do("snapshot")
		d.WaitFor(window / 2)
	}
	work()
	moments = append(moments, note(t, master, 1)) // behind the last snapshot

	young, all := blackbox.ArchiveAt(t, d.Dir), blackbox.ArchiveAt(t, filepath.Join(dir, "all"))
	_, before := segments(t, all, "cache")
	d.Do("prune")
	pruned := time.Now()
	d.Do("verify") // both: what is missing has a reason
	_, left := segments(t, young, "cache")
	require.Greater(t, left[0].From, before[0].From, "log is let go")
	_, same := segments(t, all, "cache")
	require.Equal(t, before[0].From, same[0].From, "that of the other store isn't")
	one := young.Timelines("cache")[0]
	require.Len(t, one.Windows, 1)
	from := one.Windows[0].From.Offset
	require.Equal(t, one.Snapshots[0].Offset, from, "it begins with a snapshot")
	require.Greater(t, left[0].To, from, "no log is left before it")

	gone := 0
	for i, m := range moments {
		if m.offset < from {
			gone++
			require.Less(t, m.at, pruned.Add(-window), "moment %d was in the window", i)
			require.Equal(t, 3, young.Run(append([]string{"restore", "--dry-run"}, m.byTime()...)...).Code, "moment %d", i)
			require.Equal(t, 3, young.Run(append([]string{"restore", "--dry-run"}, m.byOffset()...)...).Code, "moment %d", i)
		} else {
			m.equals(t, kind, young.Restore(m.byTime()...))
		}
	}
	require.Positive(t, gone, "moments that the window no longer holds")
	require.Less(t, gone, len(moments), "the last of them stays")
	moments[0].equals(t, kind, all.Restore(moments[0].byOffset()...))

	work() // it goes on
	last := note(t, master, 1)
	last.equals(t, kind, young.Restore(last.byOffset()...))
	require.EqualValues(t, 1, d.Source("cache").FullResyncs)
}

// stored waits until the store has all up to an offset.
func stored(t *testing.T, d *blackbox.Daemon, offset int64) {
	t.Helper()
	d.Until("cache", "stored", func(s blackbox.SourceStatus) bool { return len(s.Stores) == 1 && s.Stores[0].Stored >= offset })
}
