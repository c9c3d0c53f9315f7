package syncer

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/offloader/offloader/internal/engine/enginetest"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func TestBudgetOfOneThatLoops(t *testing.T) {
	b, now := Budget{}, noon
	var waits []time.Duration
	for range 12 {
		next := b.Next(now)
		waits = append(waits, next.Sub(now))
		now = next
		b = b.Take(now)
	}
	m := time.Minute
	require.Equal(t, []time.Duration{0, 0, 0, m, 2 * m, 4 * m, 8 * m, 16 * m, 32 * m}, waits[:9])
	for _, w := range waits[9:] { // an hour, less what an hour regains
		require.GreaterOrEqual(t, w, 30*m)
		require.LessOrEqual(t, w, time.Hour)
	}
}

func TestBudgetRegainsOneAnHour(t *testing.T) {
	b := Budget{}.Take(noon).Take(noon).Take(noon)
	require.Equal(t, noon.Add(time.Minute), b.Next(noon))
	b = b.Take(noon.Add(time.Minute))
	require.Equal(t, 4, b.Spent)
	require.Equal(t, 3, b.At(noon.Add(time.Hour)).Spent)
	require.Equal(t, 2, b.At(noon.Add(2*time.Hour)).Spent)
	require.Equal(t, 0, b.At(noon.Add(100*time.Hour)).Spent)
	require.Equal(t, noon.Add(100*time.Hour), b.Next(noon.Add(100*time.Hour)))
}

// However often it is asked for, and wherever the clock goes, nobody waits longer than an hour,
// and no more than the free ones plus one a minute are given.
func TestBudgetProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b, now := Budget{Spent: rapid.Int().Draw(t, "spent"), Last: noon.Add(time.Duration(rapid.Int64().Draw(t, "last")))}, noon
		given := 0
		var began, last time.Time
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			step := time.Duration(rapid.Int64Range(-int64(2*time.Hour), int64(2*time.Hour)).Draw(t, "step"))
			now = now.Add(step)
			if step < 0 {
				given = 0 // an hour is no longer an hour
			}
			b = b.At(now)
			next := b.Next(now)
			if wait := next.Sub(now); wait > time.Hour {
				t.Fatalf("waits %v", wait)
			}
			if next.After(now) {
				continue
			}
			if given == 0 {
				began = now
			}
			last = now
			b = b.Take(now)
			given++
			if most := 3 + 1 + int(last.Sub(began)/time.Minute); given > most {
				t.Fatalf("%d given in %v", given, last.Sub(began))
			}
		}
		data, err := json.Marshal(b)
		require.NoError(t, err)
		var back Budget
		require.NoError(t, json.Unmarshal(data, &back))
		require.Equal(t, b.Next(now).UnixNano(), back.Next(now).UnixNano())
	})
}

func TestBudgetFileOfAnyKind(t *testing.T) {
	for name, content := range map[string]string{"cut": `{"spent": 3, "sin`, "empty": "", "another kind": `[1,2]`, "wrong field": `{"spent":"many"}`} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "budget.json")
			require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
			b := New(Options{BudgetPath: path}, newMemory()).loadBudget(noon)
			require.Equal(t, noon.Add(time.Minute), b.Next(noon), "it counts as spent, not as fresh")
		})
	}
	require.Equal(t, Budget{}, New(Options{BudgetPath: filepath.Join(t.TempDir(), "none")}, newMemory()).loadBudget(noon))
}

// forgetful holds nothing, ever: each connection is a full resync.
type forgetful struct{ *memory }

func (forgetful) Resume(Master) (Resume, error) { return Resume{}, nil }

