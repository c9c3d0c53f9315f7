package archive

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/offloader/offloader/internal/stream"
)

// Test timelines are drawn in small numbers: a byte at offset n was received at time 1000+n.
func when(o stream.Offset) stream.Time { return stream.Time(1000 + o) }

func pos(o stream.Offset) Position { return Position{o, when(o)} }

func window(from, to stream.Offset) Window { return Window{pos(from), pos(to)} }

// drawn is a timeline with these segments (pairs of offsets) and snapshots.
func drawn(name string, at stream.Offset, segments [][2]stream.Offset, snapshots ...stream.Offset) *Timeline {
	t := &Timeline{TimelineInfo: TimelineInfo{Source: "cache", Timeline: name, ReplID: testID, Offset: at, Began: when(at)}}
	for _, s := range segments {
		t.Segments = append(t.Segments, Segment{Range: stream.Range{From: s[0], To: s[1]}, Time0: when(s[0]), Time1: when(s[1])})
	}
	for _, s := range snapshots {
		t.Snapshots = append(t.Snapshots, Snapshot{Offset: s, Time: when(s)})
	}
	t.sort()
	return t
}

func branch(t, parent *Timeline) *Timeline {
	t.Parent = &Parent{parent.Timeline, t.Offset}
	return t
}

type segs = [][2]stream.Offset

