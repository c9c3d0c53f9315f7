package source

import (
	"context"
	"slices"
	"time"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/mirror"
	"github.com/offloader/offloader/internal/spool"
	"github.com/offloader/offloader/internal/stream"
)

const (
	healEvery = 10 * time.Second // between two tries that didn't help
	healFor   = time.Minute      // a try gets this long: new bytes wait for it
)

// hole is a part of the stream that a store lacks, and that the spool has no more.
type hole struct {
	stream.Range
	cause string
	noted bool // in the store, as an event
}

// miss takes what the spool knows that the store may lack, and finds what it does. have are
// the store's segments, larger first, and noted the offsets of the holes that are noted there.
func (p *progress) miss(lack spool.Lack, have []archive.SegmentName, noted map[stream.Offset]bool) {
	segments := make([]archive.Segment, len(have))
	for i, n := range have {
		segments[i].Range = n.Range
	}
	for _, l := range lack.Log {
		for _, m := range archive.Missing(segments, l.Range) {
			p.holes = append(p.holes, hole{Range: m, cause: l.Cause, noted: noted[m.From]})
		}
	}
}

// behind tells that the spool has let go of what the store lacks. Then the store is listed anew:
// small segments before that stay as they are, since the bytes to join them are gone.
func (p *progress) behind(t *spool.Timeline) bool { return p.base < t.Trimmed() }

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

// heal brings what the spool no longer has from another store, some of it at a time. Holes are
// noted in the store before, so that its readers know what happened.
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
	held, err := holdsFirst(t)
	if err != nil {
		return err
	}
	snapshot := !p.first && !held
	if len(p.holes) == 0 && !snapshot || time.Since(p.healed) < healEvery {
		return nil
	}
	p.healed = time.Now()
	for _, other := range sh.s.shippers {
		if other == sh || sh.s.failing(other.n) {
			continue
		}
		helped, err := sh.healFrom(ctx, other, t, p, snapshot)
		if err != nil {
			sh.s.log.Warn("a store can't be healed now", "store", sh.store.String(), "from", other.store.String(), "error", err)
		}
		if helped {
			p.healed = time.Time{} // there may be more
			return nil
		}
	}
	return nil
}

// healFrom copies the snapshot, or the beginning of a hole, from another store.
func (sh *shipper) healFrom(ctx context.Context, other *shipper, t *spool.Timeline, p *progress, snapshot bool) (helped bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, healFor)
	defer cancel()
	info := t.Info()
	theirs, err := archive.LoadTimeline(ctx, other.store, info.Source, info.Timeline)
	if err != nil {
		return false, err
	}
	ours, err := archive.LoadTimeline(ctx, sh.store, info.Source, info.Timeline)
	if err != nil {
		return false, err
	}
	c := &mirror.Copier{From: other.store, To: sh.store}
	if snapshot && slices.ContainsFunc(theirs.Snapshots, func(s archive.Snapshot) bool { return s.Offset == info.Offset }) {
		if err := c.Snapshots(ctx, theirs, ours); err != nil {
			return false, err
		}
		p.first = true
		sh.s.log.Info("the store got the snapshot from another one", "store", sh.store.String(), "from", other.store.String(), "timeline", info.Timeline)
		return true, sh.s.got(sh.n, t, true, nil)
	}
	for i, h := range p.holes {
		part := stream.Range{From: h.From, To: min(h.To, h.From+stream.Offset(sh.s.o.Target))}
		left, err := c.Log(ctx, theirs, ours, part)
		if err != nil {
			return false, err
		}
		got := archive.Missing(segmentsOf(left), part)
		if len(got) == 0 {
			continue // the other one hasn't got it either
		}
		var rest []hole
		for _, r := range archive.Missing(segmentsOf(got), h.Range) {
			rest = append(rest, hole{Range: r, cause: h.cause, noted: true})
		}
		p.holes = slices.Replace(p.holes, i, i+1, rest...)
		sh.s.log.Info("the store got what it lacked from another one", "store", sh.store.String(), "from", other.store.String(), "timeline", info.Timeline, "range", part.String(), "holes", len(p.holes))
		return true, sh.s.got(sh.n, t, false, got)
	}
	return false, nil
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
