// Package schedule runs jobs when a cron line says so.
//
// A Schedule is such a line with the time zone in which it is meant; Next is pure. A Loop runs
// Jobs by their schedules, each job by itself: it never overlaps with itself, what it missed while
// the machine slept or the daemon was down is made up for by one run, a panic is an error, and one
// that overstays its deadline is cancelled, reported, and waited for. A Limit caps how many
// of a kind are at work at once, by the clock or not. What a job does is not known here.
//
// The clocks of daylight saving time skip an hour and repeat one. A run at a time that is skipped
// comes as much later as was skipped, 02:30 at 03:30; a run at a time that occurs twice comes the
// first time only. What runs in every hour also runs in the repeated one.
package schedule

import (
	"fmt"
	"strings"
	"time"

	// A static binary on a host or in a container without zone files knows UTC only, and, worse,
	// takes TZ=Europe/Berlin for it without a word. That is worth the 450 KB of this.
	_ "time/tzdata"

	"github.com/robfig/cron/v3"
)

// shortest is the least that lies between two runs of "@every".
const shortest = time.Second

// Schedule is when something is due. The zero Schedule is never.
type Schedule struct {
	text   string
	zone   *time.Location
	every  time.Duration     // of "@every 6h", else 0
	spec   cron.SpecSchedule // read in UTC: a clock on the wall that is never changed
	hourly bool              // it is due in every hour
}

// A SyntaxError says why a text is no schedule.
type SyntaxError struct {
	Text string
	What string
}

func (e *SyntaxError) Error() string { return fmt.Sprintf("%q is no schedule: %s", e.Text, e.What) }

// Parse reads a cron line of five fields, or @hourly, @daily, @weekly, @monthly, @yearly, @every 6h.
// It is meant in local time, unless TZ=Europe/Berlin (or CRON_TZ=…) stands before it. What would
// never be due is an error.
func Parse(text string) (Schedule, error) {
	s := Schedule{text: text, zone: time.Local}
	fail := func(format string, args ...any) (Schedule, error) {
		return Schedule{}, &SyntaxError{text, fmt.Sprintf(format, args...)}
	}
	line := strings.TrimSpace(text)
	if name, rest, ok := cutZone(line); ok {
		zone, err := time.LoadLocation(name)
		if name == "" || err != nil {
			return fail("there is no time zone %q: say one like Europe/Berlin or UTC", name)
		}
		s.zone, line = zone, rest
	}
	if what := wrong(line); what != "" { // first: the parser panics on a second time zone
		return fail("%s", what)
	}
	parsed, err := cron.ParseStandard(line)
	if err != nil {
		return fail("%v", err)
	}
	switch c := parsed.(type) {
	case cron.ConstantDelaySchedule:
		// The parser makes 1s of what is less, "-5m" too.
		if d, err := time.ParseDuration(strings.TrimSpace(strings.TrimPrefix(line, "@every"))); err != nil || d < shortest {
			return fail("the shortest that can be kept is @every 1s")
		}
		s.every = c.Delay
	case *cron.SpecSchedule:
		s.spec = *c
		s.spec.Location = time.UTC
		const all = 1<<24 - 1
		s.hourly = c.Hour&all == all
	}
	if s.Next(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)).IsZero() { // from here on every day of the year occurs within five years
		return fail("there is no such day, so it would never run")
	}
	return s, nil
}

// cutZone takes the time zone off a line.
func cutZone(line string) (zone, rest string, ok bool) {
	for _, prefix := range []string{"CRON_TZ=", "TZ="} {
		if after, found := strings.CutPrefix(line, prefix); found {
			zone, rest, _ = strings.Cut(after, " ")
			return zone, strings.TrimSpace(rest), true
		}
	}
	return "", line, false
}

// fields are those of a cron line.
var fields = [...]struct{ name, holds string }{
	{"minute", "0 to 59"},
	{"hour", "0 to 23"},
	{"day of the month", "1 to 31"},
	{"month", "1 to 12, or JAN to DEC"},
	{"day of the week", "0 (Sunday) to 6, or SUN to SAT"},
}

