package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/offloader/offloader/internal/plan"
	"github.com/offloader/offloader/internal/replay"
	"github.com/offloader/offloader/internal/restore"
	"github.com/offloader/offloader/internal/running"
	"github.com/offloader/offloader/internal/stream"
)

// restoreFlags are what a user aims at, and where it goes.
type restoreFlags struct {
	pointFlags
	output, format string
	dryRun         bool
	toFlags
}

func (a *app) restoreCommand() *cobra.Command {
	var f restoreFlags
	cmd := &cobra.Command{
		Use:   "restore",
		Short: "Restore a source to any moment, into a folder that an engine boots from, or into a server",
		Long: `Restore a source to one point: a time, an offset, just before a command, or the latest there
is. What is written is a folder that the engine starts on at once; the command for that is
printed. It appears whole or not at all, in a new or empty folder only. A daemon may be at work
on the archive meanwhile, or have died: what only its spool has is restored too.

With --to it is a server that runs: redis://HOST:PORT, or rediss:// with TLS. It becomes a replica
of this command until it stands at the point, and then a master. One that can't (it is a cluster, or
managed, or an older engine, or speaks TLS) gets commands. Nobody else should write to it meanwhile. A
server that holds keys is left alone, unless --conflict says what becomes of them: replace, and all that it
holds is replaced; skip, and they stay as they are and what is missing is added. What was interrupted
goes on, or begins anew, when the same is said again.

The server's password comes from --password-file or OFFLOADER_TO_PASSWORD.

TIME is RFC 3339, "2006-01-02 15:04:05[.000]" in local time, Unix seconds or milliseconds,
"5m ago", "yesterday 14:00" or "now". What it was taken for is printed.

Exit codes: 0 done; 1 failed; 2 wrong usage or configuration; 3 the point can't be restored, the
nearest that can are named; 4 the archive is damaged where it is needed. Except for 0 nothing is
left in the output folder; of a server it is said what is left there.`,
		Example: "  offloader restore --at '5m ago' --output /tmp/cache\n" +
			"  offloader restore --before FLUSHALL --output /tmp/cache\n" +
			"  offloader restore --before 'DEL \"user:17\"' --dry-run\n" +
			"  offloader restore --latest --to redis://10.0.0.8:6379\n" +
			"  offloader restore --archive /srv/archive --source main --latest --output /tmp/main --json",
		Args: noArgs,
	}
	flags := cmd.Flags()
	f.pointFlags.add(a, cmd)
	flags.StringVar(&f.output, "output", "", "the `DIR` to write, new or empty")
	flags.StringVar(&f.format, "format", "aof", "aof for engines from 7.0 on, aof-single for older ones")
	flags.BoolVar(&f.dryRun, "dry-run", false, "find the point and say what would be used; write nothing, and\nread no more than that takes: whether all is whole, verify tells")
	_ = cmd.RegisterFlagCompletionFunc("format", cobra.FixedCompletions([]string{string(restore.AOF), string(restore.AOFSingle)}, cobra.ShellCompDirectiveNoFileComp))
	f.toFlags.add(cmd)
	a.identityFlag(cmd)
	laterFlags(cmd, "keys", "db")
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
	if f.output == "" && f.to == "" && !f.dryRun {
		return usagef("say --output DIR, a new or empty folder, --to redis://HOST:PORT, or --dry-run", "there is no place to restore to")
	}
	server, conflict, err := a.toServer(f, given)
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
	if point.Kind == plan.ByTime {
		a.term.say("offloader: %q was taken for %s", f.at, clock(point.Time.Go()))
	}
	show, end := a.term.progress("restoring " + source)
	options := restore.Options{Output: f.output, Format: format, Keep: o.keep(), Now: stream.TimeOf(now), Progress: show}
	var report *restore.Report
	request := plan.Request{Point: point, Timeline: f.timeline, Now: stream.TimeOf(now)}
	err = replay.Run(ctx, o.load(source), request, func(ctx context.Context, r *replay.Replay) (err error) {
		switch {
		case f.to != "" && f.dryRun:
			if report, err = running.Describe(r, server); err == nil {
				report.Notes = append(report.Notes, "the server was not asked: whether it can be reached, and is empty, the restore itself tells before it writes")
			}
		case f.to != "":
			report, err = running.To(ctx, r, running.Options{
				Server: server, Conflict: conflict, Load: o.load(source), Now: options.Now, Progress: show, Logger: a.quietLogger(),
			})
		case f.dryRun:
			report, err = restore.Describe(r, options)
		default:
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
		if r.Engine != "" {
			row("note", "the server has to be %s: an older one can't load it", r.Engine)
		}
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
