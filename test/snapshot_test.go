package test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/engine/enginetest"
	"github.com/offloader/offloader/test/blackbox"
)

// A snapshot that is asked for under load falls into the timeline that goes on. A restore of later
// moments starts from it, one of earlier moments doesn't, and both are what the master had.
func TestSnapshotByHand(t *testing.T) {
	t.Parallel()
	enginetest.Each(t, func(t *testing.T, kind enginetest.Kind) {
		t.Parallel()
		master := enginetest.Start(t, kind)
		d := blackbox.StartWith(t, t.TempDir(), smallSpool(master))
		began := d.Streaming("cache")
		for range 50 {
			master.Do("SET", "before", strings.Repeat("b", 10_000))
		}
		early := note(t, master, 1)
		stop := load(t, master, 2)
		var taken struct {
			Source, Timeline string
			Offset           int64
			Stores           int
		}
		require.NoError(t, json.Unmarshal([]byte(d.Do("snapshot", "--json")), &taken))
		require.Equal(t, "cache", taken.Source)
		require.Equal(t, began.Timeline, taken.Timeline)
		require.Equal(t, 1, taken.Stores)
		for i := range 50 {
			master.Do("SET", fmt.Sprint("after:", i), "1")
		}
		stop()
		late := note(t, master, 1)

		restored := d.Restore(late.byOffset()...)
		require.Equal(t, taken.Offset, restored.Snapshot, "the restore starts from it")
		late.equals(t, kind, restored)
		restored = d.Restore(early.byOffset()...)
		require.Equal(t, began.LastSnapshot.Offset, restored.Snapshot)
		early.equals(t, kind, restored)
		at := d.Restore("--offset", fmt.Sprint(taken.Offset))
		require.Zero(t, at.Segments, "nothing but the snapshot")
		at.Boot(kind)

		one := d.Timelines("cache")
		require.Len(t, one, 1)
		require.Len(t, one[0].Windows, 1)
		require.Len(t, one[0].Snapshots, 2)
		require.Equal(t, "master", one[0].Snapshots[1].Method)
		require.Equal(t, taken.Offset, d.Source("cache").LastSnapshot.Offset)

		d.Do("verify")
		r := d.Run("snapshot", "--source", "cach")
		require.Equal(t, 2, r.Code, "%s", r)
		require.Contains(t, r.Stderr, `the daemon has no such source: "cach"`)
	})
}
