package source

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"sync"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/spool"
	"github.com/offloader/offloader/internal/stream"
)

// ledger is what each store has of each timeline, as its shipper has found it. From it follows what
// the spool may let go of: what all stores have. Of a store that has not answered yet nothing is
// known, and nothing is let go of.
type ledger struct {
	mu     sync.Mutex
	stores []map[*spool.Timeline]entry
	cuts   map[*spool.Timeline][]stream.Offset // where snapshots are: the log is cut there
	held   map[*spool.Timeline]stream.Offset   // where one will perhaps be: nothing is compacted across
}

// entry is what one store has of one timeline.
type entry struct {
	begun    bool                   // it is known what the store has
	claimed  bool                   // timeline.json, by this spool
	base     stream.Offset          // all before it is compacted, or can't be had from the spool any more
	stored   stream.Offset          // all from base to it is there
	whole    stream.Offset          // nothing before it is missing, the snapshot neither; never falls
	reserved stream.Offset          // what is being compacted will end there; 0: not known
	first    bool                   // the snapshot that the timeline began with
	taken    map[stream.Offset]bool // snapshots that were taken later
	events   map[string]bool
	holes    []Hole
	lack     []Hole // what the spool let go of; what is before base of it was looked for, and is in holes if it is missing
	done     bool   // all of it, and no more will come
}

func newLedger(stores int) *ledger {
	l := &ledger{cuts: map[*spool.Timeline][]stream.Offset{}, held: map[*spool.Timeline]stream.Offset{}}
	for range stores {
		l.stores = append(l.stores, map[*spool.Timeline]entry{})
	}
	return l
}

// enter takes note of what store n has of t. It tells whether whole has risen.
func (l *ledger) enter(n int, t *spool.Timeline, e entry) (risen bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	was := l.stores[n][t]
	e.begun, e.claimed = true, true
	e.reserved = max(e.base, was.reserved)
	e.whole = max(e.whole, was.whole) // a master takes no acknowledgement back
	e.lack = was.lack
	l.stores[n][t] = e
	return e.whole > was.whole
}

// lacks takes note of what store n may lack of t, for the spool has it no more.
func (l *ledger) lacks(n int, t *spool.Timeline, lack spool.Lack) {
	var all []Hole
	for _, r := range lack.Log {
		all = append(all, Hole{Timeline: t.Info().Timeline, From: r.From, To: r.To, Cause: r.Cause})
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.stores[n][t]
	e.lack = all
	l.stores[n][t] = e
}

// claim takes note that store n has t's timeline.json.
func (l *ledger) claim(n int, t *spool.Timeline) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.stores[n][t]
	e.claimed = true
	l.stores[n][t] = e
}

// lost takes note that store n has nothing of what it had. What was acknowledged stays so.
func (l *ledger) lost(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for t, e := range l.stores[n] {
		l.stores[n][t] = entry{whole: e.whole, lack: e.lack}
	}
}

// claimedElsewhere tells whether another store than n has t's timeline.json.
func (l *ledger) claimedElsewhere(n int, t *spool.Timeline) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, store := range l.stores {
		if i != n && store[t].claimed {
			return true
		}
	}
	return false
}

// of is what the stores have of t, in the order of the configuration.
func (l *ledger) of(t *spool.Timeline) []entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []entry
	for _, store := range l.stores {
		all = append(all, store[t])
	}
	return all
}

// stored is up to where every store has t without a hole.
func (l *ledger) stored(t *spool.Timeline) stream.Offset {
	l.mu.Lock()
	defer l.mu.Unlock()
	at := l.stores[0][t].whole
	for _, store := range l.stores[1:] {
		at = min(at, store[t].whole)
	}
	return at
}

// holes are those of store n, in order; also such that it has not been asked about since, as it is away.
func (l *ledger) holes(n int) []Hole {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := []Hole{}
	for _, e := range l.stores[n] {
		all = append(all, e.holes...)
		for _, h := range e.lack {
			if h.From = max(h.From, e.base); h.From < h.To {
				all = append(all, h)
			}
		}
	}
	slices.SortFunc(all, func(a, b Hole) int { return cmp.Or(cmp.Compare(a.Timeline, b.Timeline), cmp.Compare(a.From, b.From)) })
	joined := all[:0]
	for _, h := range all {
		if n := len(joined) - 1; n >= 0 && joined[n] == (Hole{Timeline: h.Timeline, From: joined[n].From, To: h.From, Cause: h.Cause}) {
			joined[n].To = h.To
			continue
		}
		joined = append(joined, h)
	}
	return joined
}

// only forgets all timelines but these, which the spool still holds.
func (l *ledger) only(held []*spool.Timeline) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, store := range l.stores {
		maps.DeleteFunc(store, func(t *spool.Timeline, _ entry) bool { return !slices.Contains(held, t) })
	}
	maps.DeleteFunc(l.held, func(t *spool.Timeline, _ stream.Offset) bool { return !slices.Contains(held, t) })
	maps.DeleteFunc(l.cuts, func(t *spool.Timeline, _ []stream.Offset) bool { return !slices.Contains(held, t) })
}

