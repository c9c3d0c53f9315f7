package httpapi

import (
	"cmp"
	"fmt"
	"net/http"
	"time"

	"github.com/offloader/offloader/internal/source"
	"github.com/offloader/offloader/internal/stale"
)

const (
	// lateDurable is how old a byte may be that isn't durable: an fsync takes milliseconds.
	lateDurable = 10 * time.Second
	// lateStored is how much later than it should be a byte may be stored, where no limit is configured.
	lateStored = 2 * time.Minute
)

// healthz tells whether the daemon works. A master that is away, or a store, is no fault of it,
// and a restart would not help.
func (s *Server) healthz(w http.ResponseWriter, _ *http.Request) {
	var faults []string
	for _, src := range s.o.Sources(s.o.Now()) {
		if src.Ended != "" {
			faults = append(faults, src.Name+": its archiving ended, and is tried again: "+src.Ended)
		}
	}
	if len(faults) > 0 {
		answer(w, http.StatusServiceUnavailable, faults...)
		return
	}
	answer(w, http.StatusOK, "ok")
}

// readyz tells whether all that is written to the masters now is safe now, and nothing has grown old.
func (s *Server) readyz(w http.ResponseWriter, _ *http.Request) {
	if reasons := s.Unready(); len(reasons) > 0 {
		answer(w, http.StatusServiceUnavailable, reasons...)
		return
	}
	answer(w, http.StatusOK, "ok")
}

// Unready is why not all is as it should be, a line a reason: what /readyz answers.
func (s *Server) Unready() []string {
	var limits stale.Limits
	if s.o.MaxAge != nil {
		limits = s.o.MaxAge()
	}
	var reasons []string
	now := s.o.Now()
	for _, src := range s.o.Sources(now) {
		reasons = append(reasons, src.unready(limits, now)...)
	}
	for _, j := range s.jobs() {
		if j.Error != "" {
			reasons = append(reasons, j.Name+": "+j.Error)
		}
	}
	return reasons
}

// unready is why a source isn't as it should be, a line a reason.
func (s Source) unready(limits stale.Limits, now time.Time) []string {
	var why []string
	add := func(format string, args ...any) { why = append(why, s.Name+": "+fmt.Sprintf(format, args...)) }
	switch {
	case s.Ended != "":
		add("not archived: %s", s.Ended)
	case s.State != "streaming":
		reason := s.State
		if s.Why != "" {
			reason += " " + s.Why
		}
		if s.Error != "" {
			reason += ": " + s.Error
		}
		add("%s", reason)
	}
	if s.Broken != "" {
		add("what is archived now can't be restored: %s", s.Broken)
	}
	if s.Suspect != nil { // a restore of now would not be what people want
		add("timeline %s is suspect: %s (%s)", s.Suspect.Timeline, s.Suspect.Cause, s.Suspect.Hint)
	}
	if s.NotDurableSecs > lateDurable.Seconds() {
		add("%d bytes are not durable after %.0f s", s.NotDurable, s.NotDurableSecs)
	}
	if s.Spool.Error != "" && s.Spool.Error != s.Error {
		add("%s", s.Spool.Error)
	}
	if s.Relay != nil && s.Relay.Error != "" {
		add("its relay is not open: %s", s.Relay.Error)
	}
	for _, store := range s.Stores {
		for _, reason := range late(store, len(s.Stores) > 1, limits, now) {
			add("store %s: %s", store.Name, reason)
		}
	}
	return why
}

// late is what is wrong with a store, one of several or not, and what has grown old in it.
func late(s source.StoreStatus, several bool, limits stale.Limits, now time.Time) (why []string) {
	limits.Stored = cmp.Or(limits.Stored, lateStored+time.Duration(s.IntervalSeconds*float64(time.Second)))
	if n := len(s.Holes); n > 0 {
		reason := fmt.Sprintf("%d parts of the stream are missing", n)
		if several {
			reason += ", and wait to be healed from another store"
		}
		why = append(why, reason)
	}
	switch {
	case s.Error != "":
		why = append(why, s.Error)
	case len(s.Holes) > 0:
	case s.LagSeconds > limits.Stored.Seconds():
		why = append(why, fmt.Sprintf("%d bytes behind for %.0f s", s.LagBytes, s.LagSeconds))
		limits.Stored = 0 // it says the same
	}
	for _, reason := range limits.Judge(s.Held, now) {
		why = append(why, reason.What)
	}
	return why
}
