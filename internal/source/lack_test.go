package source

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/rdbwalk"
	"github.com/offloader/offloader/internal/spool"
	"github.com/offloader/offloader/internal/store"
	"github.com/offloader/offloader/internal/stream"
	"github.com/offloader/offloader/internal/syncer"
)

// writer writes commands into the timeline of a pair.
type writer struct {
	*pair
	tl  *spool.Timeline
	now time.Time
}

func newWriter(t *testing.T) *writer {
	w := &writer{pair: newPair(t, t.TempDir()), now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	w.tl = w.full(w.now, shipID)
	w.s.cur, w.s.o.AckStore = w.tl, true
	return w
}

func (w *writer) write(size int) {
	w.now = w.now.Add(time.Second)
	require.NoError(w.t, w.tl.Append(fmt.Appendf(nil, "*2\r\n$4\r\nECHO\r\n$%d\r\n%s\r\n", size, strings.Repeat("v", size)), w.now))
}

// again starts the daemon again, with other disks perhaps.
func (w *writer) again() {
	w.close()
	w.start()
	w.tl = w.s.src.Timelines()[0]
	w.s.cur, w.s.o.AckStore = w.tl, true
}

// missing is what a store really lacks of the stream.
func (w *writer) missing(n int, from stream.Offset) []stream.Range {
	one, err := archive.LoadTimeline(context.Background(), w.disks[n], "cache", w.tl.Info().Timeline)
	require.NoError(w.t, err)
	return archive.Missing(one.Segments, stream.Range{From: from, To: w.tl.Durable().Offset})
}

// slow is a store during whose listing something happens, once.
type slow struct {
	*store.Disk
	meanwhile func()
}

func (s *slow) List(ctx context.Context, dir string) ([]archive.Entry, error) {
	entries, err := s.Disk.List(ctx, dir)
	if do := s.meanwhile; do != nil {
		s.meanwhile = nil
		do()
	}
	return entries, err
}

// What the spool lets go of while a store that was away lists what it has is not taken for stored.
func TestWhatGoesWhileAStoreLists(t *testing.T) {
	w := newWriter(t)
	defer w.close()
	require.NoError(t, w.one(0))
	require.NoError(t, w.one(1))
	second := w.s.shippers[1]
	second.store = &mortal{Disk: w.disks[1], left: 1, forever: true}
	for range 13 {
		w.write(50_000)
		second.noteShipping(t.Context(), second.pass(t.Context(), false))
		require.NoError(t, w.one(0))
	}
	before := w.tl.Trimmed()
	second.store = &slow{Disk: w.disks[1], meanwhile: func() {
		for range 10 {
			w.write(50_000)
			require.NoError(t, w.one(0))
		}
	}}
	w.s.shipped[0].err = errAway // so that nothing is healed
	require.NoError(t, w.one(1))
	require.Greater(t, w.tl.Trimmed(), before, "the spool let something go meanwhile")
	gone := w.missing(1, 100)
	require.Len(t, gone, 1)
	require.Equal(t, gone[0].From, w.s.Durable(), "no more is acknowledged than the store has")
	require.Len(t, w.s.ledger.holes(1), 1)
	w.s.shipped[0].err = nil
	require.NoError(t, w.one(1))
	require.Equal(t, w.tl.Durable().Offset, w.s.Durable())
	require.Empty(t, w.missing(1, 100))
}

// A store that was not in the configuration for a while gets what it lacks, as one that was away.
func TestAStoreThatWasLeftOut(t *testing.T) {
	w := newWriter(t)
	defer w.close()
	w.write(100)
	require.NoError(t, w.one(0))
	require.NoError(t, w.one(1))
	w.s.shippers, w.s.ledger = w.s.shippers[:1], newLedger(1)
	for range 10 {
		w.write(50_000)
		require.NoError(t, w.one(0))
	}
	require.Greater(t, w.tl.Trimmed(), stream.Offset(100))
	w.again()
	require.NoError(t, w.one(0))
	w.s.shipped[0].err = errAway
	require.NoError(t, w.one(1))
	require.Less(t, w.s.Durable(), w.tl.Durable().Offset)
	w.s.shipped[0].err = nil
	require.NoError(t, w.one(1))
	require.Empty(t, w.missing(1, 100))
	require.Equal(t, w.tl.Durable().Offset, w.s.Durable())
}

// What retention has taken in the other store can't be had any more, and isn't waited for: neither
// by a store that is new nor by one that was away.
func TestWhatRetentionTookIsNotWaitedFor(t *testing.T) {
	for _, fresh := range []bool{true, false} {
		t.Run(fmt.Sprint("a new store ", fresh), func(t *testing.T) {
			w := newWriter(t)
			defer w.close()
			require.NoError(t, w.one(0))
			require.NoError(t, w.one(1))
			second := w.s.shippers[1]
			for range 40 {
				w.write(50_000)
				if fresh {
					require.NoError(t, w.one(1))
				} else {
					second.store = &mortal{Disk: w.disks[1], left: 1, forever: true}
					second.noteShipping(t.Context(), second.pass(t.Context(), false))
				}
				require.NoError(t, w.one(0))
			}
			k := &taking{s: w.s, ctx: t.Context(), cur: w.tl, method: MethodMaster}
			in, err := k.begin(syncer.Master{}, shipID, w.tl.Boundary().Offset, 3)
			require.NoError(t, err)
			_, err = in.Write([]byte("RDB"))
			require.NoError(t, err)
			require.NoError(t, in.Whole(rdbwalk.Summary{}))
			for range 3 {
				w.write(50_000)
				require.NoError(t, w.one(0))
				require.NoError(t, w.s.shippers[0].bringAll(t.Context()))
			}
			require.NoError(t, w.one(0))

			// As retention does: word first, then what is before the second snapshot.
			one, err := archive.LoadTimeline(t.Context(), w.disks[0], "cache", w.tl.Info().Timeline)
			require.NoError(t, err)
			require.Len(t, one.Snapshots, 2)
			require.NoError(t, archive.WriteEvent(t.Context(), w.disks[0], "cache", one.Timeline, archive.Event{Kind: archive.EventPruned, Offset: 100, To: k.at, Time: stream.TimeOf(w.now), Cause: "retention"}))
			for _, s := range one.Segments {
				if s.To <= k.at {
					require.NoError(t, w.disks[0].Delete(t.Context(), one.Path(s.Name)))
				}
			}
			require.NoError(t, w.disks[0].Delete(t.Context(), one.Path(one.Snapshots[0].Sidecar())))
			require.NoError(t, w.disks[0].Delete(t.Context(), one.Path(one.Snapshots[0].Name)))

			if fresh {
				d, err := store.OpenDisk(t.Context(), filepath.Join(t.TempDir(), "archive"), store.Options{Write: true})
				require.NoError(t, err)
				w.disks[1] = d
			}
			w.again()
			require.NoError(t, w.one(0))
			for range 3 {
				require.NoError(t, w.one(1))
				require.NoError(t, w.s.shippers[1].bringAll(t.Context()))
			}
			require.Empty(t, w.s.ledger.holes(1))
			require.Equal(t, w.tl.Durable().Offset, w.s.Durable())
			require.Empty(t, w.missing(1, k.at))
			two, err := archive.LoadTimeline(t.Context(), w.disks[1], "cache", one.Timeline)
			require.NoError(t, err)
			require.Equal(t, k.at, two.Snapshots[len(two.Snapshots)-1].Offset, "the new store has what the other one starts with")
			again, err := archive.LoadTimeline(t.Context(), w.disks[0], "cache", one.Timeline)
			require.NoError(t, err)
			require.Len(t, again.Snapshots, 1, "what retention took doesn't come back")
		})
	}
}

// A store that is new in the middle of a branch gets what the branch continues as well: by itself it
// restores what is acknowledged.
func TestANewStoreOfABranch(t *testing.T) {
	w := newWriter(t)
	defer w.close()
	w.write(50_000)
	parent := w.tl.Info()
	for w.tl.Durable() != w.tl.Boundary() {
		time.Sleep(time.Millisecond)
	}
	at := w.tl.Boundary()
	branch := parent
	branch.Began, branch.Offset, branch.Parent = parent.Began+60_000, at.Offset, &archive.Parent{Timeline: parent.Timeline, Offset: at.Offset}
	branch.Timeline = w.s.freeName(branch.Began, shipID)
	_, err := w.s.src.Branch(branch, at, nil)
	require.NoError(t, err)
	w.close()
	w.start() // which notes the end of the parent
	for range 3 {
		require.NoError(t, w.one(0))
		require.NoError(t, w.one(1))
	}
	require.Len(t, w.s.src.Timelines(), 1, "the parent has left the spool")
	d, err := store.OpenDisk(t.Context(), filepath.Join(t.TempDir(), "archive"), store.Options{Write: true})
	require.NoError(t, err)
	w.disks[1] = d
	w.again()
	w.now = w.now.Add(time.Hour)
	w.write(100)
	require.NoError(t, w.one(0))
	for range 2 {
		require.NoError(t, w.one(1))
	}
	require.Equal(t, w.tl.Durable().Offset, w.s.Durable())
	cat, err := archive.Load(t.Context(), d, "cache")
	require.NoError(t, err)
	require.Len(t, cat.Timelines, 2)
	windows, err := cat.Windows(cat.Timelines[1])
	require.NoError(t, err)
	require.Equal(t, w.tl.Durable().Offset, windows[len(windows)-1].To.Offset)
}

// What a store may lack is kept as ranges in order and apart, however they came.
func TestUnited(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var all []spool.LackRange
		lacks := map[stream.Offset]bool{}
		for range rapid.IntRange(1, 20).Draw(t, "ranges") {
			from := stream.Offset(rapid.IntRange(0, 50).Draw(t, "from"))
			r := stream.Range{From: from, To: from + stream.Offset(rapid.IntRange(0, 10).Draw(t, "length"))}
			grows := false
			for o := r.From; o < r.To; o++ {
				grows = grows || !lacks[o]
				lacks[o] = true
			}
			var grown bool
			all, grown = united(all, spool.LackRange{Range: r})
			require.Equal(t, grows, grown)
		}
		n := 0
		for i, r := range all {
			require.True(t, i == 0 || all[i-1].To < r.From, "%v", all)
			for o := r.From; o < r.To; o++ {
				require.True(t, lacks[o])
				n++
			}
		}
		require.Len(t, lacks, n)
	})
}
