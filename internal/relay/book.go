package relay

import (
	"cmp"
	"errors"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/offloader/offloader/internal/stream"
)

// Replica is what is known of one that is attached, or was.
type Replica struct {
	Address      string        `json:"address"` // where it listens, as far as it says
	State        string        `json:"state"`   // copying, online, away
	Since        stream.Time   `json:"since"`
	Offset       stream.Offset `json:"offset"`   // that it last acknowledged
	AckTime      stream.Time   `json:"ack_time"` // when; null: not yet
	Version      string        `json:"version,omitempty"`
	FullSyncs    int64         `json:"full_syncs"`
	PartialSyncs int64         `json:"partial_syncs"`
	SentBytes    int64         `json:"sent_bytes"`        // of RDBs and of the stream
	Own          bool          `json:"own,omitempty"`     // it is the source's own engine
	PutOff       string        `json:"put_off,omitempty"` // why it was, last; "": it has loaded what it got since
	Hint         string        `json:"hint,omitempty"`    // what ends that
	Seen         stream.Time   `json:"-"`                 // when it last said anything, or took some of a copy; 0: never
}

// Listens tells whether it is a server, that can be asked what it is. A tool gives no port.
func (r Replica) Listens() bool {
	_, port, err := net.SplitHostPort(r.Address)
	return err == nil && port != "0"
}

// States of a Replica.
const (
	Copying = "copying"
	Online  = "online"
	Away    = "away"
)

const (
	maxReplicas = 64
	// maxCopies is how many full syncs run at once. The others ask again each second, and who has asked for
	// longest is next.
	maxCopies = 16
	// reserved is how many more of each are for the source's own engine, which others wait for: an earlier connection of
	// its own may not be seen to have ended.
	reserved = 4
	// stillAsks is how long after its last try a replica still counts as waiting.
	stillAsks = 5 * time.Second
	// maxKnown is how many replicas are remembered, those that are away too.
	maxKnown = 256
	// freeCopies is how many full syncs a replica gets without having loaded one, before it has to wait
	// longer each time. One that can't load what it gets asks some twenty times a second.
	freeCopies  = 3
	copyPause   = 2 * time.Second
	longestWait = time.Minute
	// ownWait is the longest for the source's own engine. It may have died while it loaded, each time.
	ownWait = 5 * time.Second
)

// book knows the replicas, by address.
type book struct {
	mu      sync.Mutex
	known   map[string]*entry
	copying int
	serving int
	rates   Rates
}

// Rates are how many bytes a second a replica took in the last full copy that was large enough to tell: of
// the RDB, from its first byte to the first acknowledgement, so that its loading is in it, and of the
// stream behind it. 0: not known yet.
type Rates struct{ RDB, Stream float64 }

// tells is from how many bytes on a rate is taken for one.
const tells = 1 << 20

type entry struct {
	Replica
	conns  int // more than one when it comes back before its old connection is seen to end
	came   int // how often it has; the last of its connections is the one that it has, the others are about to end
	failed int // full syncs since it has last loaded one
	next   time.Time
	load   load

	waits time.Time // since when it has asked for a full sync's turn; zero: it doesn't wait
	asked time.Time // when last

	told     string // what was last said of it in the log, and when
	toldTime time.Time
}

// load is how a full copy goes.
type load struct {
	began, loaded time.Time     // loaded: the first acknowledgement
	bytes         int64         // of the RDB
	from          stream.Offset // that was acknowledged first
}

func newBook() *book { return &book{known: map[string]*entry{}} }

// list is all that are known, by address. One that waits for its answer was there until now.
func (b *book) list(now time.Time) []Replica {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := []Replica{}
	for _, e := range b.known {
		r := e.Replica
		if r.State == Away && e.conns > 0 {
			r.Since = stream.TimeOf(now)
		}
		all = append(all, r)
	}
	slices.SortFunc(all, func(a, b Replica) int { return cmp.Compare(a.Address, b.Address) })
	return all
}

// attach takes note that a replica comes, for the nth time. Unless there are too many, leave has to follow.
func (b *book) attach(address, version string, own bool, now time.Time) (n int, later *LaterError) {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.known[address]
	if e == nil {
		b.forgetOne()
		e = &entry{Replica: Replica{Address: address, State: Away, Since: stream.TimeOf(now)}}
		b.known[address] = e
	}
	if e.conns == 0 && now.Sub(e.Since.Go()) > stillAsks { // that was another time
		e.PutOff, e.Hint = "", ""
	}
	e.Own, e.Version = own, version
	if b.serving >= e.places(maxReplicas) {
		if e.conns == 0 {
			e.Since = stream.TimeOf(now)
		}
		return 0, &LaterError{Why: "as many replicas are attached as are served at once"}
	}
	b.serving++
	e.conns++
	e.came++
	return e.came, nil
}

// places are how many there are for a replica, of those for all.
func (e *entry) places(all int) int {
	if e.Own {
		return all + reserved
	}
	return all
}

// forgetOne makes room for one more: of those that are away, it forgets the one that is so longest.
func (b *book) forgetOne() {
	if len(b.known) < maxKnown {
		return
	}
	var oldest *entry
	for _, e := range b.known {
		if e.conns == 0 && (oldest == nil || e.Since < oldest.Since) {
			oldest = e
		}
	}
	if oldest != nil { // there is one: maxReplicas is less than maxKnown
		delete(b.known, oldest.Address)
	}
}

