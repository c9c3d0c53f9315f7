package verify

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/stream"
)

// The count that an engine is held against is of its own history: what a parent counted behind the branch was lost.
func TestLastCount(t *testing.T) {
	counted := func(offsets ...stream.Offset) (events []archive.Event) {
		for _, o := range offsets {
			events = append(events, archive.Event{Kind: archive.EventCounted, Offset: o, Time: stream.Time(o)},
				archive.Event{Kind: archive.EventBooted, Offset: o + 1, Time: stream.Time(o)})
		}
		return events
	}
	segment := func(from, to stream.Offset) []archive.Segment {
		return []archive.Segment{{Range: stream.Range{From: from, To: to}}}
	}
	parent := &archive.Timeline{TimelineInfo: archive.TimelineInfo{Timeline: "1", Offset: 100}, Segments: segment(100, 900), Events: counted(200, 500, 800)}
	child := &archive.Timeline{TimelineInfo: archive.TimelineInfo{Timeline: "2", Offset: 600, Parent: &archive.Parent{Timeline: "1", Offset: 600}}, Segments: segment(600, 1000)}
	cat := &archive.Catalog{Source: "cache", Timelines: []*archive.Timeline{parent, child}}
	for _, row := range []struct {
		timeline string
		end      stream.Offset
		of       string
		at       stream.Offset
	}{
		{"1", 1000, "1", 800}, {"1", 799, "1", 500}, {"1", 199, "", 0},
		{"2", 1000, "1", 500}, {"2", 500, "1", 500}, {"2", 499, "1", 200},
		{"none", 1000, "", 0},
	} {
		of, e := lastCount(cat, row.timeline, row.end)
		if row.of == "" {
			require.Nil(t, e)
			continue
		}
		require.Equal(t, row.of, of.TimelineInfo.Timeline)
		require.Equal(t, row.at, e.Offset, "%+v", row)
	}
	child.Events = counted(700, 2000)
	_, e := lastCount(cat, "2", 5000)
	require.EqualValues(t, 2000, e.Offset, "behind all that is held: something is missing")
	_, e = lastCount(cat, "2", 1000)
	require.EqualValues(t, 700, e.Offset)
}

func TestDifferent(t *testing.T) {
	b := &Booted{Engine: "redis 8.0.2", By: ByMaster, Counted: map[string]int64{"0": 3, "10": 1}, Keys: map[string]int64{"0": 3, "10": 1}}
	require.Empty(t, b.different())
	b.Keys = map[string]int64{"0": 3}
	require.Equal(t, "redis 8.0.2 holds 0 keys in database 10, and the master had 1", b.different())
	b.Keys = map[string]int64{"0": 3, "2": 5, "10": 1}
	require.Equal(t, "redis 8.0.2 holds 5 keys in database 2, and the master had 0", b.different())
	b.By = BySnapshot
	require.Contains(t, b.different(), "its snapshot was counted to have 0")
	require.Equal(t, []string{"0", "2", "10"}, sorted(b.Keys))
}
