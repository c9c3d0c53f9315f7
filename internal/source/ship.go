package source

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/spool"
	"github.com/offloader/offloader/internal/stale"
	"github.com/offloader/offloader/internal/stream"
	"github.com/offloader/offloader/internal/syncer"
)

const (
	shipEvery  = 250 * time.Millisecond
	shipRetry  = 10 * time.Second // the longest wait after an error of the store
	drainFor   = 6 * time.Second  // what is left at the end gets this long
	lookEvery  = time.Minute      // whether the store still has what it had: a request, which is paid for
	segmentDir = "log/"
)

// shipper brings what the spool holds to one store, timeline by timeline in order of birth: its
// timeline.json, its snapshot, its events, its stream. Each store has a shipper of its own, which
// waits for no other; what they share is the ledger, which tells the spool what it may let go of.
//
// The stream goes twice. Every Interval what is durable becomes a small segment, so that the store
// is never far behind. When Target bytes, or MaxSpan, have come together since the last compacted
// segment, all of it becomes one compacted segment, the small ones are deleted, and the spool
// may let its bytes go. Under load Target is there before Interval, and there are no small ones.
type shipper struct {
	s         *Source
	n         int // of the store, in the order of the configuration
	store     Store
	encoders  *Encoders
	interval  time.Duration
	hurry     chan struct{} // capacity 1: the spool is about to be full
	lookEvery time.Duration
	dir       string
	progress  map[*spool.Timeline]*progress
	healing   chan healed // nil: nothing is being healed

	slow *Encoders // bring's
	mu   sync.Mutex
	done map[*spool.Timeline]*broughtOf // by bring
}

// progress is how far one timeline has come. It is found in the store's listing: there is no file
// that could be lost or disagree.
type progress struct {
	base   stream.Offset          // end of the last compacted segment
	stored stream.Cursor          // end of the last segment
	small  []string               // segments behind base
	gone   []string               // segments within larger ones, to be deleted
	since  time.Time              // what is behind stored came no earlier; zero: nothing is there
	began  time.Time              // when the first byte behind base was stored
	first  bool                   // the snapshot that the timeline began with is there
	taken  map[stream.Offset]bool // snapshots that are there
	events map[string]bool        // of the spool's, those that are there; never changed
	pruned stream.Offset          // what is before it and is not there, retention took
	holes  []hole                 // before stored, what the spool let go of while the store was away
	healed time.Time              // when that was last tried in vain
	looked time.Time              // when timeline.json was last there
	ended  bool                   // the timeline gets no more events; asked before they were stored
	early  bool                   // an event waits for the stream to come to it
}

// ship runs until ctx ends, and then once more to bring what came last.
func (sh *shipper) ship(ctx context.Context) {
	retry := shipEvery
	for {
		sh.noteLag(time.Now())
		err := sh.pass(ctx, false)
		sh.noteShipping(ctx, err)
		wait := sh.idle(time.Now())
		if err == nil {
			retry = shipEvery
		} else {
			retry = min(2*retry, shipRetry)
			wait = retry
		}
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainFor)
			if err := sh.pass(last, true); err != nil {
				sh.s.log.Warn("not all was brought to the store; the spool keeps the rest", "store", sh.store.String(), "error", err)
			}
			cancel()
			if sh.healing != nil {
				<-sh.healing // what it has brought, the listing tells
			}
			return
		case <-sh.hurry:
		case <-time.After(wait):
		}
	}
}

// idle is how long nothing is due: less than shipEvery where a small segment is before that.
func (sh *shipper) idle(now time.Time) time.Duration {
	wait := shipEvery
	for _, p := range sh.progress {
		if !p.since.IsZero() {
			wait = min(wait, p.since.Add(sh.interval).Sub(now))
		}
	}
	return max(wait, time.Millisecond)
}

// pass does what is due now. At the end everything is.
func (sh *shipper) pass(ctx context.Context, end bool) error {
	all := sh.s.src.Timelines()
	for i, t := range all {
		if err := sh.advance(ctx, t, i == len(all)-1, end); err != nil {
			delete(sh.progress, t) // what failed may have been done all the same: the listing tells
			return err
		}
	}
	for t := range sh.progress {
		if !slices.Contains(all, t) {
			delete(sh.progress, t)
		}
	}
	sh.forgetBrought(func(t *spool.Timeline) bool { return slices.Contains(all, t) })
	return sh.s.letGo() // what was healed or ended last
}

