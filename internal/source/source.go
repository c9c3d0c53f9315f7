// Package source archives one master: it stands between the link, the spool and the store.
//
// What the link receives goes to the spool, and the spool's durable offset goes back as the
// acknowledgement (sink.go). Behind the spool, at its own pace, the shipper brings what the spool
// holds to the stores, one shipper each (ship.go, seal.go), and the spool lets go of what all of
// them have (ledger.go). They share nothing but the spool: a store that is away or slow is never
// felt on the link nor by another store. When the spool is full, what one store has is let go of,
// and a store that lacks it gets it from there when it is back (heal.go). Only bytes that no store
// has put the link down.
//
// A timeline begins with a full sync or as a branch, and goes on through restarts of either side
// for as long as the master can continue where the spool ends (resume.go).
package source

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/crypt"
	"github.com/offloader/offloader/internal/relay"
	"github.com/offloader/offloader/internal/spool"
	"github.com/offloader/offloader/internal/stream"
	"github.com/offloader/offloader/internal/syncer"
)

// What a compacted segment holds, of stream and of time. How many requests a bucket gets, and what they cost,
// follows from them: docs/cost.md.
const (
	defaultTarget = 64 << 20
	defaultSpan   = time.Hour
)

// Store is where the archive lives, as far as a source needs it.
type Store interface {
	archive.Files
	Put(ctx context.Context, name string, r io.Reader) error
	Delete(ctx context.Context, name string) error
	String() string
}

// Options say what to archive, how, and where to.
type Options struct {
	Name     string
	Link     syncer.Options // Listen, BudgetPath, Acked, Followed and Logger are set by New
	Spool    *spool.Spool
	Stores   []StoreOptions // at least one
	AckStore bool           // acknowledge what all stores have, not what the spool has
	Identity crypt.Identity // opens what the stores have encrypted; none is needed to archive
	Logger   *slog.Logger
	Metrics  Observer // may be nil

	// Followers are the replicas of the source's relay, those that are away too; nil: it has none.
	Followers func() []relay.Replica

	// SuspectBelow is the share, in percent, of the keys that a master was last known to hold: one that comes back
	// with fewer begins a timeline that is suspect. One that comes back with none does so in any case.
	SuspectBelow float64

	Target  int64         // bytes of stream in a compacted segment; default 64 MiB
	MaxSpan time.Duration // a compacted segment is due after this time, however small; default 1 h
}

// StoreOptions are one store to archive to.
type StoreOptions struct {
	Store    Store
	Encoders *Encoders
	Taken    *Encoders     // for snapshots of timelines that go on, which take their time; default: Encoders
	Interval time.Duration // a byte is stored at this age at the latest; default 10 s, 1 s with AckStore
}

// An Observer is told of what takes time.
type Observer interface {
	// Acked is told how long the bytes up to an acknowledgement had been waiting for it.
	Acked(source string, took time.Duration)
}

// Source is one master being archived.
type Source struct {
	o    Options
	log  *slog.Logger
	link *syncer.Link

	mu       sync.Mutex
	src      *spool.Source   // nil before Run
	cur      *spool.Timeline // nil before the first snapshot, and while a full sync runs
	names    map[string]bool // of the timelines that the store knew at the start
	lost     *resumePoint    // where the store ends, when the spool holds nothing
	revive   *resumePoint    // where an operator has had the archive go back to
	ending   End             // what was last found to be the end, and when
	endAt    time.Time
	noLost   error        // why that isn't known, though the store holds something
	stored   *past        // what the stores held at the start, when the spool held nothing
	noAnswer error        // of a store, for which the link waits when the spool holds nothing
	branch   *branchPoint // asked of the master, and not answered yet
	ended    map[*spool.Timeline]bool
	outage   *outage // the link is down, or has not caught up
	lastByte time.Time
	downAt   time.Time     // when the last connection ended
	asked    time.Time     // when the master last said what it is
	found    stream.ReplID // a history that is one of ours, though the newest timeline hasn't it
	roomErr  error
	shipped  []shipped   // by store
	since    stream.Time // from when on every moment can be restored
	broken   string      // why nothing of what is being archived can be, "" if it can
	snapshot *Moment     // the newest timeline's last
	boot     *Verify     // the last of a scratch engine, in this life of the daemon

	listening map[string]int // the announced port, by the address that it is open on; the link's goroutine asks
	port      int            // that it is

	taking sync.Mutex    // held while a snapshot is taken
	over   chan struct{} // closed when Run ends

	shippers []*shipper
	ledger   *ledger
	letting  sync.Mutex    // held while the spool lets go of something
	naming   sync.Mutex    // held while it is decided what a timeline is called
	risen    chan struct{} // capacity 1: what all stores have has risen
	look     chan struct{} // capacity 1: what can be restored may have changed

	guard guard
	peers peers
	clock clock
	heard atomic.Int64 // when somebody last asked for News, as UnixNano
	waits ackWaits
}

