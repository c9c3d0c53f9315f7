package schedule

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"math"
	"runtime/debug"
	"sync"
	"time"
)

const (
	// look is how often the clock on the wall is looked at. Timers stand still while a machine is
	// suspended, and don't see a clock that is set.
	look = time.Minute
	// setBack is from when on a clock that went backwards counts as set. Runs are planned anew then:
	// a job that ran while the clock was years ahead would wait for years.
	setBack = time.Hour
)

// Job is what a Loop runs.
type Job struct {
	Name     string // unique in a Loop
	Schedule Schedule
	// Last is when it last began, in an earlier life of the daemon perhaps. If it was due since, it
	// is run once, soon after the start. Zero: it never ran, and waits until it is due.
	Last time.Time
	// Jitter bounds how much later than due it begins, by a time that is always the same for the
	// same Seed and Name. It is at most half of the way to the next run.
	Jitter time.Duration
	// Deadline is after how long a run is cancelled. Zero: never.
	Deadline time.Duration
	Do       func(context.Context) error
}

// Run is one that has ended.
type Run struct {
	Began time.Time
	Took  time.Duration
	Err   error // nil: it succeeded
}

// Status is how a job stands.
type Status struct {
	Name     string
	Schedule string
	Next     time.Time // when it begins next; zero: never
	Running  time.Time // since when it runs; zero: it doesn't
	Overdue  bool      // it was cancelled for its deadline, and hasn't ended yet
	Last     *Run      // nil: none in this life of the daemon
	Good     time.Time // when the last one ended that succeeded; zero: none did in this life of the daemon
}

// A PanicError is what became of a job that panicked.
type PanicError struct {
	Value any
	Stack []byte
}

func (e *PanicError) Error() string { return fmt.Sprintf("it panicked: %v", e.Value) }

// An OverdueError says that a run took longer than it may, and was cancelled.
type OverdueError struct{ Deadline time.Duration }

func (e *OverdueError) Error() string {
	return fmt.Sprintf("it was not done within %v, and was cancelled", e.Deadline)
}

// Options are what a Loop takes beside its jobs.
type Options struct {
	// Seed tells this daemon from others that have the same jobs, so that they don't all begin at
	// once: the host's name, say.
	Seed   string
	Logger *slog.Logger
}

// Loop runs jobs.
type Loop struct {
	jobs []*job
	now  func() time.Time // of the clock on the wall, which may be set
}

// New makes a Loop of jobs.
func New(jobs []Job, o Options) *Loop {
	log := o.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	l := &Loop{now: onTheClock}
	for _, j := range jobs {
		l.jobs = append(l.jobs, &job{Job: j, loop: l, log: log.With("job", j.Name), share: share(o.Seed, j.Name), last: j.Last})
	}
	return l
}

// onTheClock is the time without Go's monotonic clock, which stands still while a machine sleeps and
// would be what times are compared by.
func onTheClock() time.Time { return time.Now().Round(0) }

// share is what a job takes of its jitter, from 0 to 1.
func share(seed, name string) float64 {
	h := fnv.New64a()
	_, _ = fmt.Fprintf(h, "%q %q", seed, name) // a hash takes everything
	sum := h.Sum64()
	sum ^= sum >> 33 // FNV's upper bits hardly differ between short texts: mix them (MurmurHash3's finish)
	sum *= 0xff51afd7ed558ccd
	sum ^= sum >> 33
	return float64(sum) / math.MaxUint64
}

// Run works until ctx ends, which also is the end of all contexts that jobs were given, and
// returns when they have ended.
func (l *Loop) Run(ctx context.Context) {
	var all sync.WaitGroup
	for _, j := range l.jobs {
		all.Go(func() { j.run(ctx) })
	}
	all.Wait()
}

// Status is how all jobs stand, in the order in which they were given.
func (l *Loop) Status() []Status {
	list := make([]Status, 0, len(l.jobs))
	for _, j := range l.jobs {
		list = append(list, j.status())
	}
	return list
}