// hold keeps compaction from going across an offset of t, where a snapshot may come to be. It fails
// where a store has a compacted segment across it, or is making one.
func (l *ledger) hold(t *spool.Timeline, at stream.Offset) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, store := range l.stores {
		if e := store[t]; e.reserved > at {
			return fmt.Errorf("offset %d lies in what is compacted already, up to %d", at, e.reserved)
		}
	}
	l.held[t] = at
	return nil
}

// confirm has the log of t cut at an offset that was held, and is a boundary.
func (l *ledger) confirm(t *spool.Timeline, at stream.Offset) {
	l.cut(t, at)
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.held, t)
}

// cut has the log of t cut at an offset, where a snapshot is.
func (l *ledger) cut(t *spool.Timeline, at stream.Offset) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !slices.Contains(l.cuts[t], at) {
		l.cuts[t] = append(l.cuts[t], at)
		slices.Sort(l.cuts[t])
	}
}

// uncut takes back a cut, or that it was held.
func (l *ledger) uncut(t *spool.Timeline, at stream.Offset) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.held, t)
	l.cuts[t] = slices.DeleteFunc(l.cuts[t], func(o stream.Offset) bool { return o == at })
}

// nextCut is the first cut of t behind an offset.
func (l *ledger) nextCut(t *spool.Timeline, behind stream.Offset) (at stream.Offset, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, at := range l.cuts[t] {
		if at > behind {
			return at, true
		}
	}
	return 0, false
}

// reserve takes note that store n gets a compacted segment of r. It tells whether that may be: no
// cut may lie inside.
func (l *ledger) reserve(n int, t *spool.Timeline, r stream.Range) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, at := range l.cuts[t] {
		if r.From < at && at < r.To {
			return false
		}
	}
	if at, held := l.held[t]; held && r.From < at && at < r.To {
		return false
	}
	e := l.stores[n][t]
	e.reserved = max(e.reserved, r.To)
	l.stores[n][t] = e
	return true
}

// letGo lets the spool go of what all stores have. When the spool is about to be full, it goes on
// with the oldest that at least one of them has: the others get it from there (heal).
func (s *Source) letGo() error {
	s.letting.Lock()
	defer s.letting.Unlock()
	all := s.src.Timelines()
	for i, t := range all {
		if err := s.letGoOf(t, s.ledger.of(t), i == len(all)-1); err != nil {
			return fmt.Errorf("let go of timeline %s in the spool: %w", t.Info().Timeline, err)
		}
	}
	all = s.src.Timelines()
	s.ledger.only(all)
	for _, t := range all {
		if err := s.letGoForRoom(t, s.ledger.of(t)); err != nil {
			return fmt.Errorf("make room in the spool: %w", err)
		}
	}
	return nil
}

