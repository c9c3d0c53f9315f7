package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/plan"
	"github.com/offloader/offloader/internal/replay"
	"github.com/offloader/offloader/internal/store"
	"github.com/offloader/offloader/internal/stream"
)

// pinFlags name a point.
type pinFlags struct {
	at, offset, source, timeline, note string
}

func (f *pinFlags) add(a *app, cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.at, "at", "", "the last moment not after `TIME`")
	flags.StringVar(&f.offset, "offset", "", "the boundary at offset `N`")
	flags.StringVar(&f.timeline, "timeline", "", "the timeline's `NAME`, see offloader list; default: chosen by the point")
	a.sourceFlag(cmd, &f.source)
}

// point is restore's, of which two kinds can be pinned.
func (f pinFlags) point(given func(string) bool, now time.Time) (plan.Point, error) {
	if given("at") == given("offset") {
		return plan.Point{}, usagef("", "say which point: --at or --offset, one of them")
	}
	return pointFlags{at: f.at, offset: f.offset}.point(func(name string) bool { return (name == "at" || name == "offset") && given(name) }, now)
}

func (a *app) pinCommand() *cobra.Command {
	var f pinFlags
	cmd := &cobra.Command{
		Use:   "pin",
		Short: "Keep a point: it stays restorable, whatever retention says",
		Long: `Pin a point of a source: what leads to it, a snapshot and the log up to it, is kept until
unpin. A pin is an event in the archive, so it needs no daemon, and list shows it.

Exit codes: 0 done; 1 failed; 2 wrong usage or configuration; 3 the point can't be restored, the
nearest that can are named; 4 the archive is damaged where it is needed.`,
		Example: "  offloader pin --at 'yesterday 14:00' --note 'before the migration'\n  offloader pin --source cache --offset 1537789",
		Args:    noArgs,
	}
	f.add(a, cmd)
	cmd.Flags().StringVar(&f.note, "note", "", "`TEXT` that says why, for list")
	a.identityFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return a.pin(cmd.Context(), f, cmd.Flags().Changed, time.Now())
	}
	return cmd
}

func (a *app) unpinCommand() *cobra.Command {
	var f pinFlags
	cmd := &cobra.Command{
		Use:   "unpin",
		Short: "Let a pinned point go",
		Long: `Take a pin away: from then on retention decides. The offset is that of the pin; a time is that of
the pinned point, or the one that it was pinned by. list shows them.

Exit codes: 0 done; 1 failed; 2 wrong usage or configuration, or there is no such pin.`,
		Example: "  offloader unpin --source cache --offset 1537789",
		Args:    noArgs,
	}
	f.add(a, cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return a.unpin(cmd.Context(), f, cmd.Flags().Changed, time.Now())
	}
	return cmd
}

// pinReport is what pin and unpin print as JSON.
type pinReport struct {
	Source   string        `json:"source"`
	Timeline string        `json:"timeline"`
	Offset   stream.Offset `json:"offset"`
	Time     stream.Time   `json:"time"` // of the point
	Note     string        `json:"note,omitempty"`
	Pinned   bool          `json:"pinned"`
}

// maxNote is as much as a line of list has room for.
const maxNote = 200

func (a *app) pin(ctx context.Context, f pinFlags, given func(string) bool, now time.Time) error {
	point, err := f.point(given, now)
	if err != nil {
		return err
	}
	if len(f.note) > maxNote || !utf8.ValidString(f.note) || strings.ContainsFunc(f.note, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return usagef("say it shorter", "--note is one line of at most %d bytes", maxNote)
	}
	o, err := a.openArchive(ctx)
	if err != nil {
		return err
	}
	source, err := o.pick(ctx, f.source)
	if err != nil {
		return err
	}
	if point.Kind == plan.ByTime {
		a.term.say("offloader: %q was taken for %s", f.at, clock(point.Time.Go()))
	}
	var at plan.Place
	find := func(_ context.Context, r *replay.Replay) error {
		at = r.To
		for _, n := range r.Notes {
			a.term.say("offloader: %s", n)
		}
		return nil
	}
	if err := replay.Run(ctx, o.load(source), plan.Request{Point: point, Timeline: f.timeline, Now: stream.TimeOf(now)}, find); err != nil {
		return err
	}
	c, err := o.load(source)(ctx)
	if err != nil {
		return err
	}
	report := pinReport{Source: source, Timeline: at.Timeline, Offset: at.Offset, Time: at.Time, Note: f.note, Pinned: true}
	event := archive.Event{Kind: archive.EventPin, Offset: at.Offset, Time: stream.TimeOf(now), From: at.Time, Note: f.note}
	if point.Kind == plan.ByTime {
		event.At = point.Time
	}
	t := c.Timeline(at.Timeline)
	stored, err := o.each(ctx, source)
	if err != nil {
		return err
	}
	pinned := func(t *archive.Timeline) bool {
		return slices.ContainsFunc(t.Pins(), func(p archive.Event) bool { return p.Offset == at.Offset && p.Note == f.note })
	}
	lacks := func(c *archive.Catalog) bool { // it was away when the others were told
		t := c.Timeline(at.Timeline)
		return t != nil && !pinned(t)
	}
	if t != nil && pinned(t) && !slices.ContainsFunc(stored, lacks) {
		return a.printPin(report, "is pinned already")
	}
	if err := o.tell(ctx, source, t, event); err != nil {
		return err
	}
	// A prune may have been at work on it meanwhile.
	again := plan.Request{Point: plan.Point{Kind: plan.ByOffset, Offset: at.Offset}, Timeline: at.Timeline, Now: stream.TimeOf(now)}
	if err := replay.Run(ctx, o.load(source), again, find); err != nil {
		return fmt.Errorf("the pin came too late, since retention was faster: %w", err)
	}
	return a.printPin(report, "is pinned")
}

