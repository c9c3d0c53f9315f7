package replay_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/plan"
	"github.com/offloader/offloader/internal/replay"
	"github.com/offloader/offloader/internal/replay/replaytest"
	"github.com/offloader/offloader/internal/resp"
	"github.com/offloader/offloader/internal/stream"
)

// held makes a catalog of one timeline: a snapshot at the log's start, and segments that end at
// the given boundaries and at the log's end.
func held(l *replaytest.Log, at stream.Time, db, size int, ends ...stream.Offset) *archive.Catalog {
	t := &archive.Timeline{TimelineInfo: archive.TimelineInfo{Timeline: "a", ReplID: "aa", Offset: l.Start}}
	t.Snapshots = []archive.Snapshot{replaytest.Snapshot(archive.SnapshotInfo{Offset: l.Start, Time: at, DB: db}, []byte("RDB"))}
	from := l.Start
	for _, end := range append(ends, l.End()) {
		if end > from {
			t.Segments = append(t.Segments, l.Segment(stream.Range{From: from, To: end}, size))
			from = end
		}
	}
	return &archive.Catalog{Source: "cache", Timelines: []*archive.Timeline{t}}
}

func always(cat *archive.Catalog) func(context.Context) (*archive.Catalog, error) {
	return func(context.Context) (*archive.Catalog, error) { return cat, nil }
}

// got is what a replay gave.
type got struct {
	*replay.Replay
	rdb, log string
}

func run(ctx context.Context, load func(context.Context) (*archive.Catalog, error), req plan.Request) (g got, err error) {
	err = replay.Run(ctx, load, req, func(ctx context.Context, r *replay.Replay) error {
		g = got{Replay: r}
		rdb, err := r.RDB(ctx)
		if err != nil {
			return err
		}
		b, err := io.ReadAll(rdb)
		if err != nil {
			return errors.Join(err, rdb.Close())
		}
		g.rdb = string(b)
		if err := rdb.Close(); err != nil {
			return err
		}
		s := r.Stream(ctx)
		for at := r.From.Offset; ; {
			p, err := s.Next()
			if err == io.EOF {
				return s.Close()
			}
			if err != nil {
				return errors.Join(err, s.Close())
			}
			if p.At != at {
				return fmt.Errorf("a piece at %d where %d was due", p.At, at)
			}
			at = p.End()
			if !p.Blank {
				g.log += string(p.Data)
			}
		}
	})
	return g, err
}

func byOffset(o stream.Offset) plan.Request {
	return plan.Request{Point: plan.Point{Kind: plan.ByOffset, Offset: o}}
}

func byTime(t stream.Time) plan.Request {
	return plan.Request{Point: plan.Point{Kind: plan.ByTime, Time: t}, Now: 1 << 40}
}

func before(words ...string) plan.Request {
	return plan.Request{Point: plan.Point{Kind: plan.Before, Command: words}}
}

// Random streams, cut at random: each offset gives the naive prefix or names its two neighbours,
// each time gives the prefix of what had come by then.
func TestEveryPointIsAPrefix(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := randomLog(t)
		cat := held(l, 900, 3, rapid.SampledFrom([]int{1, 7, 1000}).Draw(t, "piece"), ends(t, l)...)
		last := l.Start
		boundaries := l.Boundaries()
		is := map[stream.Offset]bool{l.Start: true}
		for _, b := range boundaries {
			is[b.Offset] = true
		}
		for o := l.Start; o <= l.End(); o++ {
			g, err := run(t.Context(), always(cat), byOffset(o))
			if is[o] {
				require.NoError(t, err, "offset %d", o)
				require.Equal(t, string(l.Bytes(stream.Range{From: l.Start, To: o})), g.log)
				require.Equal(t, stream.Cursor{Offset: l.Start, DB: 3, Time: 900}, g.Start())
				last = o
				continue
			}
			var unreachable *plan.UnreachableError
			require.ErrorAs(t, err, &unreachable, "offset %d", o)
			next := o
			for !is[next] {
				next++
			}
			require.Equal(t, last, unreachable.Before.Offset)
			require.Equal(t, next, unreachable.After.Offset)
			require.Contains(t, err.Error(), fmt.Sprintf("offset %d is inside a ", o))
		}
		for at := stream.Time(995); at <= boundaries[len(boundaries)-1].Time+1; at++ {
			g, err := run(t.Context(), always(cat), byTime(at))
			require.NoError(t, err)
			want := l.At(at)
			require.Equal(t, want.Offset, g.To.Offset, "time %d", at)
			require.Equal(t, string(l.Bytes(stream.Range{From: l.Start, To: want.Offset})), g.log)
			if want.Offset > l.Start && at < boundaries[len(boundaries)-1].Time {
				require.LessOrEqual(t, g.To.Time, at)
			}
		}
	})
}

