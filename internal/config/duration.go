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
	m := days.FindStringSubmatch(s)
	var d time.Duration
	for i, unit := range []time.Duration{7 * day, day} {
		if m != nil && m[i+1] != "" {
			n, _ := strconv.Atoi(m[i+1]) // digits, and few
			d += time.Duration(n) * unit
		}
	}
	if m != nil && (m[3] != "" || s == "") {
		rest, err := time.ParseDuration(m[3])
		if err != nil || strings.HasPrefix(m[3], "-") || strings.HasPrefix(m[3], "+") {
			return 0, fmt.Errorf("%q is not a duration: say 10s, 1h30m or 7d", s)
		}
		d += rest
	}
	if m == nil || d <= 0 {
		return 0, fmt.Errorf("%q is not a duration: say 10s, 1h30m or 7d", s)
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
