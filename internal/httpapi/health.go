package httpapi

import (
	"fmt"
	"net/http"
	"time"
)

const (
	// lateDurable is how old a byte may be that isn't durable: an fsync takes milliseconds.
	lateDurable = 10 * time.Second
	// lateStored is how far a store may be behind: it gets a segment every few seconds.
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

// readyz tells whether all that is written to the masters now is safe now.
func (s *Server) readyz(w http.ResponseWriter, _ *http.Request) {
	var reasons []string
	for _, src := range s.o.Sources(s.o.Now()) {
		reasons = append(reasons, src.unready()...)
	}
	for _, j := range s.jobs() {
		if j.Error != "" {
			reasons = append(reasons, j.Name+": "+j.Error)
		}
	}
	if len(reasons) > 0 {
		answer(w, http.StatusServiceUnavailable, reasons...)
		return
	}
	answer(w, http.StatusOK, "ok")
}

// unready is why a source isn't as it should be, a line a reason.
func (s Source) unready() []string {
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
	if s.NotDurableSecs > lateDurable.Seconds() {
		add("%d bytes are not durable after %.0f s", s.NotDurable, s.NotDurableSecs)
	}
	if s.Spool.Error != "" && s.Spool.Error != s.Error {
		add("%s", s.Spool.Error)
	}
	for _, store := range s.Stores {
		if store.Error != "" {
			add("store %s: %s", store.Name, store.Error)
		} else if len(store.Holes) > 0 {
			add("store %s: %d parts of the stream are missing, and wait to be healed from another store", store.Name, len(store.Holes))
		} else if store.LagSeconds > lateStored.Seconds() {
			add("store %s: %d bytes behind for %.0f s", store.Name, store.LagBytes, store.LagSeconds)
		}
	}
	return why
}
