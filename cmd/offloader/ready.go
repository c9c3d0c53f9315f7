package main

import (
	"fmt"
	"slices"
	"time"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/check"
	"github.com/offloader/offloader/internal/plan"
)

// proved tells whether a master's own persistence may be switched off: not before an engine has replayed what is
// archived of it, and held what the master did. Of a source that is in no store yet there is nothing to say.
func (a *app) proved(cats []*archive.Catalog, source string, now time.Time) []check.Finding {
	var last archive.Event
	archived, suspect := false, false
	for _, c := range cats {
		if n := len(c.Timelines); n > 0 {
			archived, suspect = true, suspect || c.Timelines[n-1].Suspect()
		}
		if e, ok := c.Booted(); ok && e.Time >= last.Time {
			last = e
		}
	}
	switch {
	case !archived:
		return nil
	case suspect:
		return []check.Finding{{
			Name: "ready", Level: check.Warn, Hint: "find out what happened to the master, and then say so: offloader release" + a.where() + " --source " + source,
			Message: "not ready to switch the master's persistence off: the newest timeline is suspect",
		}}
	case last.Kind == "":
		return []check.Finding{{
			Name: "ready", Level: check.Warn, Hint: "offloader verify --boot" + a.where() + " --source " + source,
			Message: "not ready to switch the master's persistence off: no engine has shown yet that it gets from the archive what the master holds",
		}}
	}
	return []check.Finding{{Name: "ready", Level: check.OK, Message: fmt.Sprintf(
		"ready to switch the master's persistence off: at %s a scratch engine had replayed the archive up to offset %d, and held as many keys as the master", moment(last.Time, now), last.Offset)}}
}

// stored tells whether any store has a snapshot of a source.
func stored(cats []*archive.Catalog) bool {
	return slices.ContainsFunc(cats, func(c *archive.Catalog) bool {
		return slices.ContainsFunc(c.Timelines, func(t *archive.Timeline) bool { return len(t.Snapshots) > 0 })
	})
}

// ready tells whether proved was content.
func ready(found []check.Finding) bool {
	return slices.ContainsFunc(found, func(f check.Finding) bool { return f.Name == "ready" && f.Level == check.OK })
}

// where are the flags by which this command line found the archive, for another one.
func (a *app) where() string {
	switch {
	case a.archiveURL != "":
		return " --archive " + plan.Quote(a.archiveURL)
	case a.configFile != "":
		return " --config " + plan.Quote(a.configFile)
	}
	return ""
}
