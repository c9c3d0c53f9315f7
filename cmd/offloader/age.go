package main

import (
	"context"
	"fmt"
	"time"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/check"
	"github.com/offloader/offloader/internal/config"
	"github.com/offloader/offloader/internal/stale"
	"github.com/offloader/offloader/internal/store"
)

// maxAge is how old things may become, by the configuration.
func maxAge(c *config.Config) stale.Limits {
	m := c.MaxAge
	return stale.Limits{Snapshot: time.Duration(m.Snapshot), Stored: time.Duration(m.Stored), Verify: time.Duration(m.Verify)}
}

// readable opens the stores. One that can't be opened is none of them: what check says of it by itself is
// enough.
func readable(ctx context.Context, c *config.Config) []store.Store {
	var stores []store.Store
	for _, s := range c.Stores {
		if st, err := openStore(ctx, s, store.Options{}); err == nil {
			stores = append(stores, st)
		}
	}
	return stores
}

// held tells of what stores have of a source: what is too old of it, and whether it was proved. It goes by what is
// in the stores alone, whether a daemon runs or not.
func (a *app) held(ctx context.Context, stores []store.Store, source string, limits stale.Limits, now time.Time) (cats []*archive.Catalog, found []check.Finding) {
	for _, st := range stores {
		ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("no answer within %s", timeout))
		cat, err := archive.Load(ctx, st, source)
		cancel()
		if err == nil {
			cats = append(cats, cat)
		}
		if limits != (stale.Limits{}) {
			found = append(found, ages(st, cat, err, limits, now)...)
		}
	}
	return cats, append(found, a.proved(cats, source, now)...)
}

// ages tells what is too old of what a store has of a source, or that it could not be read.
func ages(st store.Store, cat *archive.Catalog, err error, limits stale.Limits, now time.Time) []check.Finding {
	if err != nil {
		return []check.Finding{failed("age", fmt.Errorf("what %s has can't be told: %w", st, err))}
	}
	held := stale.Of(cat)
	if held.Since == 0 {
		return []check.Finding{{Name: "age", Level: check.OK, Message: fmt.Sprintf("%s has nothing of it yet", st)}}
	}
	var found []check.Finding
	for _, reason := range limits.Judge(held, now) {
		found = append(found, check.Finding{Name: "age", Level: check.Fail, Message: st.String() + ": " + reason.What, Hint: reason.Hint})
	}
	if found == nil {
		found = append(found, check.Finding{Name: "age", Level: check.OK, Message: st.String() + ": " + newest(held, now)})
	}
	return found
}
