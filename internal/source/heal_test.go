package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/crypt"
	"github.com/offloader/offloader/internal/spool"
	"github.com/offloader/offloader/internal/store"
	"github.com/offloader/offloader/internal/stream"
)

// pair is a spool with two stores behind it, and no master.
type pair struct {
	bench
	disks [2]*store.Disk
}

func newPair(t require.TestingT, dir string, to ...crypt.Recipient) *pair {
	p := &pair{bench: bench{t: t, dir: dir, to: to}}
	for n := range p.disks {
		var err error
		p.disks[n], err = store.OpenDisk(context.Background(), filepath.Join(dir, fmt.Sprint("archive", n)), store.Options{Write: true})
		require.NoError(t, err)
	}
	p.start()
	return p
}

func (p *pair) start() {
	var err error
	p.spool, err = spool.Open(filepath.Join(p.dir, "spool"), spool.Options{MaxSize: 1 << 20})
	require.NoError(p.t, err)
	o := Options{Name: "cache", Spool: p.spool, Target: 100_000}
	for _, d := range p.disks {
		encoders, err := NewEncoders(1, p.to...)
		require.NoError(p.t, err)
		o.Stores = append(o.Stores, StoreOptions{Store: d, Encoders: encoders, Interval: time.Nanosecond})
	}
	p.s = New(o)
	p.s.src, err = p.spool.Source("cache")
	require.NoError(p.t, err)
	p.s.endAgain(p.s.src.Timelines())
	require.NoError(p.t, p.s.lackAgain(p.s.src.Timelines()))
}

// one lets one store get all that there is for it, holes too.
func (p *pair) one(n int) error {
	sh := p.s.shippers[n]
	sh.progress, sh.done = map[*spool.Timeline]*progress{}, map[*spool.Timeline]*broughtOf{} // it need not wait to be healed
	for range 1000 {
		err := sh.pass(context.Background(), true)
		if sh.healing != nil { // the stores of these tests die by count, so one thing is done after the other
			sh.healing <- <-sh.healing
		}
		if err != nil {
			return err
		}
		if err := sh.bringAll(context.Background()); err != nil {
			return err
		}
		busy := sh.healing != nil
		for _, t := range p.s.src.Timelines() {
			g := sh.progress[t]
			busy = busy || g == nil || t.Durable() != t.Boundary() || g.stored.Offset != t.Boundary().Offset || (!g.first || len(g.holes) > 0) && g.healed.IsZero()
		}
		if !busy {
			return nil
		}
		time.Sleep(time.Millisecond)
	}
	return errors.New("it doesn't come to an end")
}

// Whichever store is away, and for how long: the other one gets everything, the spool never is
// full for it, and in the end each store by itself has every byte, the snapshot, and a note of
// each hole that it had.
func TestStoresThatAreAwayInTurn(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		key, identity := newKey(t)
		encrypt := rapid.SampledFrom([][]crypt.Recipient{nil, {key}}) // what is healed needs no identity
		p := newPair(t, tempDir(t), encrypt.Draw(t, "encrypt")...)
		now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
		tl := p.full(now, shipID)
		var sent strings.Builder
		let := false
		for range rapid.IntRange(5, 25).Draw(t, "steps") {
			switch step := rapid.SampledFrom([]string{"write", "write", "write", "write", "first", "second", "cut", "death", "new"}).Draw(t, "step"); step {
			case "write":
				if p.spool.Room() != nil {
					break // neither store has it: the link is down
				}
				now = now.Add(time.Second)
				size := rapid.IntRange(1, 90_000).Draw(t, "size")
				b := fmt.Sprintf("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$%d\r\n%s\r\n", size, strings.Repeat("v", size))
				require.NoError(t, tl.Append([]byte(b), now))
				sent.WriteString(b)
			case "first", "second":
				n := map[string]int{"first": 0, "second": 1}[step]
				require.NoError(t, p.one(n))
				require.NoError(t, p.spool.Room(), "a store that is away holds up the link")
			case "cut":
				n := rapid.IntRange(0, 1).Draw(t, "store")
				sh := p.s.shippers[n]
				sh.store = &mortal{Disk: p.disks[n], left: rapid.IntRange(1, 8).Draw(t, "left"), after: rapid.Bool().Draw(t, "after"), forever: rapid.Bool().Draw(t, "forever")}
				if err := p.one(n); err != nil {
					require.ErrorIs(t, err, errAway)
				}
				sh.store = p.disks[n]
			case "death":
				p.close()
				p.to = encrypt.Draw(t, "encrypt")
				p.start()
				all := p.s.src.Timelines()
				tl = all[len(all)-1]
			case "new": // an operator gives the second store another disk, once the first one has it all
				require.NoError(t, p.one(0))
				p.close()
				d, err := store.OpenDisk(context.Background(), filepath.Join(tempDir(t), "archive"), store.Options{Write: true})
				require.NoError(t, err)
				p.disks[1] = d
				p.start()
				all := p.s.src.Timelines()
				tl = all[len(all)-1]
			}
			let = let || tl.Trimmed() > 100
		}
		for _, n := range []int{0, 1, 0, 1} {
			require.NoError(t, p.one(n))
		}
		for n := range p.disks {
			require.Empty(t, p.s.ledger.holes(n))
		}
		if let {
			require.Equal(t, tl.Boundary().Offset, p.s.ledger.stored(tl))
		}
		p.close()
		for n, disk := range p.disks {
			cat, err := archive.Load(context.Background(), disk, "cache", identity)
			require.NoError(t, err)
			require.Empty(t, cat.Problems)
			require.Len(t, cat.Timelines, 1)
			requireRDB(t, cat.Timelines[0].Snapshots[0])
			one := cat.Timelines[0]
			require.Len(t, one.Snapshots, 1, "store %d", n)
			r := stream.Range{From: 100, To: 100 + stream.Offset(sent.Len())}
			used, reached := archive.Cover(one.Segments, r)
			require.Equal(t, r.To, reached, "store %d has a hole: %+v", n, one.Segments)
			require.True(t, sent.String() == read(t, used, r), "store %d has other bytes", n)
		}
	})
}

