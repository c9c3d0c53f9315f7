package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/offloader/offloader/internal/config"
	"github.com/offloader/offloader/internal/durable"
	"github.com/offloader/offloader/internal/export"
	"github.com/offloader/offloader/internal/httpapi"
	"github.com/offloader/offloader/internal/retention"
	"github.com/offloader/offloader/internal/schedule"
	"github.com/offloader/offloader/internal/source"
	"github.com/offloader/offloader/internal/store"
	"github.com/offloader/offloader/internal/stream"
	"github.com/offloader/offloader/internal/verify"
)

const (
	// pruneSchedule is when retention is applied: deletions are cheap, and a window of days need not
	// end to the minute.
	pruneSchedule = "@hourly"
	// jitter keeps daemons with one configuration from working all at once.
	jitter = 5 * time.Minute

	snapshotDeadline = 6 * time.Hour
	// linkPatience is how long what is due waits for a link that is being made: what was missed is done
	// just after the start.
	linkPatience   = time.Minute
	exportDeadline = 6 * time.Hour
	pruneDeadline  = time.Hour
	verifyDeadline = 24 * time.Hour

	// jobsFile remembers in the spool when each job began last, so that one which was due while the
	// daemon was down is made up for. It is a cache: without it, jobs wait until they are due.
	jobsFile = ".jobs.json"
)

// jobs are what the daemon does by the clock: snapshots, exports, retention, verification. They are
// those of the configuration in force.
type jobs struct {
	log    *slog.Logger
	fleet  *fleet
	places []config.Store // those of the start: stores change with a restart only
	stores []source.StoreOptions
	file   string // of jobsFile
	seed   string

	mu   sync.Mutex
	loop *schedule.Loop
	last map[string]time.Time // when each began
	stop context.CancelFunc
	done chan struct{}
}

func newJobs(log *slog.Logger, f *fleet, places []config.Store, stores []source.StoreOptions, spool string) *jobs {
	host, _ := os.Hostname() // only tells daemons apart
	j := &jobs{log: log, fleet: f, places: places, stores: stores, file: filepath.Join(spool, jobsFile), seed: host + spool, last: map[string]time.Time{}}
	if b, err := os.ReadFile(j.file); err == nil && json.Unmarshal(b, &j.last) != nil {
		j.last = map[string]time.Time{}
	}
	return j
}

// apply begins with the jobs of a configuration, when those of the one before have ended.
func (j *jobs) apply(ctx context.Context, c *config.Config) {
	j.end()
	ctx, stop := context.WithCancel(ctx)
	loop, done := schedule.New(j.of(c), schedule.Options{Seed: j.seed, Logger: j.log}), make(chan struct{})
	j.mu.Lock()
	j.loop, j.stop, j.done = loop, stop, done
	j.mu.Unlock()
	go func() { // end waits for it
		defer close(done)
		loop.Run(ctx)
	}()
}

// end ends all jobs.
func (j *jobs) end() {
	j.mu.Lock()
	stop, done := j.stop, j.done
	j.mu.Unlock()
	if stop != nil {
		stop()
		<-done
	}
}

// of are the jobs of a configuration.
func (j *jobs) of(c *config.Config) []schedule.Job {
	var all []schedule.Job
	add := func(name string, s schedule.Schedule, deadline time.Duration, do func(context.Context) error) {
		j.mu.Lock()
		last := j.last[name]
		j.mu.Unlock()
		all = append(all, schedule.Job{Name: name, Schedule: s, Last: last, Jitter: jitter, Deadline: deadline,
			Do: func(ctx context.Context) error {
				before := j.began(name, time.Now())
				err := do(ctx)
				var overdue *schedule.OverdueError
				if ctx.Err() != nil && !errors.As(context.Cause(ctx), &overdue) { // a restart or a reload: it is made up for
					j.began(name, before)
				}
				return err
			}})
	}
	hourly, err := schedule.Parse(pruneSchedule)
	if err != nil {
		j.log.Error("retention can't be scheduled", "error", err) // impossible: a test parses it
	}
	for _, s := range c.Sources {
		if !c.Snapshots.Schedule.IsZero() {
			add("snapshot of "+s.Name, c.Snapshots.Schedule, snapshotDeadline, func(ctx context.Context) error {
				return j.snapshot(ctx, s.Name)
			})
		}
		for _, e := range c.Exports {
			add("export of "+s.Name+" to "+e.To.String(), e.Schedule, exportDeadline, func(ctx context.Context) error {
				return j.export(ctx, s.Name, export.Options{To: e.To, MinFree: float64(c.Spool.MinFree) / 100, Scratch: filepath.Dir(j.file)})
			})
		}
		for i, st := range j.places {
			if p := c.RetentionIn(st); p != nil {
				add("prune "+s.Name+" in "+j.stores[i].Store.String(), hourly, pruneDeadline, func(ctx context.Context) error {
					return j.prune(ctx, j.stores[i].Store, s.Name, policy(p))
				})
			}
		}
	}
	if !c.Verify.Schedule.IsZero() {
		for i, st := range j.stores {
			add("verify "+st.Store.String(), c.Verify.Schedule, verifyDeadline, func(ctx context.Context) error {
				if i == 0 && !c.Verify.Boot { // once, and a boot does it by itself
					j.count(ctx)
				}
				return j.verify(ctx, st.Store)
			})
		}
		for _, s := range c.Sources {
			if c.Verify.Boot {
				add("boot "+s.Name, c.Verify.Schedule, bootDeadline, func(ctx context.Context) error { return j.boot(ctx, s.Name, engines(c)) })
			}
		}
	}
	return all
}

