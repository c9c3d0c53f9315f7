package source

import (
	"net"
	"slices"
	"strconv"
	"time"

	"github.com/offloader/offloader/internal/relay"
	"github.com/offloader/offloader/internal/stale"
	"github.com/offloader/offloader/internal/stream"
	"github.com/offloader/offloader/internal/syncer"
)

// Status is what a source is doing. Its JSON is that of `offloader status --json`: fields are
// added, never renamed. Offsets are numbers, times RFC 3339 in UTC, null where not known.
type Status struct {
	Name           string        `json:"name"`
	State          string        `json:"state"` // connecting, syncing, streaming, waiting
	Phase          syncer.Phase  `json:"phase"` // finer
	PhaseSince     stream.Time   `json:"phase_since"`
	Why            string        `json:"why,omitempty"` // what it waits for
	Until          stream.Time   `json:"until"`
	Master         string        `json:"master"`
	Engine         string        `json:"engine,omitempty"`
	Version        string        `json:"version,omitempty"`
	Role           string        `json:"role,omitempty"`
	Upstream       string        `json:"upstream,omitempty"` // the master's own master
	Timeline       string        `json:"timeline"`
	ReplID         stream.ReplID `json:"replid"`
	Received       stream.Offset `json:"received"`
	ReceivedTime   stream.Time   `json:"received_time"` // of the last byte or sign of life
	Durable        stream.Offset `json:"durable"`
	DurableTime    stream.Time   `json:"durable_time"`
	NotDurable     int64         `json:"not_durable_bytes"`
	NotDurableSecs float64       `json:"not_durable_seconds"`
	Acked          stream.Offset `json:"acked"`
	Since          stream.Time   `json:"restorable_since"` // every moment from here to the durable time can be restored
	Ack            string        `json:"ack"`              // local or store: what is acknowledged
	Broken         string        `json:"broken,omitempty"` // why what is being archived can't be restored
	BrokenHint     string        `json:"broken_hint,omitempty"`
	FullResyncs    int64         `json:"full_resyncs"`
	PartialResyncs int64         `json:"partial_resyncs"`
	Rebirths       int64         `json:"rebirths"`         // of them, those with the engine that had just been promoted
	NextFullResync stream.Time   `json:"next_full_resync"` // when the budget allows one
	PlainSync      bool          `json:"plain_sync,omitempty"`
	LastSnapshot   *Moment       `json:"last_snapshot"`
	LastBoot       *Verify       `json:"last_boot"`          // of a scratch engine from the archive; null: none since the start
	Transfer       *Transfer     `json:"transfer,omitempty"` // the RDB that arrives
	Spool          SpoolStatus   `json:"spool"`
	Stores         []StoreStatus `json:"stores"`
	Error          string        `json:"error,omitempty"` // why it is not streaming: the link's last, or that there is no room
	Hint           string        `json:"hint,omitempty"`
	ErrorTime      stream.Time   `json:"error_time"`

	Suspect *Suspicion `json:"suspect"` // why the newest timeline is suspect, null where it isn't
	Known   *Known     `json:"known"`   // what the master was last known to hold

	Errors map[syncer.Kind]int64 `json:"errors,omitempty"` // of the link since the start, by kind
}

// Known is what the master was last known to hold: what it comes back with is compared with that.
type Known struct {
	Keys   int64         `json:"keys"`
	Offset stream.Offset `json:"offset"` // that this is of
	Time   stream.Time   `json:"time"`
	By     string        `json:"by"`             // info: the master told; snapshot: an RDB was counted
	Weak   string        `json:"weak,omitempty"` // why the master can't be asked now

	Replicas []string `json:"replicas"` // that followed it then, as they announce themselves
}

// Moment is a point that can be restored.
type Moment struct {
	Offset stream.Offset `json:"offset"`
	Time   stream.Time   `json:"time"`
}