// wrong finds the first field of a line that can't be read, "" where there is none. The parser
// tells what is wrong with a field, not with which.
func wrong(line string) string {
	if strings.HasPrefix(line, "@") {
		if _, err := cron.ParseStandard(line); err != nil {
			return "there is @hourly, @daily, @weekly, @monthly, @yearly, and @every with a time like 6h"
		}
		return ""
	}
	words := strings.Fields(line)
	if len(words) != len(fields) {
		return fmt.Sprintf("it has %d fields, a schedule has 5: minute, hour, day of the month, month, day of the week, like \"0 4 * * *\" for each day at 04:00", len(words))
	}
	for i, word := range words {
		alone := []string{"*", "*", "*", "*", "*"}
		alone[i] = word
		_, err := cron.ParseStandard(strings.Join(alone, " "))
		if err != nil || strings.Trim(word, ",") != word || strings.ContainsRune(word, '=') {
			return fmt.Sprintf("its %s is %q: say %s, a range like 1-5, a list like 1,3, or * with a step like */2", fields[i].name, word, fields[i].holds)
		}
	}
	return ""
}

// String is the text that was parsed.
func (s Schedule) String() string { return s.text }

// IsZero tells whether it is the zero Schedule: nothing is ever due.
func (s Schedule) IsZero() bool { return s.text == "" }

// Equal tells whether both were made of the same text.
func (s Schedule) Equal(o Schedule) bool { return s.text == o.text }

// Next is the first time behind after at which it is due, the zero time if there is none.
func (s Schedule) Next(after time.Time) time.Time {
	switch {
	case s.IsZero():
		return time.Time{}
	case s.every > 0:
		return after.Add(s.every).In(s.zone)
	case s.hourly:
		spec := s.spec
		spec.Location = s.zone // goes by time that passes, so it sees both of an hour that occurs twice
		return spec.Next(after.In(s.zone))
	}
	var first time.Time
	for wall := onTheWall(after.In(s.zone)); ; {
		if wall = s.spec.Next(wall); wall.IsZero() {
			return first
		}
		at, skipped := moment(wall, s.zone)
		if at.After(after) && (first.IsZero() || at.Before(first)) {
			first = at
		}
		// One that was put off may come after another that wasn't.
		if !skipped && !first.IsZero() {
			return first
		}
	}
}

// Longest is the longest that lies between two runs, as far as a thousand of them show.
func (s Schedule) Longest() time.Duration {
	var longest time.Duration
	at := s.Next(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	for range 1000 {
		next := s.Next(at)
		if next.IsZero() {
			break
		}
		longest, at = max(longest, next.Sub(at)), next
	}
	return longest
}

// onTheWall is what a clock shows at t, as if it stood in UTC.
func onTheWall(t time.Time) time.Time {
	return time.Date(t.Year(), t.Month(), t.Day(), t.Hour(), t.Minute(), t.Second(), t.Nanosecond(), time.UTC)
}

// moment is when a clock in zone shows wall: the first time, if it does so twice. Where it never
// does, because the clock was put forward, it is as much later as was skipped.
func moment(wall time.Time, zone *time.Location) (at time.Time, skipped bool) {
	// A day before and a day after are on either side of any change that could matter: clocks are
	// at most 14 hours away from UTC.
	_, before := wall.AddDate(0, 0, -1).In(zone).Zone()
	_, behind := wall.AddDate(0, 0, 1).In(zone).Zone()
	early := wall.Add(-time.Duration(max(before, behind)) * time.Second).In(zone)
	late := wall.Add(-time.Duration(min(before, behind)) * time.Second).In(zone)
	switch {
	case onTheWall(early).Equal(wall):
		return early, false
	case onTheWall(late).Equal(wall):
		return late, false
	}
	return late, true // by the offset that held until then, which is the smaller one
}
