package source

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/offloader/offloader/internal/spool"
	"github.com/offloader/offloader/internal/stream"
	"github.com/offloader/offloader/internal/syncer"
)

// bring stores the snapshots that were taken of timelines that go on, until ctx ends. It works beside
// ship, with an encoder of its own: such a snapshot may take an hour, and the stream doesn't wait
// for it. The one that a timeline began with is ship's, since nothing of the stream is worth
// anything before it.
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
		for _, s := range pending {
			if s.First || have.taken[s.Offset] || sh.brought(t)[s.Offset] {
				continue
			}
			err := sh.snapshot(ctx, t, s, sh.slow)
			if errors.Is(err, errGone) {
				continue
			}
			if err != nil {
				return fmt.Errorf("store a snapshot: %w", err)
			}
			sh.noteBrought(t, s.Offset)
		}
	}
	return nil
}

// brought are the offsets of those that bring has stored.
func (sh *shipper) brought(t *spool.Timeline) map[stream.Offset]bool {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	all := map[stream.Offset]bool{}
	for _, at := range sh.stored[t] {
		all[at] = true
	}
	return all
}

func (sh *shipper) noteBrought(t *spool.Timeline, at stream.Offset) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.stored[t] = append(sh.stored[t], at)
}

// forgetBrought forgets timelines that the spool has let go of.
func (sh *shipper) forgetBrought(held func(*spool.Timeline) bool) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	for t := range sh.stored {
		if !held(t) {
			delete(sh.stored, t)
		}
	}
}
