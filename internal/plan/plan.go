package plan

import (
	"fmt"
	"math"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/stream"
)

// Plan is what has to be read: the snapshot, then the steps, which follow each other without a
// hole from its offset to To.
type Plan struct {
	Source   string
	Timeline *archive.Timeline // the chosen one; Snapshot and Steps may lie in its parents
	Snapshot archive.Snapshot
	From     Place // of the snapshot
	To       Place // the point; its time is that of the last command before it
	Steps    []Step
	Next     *Place // of the first snapshot behind the point, nil where there is none
	Notes    []string
}

// StreamBytes is how long the stream from the snapshot to the point is.
func (p *Plan) StreamBytes() int64 { return stream.Range{From: p.From.Offset, To: p.To.Offset}.Len() }

// Plan leads to a boundary of the chosen timeline: from the newest snapshot at or before it.
func (a *Aim) Plan(at stream.Offset, received stream.Time) (*Plan, error) {
	w := a.chain.windowOf(at)
	if w == nil {
		before, after := a.chain.around(at)
		return nil, &UnreachableError{
			Source: a.Source, Want: a.Request.Point, Before: before, After: after,
			Why: fmt.Sprintf("it is at offset %d of timeline %s, and no snapshot leads there", at, a.Timeline.TimelineInfo.Timeline),
		}
	}
	p := &Plan{Source: a.Source, Timeline: a.Timeline, Notes: a.Notes}
	for _, s := range a.chain.snapshots() {
		switch {
		case s.Offset > at && p.Next == nil:
			next := s.place()
			p.Next = &next
		case s.Offset <= at && (p.Snapshot.Open == nil || s.Offset > p.Snapshot.Offset):
			p.Snapshot, p.From = s.Snapshot, s.place()
		}
	}
	p.To = Place{p.From.Timeline, at, max(received, p.From.Time)}
	for _, s := range w.steps {
		s.Range.From, s.Range.To = max(s.Range.From, p.From.Offset), min(s.Range.To, at)
		if s.Range.Len() > 0 {
			p.Steps = append(p.Steps, s)
			p.To.Timeline = s.Timeline
		}
	}
	return p, nil
}

// Unreachable is the error for a point that was looked for in what Search names and isn't there.
func (a *Aim) Unreachable(why string, before, after *Place) *UnreachableError {
	return &UnreachableError{Source: a.Source, Want: a.Request.Point, Why: why, Before: before, After: after}
}

// Detour is what can be restored without a file that can't be read.
type Detour struct {
	Same          bool   // the point itself: other files hold what that one did
	Before, After *Place // else the nearest points, nil where there is none
}

// WithoutSegment is the way round the segment of a step.
func (a *Aim) WithoutSegment(step Step) Detour {
	if step.Segment.Elsewhere() {
		return Detour{Same: true}
	}
	c := a.chain.without(func(timeline string, s archive.Segment) bool {
		return timeline == step.Timeline && s.Name == step.Segment.Name && s.Range == step.Segment.Range
	}, func(string, archive.Snapshot) bool { return false })
	return c.detour(step.Range)
}

// WithoutSnapshot is the way round a snapshot of a timeline.
func (a *Aim) WithoutSnapshot(of string, snapshot archive.Snapshot) Detour {
	if snapshot.Elsewhere() {
		return Detour{Same: true}
	}
	c := a.chain.without(func(string, archive.Segment) bool { return false }, func(timeline string, s archive.Snapshot) bool {
		return timeline == of && s.Name == snapshot.Name && s.Offset == snapshot.Offset
	})
	return c.detour(stream.Range{From: snapshot.Offset, To: snapshot.Offset})
}

// Steps are what holds a range of the chosen timeline, or of its parents, without a hole; nil where
// something of it is missing.
func (a *Aim) Steps(r stream.Range) (steps []Step) {
	at := r.From
	for _, s := range a.chain.steps {
		s.Range.From, s.Range.To = max(s.Range.From, r.From), min(s.Range.To, r.To)
		if s.Range.Len() <= 0 {
			continue
		}
		if s.Range.From > at {
			return nil
		}
		steps, at = append(steps, s), s.Range.To
	}
	if at < r.To {
		return nil
	}
	return steps
}

// LeftOut is what a parent holds from o on, if that is where the chosen timeline leaves it: bytes
// that were written and then lost. It is nil anywhere else, and where there are none.
func (a *Aim) LeftOut(o stream.Offset) *Step {
	for _, p := range a.chain.parts[:len(a.chain.parts)-1] {
		if p.to != o {
			continue
		}
		rest := part{Timeline: p.Timeline, from: o, to: math.MaxInt64}
		if steps := rest.cover(); len(steps) > 0 && steps[0].Range.From == o {
			return &steps[0]
		}
	}
	return nil
}