// hasEnded tells whether all is said of a timeline that is not the newest: its events are in the
// spool, and nothing more will come.
func (s *Source) hasEnded(t *spool.Timeline) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ended[t]
}

// advance does what is due of one timeline, and enters what the store has by then.
func (sh *shipper) advance(ctx context.Context, t *spool.Timeline, newest, end bool) (err error) {
	p := sh.progress[t]
	if p != nil && newest {
		if p, err = sh.stillThere(ctx, t, p); err != nil {
			return err
		}
	}
	if p == nil || p.behind(t) {
		if p, err = sh.begin(ctx, t); err != nil {
			return err
		}
		sh.progress[t] = p
	}
	p.ended = sh.s.hasEnded(t)                   // asked first: then its last events are among those that are stored now
	if err := sh.events(ctx, t, p); err != nil { // before anything can be restored of one that is suspect
		return err
	}
	if err := sh.snapshots(ctx, t, p, newest); err != nil {
		return err
	}
	if err := sh.stream(ctx, t, p, newest, end); err != nil {
		return err
	}
	if p.early { // what it is of may be there by now
		if err := sh.events(ctx, t, p); err != nil {
			return err
		}
	}
	if err := sh.heal(ctx, t, p); err != nil {
		return err
	}
	sh.enter(t, p, newest)
	return nil
}

// begin claims the timeline in the store and finds what the store has of it. It is listed first: what
// the spool lets go of meanwhile is then either seen as gone here, or makes the progress out of date
// (behind).
func (sh *shipper) begin(ctx context.Context, t *spool.Timeline) (*progress, error) {
	if err := sh.own(ctx, t); err != nil {
		return nil, err
	}
	entries, err := sh.store.List(ctx, sh.path(t, ""))
	if err != nil {
		return nil, err
	}
	info := t.Info()
	var have []archive.SegmentName
	noted, taken, pruned := map[stream.Offset]bool{}, map[stream.Offset]bool{}, info.Offset
	for _, e := range entries {
		name := strings.TrimPrefix(e.Name, sh.path(t, "")+"/")
		if n, err := archive.ParseSegmentName(name); err == nil {
			have = append(have, n)
		}
		if n, sidecar, err := archive.ParseSnapshotName(name); err == nil && sidecar {
			taken[n.Offset] = true
		}
		n, err := archive.ParseEventName(name)
		switch {
		case err == nil && n.Kind == archive.EventHole:
			noted[n.Offset] = true
		case err == nil && n.Kind == archive.EventPruned:
			e, err := archive.ReadEvent(ctx, sh.store, info.Source, info.Timeline, n)
			if err != nil {
				return nil, err
			}
			pruned = max(pruned, e.To)
		}
	}
	lack, held, trimmed, err := sh.s.gone(sh.n, t)
	if err != nil {
		return nil, err
	}
	p := sh.found(max(trimmed, pruned), have)
	p.pruned, p.taken, p.looked = pruned, taken, time.Now()
	p.miss(lack, stream.Range{From: pruned, To: trimmed}, have, noted)
	// Without a snapshot that should be there it was there, and retention took it.
	p.first = taken[info.Offset] || pruned > info.Offset || !held && !lack.Snapshot
	return p, sh.cutAgain(t, p)
}

// cutAgain has the log cut at the snapshots that an earlier life of the daemon took.
func (sh *shipper) cutAgain(t *spool.Timeline, p *progress) error {
	pending, err := t.Snapshots()
	if err != nil {
		return err
	}
	for _, s := range pending {
		if s.Offset > p.base {
			sh.s.ledger.cut(t, s.Offset)
		}
	}
	for at := range p.taken {
		if at > p.base {
			sh.s.ledger.cut(t, at)
		}
	}
	return nil
}

// own claims the timeline's name. Where another daemon archives this master into this store, and
// began in the same millisecond, the timeline takes another one, as long as no store knows it.
func (sh *shipper) own(ctx context.Context, t *spool.Timeline) error {
	for {
		info := t.Info()
		err := sh.claim(ctx, t, info)
		if again, err := sh.s.settleName(sh.n, t, info, err); !again {
			return err
		}
	}
}

