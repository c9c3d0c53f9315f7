package source

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/spool"
	"github.com/offloader/offloader/internal/stream"
	"github.com/offloader/offloader/internal/syncer"
)

const (
	shipEvery  = 250 * time.Millisecond
	shipRetry  = 10 * time.Second // the longest wait after an error of the store
	drainFor   = 6 * time.Second  // what is left at the end gets this long
	segmentDir = "log/"
)

// shipped is what the store has, for the status.
type shipped struct {
	of      *spool.Timeline
	stored  stream.Cursor // end of what is stored of it, the newest timeline
	err     error         // of the last pass, nil when it went well
	errAt   time.Time
	errs    int64
	seals   int64     // segments stored, compacted ones too
	bytes   int64     // of stream in them
	waiting bool      // the newest timeline's snapshot is not stored yet
	late    time.Time // since when the store lacks something durable of it; zero: it lacks nothing
}

// shipper brings what the spool holds to the store, timeline by timeline in order of birth: its
// timeline.json, its snapshot, its events, its stream.
//
// The stream goes twice. Every Interval what is durable becomes a small segment, so that the store
// is never far behind. When Target bytes, or MaxSpan, have come together since the last compacted
// segment, all of it becomes one compacted segment, the small ones are deleted, and the spool
// lets its bytes go. Under load Target is there before Interval, and there are no small ones.
type shipper struct {
	s        *Source
	dir      string
	progress map[*spool.Timeline]*progress
}

// progress is how far one timeline has come. It is found in the store's listing: there is no file
// that could be lost or disagree.
type progress struct {
	base   stream.Offset // end of the last compacted segment
	stored stream.Cursor // end of the last segment
	small  []string      // segments behind base
	gone   []string      // segments within larger ones, to be deleted
	tidied stream.Offset // base, when nothing was left to delete and to trim
	since  time.Time     // when there first was something behind stored, zero: nothing is
	began  time.Time     // when the first byte behind base was stored
}

// ship runs until ctx ends, and then once more to bring what came last.
func (s *Source) ship(ctx context.Context) {
	sh := &shipper{s: s, dir: s.src.Dir(), progress: map[*spool.Timeline]*progress{}}
	wait := shipEvery
	for {
		s.noteLag(time.Now())
		err := sh.pass(ctx, false)
		s.noteShipping(ctx, err)
		if err == nil {
			wait = shipEvery
		} else {
			wait = min(2*wait, shipRetry)
		}
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainFor)
			if err := sh.pass(last, true); err != nil {
				s.log.Warn("not all was brought to the store; the spool keeps the rest", "store", s.o.Store.String(), "error", err)
			}
			cancel()
			return
		case <-time.After(wait):
		}
	}
}

// noteLag keeps since when the store has been behind. It looks before each pass, so an error of the
// store doesn't hide it. The age of what was stored last would be no measure: on a quiet master it
// is old all the time.
func (s *Source) noteLag(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cur == nil {
		return
	}
	sh, stored := &s.shipped, s.cur.Info().Offset
	if sh.of == s.cur {
		stored = max(stored, sh.stored.Offset)
	}
	switch {
	case s.cur.Durable().Offset <= stored && !sh.waiting:
		sh.late = time.Time{}
	case sh.late.IsZero():
		sh.late = now
	}
}

// noteShipping keeps the outcome of a pass for the status, and logs a change of it.
func (s *Source) noteShipping(ctx context.Context, err error) {
	if ctx.Err() != nil {
		return
	}
	s.mu.Lock()
	was := s.shipped.err
	s.shipped.err = err
	if err != nil {
		s.shipped.errAt = time.Now()
		s.shipped.errs++
	}
	s.mu.Unlock()
	switch {
	case err != nil && (was == nil || was.Error() != err.Error()):
		s.log.Error("the store can't be written: the spool keeps what it lacks", "store", s.o.Store.String(), "error", err, "hint", syncer.Hint(err))
	case err == nil && was != nil:
		s.log.Info("the store can be written again", "store", s.o.Store.String())
	}
}

// pass does what is due now. At the end everything is.
func (sh *shipper) pass(ctx context.Context, end bool) error {
	all := sh.s.src.Timelines()
	for i, t := range all {
		newest := i == len(all)-1
		ended := sh.s.hasEnded(t) // asked first: then its last events are among those that are stored now
		done, err := sh.advance(ctx, t, newest, end)
		if err != nil {
			delete(sh.progress, t) // what failed may have been done all the same: the listing tells
			return err
		}
		if done && !newest && ended {
			delete(sh.progress, t)
			sh.s.forget(t)
			if err := sh.s.src.Drop(t); err != nil {
				return fmt.Errorf("let go of timeline %s in the spool: %w", t.Info().Timeline, err)
			}
		}
	}
	return sh.endOrphaned(ctx)
}