// leave takes note that a replica's connection has ended.
func (b *book) leave(address string, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.serving--
	if e := b.known[address]; e != nil {
		e.conns--
		if e.conns == 0 {
			e.State, e.Since = Away, stream.TimeOf(now)
		}
	}
}

// beginCopy asks for a full sync's turn. endCopy has to follow where it is given.
func (b *book) beginCopy(address string, now time.Time) *LaterError {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.known[address]
	switch {
	case now.Before(e.next):
		return &LaterError{Why: "this replica got several full copies and could load none of them. It gets another one later",
			Do: "see its log: it says why, or where it died; an older engine, or another product, can't load the snapshot"}
	case b.copying+b.before(e, now) >= e.places(maxCopies):
		if !e.waiting(now) {
			e.waits = now
		}
		e.asked = now
		return &LaterError{Why: "as many full syncs are running as are served at once"}
	}
	e.waits = time.Time{}
	b.copying++
	return nil
}

func (e *entry) waiting(now time.Time) bool {
	return !e.waits.IsZero() && now.Sub(e.asked) < stillAsks
}

// before counts those who wait and came before e. The source's own engine doesn't stand in line.
func (b *book) before(e *entry, now time.Time) (n int) {
	if e.Own {
		return 0
	}
	for _, o := range b.known {
		if o != e && o.waiting(now) && (!e.waiting(now) || o.waits.Before(e.waits)) {
			n++
		}
	}
	return n
}

// gets takes note that a full copy goes out, to one that loads it, or to a tool, which says nothing of that. n is what attach
// gave: what a connection takes that the replica has no more says nothing of it.
func (b *book) gets(address string, n int, bytes int64, loads bool, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.known[address]
	e.FullSyncs++
	if n != e.came {
		return
	}
	if loads {
		e.failed++
		if e.failed >= freeCopies {
			longest := longestWait
			if e.Own {
				longest = ownWait
			}
			e.next = now.Add(min(longest, copyPause<<min(e.failed-freeCopies, 10)))
		}
	}
	e.State, e.Since, e.load = Copying, stream.TimeOf(now), load{began: now, bytes: bytes}
}

// endCopy gives the turn to another: the RDB has gone out, or did not come about.
func (b *book) endCopy() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.copying--
}

// streams takes note that a replica gets the stream from here on.
func (b *book) streams(address string, n int, partial bool, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.known[address]
	if partial {
		e.PartialSyncs++
	}
	if n == e.came {
		e.State, e.Since = Online, stream.TimeOf(now)
	}
}

// sent takes note of so many bytes that went out. Those of a copy are taken by somebody who is there: they are many more than a
// connection takes that nobody has.
func (b *book) sent(address string, n, bytes int, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.known[address]
	e.SentBytes += int64(bytes)
	if n == e.came && e.State == Copying {
		e.Seen = stream.TimeOf(now)
	}
}

// heard takes note that a replica has said something: an acknowledgement, or a newline while it loads.
func (b *book) heard(address string, n int, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if e := b.known[address]; n == e.came {
		e.Seen = stream.TimeOf(now)
	}
}

// acked takes note of an acknowledgement: a replica that gives one has loaded what it got.
func (b *book) acked(address string, at stream.Offset, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.known[address]
	b.measure(e, at, now)
	e.Offset, e.AckTime = at, stream.TimeOf(now)
	e.failed, e.next = 0, time.Time{}
	e.PutOff, e.Hint = "", ""
}

// measure takes the rates of a full copy from what is acknowledged: until it has caught up, there is more for
// it to take all the time.
func (b *book) measure(e *entry, at stream.Offset, now time.Time) {
	l := &e.load
	switch {
	case l.began.IsZero():
	case l.loaded.IsZero():
		l.loaded, l.from = now, at
		if d := now.Sub(l.began).Seconds(); l.bytes >= tells && d > 0 {
			b.rates.RDB = float64(l.bytes) / d
		}
	default:
		n, d := int64(at-l.from), now.Sub(l.loaded).Seconds()
		if n >= tells && d > 0 {
			b.rates.Stream = max(b.rates.Stream, float64(n)/d)
		}
		if now.Sub(l.loaded) > time.Minute || at == e.Offset {
			*l = load{} // it has caught up, more or less
		}
	}
}

func (b *book) measured() Rates {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.rates
}

// putOff takes note of why the archive has nothing for a replica.
func (b *book) putOff(address string, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.known[address]
	if e == nil || errors.Is(err, net.ErrClosed) { // it has left by itself
		return
	}
	e.PutOff, e.Hint = err.Error(), ""
	if h := interface{ Hint() string }(nil); errors.As(err, &h) {
		e.Hint = h.Hint()
	}
}

// tell tells whether something is news of a replica: the log of one that asks each second stays short.
func (b *book) tell(address, what string, now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.known[address]
	if e == nil || e.told == what && now.Sub(e.toldTime) < time.Minute {
		return false
	}
	e.told, e.toldTime = what, now
	return true
}