// settleName decides what becomes of a claim of store n, by the name that t had before.
func (s *Source) settleName(n int, t *spool.Timeline, before archive.TimelineInfo, claim error) (again bool, err error) {
	s.naming.Lock()
	defer s.naming.Unlock()
	switch {
	case t.Info().Timeline != before.Timeline:
		return true, nil // for another store's sake, meanwhile
	case claim == nil:
		s.ledger.claim(n, t)
		return false, nil
	case !errors.Is(claim, fs.ErrExist) || s.ledger.claimedElsewhere(n, t) || t.Trimmed() > before.Offset:
		return false, claim
	}
	if err := s.src.Rename(t, s.freeName(before.Began+1, before.ReplID)); err != nil {
		return false, err
	}
	s.guard.renamed(before.Timeline, t.Info().Timeline)
	return true, nil
}

// claim makes the timeline exist in the store. It fails with fs.ErrExist where another spool has
// taken its name. What this one wrote before, in other words perhaps, stays. A store that is new
// lacks what the spool has let go of; that is kept first. A listing tells that it is new: a disk that
// is not mounted knows no file either.
func (sh *shipper) claim(ctx context.Context, t *spool.Timeline, info archive.TimelineInfo) error {
	entries, err := sh.store.List(ctx, path.Join(info.Source, info.Timeline))
	if err != nil {
		return err
	}
	name := info.Path(archive.TimelineFile)
	if !slices.ContainsFunc(entries, func(e archive.Entry) bool { return e.Name == name }) {
		alone := false // a branch whose parent is not here either
		if info.Parent != nil {
			parent, err := sh.store.List(ctx, path.Join(info.Source, info.Parent.Timeline))
			if err != nil {
				return err
			}
			alone = len(parent) == 0
		}
		if err := sh.s.isNew(sh.n, t, alone, sh.whyNew(t)); err != nil {
			return err
		}
		if err := archive.WriteTimeline(ctx, sh.store, info); !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	there, err := archive.ReadTimeline(ctx, sh.store, info.Source, info.Timeline)
	if err != nil {
		return err
	}
	if there.Spool == info.Spool && there.ReplID == info.ReplID && there.Offset == info.Offset {
		return nil
	}
	return fmt.Errorf("timeline %s of source %s was taken by another spool: %w", info.Timeline, info.Source, fs.ErrExist)
}

// found works out the progress from the segments that the store has. What is before start was
// compacted, or let go of.
func (sh *shipper) found(start stream.Offset, have []archive.SegmentName) *progress {
	slices.SortFunc(have, func(a, b archive.SegmentName) int {
		return cmp.Or(cmp.Compare(a.From, b.From), cmp.Compare(b.To, a.To)) // larger first
	})
	p := &progress{base: start, stored: stream.Cursor{Offset: start}}
	reach := stream.Offset(-1) // of those before
	for _, n := range have {
		switch {
		case n.To <= reach:
			p.gone = append(p.gone, n.String()) // within a larger one: a killed compaction
			continue
		case n.To <= p.stored.Offset:
		case n.From > p.stored.Offset:
			// A hole in the store, which the spool still fills: what follows comes again.
		default:
			p.stored = stream.Cursor{Offset: n.To, Time: n.Time1}
			if n.Len() >= sh.s.o.Target || n.Time1.Go().Sub(n.Time0.Go()) >= sh.s.o.MaxSpan || n.From < p.base {
				p.base, p.small, p.began = n.To, nil, time.Time{}
			} else {
				p.small = append(p.small, n.String())
				if p.began.IsZero() {
					p.began = n.Time0.Go()
				}
			}
		}
		reach = n.To
	}
	return p
}

// snapshots stores the one that the timeline began with, and takes note of those that bring has stored.
func (sh *shipper) snapshots(ctx context.Context, t *spool.Timeline, p *progress, newest bool) error {
	sh.s.mu.Lock()
	sh.s.shipped[sh.n].waiting = newest && !p.first
	sh.s.mu.Unlock()
	pending, err := t.Snapshots()
	if err != nil {
		return err
	}
	brought, begins := sh.brought(t)
	for at := range brought {
		p.taken[at] = true
	}
	p.first = p.first || begins
	for _, s := range pending {
		if p.taken[s.Offset] {
			p.first = p.first || s.First
		}
		if p.taken[s.Offset] || !s.First || s.Offset < p.pruned {
			continue
		}
		err := sh.snapshot(ctx, t, s, sh.encoders)
		if errors.Is(err, errGone) {
			continue
		}
		if err != nil {
			return fmt.Errorf("store the snapshot: %w", err)
		}
		p.taken[s.Offset] = true
		p.first = p.first || s.First
	}
	return nil
}

// errGone says that the spool has let go of a snapshot for want of room: heal brings it.
var errGone = errors.New("the snapshot is no longer in the spool")

func (sh *shipper) snapshot(ctx context.Context, t *spool.Timeline, s spool.Snapshot, encoders *Encoders) error {
	f, err := os.Open(s.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return errGone
	}
	if err != nil {
		return err
	}
	enc, err := encoders.take(ctx)
	if err != nil {
		return errors.Join(err, f.Close())
	}
	began := time.Now()
	stored, err := archive.WriteSnapshot(ctx, sh.store, enc, sh.s.o.Name, t.Info().Timeline, s.SnapshotInfo, f)
	encoders.give(enc)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	sh.s.holds(sh.n, stale.Held{Since: t.Info().Began, Snapshot: s.Time, Stored: s.Time})
	sh.s.log.Info("the snapshot is stored", "store", sh.store.String(), "timeline", t.Info().Timeline, "offset", s.Offset, "bytes", stored.Bytes, "stored", stored.StoredBytes, "took", time.Since(began).Round(time.Millisecond))
	return nil
}

// events stores those that the spool still has. A count of the master's keys waits for the stream up to there: who
// finds it in the store has to find there what leads to it.
func (sh *shipper) events(ctx context.Context, t *spool.Timeline, p *progress) error {
	pending, err := t.Events()
	if err != nil {
		return err
	}
	have := map[string]bool{}
	p.early = false
	for _, e := range pending {
		if e.Kind == archive.EventCounted && e.Offset > p.stored.Offset {
			p.early, p.ended = true, false
			continue
		}
		if !p.events[e.Name()] {
			if err := sh.event(ctx, t, e); err != nil {
				return err
			}
		}
		have[e.Name()] = true
	}
	p.events = have
	return nil
}

// event stores one. That it is there, in other words, is no error: each is written once.
func (sh *shipper) event(ctx context.Context, t *spool.Timeline, e archive.Event) error {
	err := archive.WriteEvent(ctx, sh.store, sh.s.o.Name, t.Info().Timeline, e)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("store an event: %w", err)
	}
	return nil
}

