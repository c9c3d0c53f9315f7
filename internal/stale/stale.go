// Package stale tells when an archive has grown old.
//
// That a backup is no longer made is noticed by nobody until it is needed. So the age of three things
// can be limited, for each source in each store: of the newest snapshot, of the newest byte of the
// stream, and of the last time that all was read again and found as it had been written. Of a catalog
// comes what a store Held, and Judge holds that against the Limits. There is no I/O here, and time is
// an argument: a daemon and who only reads the archive judge alike.
//
// A master sends a PING every ten seconds, also when nobody writes (repl-ping-replica-period). So the
// age of the newest byte in a store tells of all that can break on the way there: master, link,
// daemon, store.
package stale

import (
	"fmt"
	"strings"
	"time"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/stream"
)

// Limits are how old things may become. Zero: as old as they like.
type Limits struct{ Snapshot, Stored, Verify time.Duration }

// Held is the newest that a store holds of a source. What there is none of, or isn't known, is zero.
type Held struct {
	Since    stream.Time `json:"since"`    // the birth of the oldest timeline: from then on it could be older
	Snapshot stream.Time `json:"snapshot"` // the moment of the newest snapshot
	Stored   stream.Time `json:"stored"`   // when the newest byte was received
	Verified stream.Time `json:"verified"` // when all was last read again, and was as it had been written
	Booted   stream.Time `json:"booted"`   // when an engine that replayed it last held what the master had
}

// Of is what a catalog, of one store, holds.
func Of(c *archive.Catalog) Held {
	var h Held
	for _, t := range c.Timelines {
		one := Held{Since: t.Began}
		for _, s := range t.Snapshots {
			one.Snapshot = max(one.Snapshot, s.Time)
		}
		for _, s := range t.Segments {
			one.Stored = max(one.Stored, s.Time1)
		}
		one.Stored = max(one.Stored, one.Snapshot)
		h = h.With(one)
	}
	if e, ok := c.Verified(); ok {
		h.Verified = e.Time
	}
	if e, ok := c.Booted(); ok {
		h.Booted = e.Time
	}
	return h
}

// With is what is held when o is known too.
func (h Held) With(o Held) Held {
	if h.Since == 0 || o.Since != 0 && o.Since < h.Since {
		h.Since = o.Since
	}
	h.Snapshot, h.Stored, h.Verified = max(h.Snapshot, o.Snapshot), max(h.Stored, o.Stored), max(h.Verified, o.Verified)
	h.Booted = max(h.Booted, o.Booted)
	return h
}

// A Reason is something that is too old.
type Reason struct {
	What string
	Hint string // what to do
}

// Judge tells what is too old now. What was never done counts from the birth of the oldest timeline
// that is held: an archive that has just begun is not late with its first verify. Nothing is said of
// a store that holds nothing.
func (l Limits) Judge(h Held, now time.Time) []Reason {
	var reasons []Reason
	judge := func(limit time.Duration, last stream.Time, since, never, field, hint string) {
		age := now.Sub(max(last, h.Since).Go())
		if h.Since == 0 || limit == 0 || age <= limit {
			return
		}
		what := since
		if last == 0 {
			what = never
		}
		reasons = append(reasons, Reason{fmt.Sprintf("%s %s ago; max_age.%s is %s", what, span(age), field, span(limit)), hint})
	}
	judge(l.Snapshot, h.Snapshot, "its newest snapshot is of", "it has no snapshot, and began", "snapshot",
		"`offloader snapshot` takes one now; `offloader status` tells how the snapshots by schedule go")
	judge(l.Stored, h.Stored, "its newest byte was received", "it has no byte of the stream, and began", "stored",
		"is the daemon at work, its link up, and the store writable? `offloader status` tells")
	judge(l.Verify, h.Verified, "it was last verified", "it was never verified, and began", "verify",
		"`offloader verify` tells what is wrong with it, if anything is; `offloader status` tells how the verify by schedule goes")
	return reasons
}

// span is a duration for people.
func span(d time.Duration) string {
	n, unit := d.Hours()/24, "days"
	switch {
	case d < 2*time.Minute:
		n, unit = d.Seconds(), "s"
	case d < 2*time.Hour:
		n, unit = d.Minutes(), "min"
	case d < 48*time.Hour:
		n, unit = d.Hours(), "h"
	}
	return strings.TrimSuffix(fmt.Sprintf("%.1f", n), ".0") + " " + unit
}
