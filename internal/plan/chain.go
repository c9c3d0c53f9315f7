package plan

import (
	"math"
	"slices"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/stream"
)

// Step is a segment, and what is read of it.
type Step struct {
	Timeline string
	Segment  archive.Segment
	Range    stream.Range // of the stream; within Segment.Range, both ends are boundaries
}

// end is when the last byte of the step was received, or a little later: of a segment that is
// left in the middle only the ends are known.
func (s Step) end() Place { return Place{s.Timeline, s.Range.To, s.Segment.Time1} }

// Place is a boundary of a timeline, and when it was received.
type Place struct {
	Timeline string        `json:"timeline"`
	Offset   stream.Offset `json:"offset"`
	Time     stream.Time   `json:"time"`
}

func (p Place) String() string { return "offset " + p.Offset.String() + " (" + p.Time.String() + ")" }

// part is a timeline as far as a chain uses it. to is the offset at which the next part leaves it.
type part struct {
	*archive.Timeline
	from, to stream.Offset
}

// window is a run of boundaries that can all be restored: a snapshot, and steps without a hole.
type window struct {
	from, to Place
	steps    []Step // from the one that holds from; none if the snapshot stands alone
}

// chain is a timeline with its parents, each up to where the next one branches off.
type chain struct {
	*archive.Timeline
	parts   []part // oldest first
	steps   []Step // all that is held of the stream, in order, each byte once
	windows []window
	broken  error // a parent is missing, or none: parts begin behind it
}

func newChain(cat *archive.Catalog, t *archive.Timeline) *chain {
	c := &chain{Timeline: t}
	parts, err := cat.Chain(t)
	c.broken = err
	for _, p := range parts {
		c.parts = append(c.parts, part{p.Timeline, p.From, p.To})
	}
	c.parts[len(c.parts)-1].to = math.MaxInt64
	c.join()
	return c
}

// join finds steps and windows in the parts.
func (c *chain) join() {
	for _, p := range c.parts {
		c.steps = append(c.steps, p.cover()...)
	}
	c.windows = c.findWindows()
}

// without is the chain as it would be without some of its files.
func (c *chain) without(segment func(timeline string, s archive.Segment) bool, snapshot func(timeline string, s archive.Snapshot) bool) *chain {
	rest := &chain{Timeline: c.Timeline, broken: c.broken}
	for _, p := range c.parts {
		t := *p.Timeline
		t.Segments = slices.DeleteFunc(slices.Clone(t.Segments), func(s archive.Segment) bool { return segment(t.TimelineInfo.Timeline, s) })
		t.Snapshots = slices.DeleteFunc(slices.Clone(t.Snapshots), func(s archive.Snapshot) bool { return snapshot(t.TimelineInfo.Timeline, s) })
		rest.parts = append(rest.parts, part{&t, p.from, p.to})
	}
	rest.join()
	return rest
}

// detour leads round what once held r: what follows it is as it was.
func (c *chain) detour(r stream.Range) Detour {
	if w := c.windowOf(r.From); w != nil && w.to.Offset >= r.To {
		return Detour{Same: true}
	}
	before, after := c.around(r.From)
	return Detour{Before: before, After: after}
}

// around are the nearest points on both sides of one that can't be restored, or the last one that
// leads towards it.
func (c *chain) around(o stream.Offset) (before, after *Place) {
	for i := range c.windows {
		w := &c.windows[i]
		if w.from.Offset > o {
			return before, &w.from
		}
		before = &w.to
	}
	return before, nil
}

// cover chooses segments such that each byte that is held is read once, from as few files as can
// be. Behind a hole it goes on.
func (p part) cover() (steps []Step) {
	segments := p.Segments
	for pos := p.from; pos < p.to && len(segments) > 0; pos = segments[0].From {
		used, _ := archive.Cover(segments, stream.Range{From: pos, To: p.to})
		for _, s := range used {
			end := min(s.To, p.to)
			steps = append(steps, Step{p.TimelineInfo.Timeline, s, stream.Range{From: pos, To: end}})
			pos = end
		}
		n := 0
		for n < len(segments) && segments[n].From <= pos {
			n++
		}
		if segments = segments[n:]; len(segments) == 0 {
			break
		}
	}
	return steps
}