// hasEnded tells whether all is said of a timeline that is not the newest: its events are in the
// spool, and nothing more will come.
func (s *Source) hasEnded(t *spool.Timeline) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ended[t]
}

// forget takes t from the ended ones: the spool is about to let go of it.
func (s *Source) forget(t *spool.Timeline) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.ended, t)
}

// endOrphaned notes in the store that a timeline has ended which a branch continues, and of which
// the spool, lost meanwhile, knew nothing.
func (sh *shipper) endOrphaned(ctx context.Context) error {
	sh.s.mu.Lock()
	b := sh.s.orphan
	sh.s.mu.Unlock()
	if b == nil {
		return nil
	}
	event := archive.Event{Kind: archive.EventEnded, Offset: b.at.Offset, Time: max(1, b.at.Time), Cause: b.reason}
	if err := archive.WriteEvent(ctx, sh.s.o.Store, sh.s.o.Name, b.timeline, event); err != nil {
		return fmt.Errorf("note the end of timeline %s: %w", b.timeline, err)
	}
	sh.s.mu.Lock()
	sh.s.orphan = nil
	sh.s.mu.Unlock()
	return nil
}

// advance does what is due of one timeline. done says that the store has all of it.
func (sh *shipper) advance(ctx context.Context, t *spool.Timeline, newest, end bool) (done bool, err error) {
	p := sh.progress[t]
	if p == nil {
		if p, err = sh.begin(ctx, t); err != nil {
			return false, err
		}
		sh.progress[t] = p
	}
	if err := sh.snapshot(ctx, t, newest); err != nil {
		return false, err
	}
	if err := sh.events(ctx, t); err != nil {
		return false, err
	}
	if err := sh.stream(ctx, t, p, newest, end); err != nil {
		return false, err
	}
	if newest {
		sh.s.mu.Lock()
		if have := &sh.s.shipped; have.of != t || have.stored != p.stored {
			have.of, have.stored, have.late = t, p.stored, time.Time{} // what is behind it is younger
		}
		sh.s.mu.Unlock()
	}
	at := t.Boundary().Offset
	return p.base == at && t.Durable().Offset == at, nil
}

// begin claims the timeline in the store and finds what the store has of it.
func (sh *shipper) begin(ctx context.Context, t *spool.Timeline) (*progress, error) {
	err := sh.claim(ctx, t.Info())
	for errors.Is(err, fs.ErrExist) {
		// Another daemon archives this master into this store, and began in the same millisecond.
		info := t.Info()
		if err := sh.s.src.Rename(t, sh.s.freeName(info.Began+1, info.ReplID)); err != nil {
			return nil, err
		}
		err = sh.claim(ctx, t.Info())
	}
	if err != nil {
		return nil, err
	}
	entries, err := sh.s.o.Store.List(ctx, sh.path(t, strings.TrimSuffix(segmentDir, "/")))
	if err != nil {
		return nil, err
	}
	var have []archive.SegmentName
	for _, e := range entries {
		if n, err := archive.ParseSegmentName(strings.TrimPrefix(e.Name, sh.path(t, "")+"/")); err == nil {
			have = append(have, n)
		}
	}
	return sh.found(t, have), nil
}

// claim makes the timeline exist in the store. It fails with fs.ErrExist where another spool has
// taken its name. What this one wrote before, in other words perhaps, stays.
func (sh *shipper) claim(ctx context.Context, info archive.TimelineInfo) error {
	err := archive.WriteTimeline(ctx, sh.s.o.Store, info)
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	there, readErr := archive.ReadTimeline(ctx, sh.s.o.Store, info.Source, info.Timeline)
	if readErr != nil {
		return readErr
	}
	if there.Spool == info.Spool && there.ReplID == info.ReplID && there.Offset == info.Offset {
		return nil
	}
	return err
}

