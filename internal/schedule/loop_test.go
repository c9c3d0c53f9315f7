package schedule

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// begin is when each fake clock begins (testing/synctest), midnight in UTC.
var begin = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

func must(t *testing.T, line string) Schedule {
	t.Helper()
	s, err := Parse("TZ=UTC " + line)
	require.NoError(t, err)
	return s
}

// diary notes when something happened, since begin.
type diary struct {
	mu sync.Mutex
	at []time.Duration
}

func (d *diary) note() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.at = append(d.at, time.Since(begin))
}

func (d *diary) entries() []time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]time.Duration{}, d.at...)
}

// during runs jobs for a while.
func during(t *testing.T, span time.Duration, l *Loop) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), span)
	defer cancel()
	l.Run(ctx)
}

// start runs jobs until stop is called, or the test ends.
func start(t *testing.T, l *Loop) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var ended sync.WaitGroup
	ended.Go(func() { l.Run(ctx) })
	stop = func() { cancel(); ended.Wait() }
	t.Cleanup(stop)
	return stop
}

func hours(list ...float64) (spans []time.Duration) {
	for _, h := range list {
		spans = append(spans, time.Duration(h*float64(time.Hour)))
	}
	return spans
}

func TestJobsRunWhenTheyAreDue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var hourly, daily diary
		l := New([]Job{
			{Name: "hourly", Schedule: must(t, "0 * * * *"), Do: func(context.Context) error { hourly.note(); return nil }},
			{Name: "daily", Schedule: must(t, "30 4 * * *"), Do: func(context.Context) error { daily.note(); return errors.New("no luck") }},
			{Name: "never", Do: func(context.Context) error { panic("it is never due") }},
		}, Options{})
		require.Zero(t, l.Status()[0].Last)
		require.Equal(t, begin.Add(time.Hour), l.Status()[0].Next.UTC())
		during(t, 6*time.Hour+time.Second, l)
		require.Equal(t, hours(1, 2, 3, 4, 5, 6), hourly.entries())
		require.Equal(t, hours(4.5), daily.entries())
		all := l.Status()
		require.Equal(t, "hourly", all[0].Name)
		require.Equal(t, begin.Add(6*time.Hour), all[0].Last.Began.UTC())
		require.NoError(t, all[0].Last.Err)
		require.Equal(t, begin.Add(6*time.Hour), all[0].Good.UTC())
		require.Zero(t, all[1].Good)
		require.Equal(t, begin.Add(7*time.Hour), all[0].Next.UTC())
		require.EqualError(t, all[1].Last.Err, "no luck")
		require.Equal(t, begin.Add(28*time.Hour+30*time.Minute), all[1].Next.UTC())
		require.Nil(t, all[2].Last)
		require.Zero(t, all[2].Next)
	})
}

// A job that was due while the daemon was down is run once, at once; one that wasn't waits.
func TestMissedWhileDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var missed, done, fresh, future diary
		l := New([]Job{
			{Name: "missed", Schedule: must(t, "0 4 * * *"), Last: begin.Add(-72 * time.Hour), Do: func(context.Context) error { missed.note(); return nil }},
			{Name: "done", Schedule: must(t, "0 4 * * *"), Last: begin.Add(-20 * time.Hour), Do: func(context.Context) error { done.note(); return nil }},
			{Name: "fresh", Schedule: must(t, "0 4 * * *"), Do: func(context.Context) error { fresh.note(); return nil }},
			{Name: "by a clock that was ahead", Schedule: must(t, "0 4 * * *"), Last: begin.AddDate(5, 0, 0), Do: func(context.Context) error { future.note(); return nil }},
		}, Options{})
		during(t, 5*time.Hour, l)
		require.Equal(t, hours(0, 4), missed.entries())
		require.Equal(t, hours(4), done.entries())
		require.Equal(t, hours(4), fresh.entries())
		require.Equal(t, hours(4), future.entries())
	})
}

// Timers stand still while a machine sleeps. When it wakes up, what was due is run once, within
// the minute, and then all goes on as planned.
func TestMissedWhileAsleep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		require.NotContains(t, New(nil, Options{}).now().String(), "m=", "what is compared is the clock on the wall")
		var slept atomic.Int64
		var runs diary
		l := New([]Job{{Name: "hourly", Schedule: must(t, "0 * * * *"), Do: func(context.Context) error { runs.note(); return nil }}}, Options{})
		l.now = func() time.Time { return onTheClock().Add(time.Duration(slept.Load())) }
		stop := start(t, l)
		time.Sleep(30 * time.Minute)
		synctest.Wait()
		slept.Store(int64(9 * time.Hour)) // it is 09:30 now
		time.Sleep(31 * time.Minute)
		stop()
		got := runs.entries()
		require.Len(t, got, 2, "%v", got)
		require.LessOrEqual(t, got[0], 31*time.Minute, "when it woke up")
		require.Equal(t, time.Hour, got[1], "at 10:00")
	})
}