// Transfer is the progress of a full sync.
type Transfer struct {
	Bytes       int64   `json:"bytes"`
	Total       int64   `json:"total"`        // -1: the master didn't say
	Rate        float64 `json:"rate"`         // bytes a second
	LeftSeconds float64 `json:"left_seconds"` // -1: not known
}

// SpoolStatus is how full the spool is, by all sources together.
type SpoolStatus struct {
	Bytes    int64  `json:"bytes"`
	MaxBytes int64  `json:"max_bytes"`
	Error    string `json:"error,omitempty"`
}

// StoreStatus is how far a store is behind.
type StoreStatus struct {
	Name        string        `json:"name"`
	Stored      stream.Offset `json:"stored"`
	StoredTime  stream.Time   `json:"stored_time"`
	LagBytes    int64         `json:"lag_bytes"` // holes counted
	LagSeconds  float64       `json:"lag_seconds"`
	Error       string        `json:"error"` // of the last try, "" when it went well
	Hint        string        `json:"hint,omitempty"`
	Errors      int64         `json:"errors"`
	Segments    int64         `json:"segments"`     // stored since the start
	StreamBytes int64         `json:"stream_bytes"` // in them
	Holes       []Hole        `json:"holes"`        // what the spool let go of before this store had it

	IntervalSeconds float64    `json:"interval_seconds"` // all being well, a byte is stored at this age at the latest
	Held            stale.Held `json:"held"`             // of all timelines
	LastVerify      *Verify    `json:"last_verify"`      // null: none since the start
}

// Verify is what came of reading all again that a store has of a source, or of booting an engine from it.
type Verify struct {
	Time     stream.Time `json:"time"`     // when it was done
	Findings int         `json:"findings"` // how many things are not as they were written; 1 where an engine held other keys
	Error    string      `json:"error"`    // why it could not be done, "" where it could
}

// Hole is a part of a timeline's stream that a store lacks until it is healed.
type Hole struct {
	Timeline string        `json:"timeline"`
	From     stream.Offset `json:"from"`
	To       stream.Offset `json:"to"`
	Cause    string        `json:"cause"`
}

// Status is what the source is doing now.
func (s *Source) Status(now time.Time) Status {
	s.mu.Lock()
	link, cur, shipped, since, snapshot, roomErr := s.link, s.cur, slices.Clone(s.shipped), s.since, s.snapshot, s.roomErr
	up, lastByte, broken, noAnswer, boot := s.outage == nil, s.lastByte, s.broken, s.noAnswer, s.boot
	s.mu.Unlock()
	ack := "local"
	if s.o.AckStore {
		ack = "store"
	}
	st := Status{Name: s.o.Name, Ack: ack, State: "connecting", Master: s.o.Link.Address, Since: since, LastSnapshot: snapshot, LastBoot: boot,
		Spool: SpoolStatus{Bytes: s.o.Spool.Used(), MaxBytes: s.o.Spool.MaxSize()}}
	if broken != "" {
		st.Broken, st.BrokenHint, st.Since = broken, brokenHint, 0
	}
	if link != nil {
		st.link(link.Status(), now)
	}
	if noAnswer != nil {
		st.State, st.Why = "waiting", "for a store: what was archived before may be there, to go on with"
		st.Error, st.Hint = noAnswer.Error(), syncer.Hint(noAnswer)
	}
	if roomErr != nil {
		st.Spool.Error = roomErr.Error()
		if st.State == "connecting" { // to see whether there is somebody to be reborn, which is no news
			st.State, st.Why = "waiting", "for room in the spool"
		}
	}
	if cur != nil {
		received, alive := cur.Received()
		durable := cur.Durable()
		st.Timeline, st.ReplID = cur.Info().Timeline, cur.ReplID()
		st.Received, st.ReceivedTime = received, alive
		st.Durable, st.DurableTime = durable.Offset, durable.Time
		st.NotDurable = int64(received - durable.Offset)
		if st.NotDurable == 0 && up {
			st.DurableTime = alive // the link is up and has nothing more to say
		}
		if st.NotDurable > 0 {
			st.NotDurableSecs = max(0, now.Sub(s.waits.oldest(lastByte, durable.Offset)).Seconds())
		}
	}
	st.guard(s.guard.get())
	if st.Known != nil {
		st.Known.Replicas = s.peers.get().Replicas
	}
	for n, have := range shipped {
		st.Stores = append(st.Stores, s.storeStatus(n, have, cur, st.Durable, now))
	}
	return st
}

