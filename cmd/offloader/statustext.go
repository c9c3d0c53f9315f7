package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/offloader/offloader/internal/heartbeat"
	"github.com/offloader/offloader/internal/httpapi"
	"github.com/offloader/offloader/internal/relay"
	"github.com/offloader/offloader/internal/source"
	"github.com/offloader/offloader/internal/stale"
	"github.com/offloader/offloader/internal/stream"
)

// printStatus is the status for people: for each source a sentence with what matters most, then
// a line for each thing that there is to say.
func (a *app) printStatus(r httpapi.Report, now time.Time) error {
	for i, s := range r.Sources {
		if i > 0 {
			if err := a.term.print(""); err != nil {
				return err
			}
		}
		if err := a.term.print("%s %s", paint(a.term.colour, "1", s.Name+":"), restorable(s.Status, now)); err != nil {
			return err
		}
		if err := a.term.table("  ", "", a.details(s, now)); err != nil {
			return err
		}
	}
	if r.FailedReload != nil {
		if err := a.term.print("%s", paint(a.term.colour, "1", "configuration")); err != nil {
			return err
		}
		if err := a.term.table("  ", "", reloadRows(*r.FailedReload, now)); err != nil {
			return err
		}
	}
	rows := jobRows(r.Jobs, now)
	if r.Heartbeat != nil {
		rows = append(rows, heartbeatRow(*r.Heartbeat, now))
	}
	if len(rows) == 0 {
		return nil
	}
	if err := a.term.print("%s", paint(a.term.colour, "1", "jobs")); err != nil {
		return err
	}
	return a.term.table("  ", "", rows)
}

// reloadRows say what is wrong with a configuration that isn't in force.
func reloadRows(f httpapi.FailedReload, now time.Time) [][]cell {
	rows := [][]cell{{{text: "reload", colour: "31"}, {text: "failed " + moment(f.Time, now) + ", the one before stays in force", colour: "31"}}}
	for _, err := range f.Errors {
		rows = append(rows, []cell{{}, {text: err, colour: "31"}})
	}
	return append(rows, []cell{{}, {text: "→ put it right and reload it again; `offloader check` reads it too"}})
}

// heartbeatRow says who is called while all is well, and whether that goes well.
func heartbeatRow(s heartbeat.Status, now time.Time) []cell {
	last := cell{text: "none was taken since the start"}
	if s.Last != 0 {
		last.text = "last " + moment(s.Last, now)
	}
	if s.Error != "" {
		last = cell{text: "failed: " + s.Error, colour: "31"}
	}
	return []cell{{text: "heartbeat to " + s.Host, colour: "2"}, {text: "each minute while all is well"}, last}
}

// jobRows say of each job when it runs next, and how it went last.
func jobRows(jobs []httpapi.Job, now time.Time) [][]cell {
	var rows [][]cell
	for _, j := range jobs {
		next := "next " + moment(j.Next, now)
		switch {
		case j.Running != 0:
			next = "running for " + span(now.Sub(j.Running.Go()))
		case j.Next == 0:
			next = "never"
		}
		last := cell{text: "has not run since the start"}
		if j.Last != 0 {
			last.text = fmt.Sprintf("last %s, took %s", moment(j.Last, now), span(toDuration(j.TookSeconds)))
		}
		if j.Error != "" {
			last = cell{text: "failed " + moment(j.Last, now) + ": " + j.Error, colour: "31"}
		}
		rows = append(rows, []cell{{text: j.Name, colour: "2"}, {text: next}, last})
	}
	return rows
}

// restorable says which moments can be restored, and what would be lost if this host died now.
func restorable(s source.Status, now time.Time) string {
	nothing := s.Timeline == "" || s.DurableTime == 0
	switch {
	case nothing && s.State == "syncing" && older(s):
		return "a new timeline begins with the copy that is under way; what is older can be restored: see `offloader list`"
	case nothing && older(s):
		return "nothing is archived now; what is older can be restored: see `offloader list`"
	case nothing:
		return "nothing can be restored yet"
	case s.Suspect != nil:
		return "what is archived now is SUSPECT, and passed over by restores: " + s.Suspect.Cause
	case s.Broken != "":
		return "what is archived now can't be restored: " + s.Broken
	}
	until := s.DurableTime.Go()
	to := span(now.Sub(until)) + " ago"
	if now.Sub(until) >= time.Minute {
		to = moment(s.DurableTime, now) + " (" + to + ")"
	}
	text := fmt.Sprintf("every moment from %s to %s can be restored", moment(s.Since, now), to)
	if s.Since == 0 { // after a start, until the store has told
		text = fmt.Sprintf("moments up to %s can be restored, since when is not known before the store answers", moment(s.DurableTime, now))
	}
	if why := idle(s); why != "" {
		text = fmt.Sprintf("nothing is archived since %s: %s; %s", to, why, text)
	}
	return fmt.Sprintf("%s; %s not yet durable", text, size(s.NotDurable))
}