// randomLog has commands of many sizes, transactions, SELECTs, newlines, and times that stand still
// or go on.
func randomLog(t *rapid.T) *replaytest.Log {
	l := replaytest.NewLog(stream.Offset(rapid.IntRange(0, 5).Draw(t, "start")), 3)
	now := stream.Time(1000)
	for range rapid.IntRange(1, 8).Draw(t, "commands") {
		now += stream.Time(rapid.IntRange(0, 3).Draw(t, "later"))
		switch rapid.IntRange(0, 5).Draw(t, "kind") {
		case 0:
			l.Add(now, "MULTI")
			for range rapid.IntRange(0, 3).Draw(t, "in multi") {
				now += stream.Time(rapid.IntRange(0, 2).Draw(t, "later"))
				l.Add(now, "SELECT", fmt.Sprint(rapid.IntRange(0, 20).Draw(t, "db")))
			}
			l.Add(now+1, "exec")
			now++
		case 1:
			l.Blank(now, 1)
		default:
			l.Add(now, "set", "k", string(rapid.SliceOfN(rapid.Byte(), 0, 20).Draw(t, "value")))
		}
	}
	return l
}

// ends are where segments end, at some boundaries.
func ends(t *rapid.T, l *replaytest.Log) (all []stream.Offset) {
	for _, b := range l.Boundaries() {
		if rapid.Bool().Draw(t, "cut") {
			all = append(all, b.Offset)
		}
	}
	return all
}

// A snapshot inside a segment: what is read begins in the middle of it, and of a piece.
func TestASnapshotInsideASegment(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := randomLog(t)
		cat := held(l, 900, 3, rapid.SampledFrom([]int{1, 7, 1000}).Draw(t, "piece"))
		at := rapid.SampledFrom(l.Boundaries()).Draw(t, "snapshot")
		tl := cat.Timelines[0]
		tl.Snapshots = []archive.Snapshot{replaytest.Snapshot(archive.SnapshotInfo{Offset: at.Offset, Time: at.Time, DB: at.DB}, nil)}
		err := replay.Run(t.Context(), always(cat), plan.Request{}, func(ctx context.Context, r *replay.Replay) error {
			s := r.Stream(ctx)
			var all []byte
			framer := resp.NewFramer(r.Start())
			for {
				p, err := s.Next()
				if err == io.EOF {
					break
				}
				require.NoError(t, err)
				n, first, blank, err := framer.Feed(p.Data)
				require.NoError(t, err)
				require.Equal(t, p.Blank, blank)
				require.Equal(t, p.First, first)
				require.Len(t, p.Data, n)
				if !p.Blank {
					all = append(all, p.Data...)
				}
			}
			require.Equal(t, string(l.Bytes(stream.Range{From: at.Offset, To: l.End()})), string(all))
			return nil
		})
		require.NoError(t, err)
	})
}