func TestWindowsAndGaps(t *testing.T) {
	event := func(t *Timeline, e ...Event) *Timeline { t.Events = append(t.Events, e...); t.sort(); return t }
	gap := func(from, to stream.Offset, cause string) Gap {
		return Gap{pos(from), pos(to), cause, !strings.HasPrefix(cause, "outage"), cause == "segment missing"}
	}
	for _, c := range []struct {
		name      string
		timelines []*Timeline // the last is looked at
		windows   []Window
		gaps      []Gap
	}{
		{"nothing", []*Timeline{drawn("a", 0, nil)}, nil, nil},
		{"a snapshot alone", []*Timeline{drawn("a", 5, nil, 5)}, []Window{window(5, 5)}, nil},
		{"a log without a snapshot", []*Timeline{drawn("a", 0, segs{{0, 10}})}, nil, nil},
		{"a log", []*Timeline{drawn("a", 0, segs{{0, 10}, {10, 20}}, 0)}, []Window{window(0, 20)}, nil},
		{"snapshots add nothing", []*Timeline{drawn("a", 0, segs{{0, 10}, {10, 20}}, 0, 10, 20)}, []Window{window(0, 20)}, nil},
		{"the first snapshot is late", []*Timeline{drawn("a", 0, segs{{0, 10}, {10, 20}}, 10)}, []Window{window(10, 20)}, nil},
		{"overlaps", []*Timeline{drawn("a", 0, segs{{0, 10}, {0, 30}, {10, 20}, {20, 40}}, 0)}, []Window{window(0, 40)}, nil},
		{"a hole", []*Timeline{drawn("a", 0, segs{{0, 10}, {15, 20}}, 0)}, []Window{window(0, 10)}, []Gap{gap(10, 15, "segment missing")}},
		{"a hole that is explained", []*Timeline{event(drawn("a", 0, segs{{0, 10}, {15, 20}}, 0), Event{Kind: EventHole, Offset: 10, To: 15, Cause: "the spool was lost"})},
			[]Window{window(0, 10)}, []Gap{gap(10, 15, "hole: the spool was lost")}},
		{"a hole that is explained twice", []*Timeline{event(drawn("a", 0, segs{{0, 10}, {15, 20}}, 0), Event{Kind: EventHole, Offset: 9, To: 12, Cause: "x"}, Event{Kind: EventHole, Offset: 12, To: 16, Cause: "y"})},
			[]Window{window(0, 10)}, []Gap{gap(10, 15, "hole: y")}},
		{"a hole that is explained in part", []*Timeline{event(drawn("a", 0, segs{{0, 10}, {15, 20}}, 0), Event{Kind: EventHole, Offset: 10, To: 14, Cause: "x"})},
			[]Window{window(0, 10)}, []Gap{gap(10, 15, "segment missing")}},
		{"a snapshot behind the hole", []*Timeline{drawn("a", 0, segs{{0, 10}, {15, 20}}, 0, 17)}, []Window{window(0, 10), window(17, 20)}, []Gap{gap(10, 15, "segment missing")}},
		{"a snapshot in the hole", []*Timeline{drawn("a", 0, segs{{0, 10}, {15, 20}}, 0, 12)}, []Window{window(0, 10), window(12, 12)},
			[]Gap{gap(10, 12, "segment missing"), gap(12, 15, "segment missing")}},
		{"an outage", []*Timeline{event(drawn("a", 0, segs{{0, 20}}, 0), Event{Kind: EventOutage, Offset: 10, From: 1010, Time: 1013, Cause: "timeout"})},
			[]Window{{pos(0), Position{10, 1010}}, {Position{10, 1013}, pos(20)}}, []Gap{{From: Position{10, 1010}, To: Position{10, 1013}, Cause: "outage: timeout"}}},
		{"an outage with its bytes", []*Timeline{event(drawn("a", 0, segs{{0, 20}}, 0), Event{Kind: EventOutage, Offset: 10, To: 14, From: 1010, Time: 1014})},
			[]Window{window(0, 10), window(14, 20)}, []Gap{gap(10, 14, "outage")}},
		{"two outages", []*Timeline{event(drawn("a", 0, segs{{0, 20}}, 0), Event{Kind: EventOutage, Offset: 5, To: 6, From: 1005, Time: 1006}, Event{Kind: EventOutage, Offset: 10, To: 14, From: 1010, Time: 1014})},
			[]Window{window(0, 5), window(6, 10), window(14, 20)}, []Gap{gap(5, 6, "outage"), gap(10, 14, "outage")}},
		{"an outage before the first snapshot", []*Timeline{event(drawn("a", 0, segs{{0, 20}}, 15), Event{Kind: EventOutage, Offset: 10, From: 1010, Time: 1013})},
			[]Window{window(15, 20)}, []Gap{{From: Position{10, 1010}, To: Position{10, 1013}, Cause: "outage"}}},
		{"a branch", []*Timeline{drawn("a", 0, segs{{0, 10}, {10, 30}}, 0, 25), branch(drawn("b", 20, segs{{20, 50}}), drawn("a", 0, nil))},
			[]Window{window(0, 50)}, nil},
		{"a branch that has no byte yet", []*Timeline{drawn("a", 0, segs{{0, 30}}, 0), branch(drawn("b", 20, nil), drawn("a", 0, nil))},
			[]Window{window(0, 20)}, nil},
		{"a branch at a snapshot", []*Timeline{drawn("a", 0, nil, 20), branch(drawn("b", 20, segs{{20, 50}}), drawn("a", 0, nil))},
			[]Window{window(20, 50)}, nil},
		{"a branch whose parent ends early", []*Timeline{drawn("a", 0, segs{{0, 15}}, 0), branch(drawn("b", 20, segs{{20, 50}}, 20), drawn("a", 0, nil))},
			[]Window{window(0, 15), window(20, 50)}, []Gap{gap(15, 20, "segment missing")}},
		{"a branch of a branch", []*Timeline{drawn("a", 0, segs{{0, 30}}, 0), branch(drawn("b", 20, segs{{20, 60}}, 55), drawn("a", 0, nil)), branch(drawn("c", 40, segs{{40, 80}}), drawn("b", 0, nil))},
			[]Window{window(0, 80)}, nil},
		{"what the parent had beyond it is no part of it", []*Timeline{drawn("a", 0, segs{{0, 100}}, 0, 60), branch(drawn("b", 20, segs{{30, 40}}), drawn("a", 0, nil))},
			[]Window{window(0, 20)}, []Gap{gap(20, 30, "segment missing")}},
	} {
		t.Run(c.name, func(t *testing.T) {
			cat := &Catalog{Source: "cache", Timelines: c.timelines}
			last := c.timelines[len(c.timelines)-1]
			windows, err := cat.Windows(last)
			require.NoError(t, err)
			require.Equal(t, c.windows, windows)
			gaps, err := cat.Gaps(last)
			require.NoError(t, err)
			require.Equal(t, c.gaps, gaps)
		})
	}
}

