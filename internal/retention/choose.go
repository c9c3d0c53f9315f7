// Package retention lets go of what nobody has asked to keep.
//
// In go the catalog of a source in one store, the listing of its files, a Policy and the time; out
// comes a Decision: for every file whether it goes or stays, and why, for people. What stays is
// found as a set of needs: each moment of the window needs the newest snapshot before it and the
// log since then, through the parents of a branch; an hour's last snapshot needs nothing but
// itself; a pin needs a snapshot and the log up to its point. What is suspect, what came before
// it, and writes that a failover lost stay until the user has released them. Nothing that is
// needed is ever deleted, so a run may be killed at any instant; and the order is such that what
// isn't needed shrinks from its end, a whole window at each step, until it is gone.
//
// The store may refuse: what is locked stays and is told, and a store in which we may delete
// nothing leaves retention to somebody else.
package retention

import (
	"cmp"
	"slices"
	"strings"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/stream"
)

// Decision is what becomes of the files of a source in one store.
type Decision struct {
	Source string
	From   stream.Time // where the window begins; 0: all that there is lies in it
	Files  []File      // as they are listed
	Going  []File      // those that go, in the order in which they do
	Notes  []Note      // to be written before the first goes
}

// File is one file of the archive.
type File struct {
	Name     string // from the archive's root on
	Timeline string
	Kind     Kind
	Size     int64
	At       stream.Range // of a segment; else both ends are the offset that its name says
	Goes     bool
	Why      string
}

// Kind is what a file is.
type Kind string

// The kinds of files.
const (
	Segment  Kind = "segment"
	Snapshot Kind = "snapshot" // the RDB
	Sidecar  Kind = "sidecar"  // of a snapshot, which exists while this does
	Event    Kind = "event"
	Timeline Kind = "timeline" // timeline.json
	Stranger Kind = "stranger" // not the archive's
)

// Note is an event that tells readers why something is missing.
type Note struct {
	Timeline string
	Event    archive.Event
}

// Choose decides. entries is a listing of the source that is not younger than the catalog: of a
// file that came later nothing is said.
func Choose(cat *archive.Catalog, entries []archive.Entry, p Policy, now stream.Time) *Decision {
	d := &Decision{Source: cat.Source}
	d.From = begin(cat, min(now, newestByte(cat)), p.Window)
	n := newNeeds(cat)
	n.hold()
	n.follow(p, d.From)

	files := map[string][]File{}
	for _, e := range entries {
		if f := fileOf(cat.Source, e); f.Kind != Stranger || f.Timeline != "" {
			files[f.Timeline] = append(files[f.Timeline], f)
		}
	}
	gone := map[string]bool{} // timelines of which nothing stays
	var all []*chooser
	for i, t := range cat.Timelines {
		c := &chooser{t: t, need: n.of[t], from: d.From, files: files[t.Timeline]}
		c.content()
		gone[t.Timeline] = i < len(cat.Timelines)-1 && c.canVanish()
		all = append(all, c)
	}
	for _, c := range all {
		pruned := c.t.Pruned()
		if whole := c.need.whole(c.t); pruned < whole && !gone[c.t.Timeline] && (c.loses() || c.t.Parent != nil && gone[c.t.Parent.Timeline]) {
			pruned = whole
			d.Notes = append(d.Notes, note(c.t, whole, now))
		}
		c.rest(gone[c.t.Timeline], pruned)
		d.Files = append(d.Files, c.files...)
	}
	for _, c := range slices.Backward(all) { // a branch before what it continues
		d.Going = append(d.Going, c.order()...)
	}
	return d
}

// note says up to where retention has let go.
func note(t *archive.Timeline, to stream.Offset, now stream.Time) Note {
	for _, e := range t.Events {
		if e.Kind == archive.EventPruned && e.Offset == t.Offset {
			now = max(now, e.Time+1) // an event is written once
		}
	}
	return Note{t.Timeline, archive.Event{Kind: archive.EventPruned, Offset: t.Offset, To: to, Time: now, Cause: "retention"}}
}

// fileOf reads a name.
func fileOf(source string, e archive.Entry) File {
	timeline, name, ok := strings.Cut(strings.TrimPrefix(e.Name, source+"/"), "/")
	f := File{Name: e.Name, Timeline: timeline, Kind: Stranger, Size: e.Size}
	if _, _, err := archive.ParseTimelineName(timeline); !ok || err != nil {
		f.Timeline = ""
		return f
	}
	if n, err := archive.ParseSegmentName(name); err == nil {
		f.Kind, f.At = Segment, n.Range
	} else if n, sidecar, err := archive.ParseSnapshotName(name); err == nil {
		f.Kind, f.At = Snapshot, stream.Range{From: n.Offset, To: n.Offset}
		if sidecar {
			f.Kind = Sidecar
		}
	} else if n, err := archive.ParseEventName(name); err == nil {
		f.Kind, f.At = Event, stream.Range{From: n.Offset, To: n.Offset}
	} else if name == "timeline.json" {
		f.Kind = Timeline
	}
	return f
}

// chooser decides on the files of one timeline.
type chooser struct {
	t     *archive.Timeline
	need  *need
	from  stream.Time // of the window
	files []File
}

const beyond = "beyond the window, and nothing needs it"

func (f *File) goes(why string)  { f.Goes, f.Why = true, why }
func (f *File) stays(why string) { f.Goes, f.Why = false, why }

