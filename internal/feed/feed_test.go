package feed

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/sync/errgroup"
	"pgregory.net/rapid"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/relay"
	"github.com/offloader/offloader/internal/replay/replaytest"
	"github.com/offloader/offloader/internal/stream"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func replID(c string) stream.ReplID { return stream.ReplID(strings.Repeat(c, 40)) }

const (
	parentName = "20260101T000000.000Z-aaaaaaaa"
	branchName = "20260102T000000.000Z-cccccccc"
)

// world is an archive, and a spool that goes on: its Live.
type world struct {
	cat     *archive.Catalog
	listed  int
	spooled *replaytest.Log // of the newest timeline, from its beginning

	mu   sync.Mutex
	head Head
	news chan struct{}
}

func (w *world) load(context.Context) (*archive.Catalog, error) {
	w.listed++
	c := &archive.Catalog{Source: w.cat.Source} // Add and the like may change it
	for _, t := range w.cat.Timelines {
		c.Add(t)
	}
	return c, nil
}

func (w *world) Head() (Head, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.head, w.head.Timeline != ""
}

func (w *world) News() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.news == nil {
		w.news = make(chan struct{})
	}
	return w.news
}

// set changes the head.
func (w *world) set(h Head) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.head = h
	if w.news != nil {
		close(w.news)
		w.news = nil
	}
}

func (w *world) Tail(timeline string, behind stream.Offset) (Tail, error) {
	if timeline != w.head.Timeline || behind < w.head.Spooled {
		return nil, fmt.Errorf("let go: %w", fs.ErrNotExist)
	}
	return &memoryTail{w, behind}, nil
}

type memoryTail struct {
	w  *world
	at stream.Offset
}

func (m *memoryTail) Next(to stream.Offset) ([]byte, error) {
	to = min(to, m.at+7)
	b := m.w.spooled.Data[m.at-m.w.spooled.Start : to-m.w.spooled.Start]
	m.at = to
	return b, nil
}

func (m *memoryTail) Close() error { return nil }

func (w *world) feed() *Feed { return New(Options{Source: "cache", Live: w, Load: w.load}) }

// take reads a stream up to an offset, and closes it.
func take(t require.TestingT, s relay.Stream, from, to stream.Offset) string {
	var got []byte
	for from+stream.Offset(len(got)) < to {
		b, err := s.Next(context.Background())
		require.NoError(t, err)
		require.NotEmpty(t, b)
		got = append(got, b...)
	}
	require.NoError(t, s.Close())
	return string(got)
}

// write adds n commands.
func write(t *rapid.T, l *replaytest.Log, n int) {
	for i := range n {
		l.Add(stream.Time(1000+i), "SET", rapid.StringMatching(`[a-z]{1,40}`).Draw(t, "key"), "v")
		if rapid.IntRange(0, 9).Draw(t, "blank") == 0 {
			l.Blank(stream.Time(1000+i), 2)
		}
	}
}

// cut makes segments of a range, which may overlap.
func cut(t *rapid.T, l *replaytest.Log, r stream.Range) (all []archive.Segment) {
	ends := []stream.Offset{l.Start}
	for _, b := range l.Boundaries() {
		ends = append(ends, b.Offset)
	}
	at := r.From
	for at < r.To {
		to := rapid.SampledFrom(ends).Filter(func(o stream.Offset) bool { return o > at && o <= r.To }).Draw(t, "end")
		from := rapid.SampledFrom(ends).Filter(func(o stream.Offset) bool { return o <= at && o >= r.From }).Draw(t, "beginning")
		all = append(all, l.Segment(stream.Range{From: from, To: to}, 1+rapid.IntRange(0, 50).Draw(t, "piece")))
		at = to
	}
	return all
}

