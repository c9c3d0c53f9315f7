package plan

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// A SyntaxError is a word of the user that can't be taken for what it should be (exit 2).
type SyntaxError struct {
	Text string // as given
	Why  string
	Way  string // what to write instead, "" where Why says it all
}

func (e *SyntaxError) Error() string { return fmt.Sprintf("%q %s", e.Text, e.Why) }

// Hint tells what to write instead.
func (e *SyntaxError) Hint() string { return e.Way }

// timeForms is the hint of every TIME that isn't one.
const timeForms = `say it as 2006-01-02T15:04:05Z (RFC 3339), "2006-01-02 15:04:05" or "2006-01-02 15:04:05.000" (local), ` +
	`Unix seconds or milliseconds, "5m ago" (units ms s m h d w, as in 1h30m), "yesterday 14:00", "today 14:00" or "now"`

// ParseTime reads a TIME as users write it. now is what "now" and "ago" start from, loc is where
// "local" is. Nothing is guessed: what has none of the forms is a *SyntaxError that lists them,
// and so is a local time that occurs twice or never because clocks were changed then.
func ParseTime(s string, now time.Time, loc *time.Location) (time.Time, error) {
	text := strings.TrimSpace(s)
	if bare, utc := strings.CutSuffix(text, " UTC"); utc { // as times are printed where local is UTC
		text, loc = bare, time.UTC
	}
	word, rest, spaced := strings.Cut(text, " ")
	switch lower := strings.ToLower(text); {
	case lower == "now":
		return now, nil
	case strings.HasSuffix(lower, " ago"):
		d, why := parseSpan(strings.TrimSuffix(lower, " ago"))
		if why != "" {
			return time.Time{}, &SyntaxError{s, why, timeForms}
		}
		return now.Add(-d), nil
	case isDigits(text):
		return parseUnix(text)
	case strings.EqualFold(word, "today"), strings.EqualFold(word, "yesterday"):
		day := now.In(loc)
		w := wall{year: day.Year(), month: day.Month(), day: day.Day()}
		if strings.EqualFold(word, "yesterday") {
			w.day-- // time.Date takes day 0 for the last of the month before
		}
		if !w.clock(rest, false) {
			return time.Time{}, &SyntaxError{s, "has no time of day", timeForms}
		}
		return w.resolve(s, loc)
	case spaced:
		var w wall
		if !w.date(word) || !w.clock(rest, true) {
			return time.Time{}, &SyntaxError{s, "is not a time", timeForms}
		}
		return w.resolve(s, loc)
	}
	return parseRFC3339(s, text)
}

// parseRFC3339 is time.Parse without its indulgence for short hours and comma fractions. The RFC
// allows t and z as well.
func parseRFC3339(s, text string) (time.Time, error) {
	upper := strings.ToUpper(text)
	t, err := time.Parse(time.RFC3339, upper)
	if err != nil || len(upper) < len("2006-01-02T15:04:05Z") || upper[13] != ':' || strings.Contains(upper, ",") {
		return time.Time{}, &SyntaxError{s, "is not a time", timeForms}
	}
	return t, nil
}

// parseUnix tells seconds from milliseconds by the number of digits: up to ten are seconds (until
// the year 2286), twelve and thirteen are milliseconds (since 1973). Eleven could be either.
func parseUnix(s string) (time.Time, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	switch {
	case err == nil && len(s) <= 10:
		return time.Unix(n, 0).UTC(), nil
	case err == nil && (len(s) == 12 || len(s) == 13):
		return time.UnixMilli(n).UTC(), nil
	}
	return time.Time{}, &SyntaxError{s, fmt.Sprintf("has %d digits: Unix seconds have 10, milliseconds 13", len(s)), timeForms}
}

// units of a span, longest first: a span names each at most once, in this order.
var units = []struct {
	name string
	size time.Duration
}{
	{"w", 7 * 24 * time.Hour}, {"d", 24 * time.Hour}, {"h", time.Hour},
	{"m", time.Minute}, {"s", time.Second}, {"ms", time.Millisecond},
}

