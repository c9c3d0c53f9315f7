package plan

import (
	"context"
	"fmt"
	"io"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/stream"
)

// A plan is made of names, so what is made here holds nothing but names. Times are seconds, to be
// readable: 100 means a hundred seconds after the epoch.
const second = stream.Time(1000)

func id(c byte) stream.ReplID {
	b := make([]byte, 40)
	for i := range b {
		b[i] = c
	}
	return stream.ReplID(b)
}

func snap(offset stream.Offset, at stream.Time) archive.Snapshot {
	return archive.Snapshot{Offset: offset, Time: at * second, Name: fmt.Sprint("snapshots/", offset),
		Open: func(context.Context) (io.ReadCloser, error) { return nil, io.EOF }}
}

func seg(from, to stream.Offset, time0, time1 stream.Time) archive.Segment {
	return archive.Segment{Range: stream.Range{From: from, To: to}, Time0: time0 * second, Time1: time1 * second, Name: fmt.Sprintf("log/%d-%d", from, to)}
}

func timeline(name string, replID stream.ReplID, from stream.Offset, snapshots []archive.Snapshot, segments ...archive.Segment) *archive.Timeline {
	return &archive.Timeline{
		TimelineInfo: archive.TimelineInfo{Timeline: name, ReplID: replID, Offset: from},
		Snapshots:    snapshots, Segments: segments,
	}
}

func branch(t *archive.Timeline, parent string) *archive.Timeline {
	t.Parent = &archive.Parent{Timeline: parent, Offset: t.Offset}
	return t
}

func with(t *archive.Timeline, events ...archive.Event) *archive.Timeline {
	t.Events = events
	return t
}

func catalog(timelines ...*archive.Timeline) *archive.Catalog {
	return &archive.Catalog{Source: "cache", Timelines: timelines}
}

func at(seconds stream.Time) Point                  { return Point{Kind: ByTime, Time: seconds * second} }
func offset(o stream.Offset) Point                  { return Point{Kind: ByOffset, Offset: o} }
func only(s ...archive.Snapshot) []archive.Snapshot { return s }

// plain has two snapshots, three segments, and one that was compacted of two of them.
func plain() *archive.Timeline {
	return timeline("a", id('a'), 100, only(snap(100, 10), snap(300, 30)),
		seg(100, 300, 10, 30), seg(100, 200, 10, 19), seg(200, 300, 20, 30), seg(300, 400, 31, 40))
}

