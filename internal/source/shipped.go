package source

import (
	"context"
	"fmt"
	"maps"
	"time"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/spool"
	"github.com/offloader/offloader/internal/stale"
	"github.com/offloader/offloader/internal/stream"
	"github.com/offloader/offloader/internal/syncer"
)

// shipped is how one store is doing, for the status.
type shipped struct {
	of      *spool.Timeline
	stored  stream.Cursor // end of what is stored of it, the newest timeline
	err     error         // of the last pass, nil when it went well
	errs    int64
	seals   int64     // segments stored, compacted ones too
	bytes   int64     // of stream in them
	waiting bool      // the newest timeline's snapshot is not stored yet
	late    time.Time // since when the store has been lacking something durable of it; zero: it lacks nothing

	held   stale.Held // of all timelines, as far as it is known
	verify *Verify    // the last, in this life of the daemon
}

// holds takes note of what store n has, beside what is known.
func (s *Source) holds(n int, held stale.Held) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.shipped[n].held = s.shipped[n].held.With(held)
}

// Verified takes note of what came of a verify of what a store, by its name, has of this source.
func (s *Source) Verified(store string, v Verify) {
	for n, sh := range s.shippers {
		if sh.store.String() != store {
			continue
		}
		if v.Findings == 0 && v.Error == "" {
			s.holds(n, stale.Held{Verified: v.Time})
		}
		s.mu.Lock()
		s.shipped[n].verify = &v
		s.mu.Unlock()
	}
}

// Booted takes note of what came of booting a scratch engine from what is archived of this source.
func (s *Source) Booted(v Verify) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.boot = &v
}

// Note keeps an event of a timeline that is still spooled, for all stores.
func (s *Source) Note(timeline string, e archive.Event) error {
	s.mu.Lock()
	src := s.src
	s.mu.Unlock()
	if src == nil {
		return errStopped
	}
	for _, t := range src.Timelines() {
		if t.Info().Timeline != timeline {
			continue
		}
		if err := t.AddEvent(e); err != nil {
			return err
		}
		if e.Kind == archive.EventBooted {
			for n := range s.shippers {
				s.holds(n, stale.Held{Booted: e.Time})
			}
		}
		return nil
	}
	return fmt.Errorf("timeline %s is no longer written", timeline)
}

// enter puts what was found of t into the ledger and the status.
func (sh *shipper) enter(t *spool.Timeline, p *progress, newest bool) {
	at := t.Boundary().Offset
	e := entry{base: p.base, stored: p.stored.Offset, whole: p.whole(), first: p.first, taken: maps.Clone(p.taken), events: p.events}
	e.done = p.ended && p.first && len(p.holes) == 0 && p.base == at && t.Durable().Offset == at
	for _, h := range p.holes {
		e.holes = append(e.holes, Hole{Timeline: t.Info().Timeline, From: h.From, To: h.To, Cause: h.cause})
	}
	if sh.s.ledger.enter(sh.n, t, e) {
		signal(sh.s.risen)
	}
	sh.s.holds(sh.n, stale.Held{Since: t.Info().Began, Stored: p.stored.Time})
	if !newest {
		return
	}
	sh.s.mu.Lock()
	defer sh.s.mu.Unlock()
	have := &sh.s.shipped[sh.n]
	have.of, have.stored = t, p.stored
	sh.look(have, time.Now())
}

// noteLag keeps since when the store has been behind. It looks before each pass, so an error of the
// store doesn't hide it, and each second, since a store that hangs, or is too slow, never ends a pass.
func (sh *shipper) noteLag(now time.Time) {
	sh.s.mu.Lock()
	defer sh.s.mu.Unlock()
	sh.look(&sh.s.shipped[sh.n], now)
}

// look is noteLag, with the source's lock held.
func (sh *shipper) look(have *shipped, now time.Time) {
	cur := sh.s.cur
	if cur == nil {
		return
	}
	stored := cur.Info().Offset
	if have.of == cur {
		stored = max(stored, have.stored.Offset)
	}
	switch {
	case cur.Durable().Offset <= stored && !have.waiting:
		have.late = time.Time{}
	case have.late.IsZero():
		have.late = now
	}
}

// noteShipping keeps the outcome of a pass for the status, and logs a change of it.
func (sh *shipper) noteShipping(ctx context.Context, err error) {
	if ctx.Err() != nil {
		return
	}
	s := sh.s
	s.mu.Lock()
	have := &s.shipped[sh.n]
	was := have.err
	have.err = err
	if err != nil {
		have.errs++
	}
	s.mu.Unlock()
	switch {
	case err != nil && (was == nil || was.Error() != err.Error()):
		s.log.Error("the store can't be written: the spool keeps what it lacks", "store", sh.store.String(), "error", err, "hint", syncer.Hint(err))
	case err == nil && was != nil:
		s.log.Info("the store can be written again", "store", sh.store.String())
	}
}

// storeStatus is how store n is doing, where durable is the last durable offset of timeline cur.
func (s *Source) storeStatus(n int, have shipped, cur *spool.Timeline, durable stream.Offset, now time.Time) StoreStatus {
	if have.of != cur {
		have.stored = stream.Cursor{} // nothing yet of the timeline that has just begun
	}
	st := StoreStatus{Name: s.shippers[n].store.String(), Stored: have.stored.Offset, StoredTime: have.stored.Time,
		Errors: have.errs, Segments: have.seals, StreamBytes: have.bytes, Holes: s.ledger.holes(n),
		IntervalSeconds: s.shippers[n].interval.Seconds(), Held: have.held, LastVerify: have.verify}
	if have.err != nil {
		st.Error, st.Hint = have.err.Error(), syncer.Hint(have.err)
	}
	base := st.Stored
	if cur != nil {
		base = max(base, cur.Info().Offset)
	}
	st.LagBytes = max(0, int64(durable-base))
	for _, h := range st.Holes { // what is behind base counts already
		if cur == nil || h.Timeline != cur.Info().Timeline || h.From < base {
			st.LagBytes += int64(h.To - h.From)
		}
	}
	if !have.late.IsZero() && (st.LagBytes > 0 || have.waiting) {
		since := have.late
		// Under load there is always something behind, which came after what was stored last. The age of that
		// alone would be no measure: on a quiet master it is old all the time.
		if stored := have.stored.Time.Go(); stored.After(since) && !have.waiting {
			since = stored
		}
		st.LagSeconds = max(0, now.Sub(since).Seconds())
	}
	return st
}

// signal wakes whoever waits on c, which has a capacity of 1.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
