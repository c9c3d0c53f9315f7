package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/config"
	"github.com/offloader/offloader/internal/spool"
	"github.com/offloader/offloader/internal/store"
)

// opened is an archive to read: a store, and the spool that holds what the store hasn't got yet.
type opened struct {
	store      store.Store
	folder     string   // of the store, "" for a bucket
	spool      string   // "" for none
	configured []string // sources that a configuration names
}

// openArchive opens what --archive or the configuration names. Nothing is locked or changed, so a
// daemon may be at work there, or have died.
func (a *app) openArchive(ctx context.Context) (*opened, error) {
	o := &opened{}
	var where config.Store
	switch {
	case a.archiveURL != "" && a.configFile != "":
		return nil, usagef("keep one", "--archive and --config don't go together")
	case a.archiveURL != "":
		var err error
		if where, err = place(a.archiveURL); err != nil {
			return nil, err
		}
		if where.Type == config.TypeDisk {
			o.spool = filepath.Join(where.Path, ".spool")
		}
	default:
		c, err := a.loadConfig(config.LoadToRead)
		if err != nil {
			return nil, err
		}
		where, o.spool = c.Stores[0], c.Spool.Path
		for _, s := range c.Sources {
			o.configured = append(o.configured, s.Name)
		}
	}
	if _, err := os.Stat(o.spool); errors.Is(err, fs.ErrNotExist) {
		o.spool = ""
	}
	var err error
	o.folder = where.Path
	o.store, err = openStore(ctx, where, store.Options{})
	return o, err
}

// keep are the folders that nobody may restore into.
func (o *opened) keep() []string {
	return slices.DeleteFunc([]string{o.folder, o.spool}, func(s string) bool { return s == "" })
}

// sources are the names of all that the archive knows, sorted.
func (o *opened) sources(ctx context.Context) ([]string, error) {
	var names []string
	if o.spool != "" {
		spooled, err := spool.Sources(o.spool)
		if err != nil {
			return nil, spoolError(fmt.Errorf("look into the spool: %w", err))
		}
		names = spooled
	}
	stored, err := archive.Sources(ctx, o.store)
	if err != nil {
		return nil, err
	}
	names = append(names, stored...)
	slices.Sort(names)
	names = slices.Compact(names)
	if len(names) > 0 && !slices.ContainsFunc(names, isNoTimeline) {
		return nil, usagef("the archive is the folder above it: --archive "+filepath.Dir(o.folder), "%s is the folder of one source, not of an archive", o.store)
	}
	return names, nil
}

func isNoTimeline(name string) bool {
	_, _, err := archive.ParseTimelineName(name)
	return err != nil
}

// spoolError gives an error of reading the spool a way out.
func spoolError(err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return &hintedError{err, "the spool is its daemon's, and holds what no store has yet: run this as the user that the daemon runs as, or as root"}
	}
	return err
}

// load gives a source's catalog. The spool is looked into first: what leaves it meanwhile is in
// the store by then.
func (o *opened) load(source string) func(context.Context) (*archive.Catalog, error) {
	return func(ctx context.Context) (*archive.Catalog, error) {
		var spooled []*archive.Timeline
		if o.spool != "" {
			var err error
			if spooled, err = spool.View(o.spool, source); err != nil {
				return nil, spoolError(err)
			}
		}
		c, err := archive.Load(ctx, o.store, source)
		if err != nil {
			return nil, err
		}
		for _, t := range spooled {
			c.Add(t)
		}
		return c, nil
	}
}

// An emptyError is an archive, or a source, of which nothing is archived (exit 3).
type emptyError struct{ what string }

func (e *emptyError) Error() string { return e.what }

// pick takes the source that is named, or the only one.
func (o *opened) pick(ctx context.Context, name string) (string, error) {
	held, err := o.sources(ctx)
	if err != nil {
		return "", err
	}
	known := o.configured
	if len(known) == 0 || name != "" {
		known = append(slices.Clone(known), held...)
		slices.Sort(known)
		known = slices.Compact(known)
	}
	switch {
	case name != "" && slices.Contains(known, name), name == "" && len(known) == 1:
		if name == "" {
			name = known[0]
		}
		return name, nil
	case len(known) == 0:
		return "", &emptyError{"archive " + o.store.String() + " holds no source"}
	case name != "":
		return "", usagef("there is "+strings.Join(known, ", "), "%s holds no source %q", o.store, name)
	}
	return "", usagef("say --source "+strings.Join(known, " or --source "), "there are %d sources", len(known))
}

// sourceFlag is --source, completed with what the archive holds.
func (a *app) sourceFlag(cmd *cobra.Command, to *string) {
	cmd.Flags().StringVar(to, "source", "", "the source's `NAME`; needed where there are several")
	a.complete(cmd, "source", func(ctx context.Context, o *opened) ([]string, error) { return o.sources(ctx) })
}

// timelineFlag is --timeline, completed with those of the source.
func (a *app) timelineFlag(cmd *cobra.Command, to, source *string, usage string) {
	cmd.Flags().StringVar(to, "timeline", "", usage)
	a.complete(cmd, "timeline", func(ctx context.Context, o *opened) ([]string, error) {
		name, err := o.pick(ctx, *source)
		if err != nil {
			return nil, err
		}
		c, err := o.load(name)(ctx)
		if err != nil {
			return nil, err
		}
		return timelineNames(c), nil
	})
}

// complete completes a flag with names from the archive. That can't fail in a way that a user
// should hear of.
func (a *app) complete(cmd *cobra.Command, flag string, names func(context.Context, *opened) ([]string, error)) {
	_ = cmd.RegisterFlagCompletionFunc(flag, func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		var found []string
		o, err := a.openArchive(cmd.Context())
		if err == nil {
			found, _ = names(cmd.Context(), o)
		}
		return found, cobra.ShellCompDirectiveNoFileComp
	})
}