// content decides on snapshots and log.
func (c *chooser) content() {
	exists := map[archive.SnapshotName]bool{}
	for _, s := range c.t.Snapshots {
		exists[archive.SnapshotName{Offset: s.Offset, Time: s.Time}] = true
	}
	for i := range c.files {
		f := &c.files[i]
		switch f.Kind {
		case Segment:
			if whys := c.need.holdsLog(f.At); len(whys) > 0 {
				f.stays(strings.Join(whys, "; "))
			} else {
				f.goes(beyond)
			}
		case Snapshot, Sidecar:
			name, _, _ := archive.ParseSnapshotName(c.within(f.Name)) // it was read before
			name = archive.SnapshotName{Offset: name.Offset, Time: name.Time}
			whys := c.need.snapshots[name]
			switch {
			case len(whys) > 0:
				f.stays(strings.Join(whys, "; "))
			case !exists[name] && name.Time >= c.from:
				f.stays("half a snapshot: it may be one that is being stored")
			case !exists[name]:
				f.goes("half a snapshot, and beyond the window")
			default:
				f.goes(beyond)
			}
		}
	}
}

// within is a name within the timeline.
func (c *chooser) within(name string) string {
	_, name, _ = strings.Cut(name, "/"+c.t.Timeline+"/")
	return name
}

// canVanish tells whether nothing of the timeline has to stay. One that has just begun, and has
// only its name yet, is young.
func (c *chooser) canVanish() bool {
	return c.need.empty() && lastHeard(c.t) < c.from && !slices.ContainsFunc(c.files, func(f File) bool {
		return f.Kind == Stranger || (f.Kind == Segment || f.Kind == Snapshot || f.Kind == Sidecar) && !f.Goes
	})
}

// loses tells whether anything goes that could be restored.
func (c *chooser) loses() bool {
	return slices.ContainsFunc(c.files, func(f File) bool { return f.Goes && (f.Kind == Segment || f.Kind == Snapshot) })
}

// rest decides on the small files, which say what the timeline is and what happened to it.
// pruned is what the last note of retention is going to say.
func (c *chooser) rest(gone bool, pruned stream.Offset) {
	pins := map[stream.Offset]stream.Time{} // what decides at an offset
	for _, pin := range c.t.Pins() {
		pins[pin.Offset] = pin.Time
	}
	for i := range c.files {
		f := &c.files[i]
		if f.Kind == Stranger {
			f.stays("not a file of the archive's format")
		}
		if f.Kind != Event && f.Kind != Timeline {
			continue
		}
		f.stays("it says what became of the timeline")
		if gone {
			f.goes("nothing is left of the timeline")
			continue
		}
		if f.Kind == Timeline {
			f.stays("it says what the timeline is")
			continue
		}
		name, _ := archive.ParseEventName(c.within(f.Name)) // it was read before
		at := slices.IndexFunc(c.t.Events, func(e archive.Event) bool {
			return archive.EventName{Offset: e.Offset, Time: e.Time, Kind: e.Kind} == name
		})
		if at < 0 {
			continue // it came a moment ago
		}
		switch e := c.t.Events[at]; e.Kind {
		case archive.EventPin, archive.EventUnpin:
			if pins[e.Offset] != e.Time {
				f.goes("a later pin or unpin decides")
			} else if e.Kind == archive.EventPin {
				f.stays("a pin")
			}
		case archive.EventOutage, archive.EventClock, archive.EventHole, archive.EventLost:
			if e.Time < c.from && !c.need.touches(e) {
				f.goes("nothing is left of what it tells of")
			}
		case archive.EventPruned:
			if e.To < pruned {
				f.goes("a later one says more")
			}
		case archive.EventVerified, archive.EventCounted, archive.EventBooted: // there may be one for each day
			later := slices.ContainsFunc(c.t.Events, func(v archive.Event) bool { return v.Kind == e.Kind && v.Time > e.Time && v.Offset >= e.Offset })
			if e.Time < c.from && later {
				f.goes("a later one says more")
			}
		}
	}
}

// order gives the files that go such that what is left is whole at each step: snapshots and log
// from the last offset to the first, a sidecar before its RDB; then events, what they settle
// before what settles it; timeline.json last.
func (c *chooser) order() []File {
	var going []File
	for _, f := range c.files {
		if f.Goes {
			going = append(going, f)
		}
	}
	rank := map[Kind]int{Segment: 0, Sidecar: 0, Snapshot: 0, Event: 1, Timeline: 2}
	within := map[Kind]int{Segment: 0, Sidecar: 1, Snapshot: 2}
	settles := []string{archive.EventUnpin, archive.EventRelease, archive.EventEnded}
	slices.SortStableFunc(going, func(a, b File) int {
		if by := cmp.Compare(rank[a.Kind], rank[b.Kind]); by != 0 {
			return by
		}
		if a.Kind == Event {
			x, _ := archive.ParseEventName(c.within(a.Name))
			y, _ := archive.ParseEventName(c.within(b.Name))
			return cmp.Compare(slices.Index(settles, x.Kind), slices.Index(settles, y.Kind))
		}
		return cmp.Or(cmp.Compare(b.At.From, a.At.From), cmp.Compare(within[a.Kind], within[b.Kind]), cmp.Compare(b.At.To, a.At.To))
	})
	return going
}