// found works out the progress from the segments that the store has.
func (sh *shipper) found(t *spool.Timeline, have []archive.SegmentName) *progress {
	slices.SortFunc(have, func(a, b archive.SegmentName) int {
		return cmp.Or(cmp.Compare(a.From, b.From), cmp.Compare(b.To, a.To)) // larger first
	})
	start := t.Trimmed() // all before it was compacted, or it would still be here
	p := &progress{base: start, stored: stream.Cursor{Offset: start}, tidied: -1}
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

// snapshot stores the RDB that the timeline began with.
func (sh *shipper) snapshot(ctx context.Context, t *spool.Timeline, newest bool) error {
	path := t.SnapshotPath()
	sh.s.mu.Lock()
	sh.s.shipped.waiting = newest && path != ""
	sh.s.mu.Unlock()
	if path == "" {
		return nil
	}
	info, err := t.SnapshotInfo()
	if err != nil {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	enc, err := sh.s.o.Encoders.take(ctx)
	if err != nil {
		return errors.Join(err, f.Close())
	}
	began := time.Now()
	stored, err := archive.WriteSnapshot(ctx, sh.s.o.Store, enc, sh.s.o.Name, t.Info().Timeline, info, f)
	sh.s.o.Encoders.give(enc)
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("store the snapshot: %w", err)
	}
	sh.s.log.Info("the snapshot is stored", "timeline", t.Info().Timeline, "offset", info.Offset, "bytes", stored.Bytes, "stored", stored.StoredBytes, "took", time.Since(began).Round(time.Millisecond))
	return t.DropSnapshot()
}

// events stores those that the spool still has.
func (sh *shipper) events(ctx context.Context, t *spool.Timeline) error {
	pending, err := t.Events()
	if err != nil {
		return err
	}
	for _, e := range pending {
		err := archive.WriteEvent(ctx, sh.s.o.Store, sh.s.o.Name, t.Info().Timeline, e)
		if err != nil && !errors.Is(err, fs.ErrExist) { // it is there, in other words: each is written once
			return fmt.Errorf("store an event: %w", err)
		}
		if err := t.DropEvent(e.Name()); err != nil {
			return err
		}
	}
	return nil
}

// stream seals what is due. A timeline that is not the newest one gets no more: all of it is due.
func (sh *shipper) stream(ctx context.Context, t *spool.Timeline, p *progress, newest, end bool) error {
	for ctx.Err() == nil {
		if err := sh.tidy(ctx, t, p); err != nil {
			return err
		}
		upTo := t.Durable()
		if cut, ok := t.CutAfter(p.base + stream.Offset(sh.s.o.Target)); ok {
			if err := sh.compact(ctx, t, p, stream.Cursor{Offset: cut, Time: upTo.Time}); err != nil {
				return err
			}
			continue
		}
		now := time.Now()
		old := !p.began.IsZero() && now.Sub(p.began) >= sh.s.o.MaxSpan
		ended := !newest && upTo.Offset == t.Boundary().Offset
		if upTo.Offset > p.base && (old || ended || sh.s.pressed(int64(upTo.Offset-p.base))) {
			if err := sh.compact(ctx, t, p, upTo); err != nil {
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
		if now.Sub(p.since) < sh.s.o.Interval && !end {
			return nil
		}
		// Compaction cuts where chunks begin: no small segment may straddle that.
		cut, more := t.CutAfter(p.stored.Offset + 1)
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
			p.since = time.Time{}
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

// compact makes one segment of all behind base up to a boundary. When it is stored, what it
// replaces can go.
func (sh *shipper) compact(ctx context.Context, t *spool.Timeline, p *progress, to stream.Cursor) error {
	name, err := sh.seal(ctx, t, stream.Range{From: p.base, To: to.Offset})
	if err != nil {
		return err
	}
	sh.sealed(name)
	small := p.small
	p.base, p.small, p.began = to.Offset, nil, time.Time{}
	if to.Offset >= p.stored.Offset {
		p.stored, p.since = stream.Cursor{Offset: to.Offset, Time: name.Time1}, time.Time{}
	}
	for _, n := range small {
		s, err := archive.ParseSegmentName(n)
		switch {
		case err == nil && s.To > to.Offset:
			p.small = append(p.small, n) // reaches beyond: the next compaction takes it
		case n != name.String():
			p.gone = append(p.gone, n)
		}
	}
	return nil
}

// tidy lets go of what compaction has replaced: first the small segments, then the spool's bytes.
// What fails is tried again.
func (sh *shipper) tidy(ctx context.Context, t *spool.Timeline, p *progress) error {
	for len(p.gone) > 0 {
		if err := sh.delete(ctx, t, p.gone[0]); err != nil {
			return err
		}
		p.gone = p.gone[1:]
	}
	if p.tidied == p.base {
		return nil
	}
	if err := t.Trim(p.base); err != nil {
		return err
	}
	p.tidied = p.base
	return nil
}

func (sh *shipper) sealed(n archive.SegmentName) {
	sh.s.mu.Lock()
	defer sh.s.mu.Unlock()
	sh.s.shipped.seals++
	sh.s.shipped.bytes += n.Len()
	sh.s.log.Debug("a segment is stored", "range", n.Range.String())
}

// delete removes a segment that a larger one replaces.
func (sh *shipper) delete(ctx context.Context, t *spool.Timeline, name string) error {
	err := sh.s.o.Store.Delete(ctx, sh.path(t, name))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if err != nil {
		return fmt.Errorf("delete a segment that was compacted: %w", err)
	}
	return nil
}