func (s *Source) letGoOf(t *spool.Timeline, have []entry, newest bool) error {
	each := func(ok func(entry) bool) bool {
		return !slices.ContainsFunc(have, func(e entry) bool { return !ok(e) })
	}
	if !newest && each(func(e entry) bool { return e.done }) {
		s.mu.Lock()
		delete(s.ended, t)
		s.mu.Unlock()
		return s.src.Drop(t)
	}
	snapshots, err := t.Snapshots()
	if err != nil {
		return err
	}
	for _, s := range snapshots {
		if each(func(e entry) bool { return s.First && e.first || e.taken[s.Offset] }) {
			if err := t.DropSnapshot(s); err != nil {
				return err
			}
		}
	}
	for name := range have[0].events {
		if each(func(e entry) bool { return e.events[name] }) {
			if err := t.DropEvent(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	base := have[0].base
	for _, e := range have[1:] {
		base = min(base, e.base)
	}
	if base > t.Trimmed() {
		if err := s.count(t, have); err != nil {
			return err
		}
	}
	return t.Trim(base)
}

// letGoForRoom lets go of what one store has and another lacks, as long as the spool is crowded.
// What that is, is kept before it goes.
func (s *Source) letGoForRoom(t *spool.Timeline, have []entry) error {
	if len(have) < 2 || !s.o.Spool.Crowded() {
		return nil
	}
	best := slices.MaxFunc(have, func(a, b entry) int { return cmp.Compare(a.base, b.base) }).base
	if s.o.Spool.Tight() {
		if err := s.letGoOfSnapshots(t, have); err != nil {
			return err
		}
	}
	for s.o.Spool.Crowded() {
		from := t.Trimmed()
		cut, ok := t.CutAfter(from + 1)
		if !ok || cut > best {
			return nil
		}
		for n, e := range have {
			if err := s.lacks(n, t, false, stream.Range{From: max(from, e.stored), To: cut}, s.awayFor(n)); err != nil {
				return err
			}
		}
		if err := s.count(t, have); err != nil {
			return err
		}
		if err := t.Trim(cut); err != nil {
			return err
		}
	}
	return nil
}

// letGoOfSnapshots lets go of the one that the timeline began with, if one store has it. The others
// are not needed, and small in number.
func (s *Source) letGoOfSnapshots(t *spool.Timeline, have []entry) error {
	snapshots, err := t.Snapshots()
	if err != nil {
		return err
	}
	for _, snap := range snapshots {
		if !snap.First || !slices.ContainsFunc(have, func(e entry) bool { return e.first }) {
			continue
		}
		for n, e := range have {
			if err := s.lacks(n, t, !e.first, stream.Range{}, s.awayFor(n)); err != nil {
				return err
			}
		}
		if err := t.DropSnapshot(snap); err != nil {
			return err
		}
	}
	return nil
}

// lacks keeps what store n can't get from the spool any more. s.letting is held.
func (s *Source) lacks(n int, t *spool.Timeline, snapshot bool, r stream.Range, cause string) error {
	store := s.shippers[n].store.String()
	l, err := t.Lack(store)
	if err != nil {
		return err
	}
	log, grown := united(l.Log, spool.LackRange{Range: r, Cause: cause})
	if !grown && (!snapshot || l.Snapshot) {
		return nil
	}
	if len(log) > len(l.Log) {
		s.log.Error("a store lacks what the spool has let go of: it will get it from another store", "store", store, "timeline", t.Info().Timeline, "range", r.String(), "cause", cause)
	}
	return s.setLack(n, t, spool.Lack{Snapshot: l.Snapshot || snapshot, Log: log})
}

// setLack keeps what store n may lack of t, in the spool and where the status sees it.
func (s *Source) setLack(n int, t *spool.Timeline, l spool.Lack) error {
	if err := t.SetLack(s.shippers[n].store.String(), l); err != nil {
		return err
	}
	s.ledger.lacks(n, t, l)
	return nil
}

// lackAgain has the status see what the stores may lack since an earlier life of the daemon.
func (s *Source) lackAgain(all []*spool.Timeline) error {
	for _, t := range all {
		for n, sh := range s.shippers {
			l, err := t.Lack(sh.store.String())
			if err != nil {
				return err
			}
			s.ledger.lacks(n, t, l)
		}
	}
	return nil
}

// united adds a range to others, which are in order and apart. It tells whether that changed them.
func united(all []spool.LackRange, r spool.LackRange) ([]spool.LackRange, bool) {
	if r.Len() == 0 {
		return all, false
	}
	var out []spool.LackRange
	for _, o := range all {
		if o.From <= r.From && r.To <= o.To {
			return all, false
		}
		if o.To < r.From || r.To < o.From {
			out = append(out, o)
			continue
		}
		r = spool.LackRange{Range: stream.Range{From: min(o.From, r.From), To: max(o.To, r.To)}, Cause: o.Cause}
	}
	out = append(out, r)
	slices.SortFunc(out, func(a, b spool.LackRange) int { return cmp.Compare(a.From, b.From) })
	return out, true
}

// count keeps which stores the spool asks before it lets go of more of t: those that counted before, and
// those of which it is known by now what they have. s.letting is held.
func (s *Source) count(t *spool.Timeline, have []entry) error {
	before, err := t.Stores()
	if err != nil {
		return err
	}
	var names []string
	for n, sh := range s.shippers {
		if name := sh.store.String(); have[n].begun || slices.Contains(before, name) {
			names = append(names, name)
		}
	}
	if slices.Equal(before, names) {
		return nil
	}
	return t.SetStores(names)
}

// isNew takes note that store n knows nothing of t, and why: it lacks what the spool no longer has, and,
// where t is a branch and alone, what it continues.
func (s *Source) isNew(n int, t *spool.Timeline, alone bool, cause string) error {
	s.letting.Lock()
	defer s.letting.Unlock()
	info := t.Info()
	held, err := holdsFirst(t)
	if err != nil {
		return err
	}
	return s.lacks(n, t, alone || info.Parent == nil && !held, stream.Range{From: info.Offset, To: t.Trimmed()}, cause)
}

// holdsFirst tells whether the spool still has the snapshot that t began with.
func holdsFirst(t *spool.Timeline) (bool, error) {
	snapshots, err := t.Snapshots()
	return slices.ContainsFunc(snapshots, func(s spool.Snapshot) bool { return s.First }), err
}

// got takes note that store n has got what it lacked from another store.
func (s *Source) got(n int, t *spool.Timeline, snapshot bool, ranges []stream.Range) error {
	s.letting.Lock()
	defer s.letting.Unlock()
	store := s.shippers[n].store.String()
	l, err := t.Lack(store)
	if err != nil {
		return err
	}
	left := spool.Lack{Snapshot: l.Snapshot && !snapshot}
	for _, was := range l.Log {
		for _, r := range archive.Missing(segmentsOf(ranges), was.Range) {
			left.Log = append(left.Log, spool.LackRange{Range: r, Cause: was.Cause})
		}
	}
	return s.setLack(n, t, left)
}

// segmentsOf lets ranges be reckoned with as segments are.
func segmentsOf(ranges []stream.Range) []archive.Segment {
	all := make([]archive.Segment, len(ranges))
	for i, r := range ranges {
		all[i].Range = r
	}
	return all
}
