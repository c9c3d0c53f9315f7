package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/engine/enginetest"
	"github.com/offloader/offloader/internal/spool"
	"github.com/offloader/offloader/internal/store"
	"github.com/offloader/offloader/internal/stream"
	"github.com/offloader/offloader/internal/syncer"
)

// rig is a source with its spool and store in temporary folders.
type rig struct {
	t      *testing.T
	dir    string
	store  *store.Disk
	src    *Source
	spool  *spool.Spool
	cancel context.CancelFunc
	ended  chan error
	tune   func(*Options)
}

func newRig(t *testing.T, address string, tune func(*Options)) *rig {
	r := &rig{t: t, dir: t.TempDir(), tune: tune}
	var err error
	r.store, err = store.OpenDisk(t.Context(), filepath.Join(r.dir, "archive"), store.Options{Write: true})
	require.NoError(t, err)
	r.start(address)
	t.Cleanup(func() {
		if r.cancel != nil {
			r.stop()
		}
	})
	return r
}

func (r *rig) start(address string) {
	var err error
	r.spool, err = spool.Open(filepath.Join(r.dir, "spool"), spool.Options{MaxSize: 1 << 30})
	require.NoError(r.t, err)
	encoders, err := NewEncoders(1)
	require.NoError(r.t, err)
	o := Options{Name: "cache", Link: syncer.Options{Address: address}, Spool: r.spool,
		Stores: []StoreOptions{{Store: r.store, Encoders: encoders, Interval: 100 * time.Millisecond}},
		Logger: slog.New(slog.NewTextHandler(logs{r.t}, nil))}
	if r.tune != nil {
		r.tune(&o)
	}
	r.src = New(o)
	for _, sh := range r.src.shippers {
		sh.lookEvery = 100 * time.Millisecond
	}
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel, r.ended = cancel, make(chan error, 1)
	go func() { r.ended <- r.src.Run(ctx) }()
}

func (r *rig) stop() {
	r.cancel()
	r.cancel = nil
	require.NoError(r.t, <-r.ended)
	require.NoError(r.t, r.spool.Close())
}

type logs struct{ t *testing.T }

func (l logs) Write(p []byte) (int, error) {
	l.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

// until waits for a condition on the status.
func (r *rig) until(what string, ok func(Status) bool) Status {
	r.t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		st := r.src.Status(time.Now())
		if ok(st) {
			return st
		}
		require.True(r.t, time.Now().Before(end), "never %s: %+v", what, st)
	}
}

func (r *rig) streaming() Status {
	r.t.Helper()
	return r.until("streaming", func(s Status) bool { return s.State == "streaming" && s.Timeline != "" })
}

// catalog is the archive with the spool laid over it.
func (r *rig) catalog() *archive.Catalog {
	views, err := spool.View(filepath.Join(r.dir, "spool"), "cache")
	require.NoError(r.t, err)
	cat, err := archive.Load(context.Background(), r.store, "cache")
	require.NoError(r.t, err)
	require.Empty(r.t, cat.Problems)
	for _, v := range views {
		cat.Add(v)
	}
	return cat
}

// stored is what the store alone has of the newest timeline's stream.
func (r *rig) stored() (stream.Range, string) {
	cat, err := archive.Load(context.Background(), r.store, "cache")
	require.NoError(r.t, err)
	t := cat.Timelines[len(cat.Timelines)-1]
	want := stream.Range{From: t.Offset, To: t.End()}
	used, reached := archive.Cover(t.Segments, want)
	require.Equal(r.t, want.To, reached, "a hole in the store: %+v", t.Segments)
	var all strings.Builder
	at := want.From
	for _, seg := range used {
		p, err := seg.Open(context.Background())
		require.NoError(r.t, err)
		for {
			piece, err := p.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			require.NoError(r.t, err)
			if piece.End() > at {
				all.Write(piece.Data[max(0, int(at-piece.At)):])
				at = piece.End()
			}
		}
		require.NoError(r.t, p.Close())
	}
	require.Len(r.t, all.String(), int(want.Len()))
	return want, all.String()
}