func TestChooseAndPlan(t *testing.T) {
	holed := with(timeline("h", id('a'), 100, only(snap(100, 10), snap(500, 200)),
		seg(100, 200, 10, 19), seg(300, 400, 30, 40), seg(400, 500, 41, 199), seg(500, 600, 200, 210)),
		archive.Event{Kind: archive.EventHole, Offset: 200, To: 300, Time: 30 * second, Cause: "the disk was full"})
	down := with(plain(), archive.Event{Kind: archive.EventOutage, Offset: 200, From: 19 * second, Time: 25 * second, Cause: "connection reset"})
	// b left a at 250, of which a holds 50 more bytes, received until 40.
	parent := timeline("a", id('a'), 100, only(snap(100, 10)), seg(100, 200, 10, 19), seg(200, 300, 20, 40))
	child := branch(timeline("b", id('b'), 250, only(snap(400, 70)), seg(250, 400, 60, 70), seg(400, 500, 71, 80)), "a")
	family := catalog(parent, child)
	other := timeline("b", id('b'), 150, only(snap(150, 100)), seg(150, 250, 100, 110))
	suspect := with(timeline("s", id('c'), 0, only(snap(0, 300)), seg(0, 150, 300, 310)), archive.Event{Kind: "suspect", Time: 300 * second})
	torn := &archive.DamageError{Name: "cache/a/events/x", What: "it is not the JSON that belongs there"}
	unread := with(plain(), archive.Event{Kind: archive.EventOutage, Offset: 300, Time: 35 * second, Damage: torn}, archive.Event{Kind: "verified", Offset: 300, Time: 36 * second, Damage: torn})
	renamed := with(plain(), archive.Event{Kind: archive.EventReplID, Offset: 150, Time: 15 * second, Damage: torn})
	unreadCatalog := catalog(unread)
	unreadCatalog.Problems = []error{torn}
	twice := timeline("a2", id('a'), 200, only(snap(200, 20)), seg(200, 320, 20, 33)) // a second daemon's

	rows := []struct {
		name  string
		cat   *archive.Catalog
		req   Request
		want  string // timeline at offset: snapshot, steps, and what is searched
		fails string
		hint  string
	}{
		{"latest", catalog(plain()), Request{}, "a@400: 300 [300,400)", "", ""},
		{"now", catalog(plain()), Request{Point: at(5000), Now: 5000 * second}, "a@400: 300 [300,400)", "", ""},
		{"60 s after the last byte", catalog(plain()), Request{Point: at(100)}, "a@400: 300 [300,400)", "", ""},
		{"behind a hole", catalog(timeline("a", id('a'), 0, only(snap(0, 0)), seg(0, 50, 1, 5), seg(70, 100, 7, 80))), Request{Point: at(75)}, "",
			"offsets 50 to 70 are missing", "the one before, offset 50 (1970-01-01T00:00:05.000Z)"},
		{"an offset behind a hole", catalog(timeline("a", id('a'), 0, only(snap(0, 0)), seg(0, 50, 1, 5), seg(70, 100, 7, 80))), Request{Point: offset(100)}, "",
			"offsets 50 to 70 are missing", "the one before, offset 50 (1970-01-01T00:00:05.000Z)"},
		{"an offset behind all, with a hole", catalog(timeline("a", id('a'), 0, only(snap(0, 0)), seg(0, 50, 1, 5), seg(70, 100, 7, 80))), Request{Point: offset(101)}, "",
			"it is after the last offset held", "the one before, offset 50 (1970-01-01T00:00:05.000Z)"},
		{"61 s after", catalog(plain()), Request{Point: at(101)}, "", "it is 1m1s after the last byte held", "the one before, offset 400 (1970-01-01T00:00:40.000Z)"},
		{"before all", catalog(plain()), Request{Point: at(9)}, "", "before all that is held", "the one after, offset 100"},
		{"the first moment", catalog(plain()), Request{Point: at(10)}, "a@300: 300 search [100,300)", "", ""},
		{"in a segment", catalog(plain()), Request{Point: at(35)}, "a@400: 300 [300,400) search [300,400)", "", ""},
		{"its last moment", catalog(plain()), Request{Point: at(40)}, "a@400: 300 [300,400)", "", ""},
		{"between two", catalog(plain()), Request{Point: Point{Kind: ByTime, Time: 30500}}, "a@300: 300", "", ""},

		{"an offset in a segment", catalog(plain()), Request{Point: offset(150)}, "a@150: 100 [100,150) search [100,300)", "", ""},
		{"at a snapshot", catalog(plain()), Request{Point: offset(300)}, "a@300: 300", "", ""},
		{"at the first snapshot", catalog(plain()), Request{Point: offset(100)}, "a@100: 100", "", ""},
		{"at the end", catalog(plain()), Request{Point: offset(400)}, "a@400: 300 [300,400)", "", ""},
		{"behind the end", catalog(plain()), Request{Point: offset(401)}, "", "after the last offset", "the one before, offset 400 (1970-01-01T00:00:40.000Z)"},
		{"before the beginning", catalog(plain()), Request{Point: offset(99)}, "", "before all that is held", "the one after, offset 100"},

		{"an offset in a hole", catalog(holed), Request{Point: offset(250)}, "", "offsets 200 to 300 are missing: the disk was full", "offset 200 (1970-01-01T00:00:19.000Z) and offset 500 (1970-01-01T00:03:20.000Z)"},
		{"held, but with no snapshot", catalog(holed), Request{Point: offset(350)}, "", "offsets 200 to 300 are missing", "offset 200 (1970-01-01T00:00:19.000Z) and offset 500"},
		{"behind the hole", catalog(holed), Request{Point: offset(600)}, "h@600: 500 [500,600)", "", ""},
		{"a time in a hole", catalog(holed), Request{Point: at(25)}, "", "offsets 200 to 300 are missing: the disk was full", "offset 200 (1970-01-01T00:00:19.000Z) and offset 500"},

		{"in an outage", catalog(down), Request{Point: at(22)}, "", "the link was down from 1970-01-01T00:00:19.000Z to 1970-01-01T00:00:25.000Z, and nothing is known of the moments between (connection reset)", "1970-01-01T00:00:19.000Z) and offset 200 (1970-01-01T00:00:25.000Z)"},
		{"its first moment", catalog(down), Request{Point: at(19)}, "a@300: 300 search [100,300)", "", ""},
		{"its last moment is known", catalog(down), Request{Point: at(25)}, "a@300: 300 search [100,300)", "", ""},
		{"offsets in it stay", catalog(down), Request{Point: offset(200)}, "a@200: 100 [100,200) search [100,300)", "", ""},
		{"perhaps in an outage", catalog(unread), Request{Point: at(33)}, "",
			"cache can't be restored to 1970-01-01T00:00:33.000Z for sure: cache/a/events/x is damaged", "times up to 1970-01-01T00:00:30.000Z and from 1970-01-01T00:00:35.000Z on, and all offsets"},
		{"before it", catalog(unread), Request{Point: at(30)}, "a@300: 300", "", ""},
		{"behind it", catalog(unread), Request{Point: at(35)}, "a@400: 300 [300,400) search [300,400)", "", ""},
		{"an offset in it", catalog(unread), Request{Point: offset(350)}, "a@350: 300 [300,350) search [300,400)", "", ""},
		{"an event that can't be read held no time", unreadCatalog, Request{Point: at(200)}, "", "it is 2m40s after the last byte held", "(1970-01-01T00:00:40.000Z)"},
		{"perhaps the same history", catalog(renamed, other), Request{Point: offset(200)}, "", "cache can't be restored to offset 200 for sure: cache/a/events/x", "choose one: --timeline a or --timeline b"},
		{"one of them by name", catalog(renamed, other), Request{Point: offset(200), Timeline: "a"}, "a@200: 100 [100,200) search [100,300)", "", ""},
		{"nobody else has it", catalog(renamed), Request{Point: offset(200)}, "a@200: 100 [100,200) search [100,300)", "", ""},
		{"now is no outage", catalog(down), Request{Point: at(22), Now: 22 * second}, "a@400: 300 [300,400)", "", ""},

		{"a branch's own time", family, Request{Point: at(65)}, "b@400: 400 search [250,400)", "", ""},
		{"an offset of a branch", family, Request{Point: offset(350)}, "b@350: 100 [100,200) [200,250) [250,350) search [250,400)", "", ""},
		{"common history", family, Request{Point: offset(150)}, "b@150: 100 [100,150) search [100,200)", "", ""},
		{"lost by the branch, or not", family, Request{Point: offset(280)}, "", "offset 280 of cache is in more than one history: a (replication id aaaa", "--timeline a or --timeline b"},
		{"lost by the branch", family, Request{Point: offset(280), Timeline: "a"}, "a@280: 100 [100,200) [200,280) search [200,300)", "", ""},
		{"the latest of a branch", family, Request{}, "b@500: 400 [400,500)", "", ""},
		{"the latest of its parent", family, Request{Timeline: "a"}, "a@300: 100 [100,200) [200,300)", "", ""},
		{"where it leaves", family, Request{Point: offset(250), Timeline: "b"}, "b@250: 100 [100,200) [200,250) search [200,250)", "", ""},
		{"before a command", family, Request{Point: Point{Kind: Before, Command: []string{"FLUSHALL"}}}, "b@500: 400 [400,500) search [100,200) [200,250) [250,400) [400,500)", "", ""},
		{"a time that the branch doesn't hold", family, Request{Point: at(65), NotIn: []string{"b"}}, "a@300: 100 [100,200) [200,300)", "", ""},

		{"between two timelines", catalog(plain(), other), Request{Point: at(70)}, "", "after the end of timeline a and before the beginning of b", "offset 400 (1970-01-01T00:00:40.000Z) of timeline a and offset 150 (1970-01-01T00:01:40.000Z) of timeline b"},
		{"two histories", catalog(plain(), other), Request{Point: offset(200)}, "", "in more than one history: a (replication id aaaa", ""},
		{"one of them", catalog(plain(), other), Request{Point: offset(120)}, "a@120: 100 [100,120) search [100,300)", "", ""},
		{"one history, two daemons", catalog(plain(), twice), Request{Point: offset(310)}, "a2@310: 200 [200,310) search [200,320)", "", ""},
		{"what only the other has", catalog(plain(), twice), Request{Point: at(39)}, "a@400: 300 [300,400) search [300,400)", "", ""},
		{"the latest of both", catalog(plain(), twice), Request{}, "a@400: 300 [300,400)", "", ""},

		{"as young as each other", catalog(plain(), timeline("b", id('b'), 0, only(snap(0, 1)), seg(0, 50, 1, 40))), Request{}, "b@50: 0 [0,50)", "", ""},
		{"a branch with nothing of its own", catalog(parent, branch(timeline("b", id('b'), 250, nil), "a")), Request{}, "a@300: 100 [100,200) [200,300)", "", ""},

		{"suspect is passed over", catalog(plain(), suspect), Request{}, "a@400: 300 [300,400)", "", ""},
		{"and taken by name", catalog(plain(), suspect), Request{Timeline: "s"}, "s@150: 0 [0,150)", "", ""},
		{"suspect has it alone", catalog(plain(), suspect), Request{Point: at(305)}, "", "after the last byte held", "s was passed over as suspect: --timeline s takes it"},
		{"nothing but suspect", catalog(suspect), Request{}, "", "nothing of it is archived", "--timeline s"},

		{"no such timeline", catalog(plain()), Request{Timeline: "x"}, "", `cache has no timeline "x"`, "there are: a"},
		{"nothing archived", catalog(), Request{}, "", "cache can't be restored to the latest point: nothing of it is archived that could be restored", ""},
		{"no snapshot yet", catalog(timeline("a", id('a'), 0, nil, seg(0, 10, 1, 2))), Request{}, "", "nothing of it is archived", ""},
		{"the end hangs in the air", catalog(timeline("a", id('a'), 0, only(snap(0, 1)), seg(0, 10, 1, 2), seg(20, 30, 3, 4))), Request{}, "",
			"the last one held is offset 30 (1970-01-01T00:00:04.000Z), but no snapshot leads there: offsets 10 to 20 are missing", "offset 10"},
		{"a snapshot and nothing else", catalog(timeline("a", id('a'), 7, only(snap(7, 5)))), Request{}, "a@7: 7", "", ""},
		{"a parent is missing, and with it all that leads there", catalog(branch(timeline("b", id('b'), 250, nil, seg(250, 400, 60, 70)), "a")), Request{}, "",
			"nothing of it is archived", "a file of the archive can't be read: cache/b/timeline.json is damaged: its parent a is missing; it may have led there"},
		{"a circle", catalog(branch(timeline("a", id('a'), 5, nil, seg(5, 9, 1, 2)), "b"), branch(timeline("b", id('b'), 5, nil, seg(5, 9, 1, 2)), "a")), Request{Timeline: "b"}, "",
			"nothing of it is archived", "cache/a/timeline.json is damaged: its parent b descends from it"},
		{"a parent is missing", catalog(child), Request{Point: offset(450)}, "b@450: 400 [400,450) search [400,500)", "", ""},
	}
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			aim, err := Choose(r.cat, r.req)
			if r.fails != "" {
				require.ErrorContains(t, err, r.fails)
				var hinted interface{ Hint() string }
				require.ErrorAs(t, err, &hinted)
				require.Contains(t, hinted.Hint(), r.hint)
				if r.cat == unreadCatalog {
					require.NotContains(t, hinted.Hint(), "can't be read")
				}
				return
			}
			require.NoError(t, err)
			p, err := aim.Plan(aim.At.Offset, aim.At.Time)
			require.NoError(t, err)
			require.Equal(t, r.want, tell(aim, p))
		})
	}
}

