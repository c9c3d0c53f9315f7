package config

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Duration is a span of time.
type Duration time.Duration

const day = 24 * time.Hour

func (d Duration) String() string { return time.Duration(d).String() }

// days are the units that Go doesn't know, in front of those that it does.
var days = regexp.MustCompile(`^(?:(\d{1,4})w)?(?:(\d{1,4})d)?(.*)$`)

// ParseDuration takes 10s, 250ms, 1h30m, 7d and 2w. A duration is more than nothing.
func ParseDuration(s string) (Duration, error) {
	none := fmt.Errorf("%q is not a duration: say 10s, 1h30m or 7d", s)
	m := days.FindStringSubmatch(s)
	if m == nil {
		return 0, none
	}
	var d time.Duration
	for i, unit := range []time.Duration{7 * day, day} {
		n, _ := strconv.Atoi(m[i+1]) // digits, and few, or nothing: 0
		d += time.Duration(n) * unit
	}
	if rest := m[3]; rest != "" {
		more, err := time.ParseDuration(rest)
		if err != nil || strings.ContainsAny(rest[:1], "+-") {
			return 0, none
		}
		d += more
	}
	if d <= 0 {
		return 0, none
	}
	return Duration(d), nil
}

// between takes a duration within bounds.
func between(least, most Duration) func(string) (Duration, error) {
	return func(s string) (Duration, error) {
		d, err := ParseDuration(s)
		if err == nil && (d < least || d > most) {
			err = fmt.Errorf("%s is out of range: say something from %s to %s", s, least, most)
		}
		return d, err
	}
}
