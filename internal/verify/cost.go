package verify

import (
	"cmp"
	"slices"

	"github.com/offloader/offloader/internal/archive"
)

// lost are the moments that t, and the branches of it, lead to only with the one change to t and
// without the other: what a file costs that is missing or damaged. nil changes nothing.
func (j *judge) lost(t *archive.Timeline, with, without func(*archive.Timeline)) (all []Lost) {
	have, lack := j.changed(t, with), j.changed(t, without)
	for _, one := range j.cat.Timelines {
		if !j.descends(one, t) {
			continue
		}
		w, err := have.Windows(have.Timeline(one.Timeline))
		if err != nil {
			continue // a parent is missing, which is told
		}
		left, err := lack.Windows(lack.Timeline(one.Timeline))
		if err != nil {
			continue
		}
		for _, gone := range subtract(w, left) {
			// What is lost in the shared past is told of the timeline itself.
			if one == t || gone.To.Offset > one.Offset {
				all = append(all, Lost{one.Timeline, gone})
			}
		}
	}
	return all
}

// changed is the catalog with another t.
func (j *judge) changed(t *archive.Timeline, change func(*archive.Timeline)) *archive.Catalog {
	if change == nil {
		return j.cat
	}
	other := *t
	other.Segments, other.Snapshots = slices.Clone(t.Segments), slices.Clone(t.Snapshots)
	change(&other)
	c := *j.cat
	c.Timelines = slices.Clone(j.cat.Timelines)
	c.Timelines[slices.Index(c.Timelines, t)] = &other
	return &c
}

// descends tells whether t is of, or a branch of it, however far.
func (j *judge) descends(t, of *archive.Timeline) bool {
	for range j.cat.Timelines {
		if t == of {
			return true
		}
		if t == nil || t.Parent == nil {
			return false
		}
		t = j.cat.Timeline(t.Parent.Timeline)
	}
	return false // a circle
}

func withoutSegments(names ...string) func(*archive.Timeline) {
	return func(t *archive.Timeline) {
		t.Segments = slices.DeleteFunc(t.Segments, func(s archive.Segment) bool { return slices.Contains(names, s.Name) })
	}
}

func withoutSnapshot(name string) func(*archive.Timeline) {
	return func(t *archive.Timeline) {
		t.Snapshots = slices.DeleteFunc(t.Snapshots, func(s archive.Snapshot) bool { return s.Name == name })
	}
}

// order is that of positions in a timeline.
func order(a, b archive.Position) int {
	return cmp.Or(cmp.Compare(a.Offset, b.Offset), cmp.Compare(a.Time, b.Time))
}

// subtract are the parts of windows that are in none of left, both in order.
func subtract(windows, left []archive.Window) (gone []archive.Window) {
	for _, w := range windows {
		at, met := w.From, false
		for _, l := range left {
			if order(l.To, w.From) < 0 || order(w.To, l.From) < 0 {
				continue
			}
			if order(at, l.From) < 0 {
				gone = append(gone, archive.Window{From: at, To: l.From})
			}
			if order(at, l.To) < 0 || !met {
				at = l.To
			}
			met = true
		}
		if order(at, w.To) < 0 || !met {
			gone = append(gone, archive.Window{From: at, To: w.To})
		}
	}
	return gone
}