func (a *app) unpin(ctx context.Context, f pinFlags, given func(string) bool, now time.Time) error {
	point, err := f.point(given, now)
	if err != nil {
		return err
	}
	o, err := a.openArchive(ctx)
	if err != nil {
		return err
	}
	source, err := o.pick(ctx, f.source)
	if err != nil {
		return err
	}
	c, err := o.load(source)(ctx)
	if err != nil {
		return err
	}
	stored, err := o.each(ctx, source) // one that was away may have a pin that the others have no more
	if err != nil {
		return err
	}
	var found, others []string
	var t *archive.Timeline
	var pin archive.Event
	for _, one := range slices.Concat(c.Timelines, timelinesOf(stored)) {
		if f.timeline != "" && f.timeline != one.TimelineInfo.Timeline {
			continue
		}
		for _, p := range one.Pins() {
			if at := p.Offset.String(); !slices.Contains(others, at) {
				others = append(others, at)
			}
			name := fmt.Sprintf("--timeline %s --offset %d", one.TimelineInfo.Timeline, p.Offset)
			if slices.Contains(found, name) {
				continue
			}
			if point.Kind == plan.ByOffset && p.Offset == point.Offset || point.Kind == plan.ByTime && p.From <= point.Time && point.Time <= max(p.From, p.At) {
				t, pin = c.Timeline(one.TimelineInfo.Timeline), p
				found = append(found, name)
			}
		}
	}
	switch {
	case len(found) == 0 && len(others) == 0:
		return usagef("", "nothing of %s is pinned", source)
	case len(found) == 0:
		return usagef("the pins are at offset "+strings.Join(others, ", "), "%s has no pin at %s", source, point)
	case len(found) > 1:
		return usagef("say "+strings.Join(found, " or "), "there are %d pins at %s", len(found), point)
	}
	if err := o.tell(ctx, source, t, archive.Event{Kind: archive.EventUnpin, Offset: pin.Offset, Time: stream.TimeOf(now)}); err != nil {
		return err
	}
	return a.printPin(pinReport{Source: source, Timeline: t.TimelineInfo.Timeline, Offset: pin.Offset, Time: pin.From, Note: pin.Note}, "is no longer pinned")
}

// each gives what every store holds by itself of a source.
func (o *opened) each(ctx context.Context, source string) ([]*archive.Catalog, error) {
	return ask(o, func(s store.Reading) (*archive.Catalog, error) { return archive.Load(ctx, s, source, o.identity) })
}

func timelinesOf(catalogs []*archive.Catalog) (all []*archive.Timeline) {
	for _, c := range catalogs {
		all = append(all, c.Timelines...)
	}
	return all
}

func (a *app) printPin(r pinReport, what string) error {
	if a.json {
		return a.term.json(r)
	}
	if r.Note != "" {
		what += ": " + r.Note
	}
	return a.term.print("%s at %s, offset %d of timeline %s, %s", r.Source, clock(r.Time.Go()), r.Offset, r.Timeline, what)
}

// How often, and how many times, tell looks whether the store has a timeline: for five seconds.
const (
	lookEvery = 250 * time.Millisecond
	lookTries = 20
)

// tell writes an event into every store that has the timeline, such that it is the last at its
// offset, whatever clocks say. Each store has its own retention, and so must have the word that
// stops it; one that has let go of the timeline needs none.
func (o *opened) tell(ctx context.Context, source string, t *archive.Timeline, e archive.Event) error {
	if t == nil {
		return fmt.Errorf("the timeline of %s is gone: try again", source)
	}
	for _, before := range t.Events {
		if before.Offset == e.Offset || e.Kind == archive.EventRelease {
			e.Time = max(e.Time, before.Time+1)
		}
	}
	timeline := t.TimelineInfo.Timeline
	waiting := o.stores
	for tries := 1; ; tries++ { // a timeline that has just begun gets to the stores in a moment
		var absent []store.Reading
		var errs []error
		for _, st := range waiting {
			_, err := archive.ReadTimeline(ctx, st, source, timeline)
			if errors.Is(err, fs.ErrNotExist) {
				absent = append(absent, st)
				continue
			}
			if err == nil {
				err = archive.WriteEvent(ctx, st, source, timeline, e)
			}
			if err != nil {
				errs = append(errs, fmt.Errorf("%s doesn't know of it: %w", st, err))
			}
		}
		waiting = absent
		switch {
		case len(errs) == 0 && len(waiting) == 0 && o.missed != nil:
			return &hintedError{o.missed, "the other stores know of it: say the same again when that one is back"}
		case len(errs) > 0 && len(errs) < len(o.stores):
			return &hintedError{errors.Join(errs...), "the other stores know of it: say the same again when that one is back"}
		case len(errs) > 0 || len(waiting) == 0:
			return errors.Join(errs...)
		case tries < lookTries:
		case len(waiting) == len(o.stores):
			return fmt.Errorf("timeline %s is in no store yet, and what is said of it has to stand there: try again when it is", timeline)
		default:
			for _, st := range waiting {
				o.say("offloader: warning: %s has nothing of timeline %s, and wasn't told", st, timeline)
			}
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(lookEvery):
		}
	}
}