func TestFullResyncsHaveABudgetThatOutlivesTheDaemon(t *testing.T) {
	master := enginetest.Start(t, enginetest.Any(t))
	path := filepath.Join(t.TempDir(), "budget.json")
	for n := range 3 {
		sink := newMemory()
		_, stop := up(t, Options{Address: master.Addr(), BudgetPath: path}, forgetful{sink})
		caught(t, master, sink)
		stop()
		require.Equal(t, n+1, fullSyncs(master))
	}
	begun := time.Now()
	l, stop := up(t, Options{Address: master.Addr(), BudgetPath: path}, forgetful{newMemory()})
	s := refusedWith(t, l, KindBudget)
	stop()
	require.Equal(t, 3, fullSyncs(master), "the fourth waits, and costs no fork")
	require.WithinDuration(t, begun.Add(time.Minute), s.NextFullResync, 20*time.Second)
	require.Contains(t, s.LastError, "a full resync waits until "+s.NextFullResync.Format("2006-01-02T15:04"))
	require.Contains(t, s.LastError, "nothing is held")
}

// What is too small is known from INFO, before the master has to fork for it (pitfall 12).
func TestBacklogTooSmallIsSaidBeforehand(t *testing.T) {
	enginetest.Each(t, func(t *testing.T, kind enginetest.Kind) {
		master := enginetest.Start(t, kind, "--repl-backlog-size", "16kb")
		sink := newMemory()
		_, stop := up(t, Options{Address: master.Addr()}, sink)
		caught(t, master, sink)
		stop()
		for range 10 {
			master.Do("SET", "k", strings.Repeat("x", 100_000))
		}
		path := filepath.Join(t.TempDir(), "budget.json")
		spent, err := json.Marshal(Budget{Spent: 5, Since: time.Now(), Last: time.Now()})
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(path, spent, 0o600))

		l, stop := up(t, Options{Address: master.Addr(), BudgetPath: path}, sink)
		s := refusedWith(t, l, KindBudget)
		eventually(t, "it says that it waits", func() bool { s = l.Status(); return s.Phase == Waiting && !s.Until.IsZero() })
		require.Contains(t, s.Why, "repl-backlog-size is too small")
		require.WithinDuration(t, time.Now().Add(4*time.Minute), s.Until, time.Minute)
		stop()
		require.Equal(t, 1, fullSyncs(master))

		// What it says to paste is a command that the master takes, and that is enough.
		_, line, ok := strings.Cut(s.LastHint, "CONFIG SET repl-backlog-size ")
		require.True(t, ok, s.LastHint)
		master.Do("CONFIG", "SET", "repl-backlog-size", line)
		sink = newMemory()
		_, stop = up(t, Options{Address: master.Addr()}, sink)
		caught(t, master, sink)
		stop()
		for range 10 {
			master.Do("SET", "k", strings.Repeat("x", 100_000))
		}
		up(t, Options{Address: master.Addr()}, sink)
		caught(t, master, sink)
		require.Equal(t, 2, fullSyncs(master))
	})
}

// While a full resync waits, what kept the last one from succeeding is still said: it is that which
// somebody has to mend.
func TestAWaitingFullResyncTellsOfTheLastOne(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	l := New(Options{}, nil)
	l.budget = Budget{Spent: freeResyncs, Since: now, Last: now}
	l.syncFailed = &hinted{}
	err := l.allowFull(Verdict{Full: true, Why: "nothing is held"}, true, now)
	require.ErrorContains(t, err, ": nothing is held; the last one failed: the disk is full")
	require.Equal(t, "make room", Hint(err))
	l.failed(err, now)
	st := l.Status()
	require.Equal(t, "with a full resync: nothing is held; the last one failed: the disk is full", st.Why)
	require.Equal(t, "make room", st.LastHint)
}

// What an operator has ordered doesn't wait, and counts: what nobody has ordered waits for it the longer.
func TestAnOrderedFullResyncDoesNotWait(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	l := New(Options{}, nil)
	l.budget = Budget{Spent: freeResyncs, Since: now, Last: now}
	require.NoError(t, l.allowFull(Verdict{Full: true, Why: "it was restored"}, true, now))
	l.spend(now)
	var wait *BudgetError
	require.ErrorAs(t, l.allowFull(Verdict{Full: true, Why: "it was restarted"}, false, now), &wait)
	require.Equal(t, now.Add(2*firstWait), wait.Until)
}

type hinted struct{}

func (*hinted) Error() string { return "the disk is full" }
func (*hinted) Hint() string  { return "make room" }