func TestAMasterIsArchived(t *testing.T) {
	enginetest.Each(t, func(t *testing.T, kind enginetest.Kind) {
		master := enginetest.Start(t, kind)
		for i := range 1000 {
			master.Do("SET", fmt.Sprintf("before:%d", i), i)
		}
		r := newRig(t, master.Addr(), nil)
		st := r.streaming()
		require.Equal(t, int64(1), st.FullResyncs)
		for i := range 1000 {
			master.Do("SET", fmt.Sprintf("after:%d", i), i)
		}
		require.EqualValues(t, 1, master.Do("WAIT", 1, 5000), "WAIT counts what is durable")
		offset := master.Offset()
		st = r.until("stored", func(s Status) bool { return s.Stores[0].Stored >= stream.Offset(offset) })
		require.Equal(t, stream.Offset(offset), st.Durable)
		require.Empty(t, st.Stores[0].Error)
		require.EqualValues(t, 1000, func() (n int64) {
			cat := r.catalog()
			info, err := cat.Timelines[0].Snapshots[0].Info(context.Background())
			require.NoError(t, err)
			for _, k := range info.Keys {
				n += k
			}
			return n
		}())
		_, bytes := r.stored()
		require.Equal(t, 1000, strings.Count(bytes, "after:"))

		// A restart goes on where it was, without a fork of the master, and at the port that Sentinels know us by.
		port := r.src.peers.get().Port
		r.stop()
		master.Do("SET", "while:down", "1")
		r.start(master.Addr())
		r.streaming()
		require.EqualValues(t, 1, master.Do("WAIT", 1, 5000))
		require.Contains(t, master.Info("replication")["slave0"], fmt.Sprintf("port=%d,", port))
		st = r.until("stored", func(s Status) bool { return s.Stores[0].Stored >= stream.Offset(master.Offset())-14 })
		require.Equal(t, "1", master.Info("stats")["sync_full"])
		cat := r.catalog()
		require.Len(t, cat.Timelines, 1)
		_, bytes = r.stored()
		require.Equal(t, 1, strings.Count(bytes, "while:down"))
		r.until("event stored", func(Status) bool {
			for _, e := range r.catalog().Timelines[0].Events {
				if e.Kind == archive.EventOutage {
					return true
				}
			}
			return false
		})
		require.NotZero(t, st.Since)
	})
}

// Small segments become compacted ones, and the spool lets go of their bytes.
func TestCompaction(t *testing.T) {
	master := enginetest.Start(t, enginetest.Any(t))
	r := newRig(t, master.Addr(), func(o *Options) { o.Target = 1 << 20 })
	r.streaming()
	c := master.Client()
	value := strings.Repeat("x", 10_000)
	for i := range 3000 {
		require.NoError(t, c.Set(t.Context(), fmt.Sprintf("k%d", i%100), value, 0).Err())
	}
	require.EqualValues(t, 1, master.Do("WAIT", 1, 5000))
	offset := stream.Offset(master.Offset())
	r.until("stored", func(s Status) bool { return s.Stores[0].Stored >= offset })
	cat, err := archive.Load(context.Background(), r.store, "cache")
	require.NoError(t, err)
	require.Less(t, len(cat.Timelines[0].Segments), 10, "small segments stay")
	_, bytes := r.stored()
	require.Equal(t, 3000, strings.Count(bytes, value))
	require.Less(t, r.spool.Used(), int64(25<<20), "the spool keeps what is compacted")

	// A spool that is lost costs no full sync either: the store's end is asked for.
	r.stop()
	require.NoError(t, os.RemoveAll(filepath.Join(r.dir, "spool")))
	master.Do("SET", "after", "the loss")
	r.start(master.Addr())
	r.streaming()
	require.Equal(t, "1", master.Info("stats")["sync_full"])
	cat = r.catalog()
	require.Len(t, cat.Timelines, 2)
	require.Equal(t, cat.Timelines[0].Timeline, cat.Timelines[1].Parent.Timeline)
	require.Equal(t, offset, cat.Timelines[1].Parent.Offset)
	require.Equal(t, cat.Timelines[1].Began, cat.Ended(cat.Timelines[0]))

	// Once more, before anything of the branch is stored: it is the parent's end that counts.
	r.stop()
	require.NoError(t, os.RemoveAll(filepath.Join(r.dir, "spool")))
	require.NoError(t, os.RemoveAll(filepath.Join(r.dir, "archive", "cache", cat.Timelines[1].Timeline, "log")))
	r.start(master.Addr())
	r.streaming()
	require.Equal(t, "1", master.Info("stats")["sync_full"])
	cat = r.catalog()
	require.Len(t, cat.Timelines, 3)
	require.Equal(t, offset, cat.Timelines[2].Parent.Offset)

	// What no snapshot leads to is not gone on with: nothing of it could be restored.
	r.stop()
	require.NoError(t, os.RemoveAll(filepath.Join(r.dir, "spool")))
	require.NoError(t, os.RemoveAll(filepath.Join(r.dir, "archive", "cache", cat.Timelines[0].Timeline, "snapshots")))
	r.start(master.Addr())
	r.streaming()
	require.Equal(t, "2", master.Info("stats")["sync_full"])
}