// New makes a source; Run makes it live.
func New(o Options) *Source {
	if o.Target == 0 {
		o.Target = min(defaultTarget, o.Spool.MaxSize()/8)
	}
	if o.MaxSpan == 0 {
		o.MaxSpan = defaultSpan
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Followers == nil {
		o.Followers = func() []relay.Replica { return nil }
	}
	s := &Source{o: o, log: o.Logger.With("source", o.Name), ended: map[*spool.Timeline]bool{}, listening: map[string]int{},
		shipped: make([]shipped, len(o.Stores)), ledger: newLedger(len(o.Stores)), risen: make(chan struct{}, 1), look: make(chan struct{}, 1), over: make(chan struct{})}
	for n, store := range o.Stores {
		interval := cmp.Or(store.Interval, 10*time.Second)
		if o.AckStore {
			interval = min(interval, time.Second) // somebody waits for it
		}
		s.shippers = append(s.shippers, &shipper{s: s, n: n, store: store.Store, encoders: store.Encoders, interval: interval, hurry: make(chan struct{}, 1), lookEvery: lookEvery,
			dir: filepath.Join(o.Spool.Dir(), o.Name), progress: map[*spool.Timeline]*progress{},
			slow: cmp.Or(store.Taken, store.Encoders), done: map[*spool.Timeline]*broughtOf{}})
	}
	s.o.Link.Logger = s.log
	s.guard.path, s.guard.log = filepath.Join(o.Spool.Dir(), o.Name, guardFile), s.log
	s.peers.path, s.peers.log = filepath.Join(o.Spool.Dir(), o.Name, peersFile), s.log
	s.o.Link.BudgetPath = filepath.Join(o.Spool.Dir(), o.Name, "budget.json")
	s.o.Link.Acked = s.acked
	s.o.Link.Followed = s.followed
	return s
}

// Name is the source's name in the configuration and the archive.
func (s *Source) Name() string { return s.o.Name }

// Run archives until ctx ends. Then it makes all that it received durable, brings it to the store
// if that takes seconds only, and returns. It fails when the spool can't be opened; all else it
// waits out.
func (s *Source) Run(ctx context.Context) error {
	src, err := s.o.Spool.Source(s.o.Name)
	if err != nil {
		return fmt.Errorf("source %s: open its spool: %w", s.o.Name, err)
	}
	s.peers.open() // before anybody can find out what is archived, and go by that alone
	s.mu.Lock()
	s.src = src
	if all := src.Timelines(); len(all) > 0 {
		s.cur = all[len(all)-1]
	}
	s.mu.Unlock()
	s.endAgain(src.Timelines())
	if err := s.lackAgain(src.Timelines()); err != nil {
		return errors.Join(fmt.Errorf("source %s: %w", s.o.Name, err), src.Close())
	}
	s.guard.open(s.before())
	s.resumed()

	g, alive := errgroup.WithContext(ctx)
	s.mu.Lock()
	s.o.Link.Listen = func(ip string) (int, error) { return s.listen(alive, g, ip) }
	s.link = syncer.New(s.o.Link, s)
	s.mu.Unlock()
	shipping, stopShipping := context.WithCancel(context.WithoutCancel(ctx))
	var shippers sync.WaitGroup
	for _, sh := range s.shippers { // they outlive the link, to ship what it brought last
		shippers.Go(func() { sh.ship(shipping) })
		shippers.Go(func() { sh.bring(shipping) })
	}
	held := len(src.Timelines()) > 0
	if held {
		g.Go(func() error { s.findWhereStoreEnds(alive, false); return nil })
	}
	g.Go(func() error {
		if !held {
			s.findWhereStoreEnds(alive, true)
		}
		return s.link.Run(alive)
	})
	g.Go(func() error { return s.tick(alive) })
	g.Go(func() error { return s.keepLooking(alive) })
	g.Go(func() error { return s.watch(alive) })
	g.Go(func() error { return s.awaitRelease(alive) })
	err = g.Wait()
	close(s.over)
	s.taking.Lock() // whoever takes a snapshot has left by then
	defer s.taking.Unlock()
	stopShipping()
	shippers.Wait()
	s.peers.save()
	s.mu.Lock()
	s.cur = nil
	s.mu.Unlock()
	err = errors.Join(ignoreEnd(ctx, err), src.Close())
	if err != nil {
		return fmt.Errorf("source %s: %w", s.o.Name, err)
	}
	return nil
}

// endAgain notes the ends of all timelines but the newest, and what they lost then: the last
// crash may have come before that was done. What was noted then has the same names, and stays.
func (s *Source) endAgain(all []*spool.Timeline) {
	for i := 1; i < len(all); i++ {
		s.succeeded(all[i-1], all[i])
	}
}

// causeOfEnd is why a timeline ended when next began.
func causeOfEnd(next archive.TimelineInfo) string {
	if next.Parent != nil {
		return "a branch began timeline " + next.Timeline + ": " + next.Reason
	}
	return "a full sync began timeline " + next.Timeline + ": " + next.Reason
}

// ignoreEnd forgives what breaks because ctx ended.
func ignoreEnd(ctx context.Context, err error) error {
	if ctx.Err() != nil && (errors.Is(err, context.Canceled) || errors.Is(err, context.Cause(ctx))) {
		return nil
	}
	return err
}

// listen opens the port that the master is told, and answers there for as long as Run runs. It is the one that an
// earlier daemon had, if nobody has it now: Sentinels know us by it, and never forget one. Where another port is
// announced (a container's, mapped one to one), that one is opened, on all addresses.
func (s *Source) listen(ctx context.Context, g *errgroup.Group, ip string) (int, error) {
	announced := s.o.Link.Announce.Port
	if announced > 0 {
		ip = ""
	}
	port, open := s.listening[ip]
	if !open {
		l, err := s.announce(ip, announced)
		if err != nil {
			return 0, err
		}
		port = l.Port()
		s.listening[ip] = port
		g.Go(func() error { return l.Run(ctx) })
	}
	s.peers.change(func(c *company) { c.Port = port })
	s.mu.Lock()
	defer s.mu.Unlock()
	s.port = port
	return port, nil
}

// announce opens the port on an address.
func (s *Source) announce(ip string, announced int) (*relay.Listener, error) {
	o := relay.Options{Describe: s.Describe, Hello: s.hear, Logger: s.log}
	if announced > 0 {
		return relay.Listen(net.JoinHostPort(ip, strconv.Itoa(announced)), o)
	}
	l, err := relay.Listen(net.JoinHostPort(ip, strconv.Itoa(s.peers.get().Port)), o)
	if err != nil {
		l, err = relay.Listen(net.JoinHostPort(ip, "0"), o)
	}
	return l, err
}

// tick notes the passing of time: signs of life on a silent link, stores that lag, steps of the clock, who has come and gone.
func (s *Source) tick(ctx context.Context) error {
	every := time.NewTicker(time.Second)
	defer every.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case now := <-every.C:
			s.ticked(now)
			s.keepPeers(now)
		}
	}
}

func (s *Source) ticked(now time.Time) {
	for _, sh := range s.shippers {
		sh.noteLag(now)
	}
	s.mu.Lock()
	cur, up, quiet := s.cur, s.outage == nil, now.Sub(s.lastByte) >= time.Second
	s.mu.Unlock()
	step, was := s.clock.step(now)
	if cur == nil {
		return
	}
	if step {
		at := cur.Boundary()
		event := archive.Event{Kind: archive.EventClock, Offset: at.Offset, Time: stream.TimeOf(now), From: stream.TimeOf(was)}
		s.log.Warn("the clock of this host was stepped: times of the archive stand still until it has caught up, or jump with it", "from", was, "to", now)
		if err := cur.AddEvent(event); err != nil {
			s.log.Error("could not note the step of the clock", "error", err)
		}
	}
	if up && quiet {
		if err := cur.Alive(now); err != nil {
			s.log.Debug("could not note that the link is alive", "error", err)
		}
	}
}
