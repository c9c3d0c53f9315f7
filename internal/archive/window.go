package archive

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/offloader/offloader/internal/stream"
)

// Part is a stretch of one timeline in a chain of them.
type Part struct {
	Timeline *Timeline
	stream.Range
}

// Position is an offset with the moment at which it was reached.
type Position struct {
	Offset stream.Offset `json:"offset"`
	Time   stream.Time   `json:"time"`
}

// Window is a span in which every moment can be restored, both ends included.
type Window struct {
	From Position `json:"from"`
	To   Position `json:"to"`
}

// Gap is a span of which something is not known: bytes where the offsets differ, else only the
// times.
type Gap struct {
	From  Position `json:"from"`
	To    Position `json:"to"`
	Cause string   `json:"cause"`

	Missing     bool `json:"-"` // bytes are missing, not only moments unknown
	Unexplained bool `json:"-"` // and no event says why
}

// End is the offset behind the last byte that is held, the timeline's first where none is.
func (t *Timeline) End() stream.Offset {
	end := t.Offset
	for _, s := range t.Segments {
		end = max(end, s.To)
	}
	for _, s := range t.Snapshots {
		end = max(end, s.Offset)
	}
	return end
}

// ReplIDAt is the id under which a master counts the byte after o.
func (t *Timeline) ReplIDAt(o stream.Offset) stream.ReplID {
	id := t.ReplID
	for _, e := range t.Events {
		if e.Kind == EventReplID && e.Damage == nil && e.Offset <= o {
			id = e.ReplID
		}
	}
	return id
}

// Ended is when the timeline got its last byte, 0 while it goes on. Nobody has noted the end of one
// whose spool was lost: it has ended where a branch goes on at the very end of it.
func (c *Catalog) Ended(t *Timeline) stream.Time {
	var ended stream.Time
	for _, e := range t.Events {
		if e.Kind == EventEnded {
			ended = e.Time
		}
	}
	for _, b := range c.Timelines {
		if ended == 0 && b.Parent != nil && b.Parent.Timeline == t.Timeline && b.Parent.Offset >= t.End() {
			ended = b.Began
		}
	}
	return ended
}

// Losses are those of the Problems that may have held snapshots or bytes of the stream. An event
// that can't be read held neither.
func (c *Catalog) Losses() []error {
	return slices.DeleteFunc(slices.Clone(c.Problems), func(err error) bool {
		var damage *DamageError
		return errors.As(err, &damage) && strings.Contains(damage.Name, "/"+eventDir)
	})
}

// Chain is t with its parents, the root first, each up to where the next branches off. A parent
// that is missing, or a circle, is damage: then it comes with the parts that can be told. One that
// retention has let go, whole, is none, nor is what is missing before a timeline of which nothing
// but the name is left.
func (c *Catalog) Chain(t *Timeline) ([]Part, error) {
	parts := []Part{{t, stream.Range{From: t.Offset, To: max(t.Offset, t.End())}}}
	for t.Parent != nil {
		at, wrong := t.Parent.Offset, ""
		parent := c.Timeline(t.Parent.Timeline)
		if parent == nil && (t.Pruned() >= 0 || len(t.Segments)+len(t.Snapshots) == 0) {
			break
		}
		switch {
		case parent == nil:
			wrong = fmt.Sprintf("its parent %s is missing", t.Parent.Timeline)
		case slices.ContainsFunc(parts, func(p Part) bool { return p.Timeline == parent }):
			wrong = fmt.Sprintf("its parent %s descends from it", parent.Timeline)
		case at != t.Offset || at < parent.Offset:
			wrong = fmt.Sprintf("it begins at %d and leaves its parent, which begins at %d, at %d", t.Offset, parent.Offset, at)
		}
		if wrong != "" {
			slices.Reverse(parts)
			return parts, &DamageError{Name: c.Source + "/" + t.Timeline + "/" + timelineFile, What: wrong}
		}
		parts = append(parts, Part{parent, stream.Range{From: parent.Offset, To: at}})
		t = parent
	}
	slices.Reverse(parts)
	return parts, nil
}

// Cover chooses segments, ordered as a Timeline has them, that hold r from its first byte on, in
// order: at each offset the one that reaches furthest. reached is where they end, r.To or beyond
// it if nothing is missing.
func Cover(segments []Segment, r stream.Range) (used []Segment, reached stream.Offset) {
	reached = r.From
	for i := 0; reached < r.To; {
		best := -1
		for ; i < len(segments) && segments[i].From <= reached; i++ {
			if segments[i].To > reached && (best < 0 || segments[i].To > segments[best].To) {
				best = i
			}
		}
		if best < 0 {
			break
		}
		used, reached = append(used, segments[best]), segments[best].To
	}
	return used, reached
}

// run is a stretch of the stream that is held without a break.
type run struct{ from, to Position }