func TestBefore(t *testing.T) {
	l := replaytest.NewLog(100, 0)
	l.Add(1000, "SELECT", "2")
	l.Add(1001, "SET", "a", "1")
	l.Add(1002, "DEL", "a")
	cut := l.End()
	l.Add(1003, "SET", "b", "2")
	beforeFlush := l.End()
	l.Add(1004, "flushall")
	l.Add(1005, "ping")
	l.Add(1006, "SET", "c", "3")
	beforeMulti := l.End()
	l.Add(1007, "MULTI")
	l.Add(1008, "SELECT", "5")
	inMulti := l.End()
	l.Add(1009, "DEL", "key with spaces", "c")
	l.Add(1010, "EXEC")
	second := l.End()
	l.Add(1011, "SET", "d", "4")
	l.Add(1012, "REPLCONF", "GETACK", "*")
	cat := held(l, 900, 0, 7, cut, second)

	rows := []struct {
		words []string
		at    stream.Offset
		match replay.Match
	}{
		{[]string{"FLUSHALL"}, beforeFlush, replay.Match{Time: 1004, Offset: beforeFlush, DB: 2, Command: "flushall", LeftOut: 3}},
		{[]string{"del"}, beforeMulti, replay.Match{Time: 1009, Offset: inMulti, DB: 5, Command: `DEL "key with spaces" c`, LeftOut: 1}},
		{[]string{"del", "a"}, 100 + 23 + 27, replay.Match{Time: 1002, Offset: 150, DB: 2, Command: "DEL a", LeftOut: 5}},
		{[]string{"SELECT", "2"}, 100, replay.Match{Time: 1000, Offset: 100, DB: 0, Command: "SELECT 2", LeftOut: 7}},
	}
	for _, r := range rows {
		g, err := run(t.Context(), always(cat), before(r.words...))
		require.NoError(t, err)
		require.Equal(t, r.at, g.To.Offset, "%q", r.words)
		require.Equal(t, r.match, *g.Match, "%q", r.words)
		require.Equal(t, string(l.Bytes(stream.Range{From: 100, To: r.at})), g.log)
	}
	for _, words := range [][]string{{"FLUSHDB"}, {"DEL", "b"}, {"DEL", "a", "b"}, {"DEL", "A"}} {
		_, err := run(t.Context(), always(cat), before(words...))
		var unreachable *plan.UnreachableError
		require.ErrorAs(t, err, &unreachable, "%q", words)
		require.ErrorContains(t, err, "there is none between offset 100 (1970-01-01T00:00:01.000Z) and offset "+l.End().String())
	}
}

// The newest timeline has no such command: the hint names one that has, the last-born first, also
// where that is the tail of a parent, which the newest has left out.
func TestBeforeACommandInAnotherTimeline(t *testing.T) {
	a := replaytest.NewLog(0, 0)
	a.Add(1000, "SET", "a", "1")
	left := a.End()
	a.Add(1001, "FLUSHALL")
	a.Add(1002, "FLUSHDB")
	b := replaytest.NewLog(left, 0)
	b.Add(5000, "SET", "b", "3")
	c := replaytest.NewLog(0, 0)
	c.Add(9000, "FLUSHDB")
	c.Add(9001, "SET", "c", "1")
	d := replaytest.NewLog(0, 0)
	d.Add(9002, "SET", "d", "1")
	cat := held(a, 900, 0, 7)
	cat.Timelines = append(cat.Timelines, &archive.Timeline{
		TimelineInfo: archive.TimelineInfo{Timeline: "b", ReplID: "bb", Offset: left, Parent: &archive.Parent{Timeline: "a", Offset: left}},
		Segments:     []archive.Segment{b.Segment(stream.Range{From: left, To: b.End()}, 7)},
	})
	for name, l := range map[string]*replaytest.Log{"c": c, "d": d} {
		tl := held(l, 8000, 0, 7).Timelines[0]
		tl.TimelineInfo.Timeline = name
		cat.Timelines = append(cat.Timelines, tl)
	}
	slices.SortFunc(cat.Timelines, func(x, y *archive.Timeline) int {
		return strings.Compare(x.TimelineInfo.Timeline, y.TimelineInfo.Timeline)
	})
	for command, hint := range map[string]string{
		"FLUSHALL": "timeline a has one at offset 27 (1970-01-01T00:00:01.001Z): --timeline a",
		"FLUSHDB":  "timeline c has one at offset 0 (1970-01-01T00:00:09.000Z): --timeline c",
		"NOPE":     "",
	} {
		_, err := run(t.Context(), always(cat), before(command))
		require.ErrorContains(t, err, "there is none between")
		require.ErrorContains(t, err, "of timeline d")
		var hinted interface{ Hint() string }
		require.ErrorAs(t, err, &hinted)
		require.Equal(t, hint, hinted.Hint())
	}
}

