package main

import (
	"context"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/plan"
	"github.com/offloader/offloader/internal/retention"
	"github.com/offloader/offloader/internal/stream"
)

func (a *app) releaseCommand() *cobra.Command {
	var source, timeline string
	cmd := &cobra.Command{
		Use:   "release",
		Short: "Give a suspect timeline, and what came before it, back to retention",
		Long: `Say that you have looked at what happened to a source: a failover that lost writes, or a timeline that
is suspect because the master came back empty, with far fewer keys than it was known to hold, or with an older
dataset. Until then its timeline, what came before it, and the writes that were lost are kept from
retention; a suspect timeline is also passed over by restore and export unless it is named, and
replicas on the relay get no copy of it.

Without --timeline all that waits is released; with it, that timeline, and what its parent lost to
it. See offloader list.

Exit codes: 0 done, also where nothing waits; 1 failed; 2 wrong usage or configuration.`,
		Example: "  offloader release --source cache\n  offloader release --timeline 20261123T183152.123Z-1a2b3c4d",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.release(cmd.Context(), source, timeline, time.Now())
		},
	}
	cmd.Flags().StringVar(&timeline, "timeline", "", "the timeline's `NAME`; default: all that wait")
	a.sourceFlag(cmd, &source)
	return cmd
}

// releaseReport is what release prints as JSON.
type releaseReport struct {
	Source   string   `json:"source"`
	Released []string `json:"released"` // timelines that waited
	Returned []string `json:"returned"` // timelines that retention may take again, or the tail of which
}

func (a *app) release(ctx context.Context, source, timeline string, now time.Time) error {
	o, err := a.openArchive(ctx)
	if err != nil {
		return err
	}
	if source, err = o.pick(ctx, source); err != nil {
		return err
	}
	before, err := o.load(source)(ctx)
	if err != nil {
		return err
	}
	wanted, err := waiting(before, timeline)
	if err != nil {
		return err
	}
	stored, err := o.each(ctx, source) // one that was away may not have been told
	if err != nil {
		return err
	}
	for _, c := range stored {
		more, err := waiting(c, timeline)
		if err != nil {
			continue // it has no such timeline
		}
		for _, t := range more {
			if t := before.Timeline(t.TimelineInfo.Timeline); t != nil && !slices.Contains(wanted, t) {
				wanted = append(wanted, t)
			}
		}
	}
	report := releaseReport{Source: source, Released: []string{}, Returned: []string{}}
	for _, t := range wanted {
		if err := o.tell(ctx, source, t, archive.Event{Kind: archive.EventRelease, Offset: t.End(), Time: stream.TimeOf(now)}); err != nil {
			return err
		}
		report.Released = append(report.Released, t.TimelineInfo.Timeline)
	}
	after, err := o.load(source)(ctx)
	if err != nil {
		return err
	}
	still := map[string]bool{}
	for i, h := range retention.Holds(after) {
		still[after.Timelines[i].TimelineInfo.Timeline] = h.Exempt != ""
	}
	for i, h := range retention.Holds(before) {
		if name := before.Timelines[i].TimelineInfo.Timeline; h.Exempt != "" && !still[name] {
			report.Returned = append(report.Returned, name)
		}
	}
	if a.json {
		return a.term.json(report)
	}
	if len(report.Released) == 0 {
		return a.term.print("nothing of %s waits for a release", source)
	}
	for _, name := range report.Released {
		if err := a.term.print("timeline %s is released", name); err != nil {
			return err
		}
	}
	for _, name := range report.Returned {
		if err := a.term.print("timeline %s is given back to retention", name); err != nil {
			return err
		}
	}
	return nil
}

// waiting are the timelines to release: all that wait, or the named one and, for what was lost to
// it, its parent.
func waiting(c *archive.Catalog, name string) ([]*archive.Timeline, error) {
	waits := func(t *archive.Timeline) bool { return t.Suspect() || len(t.Lost()) > 0 }
	if name == "" {
		return slices.DeleteFunc(slices.Clone(c.Timelines), func(t *archive.Timeline) bool { return !waits(t) }), nil
	}
	t := c.Timeline(name)
	if t == nil {
		unknown := &plan.UnknownTimelineError{Source: c.Source, Timeline: name}
		for _, t := range c.Timelines {
			unknown.Known = append(unknown.Known, t.TimelineInfo.Timeline)
		}
		return nil, unknown
	}
	var wanted []*archive.Timeline
	if waits(t) {
		wanted = append(wanted, t)
	}
	if t.Parent != nil {
		parent := c.Timeline(t.Parent.Timeline)
		if parent != nil && slices.ContainsFunc(parent.Lost(), func(e archive.Event) bool { return e.Offset == t.Offset }) {
			wanted = append(wanted, parent)
		}
	}
	return wanted, nil
}
