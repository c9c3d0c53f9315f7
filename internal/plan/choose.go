package plan

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/stream"
)

// grace is how long after the last byte held a time still stands for it. A master that nobody
// writes to sends a PING only every ten seconds, and clocks differ a little.
const grace = stream.Time(60_000)

// Request is what a user asks for.
type Request struct {
	Point    Point
	Timeline string      // by name; "" chooses one by the rules of Choose
	Now      stream.Time // the moment that "now" was taken for
	NotIn    []string    // timelines that were found not to hold the point when they were read
}

// Aim is a timeline that was chosen, and how near names alone lead to the point.
type Aim struct {
	Source   string
	Request  Request
	Timeline *archive.Timeline
	Notes    []string // for the user: how the point was understood, what was passed over

	// Where Search is empty, At is the point. Else it has to be looked for: a time, as the last
	// boundary not younger than it, and an offset, to see that it is a boundary, in the one step
	// of Search; a command in all of them, the newest (the last) first.
	At     Place
	Search []Step

	chain *chain
}

// Choose takes a timeline for the request. A named one is taken; else one of those that are not
// suspect, each with its parents up to where it branches off: for the latest point and for a
// command the one whose last byte came last, for a time the last-born that holds it, for an
// offset the last-born, if all that have it agree on the replication id.
//
// Errors are *UnreachableError, *AmbiguousError, *UnknownTimelineError and *DoubtError.
func Choose(cat *archive.Catalog, req Request) (*Aim, error) {
	c := &chooser{source: cat.Source, req: req}
	if req.Timeline != "" {
		t := cat.Timeline(req.Timeline)
		if t == nil {
			return nil, unknown(cat, req.Timeline)
		}
		c.chains = []*chain{newChain(cat, t)}
		aim, err := c.choose()
		return withProblems(aim, err, problems(cat, c.chains))
	}
	var suspects []*chain
	for _, t := range slices.Backward(cat.Timelines) {
		switch {
		case slices.Contains(req.NotIn, t.TimelineInfo.Timeline):
		case t.Suspect():
			suspects = append(suspects, newChain(cat, t))
		default:
			c.chains = append(c.chains, newChain(cat, t))
		}
	}
	aim, err := c.choose()
	aim, err = passedOver(c, aim, err, suspects)
	return withProblems(aim, err, problems(cat, append(c.chains, suspects...)))
}

// withProblems lets the user know that what is missing, or what would have been chosen, may be what
// couldn't be read.
func withProblems(aim *Aim, err error, problems []error) (*Aim, error) {
	var unreachable *UnreachableError
	switch {
	case len(problems) == 0:
	case errors.As(err, &unreachable):
		unreachable.Problems = problems
	case err == nil:
		aim.Notes = append(aim.Notes, tellUnread(problems)+"; what it may have held was not considered")
	}
	return aim, err
}

// problems are those of the catalog that may matter to the choice, and those of chains.
func problems(cat *archive.Catalog, chains []*chain) []error {
	all := cat.Losses()
	for _, ch := range chains {
		same := func(p error) bool { return p.Error() == ch.broken.Error() }
		if ch.broken != nil && !slices.ContainsFunc(all, same) {
			all = append(all, ch.broken)
		}
	}
	return all
}

// passedOver says which suspect timelines would have served.
func passedOver(c *chooser, aim *Aim, err error, suspects []*chain) (*Aim, error) {
	var names []string
	for _, s := range suspects {
		alone := chooser{source: c.source, req: c.req, chains: []*chain{s}}
		if _, no := alone.choose(); no != nil {
			continue
		}
		newest := c.req.Point.Kind == Latest || c.req.Point.Kind == Before
		if aim != nil && newest && s.heard() < aim.chain.heard() {
			continue
		}
		names = append(names, s.TimelineInfo.Timeline)
	}
	var unreachable *UnreachableError
	if errors.As(err, &unreachable) {
		unreachable.Suspect = names
	}
	if aim != nil {
		for _, n := range names {
			aim.Notes = append(aim.Notes, fmt.Sprintf("timeline %s is suspect and was passed over: --timeline %s takes it", n, n))
		}
	}
	return aim, err
}