// A file that is gone from the store, behind a spool that has let go of its bytes, is told at the
// next start: nothing leads to what is archived from then on.
func TestAHoleThatSomebodyMade(t *testing.T) {
	master := enginetest.Start(t, enginetest.Any(t))
	r := newRig(t, master.Addr(), func(o *Options) { o.Target = 1 << 20 })
	r.streaming()
	value := strings.Repeat("x", 10_000)
	for i := range 3000 {
		master.Do("SET", fmt.Sprintf("k%d", i%100), value)
	}
	require.EqualValues(t, 1, master.Do("WAIT", 1, 5000))
	offset := stream.Offset(master.Offset())
	r.until("stored", func(s Status) bool { return s.Stores[0].Stored >= offset })
	r.stop()
	cat, err := archive.Load(t.Context(), r.store, "cache")
	require.NoError(t, err)
	one := cat.Timelines[0]
	require.NoError(t, r.store.Delete(t.Context(), one.Path(one.Segments[0].Name)))
	r.start(master.Addr())
	r.streaming()
	st := r.until("broken", func(s Status) bool { return s.Broken != "" })
	require.Contains(t, st.Broken, fmt.Sprintf("offsets %d to %d are missing", one.Segments[0].From, one.Segments[0].To))
	require.Zero(t, st.Since)
}

// A failover to a replica that lacks our tail begins a branch: no full sync, and what was lost
// is told.
func TestAFailoverThatLostOurTailIsABranch(t *testing.T) {
	enginetest.Each(t, func(t *testing.T, kind enginetest.Kind) {
		f := loseTail(t, kind, 10)
		require.Equal(t, "1", f.b.Info("stats")["sync_partial_ok"])
		parent, branch := f.parent, f.next
		require.Equal(t, &archive.Parent{Timeline: parent.Timeline, Offset: branch.Offset}, branch.Parent)
		require.Equal(t, branch.Offset, f.lost.Offset)
		_, bytes := f.r.stored()
		require.Equal(t, 100, strings.Count(bytes, "new:"))
		require.Zero(t, strings.Count(bytes, "lost:"))
	})
}

// Where the new master's backlog doesn't reach back so far it takes a full sync, and what was lost is told all the same.
func TestAFailoverThatLostOurTailAndIsNoBranch(t *testing.T) {
	f := loseTail(t, enginetest.Any(t), 1000)
	require.Equal(t, "0", f.b.Info("stats")["sync_partial_ok"])
	require.Nil(t, f.next.Parent)
	require.Contains(t, f.next.Reason, "the master left the history")
}

