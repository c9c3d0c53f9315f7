package config

import (
	"errors"
	"fmt"
	"strconv"
	"time"
)

// DefaultWindow is that of a retention that names none. A failover may go back behind the newest
// snapshot, and what then becomes a branch needs an older one.
const DefaultWindow = Duration(time.Hour)

// Retention is what of an archive is kept; what it doesn't keep is deleted.
type Retention struct {
	Window  Duration // of which every moment stays restorable
	Keep    Keep     // single snapshots beyond it
	Minimum int      // so many of the newest snapshots stay, whatever their age
}

// Keep is of how many hours, days, weeks and months the last snapshot stays.
type Keep struct{ Hourly, Daily, Weekly, Monthly int }

// RetentionIn is what is kept in a store, nil where nothing is ever deleted.
func (c *Config) RetentionIn(s Store) *Retention {
	if s.Retention != nil {
		return s.Retention
	}
	return c.Retention
}

// retention reads one, nil where there are only errors. An empty one would delete all but the last
// hour, and nobody means that.
func (r *reader) retention(n node) *Retention {
	p := &Retention{Window: DefaultWindow, Minimum: 1}
	given := r.mapping(n, "retention", []field{
		{"window", func(n node) { read(r, n, &p.Window, between(Duration(time.Second), 36500*Duration(day))) }},
		{"keep", func(n node) {
			given := r.mapping(n, "keep", []field{
				{"hourly", func(n node) { read(r, n, &p.Keep.Hourly, periods) }},
				{"daily", func(n node) { read(r, n, &p.Keep.Daily, periods) }},
				{"weekly", func(n node) { read(r, n, &p.Keep.Weekly, periods) }},
				{"monthly", func(n node) { read(r, n, &p.Keep.Monthly, periods) }},
			})
			if given != nil && len(given) == 0 {
				r.fail(r.at(n), `"keep" keeps nothing: say how many, like {daily: 7, weekly: 4}, or leave it out`)
			}
		}},
		{"minimum", func(n node) { read(r, n, &p.Minimum, minimum) }},
	})
	if given == nil {
		return nil
	}
	if len(given) == 0 {
		r.fail(r.at(n), `"retention" says nothing: say what is kept, like {window: 7d}`)
	}
	return p
}

// most is more than any archive has snapshots.
const most = 1_000_000

func periods(s string) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 || n > most {
		return 0, fmt.Errorf("%q is not a number of snapshots: say 0 or more", s)
	}
	return n, nil
}

func minimum(s string) (int, error) {
	n, err := periods(s)
	if err == nil && n == 0 {
		err = errors.New("a minimum of 0 would let the last snapshot go: it is at least 1")
	}
	return n, err
}