// runs are the stretches that the parts hold, in order.
func runs(parts []Part) []run {
	var all []run
	for i, p := range parts {
		for _, s := range p.Timeline.Segments {
			from, to := Position{s.From, s.Time0}, Position{s.To, s.Time1}
			if s.From >= p.To || s.To <= p.From {
				continue
			}
			if s.To > p.To { // it goes on where this chain has left its timeline
				to = Position{p.To, max(s.Time0, min(s.Time1, parts[i+1].Timeline.Began))}
			}
			from.Offset = max(from.Offset, p.From)
			if last := len(all) - 1; last >= 0 && from.Offset <= all[last].to.Offset {
				if to.Offset > all[last].to.Offset {
					all[last].to = to
				}
				continue
			}
			all = append(all, run{from, to})
		}
	}
	return all
}

// snapshots are those of the parts, in order.
func snapshots(parts []Part) []Position {
	var all []Position
	for i, p := range parts {
		for _, s := range p.Timeline.Snapshots {
			if s.Offset >= p.From && (s.Offset <= p.To || i == len(parts)-1) {
				all = append(all, Position{s.Offset, s.Time})
			}
		}
	}
	slices.SortStableFunc(all, func(a, b Position) int {
		return cmp.Or(cmp.Compare(a.Offset, b.Offset), cmp.Compare(a.Time, b.Time))
	})
	return all
}

// outages are the spans of the parts of which no moment is known.
func outages(parts []Part) []Gap {
	var all []Gap
	for _, p := range parts {
		for _, e := range p.Timeline.Events {
			if e.Kind == EventOutage && e.Damage == nil && e.Offset >= p.From && e.Offset <= p.To && e.From < e.Time {
				all = append(all, Gap{From: Position{e.Offset, e.From}, To: Position{max(e.Offset, e.To), e.Time}, Cause: because("outage", e.Cause)})
			}
		}
	}
	return all
}

func because(what, cause string) string {
	if cause == "" {
		return what
	}
	return what + ": " + cause
}

// Windows are the spans in which every moment of t and of what it continues can be restored:
// from a snapshot on through unbroken segments, without the moments of an outage. Offsets in
// those can be restored all the same.
func (c *Catalog) Windows(t *Timeline) ([]Window, error) {
	parts, err := c.Chain(t)
	if err != nil {
		return nil, err
	}
	all, starts := runs(parts), snapshots(parts)
	var windows []Window
	for len(starts) > 0 {
		w := Window{starts[0], starts[0]}
		for _, r := range all {
			if r.from.Offset <= w.From.Offset && w.From.Offset < r.to.Offset {
				w.To = r.to
			}
		}
		for len(starts) > 0 && starts[0].Offset <= w.To.Offset { // the rest of them add nothing
			starts = starts[1:]
		}
		windows = append(windows, w)
	}
	for _, o := range outages(parts) {
		windows = slices.Collect(split(windows, o))
	}
	return windows, nil
}

// split takes the moments of an outage out of the windows.
func split(windows []Window, o Gap) func(yield func(Window) bool) {
	return func(yield func(Window) bool) {
		for _, w := range windows {
			inside := w.From.Offset <= o.From.Offset && o.To.Offset <= w.To.Offset && o.To.Time <= w.To.Time
			if !inside || o.From.Time < w.From.Time {
				if !yield(w) {
					return
				}
				continue
			}
			if !yield(Window{w.From, o.From}) || !yield(Window{o.To, w.To}) {
				return
			}
		}
	}
}

// Gaps are the bytes that are missing between the first and the last that are held of t and what
// it continues, and the outages, in order.
func (c *Catalog) Gaps(t *Timeline) ([]Gap, error) {
	parts, err := c.Chain(t)
	if err != nil {
		return nil, err
	}
	gaps := outages(parts)
	all, starts := runs(parts), snapshots(parts)
	var held []run
	for _, s := range starts { // a snapshot holds its own offset
		held = append(held, run{s, s})
	}
	held = append(held, all...)
	slices.SortStableFunc(held, func(a, b run) int { return cmp.Compare(a.from.Offset, b.from.Offset) })
	for i := 0; i+1 < len(held); i++ {
		here, next := held[i], held[i+1]
		switch {
		case here.to.Offset >= next.to.Offset: // next lies in here
			held[i+1] = here
		case here.to.Offset < next.from.Offset:
			cause, explained := missing(parts, here.to.Offset, next.from.Offset)
			gaps = append(gaps, Gap{here.to, next.from, cause, true, !explained})
		}
	}
	slices.SortStableFunc(gaps, func(a, b Gap) int {
		return cmp.Or(cmp.Compare(a.From.Offset, b.From.Offset), cmp.Compare(a.From.Time, b.From.Time))
	})
	return gaps, nil
}

// missing says why [from,to) is. It is explained if events say it of every byte: holes,
// and what retention has let go.
func missing(parts []Part, from, to stream.Offset) (cause string, explained bool) {
	at := from
	for _, p := range parts {
		for _, e := range p.Timeline.Events { // by offset
			if e.Kind == EventHole && e.Offset <= at && at < e.To {
				cause, at = because("hole", e.Cause), e.To
			}
		}
	}
	for _, p := range parts {
		if pruned := min(p.Timeline.Pruned(), p.To); at < pruned && p.Holds(at) {
			cause, at = "retention has let it go", pruned
		}
	}
	if at < to {
		return "segment missing", false
	}
	return cause, true
}
