// Package syncer is the link: it speaks to a master as a replica that keeps nothing.
//
// It dials, proves who it is, asks the master to go on where the Sink's bytes end, and hands
// over what comes: an RDB where the master must begin anew, then the stream, byte for byte, for
// as long as it lasts. When it ends, for whatever reason, the link comes back after a pause, for
// ever. What it answers with is one number, the offset that the Sink has made durable: once a
// second, and at once whenever it rises.
//
//	handshake.go  AUTH … PSYNC, one step at a time; what INFO says (master.go)
//	transfer.go   the RDB: walked as it passes, its end found by structure
//	receive.go    stream bytes to the Sink
//	ack.go        REPLCONF ACK and FACK
//	budget.go     full resyncs cost the master a fork each: how many, how often
//	watch.go      what the master says of itself meanwhile, over a connection of its own
//	sentinel.go   whom a Sentinel names as the master
//	turn.go       how many of them run at once, over all links
//	rebirth.go    a server that has come back as a replica of ours, and is made the master again
//	refusal.go    everything that a master can say no with, and what to do about it
//	status.go     what the link is doing, for people
//
// Promised: nothing is acknowledged that the Sink has not called durable; nothing is sent but
// what a replica may send; all bytes that the master sent before it closed are delivered.
package syncer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"github.com/offloader/offloader/internal/rdbwalk"
	"github.com/offloader/offloader/internal/schedule"
	"github.com/offloader/offloader/internal/stream"
)

// Resume is what to ask a master for: the stream from Offset on, in the history ID. The zero
// Resume says that nothing is held.
type Resume struct {
	ID     stream.ReplID
	Offset stream.Offset

	Ordered bool // a full resync, should it come to that, is what an operator has asked for: it doesn't wait for the budget
}

// A Sink takes what arrives. Its methods are called from one goroutine, in the order of the
// stream, but for Durable and Committed, which the acknowledging goroutine calls.
type Sink interface {
	// Room fails while there is no room for what a master may send. It is asked before each connection.
	Room() error
	// Resume says what to ask m for; m has only its address where INFO is not permitted. Where nothing is to be
	// asked of it yet it fails with a *WaitError.
	Resume(m Master) (Resume, error)
	// Continued says that the bytes behind r.Offset follow, under id, which may be new.
	Continued(m Master, r Resume, id stream.ReplID) error
	// FullSync says that an RDB follows, the dataset at the offset at of the history id, and then
	// the stream from there. size is that of the RDB, -1 if the master doesn't know it. From here
	// on Durable is 0 until that RDB is durable.
	FullSync(m Master, id stream.ReplID, at stream.Offset, size int64) (Incoming, error)
	// Receive takes stream bytes as they come, in order, split anywhere. p is not to be kept.
	Receive(p []byte, now time.Time) error
	// Durable is the offset that may be acknowledged, 0 before the first snapshot is durable. It
	// falls in FullSync only.
	Durable() stream.Offset
	// Committed gets a value when Durable has risen. Its capacity is 1.
	Committed() <-chan struct{}
	// Down says that the connection has ended, once for each in which Continued or FullSync
	// returned nil, when all that it brought has been handed over.
	Down(cause error)
}

// Incoming takes an RDB. One of Whole and Discard ends it.
type Incoming interface {
	io.Writer
	// Whole says that all of it was written, and is sound as far as s tells.
	Whole(s rdbwalk.Summary) error
	// Discard says that it won't become whole, or is damaged.
	Discard(cause error)
}

// Announce is where the master is told that we listen, where that isn't the address the link
// comes from: behind NAT, in a container.
type Announce struct {
	Host string
	Port int
}

// Options say which master, who we are, and how long to wait. Zero durations mean the default.
type Options struct {
	Address  string // host:port
	Username string // "": the default user
	// Password is asked before each connection, so that a file can change. nil or "": none.
	Password func() (string, error)
	TLS      *tls.Config // nil: plain

	Announce Announce
	// Listen opens the announced port on the address that the link comes from, and returns it. It
	// is called when that address changes. FAILOVER on a master may connect there.
	Listen func(ip string) (port int, err error)

	// Follower is asked what is to become of a server that is somebody's replica, before it is asked for
	// its stream. nil: nobody follows us.
	Follower func(ctx context.Context, f Follower) (Fate, error)

	// Followed tells whether others get the stream from us as it comes. nil: nobody does.
	Followed func() bool

	Turns      *schedule.Limit     // how many full syncs run at once, over all links; nil: any number
	BudgetPath string              // JSON file that the full-resync budget survives a restart in; "": it doesn't
	Acked      func(stream.Offset) // told of each ACK when it was sent; may be nil
	Logger     *slog.Logger        // nil: silent

	DialTimeout  time.Duration // 5 s, TLS handshake included
	ReplyTimeout time.Duration // 10 s for each reply but PSYNC's
	ReadTimeout  time.Duration // without a byte; default: the master's repl-timeout where it tells, else 60 s
	WriteTimeout time.Duration // 30 s
}