// older tells whether something can be restored that is no part of a timeline that goes on.
func older(s source.Status) bool {
	return s.LastSnapshot != nil || slices.ContainsFunc(s.Stores, func(store source.StoreStatus) bool { return store.Held.Snapshot != 0 })
}

// idle is why nothing is archived now, though the master may have more; "" where that isn't so. What waits for its rebirth has no more.
func idle(s source.Status) string {
	why, _, _ := strings.Cut(s.Why, ": ") // the rest is said of the link
	switch {
	case s.State == "streaming", why == "for its rebirth":
		return ""
	case s.State == "waiting":
		return "waiting " + why
	}
	return s.State
}

// details are what else there is to say, a row each.
func (a *app) details(s httpapi.Source, now time.Time) [][]cell {
	var rows [][]cell
	add := func(name, format string, args ...any) {
		rows = append(rows, []cell{{text: name, colour: "2"}, {text: fmt.Sprintf(format, args...)}})
	}
	bad := func(name, text, hint string) {
		rows = append(rows, []cell{{text: name, colour: "31"}, {text: text, colour: "31"}})
		if hint != "" {
			rows = append(rows, []cell{{}, {text: "→ " + hint}})
		}
	}
	if s.BrokenHint != "" {
		rows = append(rows, []cell{{}, {text: "→ " + s.BrokenHint}})
	}
	add("master", "%s%s", s.Master, product(s.Status))
	add("link", "%s", doing(s.Status, now))
	if s.Error != "" {
		bad("error", s.Error, s.Hint)
	} else if s.State == "waiting" && s.Hint != "" { // what ends the wait
		add("", "→ %s", s.Hint)
	}
	if sus := s.Suspect; sus != nil {
		bad("SUSPECT", sus.Cause, "")
		add("", "timeline %s, since %s: %s", sus.Timeline, moment(sus.Time, now), sizes(sus.Keys))
		for _, way := range a.afterAmnesia(s.Name, sus.Before) {
			add("", "→ %s", way)
		}
	}
	if s.PlainSync {
		bad("sync", "the master doesn't know PSYNC: nothing can be resumed, and WAIT doesn't count us", "")
	}
	if s.Timeline != "" {
		add("timeline", "%s, replication id %s", s.Timeline, s.ReplID)
		add("offsets", "received %s, durable %s, acknowledged %s", count(int64(s.Received)), count(int64(s.Durable)), count(int64(s.Acked)))
	}
	if k := s.Known; k != nil {
		add("keys", "%s at %s, offset %s", count(k.Keys), moment(k.Time, now), count(int64(k.Offset)))
		if k.Weak != "" {
			add("", "the guard against a master that comes back empty is weaker, it goes by that number: %s", k.Weak)
		}
	}
	if m := s.LastSnapshot; m != nil {
		add("snapshot", "%s, at offset %s", moment(m.Time, now), count(int64(m.Offset)))
	}
	if s.Relay != nil && s.Relay.Error != "" {
		bad("relay", "not open: "+s.Relay.Error, "")
	} else if s.Relay != nil {
		add("relay", "replicas attach to %s", s.Relay.Listen)
	}
	if p := s.Rebirth; p != nil {
		by := "by a guess at the engine's speed"
		if p.Measured {
			by = "at the speed of its last"
		}
		add("rebirth", "would take about %s now, %s: a snapshot of %s, and %s of stream behind it", span(toDuration(p.Seconds)), by, size(p.Snapshot), size(p.Log))
	}
	for _, r := range s.Replicas {
		who := r.Address
		if r.Own {
			who += ", the source itself,"
		}
		text := fmt.Sprintf("%s %s since %s", who, r.State, moment(r.Since, now))
		if r.AckTime != 0 {
			text += fmt.Sprintf(", acknowledged %s, %s behind", count(int64(r.Offset)), size(int64(s.Durable-r.Offset)))
		}
		if r.State == relay.Away && r.PutOff != "" && !r.Own { // that one's is why the source waits
			text += ", put off: " + r.PutOff
		}
		add("replica", "%s", text)
	}
	resyncs := fmt.Sprintf("%d full, %d partial", s.FullResyncs, s.PartialResyncs)
	if s.Rebirths > 0 {
		resyncs += fmt.Sprintf(" (%s)", plural(s.Rebirths, "rebirth", "rebirths"))
	}
	if next := s.NextFullResync; next.Go().After(now) {
		resyncs += "; the next full one not before " + moment(next, now)
	}
	add("resyncs", "%s", resyncs)
	add("spool", "%s of %s", size(s.Spool.Bytes), size(s.Spool.MaxBytes))
	if s.Spool.Error != "" && s.Spool.Error != s.Error {
		bad("", s.Spool.Error, "")
	}
	if b := s.LastBoot; b != nil && b.Findings > 0 {
		bad("boot", "a scratch engine held another number of keys than the master, at "+moment(b.Time, now), "`offloader verify --boot` tells more; keep the master's own persistence on")
	} else if b != nil && b.Error != "" {
		bad("boot", fmt.Sprintf("no scratch engine could be booted at %s: %s", moment(b.Time, now), b.Error), "")
	}
	for _, store := range s.Stores {
		add("store", "%s: %s", store.Name, behind(store))
		if store.Error != "" {
			bad("", store.Error, store.Hint)
		}
		if n := len(store.Holes); n > 0 {
			text := fmt.Sprintf("offsets %d to %d are missing: %s", store.Holes[0].From, store.Holes[0].To, store.Holes[0].Cause)
			if n > 1 {
				text += fmt.Sprintf(" (and %d more)", n-1)
			}
			bad("", text, "")
		}
		if store.Held.Since != 0 {
			add("", "%s", newest(store.Held, now))
		}
		if v := store.LastVerify; v != nil && v.Findings > 0 {
			bad("", fmt.Sprintf("%s at the verify of %s", plural(int64(v.Findings), "finding", "findings"), moment(v.Time, now)), "`offloader verify` tells them, and what they cost")
		} else if v != nil && v.Error != "" {
			bad("", fmt.Sprintf("not verified at %s: %s", moment(v.Time, now), v.Error), "")
		}
	}
	switch {
	case s.State != "streaming" || s.PlainSync:
	case s.Ack == "store":
		add("WAIT", "1 means that every store has it, while Offloader is the master's only replica, n+1 beside n others")
	default:
		add("WAIT", "1 means durable here while Offloader is the master's only replica, n+1 beside n others")
	}
	return rows
}

