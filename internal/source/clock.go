package source

import "time"

// clock finds steps of the wall clock: how far it went against the monotonic one between two
// looks. Only one goroutine looks.
type clock struct{ last time.Time }

// bigStep is what a step must exceed to be told; less is the usual work of NTP.
const bigStep = time.Second

// step tells whether the clock was stepped since the last look, and what it would read now had
// it not been.
func (c *clock) step(now time.Time) (stepped bool, was time.Time) {
	last := c.last
	c.last = now
	if last.IsZero() {
		return false, now
	}
	was = last.Round(0).Add(now.Sub(last))
	d := now.Round(0).Sub(was)
	return d > bigStep || d < -bigStep, was
}
