package history

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/replay/replaytest"
	"github.com/offloader/offloader/internal/stream"
)

// timeline has the log in segments that end at the given boundaries (by number), with a snapshot
// where it begins.
func timeline(name string, log *replaytest.Log, ends ...int) *archive.Timeline {
	t := &archive.Timeline{TimelineInfo: archive.TimelineInfo{Source: "cache", Timeline: name, Offset: log.Start, Began: 1}}
	t.Snapshots = []archive.Snapshot{replaytest.Snapshot(archive.SnapshotInfo{Offset: log.Start, Time: 1}, nil)}
	from, all := log.Start, log.Boundaries()
	for _, i := range ends {
		t.Segments = append(t.Segments, log.Segment(stream.Range{From: from, To: all[i].Offset}, 7))
		from = all[i].Offset
	}
	return t
}

// day is a log of 10 SETs of a key "k<n>" at the times 1000, 2000, …; the sixth is in a
// transaction with a DEL of the same.
func day() *replaytest.Log {
	log := replaytest.NewLog(500, 3)
	for n := range 10 {
		if n == 5 {
			log.Add(6000, "MULTI")
			log.Add(6000, "DEL", "k5")
		}
		log.Add(stream.Time(n+1)*1000, "SET", fmt.Sprint("k", n), "v")
		if n == 5 {
			log.Add(6000, "EXEC")
		}
	}
	return log
}

type loader func(context.Context) (*archive.Catalog, error)

func catalog(timelines ...*archive.Timeline) loader {
	return func(context.Context) (*archive.Catalog, error) {
		return &archive.Catalog{Source: "cache", Timelines: timelines}, nil
	}
}

// all searches a timeline, and returns the commands found and the holes, in order.
func all(t *testing.T, load loader, name string, q Query) (string, error) {
	t.Helper()
	var got []string
	hole := func(r stream.Range) { got = append(got, "hole "+r.String()) }
	err := Timeline(t.Context(), load, name, q, hole, func(e Entry) error {
		require.Equal(t, 3, e.DB)
		require.Less(t, e.Offset, e.After)
		got = append(got, e.Command)
		return nil
	})
	return strings.Join(got, "|"), err
}

const whole = "SET k0 v|SET k1 v|SET k2 v|SET k3 v|SET k4 v|DEL k5|SET k5 v|SET k6 v|SET k7 v|SET k8 v|SET k9 v"

func TestTimelineIsSearchedWhole(t *testing.T) {
	log := day()
	for _, ends := range [][]int{{9}, {0, 1, 5, 9}, {3, 9}} {
		got, err := all(t, catalog(timeline("a", log, ends...)), "a", Query{})
		require.NoError(t, err)
		require.Equal(t, whole, got)
	}
}

// Compaction leaves large segments beside the small ones for a while.
func TestOverlappingSegmentsGiveEachCommandOnce(t *testing.T) {
	log := day()
	tl := timeline("a", log, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9)
	at := log.Boundaries()
	for _, r := range [][2]int{{1, 4}, {2, 7}, {4, 6}} {
		tl.Segments = append(tl.Segments, log.Segment(stream.Range{From: at[r[0]].Offset, To: at[r[1]].Offset}, 100))
	}
	cat := &archive.Catalog{Source: "cache"}
	cat.Add(tl)
	got, err := all(t, func(context.Context) (*archive.Catalog, error) { return cat, nil }, "a", Query{})
	require.NoError(t, err)
	require.Equal(t, whole, got)
}

func TestSegmentsOfAnotherTimeAreNotOpened(t *testing.T) {
	log := day()
	tl := timeline("a", log, 2, 5, 9)
	for _, i := range []int{0, 2} {
		tl.Segments[i].Open = func(context.Context) (archive.PieceReader, error) { return nil, errors.New("opened") }
	}
	got, err := all(t, catalog(tl), "a", Query{From: 4001, To: 7000})
	require.NoError(t, err)
	require.Equal(t, "SET k4 v|DEL k5|SET k5 v", got)
}

func TestVanishedSegmentIsLookedForAgain(t *testing.T) {
	log := day()
	small, joined := timeline("a", log, 3, 6, 9), timeline("a", log, 9)
	small.Segments[1].Open = func(context.Context) (archive.PieceReader, error) {
		return nil, &fs.PathError{Op: "open", Path: "x", Err: fs.ErrNotExist}
	}
	loads := 0
	load := func(context.Context) (*archive.Catalog, error) {
		loads++
		if loads == 1 {
			return &archive.Catalog{Source: "cache", Timelines: []*archive.Timeline{small}}, nil
		}
		return &archive.Catalog{Source: "cache", Timelines: []*archive.Timeline{joined, timeline("b", replaytest.NewLog(9000, 0))}}, nil
	}
	got, err := all(t, load, "a", Query{})
	require.NoError(t, err)
	require.Equal(t, whole, got)

	_, err = all(t, catalog(small), "a", Query{})
	require.ErrorIs(t, err, fs.ErrNotExist)
}

