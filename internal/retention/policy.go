package retention

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/stream"
)

// Policy is what the user wants to keep.
type Policy struct {
	Window time.Duration // each moment of it stays restorable

	// Of the snapshots beyond the window stays the last of each of so many of the newest hours,
	// days, weeks and months, in UTC, that have one.
	Hourly, Daily, Weekly, Monthly int

	Minimum int // so many of the newest snapshots stay, whatever their age; at least 1
}

// span is a stretch of time.
type span struct{ from, to stream.Time }

// newestByte is when the last byte of a stream came that is stored; where there is none, the last
// snapshot.
func newestByte(cat *archive.Catalog) stream.Time {
	var log, snapshots stream.Time
	for _, t := range cat.Timelines {
		for _, s := range t.Segments {
			log = max(log, s.Time1)
		}
		for _, s := range t.Snapshots {
			snapshots = max(snapshots, s.Time)
		}
	}
	if log == 0 {
		return snapshots
	}
	return log
}

// begin is the moment at which a window that ends at now begins. Its length is counted in time
// that the archive knows something of: the time during which nothing came, and that by which a
// clock was stepped, does not age what came before. So neither a clock that went ahead nor a
// month without a daemon empties the window. It is 0 where all that there is is younger.
func begin(cat *archive.Catalog, now stream.Time, window time.Duration) stream.Time {
	left := stream.Time(window.Milliseconds())
	if left == 0 {
		return now
	}
	for _, s := range slices.Backward(known(cat, now)) {
		if length := s.to - s.from; length < left {
			left -= length
			continue
		}
		return s.to - left
	}
	return 0
}

// known are the spans up to now, in order and apart, in which the archive followed its master.
func known(cat *archive.Catalog, now stream.Time) []span {
	var all []span
	for _, t := range cat.Timelines {
		one := []span{{t.Began, lastHeard(t)}}
		for _, s := range t.Snapshots {
			one[0].from = min(one[0].from, s.Time) // a copy may have been put there by hand
		}
		for _, e := range t.Events {
			if (e.Kind == archive.EventOutage || e.Kind == archive.EventClock) && 0 < e.From && e.From < e.Time {
				one = without(one, span{e.From, e.Time})
			}
		}
		all = append(all, one...)
	}
	slices.SortFunc(all, func(a, b span) int { return cmp.Compare(a.from, b.from) })
	var joined []span
	for _, s := range all {
		s.to = min(s.to, now)
		switch last := len(joined) - 1; {
		case s.from >= s.to:
		case last >= 0 && s.from <= joined[last].to:
			joined[last].to = max(joined[last].to, s.to)
		default:
			joined = append(joined, s)
		}
	}
	return joined
}

// without takes a gap out of spans.
func without(all []span, gap span) []span {
	var left []span
	for _, s := range all {
		if before := (span{s.from, min(s.to, gap.from)}); before.from < before.to {
			left = append(left, before)
		}
		if after := (span{max(s.from, gap.to), s.to}); after.from < after.to {
			left = append(left, after)
		}
	}
	return left
}

// lastHeard is the time of the youngest that is held of a timeline itself.
func lastHeard(t *archive.Timeline) stream.Time {
	last := t.Began
	for _, s := range t.Segments {
		last = max(last, s.Time1)
	}
	for _, s := range t.Snapshots {
		last = max(last, s.Time)
	}
	return last
}

// placed is a snapshot, and whose it is.
type placed struct {
	archive.Snapshot
	timeline *archive.Timeline
}

// rules are the names and numbers of what keeps single snapshots.
func (p Policy) rules() []rule {
	return []rule{
		{"hour", p.Hourly, func(t time.Time) string { return t.Format("2006-01-02 15:00") }},
		{"day", p.Daily, func(t time.Time) string { return t.Format("2006-01-02") }},
		{"week", p.Weekly, func(t time.Time) string {
			year, week := t.ISOWeek()
			return fmt.Sprintf("%d-W%02d", year, week)
		}},
		{"month", p.Monthly, func(t time.Time) string { return t.Format("2006-01") }},
	}
}

// rule keeps the last snapshot of each of the newest n periods that have one.
type rule struct {
	name   string
	n      int
	period func(time.Time) string
}

// choose takes snapshots, youngest first, and says which the rule keeps, and as the last of what.
func (r rule) choose(snapshots []placed, keep func(s placed, why string)) {
	last, n := "", 0
	for _, s := range snapshots {
		period := r.period(s.Time.Go())
		if n > 0 && period == last {
			continue
		}
		if n == r.n {
			return
		}
		last, n = period, n+1
		keep(s, fmt.Sprintf("the last of its %s, %s UTC", r.name, period))
	}
}