func tell(a *Aim, p *Plan) string {
	s := fmt.Sprintf("%s@%d: %d", p.Timeline.TimelineInfo.Timeline, p.To.Offset, p.From.Offset)
	for _, step := range p.Steps {
		s += " " + step.Range.String()
	}
	for i, step := range a.Search {
		if i == 0 {
			s += " search"
		}
		s += " " + step.Range.String()
	}
	return s
}

func TestNotesSayHowAPointWasUnderstood(t *testing.T) {
	aim, err := Choose(catalog(plain()), Request{Point: at(70)})
	require.NoError(t, err)
	require.Equal(t, []string{"1970-01-01T00:01:10.000Z stands for the last boundary held, offset 400 (1970-01-01T00:00:40.000Z)"}, aim.Notes)

	suspect := with(timeline("s", id('c'), 0, only(snap(0, 300)), seg(0, 150, 300, 310)), archive.Event{Kind: "suspect", Time: 300 * second})
	aim, err = Choose(catalog(plain(), suspect), Request{})
	require.NoError(t, err)
	require.Equal(t, []string{"timeline s is suspect and was passed over: --timeline s takes it"}, aim.Notes)

	anew := timeline("s", id('c'), 0, only(snap(0, 300)), seg(0, 150, 300, 310))
	aim, err = Choose(catalog(plain(), anew), Request{})
	require.NoError(t, err)
	require.Equal(t, "s", aim.Timeline.TimelineInfo.Timeline)
	require.Equal(t, []string{"it began anew, with what the master had then; what was there before, up to offset 400 (1970-01-01T00:00:40.000Z): --timeline a"}, aim.Notes)

	suspect.Events = append(suspect.Events, archive.Event{Kind: "release", Time: 400 * second})
	aim, err = Choose(catalog(plain(), suspect), Request{})
	require.NoError(t, err)
	require.Equal(t, "s", aim.Timeline.TimelineInfo.Timeline)
	require.Empty(t, aim.Notes)
}