// Whatever id and offset a replica comes with: it gets exactly the bytes behind, or is told that its history
// is another one.
func TestAnyReplicaGetsItsBytes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		parent := replaytest.NewLog(1000, 0)
		write(t, parent, rapid.IntRange(3, 15).Draw(t, "parent"))
		bounds := parent.Boundaries()
		second := rapid.IntRange(0, len(bounds)-2).Draw(t, "second id")
		left := rapid.IntRange(second+1, len(bounds)-1).Draw(t, "branch")
		b, branchAt := bounds[second].Offset, bounds[left].Offset
		branch := replaytest.NewLog(branchAt, 0)
		write(t, branch, rapid.IntRange(3, 15).Draw(t, "branch's"))
		bounds = branch.Boundaries()
		fourth := bounds[rapid.IntRange(0, len(bounds)-1).Draw(t, "fourth id")].Offset
		stored := bounds[rapid.IntRange(0, len(bounds)-1).Draw(t, "stored")].Offset
		ends := []stream.Offset{branchAt}
		for _, b := range bounds {
			ends = append(ends, b.Offset)
		}
		spooled := rapid.SampledFrom(ends).Filter(func(o stream.Offset) bool { return o <= stored }).Draw(t, "spooled")
		snapshot := rapid.SampledFrom(ends).Draw(t, "snapshot")
		whole := string(parent.Data[:branchAt-1000]) + string(branch.Data)
		end := branch.End()

		w := &world{spooled: branch, head: Head{Timeline: branchName, ReplID: replID("d"), Spooled: spooled, Durable: end}}
		w.cat = &archive.Catalog{Source: "cache"}
		w.cat.Add(&archive.Timeline{
			TimelineInfo: archive.TimelineInfo{Timeline: parentName, ReplID: replID("a"), Offset: 1000},
			Events:       []archive.Event{{Kind: archive.EventReplID, Offset: b, Time: 1, ReplID: replID("b")}},
			Segments:     cut(t, parent, stream.Range{From: 1000, To: parent.End()}),
			Snapshots:    []archive.Snapshot{replaytest.Snapshot(archive.SnapshotInfo{Offset: 1000, RDBVersion: 11}, []byte("RDB"))},
		})
		w.cat.Add(&archive.Timeline{
			TimelineInfo: archive.TimelineInfo{Timeline: branchName, ReplID: replID("c"), Offset: branchAt, Parent: &archive.Parent{Timeline: parentName, Offset: branchAt}},
			Events:       []archive.Event{{Kind: archive.EventReplID, Offset: fourth, Time: 1, ReplID: replID("d")}},
			Segments:     cut(t, branch, stream.Range{From: branchAt, To: stored}),
			Snapshots:    []archive.Snapshot{replaytest.Snapshot(archive.SnapshotInfo{Offset: snapshot, RDBVersion: 80}, []byte("RDB2"))},
		})
		f := w.feed()
		shared := map[string]stream.Offset{"a": b, "b": branchAt, "c": fourth, "d": end}
		for range 5 {
			id := rapid.SampledFrom([]string{"a", "b", "c", "d", "e"}).Draw(t, "id")
			at := stream.Offset(rapid.IntRange(995, int(end)+5).Draw(t, "offset"))
			s, err := f.Continue(t.Context(), replID(id), at)
			var later *relay.LaterError
			switch to, known := shared[id]; {
			case id == "d" && at > end:
				require.ErrorAs(t, err, &later)
			case !known, at > to, at < 1000:
				require.ErrorIs(t, err, relay.ErrFork, "%s %d", id, at)
			default:
				require.NoError(t, err, "%s %d", id, at)
				require.Equal(t, replID("d"), s.ReplID())
				require.Equal(t, whole[at-1000:], take(t, s, at, end), "%s %d", id, at)
			}
		}
		c, err := f.Copy(t.Context())
		require.NoError(t, err)
		require.Equal(t, snapshot, c.Offset)
		require.Equal(t, 80, c.RDBVersion)
		require.EqualValues(t, 4, c.Bytes)
		require.Equal(t, whole[snapshot-1000:], take(t, c.Stream, snapshot, end))
		rdb, err := io.ReadAll(c.RDB)
		require.NoError(t, err)
		require.Equal(t, "RDB2", string(rdb))
		require.LessOrEqual(t, w.listed, 2, "what is known is kept")

		// The same at a fixed point: nothing behind it, and who has more goes back.
		point := rapid.SampledFrom(append(ends, b, 1000)).Filter(func(o stream.Offset) bool { return o <= stored }).Draw(t, "point")
		fixed := Fixed(Options{Source: "cache", Load: w.load}, branchName, point)
		c, err = fixed.Copy(t.Context())
		require.NoError(t, err)
		require.Equal(t, whole[c.Offset-1000:point-1000], take(t, c.Stream, c.Offset, point))
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err = c.Stream.Next(ctx)
		require.ErrorIs(t, err, context.Canceled)
		_, err = fixed.Continue(t.Context(), replID("d"), point+1)
		require.ErrorIs(t, err, relay.ErrFork)
	})
}

