package source

import (
	"context"
	"errors"
	"io/fs"
	"math"
	"slices"
	"time"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/mirror"
	"github.com/offloader/offloader/internal/spool"
	"github.com/offloader/offloader/internal/stale"
	"github.com/offloader/offloader/internal/stream"
)

const (
	healEvery = 10 * time.Second // between two tries that didn't help
	healFor   = 5 * time.Minute  // a segment gets this long
)

// hole is a part of the stream that a store lacks, and that the spool has no more.
type hole struct {
	stream.Range
	cause string
	noted bool // in the store, as an event
}

// gone is what the spool no longer has of t: what store n may lack for it, whether the first snapshot
// is held, and from where on the stream is.
func (s *Source) gone(n int, t *spool.Timeline) (lack spool.Lack, held bool, trimmed stream.Offset, err error) {
	s.letting.Lock()
	defer s.letting.Unlock()
	store := s.shippers[n].store.String()
	if held, err = holdsFirst(t); err != nil {
		return lack, held, 0, err
	}
	trimmed = t.Trimmed()
	counted, err := t.Stores()
	if err == nil && counted != nil && !slices.Contains(counted, store) {
		info := t.Info()
		err = s.lacks(n, t, info.Parent == nil && !held, stream.Range{From: info.Offset, To: trimmed}, "the store was not written for a while")
	}
	if err != nil {
		return lack, held, trimmed, err
	}
	lack, err = t.Lack(store)
	return lack, held, trimmed, err
}

// miss takes what the spool knows that the store may lack within a range, and finds what it does.
// have are the store's segments, larger first, and noted the offsets of the holes that are noted there.
func (p *progress) miss(lack spool.Lack, within stream.Range, have []archive.SegmentName, noted map[stream.Offset]bool) {
	segments := make([]archive.Segment, len(have))
	for i, n := range have {
		segments[i].Range = n.Range
	}
	for _, l := range lack.Log {
		clipped := stream.Range{From: max(l.From, within.From), To: min(l.To, within.To)}
		for _, m := range archive.Missing(segments, clipped) {
			p.holes = append(p.holes, hole{Range: m, cause: l.Cause, noted: noted[m.From]})
		}
	}
}

// behind tells that the spool has let go of what the store lacks. Then the store is listed anew:
// small segments before that stay as they are, since the bytes to join them are gone.
func (p *progress) behind(t *spool.Timeline) bool { return p.base < t.Trimmed() }

// stillThere forgets the progress of the timeline that is written if the store, to which that leads,
// was emptied or made again. Retention lets that one's timeline.json be.
func (sh *shipper) stillThere(ctx context.Context, t *spool.Timeline, p *progress) (*progress, error) {
	now := time.Now()
	if now.Sub(p.looked) < sh.lookEvery {
		return p, nil
	}
	p.looked = now
	sh.s.lookIfBroken()
	info := t.Info()
	_, err := archive.ReadTimeline(ctx, sh.store, info.Source, info.Timeline)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // begin finds out what that means
	}
	return p, err
}

// whyNew is why the store knows nothing of t. Where it did know the timeline that is written, somebody has
// emptied it, or made it again: then all that is known of it is forgotten.
func (sh *shipper) whyNew(t *spool.Timeline) string {
	if t != sh.s.newest() || !sh.s.ledger.of(t)[sh.n].claimed {
		return "the store is new"
	}
	sh.s.log.Error("the store has nothing any more of what it had: it is begun anew", "store", sh.store.String(), "timeline", t.Info().Timeline,
		"hint", "who has emptied it? Another store heals it; where there is none, only what the spool has is stored again")
	clear(sh.progress)
	sh.forgetBrought(func(*spool.Timeline) bool { return false })
	sh.s.ledger.lost(sh.n)
	sh.s.mu.Lock()
	sh.s.shipped[sh.n].held = stale.Held{}
	sh.s.mu.Unlock()
	signal(sh.s.look)
	return "the store was emptied"
}

// whole is up to where nothing is missing of t; nothing is there without the snapshot.
func (p *progress) whole() stream.Offset {
	switch {
	case !p.first:
		return 0
	case len(p.holes) > 0:
		return p.holes[0].From
	}
	return p.stored.Offset
}

// heal brings what the spool no longer has from another store, some of it at a time and beside what
// is shipped: a store that hangs as it is read holds up no other. Holes are noted in the store before,
// so that its readers know what happened.
func (sh *shipper) heal(ctx context.Context, t *spool.Timeline, p *progress) error {
	for i := range p.holes {
		h := &p.holes[i]
		if h.noted {
			continue
		}
		sh.s.log.Error("this store has a hole: it will be healed from another one", "store", sh.store.String(), "timeline", t.Info().Timeline, "range", h.Range.String(), "cause", h.cause)
		event := archive.Event{Kind: archive.EventHole, Offset: h.From, To: h.To, Time: stream.TimeOf(time.Now()), Cause: h.cause}
		if err := sh.event(ctx, t, event); err != nil {
			return err
		}
		h.noted = true
	}
	if err := sh.healed(); err != nil || sh.healing != nil {
		return err
	}
	held, err := holdsFirst(t)
	if err != nil {
		return err
	}
	if len(p.holes) == 0 && (p.first || held) || time.Since(p.healed) < healEvery {
		return nil
	}
	p.healed = time.Now()
	done, holes := make(chan healed, 1), slices.Clone(p.holes)
	go func() { done <- sh.healOnce(ctx, t, holes) }() // ship waits for it at its end
	sh.healing = done
	return nil
}

