package replay_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/plan"
	"github.com/offloader/offloader/internal/replay/replaytest"
	"github.com/offloader/offloader/internal/stream"
)

// Names that agree with each other and not with what is in the files: an engine would not load what
// they lead to, or would have half a transaction. That is damage, not a dataset.
func TestFilesThatJoinWhereNoCommandEnds(t *testing.T) {
	l := replaytest.NewLog(0, 0)
	l.Add(1000, "SET", "a", "1")
	first := l.End()
	l.Add(1001, "MULTI")
	inMulti := l.End()
	l.Add(1002, "SET", "b", "2")
	l.Add(1003, "EXEC")
	l.Add(1004, "SET", "c", "3")
	snapshotAt := func(o stream.Offset) *archive.Catalog {
		cat := held(l, 900, 0, 7)
		cat.Timelines[0].Snapshots = []archive.Snapshot{replaytest.Snapshot(archive.SnapshotInfo{Offset: o, Time: 900}, []byte("RDB"))}
		return cat
	}
	branchAt := func(o stream.Offset) *archive.Catalog {
		cat := held(l, 900, 0, 7)
		own := replaytest.NewLog(o, 0)
		own.Add(2000, "SET", "d", "4")
		cat.Timelines = append(cat.Timelines, &archive.Timeline{
			TimelineInfo: archive.TimelineInfo{Timeline: "b", ReplID: "bb", Offset: o, Parent: &archive.Parent{Timeline: "a", Offset: o}},
			Segments:     []archive.Segment{own.Segment(stream.Range{From: o, To: own.End()}, 7)},
		})
		return cat
	}
	other := replaytest.NewLog(first-5, 0) // as if it began inside the first command
	other.Add(1001, "SET", "other", "value")
	other.Add(1005, "SET", "d", "4")
	overlap := held(l, 900, 0, 7)
	overlap.Timelines[0].Segments = []archive.Segment{
		l.Segment(stream.Range{From: 0, To: first}, 7), other.Segment(stream.Range{From: other.Start, To: other.End()}, 7),
	}
	for name, c := range map[string]struct {
		cat  *archive.Catalog
		says string
	}{
		"a snapshot inside a command":      {snapshotAt(first + 3), "30 is no boundary: a command or transaction that begins at 27 goes on there"},
		"a snapshot inside a transaction":  {snapshotAt(inMulti), "42 is no boundary"},
		"a branch inside a command":        {branchAt(first - 3), "24 is no boundary: a command or transaction that begins at 0"},
		"a branch inside a transaction":    {branchAt(inMulti), "42 is no boundary"},
		"a segment inside another's bytes": {overlap, "27 is no boundary: a command or transaction that begins at 22"},
	} {
		for _, req := range []plan.Request{{}, before("SET"), byTime(1004)} {
			if req.Point.Kind == plan.ByTime && len(c.cat.Timelines) > 1 {
				continue // the parent holds it
			}
			_, err := run(t.Context(), always(c.cat), req)
			var damage *archive.DamageError
			require.ErrorAs(t, err, &damage, "%s, %s", name, req.Point)
			require.ErrorContains(t, err, c.says, "%s, %s", name, req.Point)
		}
	}
}

// A segment that begins in database 0 is needed from a place on where another is selected.
func TestTheDatabaseOfAMatchBehindAnOverlap(t *testing.T) {
	l := replaytest.NewLog(0, 0)
	l.Add(1000, "SET", "a", "1")
	overlap := l.End()
	l.Add(1001, "SELECT", "4")
	half := l.End()
	l.Add(1002, "DEL", "a")
	cat := held(l, 900, 0, 7)
	cat.Timelines[0].Segments = []archive.Segment{
		l.Segment(stream.Range{From: 0, To: half}, 7), l.Segment(stream.Range{From: overlap, To: l.End()}, 7),
	}
	g, err := run(t.Context(), always(cat), before("DEL"))
	require.NoError(t, err)
	require.Equal(t, half, g.To.Offset)
	require.Equal(t, 4, g.Match.DB)
}

// The snapshot's sidecar and the segment behind it don't agree on the database: one of them is wrong.
func TestTheDatabaseOfASnapshotAndOfItsLog(t *testing.T) {
	l := replaytest.NewLog(0, 3)
	l.Add(1000, "SET", "a", "1")
	cut := l.End()
	l.Add(1001, "SET", "b", "2")
	cat := held(l, 900, 5, 7)
	for _, at := range []stream.Offset{0, cut} { // where the segment begins, and inside of it
		cat.Timelines[0].Snapshots = []archive.Snapshot{replaytest.Snapshot(archive.SnapshotInfo{Offset: at, Time: 900, DB: 5}, []byte("RDB"))}
		_, err := run(t.Context(), always(cat), plan.Request{})
		var damage *archive.DamageError
		require.ErrorAs(t, err, &damage)
		require.ErrorContains(t, err, "it has database 3 selected at offset "+at.String()+", and the snapshot there says 5")
	}
}