// A clock that was years ahead, and is set: jobs don't wait for years.
func TestClockThatIsSetBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ahead atomic.Int64
		ahead.Store(int64(10 * 365 * 24 * time.Hour))
		var runs diary
		l := New([]Job{{Name: "hourly", Schedule: must(t, "0 * * * *"), Do: func(context.Context) error { runs.note(); return nil }}}, Options{})
		l.now = func() time.Time { return onTheClock().Add(time.Duration(ahead.Load())) }
		stop := start(t, l)
		time.Sleep(90 * time.Minute)
		synctest.Wait()
		ahead.Store(0)
		require.Equal(t, begin.Add(2*time.Hour), l.Status()[0].Next.UTC())
		time.Sleep(time.Hour)
		stop()
		require.Equal(t, hours(1, 2), runs.entries())
	})
}

// What takes longer than the time between two runs is not run twice at once: what became due
// meanwhile is one run, when it has ended.
func TestNoOverlap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var runs diary
		l := New([]Job{{Name: "long", Schedule: must(t, "0 * * * *"), Do: func(context.Context) error {
			runs.note()
			if len(runs.entries()) == 1 {
				time.Sleep(3*time.Hour + 30*time.Minute)
			}
			return nil
		}}}, Options{})
		stop := start(t, l)
		time.Sleep(3 * time.Hour)
		synctest.Wait()
		s := l.Status()[0]
		require.Equal(t, begin.Add(time.Hour), s.Running.UTC())
		require.Nil(t, s.Last)
		time.Sleep(2*time.Hour + time.Minute)
		stop()
		require.Equal(t, hours(1, 4.5, 5), runs.entries())
	})
}

// A panic is an error of the run, with its stack, and the next run comes.
func TestPanic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var runs diary
		l := New([]Job{{Name: "brittle", Schedule: must(t, "0 * * * *"), Do: func(context.Context) error {
			runs.note()
			if len(runs.entries()) == 1 {
				panic("out of luck")
			}
			return nil
		}}}, Options{})
		during(t, 90*time.Minute, l)
		last := l.Status()[0].Last
		var panicked *PanicError
		require.ErrorAs(t, last.Err, &panicked)
		require.EqualError(t, last.Err, "it panicked: out of luck")
		require.Contains(t, string(panicked.Stack), "TestPanic")
		during(t, time.Hour, l)
		require.NoError(t, l.Status()[0].Last.Err)
		require.Equal(t, hours(1, 2), runs.entries())
	})
}

// One job hangs, and pays no heed to its context at first: it is cancelled at its deadline and
// shown, others go on, and its own next run waits until it has ended.
func TestHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var hung, other diary
		l := New([]Job{
			{Name: "hangs", Schedule: must(t, "0 * * * *"), Deadline: 10 * time.Minute, Do: func(ctx context.Context) error {
				hung.note()
				if len(hung.entries()) > 1 {
					return nil
				}
				<-ctx.Done()
				time.Sleep(2 * time.Hour)
				return fmt.Errorf("reading: %w", ctx.Err())
			}},
			{Name: "other", Schedule: must(t, "0 * * * *"), Deadline: 10 * time.Minute, Do: func(context.Context) error { other.note(); return nil }},
		}, Options{})
		stop := start(t, l)
		time.Sleep(2*time.Hour + time.Minute)
		synctest.Wait()
		s := l.Status()[0]
		require.Equal(t, begin.Add(time.Hour), s.Running.UTC())
		require.True(t, s.Overdue)
		time.Sleep(time.Hour + 8*time.Minute) // to 03:09; it ends at 03:10
		require.Len(t, hung.entries(), 1)
		time.Sleep(time.Minute + time.Second)
		synctest.Wait()
		s = l.Status()[0]
		require.False(t, s.Overdue)
		stop()
		require.Len(t, hung.entries(), 2)
		require.Equal(t, hours(1, 2, 3), other.entries())
	})
}

func TestOverdueIsTheError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New([]Job{{Name: "slow", Schedule: must(t, "0 * * * *"), Deadline: 10 * time.Minute, Do: func(ctx context.Context) error {
			<-ctx.Done()
			return fmt.Errorf("reading: %w", ctx.Err())
		}}}, Options{})
		during(t, 90*time.Minute, l)
		last := l.Status()[0].Last
		require.EqualError(t, last.Err, "it was not done within 10m0s, and was cancelled")
		require.Equal(t, 10*time.Minute, last.Took)
		require.Zero(t, l.Status()[0].Good)
	})
}

