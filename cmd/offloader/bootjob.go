package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/httpapi"
	"github.com/offloader/offloader/internal/source"
	"github.com/offloader/offloader/internal/stream"
	"github.com/offloader/offloader/internal/verify"
)

// bootDeadline is how long an engine may replay: the log of days has to fit in.
const bootDeadline = 24 * time.Hour

// boot proves that what the daemon archives of a source can be booted, as the master is now.
func (j *jobs) boot(ctx context.Context, name string, programs map[string]string) error {
	src, _, err := j.fleet.reach(name)
	if err != nil {
		return err
	}
	if err := whenStreaming(ctx, func() error { _, err := src.Count(ctx); return err }); err != nil {
		return withHint(err)
	}
	r, err := verify.Boot(ctx, verify.BootOptions{
		Source: name, Load: src.Catalog, Engines: programs, Logger: j.log,
		Event: func(ctx context.Context, timeline string, n archive.EventName) (archive.Event, error) {
			var stores []source.Store
			for _, st := range j.stores {
				stores = append(stores, st.Store)
			}
			return firstEvent(ctx, stores, name, timeline, n)
		},
	})
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	v := source.Verify{Time: stream.TimeOf(time.Now())}
	if err == nil && r.By == verify.ByMaster { // else it is no proof of the log yet
		if err = src.Note(r.Timeline, r.Event(v.Time)); err != nil {
			err = fmt.Errorf("note that source %s was booted: %w", name, err)
		}
	}
	switch {
	case errors.As(err, new(*verify.CountError)):
		v.Findings = 1
	case err != nil:
		v.Error = err.Error()
	}
	src.Booted(v)
	if err != nil {
		return withHint(err)
	}
	j.log.Info("a scratch engine was booted from the archive, and held what the master did", "source", name,
		"offset", r.Offset, "keys", r.Keys, "counted_by", r.By, "engine", r.Engine, "replayed", r.Bytes, "took_seconds", r.Seconds)
	return nil
}

// count has every master counted, for who boots the archive elsewhere. One that can't be is no failure of a verify.
func (j *jobs) count(ctx context.Context) {
	for _, k := range j.fleet.all() {
		if _, err := k.current().Count(ctx); err != nil && ctx.Err() == nil {
			j.log.Warn("how many keys the master holds could not be noted", "source", k.want.Name, "error", withHint(err))
		}
	}
}

// count has the master of a source counted, within the daemon: for the API.
func (f *fleet) count(ctx context.Context, name string) (httpapi.Counted, error) {
	src, _, err := f.reach(name)
	if err != nil {
		return httpapi.Counted{}, err
	}
	c, err := src.Count(ctx)
	if err != nil {
		return httpapi.Counted{}, withHint(err)
	}
	return httpapi.Counted{Timeline: c.Timeline, Offset: c.Offset, Time: c.Time, Keys: c.Keys}, nil
}