// product is what the master is, as far as it told.
func product(s source.Status) string {
	var text string
	if s.Engine != "" {
		text = ", " + s.Engine + " " + s.Version
	}
	if s.Upstream != "" {
		text += ", itself a replica of " + s.Upstream
	}
	return text
}

// doing is what the link does, and since when.
func doing(s source.Status, now time.Time) string {
	since := "for " + span(now.Sub(s.PhaseSince.Go()))
	switch s.State {
	case "syncing":
		return "full sync, " + syncText(s, now)
	case "waiting":
		text := "waiting " + s.Why
		if left := s.Until.Go().Sub(now); s.Until != 0 && left > 0 {
			text += ", for another " + span(left)
		}
		return text
	case "streaming":
		return "streaming " + since
	}
	if s.Phase == "" {
		return "starting"
	}
	return fmt.Sprintf("%s %s", s.Phase, since)
}

// behind is how far a store is.
func behind(s source.StoreStatus) string {
	switch {
	case s.LagBytes == 0 && s.StoredTime != 0:
		return "up to offset " + count(int64(s.Stored)) + ", all that is durable"
	case s.StoredTime == 0:
		return "nothing of the stream yet"
	case s.LagSeconds == 0:
		return "up to offset " + count(int64(s.Stored)) + ", " + size(s.LagBytes) + " behind"
	}
	return fmt.Sprintf("up to offset %s, %s and %s behind", count(int64(s.Stored)), size(s.LagBytes), span(toDuration(s.LagSeconds)))
}

// newest is of when what a store holds is.
func newest(h stale.Held, now time.Time) string {
	text := "no snapshot yet"
	if h.Snapshot != 0 {
		text = "newest snapshot " + moment(h.Snapshot, now)
	}
	verified := ", not verified yet"
	if h.Verified != 0 {
		verified = ", verified " + moment(h.Verified, now)
	}
	text += verified
	if h.Booted != 0 {
		text += ", booted " + moment(h.Booted, now)
	}
	return text
}

// moment is a time of day, with its date where that isn't today's.
func moment(at stream.Time, now time.Time) string {
	t, today := at.Go().In(now.Location()), now
	if t.Format(time.DateOnly) == today.Format(time.DateOnly) {
		return t.Format(time.TimeOnly)
	}
	return strings.TrimSpace(t.Format(time.DateTime))
}
