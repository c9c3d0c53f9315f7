package config

import (
	"fmt"
	"net/url"
	"time"
)

// MaxAge is how old the newest in each store may become before that is a failure. Zero: as old as it
// likes; of Stored, the daemon's own limit.
type MaxAge struct {
	Snapshot Duration // of the newest snapshot
	Stored   Duration // of the newest byte
	Verify   Duration // of the last verify that found nothing wrong
}

// Heartbeat is who is called while all is well.
type Heartbeat struct {
	URL Secret // "" for nobody
}

func (r *reader) maxAge(n node, m *MaxAge) {
	const longest = 36500 * Duration(day)
	given := r.mapping(n, "max_age", []field{
		{"snapshot", func(n node) { read(r, n, &m.Snapshot, between(Duration(time.Minute), longest)) }},
		// A master sends a byte every ten seconds, and a folder gets it ten seconds later.
		{"stored", func(n node) { read(r, n, &m.Stored, between(Duration(30*time.Second), longest)) }},
		{"verify", func(n node) { read(r, n, &m.Verify, between(Duration(time.Minute), longest)) }},
	})
	if given != nil && len(given) == 0 {
		r.fail(r.at(n), `"max_age" says nothing: say what may become how old, like {snapshot: 2d, verify: 8d}`)
	}
}

// canKeep refuses an age that nothing would keep things under: each run by schedule would come too
// late, and so would be every alarm believed.
func (r *reader) canKeep(c *Config) {
	if len(r.errs) > 0 {
		return // a schedule with a fault is none
	}
	m := c.MaxAge
	if m.Snapshot > 0 {
		switch longest := c.Snapshots.Schedule.Longest(); {
		case c.Snapshots.Schedule.IsZero() && !r.namesOnly:
			r.warnings = append(r.warnings, `max_age.snapshot is given, and "snapshots" has no "schedule": only those by hand, and full syncs, keep under it`)
		case time.Duration(m.Snapshot) <= longest:
			r.fail(r.where["max_age.snapshot"], fmt.Sprintf("the schedule of snapshots leaves up to %s between two, so the newest will be older than %s: say more", longest, m.Snapshot))
		}
	}
	if m.Verify > 0 {
		switch longest := c.Verify.Schedule.Longest(); {
		case c.Verify.Schedule.IsZero():
			r.fail(r.where["max_age.verify"], `there is no "verify" with a "schedule": nothing else keeps under this`)
		case time.Duration(m.Verify) <= longest:
			r.fail(r.where["max_age.verify"], fmt.Sprintf("the schedule of verify leaves up to %s between two, so the last will be longer ago than %s: say more", longest, m.Verify))
		}
	}
	for _, s := range c.Stores {
		if m.Stored > 0 && m.Stored <= s.UploadInterval {
			r.fail(r.where["max_age.stored"], fmt.Sprintf("a store with an upload_interval of %s gets bytes that are older than %s: say more", s.UploadInterval, m.Stored))
			return
		}
	}
}

func (r *reader) heartbeat(n node, h *Heartbeat) {
	var file string
	given := r.mapping(n, "heartbeat", []field{
		{"url", func(n node) { r.secret(n, &h.URL) }},
		{"url_file", func(n node) { r.value(n, &file, notEmpty); r.passwordFile(n, file, &h.URL) }},
	})
	at := r.where["heartbeat.url"]
	if given["url_file"] {
		at = r.where["heartbeat.url_file"]
	}
	switch {
	case given == nil:
	case given["url"] && given["url_file"]:
		r.fail(at, `both "url" and "url_file" are given: keep one`)
	case !given["url"] && !given["url_file"]:
		r.fail(r.at(n), `"heartbeat" has no "url": say who is called while all is well`)
	case h.URL != "" && !callable(string(h.URL)):
		r.fail(at, "this is no URL that can be called: it begins with https:// or http://, and names a host") // not a word of it: it may be a secret
	}
}

func callable(s string) bool {
	u, err := url.Parse(s)
	return err == nil && (u.Scheme == "https" || u.Scheme == "http") && u.Host != ""
}
