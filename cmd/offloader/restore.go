package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/offloader/offloader/internal/plan"
	"github.com/offloader/offloader/internal/replay"
	"github.com/offloader/offloader/internal/restore"
	"github.com/offloader/offloader/internal/stream"
)

// restoreFlags are what a user aims at, and where it goes.
type restoreFlags struct {
	pointFlags
	output, format string
	dryRun         bool
}

func (a *app) restoreCommand() *cobra.Command {
	var f restoreFlags
	cmd := &cobra.Command{
		Use:   "restore",
		Short: "Restore a source to any moment, into a folder that an engine boots from",
		Long: `Restore a source to one point: a time, an offset, just before a command, or the latest there
is. What is written is a folder that the engine starts on at once; the command for that is
printed. It appears whole or not at all, in a new or empty folder only. A daemon may be at work
on the archive meanwhile, or have died: what only its spool has is restored too.

TIME is RFC 3339, "2006-01-02 15:04:05[.000]" in local time, Unix seconds or milliseconds,
"5m ago", "yesterday 14:00" or "now". What it was taken for is printed.

Exit codes: 0 done; 1 failed; 2 wrong usage or configuration; 3 the point can't be restored, the
nearest that can are named; 4 the archive is damaged where it is needed. Except for 0 nothing is
left in the output folder.`,
		Example: "  offloader restore --at '5m ago' --output /tmp/cache\n" +
			"  offloader restore --before FLUSHALL --output /tmp/cache\n" +
			"  offloader restore --before 'DEL \"user:17\"' --dry-run\n" +
			"  offloader restore --archive /srv/archive --source main --latest --output /tmp/main --json",
		Args: noArgs,
	}
	flags := cmd.Flags()
	f.add(a, cmd)
	flags.StringVar(&f.output, "output", "", "the `DIR` to write, new or empty")
	flags.StringVar(&f.format, "format", "aof", "aof for engines from 7.0 on, aof-single for older ones")
	flags.BoolVar(&f.dryRun, "dry-run", false, "find the point and say what would be used; write nothing, and\nread no more than that takes: whether all is whole, verify tells")
	_ = cmd.RegisterFlagCompletionFunc("format", cobra.FixedCompletions([]string{string(restore.AOF), string(restore.AOFSingle)}, cobra.ShellCompDirectiveNoFileComp))
	a.identityFlag(cmd)
	laterFlags(cmd, "to", "keys", "db")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return a.restore(cmd.Context(), f, cmd.Flags().Changed, time.Now())
	}
	return cmd
}

func (a *app) restore(ctx context.Context, f restoreFlags, given func(string) bool, now time.Time) error {
	point, err := f.point(given, now)
	if err != nil {
		return err
	}
	format, err := restore.ParseFormat(f.format)
	if err != nil {
		return usagef("", "%v", err)
	}
	if f.output == "" && !f.dryRun {
		return usagef("say --output DIR, a new or empty folder, or --dry-run", "there is no place to restore to")
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
	show, end := a.term.progress("restoring " + source)
	options := restore.Options{Output: f.output, Format: format, Keep: o.keep(), Now: stream.TimeOf(now), Progress: show}
	var report *restore.Report
	request := plan.Request{Point: point, Timeline: f.timeline, Now: stream.TimeOf(now)}
	err = replay.Run(ctx, o.load(source), request, func(ctx context.Context, r *replay.Replay) (err error) {
		if f.dryRun {
			report, err = restore.Describe(r, options)
		} else {
			report, err = restore.To(ctx, r, options)
		}
		return err
	})
	end()
	if err != nil {
		return err
	}
	if a.json {
		return a.term.json(report)
	}
	return a.printRestore(report, f.dryRun)
}

// printRestore is for people, who may have been woken up for this: what they have now comes
// first, what to do next last.
func (a *app) printRestore(r *restore.Report, dry bool) error {
	verb, wrote := "restored", "wrote"
	if dry {
		verb, wrote = "can be restored", "would write up to"
	}
	head := fmt.Sprintf("%s %s to %s, offset %d", r.Source, verb, clock(r.Time.Go()), r.Offset)
	if err := a.term.print("%s", paint(a.term.colour, "1", head)); err != nil {
		return err
	}
	var rows [][]cell
	row := func(name, format string, args ...any) {
		rows = append(rows, []cell{{name, "2"}, {fmt.Sprintf(format, args...), ""}})
	}
	if m := r.Before; m != nil {
		row("before", "%s", m.Command)
		row("", "of %s, offset %d, db %d; %s left out after it", clock(m.Time.Go()), m.Offset, m.DB, plural(m.LeftOut, "command is", "commands are"))
	}
	row("from", "the snapshot of %s, offset %d, and %s", clock(r.SnapshotTime.Go()), r.Snapshot, plural(int64(r.Segments), "segment", "segments"))
	if dry {
		row("", "which were not read: `offloader verify` tells whether they are whole")
	}
	row("timeline", "%s", r.Timeline)
	if r.Output != "" {
		row(wrote, "%s into %s", size(r.Bytes), r.Output)
	} else {
		row(wrote, "%s", size(r.Bytes))
	}
	if r.Keys != nil {
		expired := ""
		if r.Expired != nil {
			expired = "; none of them has expired since that point"
			if n := *r.Expired; n > 0 {
				expired = fmt.Sprintf("; the expiry of %s of them has passed since that point", count(n))
			}
		}
		row("keys", "%s%s", count(*r.Keys), expired)
	}
	if r.KeysNote != "" && !dry {
		row("", "%s", r.KeysNote)
	}
	for _, n := range r.Notes {
		row("note", "%s", n)
	}
	if r.Start != "" {
		row("start it", "%s", r.Start)
	}
	return a.term.table("  ", "", rows)
}

// plural is "1 segment" or "3 segments".
func plural(n int64, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return count(n) + " " + many
}