// began keeps when a job began, and gives when it did before.
func (j *jobs) began(name string, now time.Time) (before time.Time) {
	j.mu.Lock()
	defer j.mu.Unlock()
	before, j.last[name] = j.last[name], now
	b, err := json.Marshal(j.last)
	if err == nil {
		err = durable.WriteFile(j.file, append(b, '\n'))
	}
	if err != nil {
		j.log.Warn("when a job ran won't survive a restart", "job", name, "error", err)
	}
	return before
}

func (j *jobs) snapshot(ctx context.Context, name string) error {
	err := whenStreaming(ctx, func() error {
		_, err := j.fleet.snapshot(ctx, name)
		return err
	})
	if errors.Is(err, source.ErrBusy) {
		return nil // by hand, at this moment
	}
	return err
}

func (j *jobs) export(ctx context.Context, name string, o export.Options) error {
	r, err := export.Run(ctx, o, func(put export.Put) error {
		return whenStreaming(ctx, func() error {
			return j.fleet.dataset(ctx, name, func(p export.Point, rdb io.Reader) error { return put(ctx, p, rdb) })
		})
	})
	if err != nil {
		return err
	}
	j.log.Info("a dataset was exported, read back and found good", "source", name, "to", r.To, "offset", r.Offset, "bytes", r.Bytes, "sha256", r.SHA256, "unchecked", r.Unchecked)
	return nil
}

// whenStreaming takes something of a source, and waits a while for a link that is being made.
func whenStreaming(ctx context.Context, take func() error) error {
	for until := time.Now().Add(linkPatience); ; {
		err := take()
		var down *source.NotStreamingError
		if !errors.As(err, &down) || time.Now().After(until) {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(time.Second):
		}
	}
}

func (j *jobs) prune(ctx context.Context, st source.Store, name string, p retention.Policy) error {
	r, err := retention.Run(ctx, st, name, p, stream.TimeOf(time.Now()))
	if err != nil {
		return err
	}
	if r.Refused != nil { // an archiver that may not delete is as good as one
		j.log.Info("the store lets us delete nothing: retention is left to others", "source", name, "store", st.String(), "error", r.Refused)
	}
	for _, k := range r.Kept {
		j.log.Info("a file that retention would let go is kept by the store", "store", st.String(), "file", k.Name, "why", k.Why)
	}
	if r.Deleted > 0 {
		j.log.Info("retention has let go of what it doesn't keep", "source", name, "store", st.String(), "files", r.Deleted, "bytes", r.Freed)
	}
	src, _, err := j.fleet.reach(name)
	if err == nil { // also where this run deleted nothing: somebody may have pruned by hand
		err = src.Pruned(ctx)
	}
	if err != nil && ctx.Err() == nil {
		j.log.Warn("what can be restored since when isn't known anew", "source", name, "error", err)
	}
	return nil
}

func (j *jobs) verify(ctx context.Context, st source.Store) error {
	options := everything(store.ToRead(st), j.fleet.options.Identity)
	options.Note = st
	r, err := verify.Run(ctx, options)
	if ctx.Err() == nil {
		j.fleet.verified(st, r, err)
	}
	var empty *verify.EmptyError
	if errors.As(err, &empty) {
		return nil // nothing is stored yet
	}
	if r != nil {
		for _, f := range r.Findings {
			j.log.Error("the archive is damaged", "store", st.String(), "source", f.Source, "file", f.File, "what", f.What, "costs", f.Cost)
		}
	}
	if err != nil {
		return fmt.Errorf("%s: %w", st, err)
	}
	j.log.Info("the archive was verified: all is as it was written", "store", st.String(), "files", r.Files, "bytes", r.Bytes, "took", r.Took())
	return nil
}

// verified tells the sources what came of a verify of a store.
func (f *fleet) verified(st source.Store, r *verify.Result, err error) {
	for _, k := range f.all() {
		if v, known := outcome(k.want.Name, r, err); known {
			k.current().Verified(st.String(), v)
		}
	}
}

// outcome is what a verify of a store says of one source, if the store has anything of it.
func outcome(name string, r *verify.Result, err error) (v source.Verify, known bool) {
	v.Time = stream.TimeOf(time.Now())
	for _, f := range r.Findings {
		if f.Source == name {
			v.Findings++
		}
	}
	i := slices.IndexFunc(r.Sources, func(s verify.Source) bool { return s.Name == name })
	switch {
	case i >= 0 && r.Sources[i].Sound:
	case v.Findings == 0 && err != nil:
		v.Error = err.Error()
	case v.Findings == 0:
		return v, false
	}
	return v, true
}

// status is how the jobs stand, for the API.
func (j *jobs) status() []httpapi.Job {
	j.mu.Lock()
	loop := j.loop
	j.mu.Unlock()
	list := []httpapi.Job{}
	if loop == nil {
		return list
	}
	for _, s := range loop.Status() {
		one := httpapi.Job{Name: s.Name, Schedule: s.Schedule, Next: timeOf(s.Next), Running: timeOf(s.Running), LastSuccess: timeOf(s.Good)}
		if s.Last != nil {
			one.Last, one.TookSeconds = timeOf(s.Last.Began), s.Last.Took.Seconds()
			if s.Last.Err != nil {
				one.Error = s.Last.Err.Error()
			}
		}
		if s.Overdue {
			one.Error = "it was told to end, and hasn't ended yet"
		}
		list = append(list, one)
	}
	return list
}

func timeOf(t time.Time) stream.Time {
	if t.IsZero() {
		return 0
	}
	return stream.TimeOf(t)
}