func TestHolesAreTold(t *testing.T) {
	log := day()
	tl := timeline("a", log, 2, 5, 9)
	tl.Segments = append(tl.Segments[:1], tl.Segments[2])
	got, err := all(t, catalog(tl), "a", Query{})
	require.NoError(t, err)
	gap := stream.Range{From: tl.Segments[0].To, To: tl.Segments[1].From}
	require.Equal(t, "SET k0 v|SET k1 v|SET k2 v|hole "+gap.String()+"|SET k6 v|SET k7 v|SET k8 v|SET k9 v", got)

	got, err = all(t, catalog(tl), "a", Query{To: 2000})
	require.NoError(t, err)
	require.Equal(t, "SET k0 v", got)
}

// Where others hold what a damaged file held, all is found; else what follows it is, and the damage is told at the
// end. So it is with a file that one of two stores doesn't give.
func TestDamageIsGoneRound(t *testing.T) {
	log := day()
	damaged := &archive.DamageError{Name: "x", What: "it is torn"}
	fails := func(s *archive.Segment, err error) {
		s.Open = func(context.Context) (archive.PieceReader, error) { return nil, err }
	}
	tl := timeline("a", log, 2, 5, 9)
	fails(&tl.Segments[1], damaged)
	got, err := all(t, catalog(tl), "a", Query{})
	require.ErrorIs(t, err, damaged)
	gap := tl.Segments[1].Range
	require.Equal(t, "SET k0 v|SET k1 v|SET k2 v|hole "+gap.String()+"|SET k6 v|SET k7 v|SET k8 v|SET k9 v", got)

	at := log.Boundaries()
	for _, r := range [][2]int{{2, 4}, {4, 5}} { // those that it was joined from
		tl.Segments = append(tl.Segments, log.Segment(stream.Range{From: at[r[0]].Offset, To: at[r[1]].Offset}, 100))
	}
	cat := &archive.Catalog{Source: "cache"}
	cat.Add(tl)
	got, err = all(t, func(context.Context) (*archive.Catalog, error) { return cat, nil }, "a", Query{})
	require.NoError(t, err)
	require.Equal(t, whole, got)

	for _, broken := range []error{damaged, errors.New("the store has an error")} {
		two := &archive.Catalog{Source: "cache"}
		first := timeline("a", log, 2, 5, 9)
		fails(&first.Segments[1], broken)
		two.Add(first)
		two.Add(timeline("a", log, 2, 5, 9))
		got, err = all(t, func(context.Context) (*archive.Catalog, error) { return two, nil }, "a", Query{})
		require.NoError(t, err)
		require.Equal(t, whole, got)

		// Who reads may have enough, which is no word on a file.
		full := errors.New("the pipe is closed")
		err = Timeline(t.Context(), func(context.Context) (*archive.Catalog, error) { return two, nil }, "a", Query{}, nil, func(Entry) error { return full })
		require.ErrorIs(t, err, full)
	}
}

func TestTimelineWithoutAStreamHasNoEntries(t *testing.T) {
	for _, name := range []string{"a", "b"} {
		got, err := all(t, catalog(timeline("a", day())), name, Query{})
		require.NoError(t, err)
		require.Empty(t, got)
	}
}

func TestTimelineEnds(t *testing.T) {
	log := day()
	t.Run("when enough was found", func(t *testing.T) {
		n := 0
		err := Timeline(t.Context(), catalog(timeline("a", log, 2, 9)), "a", Query{}, nil, func(Entry) error {
			if n++; n == 2 {
				return ErrStop
			}
			return nil
		})
		require.NoError(t, err)
		require.Equal(t, 2, n)
	})
	t.Run("with damage", func(t *testing.T) {
		for _, nonsense := range [][]stream.Piece{nil, {{At: 500, Data: []byte("nonsense")}}} {
			tl := timeline("a", log, 9)
			tl.Segments[0].Open = func(context.Context) (archive.PieceReader, error) {
				return &replaytest.Pieces{Pieces: nonsense}, nil
			}
			_, err := all(t, catalog(tl), "a", Query{})
			var damage *archive.DamageError
			require.ErrorAs(t, err, &damage)
			require.Equal(t, "a/"+tl.Segments[0].Name, damage.Name)
		}
	})
	t.Run("without a list", func(t *testing.T) {
		broken := errors.New("the disk is gone")
		_, err := all(t, func(context.Context) (*archive.Catalog, error) { return nil, broken }, "a", Query{})
		require.ErrorIs(t, err, broken)
	})
}