// A long command is shown cut, and memory doesn't follow its size.
func TestBeforeALongCommand(t *testing.T) {
	l := replaytest.NewLog(0, 0)
	args := []string{"DEL"}
	for i := range 1000 {
		args = append(args, fmt.Sprintf("key:%d", i))
	}
	l.Add(1000, args...)
	l.Add(1000, "SET", "k", string(make([]byte, 1<<20)))
	cat := held(l, 900, 0, 7)
	g, err := run(t.Context(), always(cat), before("DEL", "key:0"))
	require.NoError(t, err)
	require.Less(t, len(g.Match.Command), 300)
	require.Contains(t, g.Match.Command, "DEL key:0 key:1")
	require.Contains(t, g.Match.Command, "… (1000 arguments)")
	g, err = run(t.Context(), always(cat), before("SET"))
	require.NoError(t, err)
	require.Contains(t, g.Match.Command, `SET k "\x00\x00`)
	require.Contains(t, g.Match.Command, "… (2 arguments)")
	require.Less(t, len(g.Match.Command), 1000)
}

// A hole, or a file that is gone, is believed after a second look, not before. A segment is looked
// for a few times: under load one that takes another's place is soon replaced itself.
func TestASecondLook(t *testing.T) {
	l := replaytest.NewLog(0, 0)
	l.Add(1000, "SET", "a", "1")
	half := l.End()
	l.Add(1001, "SET", "b", "2")
	whole := held(l, 900, 0, 7, half)
	holed := held(l, 900, 0, 7, half)
	holed.Timelines[0].Segments = holed.Timelines[0].Segments[1:]
	gone := held(l, 900, 0, 7, half)
	gone.Timelines[0].Segments[1].Open = func(context.Context) (archive.PieceReader, error) { return nil, fs.ErrNotExist }
	norrdb := held(l, 900, 0, 7, half)
	norrdb.Timelines[0].Snapshots[0].Open = func(context.Context) (io.ReadCloser, error) { return nil, fs.ErrNotExist }
	boundary := byOffset(l.End() - 1) // has to be looked for in a segment

	for name, first := range map[string]*archive.Catalog{"hole": holed, "segment gone": gone, "snapshot gone": norrdb} {
		looks := 0
		g, err := run(t.Context(), func(context.Context) (*archive.Catalog, error) {
			if looks++; looks == 1 {
				return first, nil
			}
			return whole, nil
		}, byOffset(l.End()))
		require.NoError(t, err, name)
		require.Equal(t, string(l.Data), g.log, name)
		require.Equal(t, 2, looks, name)

		looks = 0
		_, err = run(t.Context(), func(context.Context) (*archive.Catalog, error) {
			looks++
			return first, nil
		}, byOffset(l.End()))
		require.Error(t, err, name)
		require.Equal(t, map[string]int{"hole": 2, "segment gone": 20, "snapshot gone": 2}[name], looks, name)
	}
	looks := 0
	_, err := run(t.Context(), func(context.Context) (*archive.Catalog, error) {
		looks++
		return whole, nil
	}, boundary)
	require.ErrorContains(t, err, "is inside a command")
	require.Equal(t, 1, looks, "what was read is settled")
}