const (
	ackEvery = time.Second
	// Behind an RDB so many ACKs go out so quickly: the master notices its child's end within
	// 100 ms, and lets WAIT count us from the first ACK after it.
	ackQuickly = 100 * time.Millisecond
	quickAcks  = 20
	// defaultReplTimeout is the engines' own default for repl-timeout.
	defaultReplTimeout = 60 * time.Second
	// steady is how long a connection must have streamed to be no part of a row of failures.
	steady = 10 * time.Second
	// recheck is how often a master is asked again while a full resync waits: it may have become
	// able to continue.
	recheck = 30 * time.Second
	// rebirthEvery is how often a server that is to be reborn is asked how far it is.
	rebirthEvery = time.Second
	// waitEvery is how often a Sink is asked whether its WaitError is over.
	waitEvery = time.Second
)

// Link is the replication connection to one master, and all that come after it.
type Link struct {
	o    Options
	sink Sink
	log  *slog.Logger
	dial func(ctx context.Context, address string) (net.Conn, error)

	// Only Run's goroutine, and what it waits for, touch these.
	budget     Budget
	turn       turn
	tries      int    // connections that failed in a row
	said       string // the failure that was logged last
	saidAt     time.Time
	expectFull bool   // the last resync was a full one, and was not foreseen
	cut        cut    // how the last transfer ended, if badly
	syncFailed error  // what kept the last full resync from being made durable, nil if it was
	reborn     string // the run id of the server that was promoted last, until its stream has begun
	localIP    string
	port       int // announced for localIP

	hurry chan struct{} // capacity 1: something has changed for a server that waits

	live  live
	mu    sync.Mutex
	state Status
	conn  *conn // that was made at state.Connected, nil without one
}

// New makes a link; Run makes it live.
func New(o Options, sink Sink) *Link {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	o.DialTimeout = orDefault(o.DialTimeout, 5*time.Second)
	o.ReplyTimeout = orDefault(o.ReplyTimeout, 10*time.Second)
	o.WriteTimeout = orDefault(o.WriteTimeout, 30*time.Second)
	l := &Link{o: o, sink: sink, log: o.Logger, turn: turn{limit: o.Turns}, hurry: make(chan struct{}, 1)}
	l.dial = func(ctx context.Context, address string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", address)
	}
	l.state = Status{Phase: Connecting, Since: time.Now(), Master: Master{Addr: o.Address}, Errors: map[Kind]int64{}}
	return l
}

func orDefault(d, otherwise time.Duration) time.Duration {
	if d > 0 {
		return d
	}
	return otherwise
}

// Run connects, and connects again, until ctx ends; its cause is then returned. All that it
// started has ended by then.
func (l *Link) Run(ctx context.Context) error {
	l.budget = l.loadBudget(time.Now())
	next := l.budget.Next(time.Now())
	l.change(func(s *Status) { s.NextFullResync = next })
	for {
		err := l.attempt(ctx)
		if ctx.Err() != nil {
			l.phase(Stopped, "", time.Time{})
			return context.Cause(ctx)
		}
		if errors.Is(err, errNoTurn) {
			continue // the next attempt begins with waiting for it
		}
		pause := l.failed(err, time.Now())
		select {
		case <-ctx.Done():
		case <-l.hurry:
		case <-time.After(pause):
		}
	}
}

// Hurry ends a pause between two connections: the server has shown that it is there.
func (l *Link) Hurry() {
	select {
	case l.hurry <- struct{}{}:
	default:
	}
}

// Doubt says that the server that a connection leads to seems to be gone, or to have become a replica: a host that loses its
// power says no goodbye. If no more comes from there for a second, the connection ends, and another is made. connected is
// when it was made: one that has come in its place meanwhile is sound.
func (l *Link) Doubt(connected time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conn != nil && l.state.Connected.Equal(connected) {
		l.conn.wire.doubt()
	}
}

// attempt is one connection, from the dial to its end. It always ends in an error.
func (l *Link) attempt(ctx context.Context) error {
	if err := l.sink.Room(); err != nil {
		return l.withoutRoom(ctx, &WaitError{For: "for room in the spool", Err: err})
	}
	err := l.turn.await(ctx, func(most int) {
		l.phase(Waiting, fmt.Sprintf("for the turn of its full sync: as many run as may at once (max_full_syncs: %d)", most), time.Time{})
		l.log.Info("a full sync waits for its turn", "master", l.o.Address, "at_once", most)
	})
	if err != nil {
		return err
	}
	defer l.turn.end()
	l.phase(Connecting, "", time.Time{})
	nc, err := l.connect(ctx)
	if err != nil {
		return err
	}
	return newConn(l, nc).run(ctx)
}