func unknown(cat *archive.Catalog, name string) error {
	e := &UnknownTimelineError{Source: cat.Source, Timeline: name}
	for _, t := range cat.Timelines {
		e.Known = append(e.Known, t.TimelineInfo.Timeline)
	}
	return e
}

// chooser chooses among chains, the last-born first.
type chooser struct {
	source string
	req    Request
	chains []*chain
}

func (c *chooser) choose() (*Aim, error) {
	held := false
	for _, ch := range c.chains {
		held = held || len(ch.windows) > 0
	}
	if !held {
		return nil, c.unreachable("nothing of it is archived that could be restored", nil, nil)
	}
	switch c.req.Point.Kind {
	case ByTime:
		return c.byTime()
	case ByOffset:
		return c.byOffset()
	case Before:
		newest := c.newest()
		aim := c.aim(newest, newest.last().to)
		aim.Search = newest.steps
		return aim, nil
	}
	return c.latest()
}

func (c *chooser) aim(ch *chain, at Place) *Aim {
	return &Aim{Source: c.source, Request: c.req, Timeline: ch.Timeline, At: at, chain: ch}
}

func (c *chooser) unreachable(why string, before, after *Place) error {
	return &UnreachableError{Source: c.source, Want: c.req.Point, Why: why, Before: before, After: after}
}

// newest is the chain whose last byte came last. One that can't be restored at all is none.
func (c *chooser) newest() (best *chain) {
	for _, ch := range c.chains {
		if ch.last() != nil && (best == nil || ch.heard() > best.heard()) {
			best = ch
		}
	}
	return best
}

func (c *chooser) latest() (*Aim, error) {
	ch := c.newest()
	end := ch.last().to
	if n := len(ch.steps); n > 0 && ch.steps[n-1].Range.To > end.Offset {
		last := ch.steps[n-1].end()
		return nil, c.unreachable(fmt.Sprintf("the last one held is %s, but no snapshot leads there: %s", last, ch.missing(end.Offset)), &end, nil)
	}
	aim := c.aim(ch, end)
	if before := c.historyBefore(ch); before != nil {
		aim.Notes = append(aim.Notes, fmt.Sprintf("it began anew, with what the master had then; what was there before, up to %s: --timeline %s", before.last().to, before.TimelineInfo.Timeline))
	}
	return aim, nil
}

// historyBefore is the newest chain that ch begins anew from: what a master had before it came back with
// other data, say. nil where ch is the first history, or continues the one before, or was released:
// somebody has looked at it.
func (c *chooser) historyBefore(ch *chain) (best *chain) {
	if slices.ContainsFunc(ch.parts[0].Events, func(e archive.Event) bool { return e.Kind == archive.EventRelease }) {
		return nil
	}
	root := ch.parts[0].TimelineInfo.Timeline
	for _, other := range c.chains {
		if other.last() == nil || other.parts[0].TimelineInfo.Timeline >= root { // names sort by birth
			continue
		}
		if best == nil || other.heard() > best.heard() {
			best = other
		}
	}
	return best
}