// While it is read, all behind the first segment is joined again and again: the stream goes on
// where it was, from other files, to the same bytes, and nothing begins anew.
func TestWhatVanishesMeanwhileIsReadElsewhere(t *testing.T) {
	l := replaytest.NewLog(0, 0)
	for i := range stream.Time(40) {
		l.Add(1000+i, "SET", fmt.Sprint("k", i), "v")
	}
	ends := l.Boundaries()
	looks, begun := 0, 0
	load := func(context.Context) (*archive.Catalog, error) {
		cat := held(l, 900, 0, 7, ends[looks].Offset, ends[2*looks+1].Offset) // other segments each time
		segments := cat.Timelines[0].Segments
		for i := range segments[1:] {
			first := true
			open := segments[i+1].Open
			segments[i+1].Open = func(ctx context.Context) (archive.PieceReader, error) {
				if i > 0 || !first || looks < 9 && looks%2 == 1 {
					return nil, fs.ErrNotExist
				}
				first = false
				return open(ctx)
			}
		}
		if looks++; looks == 15 {
			return held(l, 900, 0, 7), nil
		}
		return cat, nil
	}
	err := replay.Run(t.Context(), load, plan.Request{Point: plan.Point{Kind: plan.Latest}}, func(ctx context.Context, r *replay.Replay) error {
		begun++
		var got []byte
		s := r.Stream(ctx)
		for {
			p, err := s.Next()
			if err == io.EOF {
				require.Equal(t, string(l.Data), string(got))
				return s.Close()
			}
			if err != nil {
				return errors.Join(err, s.Close())
			}
			require.Equal(t, stream.Offset(len(got)), p.At)
			got = append(got, p.Data...)
		}
	})
	require.NoError(t, err)
	require.Equal(t, 1, begun)
	require.Greater(t, looks, 3)
}

func TestDamageNamesTheFileAndTheWayRound(t *testing.T) {
	l := replaytest.NewLog(0, 0)
	l.Add(1000, "SET", "a", "1")
	half := l.End()
	l.Add(1001, "SET", "b", "2")
	end := l.End()
	l.Add(1002, "SET", "c", "3")
	broken := func() *archive.Catalog {
		cat := held(l, 900, 0, 7, half, end)
		tl := cat.Timelines[0]
		tl.Snapshots = append(tl.Snapshots, replaytest.Snapshot(archive.SnapshotInfo{Offset: end, Time: 1001}, []byte("RDB")))
		return cat
	}
	bad := &archive.DamageError{Name: "log/x", What: "its CRC64 is wrong"}
	hole := func(s *archive.Segment, cut int) {
		open := s.Open
		s.Open = func(ctx context.Context) (archive.PieceReader, error) {
			r, err := open(ctx)
			if err == nil {
				p := r.(*replaytest.Pieces)
				p.Err, p.Pieces = bad, p.Pieces[:len(p.Pieces)-cut]
			}
			return r, err
		}
	}
	var damage *archive.DamageError
	var hinted interface{ Hint() string }
	for _, cut := range []int{0, 1} { // it shows at its end, or in the middle
		for _, req := range []plan.Request{byOffset(half + 1), byOffset(end - 1), byTime(1001), before("SET", "b"), before("NONE")} {
			cat := broken()
			hole(&cat.Timelines[0].Segments[1], cut)
			if req.Point.Kind == plan.ByTime {
				cat.Timelines[0].Snapshots = cat.Timelines[0].Snapshots[:1] // else it is not needed
			}
			_, err := run(t.Context(), always(cat), req)
			require.ErrorAs(t, err, &damage, "%v", req.Point)
			require.ErrorContains(t, err, "log/x is damaged: its CRC64 is wrong")
			require.ErrorAs(t, err, &hinted)
			require.Contains(t, hinted.Hint(), "offset 27 (1970-01-01T00:00:01.000Z) and what is before it can be restored")
			if req.Point.Kind != plan.ByTime {
				require.Contains(t, hinted.Hint(), "again from offset 54")
			}
		}
	}

	// Damage behind the point, in the same file: what was read of it could be wrong as well.
	cat := broken()
	hole(&cat.Timelines[0].Segments[2], 0)
	_, err := run(t.Context(), always(cat), plan.Request{})
	require.ErrorAs(t, err, &damage)

	// A segment that holds less than its name says, though its reader found nothing wrong.
	cat = broken()
	short := l.Segment(stream.Range{From: 0, To: half}, 7)
	cat.Timelines[0].Segments[1].Open = short.Open
	_, err = run(t.Context(), always(cat), byOffset(end-1))
	require.ErrorAs(t, err, &damage)

	cat = broken()
	cat.Timelines[0].Snapshots[0].Open = func(context.Context) (io.ReadCloser, error) { return nil, bad }
	_, err = run(t.Context(), always(cat), byOffset(half))
	require.ErrorAs(t, err, &damage)
	require.ErrorAs(t, err, &hinted)
	require.Equal(t, "without that file, offset 54 (1970-01-01T00:00:01.001Z) and what is after it can be restored", hinted.Hint())
}

