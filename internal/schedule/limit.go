package schedule

import (
	"context"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
)

// A Limit caps how many of a kind are at work at once, over the whole daemon: full syncs of many
// sources, say. Whoever has waited longest is next, so none is passed over forever.
type Limit struct {
	most    int
	longest time.Duration
	places  *semaphore.Weighted
}

// NewLimit has room for n, at least one. After longest a place is free again, and who has it goes on
// beside the others: one that hangs can't hold them up forever. Zero: a place is held until it is given back.
func NewLimit(n int, longest time.Duration) *Limit {
	n = max(1, n)
	return &Limit{n, longest, semaphore.NewWeighted(int64(n))}
}

// Most is how many it has room for.
func (l *Limit) Most() int { return l.most }

// Take waits for a place until ctx ends. give, which may be called more than once, gives it back.
// A nil Limit has room for all.
func (l *Limit) Take(ctx context.Context) (give func(), err error) {
	if l == nil {
		return func() {}, nil
	}
	if err := l.places.Acquire(ctx, 1); err != nil {
		return nil, context.Cause(ctx)
	}
	return l.taken(), nil
}

// Try takes a place if one is free and nobody waits for it.
func (l *Limit) Try() (give func(), ok bool) {
	if l == nil {
		return func() {}, true
	}
	if !l.places.TryAcquire(1) {
		return nil, false
	}
	return l.taken(), true
}

// taken is how a place that was just taken is given back.
func (l *Limit) taken() func() {
	give := sync.OnceFunc(func() { l.places.Release(1) })
	if l.longest == 0 {
		return give
	}
	late := time.AfterFunc(l.longest, give)
	return func() { late.Stop(); give() }
}
