package schedule

import (
	"context"
	"sync"

	"golang.org/x/sync/semaphore"
)

// A Limit caps how many of a class of jobs are at work at once, over the whole daemon: full syncs
// of many sources, say. Whoever has waited longest is next, so none is passed over forever.
type Limit struct{ places *semaphore.Weighted }

// NewLimit has room for n, at least one.
func NewLimit(n int) *Limit { return &Limit{semaphore.NewWeighted(int64(max(1, n)))} }

// Take waits for a place until ctx ends. give, which may be called more than once, gives it back.
// A nil Limit has room for all.
func (l *Limit) Take(ctx context.Context) (give func(), err error) {
	if l == nil {
		return func() {}, nil
	}
	if err := l.places.Acquire(ctx, 1); err != nil {
		return nil, context.Cause(ctx)
	}
	return sync.OnceFunc(func() { l.places.Release(1) }), nil
}