// stream seals what is due. A timeline that is not the newest one gets no more: all of it is due.
func (sh *shipper) stream(ctx context.Context, t *spool.Timeline, p *progress, newest, end bool) error {
	for ctx.Err() == nil {
		if err := sh.tidy(ctx, t, p); err != nil {
			return err
		}
		sh.enter(t, p, newest)
		if err := sh.s.letGo(); err != nil {
			return err
		}
		now := time.Now() // first: what is behind upTo came later
		upTo := t.Durable()
		if to, due := sh.due(t, p, upTo, newest); due && sh.s.ledger.reserve(sh.n, t, stream.Range{From: p.base, To: to.Offset}) {
			if err := sh.compact(ctx, t, p, to, now); err != nil {
				return err
			}
			continue
		}
		if upTo.Offset <= p.stored.Offset {
			p.since = time.Time{}
			return nil
		}
		if p.since.IsZero() {
			p.since = now
		}
		if now.Sub(p.since) < sh.interval && !end {
			return nil
		}
		// The next compaction cuts where a chunk begins: no small segment may straddle that.
		cut, more := t.CutAfter(max(p.stored.Offset+1, p.base+stream.Offset(sh.s.o.Target)))
		if more = more && cut < upTo.Offset; !more {
			cut = upTo.Offset
		}
		name, err := sh.seal(ctx, t, stream.Range{From: p.stored.Offset, To: cut})
		if err != nil {
			return err
		}
		p.stored = stream.Cursor{Offset: cut, Time: name.Time1}
		p.small = append(p.small, name.String())
		if p.began.IsZero() {
			p.began = now
		}
		sh.sealed(name)
		if !more {
			p.since = now
			return nil
		}
	}
	return ctx.Err()
}

