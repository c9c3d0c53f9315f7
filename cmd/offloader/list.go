package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/retention"
	"github.com/offloader/offloader/internal/stream"
)

func (a *app) listCommand() *cobra.Command {
	var source string
	var segments bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "Show what is archived: timelines, snapshots, windows and gaps",
		Long: `Show what is archived of each source: its timelines in order of birth, why each began, the
snapshots to start from, the windows in which every moment can be restored, and the gaps. A
daemon may be at work on the archive meanwhile.

Exit codes: 0 done; 1 failed; 2 wrong usage or configuration; 4 something in the archive is
damaged; what can be read is shown.`,
		Example: "  offloader list\n  offloader list --archive /srv/archive --segments\n  offloader list --source cache --json",
		Args:    noArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.list(cmd.Context(), source, segments) },
	}
	cmd.Flags().BoolVar(&segments, "segments", false, "show every segment too")
	a.sourceFlag(cmd, &source)
	a.identityFlag(cmd)
	return cmd
}

// What list prints as JSON. Fields are added, never renamed.
type (
	listing struct {
		Sources []listedSource `json:"sources"`
	}
	listedSource struct {
		Name      string           `json:"name"`
		Timelines []listedTimeline `json:"timelines"`
	}
	listedTimeline struct {
		Name      string           `json:"name"`
		Reason    string           `json:"reason"` // why it began
		Began     stream.Time      `json:"began"`
		Ended     stream.Time      `json:"ended"` // null while it goes on
		Suspect   bool             `json:"suspect"`
		Why       string           `json:"suspect_cause,omitempty"`
		Keys      *archive.Sizes   `json:"suspect_keys,omitempty"`   // before it began, and then
		Before    string           `json:"suspect_before,omitempty"` // the timeline that was good
		Exempt    string           `json:"exempt,omitempty"`         // why it, or its tail, is kept until a release
		Parent    *archive.Parent  `json:"parent,omitempty"`         // of a branch
		ReplID    stream.ReplID    `json:"replid"`                   // the last
		Offset    stream.Offset    `json:"offset"`                   // where it begins
		Bytes     int64            `json:"bytes"`                    // of all its files
		Engine    string           `json:"engine,omitempty"`
		Version   string           `json:"version,omitempty"`
		Snapshots []listedSnapshot `json:"snapshots"`
		Windows   []archive.Window `json:"windows"`
		Gaps      []archive.Gap    `json:"gaps"`
		Events    []archive.Event  `json:"events"`
		Pins      []listedPin      `json:"pins"`
		Segments  []listedSegment  `json:"segments,omitempty"` // with --segments
	}
	listedSnapshot struct {
		Offset    stream.Offset `json:"offset"`
		Time      stream.Time   `json:"time"`
		Bytes     int64         `json:"bytes"` // of the RDB
		Method    string        `json:"method"`
		Stored    int64         `json:"stored_bytes"`
		Keys      *int64        `json:"keys"`                // null where they could not be counted
		Unchecked string        `json:"unchecked,omitempty"` // why its structure was not checked
		Spooled   bool          `json:"spooled"`             // no store has it yet
		Pinned    bool          `json:"pinned"`              // a pin needs it
		Encrypted bool          `json:"encrypted"`
	}
	listedPin struct {
		Offset stream.Offset `json:"offset"`
		Time   stream.Time   `json:"time"` // of the point
		Note   string        `json:"note,omitempty"`
	}
	listedSegment struct {
		From  stream.Offset `json:"from"`
		To    stream.Offset `json:"to"`
		Time0 stream.Time   `json:"from_time"`
		Time1 stream.Time   `json:"to_time"`
		Bytes int64         `json:"bytes"` // as stored
		Name  string        `json:"name"`  // "" for what is still in the spool
	}
)

