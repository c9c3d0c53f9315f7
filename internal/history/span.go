package history

import (
	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/stream"
)

// Outages are those of a timeline in which the query begins or ends: what was written meanwhile came
// later, and has the time at which it came.
func (q Query) Outages(t *archive.Timeline) (in []archive.Event) {
	inside := func(at stream.Time, e archive.Event) bool { return at != 0 && e.From < at && at < e.Time }
	for _, e := range t.Events {
		if e.Kind == archive.EventOutage && e.Damage == nil && (inside(q.From, e) || inside(q.To, e)) {
			in = append(in, e)
		}
	}
	return in
}

// Outside tells whether the query asks for a time of which the timelines hold nothing. before is
// then when the last thing before it came, after when the first behind it did; 0 where there is none.
func (q Query) Outside(timelines []*archive.Timeline) (before, after stream.Time, outside bool) {
	for _, t := range timelines {
		first, last := held(t)
		switch {
		case last == 0:
		case q.To != 0 && q.To <= first:
			if after == 0 || first < after {
				after = first
			}
		case q.From > last:
			before = max(before, last)
		default:
			return 0, 0, false
		}
	}
	return before, after, before != 0 || after != 0
}

// held is when the first and the last of what is held of a timeline came, 0 where nothing is.
func held(t *archive.Timeline) (first, last stream.Time) {
	see := func(from, to stream.Time) {
		if last == 0 || from < first {
			first = from
		}
		last = max(last, to)
	}
	for _, s := range t.Snapshots {
		see(s.Time, s.Time)
	}
	for _, s := range t.Segments {
		see(s.Time0, s.Time1)
	}
	return first, last
}
