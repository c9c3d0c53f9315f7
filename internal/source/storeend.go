package source

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/crypt"
	"github.com/offloader/offloader/internal/spool"
	"github.com/offloader/offloader/internal/stale"
	"github.com/offloader/offloader/internal/stream"
	"github.com/offloader/offloader/internal/syncer"
)

// findWhereStoreEnds looks in the store, when the spool holds nothing, for the newest timeline
// and its last boundary: the archive goes on there as a branch, without a full sync where the
// master allows. What the stores have is learnt by the way, also beside a link that goes on with what
// the spool holds. It tries until all stores have answered: where the link waits for that, so often.
func (s *Source) findWhereStoreEnds(ctx context.Context, linkWaits bool) {
	longest := 30 * time.Second
	for wait := time.Second; ctx.Err() == nil; wait = min(2*wait, longest) {
		lost, names, err := s.lookIntoStores(ctx)
		var locked *crypt.IdentityError
		if err == nil || errors.As(err, &locked) {
			s.mu.Lock()
			s.names = names
			if s.cur == nil {
				s.lost, s.noLost = lost, err
			}
			s.noAnswer = nil
			s.mu.Unlock()
			switch {
			case err != nil:
				s.log.Warn("the spool holds nothing, and to go on where the stores end takes an identity: a full sync follows", "error", err, "hint", syncer.Hint(err))
			case lost != nil:
				s.log.Info("the spool holds nothing: going on where the stores end", "timeline", lost.timeline, "offset", lost.at.Offset)
			}
			return
		}
		if linkWaits {
			s.mu.Lock()
			s.noAnswer = err
			s.mu.Unlock()
			s.log.Error("a store does not answer, and the spool holds nothing: the link waits, so as not to begin anew what could go on", "error", err, "hint", syncer.Hint(err))
		} else {
			longest = 10 * time.Minute // the shippers tell what is wrong
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
}

// lookIntoStores learns at the start what the stores hold: the names that are taken, and, where the
// spool holds nothing, where the archive can go on. Where it holds a timeline, from when on its
// moments can be restored. The spool is looked into first: what leaves it meanwhile is in a store.
func (s *Source) lookIntoStores(ctx context.Context) (*resumePoint, map[string]bool, error) {
	s.mu.Lock()
	cur := s.cur
	s.mu.Unlock()
	views, err := spool.View(s.o.Spool.Dir(), s.o.Name)
	if err != nil {
		return nil, nil, err
	}
	cat, err := s.load(ctx)
	if err != nil {
		if cur != nil && cat != nil {
			s.newestSnapshot(cat.Timeline(cur.Info().Timeline)) // as far as it is known
		}
		return nil, nil, err
	}
	names := map[string]bool{}
	for _, t := range cat.Timelines {
		names[t.Timeline] = true
	}
	if cur == nil {
		stored := pastIn(ctx, cat)
		s.mu.Lock()
		s.stored = stored
		s.mu.Unlock()
		lost, err := s.storeEnd(ctx, cat, func(*archive.Timeline) bool { return true })
		return lost, names, err
	}
	for _, v := range views {
		cat.Add(v)
	}
	s.lookBack(cat, cur)
	s.lookForSuspicion(cat, cur.Info().Timeline)
	return nil, names, nil
}

// load unites what all stores hold. Each must answer: one that doesn't may have the newest. Where none has
// answered in full there is no catalog.
func (s *Source) load(ctx context.Context) (*archive.Catalog, error) {
	var all *archive.Catalog
	var errs []error
	whole := false
	for _, sh := range s.shippers {
		cat, err := archive.Load(ctx, sh.store, s.o.Name, s.o.Identity)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		// A timeline that can't be looked into because the store has gone meanwhile is not there, and may be the
		// newest. One that is damaged stays so.
		known := len(errs)
		for _, problem := range cat.Problems {
			if !errors.As(problem, new(*archive.DamageError)) {
				errs = append(errs, problem)
			}
		}
		whole = whole || len(errs) == known
		s.holds(sh.n, stale.Of(cat))
		if all == nil {
			all = cat
			continue
		}
		for _, t := range cat.Timelines {
			all.Add(t)
		}
	}
	if !whole {
		all = nil
	}
	return all, errors.Join(errs...)
}

// united is what the stores that answer hold, and the spool, which is looked into first; nil where none does. The
// error tells of those that don't.
func (s *Source) united(ctx context.Context) (*archive.Catalog, error) {
	views, err := spool.View(s.o.Spool.Dir(), s.o.Name)
	if err != nil {
		return nil, err
	}
	cat, err := s.load(ctx)
	if cat != nil {
		for _, v := range views {
			cat.Add(v)
		}
	}
	return cat, err
}

// storeEnd is where the newest timeline that can be restored ends: a branch goes on there, and
// what is acknowledged from then on can be restored too. A timeline without a snapshot that leads to
// its end is no such one, nor is what follows a hole. Only those that are wanted count.
func (s *Source) storeEnd(ctx context.Context, cat *archive.Catalog, wanted func(*archive.Timeline) bool) (*resumePoint, error) {
	for i := len(cat.Timelines) - 1; i >= 0; i-- {
		t := cat.Timelines[i]
		if !wanted(t) {
			continue
		}
		windows, err := cat.Windows(t)
		if err != nil || len(windows) == 0 {
			s.log.Warn("nothing leads to where this timeline ends: it can't be gone on with", "timeline", t.Timeline, "offset", t.End(), "error", err)
			continue
		}
		to := windows[len(windows)-1].To
		if to.Offset < t.Offset {
			continue // all of it was lost: its parent goes on
		}
		if to.Offset < t.End() {
			s.log.Warn("the end of this timeline can't be restored: going on before it", "timeline", t.Timeline, "end", t.End(), "offset", to.Offset)
		}
		parts, err := cat.Chain(t)
		if err != nil {
			return nil, err
		}
		at, err := cursorAt(ctx, parts, to)
		if err != nil {
			return nil, err
		}
		return &resumePoint{timeline: t.Timeline, id: t.ReplIDAt(at.Offset), at: at}, nil
	}
	return nil, nil
}

// cursorAt finds what is selected at the end of a window. Where that is the end of an encrypted segment,
// the segment says it to everybody. Only where nothing else says it, as when other hands have
// encrypted the archive, it takes an identity: if it was guessed, the next bytes of the stream would
// be taken for another database's.
func cursorAt(ctx context.Context, parts []archive.Part, to archive.Position) (stream.Cursor, error) {
	var encrypted *archive.Segment
	for _, p := range parts {
		for _, seg := range p.Timeline.Segments {
			switch {
			case seg.From >= to.Offset || to.Offset > min(seg.To, p.To):
			case !seg.Encrypted:
				return cursorIn(ctx, seg, to.Offset)
			case seg.To == to.Offset:
				db, ok, err := seg.EndDB(ctx)
				if ok || err != nil {
					return stream.Cursor{Offset: seg.To, DB: db, Time: seg.Time1}, err
				}
				fallthrough
			default:
				encrypted = &seg
			}
		}
	}
	for _, p := range parts {
		for _, snap := range p.Timeline.Snapshots {
			if snap.Offset == to.Offset {
				info, err := snap.Info(ctx)
				return stream.Cursor{Offset: snap.Offset, DB: info.DB, Time: snap.Time}, err
			}
		}
	}
	if encrypted != nil {
		return cursorIn(ctx, *encrypted, to.Offset)
	}
	return stream.Cursor{}, fmt.Errorf("nothing in the stores ends at offset %d", to.Offset)
}

// cursorIn reads a segment up to an offset.
func cursorIn(ctx context.Context, seg archive.Segment, at stream.Offset) (stream.Cursor, error) {
	r, err := seg.Open(ctx)
	if err != nil {
		return stream.Cursor{}, err
	}
	return lastBoundary(r, seg.From, at)
}

// Pruned finds anew from when on every moment can be restored: retention has been at work in a store. A
// listing beside a compaction may show a hole that isn't there, so there are two.
func (s *Source) Pruned(ctx context.Context) error {
	s.mu.Lock()
	cur := s.cur
	s.mu.Unlock()
	if cur == nil {
		return nil
	}
	var since stream.Time
	for range 2 {
		cat, err := s.united(ctx)
		if err != nil {
			return err
		}
		t := cat.Timeline(cur.Info().Timeline)
		if t == nil {
			return nil
		}
		windows, err := cat.Windows(t)
		if err != nil || len(windows) == 0 {
			return err
		}
		if from := windows[len(windows)-1].From.Time; since == 0 || from < since {
			since = from
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cur == cur {
		s.since = max(s.since, since)
	}
	return nil
}

// lookBack finds from when on every moment of the spool's timeline can be restored, and its last
// snapshot. Where nothing leads to what is being archived, that must be told, and loudly.
func (s *Source) lookBack(cat *archive.Catalog, cur *spool.Timeline) {
	t := cat.Timeline(cur.Info().Timeline)
	if t == nil { // it got another name meanwhile, or is gone
		return
	}
	broken, since := leads(cat, t)
	s.mu.Lock()
	if s.cur == cur {
		s.isBroken(broken)
		if s.since == 0 {
			s.since = since
		}
	}
	s.mu.Unlock()
	s.newestSnapshot(t)
}

// leads is why nothing leads to the end of t, "" where something does, and from when on all of it can be
// restored, or could.
func leads(cat *archive.Catalog, t *archive.Timeline) (broken string, since stream.Time) {
	windows, err := cat.Windows(t)
	if err != nil {
		return err.Error(), 0
	}
	n := len(windows)
	if n == 0 {
		return "no snapshot of it is left", 0
	}
	if windows[n-1].To.Offset < t.End() {
		gaps, err := cat.Gaps(t)
		broken = fmt.Sprintf("nothing leads from offset %d on", windows[n-1].To.Offset)
		if err == nil && len(gaps) > 0 {
			last := gaps[len(gaps)-1]
			broken = fmt.Sprintf("offsets %d to %d are missing: %s", last.From.Offset, last.To.Offset, last.Cause)
		}
	}
	return broken, windows[n-1].From.Time
}

// isBroken takes note of why what is being archived can't be restored, with s.mu held.
func (s *Source) isBroken(why string) {
	switch {
	case why != "" && why != s.broken:
		s.log.Error("what is being archived can't be restored", "timeline", s.cur.Info().Timeline, "cause", why, "hint", brokenHint)
	case why == "" && s.broken != "":
		s.log.Info("what is being archived can be restored again", "timeline", s.cur.Info().Timeline)
	}
	s.broken = why
}

// brokenHint is what to do when nothing leads to what is being archived.
const brokenHint = "`offloader snapshot` takes a new snapshot: from that on every moment can be restored; what another archive has, `offloader copy` brings"

// lookIfBroken has it looked anew whether nothing leads to what is being archived, where that was so.
func (s *Source) lookIfBroken() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.broken != "" {
		signal(s.look)
	}
}

// keepLooking looks anew what can be restored, when a store has lost what it had and while nothing leads
// to what is being archived. All stores have to answer: one that doesn't may have what the others lack.
func (s *Source) keepLooking(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.look:
		}
		if err := s.lookAgain(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn("whether what is being archived can be restored isn't known before all stores answer", "error", err)
			signal(s.look)
			select {
			case <-ctx.Done():
			case <-time.After(shipRetry):
			}
		}
	}
}

func (s *Source) lookAgain(ctx context.Context) error {
	s.mu.Lock()
	cur, was := s.cur, s.snapshot
	s.mu.Unlock()
	if cur == nil {
		return nil
	}
	var t *archive.Timeline
	var broken string
	var since stream.Time
	for range 2 { // a listing beside a compaction may show a hole that isn't there
		cat, err := s.united(ctx)
		if err != nil {
			return err
		}
		if t = cat.Timeline(cur.Info().Timeline); t == nil {
			return nil
		}
		if broken, since = leads(cat, t); broken == "" {
			break
		}
	}
	s.mu.Lock()
	if s.cur != cur {
		s.mu.Unlock()
		return nil
	}
	s.isBroken(broken)
	s.since = max(s.since, since)
	if s.snapshot == was {
		s.snapshot = nil // it may be gone
	}
	s.mu.Unlock()
	s.newestSnapshot(t)
	return nil
}

// lookForSuspicion learns whether a timeline is suspect: what the spool remembers of that may be lost, and a release
// goes to the stores.
func (s *Source) lookForSuspicion(cat *archive.Catalog, timeline string) {
	i := slices.IndexFunc(cat.Timelines, func(t *archive.Timeline) bool { return t.Timeline == timeline })
	if i < 0 {
		return
	}
	if t := cat.Timelines[i]; !t.Suspect() {
		s.release(timeline)
	} else if is := suspicionIn(cat.Timelines[:i], t); s.Suspect() == nil || s.Suspect().Before == "" {
		s.guard.change(timeline, func(m *memory) { m.Suspicion = is })
	}
	s.guard.sure()
}

// newestSnapshot takes note of a timeline's, if it is the one that is written.
func (s *Source) newestSnapshot(t *archive.Timeline) {
	if t == nil || len(t.Snapshots) == 0 {
		return
	}
	last := t.Snapshots[len(t.Snapshots)-1]
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cur != nil && s.cur.Info().Timeline == t.Timeline && (s.snapshot == nil || s.snapshot.Offset < last.Offset) {
		s.snapshot = &Moment{Offset: last.Offset, Time: last.Time}
	}
}