// deaf is a store that gives no byte of a file until it may.
type deaf struct {
	*store.Disk
	until, read chan struct{}
}

func (d *deaf) Open(ctx context.Context, name string) (io.ReadCloser, error) {
	select {
	case d.read <- struct{}{}:
	default:
	}
	<-d.until // as a disk over the network does: it minds no context
	return d.Disk.Open(ctx, name)
}

// A hole that can't be healed yet is noted in the store, shown in the status with its cause, and
// counted as a lag; "ack: store" doesn't go beyond it.
func TestAHoleIsShown(t *testing.T) {
	p := newPair(t, t.TempDir())
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	tl := p.full(now, shipID)
	p.s.cur = tl
	require.NoError(t, p.one(0))
	require.NoError(t, p.one(1))
	command := func() {
		now = now.Add(time.Second)
		require.NoError(t, tl.Append(fmt.Appendf(nil, "*2\r\n$4\r\nECHO\r\n$50000\r\n%s\r\n", strings.Repeat("v", 50_000)), now))
	}
	second := p.s.shippers[1]
	second.store = &mortal{Disk: p.disks[1], left: 1, forever: true}
	for range 40 {
		command()
		second.noteShipping(t.Context(), second.pass(t.Context(), false))
		require.NoError(t, p.one(0))
		require.NoError(t, p.spool.Room())
	}
	gone := tl.Trimmed()
	require.Greater(t, gone, stream.Offset(100), "the spool let go of what the first store has")
	hole := Hole{Timeline: tl.Info().Timeline, From: 100, To: gone, Cause: "the spool was full while this store could not be written: " + errAway.Error()}
	require.Equal(t, []Hole{hole}, p.s.Status(now).Stores[1].Holes, "while it is away")
	p.close()
	p.start()
	tl, second = p.s.src.Timelines()[0], p.s.shippers[1]
	p.s.cur = tl
	require.Equal(t, []Hole{hole}, p.s.Status(now).Stores[1].Holes, "and after a restart")
	require.Equal(t, int64(tl.Boundary().Offset-100), p.s.Status(now).Stores[1].LagBytes, "counted once")
	require.NoError(t, p.one(0))

	// It comes back, and now the first one is away.
	second.store = p.disks[1]
	p.s.shipped[0].err = errAway
	require.NoError(t, p.one(1))
	p.s.o.AckStore = true
	require.Equal(t, stream.Offset(100), p.s.Durable(), "acknowledged is what both have")
	st := p.s.Status(now).Stores[1]
	require.Equal(t, []Hole{hole}, st.Holes)
	require.Equal(t, int64(gone-100), st.LagBytes)
	cat, err := archive.Load(t.Context(), p.disks[1], "cache")
	require.NoError(t, err)
	gaps, err := cat.Gaps(cat.Timelines[0])
	require.NoError(t, err)
	require.Len(t, gaps, 1)
	require.Contains(t, gaps[0].Cause, "hole: the spool was full while")

	// As the first one answers again it hangs when it is read. What is new goes to the second meanwhile.
	p.s.shipped[0].err = nil
	hangs := &deaf{Disk: p.disks[0], until: make(chan struct{}), read: make(chan struct{}, 1)}
	p.s.shippers[0].store = hangs
	second.progress[tl].healed = time.Time{}
	require.NoError(t, second.pass(t.Context(), true))
	<-hangs.read
	command()
	require.Eventually(t, func() bool { // an fsync makes it durable by and by
		require.NoError(t, second.pass(t.Context(), true))
		return second.progress[tl].stored.Offset == tl.Boundary().Offset
	}, 10*time.Second, time.Millisecond)
	require.Len(t, p.s.Status(now).Stores[1].Holes, 1)
	close(hangs.until)

	require.NoError(t, p.one(1))
	require.Empty(t, p.s.Status(now).Stores[1].Holes)
	require.NoError(t, p.one(0))
	require.Equal(t, tl.Boundary().Offset, p.s.Durable())
	cat, err = archive.Load(t.Context(), p.disks[1], "cache")
	require.NoError(t, err)
	gaps, err = cat.Gaps(cat.Timelines[0])
	require.NoError(t, err)
	require.Empty(t, gaps)
	p.close()
}