// What a damaged file was joined from, or what leads to a damaged snapshot, is still there: the
// hint says so, and it is true.
func TestDamageThatOtherFilesMakeUpFor(t *testing.T) {
	l := replaytest.NewLog(0, 0)
	l.Add(1000, "SET", "a", "1")
	half := l.End()
	l.Add(1001, "SET", "b", "2")
	bad := &archive.DamageError{Name: "x", What: "its CRC64 is wrong"}
	twice := func() *archive.Timeline {
		tl := held(l, 900, 0, 7, half).Timelines[0]
		tl.Segments = append([]archive.Segment{l.Segment(stream.Range{From: 0, To: l.End()}, 7)}, tl.Segments...)
		return tl
	}
	joined := twice()
	joined.Segments[0].Open = func(context.Context) (archive.PieceReader, error) { return nil, bad }
	spooled := twice()
	spooled.Segments[0].Name, spooled.Segments[0].Open = "", joined.Segments[0].Open
	snapshot := twice()
	snapshot.Snapshots = append(snapshot.Snapshots, replaytest.Snapshot(archive.SnapshotInfo{Offset: half, Time: 1000}, nil))
	snapshot.Snapshots[1].Open = func(context.Context) (io.ReadCloser, error) { return nil, bad }

	// Three stores, of which the first two are damaged, in files that differ.
	copies := held(l, 900, 0, 7, half)
	first := copies.Timelines[0]
	first.Segments[0].Open = joined.Segments[0].Open
	second, third := *held(l, 900, 0, 7, half).Timelines[0], *held(l, 900, 0, 7, half).Timelines[0]
	second.Segments[1].Open = joined.Segments[0].Open
	second.Segments[0].Open = joined.Segments[0].Open
	second.Snapshots[0].Open = snapshot.Snapshots[1].Open
	first.Snapshots[0].Info = func(context.Context) (archive.SnapshotInfo, error) { return archive.SnapshotInfo{}, bad }
	copies.Add(&second)
	copies.Add(&third)

	alone := func(tl *archive.Timeline) *archive.Catalog {
		return &archive.Catalog{Source: "cache", Timelines: []*archive.Timeline{tl}}
	}
	for name, c := range map[string]struct {
		cat     *archive.Catalog
		damaged int
	}{
		"a joined segment": {alone(joined), 1},
		"a spool":          {alone(spooled), 1},
		"a snapshot":       {alone(snapshot), 1},
		"stores":           {copies, 4},
	} {
		g, err := run(t.Context(), always(c.cat), plan.Request{})
		require.NoError(t, err, name)
		require.Equal(t, string(l.Data), g.log, name)
		require.Equal(t, "RDB", g.rdb, name)
		require.Len(t, g.Notes, c.damaged, name)
		require.Contains(t, g.Notes[0], "x is damaged: its CRC64 is wrong; the same was read from elsewhere")
	}

	// A store that lists a file and doesn't give it.
	refused := errors.New("access is denied")
	denied, whole := held(l, 900, 0, 7, half), held(l, 900, 0, 7, half)
	denied.Timelines[0].Segments[1].Open = func(context.Context) (archive.PieceReader, error) { return nil, refused }
	denied.Timelines[0].Snapshots[0].Open = func(context.Context) (io.ReadCloser, error) { return nil, refused }
	denied.Add(whole.Timelines[0])
	g, err := run(t.Context(), always(denied), plan.Request{})
	require.NoError(t, err)
	require.Equal(t, string(l.Data), g.log)
	require.Equal(t, "RDB", g.rdb)
	require.Len(t, g.Notes, 2)
	both, other := held(l, 900, 0, 7, half), held(l, 900, 0, 7, half)
	both.Timelines[0].Segments[1].Open = denied.Timelines[0].Segments[1].Open
	other.Timelines[0].Segments[1].Open = denied.Timelines[0].Segments[1].Open
	both.Add(other.Timelines[0])
	_, err = run(t.Context(), always(both), plan.Request{})
	require.ErrorIs(t, err, refused)

	// Where all copies are damaged, it is said as of one.
	worst := held(l, 900, 0, 7, half)
	worst.Timelines[0].Segments[0].Open = joined.Segments[0].Open
	third.Segments[0].Open = joined.Segments[0].Open
	worst.Add(&third)
	_, err = run(t.Context(), always(worst), plan.Request{})
	var hinted interface{ Hint() string }
	require.ErrorAs(t, err, &hinted)
	require.Contains(t, hinted.Hint(), "without that file, offset 0")
}

