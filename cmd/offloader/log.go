package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/history"
	"github.com/offloader/offloader/internal/plan"
	"github.com/offloader/offloader/internal/stream"
)

type logFlags struct{ key, command, from, to, source, timeline string }

func (a *app) logCommand() *cobra.Command {
	var f logFlags
	cmd := &cobra.Command{
		Use:   "log",
		Short: "Show what was written when, with offsets to restore at",
		Long: `Show what was written when: by key, by command, from and to a time. "before" is the offset to
restore at for the state without that command, "after" for the state with it. Within MULTI there
is no offset to restore at, so all of a transaction's commands show the transaction's ends.

Exit codes: 0 done, also when nothing was found; 1 failed; 2 wrong usage or configuration; 3 the
source has no archive; 4 the archive is damaged; what other files hold was shown.`,
		Example: "  offloader log --key 'user:17'\n  offloader log --command FLUSHALL --from 'yesterday 00:00'\n  offloader log --from '10m ago' --to '5m ago' --json",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.log(cmd.Context(), f, cmd.Flags().Changed, time.Now())
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.key, "key", "", "writes that touch keys like this `GLOB`")
	flags.StringVar(&f.command, "command", "", "this `COMMAND`: a name, and first arguments if they matter")
	flags.StringVar(&f.from, "from", "", "from this `TIME` on, see offloader restore --help for its forms")
	flags.StringVar(&f.to, "to", "", "before this `TIME`")
	a.timelineFlag(cmd, &f.timeline, &f.source, "this timeline only, by `NAME`")
	a.sourceFlag(cmd, &f.source)
	a.identityFlag(cmd)
	return cmd
}

// logQuery reads the flags.
func (a *app) logQuery(f logFlags, given func(string) bool, now time.Time) (q history.Query, err error) {
	q.Key = f.key
	if given("command") {
		point, err := plan.ParseBefore(f.command)
		if err != nil {
			return q, err
		}
		q.Command = point.Command
	}
	for _, bound := range []struct {
		flag, text string
		to         *stream.Time
	}{{"from", f.from, &q.From}, {"to", f.to, &q.To}} {
		if !given(bound.flag) {
			continue
		}
		at, err := plan.ParseTime(bound.text, now, time.Local)
		if err != nil {
			return q, err
		}
		*bound.to = stream.TimeOf(at)
		a.term.say("offloader: %q was taken for %s", bound.text, clock(at))
	}
	if q.To != 0 && q.To <= q.From {
		return q, usagef("", "--from %s is not before --to %s", clock(q.From.Go()), clock(q.To.Go()))
	}
	return q, nil
}

func (a *app) log(ctx context.Context, f logFlags, given func(string) bool, now time.Time) error {
	q, err := a.logQuery(f, given, now)
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
	load := o.load(source)
	c, err := load(ctx)
	if err != nil {
		return err
	}
	timelines := c.Timelines
	if f.timeline != "" {
		t := c.Timeline(f.timeline)
		if t == nil {
			return &plan.UnknownTimelineError{Source: source, Timeline: f.timeline, Known: timelineNames(c)}
		}
		timelines = []*archive.Timeline{t}
	}
	if len(c.Timelines) == 0 {
		return errors.Join(&emptyError{"nothing is archived of " + source}, errors.Join(c.Losses()...))
	}
	out := a.newLogPrinter(source, timelines)
	var errs []error
	for _, t := range timelines {
		out.timeline = t.Timeline
		for _, e := range q.Outages(t) {
			out.outage(e)
		}
		err := history.Timeline(ctx, load, t.Timeline, q, out.hole, out.add)
		errs = append(errs, err)
		if err != nil && !errors.As(err, new(*archive.DamageError)) {
			break
		}
	}
	err = errors.Join(errs...)
	if before, after, outside := q.Outside(timelines); outside && err == nil {
		out.outside(before, after)
	}
	lost := errors.Join(c.Losses()...)
	out.unknown = out.unknown || err != nil || lost != nil
	return errors.Join(err, out.end(), lost)
}

func timelineNames(c *archive.Catalog) (names []string) {
	for _, t := range c.Timelines {
		names = append(names, t.Timeline)
	}
	return names
}

// logPrinter prints entries as they are found: a log can be larger than memory.
type logPrinter struct {
	term     *terminal
	json     bool
	timeline string
	n        int64
	unknown  bool // of the time that was asked for, or of a part of it
}

func (a *app) newLogPrinter(source string, timelines []*archive.Timeline) *logPrinter {
	p := &logPrinter{term: a.term, json: a.json}
	if p.json {
		var only *string // null where entries are of several
		if len(timelines) == 1 {
			only = &timelines[0].Timeline
		}
		name, err := json.Marshal(source)
		timeline, err2 := json.Marshal(only)
		if err == nil && err2 == nil {
			_ = a.term.print(`{"source": %s, "timeline": %s, "entries": [`, name, timeline) // a pipe that is closed is told by the entries
		}
	}
	return p
}

// hole tells of bytes that are missing between two entries.
func (p *logPrinter) hole(r stream.Range) {
	p.term.say("offloader: timeline %s: offsets %d to %d are missing", p.timeline, r.From, r.To)
}

// outage tells of a time of which nothing is known, though what was written in it may be held.
func (p *logPrinter) outage(e archive.Event) {
	cause := ""
	if e.Cause != "" {
		cause = " (" + e.Cause + ")"
	}
	p.term.say("offloader: timeline %s: the link was down from %s to %s%s: what was written meanwhile came at the end of it, and is shown with that time",
		p.timeline, clock(e.From.Go()), clock(e.Time.Go()), cause)
	p.unknown = true
}

// outside tells that a time is one of which nothing is held at all, and what is nearest to it.
func (p *logPrinter) outside(before, after stream.Time) {
	switch {
	case after == 0:
		p.term.say("offloader: that is after all that is held, which ends at %s", clock(before.Go()))
	case before == 0:
		p.term.say("offloader: that is before all that is held, which begins at %s", clock(after.Go()))
	default:
		p.term.say("offloader: nothing is held of that time: what is before it ends at %s, what is after it begins at %s", clock(before.Go()), clock(after.Go()))
	}
	p.unknown = true
}

func (p *logPrinter) add(e history.Entry) error {
	p.n++
	if !p.json {
		if p.n == 1 {
			p.term.say("%-27s  %12s  %12s  %2s  %s", "time", "before", "after", "db", "command")
		}
		after := "-"
		if e.After > 0 {
			after = e.After.String()
		}
		multi := ""
		if e.InMulti {
			multi = paint(p.term.colour, "2", "  (in MULTI)")
		}
		return p.term.print("%s  %12d  %12s  %2d  %s%s", clock(e.Time.Go()), e.Offset, after, e.DB, e.Command, multi)
	}
	line, err := json.Marshal(struct {
		Timeline string `json:"timeline"`
		history.Entry
	}{p.timeline, e})
	if err != nil {
		return fmt.Errorf("print an entry: %w", err)
	}
	lead := "  "
	if p.n > 1 {
		lead = ", "
	}
	return p.term.print("%s%s", lead, strings.TrimSpace(string(line)))
}

func (p *logPrinter) end() error {
	if p.json {
		return p.term.print("]}")
	}
	if p.n == 0 {
		if !p.unknown {
			p.term.say("offloader: nothing like that was written")
		}
		return nil
	}
	p.term.say("offloader: restore --offset BEFORE gives the dataset without a command, --offset AFTER the one with it")
	return nil
}
