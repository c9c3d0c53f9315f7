package syncer

import (
	"maps"
	"sync/atomic"
	"time"

	"github.com/offloader/offloader/internal/stream"
)

// Phase is what a link is doing.
type Phase string

// The phases of a link, in the order in which a first connection passes them.
const (
	Waiting    Phase = "waiting"    // for room, for the budget, for its turn, to connect again: Why and Until say
	Connecting Phase = "connecting" // dialling
	Handshake  Phase = "handshake"  // up to the answer to PSYNC
	Saving     Phase = "saving"     // the master makes the RDB
	Receiving  Phase = "receiving"  // the RDB arrives
	Streaming  Phase = "streaming"
	Stopped    Phase = "stopped" // Run has returned
)

// Status is what a link is doing, and what became of it so far.
type Status struct {
	Phase Phase
	Since time.Time // of the phase
	Why   string    // what Waiting is for
	Until time.Time // when Waiting ends, zero if that isn't known

	// Rebirth is why the server, which is our replica, is not promoted; "" while it is none.
	Rebirth string

	Master    Master    // as it was at the last handshake that got so far
	Remote    string    // ip:port that the present connection goes to, "" without one
	Connected time.Time // when the present connection was made, zero without one
	PlainSync bool      // the master doesn't know PSYNC: nothing can be resumed

	Received   stream.Offset // of the last byte handed to the Sink
	ReceivedAt time.Time
	Acked      stream.Offset // last sent to the master

	Transfer Transfer // the RDB that arrives, or the last that did

	FullResyncs    int64 // begun since New
	PartialResyncs int64
	Promoted       int64     // servers that we have made the master
	Rebirths       int64     // of the partial resyncs, those with a server that we had promoted
	NextFullResync time.Time // when the budget allows one; in the past: now

	LastError   string // "" if there was none
	LastHint    string // what to do about it, "" where that isn't known
	LastErrorAt time.Time
	Errors      map[Kind]int64 // since New
}

// Transfer is the progress of an RDB.
type Transfer struct {
	Began time.Time // of its first byte, zero before the first transfer
	Ended time.Time // zero while it lasts
	Bytes int64
	Total int64 // -1: the master didn't say
}

// Rate is bytes a second on average, up to now or to its end.
func (t Transfer) Rate(now time.Time) float64 {
	if !t.Ended.IsZero() {
		now = t.Ended
	}
	if d := now.Sub(t.Began); !t.Began.IsZero() && d > 0 {
		return float64(t.Bytes) / d.Seconds()
	}
	return 0
}

// Left is how long it will take still at that rate, -1 if that can't be known.
func (t Transfer) Left(now time.Time) time.Duration {
	rate := t.Rate(now)
	if t.Total < 0 || rate <= 0 {
		return -1
	}
	return time.Duration(float64(max(0, t.Total-t.Bytes)) / rate * float64(time.Second))
}

// live is what changes with every byte: read by Status, written without a lock.
type live struct {
	received   atomic.Int64
	receivedAt atomic.Int64 // Unix nanoseconds, 0: never
	acked      atomic.Int64
	rdb        atomic.Int64
}

// Status is safe to call from anywhere, and cheap.
func (l *Link) Status() Status {
	l.mu.Lock()
	s := l.state
	s.Errors = maps.Clone(s.Errors)
	l.mu.Unlock()
	s.Received = stream.Offset(l.live.received.Load())
	if ns := l.live.receivedAt.Load(); ns != 0 {
		s.ReceivedAt = time.Unix(0, ns)
	}
	s.Acked = stream.Offset(l.live.acked.Load())
	s.Transfer.Bytes = l.live.rdb.Load()
	return s
}

func (l *Link) phase(p Phase, why string, until time.Time) {
	l.change(func(s *Status) { s.Phase, s.Since, s.Why, s.Until = p, time.Now(), why, until })
}

// change is for what happens a few times per connection.
func (l *Link) change(f func(*Status)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f(&l.state)
}