// b left a behind a1, when a had already written a2, which was lost. While b was not yet there,
// a2 was the truth.
func TestATimeBeforeTheBranchBegan(t *testing.T) {
	a := replaytest.NewLog(0, 0)
	a.Add(1000, "SET", "a", "1")
	left := a.End()
	a.Add(2000, "SET", "lost", "2")
	b := replaytest.NewLog(left, 0)
	b.Add(5000, "SET", "b", "3")
	cat := held(a, 900, 0, 7)
	cat.Timelines = append(cat.Timelines, &archive.Timeline{
		TimelineInfo: archive.TimelineInfo{Timeline: "b", ReplID: "bb", Offset: left, Parent: &archive.Parent{Timeline: "a", Offset: left}},
		Segments:     []archive.Segment{b.Segment(stream.Range{From: left, To: b.End()}, 7)},
	})
	for _, r := range []struct {
		at       stream.Time
		timeline string
		want     string
		log      []byte
	}{
		{1000, "", "b", a.Data[:left]},
		{1999, "", "b", a.Data[:left]},
		{2000, "", "a", a.Data},
		{2000, "b", "b", a.Data[:left]},
		{5000, "", "b", append(a.Data[:left:left], b.Data...)},
	} {
		req := byTime(r.at)
		req.Timeline = r.timeline
		g, err := run(t.Context(), always(cat), req)
		require.NoError(t, err)
		require.Equal(t, r.want, g.Timeline.TimelineInfo.Timeline, "at %d", r.at)
		require.Equal(t, string(r.log), g.log, "at %d", r.at)
	}
	g, err := run(t.Context(), always(cat), byTime(2000))
	require.NoError(t, err)
	require.Contains(t, g.Notes[0], "timeline b went on without what was written here at that time")
}

func TestAnEndOfTheContextEndsAReplay(t *testing.T) {
	l := replaytest.NewLog(0, 0)
	l.Add(1000, "SET", "a", "1")
	cat := held(l, 900, 0, 7)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, req := range []plan.Request{{}, before("SET"), byOffset(5)} {
		_, err := run(ctx, always(cat), req)
		require.ErrorIs(t, err, context.Canceled)
	}
}