// parseSpan reads "1h30m". why says what is wrong with it, "" if nothing is.
func parseSpan(s string) (d time.Duration, why string) {
	next := 0
	for rest := s; rest != "" || s == ""; {
		digits := leading(rest, isDigit)
		name := leading(rest[len(digits):], func(c byte) bool { return 'a' <= c && c <= 'z' })
		unit := next
		for unit < len(units) && units[unit].name != name {
			unit++
		}
		if digits == "" || unit == len(units) {
			return 0, "is not a span of time"
		}
		n, err := strconv.ParseInt(digits, 10, 64)
		if err != nil || n > int64((1<<63-1-d)/units[unit].size) {
			return 0, "is longer ago than can be counted"
		}
		d += time.Duration(n) * units[unit].size
		rest = rest[len(digits)+len(name):]
		next = unit + 1
	}
	return d, ""
}

// wall is what a clock and a calendar on the wall show, in no zone yet.
type wall struct {
	year       int
	month      time.Month
	day        int
	hour, min  int
	sec, nanos int
}

// date reads 2006-01-02.
func (w *wall) date(s string) bool {
	t, err := time.Parse("2006-01-02", s)
	w.year, w.month, w.day = t.Date()
	return err == nil
}

// clock reads 15:04:05 with an optional fraction; where the day is a word, seconds may be left
// out and the hour have one digit.
func (w *wall) clock(s string, full bool) bool {
	if len(s) > 1 && s[1] == ':' && !full {
		s = "0" + s
	}
	if len(s) < 5 || s[2] != ':' || strings.Contains(s, ",") {
		return false
	}
	layout := "15:04:05"
	if len(s) == 5 && !full {
		layout = "15:04"
	}
	t, err := time.Parse(layout, s)
	w.hour, w.min, w.sec, w.nanos = t.Hour(), t.Minute(), t.Second(), t.Nanosecond()
	return err == nil
}

func (w wall) in(loc *time.Location) time.Time {
	return time.Date(w.year, w.month, w.day, w.hour, w.min, w.sec, w.nanos, loc)
}

// resolve finds the one instant at which the wall in loc shows w.
func (w wall) resolve(s string, loc *time.Location) (time.Time, error) {
	guess := w.in(loc) // right, or off by a change of the clocks
	asUTC := w.in(time.UTC)
	start, end := guess.ZoneBounds()
	near := []time.Time{guess}
	if !start.IsZero() {
		near = append(near, start.Add(-time.Second))
	}
	if !end.IsZero() {
		near = append(near, end)
	}
	var found []time.Time
	for _, n := range near {
		_, offset := n.Zone()
		t := asUTC.Add(-time.Duration(offset) * time.Second).In(loc)
		if _, really := t.Zone(); really == offset && !holds(found, t) {
			found = append(found, t)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return time.Time{}, w.never(s, guess, loc)
	}
	a, b := found[0], found[1]
	if b.Before(a) {
		a, b = b, a
	}
	return time.Time{}, &SyntaxError{
		Text: s,
		Why:  fmt.Sprintf("occurs twice in %s, where clocks were put back then: %s and %s", loc, a.Format(time.RFC3339Nano), b.Format(time.RFC3339Nano)),
		Way:  "say which, with its zone: " + a.Format(time.RFC3339Nano) + " or " + b.Format(time.RFC3339Nano),
	}
}

// never explains a local time that clocks jumped over. guess lies beside the jump.
func (w wall) never(s string, guess time.Time, loc *time.Location) error {
	start, end := guess.ZoneBounds()
	jump := start
	if start.IsZero() || (!end.IsZero() && end.Sub(guess) < guess.Sub(start)) {
		jump = end
	}
	_, before := jump.Add(-time.Second).Zone()
	from := jump.In(time.FixedZone("", before))
	return &SyntaxError{
		Text: s,
		Why: fmt.Sprintf("never was in %s: clocks were put forward from %s to %s then",
			loc, from.Format("15:04:05"), jump.Format("15:04:05")),
		Way: "say a time that was, with its zone: the clocks were changed at " + jump.Format(time.RFC3339),
	}
}

func holds(list []time.Time, t time.Time) bool {
	for _, x := range list {
		if x.Equal(t) {
			return true
		}
	}
	return false
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

func isDigits(s string) bool { return s != "" && leading(s, isDigit) == s }

// leading is the longest beginning of s all of whose bytes are in the class.
func leading(s string, class func(byte) bool) string {
	n := 0
	for n < len(s) && class(s[n]) {
		n++
	}
	return s[:n]
}
