package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"time"

	"github.com/spf13/cobra"

	"github.com/offloader/offloader/internal/config"
	"github.com/offloader/offloader/internal/export"
	"github.com/offloader/offloader/internal/httpapi"
	"github.com/offloader/offloader/internal/plan"
	"github.com/offloader/offloader/internal/replay"
	"github.com/offloader/offloader/internal/stream"
)

// exportFlags are a point, where one is given, and where it goes.
type exportFlags struct {
	to, source, timeline, at, offset string
	latest                           bool
}

func (a *app) exportCommand() *cobra.Command {
	var f exportFlags
	cmd := &cobra.Command{
		Use:   "export --to PATH|s3://BUCKET/KEY",
		Short: "Write a dataset as a plain dump.rdb, for any engine or service that takes one",
		Long: `Write the dataset of a source as a plain RDB file: what redis-server boots from as its
dump.rdb, and what services like ElastiCache take from a bucket.

By default it is the dataset of now. The running daemon gets it from the master, which forks for
it once, or from a replica of it where the configuration says snapshots: {method: replica}; the
daemon is asked by the socket in its spool. It is refused while the newest timeline is suspect: what the
master holds then may not be what you want. With --offset, --at or --latest it is a snapshot of the
archive, and the point has to be one at which list shows one: restore goes to all others.

In --to {source}, {time}, {offset} and {timeline} are replaced. Nothing is ever overwritten. What
was written is read back and checked, and taken away again if it isn't what was sent, or is no
sound RDB. A bucket takes the parameters of --archive (endpoint, region, path-style), and the
credentials that AWS's environment has.

Exit codes: 0 done; 1 failed; 2 wrong usage or configuration; 3 there is no snapshot at that point,
the nearest are named; 4 the archive is damaged where it is needed. Except for 0 nothing is left
there that could be taken for an export, or it is named.`,
		Example: "  offloader export --to /tmp/dump.rdb\n" +
			"  offloader export --to 's3://exports/cache/{source}-{time}.rdb?region=eu-west-1' --json\n" +
			"  offloader export --archive /srv/archive --offset 1537789 --to /tmp/dump.rdb",
		Args: noArgs,
	}
	flags := cmd.Flags()
	flags.StringVar(&f.to, "to", "", "the file or object to write: a `PATH` or an s3:// URL; it must not exist")
	flags.StringVar(&f.offset, "offset", "", "the snapshot at offset `N`")
	flags.StringVar(&f.at, "at", "", "the snapshot at the last moment not after `TIME`")
	flags.BoolVar(&f.latest, "latest", false, "the snapshot at the last boundary that is durable")
	a.timelineFlag(cmd, &f.timeline, &f.source, "the timeline's `NAME`, see offloader list; default: chosen by the point")
	a.sourceFlag(cmd, &f.source)
	a.identityFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return a.export(cmd.Context(), f, cmd.Flags().Changed, time.Now())
	}
	return cmd
}

func (a *app) export(ctx context.Context, f exportFlags, given func(string) bool, now time.Time) error {
	if f.to == "" {
		return usagef("say --to PATH, or --to s3://bucket/key", "there is no place to export to")
	}
	to, err := config.ExportTo(f.to)
	if err != nil {
		return usagef("", "--to: %v", err)
	}
	point := given("at") || given("offset") || given("latest")
	if f.timeline != "" && !point {
		return usagef("say --offset, --at or --latest too, or leave it out", "--timeline is for a point of the archive, and an export of now comes from the master")
	}
	c, err := a.readConfig()
	if err != nil {
		return err
	}
	began := time.Now()
	var report *export.Report
	if point {
		report, err = a.exportPoint(ctx, c, f, to, given, now)
	} else {
		report, err = a.exportNow(ctx, c, f.source, to)
	}
	switch {
	case err != nil && ctx.Err() != nil:
		return context.Cause(ctx) // told to stop: what broke while stopping is no news
	case err != nil:
		return err
	case a.json:
		return a.term.json(report)
	}
	return a.printExport(report, time.Since(began))
}

func (a *app) printExport(r *export.Report, took time.Duration) error {
	holds, found := size(r.Bytes), "found whole"
	if r.Keys != nil {
		holds += " with " + plural(*r.Keys, "key", "keys")
	}
	if r.Unchecked != "" {
		found = "the same, its structure not checked: " + r.Unchecked
	}
	if err := a.term.print("%s: the dataset of %s, offset %d, is in %s", r.Source, clock(r.Time.Go()), r.Offset, r.To); err != nil {
		return err
	}
	return a.term.print("  %s; read back after %s, and %s", holds, span(took), found)
}