// job is a Job with its past and future. A goroutine of its own does one thing after the other: wait
// until it is due, run. So it can't overlap with itself, and one that hangs stops no other.
type job struct {
	Job
	loop  *Loop
	log   *slog.Logger
	share float64 // of the jitter

	mu    sync.Mutex
	last  time.Time // what was due up to here has been run; zero: the loop hasn't begun
	began time.Time // the loop's start: nothing is due before it
	state Status    // all but Name, Schedule and Next
}

func (j *job) status() Status {
	now := j.loop.now()
	j.mu.Lock()
	defer j.mu.Unlock()
	s := j.state
	s.Name, s.Schedule, s.Next = j.Name, j.Schedule.String(), j.due(now)
	return s
}

// due is when it begins next.
func (j *job) due(now time.Time) time.Time {
	last, began := j.last, j.began
	if last.IsZero() || last.Sub(now) > setBack {
		last = now
	}
	if began.Sub(now) > setBack {
		began = now
	}
	at := j.Schedule.Next(last)
	if at.IsZero() {
		return at
	}
	room := j.Schedule.Next(at).Sub(at) / 2
	jitter := time.Duration(j.share * float64(max(0, min(j.Jitter, room))))
	if at.Before(began) { // it was missed
		at = began
	}
	return at.Add(jitter)
}

func (j *job) run(ctx context.Context) {
	j.start(j.loop.now())
	for j.wait(ctx) {
		j.once(ctx)
	}
}

// start notes from when on it is waited for.
func (j *job) start(now time.Time) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.began = now
	if j.last.IsZero() {
		j.last = now
	}
}

// wait returns when it is due, or false when ctx has ended.
func (j *job) wait(ctx context.Context) bool {
	for ctx.Err() == nil {
		now := j.loop.now()
		j.mu.Lock()
		if j.last.Sub(now) > setBack { // kept: else "due" would move along with the clock
			j.last, j.began = now, now
		}
		due := j.due(now)
		j.mu.Unlock()
		pause := look
		if !due.IsZero() {
			pause = min(pause, due.Sub(now))
			if pause <= 0 {
				return true
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
	return false
}

func (j *job) note(change func(*Status)) {
	j.mu.Lock()
	defer j.mu.Unlock()
	change(&j.state)
}

// once runs the job. It returns when the job has, however long that takes.
func (j *job) once(ctx context.Context) {
	began, clock := j.loop.now(), time.Now()
	j.mu.Lock()
	j.last, j.state.Running = began, began
	j.mu.Unlock()
	err := j.bounded(ctx)
	took := time.Since(clock) // by a clock that nobody sets
	j.note(func(s *Status) {
		s.Running, s.Overdue = time.Time{}, false
		s.Last = &Run{began, took, err}
		if err == nil {
			s.Good = began.Add(took)
		}
	})
	if ctx.Err() == nil || err == nil { // what broke while stopping is no news
		j.tell(err, took)
	}
}

// bounded runs the job within its deadline. A job that pays no heed to its context is waited for.
func (j *job) bounded(ctx context.Context) error {
	if j.Deadline > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, j.Deadline, &OverdueError{j.Deadline})
		defer cancel()
	}
	done := make(chan error, 1)
	go func() { done <- safely(ctx, j.Do) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	overdue := new(OverdueError)
	if !errors.As(context.Cause(ctx), &overdue) {
		return <-done
	}
	j.note(func(s *Status) { s.Overdue = true })
	j.log.Warn("a job takes too long and is cancelled", "deadline", j.Deadline)
	err := <-done
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return overdue // says more than that its context has ended
	}
	return err
}

// safely makes an error of a panic.
func safely(ctx context.Context, do func(context.Context) error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &PanicError{v, debug.Stack()}
		}
	}()
	return do(ctx)
}

func (j *job) tell(err error, took time.Duration) {
	took = took.Round(time.Millisecond)
	if err == nil {
		j.log.Info("a job is done", "took", took)
		return
	}
	args := []any{"error", err, "took", took}
	if way := interface{ Hint() string }(nil); errors.As(err, &way) && way.Hint() != "" {
		args = append(args, "hint", way.Hint())
	}
	if p := new(PanicError); errors.As(err, &p) {
		args = append(args, "stack", string(p.Stack))
	}
	j.log.Error("a job has failed", args...)
}