// Told to stop, a Loop returns when its jobs have.
func TestRunWaitsForItsJobs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		done := false
		l := New([]Job{{Name: "thorough", Schedule: must(t, "0 * * * *"), Do: func(ctx context.Context) error {
			<-ctx.Done()
			time.Sleep(5 * time.Second)
			done = true
			return ctx.Err()
		}}}, Options{})
		during(t, 90*time.Minute, l)
		require.True(t, done)
		require.Equal(t, 90*time.Minute+5*time.Second, time.Since(begin))
	})
}

// Forty daemons with one schedule don't begin at once, and each begins at the same time every day.
func TestJitter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		minutes := map[time.Duration]int{}
		for i := range 40 {
			job := Job{Name: "verify", Schedule: must(t, "0 4 * * *"), Jitter: 10 * time.Minute}
			l := New([]Job{job}, Options{Seed: fmt.Sprintf("host-%d", i)})
			j := l.jobs[0]
			first := j.due(begin)
			late := first.Sub(begin.Add(4 * time.Hour))
			require.GreaterOrEqual(t, late, time.Duration(0))
			require.LessOrEqual(t, late, 10*time.Minute)
			minutes[late/time.Minute]++
			j.last = first
			require.Equal(t, 24*time.Hour, j.due(first).Sub(first), "it is the same each day")
			require.Equal(t, first, New([]Job{job}, Options{Seed: fmt.Sprintf("host-%d", i)}).jobs[0].due(begin), "and in each life")
		}
		for minute, n := range minutes {
			require.LessOrEqual(t, n, 10, "in minute %d", minute)
		}
		require.GreaterOrEqual(t, len(minutes), 8, "%v", minutes)
	})
}

// A jitter that is longer than the time between two runs skips none and swaps none.
func TestJitterSkipsNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var runs diary
		l := New([]Job{{Name: "often", Schedule: must(t, "*/10 * * * *"), Jitter: time.Hour, Do: func(context.Context) error { runs.note(); return nil }}}, Options{Seed: "x"})
		during(t, 65*time.Minute+time.Second, l)
		got := runs.entries()
		require.Len(t, got, 6)
		for i, at := range got {
			late := at - time.Duration(i+1)*10*time.Minute
			require.GreaterOrEqual(t, late, time.Duration(0))
			require.LessOrEqual(t, late, 5*time.Minute)
		}
	})
}

// At most two of five are at work at once.
func TestLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limit, began := NewLimit(2, 0), time.Now()
		var all sync.WaitGroup
		for range 5 {
			all.Go(func() {
				give, err := limit.Take(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				time.Sleep(10 * time.Minute)
				give()
			})
		}
		all.Wait()
		require.Equal(t, 30*time.Minute, time.Since(began))
	})
}

func TestLimitIsFair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limit := NewLimit(1, 0)
		give, err := limit.Take(t.Context())
		require.NoError(t, err)
		var order []int
		var all sync.WaitGroup
		for i := range 10 {
			all.Go(func() {
				give, err := limit.Take(t.Context())
				require.NoError(t, err)
				order = append(order, i)
				give()
			})
			synctest.Wait() // in line
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(errors.New("enough"))
		_, err = limit.Take(ctx)
		require.EqualError(t, err, "enough")
		give()
		give() // once more does no harm
		all.Wait()
		require.Equal(t, []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}, order)
		give, ok := limit.Try()
		require.True(t, ok)
		_, ok = limit.Try()
		require.False(t, ok, "it has room for one")
		next := make(chan func(), 1)
		go func() {
			give, _ := limit.Take(t.Context())
			next <- give
		}()
		synctest.Wait()
		give()
		_, ok = limit.Try()
		require.False(t, ok, "somebody has waited for it")
		(<-next)()
		require.Equal(t, 1, limit.Most())
		var none *Limit
		give, err = none.Take(t.Context())
		require.NoError(t, err)
		give()
	})
}

// Whoever never gives its place back holds others up for so long and no longer.
func TestNoPlaceIsHeldForever(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limit, began := NewLimit(1, 6*time.Hour), time.Now()
		hangs, err := limit.Take(t.Context())
		require.NoError(t, err)
		next, err := limit.Take(t.Context())
		require.NoError(t, err)
		require.Equal(t, 6*time.Hour, time.Since(began))
		hangs() // nothing that it still had
		_, ok := limit.Try()
		require.False(t, ok)
		next()
		give, ok := limit.Try()
		require.True(t, ok)
		time.Sleep(5 * time.Hour) // the timer of next is stopped
		_, ok = limit.Try()
		require.False(t, ok)
		give()
	})
}