// snapshots are those of the chain, by offset.
func (c *chain) snapshots() (all []placedSnapshot) {
	for _, p := range c.parts {
		for _, s := range p.Snapshots {
			if p.from <= s.Offset && s.Offset <= p.to {
				all = append(all, placedSnapshot{s, p.TimelineInfo.Timeline})
			}
		}
	}
	return all
}

type placedSnapshot struct {
	archive.Snapshot
	timeline string
}

func (s placedSnapshot) place() Place { return Place{s.timeline, s.Offset, s.Time} }

// findWindows goes along the snapshots: each begins a window unless it lies in the last one.
func (c *chain) findWindows() (all []window) {
	i := 0
	for _, s := range c.snapshots() {
		if n := len(all); n > 0 && s.Offset <= all[n-1].to.Offset {
			continue
		}
		w := window{from: s.place(), to: s.place()}
		for i < len(c.steps) && c.steps[i].Range.To <= s.Offset {
			i++
		}
		first := i
		for pos := s.Offset; i < len(c.steps) && c.steps[i].Range.From <= pos; i++ {
			pos = c.steps[i].Range.To
			w.to = c.steps[i].end()
		}
		w.steps = c.steps[first:i]
		all = append(all, w)
	}
	return all
}

// windowOf is the window that o can be restored in, nil if there is none.
func (c *chain) windowOf(o stream.Offset) *window {
	for i := range c.windows {
		if w := &c.windows[i]; w.from.Offset <= o && o <= w.to.Offset {
			return w
		}
	}
	return nil
}

// last is the end of the newest window, nil if nothing can be restored.
func (c *chain) last() *window {
	if len(c.windows) == 0 {
		return nil
	}
	return &c.windows[len(c.windows)-1]
}

// heard is when the chain's last byte came, at the earliest: a branch that has no bytes of its
// own yet is not younger than its parent.
func (c *chain) heard() stream.Time {
	var t stream.Time
	for _, s := range c.snapshots() {
		t = max(t, s.Time)
	}
	if n := len(c.steps); n > 0 {
		s := c.steps[n-1]
		if s.Range.To < s.Segment.To {
			return max(t, s.Segment.Time0)
		}
		return max(t, s.Segment.Time1)
	}
	return t
}

// replID is the replication id under which the byte before o was received. unread is the damage of
// the event that says it, nil where it can be read.
func (c *chain) replID(o stream.Offset) (id stream.ReplID, unread error) {
	p := c.partOf(o)
	id = p.ReplID
	for _, e := range p.Events {
		if e.Kind == archive.EventReplID && e.Offset < o {
			id, unread = e.ReplID, e.Damage
		}
	}
	return id, unread
}

// partOf is the part whose bytes lead to o: at a branch's offset, still the parent.
func (c *chain) partOf(o stream.Offset) part {
	for _, p := range c.parts {
		if o <= p.to {
			return p
		}
	}
	return c.parts[len(c.parts)-1]
}

// outage is the event during which t fell, nil if none is known.
func (c *chain) outage(t stream.Time) *archive.Event {
	return c.findOutage(func(e *archive.Event) bool { return e.Damage == nil && e.From < t && t < e.Time })
}

// unreadOutage is a damaged event during which t may have fallen: its name has only the end.
func (c *chain) unreadOutage(t stream.Time) *archive.Event {
	return c.findOutage(func(e *archive.Event) bool { return e.Damage != nil && c.heardOf(e.Offset) < t && t < e.Time })
}

func (c *chain) findOutage(is func(*archive.Event) bool) *archive.Event {
	for _, p := range c.parts {
		for i, e := range p.Events {
			if e.Kind == archive.EventOutage && p.from <= e.Offset && e.Offset <= p.to && is(&e) {
				return &p.Events[i]
			}
		}
	}
	return nil
}

// heardOf is when the bytes before o came, at the earliest.
func (c *chain) heardOf(o stream.Offset) (t stream.Time) {
	for _, s := range c.snapshots() {
		if s.Offset <= o {
			t = max(t, s.Time)
		}
	}
	for _, s := range c.steps {
		if s.Segment.To <= o {
			t = max(t, s.Segment.Time1)
		} else if s.Segment.From < o {
			t = max(t, s.Segment.Time0)
		}
	}
	return t
}