// link fills in what the link knows.
func (st *Status) link(l syncer.Status, now time.Time) {
	st.Phase, st.PhaseSince, st.Why, st.Until = l.Phase, timeOf(l.Since), l.Why, timeOf(l.Until)
	switch l.Phase {
	case syncer.Streaming:
		st.State = "streaming"
	case syncer.Saving, syncer.Receiving:
		st.State = "syncing"
	case syncer.Waiting:
		st.State = "waiting"
	case syncer.Connecting, syncer.Handshake, syncer.Stopped:
		st.State = "connecting"
	}
	m := l.Master
	st.Engine, st.Version, st.Role, st.Upstream = m.Engine, m.Version, m.Role, m.Upstream
	st.Acked, st.FullResyncs, st.PartialResyncs, st.Rebirths = l.Acked, l.FullResyncs, l.PartialResyncs, l.Rebirths
	st.NextFullResync, st.PlainSync = timeOf(l.NextFullResync), l.PlainSync
	if l.Phase == syncer.Receiving {
		left := -1.0
		if d := l.Transfer.Left(now); d >= 0 {
			left = d.Seconds()
		}
		st.Transfer = &Transfer{Bytes: l.Transfer.Bytes, Total: l.Transfer.Total, Rate: l.Transfer.Rate(now), LeftSeconds: left}
	}
	if l.Rebirth != "" { // between two looks at it the link connects, which is no news
		st.State, st.Why = "waiting", "for its rebirth: "+l.Rebirth
	}
	st.Errors = l.Errors
	if l.Phase != syncer.Streaming {
		st.Error, st.Hint, st.ErrorTime = l.LastError, l.LastHint, timeOf(l.LastErrorAt)
	}
}

// guard fills in what the master is known to hold.
func (st *Status) guard(m memory, weak string) {
	if m.Suspicion != nil {
		sus := *m.Suspicion
		sus.Hint = (&SuspectError{st.Name, sus}).Hint()
		st.Suspect = &sus
	}
	if n := m.Known.Total(); n >= 0 {
		st.Known = &Known{Keys: n, Offset: m.Known.Offset, Time: m.Known.Time, By: "snapshot", Weak: weak}
		if m.Known.RunID != "" {
			st.Known.By = "info"
		}
	}
}

func timeOf(t time.Time) stream.Time {
	if t.IsZero() {
		return 0
	}
	return stream.TimeOf(t)
}

// Describe is what a port of ours tells of us.
func (s *Source) Describe() relay.Info {
	s.mu.Lock()
	link, cur, downAt := s.link, s.cur, s.downAt
	s.mu.Unlock()
	var info relay.Info
	if link == nil {
		return info
	}
	st := link.Status()
	address := s.o.Link.Address
	if st.Remote != "" {
		address = st.Remote // masters and Sentinels know each other by IP
	}
	info.MasterHost, info.MasterPort = splitPort(address)
	info.Up = st.Phase == syncer.Streaming
	info.Syncing = st.Phase == syncer.Saving || st.Phase == syncer.Receiving
	info.LastIO = st.ReceivedAt
	if !info.Up {
		info.DownSince = downAt
	}
	if cur != nil {
		info.Offset, info.ReplID = cur.Durable().Offset, cur.ReplID()
	}
	return info
}

func splitPort(address string) (string, int) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return address, 0
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		return host, 0
	}
	return host, n
}
