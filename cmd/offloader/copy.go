package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/config"
	"github.com/offloader/offloader/internal/mirror"
	"github.com/offloader/offloader/internal/store"
)

func (a *app) copyCommand() *cobra.Command {
	var to, name string
	cmd := &cobra.Command{
		Use:   "copy --to URL",
		Short: "Bring another archive up to this one",
		Long: `Copy to another archive what it lacks of this one: timelines, snapshots, the log and events, as
they are stored, each held against its checksum on the way. What it has stays as it is, and a
copy that was cut off goes on where it was. Nothing is locked: a daemon may write to either
archive meanwhile. What only the daemon's spool has is not copied.

What is damaged here is not copied. Where another store of the configuration, or another file, holds
the same, that is; it is told, and is no failure. A file that is there already, with another size, is
damaged in one of the two: which, is told.

Exit codes: 0 the other archive has all of this one; 1 failed; 2 wrong usage or configuration;
4 something here or there is damaged, and was not copied; the rest was.`,
		Example: "  offloader copy --archive /srv/archive --to /mnt/second/archive",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if to == "" {
				return usagef("say --to URL", "copy needs the archive to copy to")
			}
			return a.copy(cmd.Context(), name, to)
		},
	}
	cmd.Flags().StringVar(&to, "to", "", "the other archive's `URL` or folder; it is made where it is missing")
	a.sourceFlag(cmd, &name)
	a.identityFlag(cmd)
	cmd.Flags().Lookup("identity").Usage = "not needed: files are copied as they are stored"
	return cmd
}

// copied is what copy prints.
type copied struct {
	To      string   `json:"to"`
	Sources []string `json:"sources"`
	mirror.Result
}

func (a *app) copy(ctx context.Context, name, to string) error {
	from, err := a.openArchive(ctx)
	if err != nil {
		return err
	}
	if err := from.apartFrom(to); err != nil {
		return err
	}
	held, err := from.sources(ctx)
	switch {
	case err != nil:
		return err
	case len(held) == 0:
		return &hintedError{fmt.Errorf("%s holds nothing that could be copied", from), "is the name right, and the disk mounted?"}
	case name != "":
		if name, err = from.pick(ctx, name); err != nil {
			return err
		}
	}
	dest, err := store.OpenURL(ctx, to, store.Options{Write: true, Now: time.Now()})
	if err != nil {
		return err
	}
	done := copied{To: dest.String(), Sources: []string{}}
	var total int64
	show, end := a.term.progress("copying")
	defer end()
	errs := []error{from.missed}
	failed := map[string][]error{} // by source
	for _, st := range from.stores {
		if dest.String() == st.String() {
			return usagef("name another one", "--to is this archive itself")
		}
		sources, err := archive.Sources(ctx, st)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		c := &mirror.Copier{From: st, To: dest, Copied: func(_ string, n int64) {
			if total += n; show != nil {
				show(total, 0)
			}
		}}
		for _, source := range sources {
			if name != "" && source != name {
				continue
			}
			err := c.Source(ctx, source)
			if err == nil || errors.As(err, new(*mirror.DamagedError)) { // else a store is away, say
				err = errors.Join(err, c.Compare(ctx, source))
			}
			failed[source] = append(failed[source], err)
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if !slices.Contains(done.Sources, source) {
				done.Sources = append(done.Sources, source)
			}
		}
		done.Files, done.Bytes = done.Files+c.Done().Files, done.Bytes+c.Done().Bytes
	}
	for _, source := range done.Sources {
		errs = append(errs, a.notMadeUpFor(ctx, dest, source, errors.Join(failed[source]...)))
	}
	if name != "" && len(done.Sources) == 0 && errors.Join(errs...) == nil {
		return usagef("", "%s holds no source %q", from, name)
	}
	end()
	if a.json {
		err = a.term.json(done)
	} else {
		whole := fmt.Sprintf("it has all of %s", from)
		if errors.Join(errs...) != nil {
			whole = "not all could be"
		}
		err = a.term.print("%s: %s in %s files were copied; %s", done.To, size(done.Bytes), count(done.Files), whole)
	}
	return errors.Join(append(errs, err)...)
}

// notMadeUpFor is what is left of the errors of a source without the damage that another store, or another
// file, has made up for: that is said, and has cost the copy nothing.
func (a *app) notMadeUpFor(ctx context.Context, dest store.Store, source string, err error) error {
	if !errors.As(err, new(*mirror.DamagedError)) {
		return err
	}
	has, loading := archive.Load(ctx, dest, source)
	if loading != nil {
		return errors.Join(err, loading)
	}
	var left []error
	for _, one := range flatten(err) {
		var damaged *mirror.DamagedError
		if errors.As(one, &damaged) && !damaged.There && mirror.Has(has, damaged.Damage.Name) {
			a.term.say("offloader: warning: %v; the other archive has what it held, from elsewhere", damaged)
		} else {
			left = append(left, one)
		}
	}
	return errors.Join(left...)
}

// apartFrom refuses a folder that is one of the archive's, or lies in it.
func (o *opened) apartFrom(to string) error {
	where, err := place(to)
	if err != nil || where.Type != config.TypeDisk {
		return err
	}
	dest, err := filepath.Abs(where.Path)
	if err != nil {
		return err
	}
	for _, folder := range o.folders {
		folder, err := filepath.Abs(folder)
		if err != nil {
			return err
		}
		switch in, err := filepath.Rel(folder, dest); {
		case err != nil || in == ".." || strings.HasPrefix(in, "../"):
		case in == ".":
			return usagef("name another one", "--to is this archive itself")
		default:
			return usagef("name another one", "--to lies in this archive, where only offloader's own files belong")
		}
	}
	return nil
}
