package syncer

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/offloader/offloader/internal/durable"
	"github.com/offloader/offloader/internal/stream"
)

const (
	freeResyncs = 3
	firstWait   = time.Minute
	longestWait = time.Hour
	regainEvery = time.Hour
	// mostSpent is where the wait has reached its bound: 1, 2, 4 … 32 minutes, an hour.
	mostSpent = freeResyncs + 6
)

// Budget says when a master may be asked for a full resync, a fork each. Three are free. Then
// each waits, counted from the one before it: a minute, doubling to an hour. One is regained an
// hour. It is a value: what happens to it gives a new one.
type Budget struct {
	Spent int       `json:"spent"` // not regained yet
	Since time.Time `json:"since"` // the next is regained an hour after it
	Last  time.Time `json:"last"`  // full resync
}

// At is b with what has been regained until now. A clock that was stepped back, which would
// keep everything waiting until it caught up, counts as no time passed.
func (b Budget) At(now time.Time) Budget {
	b.Spent = min(max(b.Spent, 0), mostSpent)
	if b.Last.After(now) {
		b.Last = now
	}
	if b.Since.After(now) {
		b.Since = now
	}
	for b.Spent > 0 && now.Sub(b.Since) >= regainEvery {
		b.Spent--
		b.Since = b.Since.Add(regainEvery)
	}
	if b.Spent == 0 {
		b.Since = now
	}
	return b
}

// Next is when the next full resync may begin; not after now means at once.
func (b Budget) Next(now time.Time) time.Time {
	b = b.At(now)
	if b.Spent < freeResyncs {
		return now
	}
	return b.Last.Add(min(longestWait, firstWait<<(b.Spent-freeResyncs)))
}

// Take is b after a full resync at now.
func (b Budget) Take(now time.Time) Budget {
	b = b.At(now)
	if b.Spent == 0 {
		b.Since = now
	}
	b.Spent = min(b.Spent+1, mostSpent)
	b.Last = now
	return b
}

// A BudgetError says that a full resync has to wait.
type BudgetError struct {
	Until time.Time
	Why   string // why it would be a full resync
	Do    string // the setting of the master that is too small, "" if that isn't known
	After error  // how the last one failed, nil if it didn't
}

func (e *BudgetError) Error() string {
	return fmt.Sprintf("a full resync waits until %s (each costs the master a fork): %s", e.Until.Format(stream.Layout), e.reason())
}

// reason is why it comes, and what became of the last one.
func (e *BudgetError) reason() string {
	if e.After == nil {
		return e.Why
	}
	return e.Why + "; the last one failed: " + e.After.Error()
}

// Hint says which setting to change, or what keeps full resyncs from succeeding.
func (e *BudgetError) Hint() string {
	if hint := Hint(e.After); hint != "" {
		return hint
	}
	return e.Do
}

// loadBudget reads what an earlier run left. What can't be read counts as all free ones spent:
// a daemon in a restart loop must not fork the master each time.
func (l *Link) loadBudget(now time.Time) (b Budget) {
	if l.o.BudgetPath == "" {
		return b
	}
	data, err := os.ReadFile(l.o.BudgetPath)
	if errors.Is(err, fs.ErrNotExist) {
		return b
	}
	if err == nil {
		err = json.Unmarshal(data, &b)
	}
	if err != nil {
		l.log.Warn("the full-resync budget can't be read: the free ones count as spent", "file", l.o.BudgetPath, "error", err)
		return Budget{Spent: freeResyncs, Since: now, Last: now}
	}
	return b.At(now)
}

// spend takes note of a full resync, durably: it counts even if we die the next moment.
func (l *Link) spend(now time.Time) {
	l.budget = l.budget.Take(now)
	next := l.budget.Next(now)
	l.change(func(s *Status) { s.FullResyncs++; s.NextFullResync = next })
	if l.o.BudgetPath == "" {
		return
	}
	data, err := json.Marshal(l.budget)
	if err == nil {
		err = durable.WriteFile(l.o.BudgetPath, append(data, '\n'))
	}
	if err != nil {
		l.log.Error("the full-resync budget won't survive a restart", "error", err)
	}
}

// allowFull tells whether a full resync, foreseen for the reason v, may begin now. One that was ordered may, but for a
// second try: what has failed once may fail for ever, a fork each.
func (l *Link) allowFull(v Verdict, ordered bool, now time.Time) error {
	l.budget = l.budget.At(now)
	next := l.budget.Next(now)
	l.change(func(s *Status) { s.NextFullResync = next })
	if next.After(now) && (!ordered || l.syncFailed != nil) {
		return &BudgetError{Until: next, Why: v.Why, Do: v.Do, After: l.syncFailed}
	}
	return nil
}