// apart refuses a place within the archive or the spool.
func apart(c *config.Config, to export.Template, source string) error {
	if in := c.Holding(to, source); in != "" {
		return usagef("say another place", "--to lies in %s, where only offloader's own files belong", in)
	}
	return nil
}

// exportNow exports what the daemon gets from the master.
func (a *app) exportNow(ctx context.Context, c *config.Config, source string, to export.Template) (*export.Report, error) {
	spool := cmp.Or(c.Spool.Path, config.DefaultSpool)
	if source == "" {
		var err error
		if source, err = onlySource(ctx, spool); err != nil {
			return nil, noMaster(err)
		}
	}
	if err := apart(c, to, source); err != nil {
		return nil, err
	}
	show, end := a.term.progress("exporting " + source)
	defer end()
	return export.Run(ctx, export.Options{To: to}, func(put export.Put) error {
		p, rdb, err := httpapi.AskRDB(ctx, spool, source)
		var call *url.Error
		switch {
		case errors.As(err, &call):
			return noMaster(&noDaemonError{"on the spool " + spool, reason(call.Err)})
		case errors.Is(err, httpapi.ErrNoSource):
			return usagef("`offloader status` names them", "%v", err)
		case err != nil:
			return err
		}
		err = put(ctx, p, &shown{r: rdb, show: show})
		return errors.Join(err, rdb.Close())
	})
}

// noMaster says that an export of now takes a daemon, and what to do without one.
func noMaster(err error) error {
	var nobody *noDaemonError
	if !errors.As(err, &nobody) {
		return err
	}
	return &hintedError{err, "an export of now comes from the master, by the daemon; one of the archive needs neither: say --offset, --at or --latest"}
}

// exportPoint exports a snapshot of the archive.
func (a *app) exportPoint(ctx context.Context, c *config.Config, f exportFlags, to export.Template, given func(string) bool, now time.Time) (*export.Report, error) {
	point, err := pointFlags{at: f.at, offset: f.offset, latest: f.latest}.point(func(name string) bool { return name != "before" && given(name) }, now)
	if err != nil {
		return nil, err
	}
	o, err := a.openPlaces(ctx, c)
	if err != nil {
		return nil, err
	}
	source, err := o.pick(ctx, f.source)
	if err != nil {
		return nil, err
	}
	if err := apart(c, to, source); err != nil {
		return nil, err
	}
	if point.Kind == plan.ByTime {
		a.term.say("offloader: %q was taken for %s", f.at, clock(point.Time.Go()))
	}
	show, end := a.term.progress("exporting " + source)
	defer end()
	request := plan.Request{Point: point, Timeline: f.timeline, Now: stream.TimeOf(now)}
	var notes []string
	report, err := export.Run(ctx, export.Options{To: to}, func(put export.Put) error {
		return replay.Run(ctx, o.load(source), request, func(ctx context.Context, r *replay.Replay) error {
			notes = r.Notes
			switch {
			case r.StreamBytes() > 0 && len(r.Aside) > 0: // the log leads there, which is no help here
				notes = nil
				return &hintedError{r.Aside[0], "the snapshots that `offloader list` shows before and after it can be exported, and `offloader restore` goes to any point"}
			case r.StreamBytes() > 0:
				return &betweenError{source, r.To, r.From, r.Next}
			}
			rdb, err := r.RDB(ctx)
			if err != nil {
				return err
			}
			p := export.Point{Source: source, Timeline: r.From.Timeline, Offset: r.From.Offset, Time: r.From.Time}
			err = put(ctx, p, &shown{r: rdb, total: r.Info.Bytes, show: show})
			return errors.Join(err, rdb.Close())
		})
	})
	for _, n := range notes {
		a.term.say("offloader: %s", n)
	}
	return report, err
}

// A betweenError is a point at which there is no snapshot (exit 3).
type betweenError struct {
	source     string
	at, before plan.Place
	after      *plan.Place // nil where there is none
}

func (e *betweenError) Error() string {
	return fmt.Sprintf("%s can't be exported at %s: there is no snapshot, and exports of other points are not in this version", e.source, e.at)
}

// Hint names the nearest snapshots.
func (e *betweenError) Hint() string {
	near := fmt.Sprintf("the nearest snapshot is the one before, at %s", e.before)
	if e.after != nil {
		near = fmt.Sprintf("the nearest snapshots are at %s and %s", e.before, e.after)
	}
	return near + "; `offloader snapshot` takes one now, and `offloader restore` goes to any point"
}

// shown tells of what is read.
type shown struct {
	r           io.Reader
	done, total int64
	show        func(done, total int64) // nil: nobody looks
}

func (s *shown) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if s.done += int64(n); s.show != nil {
		s.show(s.done, s.total)
	}
	return n, err
}
