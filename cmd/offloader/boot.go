package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/config"
	"github.com/offloader/offloader/internal/httpapi"
	"github.com/offloader/offloader/internal/plan"
	"github.com/offloader/offloader/internal/stream"
	"github.com/offloader/offloader/internal/verify"
)

// boot is `verify --boot`.
func (a *app) boot(ctx context.Context, f pointFlags, given func(string) bool, now time.Time) error {
	c, err := a.readConfig()
	if err != nil {
		return err
	}
	var point *plan.Point
	if slices.ContainsFunc(pointNames, given) {
		p, err := f.point(given, now)
		if err != nil {
			return err
		}
		point = &p
	}
	o, err := a.openPlaces(ctx, c)
	if err != nil {
		return err
	}
	source, err := o.pick(ctx, f.source)
	if err != nil {
		return err
	}
	if point != nil && point.Kind == plan.ByTime {
		a.term.say("offloader: %q was taken for %s", f.at, clock(point.Time.Go()))
	}
	if point == nil && f.timeline == "" {
		a.countNow(ctx, o.spool, source)
	}
	show, end := a.term.progress("booting " + source)
	r, err := verify.Boot(ctx, verify.BootOptions{
		Source: source, Load: o.load(source), Event: o.event(source), Point: point, Timeline: f.timeline, Engines: engines(c), Progress: show,
	})
	end()
	var differ *verify.CountError
	if err != nil && !errors.As(err, &differ) {
		return err
	}
	if err == nil && r.By == verify.ByMaster {
		if err := o.noteBoot(ctx, source, r); err != nil {
			r.Notes = append(r.Notes, fmt.Sprintf("that this went well could not be noted in the archive, so `offloader check` doesn't know of it: %v", err))
		}
	}
	if a.json {
		return errors.Join(err, a.term.json(r))
	}
	return errors.Join(err, a.printBooted(r, err == nil))
}

// countNow has a running daemon count the master, so that what is proved is of now. Without a daemon the last count
// that it has made does.
func (a *app) countNow(ctx context.Context, spool, source string) {
	if spool == "" {
		return
	}
	if _, err := os.Stat(filepath.Join(spool, httpapi.SocketName)); err != nil {
		return
	}
	_, err := httpapi.AskCount(ctx, spool, source)
	var call *url.Error
	if err == nil || ctx.Err() != nil {
		return
	}
	if errors.As(err, &call) {
		err = &noDaemonError{"on the spool " + spool, reason(call.Err)}
	}
	a.term.say("offloader: the master was not counted just now, and an earlier count has to do: %v", err)
}

// engines are the servers' programs that a configuration names.
func engines(c *config.Config) map[string]string {
	return map[string]string{"redis": c.Engine.Redis, "valkey": c.Engine.Valkey}
}

// event reads an event of a source from whichever store has it.
func (o *opened) event(source string) func(context.Context, string, archive.EventName) (archive.Event, error) {
	return func(ctx context.Context, timeline string, name archive.EventName) (archive.Event, error) {
		return firstEvent(ctx, o.stores, source, timeline, name)
	}
}

// firstEvent is the event by that name of the first store that gives it.
func firstEvent[S archive.Files](ctx context.Context, stores []S, source, timeline string, name archive.EventName) (e archive.Event, err error) {
	var errs []error
	for _, st := range stores {
		if e, err = archive.ReadEvent(ctx, st, source, timeline, name); err == nil {
			return e, nil
		}
		errs = append(errs, err)
	}
	return archive.Event{}, errors.Join(errs...)
}

// noteBoot notes in every store that an engine held what the master did.
func (o *opened) noteBoot(ctx context.Context, source string, r *verify.Booted) error {
	cat, err := o.load(source)(ctx)
	if err != nil {
		return err
	}
	return o.tell(ctx, source, cat.Timeline(r.Timeline), r.Event(stream.TimeOf(time.Now())))
}

// printBooted tells what was booted, and what it held.
func (a *app) printBooted(r *verify.Booted, good bool) error {
	head := fmt.Sprintf("%s: at %s, offset %d, %s", r.Source, clock(r.Time.Go()), r.Offset, held(r))
	colour := "1"
	if !good {
		colour = "31"
	}
	if err := a.term.print("%s", paint(a.term.colour, colour, head)); err != nil {
		return err
	}
	var rows [][]cell
	row := func(name, format string, args ...any) {
		rows = append(rows, []cell{{name, "2"}, {fmt.Sprintf(format, args...), ""}})
	}
	row("engine", "%s, %s; it is gone", r.Engine, r.Program)
	row("replayed", "%s, from the snapshot at offset %d, in %s", size(r.Bytes), r.Snapshot, span(toDuration(r.Seconds)))
	row("timeline", "%s", r.Timeline)
	if r.To != nil {
		row("then", "it went on to %s, offset %d, without a complaint", clock(r.To.Time.Go()), r.To.Offset)
	}
	for _, n := range r.Notes {
		row("note", "%s", n)
	}
	return a.term.table("  ", "", rows)
}

// held is how many keys the engine had, in words.
func held(r *verify.Booted) string {
	var have, want int64
	for _, n := range r.Keys {
		have += n
	}
	for _, n := range r.Counted {
		want += n
	}
	who := "as the master had then"
	if r.By == verify.BySnapshot {
		who = "as its snapshot has"
	}
	if have == want {
		return fmt.Sprintf("a scratch engine held %s in %s, %s", plural(have, "key", "keys"), plural(int64(len(r.Keys)), "database", "databases"), who)
	}
	return fmt.Sprintf("a scratch engine held %s, and not %s, %s", plural(have, "key", "keys"), count(want), who)
}