func TestBrokenChains(t *testing.T) {
	a, b := drawn("a", 5, nil), drawn("b", 10, nil)
	branch(b, a)
	for name, c := range map[string]struct {
		timelines []*Timeline
		says      string
	}{
		"missing":                       {[]*Timeline{branch(drawn("b", 10, segs{{10, 20}}), a)}, "its parent a is missing"},
		"circle":                        {[]*Timeline{branch(drawn("a", 10, nil), b), b}, "its parent b descends from it"},
		"itself":                        {[]*Timeline{branch(drawn("b", 10, nil), b)}, "its parent b descends from it"},
		"before the parent's beginning": {[]*Timeline{a, branch(drawn("b", 3, nil), a)}, "leaves its parent, which begins at 5, at 3"},
		"with a hole":                   {[]*Timeline{a, {TimelineInfo: TimelineInfo{Timeline: "b", Offset: 20, Parent: &Parent{"a", 10}}}}, "begins at 20"},
	} {
		cat := &Catalog{Source: "cache", Timelines: c.timelines}
		var damage *DamageError
		_, err := cat.Chain(c.timelines[len(c.timelines)-1])
		require.ErrorAs(t, err, &damage, name)
		require.ErrorContains(t, err, c.says, name)
		_, err = cat.Windows(c.timelines[len(c.timelines)-1])
		require.Error(t, err)
		_, err = cat.Gaps(c.timelines[len(c.timelines)-1])
		require.Error(t, err)
	}
}

// Whatever overlaps there are, Cover goes as far as there are bytes, never back, and takes the
// fewest segments.
func TestCover(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var list segs
		held := map[stream.Offset]bool{}
		for range rapid.IntRange(0, 12).Draw(t, "n") {
			from := stream.Offset(rapid.IntRange(0, 40).Draw(t, "from"))
			to := from + stream.Offset(rapid.IntRange(1, 15).Draw(t, "len"))
			list = append(list, [2]stream.Offset{from, to})
			for o := from; o < to; o++ {
				held[o] = true
			}
		}
		r := stream.Range{From: stream.Offset(rapid.IntRange(0, 40).Draw(t, "r.from"))}
		r.To = r.From + stream.Offset(rapid.IntRange(0, 30).Draw(t, "r.len"))
		used, reached := Cover(drawn("a", 0, list).Segments, r)

		want := r.From
		for want < r.To && held[want] {
			want++
		}
		require.Equal(t, want, min(reached, r.To))
		at := r.From
		for i, s := range used {
			require.True(t, s.From <= at && at < s.To, "segment %d, %s, at %d", i, s.Range, at)
			for _, other := range list {
				if other[0] <= at {
					require.LessOrEqual(t, other[1], s.To)
				}
			}
			at = s.To
		}
		require.Equal(t, reached, at)
	})
}

// Any moment in a window can be restored, and none outside: checked byte by byte.
func TestWindowsAreWhatIsHeld(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var list segs
		held := map[stream.Offset]bool{}
		for range rapid.IntRange(0, 8).Draw(t, "n") {
			from := stream.Offset(rapid.IntRange(0, 40).Draw(t, "from"))
			to := from + stream.Offset(rapid.IntRange(1, 15).Draw(t, "len"))
			list = append(list, [2]stream.Offset{from, to})
			for o := from; o < to; o++ {
				held[o] = true
			}
		}
		snapshots := rapid.SliceOfNDistinct(rapid.Map(rapid.IntRange(0, 60), func(n int) stream.Offset { return stream.Offset(n) }), 0, 4, rapid.ID).Draw(t, "snapshots")
		tl := drawn("a", 0, list, snapshots...)
		windows, err := (&Catalog{Source: "cache", Timelines: []*Timeline{tl}}).Windows(tl)
		require.NoError(t, err)
		for o := range stream.Offset(70) {
			reachable := false
			for _, s := range snapshots {
				at := s
				for at < o && held[at] {
					at++
				}
				reachable = reachable || at == o && s <= o
			}
			in := 0
			for _, w := range windows {
				if w.From.Offset <= o && o <= w.To.Offset {
					in++
				}
			}
			require.Equal(t, reachable, in == 1, "offset %d in %d of %v", o, in, windows)
		}
	})
}

func TestReplIDAndSuspicion(t *testing.T) {
	tl := drawn("a", 0, nil)
	tl.Events = []Event{{Kind: EventReplID, Offset: 10, ReplID: "second"}, {Kind: EventReplID, Offset: 20, ReplID: "third"}}
	for o, want := range map[stream.Offset]stream.ReplID{0: testID, 9: testID, 10: "second", 19: "second", 20: "third", 99: "third"} {
		require.Equal(t, want, tl.ReplIDAt(o), fmt.Sprint(o))
	}
	require.False(t, tl.Suspect())
	tl.Events = append(tl.Events, Event{Kind: EventSuspect, Time: 100})
	require.True(t, tl.Suspect())
	tl.Events = append(tl.Events, Event{Kind: EventRelease, Time: 200})
	require.False(t, tl.Suspect())
	tl.Events = append(tl.Events, Event{Kind: EventSuspect, Time: 300})
	require.True(t, tl.Suspect())
}