// simple is a world of one timeline, with these commands, all of them in one segment and in the spool.
func simple(commands int) (*world, *archive.Timeline) {
	log := replaytest.NewLog(1000, 0)
	for i := range commands {
		log.Add(stream.Time(i+1), "SET", "k", fmt.Sprint(i))
	}
	t := &archive.Timeline{
		TimelineInfo: archive.TimelineInfo{Timeline: parentName, ReplID: replID("a"), Offset: 1000},
		Segments:     []archive.Segment{log.Segment(stream.Range{From: 1000, To: log.End()}, 100)},
		Snapshots:    []archive.Snapshot{replaytest.Snapshot(archive.SnapshotInfo{Offset: 1000, RDBVersion: 11}, []byte("RDB"))},
	}
	w := &world{spooled: log, cat: &archive.Catalog{Source: "cache", Timelines: []*archive.Timeline{t}},
		head: Head{Timeline: parentName, ReplID: replID("a"), Spooled: log.End(), Durable: log.End()}}
	return w, t
}

// TestTheNewestSnapshot: a snapshot that is taken is what the next one gets, however young what is known of the archive is;
// and what a copy would take is known whatever the spool lets go of.
func TestTheNewestSnapshot(t *testing.T) {
	w, timeline := simple(20)
	f := w.feed()
	size := func() (rdb, behind int64) {
		rdb, behind, err := f.Size(t.Context())
		require.NoError(t, err)
		return rdb, behind
	}
	gets := func(at stream.Offset) {
		c, err := f.Copy(t.Context())
		require.NoError(t, err)
		require.Equal(t, at, c.Offset)
		require.NoError(t, errors.Join(c.RDB.Close(), c.Stream.Close()))
	}
	end := w.spooled.End()
	_, behind := size()
	require.EqualValues(t, end-1000, behind)
	gets(1000)
	listed := w.listed

	w.spooled.Add(30, "SET", "and", "more")
	w.set(Head{Timeline: parentName, ReplID: replID("a"), Spooled: w.spooled.End(), Durable: w.spooled.End()})
	_, behind = size()
	require.EqualValues(t, w.spooled.End()-1000, behind)
	require.Equal(t, listed, w.listed, "nobody is asked for that")

	timeline.Segments = append(timeline.Segments, w.spooled.Segment(stream.Range{From: end, To: w.spooled.End()}, 100))
	timeline.Snapshots = append(timeline.Snapshots, replaytest.Snapshot(archive.SnapshotInfo{Offset: end, RDBVersion: 11, Bytes: 3}, []byte("NEW")))
	w.set(Head{Timeline: parentName, ReplID: replID("a"), Spooled: w.spooled.End(), Durable: w.spooled.End(), Snapshot: end})
	gets(end)
	rdb, behind := size()
	require.EqualValues(t, 3, rdb)
	require.EqualValues(t, w.spooled.End()-end, behind)
	require.Equal(t, listed+1, w.listed)
}

// Bytes that came under another id never reach a replica that would count them to the old one.
func TestNoByteOfAnotherID(t *testing.T) {
	w, timeline := simple(3)
	f := w.feed()
	end := w.spooled.End()
	s, err := f.Continue(t.Context(), replID("a"), 1000)
	require.NoError(t, err)
	require.Equal(t, string(w.spooled.Data), take(t, s, 1000, end))

	got := make(chan error, 1)
	s, err = f.Continue(t.Context(), replID("a"), end)
	require.NoError(t, err)
	go func() { _, err := s.Next(context.Background()); got <- err }()
	w.spooled.Add(9, "SET", "under", "b")
	timeline.Events = append(timeline.Events, archive.Event{Kind: archive.EventReplID, Offset: end, Time: 9, ReplID: replID("b")})
	w.set(Head{Timeline: parentName, ReplID: replID("b"), Spooled: end, Durable: w.spooled.End()})
	require.ErrorIs(t, <-got, io.EOF)
	require.NoError(t, s.Close())

	s, err = f.Continue(t.Context(), replID("a"), end)
	require.NoError(t, err)
	require.Equal(t, replID("b"), s.ReplID())
	require.Equal(t, string(w.spooled.Data[end-1000:]), take(t, s, end, w.spooled.End()))
	_, err = f.Continue(t.Context(), replID("a"), end+1)
	require.ErrorIs(t, err, relay.ErrFork)
}