// pressed tells whether so many bytes that wait to be compacted should go now, to make room. Where
// many sources share a small spool it may be full before any of them has much.
func (s *Source) pressed(waiting int64) bool {
	s.mu.Lock()
	stuck := s.roomErr != nil
	s.mu.Unlock()
	return stuck || s.o.Spool.Pressed() && waiting > s.o.Spool.MaxSize()/16
}

// due is up to where all behind base should become one segment now: to a snapshot, to where a chunk
// begins when there is enough, or, when it is time or the spool needs room, to the end.
func (sh *shipper) due(t *spool.Timeline, p *progress, upTo stream.Cursor, newest bool) (to stream.Cursor, due bool) {
	if cut, ok := sh.s.ledger.nextCut(t, p.base); ok && cut <= upTo.Offset {
		return stream.Cursor{Offset: cut, Time: upTo.Time}, true
	}
	if cut, ok := t.CutAfter(p.base + stream.Offset(sh.s.o.Target)); ok {
		return stream.Cursor{Offset: cut, Time: upTo.Time}, true
	}
	old := !p.began.IsZero() && time.Since(p.began) >= sh.s.o.MaxSpan
	ended := !newest && upTo.Offset == t.Boundary().Offset
	return upTo, upTo.Offset > p.base && (old || ended || sh.s.pressed(int64(upTo.Offset-p.base)))
}

// compact makes one segment of all behind base up to a boundary. When it is stored, what it
// replaces can go. What is behind the boundary came at about now, when that was chosen.
func (sh *shipper) compact(ctx context.Context, t *spool.Timeline, p *progress, to stream.Cursor, now time.Time) error {
	name, err := sh.seal(ctx, t, stream.Range{From: p.base, To: to.Offset})
	if err != nil {
		return err
	}
	sh.sealed(name)
	small := p.small
	p.base, p.small, p.began = to.Offset, nil, time.Time{}
	if to.Offset >= p.stored.Offset {
		p.stored, p.since = stream.Cursor{Offset: to.Offset, Time: name.Time1}, now
	}
	for _, n := range small {
		s, err := archive.ParseSegmentName(n)
		switch {
		case err == nil && s.From < to.Offset && to.Offset < s.To: // a snapshot has come into it
			if n, err = sh.half(ctx, t, stream.Range{From: to.Offset, To: s.To}); err != nil {
				return err
			}
			p.small, p.gone = append(p.small, n), append(p.gone, s.String())
		case err == nil && s.To > to.Offset:
			p.small = append(p.small, n) // lies beyond: the next compaction takes it
		case n != name.String():
			p.gone = append(p.gone, n)
		}
	}
	return nil
}

// half stores what is left of a small segment behind a cut.
func (sh *shipper) half(ctx context.Context, t *spool.Timeline, r stream.Range) (string, error) {
	name, err := sh.seal(ctx, t, r)
	if err != nil {
		return "", err
	}
	sh.sealed(name)
	return name.String(), nil
}

// tidy deletes the small segments that compaction has replaced. What fails is tried again. What
// the store keeps stays there for whoever applies retention: it costs room and harms nobody, since
// a reader takes the larger segment.
func (sh *shipper) tidy(ctx context.Context, t *spool.Timeline, p *progress) error {
	for len(p.gone) > 0 {
		err := sh.delete(ctx, t, p.gone[0])
		if errors.Is(err, archive.ErrKept) {
			sh.s.log.Warn("segments that were compacted stay in the store", "store", sh.store.String(), "count", len(p.gone), "why", err, "hint", syncer.Hint(err))
			p.gone = nil
			break
		}
		if err != nil {
			return err
		}
		p.gone = p.gone[1:]
	}
	return nil
}

func (sh *shipper) sealed(n archive.SegmentName) {
	sh.s.mu.Lock()
	defer sh.s.mu.Unlock()
	sh.s.shipped[sh.n].seals++
	sh.s.shipped[sh.n].bytes += n.Len()
	sh.s.log.Debug("a segment is stored", "range", n.Range.String())
}

// delete removes a segment that a larger one replaces.
func (sh *shipper) delete(ctx context.Context, t *spool.Timeline, name string) error {
	err := sh.store.Delete(ctx, sh.path(t, name))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if err != nil {
		return fmt.Errorf("delete a segment that was compacted: %w", err)
	}
	return nil
}
