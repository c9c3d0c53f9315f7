package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/crypt"
	"github.com/offloader/offloader/internal/verify"
)

func (a *app) verifyCommand() *cobra.Command {
	var f pointFlags
	boot := false
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Read everything in the archive again, and check it",
		Long: `Read everything in the archive again, and check it: names, checksums, the structure of snapshots
and segments, that the log has no hole that no event explains, that segments which overlap agree
in every byte, that branches have their parents. Each finding names the file, what is wrong with it,
and which moments can't be restored now. A file that a store doesn't give, though it gives others,
is damaged too. A daemon may be at work on the archive meanwhile; what only its spool has is not
looked at.

With --boot nothing is read for its own sake. A scratch engine of the master's product, from PATH or
the configuration, replicates one source from the archive, spool included, up to an offset at which
the master has said how many keys it had, and is counted: a running daemon asks the master now, and
else it is the last count that it has noted. With a point it is the last count before the point, and
the engine then goes on to the point. The engine is private, and gone afterwards; it takes the
memory of the whole dataset, and is refused where that isn't free. Success is noted in the archive:
it is what check asks for before it calls a source ready to switch the master's persistence off.

Exit codes: 0 all is as it was written, or was in the master; 1 failed, or something could not be
read, or there is no engine; 2 wrong usage or configuration; 3 the point can't be restored; 4 the
archive is damaged, or the engine held another number of keys.`,
		Example: "  offloader verify\n  offloader verify --archive /srv/archive\n  offloader verify --source cache --json\n" +
			"  offloader verify --boot --source cache\n  offloader verify --boot --archive /srv/archive --at 'yesterday 14:00'",
		Args: noArgs,
	}
	f.add(a, cmd)
	flags := cmd.Flags()
	flags.BoolVar(&boot, "boot", false, "boot a scratch engine from the archive, and count its keys")
	for _, name := range pointNames {
		flags.Lookup(name).Usage = "with --boot: " + flags.Lookup(name).Usage
	}
	flags.Lookup("timeline").Usage = "this timeline only, by `NAME`; needs --source where there are several"
	flags.Lookup("source").Usage = "this source only, by `NAME`"
	a.identityFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		given := cmd.Flags().Changed
		if boot {
			return a.boot(cmd.Context(), f, given, time.Now())
		}
		if i := slices.IndexFunc(pointNames, given); i >= 0 {
			return usagef("say --boot too, or leave it out", "--%s is for --boot: without it everything is verified", pointNames[i])
		}
		return a.verify(cmd.Context(), f.source, f.timeline)
	}
	return cmd
}

func (a *app) verify(ctx context.Context, source, timeline string) error {
	o, err := a.openArchive(ctx)
	if err != nil {
		return err
	}
	if _, err := o.sources(ctx); errors.As(err, new(*usageError)) { // it is no archive; other errors are their store's
		return err
	}
	if source != "" || timeline != "" {
		if source, err = o.pick(ctx, source); err != nil {
			return err
		}
	}
	all := verified{Stores: []storeVerified{}}
	var errs []error
	for _, st := range o.stores {
		show, end := a.term.progress("verifying")
		options := everything(st, o.identity)
		options.Source, options.Timeline, options.Progress = source, timeline, show
		r, err := verify.Run(ctx, options)
		end()
		var found *verify.FoundError
		var unread *verify.UnreadError
		if err != nil && (len(o.stores) > 1 || o.missed != nil) {
			err = inStore(st.String(), err)
		}
		errs = append(errs, err)
		if ctx.Err() != nil {
			break
		}
		if err != nil && !errors.As(err, &found) && !errors.As(err, &unread) {
			continue // the other stores are verified all the same
		}
		all.Stores = append(all.Stores, storeVerified{st.String(), r})
		if a.json {
			continue
		}
		if len(o.stores) > 1 {
			errs = append(errs, a.term.print("%s", st))
		}
		errs = append(errs, a.printVerified(r))
	}
	if o.missed != nil { // not verified, so not well
		errs = append(errs, o.missed)
	}
	if a.json {
		errs = append(errs, a.term.json(all))
	}
	return errors.Join(errs...)
}

// inStore says of each error in which store that is, where it doesn't itself.
func inStore(store string, err error) error {
	var all []error
	for _, one := range flatten(err) {
		if !strings.Contains(one.Error(), store) {
			one = fmt.Errorf("%s: %w", store, one)
		}
		all = append(all, one)
	}
	return errors.Join(all...)
}

// everything is all of a store, with what opens it.
func everything(st archive.Files, identity crypt.Identity) verify.Options {
	return verify.Options{Files: st, Opens: !identity.Empty(), Load: func(ctx context.Context, files archive.Files, source string) (*archive.Catalog, error) {
		return archive.Load(ctx, files, source, identity)
	}}
}

// verified is what verify prints as JSON.
type (
	verified struct {
		Stores []storeVerified `json:"stores"`
	}
	storeVerified struct {
		Store string `json:"store"`
		*verify.Result
	}
)

// printVerified tells what was read, and each finding.
func (a *app) printVerified(r *verify.Result) error {
	for _, s := range r.Sources {
		if err := a.term.print("%s", paint(a.term.colour, "1", s.Name)); err != nil {
			return err
		}
		var rows [][]cell
		for _, part := range []struct {
			name string
			verify.Tally
		}{{"timelines", s.Timelines}, {"events", s.Events}, {"snapshots", s.Snapshots}, {"log", s.Log}, {"only as stored", s.Sealed}} {
			if part.Files > 0 {
				rows = append(rows, []cell{{part.name, "2"}, {count(part.Files), ""}, {size(part.Bytes), ""}})
			}
		}
		if err := a.term.table("  ", "lrr", rows); err != nil {
			return err
		}
		if s.Sealed.Files > 0 {
			a.term.say("offloader: %s: what is encrypted was held against the checksums of what is stored, no more: there is no identity to open it (--identity FILE)", s.Name)
		}
	}
	for _, f := range r.Findings {
		for _, line := range []string{paint(a.term.colour, "31", f.File), "  " + f.What, "  costs " + f.Cost} {
			if err := a.term.print("%s", line); err != nil {
				return err
			}
		}
	}
	for _, note := range r.Notes {
		a.term.say("offloader: note: %s", note)
	}
	return a.term.print("%s", verdict(r))
}

func verdict(r *verify.Result) string {
	rate := float64(r.Bytes) / max(r.Seconds, 1e-3)
	text := fmt.Sprintf("%s files, %s read in %s, %s/s: ", count(r.Files), size(r.Bytes), span(r.Took()), size(int64(rate)))
	switch {
	case len(r.Findings) == 1:
		text += "1 finding"
	case len(r.Findings) > 1:
		text += count(int64(len(r.Findings))) + " findings"
	case len(r.Unread) == 0:
		return text + "all is as it was written"
	}
	if n := len(r.Unread); n > 0 {
		if len(r.Findings) > 0 {
			text += ", "
		}
		text += fmt.Sprintf("%d could not be read", n)
	}
	return text
}