// A segment is read to its end before any of it is given. Where others hold the same, they are used.
func TestNoByteOfADamagedFile(t *testing.T) {
	w, timeline := simple(20)
	whole := w.spooled.Segment(stream.Range{From: 1000, To: w.spooled.Boundaries()[9].Offset}, 100)
	rest := w.spooled.Segment(stream.Range{From: w.spooled.Boundaries()[9].Offset, To: w.spooled.End()}, 100)
	bad := &timeline.Segments[0]
	bad.Open = func(context.Context) (archive.PieceReader, error) {
		return &replaytest.Pieces{Pieces: []stream.Piece{{At: 1000, Data: []byte("nonsense")}}, Err: &archive.DamageError{Name: "x", What: "its sum"}}, nil
	}
	f := w.feed()
	c, err := f.Copy(t.Context())
	require.NoError(t, err)
	b, err := c.Stream.Next(t.Context())
	require.Error(t, err)
	require.Empty(t, b)
	require.NoError(t, c.Stream.Close())
	_, err = f.Continue(t.Context(), replID("a"), 1000)
	require.ErrorIs(t, err, relay.ErrFork, "it is known by now")
	_, err = w.feed().Continue(t.Context(), replID("a"), 1000)
	require.ErrorIs(t, err, relay.ErrFork, "and found out before an answer is given")

	timeline.Segments = append(timeline.Segments, whole, rest)
	f = w.feed()
	s, err := f.Continue(t.Context(), replID("a"), 1000)
	require.NoError(t, err)
	require.Equal(t, string(w.spooled.Data), take(t, s, 1000, w.spooled.End()))
}

// While segments are joined, what was listed a moment ago may be gone.
func TestWhatIsGoneIsLookedForAgain(t *testing.T) {
	w, timeline := simple(20)
	good := timeline.Segments[0]
	gone := func() {
		timeline.Segments[0].Open = func(context.Context) (archive.PieceReader, error) {
			timeline.Segments[0] = good // the next listing has it
			return (*explosive)(nil), fs.ErrNotExist
		}
	}
	gone()
	s, err := w.feed().Continue(t.Context(), replID("a"), 1003)
	require.NoError(t, err)
	require.Equal(t, string(w.spooled.Data[3:]), take(t, s, 1003, w.spooled.End()))

	gone()
	c, err := w.feed().Copy(t.Context())
	require.NoError(t, err)
	require.Equal(t, string(w.spooled.Data), take(t, c.Stream, 1000, w.spooled.End()))
}

// A segment that takes longer to be read than a replica has patience: it leaves, comes back, and has it with
// its answer. Those who come meanwhile have nothing read twice.
func TestASlowStoreIsReadOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, timeline := simple(20)
		var opened atomic.Int64
		open := timeline.Segments[0].Open
		timeline.Segments[0].Open = func(ctx context.Context) (archive.PieceReader, error) {
			if opened.Add(1) > 2 { // the file is read to its end, and from then on it is quick
				return open(ctx)
			}
			select {
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			case <-time.After(5 * time.Minute):
				return open(ctx)
			}
		}
		f := w.feed()
		c, err := f.Copy(t.Context())
		require.NoError(t, err)
		patience, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err = c.Stream.Next(patience)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.NoError(t, c.Stream.Close())

		var g errgroup.Group
		for range 5 {
			g.Go(func() error {
				s, err := f.Continue(t.Context(), replID("a"), 1000)
				if err == nil {
					take(t, s, 1000, w.spooled.End())
				}
				return err
			})
		}
		require.NoError(t, g.Wait())
		require.EqualValues(t, 2+5, opened.Load(), "once in vain, once to the end, and once for each")
	})
}

// explosive is what a reader that could not be opened leaves behind.
type explosive struct{ replaytest.Pieces }

func (e *explosive) Close() error { return e.Err }

func TestWhatCantBeServed(t *testing.T) {
	var later *relay.LaterError
	f := (&world{cat: &archive.Catalog{}}).feed()
	_, err := f.Continue(t.Context(), replID("a"), 1)
	require.ErrorAs(t, err, &later)
	_, err = f.Copy(t.Context())
	require.ErrorAs(t, err, &later)

	w, timeline := simple(3)
	timeline.Events = []archive.Event{{Kind: archive.EventSuspect, Offset: 1000, Time: 5}}
	_, err = w.feed().Copy(t.Context())
	require.ErrorAs(t, err, &later)
	require.ErrorContains(t, err, "is suspect")

	w, timeline = simple(3)
	timeline.Segments = nil
	_, err = w.feed().Copy(t.Context())
	require.ErrorAs(t, err, &later)
	require.ErrorContains(t, err, "no snapshot leads to offset")
	_, err = w.feed().Continue(t.Context(), replID("a"), 1000)
	require.ErrorIs(t, err, relay.ErrFork)

	w, _ = simple(3)
	broken := errors.New("the stores are away")
	away := New(Options{Source: "cache", Live: w, Load: func(context.Context) (*archive.Catalog, error) { return nil, broken }})
	_, err = away.Copy(t.Context())
	require.ErrorIs(t, err, broken)
	s, err := away.Continue(t.Context(), replID("a"), w.head.Durable) // the spool has it
	require.NoError(t, err)
	require.NoError(t, s.Close())
}