func (a *app) list(ctx context.Context, source string, segments bool) error {
	o, err := a.openArchive(ctx)
	if err != nil {
		return err
	}
	names := []string{source}
	if source == "" {
		names, err = o.sources(ctx)
	} else {
		_, err = o.pick(ctx, source)
	}
	if err != nil {
		return err
	}
	all := listing{Sources: []listedSource{}}
	var problems []error
	for _, name := range names {
		c, err := o.load(name)(ctx)
		if err != nil {
			return err
		}
		s, wrong := describe(ctx, c, segments)
		all.Sources = append(all.Sources, s)
		problems = append(problems, wrong...)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if a.json {
		err = a.term.json(all)
	} else {
		err = a.printListing(all, o)
	}
	return errors.Join(err, errors.Join(problems...))
}

// describe is a source's part of the list, with what could not be read of it.
func describe(ctx context.Context, c *archive.Catalog, segments bool) (listedSource, []error) {
	s := listedSource{Name: c.Source, Timelines: []listedTimeline{}}
	problems := c.Problems
	held := retention.Holds(c)
	for i, t := range c.Timelines {
		l := listedTimeline{
			Name: t.Timeline, Reason: t.Reason, Began: t.Began, Suspect: t.Suspect(), Parent: t.Parent, ReplID: t.ReplIDAt(t.End()),
			Offset: t.Offset, Engine: t.Engine, Version: t.Version, Snapshots: []listedSnapshot{}, Events: append([]archive.Event{}, t.Events...),
			Exempt: held[i].Exempt, Pins: []listedPin{},
		}
		if l.Suspect {
			l.suspicion(t, c.Timelines[:i])
		}
		for _, p := range t.Pins() {
			l.Pins = append(l.Pins, listedPin{p.Offset, p.From, p.Note})
		}
		l.Ended = c.Ended(t)
		for _, snapshot := range t.Snapshots {
			info, err := snapshot.Info(ctx)
			if err != nil {
				problems = append(problems, err)
			}
			one := listedSnapshot{Offset: snapshot.Offset, Time: snapshot.Time, Bytes: info.Bytes, Method: info.Method, Stored: snapshot.Size,
				Unchecked: info.Unchecked, Spooled: snapshot.Name == "", Encrypted: snapshot.Encrypted}
			one.Pinned = slices.Contains(held[i].Pinned, archive.SnapshotName{Offset: snapshot.Offset, Time: snapshot.Time})
			if info.Unchecked == "" && err == nil {
				one.Keys = new(int64)
				for _, n := range info.Keys {
					*one.Keys += n
				}
			}
			l.Snapshots = append(l.Snapshots, one)
			l.Bytes += snapshot.Size
		}
		for _, seg := range t.Segments {
			l.Bytes += seg.Size
			if seg, ok := notStored(seg, t.Segments); ok && segments {
				l.Segments = append(l.Segments, listedSegment{seg.From, seg.To, seg.Time0, seg.Time1, seg.Size, seg.Name})
			}
		}
		slices.SortStableFunc(l.Segments, func(a, b listedSegment) int { return cmp.Compare(a.From, b.From) })
		windows, err := c.Windows(t)
		if err != nil {
			problems = append(problems, err)
		}
		gaps, err := c.Gaps(t)
		if err != nil && len(windows) > 0 { // else it is the same error
			problems = append(problems, err)
		}
		l.Windows, l.Gaps = append([]archive.Window{}, windows...), append([]archive.Gap{}, gaps...)
		s.Timelines = append(s.Timelines, l)
	}
	return s, problems
}

// suspicion says why a timeline is suspect; before are those that were born before it.
func (l *listedTimeline) suspicion(t *archive.Timeline, before []*archive.Timeline) {
	for _, e := range t.Events {
		if e.Kind == archive.EventSuspect {
			l.Why, l.Keys = e.Cause, e.Keys
		}
	}
	if good := archive.LastGood(before); good != nil {
		l.Before = good.Timeline
	}
}

// notStored is a segment, or of what the spool holds the end that the store lacks. It is false where
// there is none: the spool keeps bytes for a while that the store has.
func notStored(s archive.Segment, all []archive.Segment) (archive.Segment, bool) {
	if s.Name != "" {
		return s, true
	}
	stored := slices.DeleteFunc(slices.Clone(all), func(o archive.Segment) bool { return o.Name == "" })
	used, reached := archive.Cover(stored, s.Range)
	if reached >= s.To {
		return s, false
	}
	if n := len(used); n > 0 {
		s.From, s.Time0 = reached, used[n-1].Time1
	}
	return s, true
}

func (a *app) printListing(all listing, o *opened) error {
	if len(all.Sources) == 0 {
		a.term.say("offloader: %s holds no source", o)
	}
	for i, s := range all.Sources {
		if i > 0 {
			if err := a.term.print(""); err != nil {
				return err
			}
		}
		if err := a.term.print("%s", paint(a.term.colour, "1", s.Name)); err != nil {
			return err
		}
		for _, t := range s.Timelines {
			if err := a.printTimeline(s.Name, t); err != nil {
				return err
			}
		}
		if len(s.Timelines) == 0 {
			if err := a.term.print("  nothing yet"); err != nil {
				return err
			}
		}
	}
	return nil
}

// lostWrites tells of what was written, perhaps acknowledged, and then left out by a new master.
func lostWrites(e archive.Event) string {
	text := size(stream.Range{From: e.Offset, To: e.To}.Len())
	if e.Commands > 0 {
		text = plural(e.Commands, "command", "commands")
	}
	text += fmt.Sprintf(", offset %d to %d", e.Offset, e.To)
	if e.From != 0 {
		text += ", received after " + clock(e.From.Go())
	}
	return text + ": left out by the master that went on at " + clock(e.Time.Go())
}

// told is what there is to say of a snapshot. One that couldn't be described is told of as damage.
func (s listedSnapshot) told() string {
	keys := "keys not counted"
	if s.Keys != nil {
		keys = plural(*s.Keys, "key", "keys")
	}
	text := fmt.Sprintf("%s, RDB of %s, %s stored, by %s", keys, size(s.Bytes), size(s.Stored), s.Method)
	if s.Spooled {
		text += ", in the spool only"
	}
	if s.Encrypted {
		text += ", encrypted"
	}
	if s.Unchecked != "" {
		text += "; not checked: " + s.Unchecked
	}
	return text
}

func (a *app) printTimeline(source string, t listedTimeline) error {
	head := "  " + t.Name + "  " + t.Reason
	if t.Suspect {
		head += paint(a.term.colour, "31;1", "  SUSPECT")
	}
	if err := a.term.print("%s", head); err != nil {
		return err
	}
	var rows [][]cell
	row := func(name, format string, args ...any) {
		rows = append(rows, []cell{{name, "2"}, {fmt.Sprintf(format, args...), ""}})
	}
	ended := "goes on"
	if t.Ended != 0 {
		ended = "ended " + clock(t.Ended.Go())
	}
	row("began", "%s, at offset %d; %s; %s in all", clock(t.Began.Go()), t.Offset, ended, size(t.Bytes))
	if t.Parent != nil {
		row("branch", "of %s, from offset %d on", t.Parent.Timeline, t.Parent.Offset)
	}
	if t.Suspect {
		if t.Why != "" {
			row("suspect", "%s", t.Why)
		}
		if t.Keys != nil {
			row("", "%s", sizes(*t.Keys))
		}
		for _, way := range a.afterAmnesia(source, t.Before) {
			row("", "→ %s", way)
		}
	}
	if t.Exempt != "" {
		row("exempt", "from retention: %s", t.Exempt)
	}
	for _, p := range t.Pins {
		note := ""
		if p.Note != "" {
			note = ": " + p.Note
		}
		row("pin", "%s, offset %d%s", clock(p.Time.Go()), p.Offset, note)
	}
	for _, w := range t.Windows {
		row("window", "%s to %s, offset %d to %d", clock(w.From.Time.Go()), clock(w.To.Time.Go()), w.From.Offset, w.To.Offset)
	}
	if len(t.Windows) == 0 {
		row("window", "none: nothing of it can be restored")
	}
	for _, g := range t.Gaps {
		row("gap", "%s to %s, offset %d to %d: %s", clock(g.From.Time.Go()), clock(g.To.Time.Go()), g.From.Offset, g.To.Offset, g.Cause)
	}
	for _, e := range t.Events {
		if e.Kind == archive.EventLost && e.Damage == nil {
			row("lost", "%s", lostWrites(e))
		}
	}
	for _, s := range t.Snapshots {
		row("snapshot", "%s, offset %d: %s", clock(s.Time.Go()), s.Offset, s.told())
	}
	for _, s := range t.Segments {
		name := s.Name
		if name == "" {
			name = "in the spool only"
		}
		row("segment", "%s to %s, offset %d to %d, %s: %s", clock(s.Time0.Go()), clock(s.Time1.Go()), s.From, s.To, size(s.Bytes), name)
	}
	return a.term.table("    ", "", rows)
}