// byTime takes the last-born chain that holds the time, else the end of the newest if the time is
// "now" or shortly behind it.
func (c *chooser) byTime() (*Aim, error) {
	t := c.req.Point.Time
	var down error
	for _, ch := range c.chains {
		if t == c.req.Now {
			break
		}
		w := ch.windowAt(t)
		if w == nil {
			continue
		}
		e := ch.outage(t)
		if e == nil {
			if e := ch.unreadOutage(t); e != nil {
				return nil, c.perhapsInOutage(ch, e)
			}
			return c.inWindow(ch, w), nil
		}
		if down == nil {
			down = c.inOutage(ch, e)
		}
	}
	if down != nil {
		return nil, down
	}
	newest := c.newest()
	end := newest.last().to
	if t == c.req.Now || end.Time < t && t <= end.Time+grace {
		if e := newest.outage(t); e != nil && t != c.req.Now {
			return nil, c.inOutage(newest, e)
		}
		if e := newest.unreadOutage(t); e != nil && t != c.req.Now {
			return nil, c.perhapsInOutage(newest, e)
		}
		aim, err := c.latest()
		if err == nil {
			aim.Notes = append(aim.Notes, fmt.Sprintf("%s stands for the last boundary held, %s", t, aim.At))
		}
		return aim, err
	}
	before, after := c.nearest(
		func(w *window) bool { return w.to.Time < t }, func(w *window) bool { return t < w.from.Time },
		func(a, b Place) bool { return a.Time < b.Time })
	return nil, c.unreachable(c.whyNotAt(t, before, after), before, after)
}

// inWindow aims at a time that w holds: the last step that began by then has it.
func (c *chooser) inWindow(ch *chain, w *window) *Aim {
	t := c.req.Point.Time
	i := len(w.steps) - 1
	for i >= 0 && w.steps[i].Segment.Time0 > t {
		i--
	}
	if i < 0 {
		return c.aim(ch, w.from)
	}
	s := w.steps[i]
	aim := c.aim(ch, s.end())
	if s.Segment.Time1 > t || s.Range.To < s.Segment.To {
		aim.Search = []Step{s}
	}
	return aim
}

func (c *chooser) inOutage(ch *chain, e *archive.Event) error {
	name := ch.partOf(e.Offset).TimelineInfo.Timeline
	why := fmt.Sprintf("the link was down from %s to %s, and nothing is known of the moments between", e.From, e.Time)
	if e.Cause != "" {
		why += " (" + e.Cause + ")"
	}
	return c.unreachable(why, &Place{name, e.Offset, e.From}, &Place{name, max(e.Offset, e.To), e.Time})
}

func (c *chooser) perhapsInOutage(ch *chain, e *archive.Event) error {
	return &DoubtError{
		Source: c.source, Want: c.req.Point, Damage: e.Damage,
		Way: fmt.Sprintf("that file says when the link had gone down that was up again at %s; what is sure are times up to %s and from %s on, and all offsets: offloader log shows them",
			e.Time, ch.heardOf(e.Offset), e.Time),
	}
}

// whyNotAt explains a time that is in no window.
func (c *chooser) whyNotAt(t stream.Time, before, after *Place) string {
	switch {
	case before == nil:
		return "it is before all that is held"
	case after == nil:
		if ch := c.behindHole(before, func(end Place) bool { return t <= end.Time }); ch != nil {
			return ch.missing(before.Offset)
		}
		late := time.Duration(t-before.Time) * time.Millisecond
		return fmt.Sprintf("it is %s after the last byte held", late)
	case before.Timeline == after.Timeline:
		for _, ch := range c.chains {
			if ch.TimelineInfo.Timeline == before.Timeline {
				return ch.missing(before.Offset)
			}
		}
	}
	return fmt.Sprintf("it is after the end of timeline %s and before the beginning of %s", before.Timeline, after.Timeline)
}

// behindHole is the chain that ends a window at before and holds bytes up to an end that reaches
// the point, but with a hole between; nil if there is none.
func (c *chooser) behindHole(before *Place, reaches func(end Place) bool) *chain {
	for _, ch := range c.chains {
		w, n := ch.last(), len(ch.steps)
		if w != nil && w.to == *before && n > 0 && ch.steps[n-1].Range.To > before.Offset && reaches(ch.steps[n-1].end()) {
			return ch
		}
	}
	return nil
}

