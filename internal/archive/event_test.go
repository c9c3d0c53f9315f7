package archive

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/stream"
)

func TestPinsAndReleases(t *testing.T) {
	one := func(kind string, o stream.Offset, at stream.Time) Event {
		return Event{Kind: kind, Offset: o, Time: at}
	}
	pinned := func(events ...Event) (at []stream.Offset) {
		tl := &Timeline{Events: events}
		tl.sort()
		for _, p := range tl.Pins() {
			at = append(at, p.Offset)
		}
		return at
	}
	require.Empty(t, pinned())
	require.Equal(t, []stream.Offset{5, 7}, pinned(one(EventPin, 7, 3), one(EventPin, 5, 9), one(EventOutage, 5, 9)))
	require.Empty(t, pinned(one(EventPin, 7, 3), one(EventUnpin, 7, 4)))
	require.Equal(t, []stream.Offset{7}, pinned(one(EventPin, 7, 3), one(EventUnpin, 7, 4), one(EventPin, 7, 5)), "the last decides")
	require.Equal(t, []stream.Offset{7}, pinned(one(EventPin, 7, 3), one(EventUnpin, 8, 4)), "at its offset")
	require.Equal(t, []stream.Offset{7}, pinned(one(EventUnpin, 7, 4), one(EventPin, 7, 4)), "in doubt it stays")

	tl := &Timeline{Events: []Event{one(EventSuspect, 0, 10), one(EventLost, 5, 20)}}
	require.True(t, tl.Suspect())
	require.Len(t, tl.Lost(), 1)
	tl.Events = append(tl.Events, one(EventRelease, 9, 15))
	require.False(t, tl.Suspect())
	require.Len(t, tl.Lost(), 1, "it came later")
	tl.Events = append(tl.Events, one(EventRelease, 9, 20))
	require.Empty(t, tl.Lost())
	require.False(t, (&Timeline{}).Suspect())
}

// A parent that retention has let go is no damage; one that is missing is.
func TestABranchWhoseParentWasPruned(t *testing.T) {
	parent := drawn("a", 0, segs{{0, 10}}, 0)
	b := branch(drawn("b", 10, segs{{10, 20}, {20, 30}}, 20), parent)
	c := &Catalog{Source: "cache", Timelines: []*Timeline{b}}
	_, err := c.Windows(b)
	require.ErrorContains(t, err, "its parent a is missing")

	b.Events = []Event{{Kind: EventPruned, Offset: 10, To: 20, Time: 50}}
	require.EqualValues(t, 20, b.Pruned())
	windows, err := c.Windows(b)
	require.NoError(t, err)
	require.Equal(t, []Window{window(20, 30)}, windows)

	b.Segments = b.Segments[1:]
	b.Snapshots = append([]Snapshot{{Offset: 12, Time: when(12)}}, b.Snapshots...)
	gaps, err := c.Gaps(b)
	require.NoError(t, err)
	require.Equal(t, []Gap{{From: pos(12), To: pos(20), Cause: "retention has let it go", Missing: true}}, gaps)
}

// What `check` goes by: it is the last start that counts, not that there was a rebirth once.
func TestTheLastStartCounts(t *testing.T) {
	reborn, failover := Event{Kind: EventReplID, Offset: 5, Cause: CauseRebirth}, Event{Kind: EventReplID, Offset: 9, Cause: "the master gave a new id"}
	history := func(timelines ...*Timeline) Start { return (&Catalog{Timelines: timelines}).LastStart() }
	born := func(reason string, events ...Event) *Timeline {
		return &Timeline{TimelineInfo: TimelineInfo{Reason: reason}, Events: events}
	}
	require.Equal(t, StartUnseen, history())
	require.Equal(t, StartUnseen, history(born("first contact")))
	require.Equal(t, StartReborn, history(born("first contact", reborn)))
	require.Equal(t, StartUnseen, history(born("first contact", reborn, failover)), "another has taken over")
	require.Equal(t, StartReborn, history(born("first contact", failover, reborn, Event{Kind: EventRelease, Offset: 9})))
	require.Equal(t, StartReborn, history(born("first contact"), born(CauseRebirth+": the spool was lost")), "from the stores")
	forgot := born("the master came back empty", Event{Kind: EventSuspect, Offset: 1})
	require.Equal(t, StartForgot, history(born("first contact", reborn), forgot), "it was started without")
	forgot.Events = append(forgot.Events, Event{Kind: EventRelease, Offset: 1})
	require.Equal(t, StartForgot, history(born("first contact", reborn), forgot), "whatever was said of it since")
	forgot.Events = append(forgot.Events, reborn)
	require.Equal(t, StartReborn, history(born("first contact", reborn), forgot), "and with it since")
}
