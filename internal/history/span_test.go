package history_test

import (
	"io"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/history"
	"github.com/offloader/offloader/internal/stream"
)

func TestWhatIsKnownOfASpan(t *testing.T) {
	down := archive.Event{Kind: archive.EventOutage, From: 1200, Time: 1300}
	a := &archive.Timeline{
		Snapshots: []archive.Snapshot{{Time: 1000}}, Segments: []archive.Segment{{Time0: 1001, Time1: 1500}},
		Events: []archive.Event{down, {Kind: archive.EventOutage, Time: 1250, Damage: io.EOF}, {Kind: archive.EventClock, From: 1, Time: 9000}},
	}
	b := &archive.Timeline{Snapshots: []archive.Snapshot{{Time: 2000}}}
	empty := &archive.Timeline{}
	all := []*archive.Timeline{a, b, empty}
	for _, c := range []struct {
		from, to      stream.Time
		before, after stream.Time
		outside, down bool
	}{
		{0, 0, 0, 0, false, false},
		{1220, 1280, 0, 0, false, true},
		{1100, 1250, 0, 0, false, true},
		{1250, 1400, 0, 0, false, true},
		{1100, 1400, 0, 0, false, false},
		{1200, 1300, 0, 0, false, false},
		{0, 1000, 0, 1000, true, false},
		{0, 1001, 0, 0, false, false},
		{1500, 1600, 0, 0, false, false},
		{1501, 2000, 1500, 2000, true, false},
		{2001, 0, 2000, 0, true, false},
	} {
		q := history.Query{From: c.from, To: c.to}
		before, after, outside := q.Outside(all)
		require.Equal(t, c.before, before, "%+v", c)
		require.Equal(t, c.after, after, "%+v", c)
		require.Equal(t, c.outside, outside, "%+v", c)
		if c.down {
			require.Equal(t, []archive.Event{down}, q.Outages(a), "%+v", c)
		} else {
			require.Empty(t, q.Outages(a), "%+v", c)
		}
	}
	_, _, outside := history.Query{From: 5}.Outside([]*archive.Timeline{empty})
	require.False(t, outside)
}