// failedOver is what comes of a failover from a to b, which never had the tail that was archived of a.
type failedOver struct {
	r            *rig
	b            *enginetest.Server
	parent, next *archive.Timeline
	lost         archive.Event
}

// loseTail has b write a hundred values of that size before it is archived.
func loseTail(t *testing.T, kind enginetest.Kind, size int) failedOver {
	t.Helper()
	a, b := enginetest.Start(t, kind), enginetest.Start(t, kind, "--repl-backlog-size", "16384")
	b.Do("REPLICAOF", "127.0.0.1", a.Port())
	r := newRig(t, a.Addr(), nil)
	r.streaming()
	for i := range 100 {
		a.Do("SET", fmt.Sprintf("both:%d", i), i)
	}
	require.EqualValues(t, 2, a.Do("WAIT", 2, 10000))
	b.Do("REPLICAOF", "NO", "ONE")
	shared := stream.Offset(a.Offset())
	for i := range 100 {
		a.Do("SET", fmt.Sprintf("lost:%d", i), i)
	}
	require.EqualValues(t, 1, a.Do("WAIT", 1, 5000))
	end := stream.Offset(a.Offset())
	r.until("durable", func(s Status) bool { return s.Durable == end })
	r.stop()
	a.Kill()
	for i := range 100 {
		b.Do("SET", fmt.Sprintf("new:%d", i), strings.Repeat("x", size))
	}

	r.start(b.Addr())
	r.streaming()
	require.EqualValues(t, 1, b.Do("WAIT", 1, 5000))
	at := stream.Offset(b.Offset())
	r.until("stored", func(s Status) bool { return s.Stores[0].Stored >= at })
	cat := r.catalog()
	require.Len(t, cat.Timelines, 2)
	f := failedOver{r: r, b: b, parent: cat.Timelines[0], next: cat.Timelines[1]}
	for _, e := range f.parent.Events {
		if e.Kind == archive.EventLost {
			require.Zero(t, f.lost.Kind, "it is told once")
			f.lost = e
		}
	}
	require.LessOrEqual(t, f.lost.Offset, shared)
	require.Greater(t, f.lost.Offset, shared-200)
	require.Equal(t, end, f.lost.To)
	require.EqualValues(t, 100, f.lost.Commands)
	require.NotZero(t, f.lost.From)
	return f
}

// stuck is a store that can be made to refuse.
type stuck struct {
	*store.Disk
	refuse atomic.Bool
}

func (s *stuck) Put(ctx context.Context, name string, r io.Reader) error {
	if s.refuse.Load() {
		return errors.New("the store is away")
	}
	return s.Disk.Put(ctx, name, r)
}

// What a store lacks is as old as its first byte, however long nothing came before it.
func TestLagOfAQuietMasterIsYoung(t *testing.T) {
	master := enginetest.Start(t, enginetest.Any(t), "--repl-ping-replica-period", "3600")
	held := &stuck{}
	r := newRig(t, master.Addr(), func(o *Options) { held.Disk = o.Stores[0].Store.(*store.Disk); o.Stores[0].Store = held })
	r.streaming()
	master.Do("SET", "k", "v")
	r.until("stored, and quiet", func(s Status) bool {
		return s.Stores[0].StoredTime > 0 && s.Stores[0].LagBytes == 0 && s.ReceivedTime >= s.Stores[0].StoredTime+1500
	})

	held.refuse.Store(true)
	before := time.Now()
	master.Do("SET", "k", "v")
	r.until("behind", func(s Status) bool {
		return s.Stores[0].LagBytes > 0 && s.Stores[0].LagSeconds > 0 && s.Stores[0].Error != ""
	})
	now := time.Now()
	require.LessOrEqual(t, r.src.Status(now).Stores[0].LagSeconds, now.Sub(before).Seconds())
	require.Greater(t, r.src.Status(now.Add(time.Hour)).Stores[0].LagSeconds, 3600.0)

	held.refuse.Store(false)
	r.until("stored", func(s Status) bool {
		return s.Stores[0].LagBytes == 0 && s.Stores[0].LagSeconds == 0 && s.Stores[0].Error == ""
	})
}