// A WaitError says what a link waits for, with nothing asked of the master.
type WaitError struct {
	For string // "for room in the spool"
	Err error  // why
}

func (e *WaitError) Error() string { return e.Err.Error() }

func (e *WaitError) Unwrap() error { return e.Err }

// withoutRoom is attempt while there is no room for a stream. A rebirth takes none: the server has its data from
// what is archived, and its clients need it now. Everything else waits.
func (l *Link) withoutRoom(ctx context.Context, full *WaitError) error {
	if l.o.Follower == nil {
		return full
	}
	nc, err := l.connect(ctx)
	if err != nil {
		return err
	}
	c := newConn(l, nc)
	c.full = full
	return c.run(ctx)
}

// connect dials, and makes the TLS handshake.
func (l *Link) connect(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, l.o.DialTimeout)
	defer cancel()
	nc, err := l.dial(ctx, l.o.Address)
	if err != nil {
		return nil, unreachable(l.o.Address, err)
	}
	if l.o.TLS == nil {
		return nc, nil
	}
	config := l.o.TLS.Clone()
	if config.ServerName == "" {
		if host, _, err := net.SplitHostPort(l.o.Address); err == nil {
			config.ServerName = host
		}
	}
	secure := tls.Client(nc, config)
	if err := secure.HandshakeContext(ctx); err != nil {
		return nil, errors.Join(tlsRefused(l.o.Address, err), ignoreClosed(nc.Close()))
	}
	return secure, nil
}

// ignoreClosed drops the error that says that somebody else has closed a connection before.
func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// failed takes note of how a connection ended and says how long to wait before the next.
func (l *Link) failed(err error, now time.Time) time.Duration {
	var budget *BudgetError
	if errors.As(err, &budget) {
		l.phase(Waiting, "with a full resync: "+budget.reason(), budget.Until)
		l.note(err, now)
		// Asked again now and then: neither a storm, nor an hour's sleep over a master that could
		// go on after all.
		return min(budget.Until.Sub(now), jitter(recheck))
	}
	var sink *WaitError
	if errors.As(err, &sink) {
		text, hint := sink.Error(), Hint(sink)
		l.tries = 0
		l.phase(Waiting, sink.For, time.Time{})
		l.change(func(s *Status) { s.Rebirth, s.LastError, s.LastHint, s.LastErrorAt = "", text, hint, now })
		if l.said != sink.For { // the rest may change with each look
			l.said, l.saidAt = sink.For, now
			l.log.Error("the link waits "+sink.For, "master", l.o.Address, "error", text, "hint", hint)
		}
		return waitEvery
	}
	var wait *RebirthError
	if errors.As(err, &wait) {
		l.tries = 0 // it answers: the next trouble is another one
		l.phase(Waiting, "for its rebirth: "+wait.Why, time.Time{})
		l.change(func(s *Status) { s.Rebirth, s.LastError, s.LastHint, s.LastErrorAt = wait.Why, "", wait.Do, now })
		if wait.Why != l.said {
			l.said, l.saidAt = wait.Why, now
			l.log.Warn("the source waits for its rebirth", "master", l.o.Address, "why", wait.Why, "hint", wait.Do)
		}
		return rebirthEvery
	}
	l.change(func(s *Status) { s.Rebirth = "" })
	l.note(err, now)
	longest := 30 * time.Second
	var refusal *RefusalError
	if errors.As(err, &refusal) && refusal.Passing {
		longest = 2 * time.Second
	}
	first := 100 * time.Millisecond
	if l.syncFailed != nil && errors.Is(err, l.syncFailed) {
		first = time.Second // the free ones shouldn't be gone before anything can have changed
	}
	pause := backoff(l.tries, first, longest)
	l.tries++
	l.phase(Waiting, "to connect again", now.Add(pause))
	return pause
}

// backoff is the pause after the failure number n in a row, from 0: first, doubling to longest,
// less up to half, so that many links don't come back at once.
func backoff(n int, first, longest time.Duration) time.Duration {
	return jitter(min(longest, first<<min(n, 20)))
}

func jitter(d time.Duration) time.Duration {
	return d - time.Duration(rand.Int64N(int64(d)/2+1))
}

// note keeps the failure for Status, and logs it unless it was just said.
func (l *Link) note(err error, now time.Time) {
	kind, hint := KindOf(err), Hint(err)
	l.mu.Lock()
	l.state.LastError, l.state.LastHint, l.state.LastErrorAt = err.Error(), hint, now
	l.state.Errors[kind]++
	l.mu.Unlock()
	if text := err.Error(); text != l.said || now.Sub(l.saidAt) > 5*time.Minute {
		l.said, l.saidAt = text, now
		args := []any{"master", l.o.Address, "error", text}
		if hint != "" {
			args = append(args, "hint", hint)
		}
		l.log.Warn("link is down", args...)
	}
}