func (c *chooser) byOffset() (*Aim, error) {
	o := c.req.Point.Offset
	var chosen *chain
	var fits []Fit
	var doubt error
	differ := false
	for _, ch := range c.chains {
		if ch.windowOf(o) == nil {
			continue
		}
		if chosen == nil {
			chosen = ch
		}
		id, unread := ch.replID(o)
		fits = append(fits, Fit{ch.TimelineInfo.Timeline, id})
		differ, doubt = differ || id != fits[0].ReplID, cmp.Or(doubt, unread)
	}
	slices.Reverse(fits)
	ambiguous := &AmbiguousError{c.source, o, fits}
	switch {
	case len(fits) > 1 && doubt != nil:
		return nil, &DoubtError{Source: c.source, Want: c.req.Point, Damage: doubt, Way: "that file says which history the offset belongs to; " + ambiguous.Hint()}
	case differ:
		return nil, ambiguous
	}
	if chosen != nil {
		return c.atOffset(chosen), nil
	}
	before, after := c.nearest(
		func(w *window) bool { return w.to.Offset < o }, func(w *window) bool { return o < w.from.Offset },
		func(a, b Place) bool { return a.Offset < b.Offset })
	why := "it is not among the offsets held"
	switch {
	case before == nil:
		why = "it is before all that is held"
	case after == nil:
		why = "it is after the last offset held"
		if ch := c.behindHole(before, func(end Place) bool { return o <= end.Offset }); ch != nil {
			why = ch.missing(before.Offset)
		}
	case before.Timeline == after.Timeline:
		for _, ch := range c.chains {
			if ch.TimelineInfo.Timeline == before.Timeline {
				why = ch.missing(before.Offset)
			}
		}
	}
	return nil, c.unreachable(why, before, after)
}

// atOffset aims at an offset that is in a window. That it is a boundary is known at the ends of
// steps and at snapshots, else it has to be looked at.
func (c *chooser) atOffset(ch *chain) *Aim {
	o := c.req.Point.Offset
	for _, s := range ch.snapshots() {
		if s.Offset == o {
			return c.aim(ch, s.place())
		}
	}
	for _, s := range ch.windowOf(o).steps {
		if s.Range.To == o && s.Range.To == s.Segment.To {
			return c.aim(ch, s.end())
		}
		if s.Range.Holds(o) || s.Range.To == o {
			aim := c.aim(ch, Place{s.Timeline, o, s.Segment.Time1})
			aim.Search = []Step{s}
			return aim
		}
	}
	return c.aim(ch, ch.windowOf(o).from) // not reached: a window is a snapshot and its steps
}

// nearest looks among the windows for the greatest end that is before the point, and for the
// least beginning after it.
func (c *chooser) nearest(isBefore, isAfter func(*window) bool, less func(a, b Place) bool) (before, after *Place) {
	for _, ch := range c.chains {
		for i := range ch.windows {
			w := &ch.windows[i]
			if isBefore(w) && (before == nil || less(*before, w.to)) {
				before = &w.to
			}
			if isAfter(w) && (after == nil || less(w.from, *after)) {
				after = &w.from
			}
		}
	}
	return before, after
}

// windowAt is the window that holds t, nil if none does.
func (c *chain) windowAt(t stream.Time) *window {
	for i := range c.windows {
		if w := &c.windows[i]; w.from.Time <= t && t <= w.to.Time {
			return w
		}
	}
	return nil
}

// missing says what is not there behind o, the end of a window.
func (c *chain) missing(o stream.Offset) string {
	for _, p := range c.parts {
		for _, e := range p.Events {
			if e.Kind == archive.EventHole && e.Offset <= o && o < e.To && e.Cause != "" {
				return fmt.Sprintf("offsets %d to %d are missing: %s", e.Offset, e.To, e.Cause)
			}
		}
	}
	why := "are missing"
	for _, p := range c.parts {
		if p.from <= o && o < min(p.to, p.Pruned()) {
			why = "were let go by retention"
		}
	}
	for _, s := range c.steps {
		if s.Range.From > o {
			return fmt.Sprintf("offsets %d to %d %s", o, s.Range.From, why)
		}
	}
	for _, s := range c.snapshots() {
		if s.Offset > o {
			return fmt.Sprintf("offsets %d to %d %s", o, s.Offset, why)
		}
	}
	return fmt.Sprintf("nothing is held behind offset %d", o)
}