// healed is what came of a try to heal a timeline.
type healed struct {
	of       *spool.Timeline
	got      []stream.Range // now there
	answered bool           // all other stores have
	pruned   stream.Offset  // what is before that, retention took in all of them
	first    stream.Offset  // of the snapshots that are there
}

// healed takes note of what came of the last try, if it has ended.
func (sh *shipper) healed() error {
	var h healed
	select {
	case h = <-sh.healing:
		sh.healing = nil
	default:
		return nil
	}
	p := sh.progress[h.of]
	switch {
	case !slices.Contains(sh.s.src.Timelines(), h.of):
		return nil // the spool has let go of it
	case len(h.got) > 0:
		if p != nil {
			p.holes, p.healed = without(p.holes, h.got), time.Time{} // there may be more
		}
		return sh.s.got(sh.n, h.of, false, h.got)
	case h.answered && p != nil:
		return sh.giveUp(p, h)
	}
	return nil
}

// without is what is left of holes.
func without(holes []hole, got []stream.Range) []hole {
	var left []hole
	for _, h := range holes {
		for _, r := range archive.Missing(segmentsOf(got), h.Range) {
			left = append(left, hole{Range: r, cause: h.cause, noted: h.noted})
		}
	}
	return left
}

// healOnce copies the beginning of a hole from the first store that has it. It works beside ship, and
// touches nothing of its progress.
func (sh *shipper) healOnce(ctx context.Context, t *spool.Timeline, holes []hole) healed {
	h := healed{of: t, pruned: math.MaxInt64, first: math.MaxInt64}
	answers := 0
	for _, other := range sh.s.shippers {
		if other == sh || sh.s.failing(other.n) {
			continue
		}
		got, theirs, err := sh.healFrom(ctx, other, t, holes)
		if err != nil {
			if ctx.Err() == nil { // else it was told to stop
				sh.s.log.Warn("a store can't be healed now", "store", sh.store.String(), "from", other.store.String(), "error", err)
			}
			continue
		}
		if len(got) > 0 {
			h.got = got
			return h
		}
		answers, h.pruned = answers+1, min(h.pruned, theirs.Pruned())
		if theirs.Parent != nil {
			h.first = 0
		}
		for _, s := range theirs.Snapshots {
			h.first = min(h.first, s.Offset)
		}
	}
	h.answered = answers == len(sh.s.shippers)-1
	if answers == 0 {
		h.pruned = 0
	}
	return h
}

// giveUp lets go of what no store has any more, when all the others have answered: what retention took
// there, and what nothing leads to before a snapshot here.
func (sh *shipper) giveUp(p *progress, h healed) error {
	var left []hole
	var lost []stream.Range
	for _, m := range p.holes {
		if to := min(m.To, max(h.pruned, p.leads(m.From, h.first))); m.From < to {
			lost = append(lost, stream.Range{From: m.From, To: to})
			m.From = to
		}
		if m.Len() > 0 {
			left = append(left, m)
		}
	}
	info := h.of.Info()
	first := !p.first && info.Offset < max(h.pruned, p.leads(info.Offset, h.first))
	if len(lost) == 0 && !first {
		return nil
	}
	sh.s.log.Warn("no store has any more what this one lacks: retention has taken it, or it was lost. It is done without", "store", sh.store.String(), "timeline", info.Timeline, "lost", lost, "snapshot", first)
	p.holes, p.first = left, p.first || first
	return sh.s.got(sh.n, h.of, first, lost)
}

// leads is the first snapshot here behind an offset, if elsewhere none is older; 0 where there is none.
func (p *progress) leads(behind, elsewhere stream.Offset) (at stream.Offset) {
	for o := range p.taken {
		if behind < o && o <= elsewhere && (at == 0 || o < at) {
			at = o
		}
	}
	return at
}

// healFrom copies the beginning of a hole from another store, and gives what that has of the timeline.
func (sh *shipper) healFrom(ctx context.Context, other *shipper, t *spool.Timeline, holes []hole) (got []stream.Range, theirs *archive.Timeline, err error) {
	ctx, cancel := context.WithTimeout(ctx, healFor)
	defer cancel()
	info := t.Info()
	theirs, err = archive.LoadTimeline(ctx, other.store, info.Source, info.Timeline)
	if err != nil {
		return nil, nil, err
	}
	ours, err := archive.LoadTimeline(ctx, sh.store, info.Source, info.Timeline)
	if err != nil {
		return nil, nil, err
	}
	c := &mirror.Copier{From: other.store, To: sh.store}
	for _, h := range holes {
		part := stream.Range{From: h.From, To: min(h.To, h.From+stream.Offset(sh.s.o.Target))}
		left, err := c.Log(ctx, theirs, ours, part)
		if err != nil {
			return nil, nil, err
		}
		if got = archive.Missing(segmentsOf(left), part); len(got) > 0 { // else the other one hasn't got it either
			sh.s.log.Info("the store got what it lacked from another one", "store", sh.store.String(), "from", other.store.String(), "timeline", info.Timeline, "range", part.String())
			break
		}
	}
	return got, theirs, nil
}

// failing tells whether the last pass over store n failed.
func (s *Source) failing(n int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.shipped[n].err != nil
}

// awayFor is why store n lacks what the spool lets go of.
func (s *Source) awayFor(n int) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.shipped[n].err; err != nil {
		return "the spool was full while this store could not be written: " + err.Error()
	}
	return "the spool was full, and this store too slow"
}