// hanging is a store that doesn't come back from an event that it is given until it is let go.
type hanging struct {
	*store.Disk
	once         sync.Once
	hangs, letGo chan struct{}
}

func (h *hanging) Put(ctx context.Context, name string, r io.Reader) error {
	if strings.Contains(name, "/events/") {
		h.once.Do(func() { close(h.hangs) })
		select {
		case <-h.letGo:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return h.Disk.Put(ctx, name, r)
}

// A store that hangs while it lacks nothing is behind as soon as something comes.
func TestLagOfAStoreThatHangs(t *testing.T) {
	master := enginetest.Start(t, enginetest.Any(t), "--repl-ping-replica-period", "3600")
	held := &hanging{hangs: make(chan struct{}), letGo: make(chan struct{})}
	r := newRig(t, master.Addr(), func(o *Options) { held.Disk = o.Stores[0].Store.(*store.Disk); o.Stores[0].Store = held })
	r.streaming()
	r.until("stored", func(s Status) bool {
		return s.LastSnapshot != nil && s.Stores[0].LagBytes == 0 && s.Stores[0].LagSeconds == 0
	})
	r.src.mu.Lock()
	cur := r.src.cur
	r.src.mu.Unlock()
	require.NoError(t, cur.AddEvent(archive.Event{Kind: archive.EventClock, Offset: cur.Boundary().Offset, Time: 2, From: 1}))
	<-held.hangs
	master.Do("SET", "k", "v")
	r.until("behind", func(s Status) bool { return s.Stores[0].LagBytes > 0 && s.Stores[0].LagSeconds > 1 })
	close(held.letGo)
	r.until("stored", func(s Status) bool { return s.Stores[0].LagBytes == 0 && s.Stores[0].LagSeconds == 0 })
}

// Nor is what has just come and isn't durable as old as what came before it.
func TestNotDurableIsAsOldAsItsBytes(t *testing.T) {
	master := enginetest.Start(t, enginetest.Any(t), "--repl-ping-replica-period", "3600")
	r := newRig(t, master.Addr(), nil)
	st := r.streaming()
	master.Kill()
	r.until("down", func(s Status) bool { return s.State != "streaming" })
	before := st.DurableTime.Go().Add(time.Minute)
	require.NoError(t, r.src.Receive([]byte("*1\r\n$4\r\nPI"), before)) // no whole command, so it can't become durable
	st = r.src.Status(before.Add(2 * time.Second))
	require.EqualValues(t, 10, st.NotDurable)
	require.InDelta(t, 2, st.NotDurableSecs, 0.001)
}

// The store's names alone lead through a stream that was compacted and one that was not: each
// segment begins where another ends.
func TestSegmentsMeet(t *testing.T) {
	master := enginetest.Start(t, enginetest.Any(t))
	r := newRig(t, master.Addr(), func(o *Options) { o.Target = 1 << 20; o.Stores[0].Interval = time.Millisecond })
	r.streaming()
	c := master.Client()
	for range 1500 {
		require.NoError(t, c.Set(t.Context(), "k", strings.Repeat("x", 20_000), 0).Err())
	}
	require.EqualValues(t, 1, master.Do("WAIT", 1, 10000))
	r.stop()
	cat, err := archive.Load(context.Background(), r.store, "cache")
	require.NoError(t, err)
	at := cat.Timelines[0].Offset
	for _, s := range cat.Timelines[0].Segments {
		require.Equal(t, at, s.From, "%+v", cat.Timelines[0].Segments)
		at = s.To
	}
	require.GreaterOrEqual(t, at, stream.Offset(30_000_000))
}

// Where another port is announced, behind NAT or in a container, it is open here: a FAILOVER on
// the master that picks us must find somebody who refuses.
func TestAnAnnouncedPortIsOpen(t *testing.T) {
	master := enginetest.Start(t, enginetest.Any(t))
	port := enginetest.FreePort(t)
	r := newRig(t, master.Addr(), func(o *Options) { o.Link.Announce = syncer.Announce{Host: "127.0.0.1", Port: port} })
	r.streaming()
	require.Contains(t, master.Info("replication")["slave0"], fmt.Sprintf("port=%d,", port))
	c, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	require.NoError(t, err)
	_, err = c.Write([]byte("PING\r\n"))
	require.NoError(t, err)
	reply := make([]byte, 7)
	_, err = io.ReadFull(c, reply)
	require.NoError(t, errors.Join(err, c.Close()))
	require.Equal(t, "+PONG\r\n", string(reply))
}

// A daemon that is killed while the link catches up doesn't forget since when nothing is known.
func TestADeathWhileCatchingUpKeepsTheOutage(t *testing.T) {
	master := enginetest.Start(t, enginetest.Any(t), "--repl-ping-replica-period", "3600")
	r := newRig(t, master.Addr(), nil)
	r.streaming()
	master.Do("SET", "k", "v")
	require.EqualValues(t, 1, master.Do("WAIT", 1, 5000))
	r.until("all received", func(s Status) bool { return s.Durable == stream.Offset(master.Offset()) })
	r.stop()

	// What such a daemon leaves: some bytes of the outage, and the note made before the first of them.
	sp, err := spool.Open(filepath.Join(r.dir, "spool"), spool.Options{MaxSize: 1 << 30})
	require.NoError(t, err)
	src, err := sp.Source("cache")
	require.NoError(t, err)
	tl := src.Timelines()[0]
	from := tl.Boundary().Time - 60_000
	require.NoError(t, tl.SetOutage(archive.Event{Kind: archive.EventOutage, Offset: tl.Boundary().Offset - 20, From: from, Cause: "cut"}))
	require.NoError(t, errors.Join(src.Close(), sp.Close()))
	outage := func() *archive.Event {
		for _, e := range r.catalog().Timelines[0].Events {
			if e.Kind == archive.EventOutage {
				return &e
			}
		}
		return nil
	}
	require.Equal(t, from, outage().From, "readers see it before it is over")

	r.start(master.Addr())
	r.streaming()
	r.until("the outage is stored", func(Status) bool {
		e := outage()
		return e != nil && e.From == from && strings.HasPrefix(e.Cause, "cut; then ")
	})
}

// TestAnOutageEndsWithItsLastByte: a restore that has all that was missed names the moment when the last of it came, and
// that moment can be restored to.
func TestAnOutageEndsWithItsLastByte(t *testing.T) {
	master := enginetest.Start(t, enginetest.Any(t), "--repl-ping-replica-period", "3600")
	r := newRig(t, master.Addr(), nil)
	r.streaming()
	r.stop()

	sp, err := spool.Open(filepath.Join(r.dir, "spool"), spool.Options{MaxSize: 1 << 30})
	require.NoError(t, err)
	defer func() { require.NoError(t, sp.Close()) }()
	spooled, err := sp.Source("cache")
	require.NoError(t, err)
	defer func() { require.NoError(t, spooled.Close()) }()
	const missed = "*1\r\n$4\r\nPING\r\n"
	s := New(Options{Name: "cache", Spool: sp})
	s.cur = spooled.Timelines()[0]
	at, came := s.cur.Received()
	s.outage = &outage{from: came, at: at, until: at + stream.Offset(len(missed)), cause: "cut"}
	require.NoError(t, s.Receive([]byte(missed), came.Go()))
	var ends []stream.Time
	for _, e := range r.catalog().Timelines[0].Events {
		if e.Kind == archive.EventOutage {
			ends = append(ends, e.Time)
		}
	}
	require.Equal(t, []stream.Time{came}, ends)
}