// The newest timeline can't be restored, because its parent is not there: another one's latest point
// is not passed off as the latest there is.
func TestNotesSayWhatWasNotConsidered(t *testing.T) {
	newest := branch(timeline("b", id('b'), 250, nil, seg(250, 400, 60, 70)), "gone")
	aim, err := Choose(catalog(plain(), newest), Request{})
	require.NoError(t, err)
	require.Equal(t, "a", aim.Timeline.TimelineInfo.Timeline)
	require.Equal(t, []string{"a file of the archive can't be read: cache/b/timeline.json is damaged: its parent gone is missing; what it may have held was not considered"}, aim.Notes)
}

// A master that changed its id at a failover and went on: one timeline, two ids.
func TestAnOffsetBelongsToTheIDOfItsTime(t *testing.T) {
	a := with(plain(), archive.Event{Kind: archive.EventReplID, Offset: 300, ReplID: id('b')})
	other := timeline("o", id('b'), 300, only(snap(300, 50)), seg(300, 400, 50, 60))
	_, err := Choose(catalog(a, other), Request{Point: offset(350)})
	require.NoError(t, err, "both under the second id")

	other.ReplID = id('a')
	_, err = Choose(catalog(a, other), Request{Point: offset(350)})
	var ambiguous *AmbiguousError
	require.ErrorAs(t, err, &ambiguous)
	require.Equal(t, []Fit{{"a", id('b')}, {"o", id('a')}}, ambiguous.Fits)
}

