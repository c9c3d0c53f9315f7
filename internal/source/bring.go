package source

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/mirror"
	"github.com/offloader/offloader/internal/spool"
	"github.com/offloader/offloader/internal/stale"
	"github.com/offloader/offloader/internal/stream"
	"github.com/offloader/offloader/internal/syncer"
)

// bring stores the snapshots that were taken of timelines that go on, until ctx ends. It works beside
// ship, with an encoder of its own: such a snapshot may take an hour, and the stream doesn't wait
// for it. The one that a timeline began with is ship's, since nothing of the stream is worth
// anything before it; but where the spool has it no more, it is copied from another store here.
func (sh *shipper) bring(ctx context.Context) {
	wait, said := shipEvery, ""
	for {
		err := sh.bringAll(ctx)
		switch {
		case err == nil:
			wait, said = shipEvery, ""
		case ctx.Err() == nil:
			wait = min(2*wait, shipRetry)
			if err.Error() != said {
				said = err.Error()
				sh.s.log.Error("a snapshot can't be stored: the spool keeps it", "store", sh.store.String(), "error", err, "hint", syncer.Hint(err))
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

func (sh *shipper) bringAll(ctx context.Context) error {
	for _, t := range sh.s.src.Timelines() {
		have := sh.s.ledger.of(t)[sh.n]
		if !have.claimed {
			continue // its timeline.json comes first
		}
		pending, err := t.Snapshots()
		if err != nil {
			return err
		}
		brought, begins := sh.brought(t)
		held := slices.ContainsFunc(pending, func(s spool.Snapshot) bool { return s.First })
		if have.begun && !have.first && !held && !begins && sh.mayTry(t, time.Now()) {
			if err := sh.copyFirst(ctx, t); err != nil {
				return err
			}
		}
		for _, s := range pending {
			if s.First || have.taken[s.Offset] || brought[s.Offset] {
				continue
			}
			err := sh.snapshot(ctx, t, s, sh.slow)
			if errors.Is(err, errGone) {
				continue
			}
			if err != nil {
				return fmt.Errorf("store a snapshot: %w", err)
			}
			sh.noteBrought(t, func(b *broughtOf) { b.taken = append(b.taken, s.Offset) })
		}
	}
	return nil
}

// copyFirst copies what t begins with from another store: its snapshots, or, of a branch, what it
// continues.
func (sh *shipper) copyFirst(ctx context.Context, t *spool.Timeline) error {
	info := t.Info()
	var errs []error
	for _, other := range sh.s.shippers {
		if other == sh || sh.s.failing(other.n) {
			continue
		}
		c := &mirror.Copier{From: other.store, To: sh.store}
		whole, err := copyFirst(ctx, c, info)
		if err != nil {
			errs = append(errs, fmt.Errorf("copy from %s what timeline %s begins with: %w", other.store, info.Timeline, err))
		}
		if whole {
			sh.s.log.Info("the store got from another one what a timeline begins with", "store", sh.store.String(), "from", other.store.String(), "timeline", info.Timeline, "bytes", c.Done().Bytes)
			if cat, err := archive.Load(ctx, sh.store, info.Source); err == nil {
				sh.s.holds(sh.n, stale.Of(cat))
			}
			sh.noteBrought(t, func(b *broughtOf) { b.begins = true })
			return sh.s.got(sh.n, t, true, nil)
		}
	}
	return errors.Join(errs...)
}

func copyFirst(ctx context.Context, c *mirror.Copier, info archive.TimelineInfo) (whole bool, err error) {
	if info.Parent != nil {
		err := c.Source(ctx, info.Source)
		return err == nil, err
	}
	theirs, err := archive.LoadTimeline(ctx, c.From, info.Source, info.Timeline)
	if err != nil {
		return false, err
	}
	ours, err := archive.LoadTimeline(ctx, c.To, info.Source, info.Timeline)
	if err != nil {
		return false, err
	}
	if err := c.Snapshots(ctx, theirs, ours); err != nil {
		return false, err
	}
	return slices.ContainsFunc(theirs.Snapshots, func(s archive.Snapshot) bool { return s.Offset == info.Offset }), nil
}

// broughtOf is what bring has stored of one timeline.
type broughtOf struct {
	taken  []stream.Offset // snapshots
	begins bool            // what it begins with
	tried  time.Time       // when that was last looked for
}

// mayTry tells whether it is time to look again for what t begins with.
func (sh *shipper) mayTry(t *spool.Timeline, now time.Time) (may bool) {
	sh.noteBrought(t, func(b *broughtOf) {
		if may = now.Sub(b.tried) >= healEvery; may {
			b.tried = now
		}
	})
	return may
}

// brought is what bring has stored of t.
func (sh *shipper) brought(t *spool.Timeline) (taken map[stream.Offset]bool, begins bool) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	taken = map[stream.Offset]bool{}
	b := sh.done[t]
	if b == nil {
		return taken, false
	}
	for _, at := range b.taken {
		taken[at] = true
	}
	return taken, b.begins
}

func (sh *shipper) noteBrought(t *spool.Timeline, note func(*broughtOf)) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.done[t] == nil {
		sh.done[t] = &broughtOf{}
	}
	note(sh.done[t])
}

// forgetBrought forgets timelines that the spool has let go of.
func (sh *shipper) forgetBrought(held func(*spool.Timeline) bool) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	for t := range sh.done {
		if !held(t) {
			delete(sh.done, t)
		}
	}
}