func TestDetours(t *testing.T) {
	aim, err := Choose(catalog(plain()), Request{})
	require.NoError(t, err)
	steps := aim.chain.steps
	require.Len(t, steps, 2)
	require.Equal(t, Detour{Same: true}, aim.WithoutSegment(steps[0]), "those that it was joined from are still there")
	require.Equal(t, Detour{Before: &Place{"a", 300, 30 * second}}, aim.WithoutSegment(steps[1]))
	first, later := snap(100, 10), snap(300, 30)
	require.Equal(t, Detour{After: &Place{"a", 300, 30 * second}}, aim.WithoutSnapshot("a", first))
	require.Equal(t, Detour{Same: true}, aim.WithoutSnapshot("a", later), "the log leads there from the first")

	holed := timeline("a", id('a'), 100, only(snap(100, 10), snap(350, 35)), seg(100, 300, 10, 30), seg(100, 200, 10, 19), seg(300, 400, 31, 40))
	aim, err = Choose(catalog(holed), Request{Point: at(15)})
	require.NoError(t, err)
	require.Equal(t, Detour{Before: &Place{"a", 200, 19 * second}, After: &Place{"a", 350, 35 * second}}, aim.WithoutSegment(aim.Search[0]))
}

// Whatever a catalog holds: a plan is gapless from a snapshot to its point, list's windows and
// what can be planned are the same, and the nearest points that an error names can be restored, as can
// what is said to be left without one of the files.
func TestPlansAreWhole(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cat := catalog()
		parent := ""
		start := stream.Offset(0)
		for i := range rapid.IntRange(1, 3).Draw(t, "timelines") {
			tl := timeline(string(rune('a'+i)), id('a'), start, nil)
			if parent != "" {
				branch(tl, parent)
			}
			for o := start; o <= 100; o += 10 {
				if rapid.IntRange(0, 4).Draw(t, "snapshot") == 0 {
					tl.Snapshots = append(tl.Snapshots, snap(o, stream.Time(1+o)))
				}
				for size := stream.Offset(30); size > 0; size -= 10 {
					if rapid.IntRange(0, 2).Draw(t, "segment") == 0 {
						tl.Segments = append(tl.Segments, seg(o, o+size, stream.Time(1+o), stream.Time(o+size)))
					}
				}
			}
			cat.Timelines = append(cat.Timelines, tl)
			parent, start = tl.TimelineInfo.Timeline, start+10*stream.Offset(rapid.IntRange(0, 5).Draw(t, "branch"))
		}
		name := cat.Timelines[rapid.IntRange(0, len(cat.Timelines)-1).Draw(t, "of")].TimelineInfo.Timeline
		windows, err := cat.Windows(cat.Timeline(name))
		require.NoError(t, err)
		for o := stream.Offset(0); o <= 130; o += 10 {
			held := false
			for _, w := range windows {
				held = held || w.From.Offset <= o && o <= w.To.Offset
			}
			aim, err := Choose(cat, Request{Point: offset(o), Timeline: name})
			if err != nil {
				require.False(t, held, "offset %d: %v", o, err)
				unreachable := err.(*UnreachableError)
				for _, p := range []*Place{unreachable.Before, unreachable.After} {
					if p != nil {
						_, err := Choose(cat, Request{Point: offset(p.Offset), Timeline: name})
						require.NoError(t, err)
					}
				}
				continue
			}
			require.True(t, held, "offset %d", o)
			p, err := aim.Plan(o, 0)
			require.NoError(t, err)
			pos := p.Snapshot.Offset
			for _, s := range p.Steps {
				require.Equal(t, pos, s.Range.From)
				require.True(t, s.Segment.From <= s.Range.From && s.Range.To <= s.Segment.To)
				pos = s.Range.To
			}
			require.Equal(t, o, pos)
			if len(p.Steps) == 0 {
				continue
			}
			step := rapid.SampledFrom(p.Steps).Draw(t, "damaged")
			way, rest := aim.WithoutSegment(step), catalog()
			for _, tl := range cat.Timelines {
				less := *tl
				less.Segments = slices.DeleteFunc(slices.Clone(less.Segments), func(s archive.Segment) bool {
					return less.TimelineInfo.Timeline == step.Timeline && s.Range == step.Segment.Range
				})
				rest.Timelines = append(rest.Timelines, &less)
			}
			_, err = Choose(rest, Request{Point: offset(o), Timeline: name})
			require.Equal(t, err == nil, way.Same, "offset %d without %v", o, step.Segment.Range)
			for _, p := range []*Place{way.Before, way.After} {
				if p != nil {
					_, err := Choose(rest, Request{Point: offset(p.Offset), Timeline: name})
					require.NoError(t, err)
				}
			}
		}
	})
}
