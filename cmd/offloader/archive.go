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
	"github.com/offloader/offloader/internal/crypt"
	"github.com/offloader/offloader/internal/spool"
	"github.com/offloader/offloader/internal/store"
)

// opened is an archive to read: its stores, read as one, and the spool that holds what they haven't
// got yet.
type opened struct {
	stores     []store.Reading // that could be opened: at least one
	folders    []string        // of those that are folders
	spool      string          // "" for none
	configured []string        // sources that a configuration names
	identity   crypt.Identity
	say        func(format string, args ...any)
	said       map[string]bool
	missed     error // the stores that could not be opened, nil if all could
}

// openArchive opens what --archive or the configuration names. Nothing is locked or changed, so a
// daemon may be at work there, or have died.
func (a *app) openArchive(ctx context.Context) (*opened, error) {
	c, err := a.readConfig()
	if err != nil {
		return nil, err
	}
	return a.openPlaces(ctx, c)
}

// readConfig is the configuration as far as readers need it, or what --archive says in its place: a
// store and, where that is a folder, the spool in it.
func (a *app) readConfig() (*config.Config, error) {
	if a.archiveURL == "" {
		return a.loadConfig(config.LoadToRead, ", or --archive DIR")
	}
	if a.configFile != "" {
		return nil, usagef("keep one", "--archive and --config don't go together")
	}
	where, err := place(a.archiveURL)
	if err != nil {
		return nil, err
	}
	c := &config.Config{Stores: []config.Store{where}}
	if where.Type == config.TypeDisk {
		c.Spool.Path = filepath.Join(where.Path, ".spool")
	}
	return c, nil
}

func (a *app) openPlaces(ctx context.Context, c *config.Config) (*opened, error) {
	o := &opened{spool: c.Spool.Path, identity: c.Encryption.Identity, say: a.term.say, said: map[string]bool{}}
	for _, s := range c.Sources {
		o.configured = append(o.configured, s.Name)
	}
	if a.identityFile != "" {
		var err error
		if o.identity, err = a.readIdentity(); err != nil {
			return nil, err
		}
	}
	if _, err := os.Stat(o.spool); errors.Is(err, fs.ErrNotExist) {
		o.spool = ""
	}
	var errs []error
	for _, where := range c.Stores {
		s, err := openStore(ctx, where, store.Options{})
		if err != nil {
			errs = append(errs, err)
			continue
		}
		o.stores = append(o.stores, store.ToRead(s))
		if where.Type == config.TypeDisk {
			o.folders = append(o.folders, where.Path)
		}
	}
	if err := o.miss(len(o.stores), errs); err != nil {
		return nil, err
	}
	o.missed = errors.Join(errs...)
	return o, nil
}

// miss tells of stores that don't answer. As long as one does, that is no failure: what it has can be
// read.
func (o *opened) miss(answered int, errs []error) error {
	if answered == 0 {
		return errors.Join(errs...)
	}
	for _, err := range errs {
		if !o.said[err.Error()] {
			o.said[err.Error()] = true
			o.say("offloader: warning: a store is left out, and what only it has: %v", err)
		}
	}
	return nil
}

// ask asks every store.
func ask[T any](o *opened, one func(store.Reading) (T, error)) ([]T, error) {
	var answers []T
	var errs []error
	for _, s := range o.stores {
		answer, err := one(s)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		answers = append(answers, answer)
	}
	return answers, o.miss(len(answers), errs)
}

// String names the stores.
func (o *opened) String() string {
	var names []string
	for _, s := range o.stores {
		names = append(names, s.String())
	}
	return strings.Join(names, ", ")
}

// keep are the folders that nobody may restore into.
func (o *opened) keep() []string {
	if o.spool == "" {
		return o.folders
	}
	return append(slices.Clone(o.folders), o.spool)
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
	stored, err := ask(o, func(s store.Reading) ([]string, error) { return archive.Sources(ctx, s) })
	if err != nil {
		return nil, err
	}
	names = append(names, slices.Concat(stored...)...)
	slices.Sort(names)
	names = slices.Compact(names)
	if len(names) > 0 && !slices.ContainsFunc(names, isNoTimeline) {
		way := "the archive is the folder above it"
		if len(o.folders) == 1 {
			way += ": --archive " + filepath.Dir(o.folders[0])
		}
		return nil, usagef(way, "%s is the folder of one source, not of an archive", o)
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
		all, err := ask(o, func(s store.Reading) (*archive.Catalog, error) { return archive.Load(ctx, s, source, o.identity) })
		if err != nil {
			return nil, err
		}
		c := all[0]
		for _, other := range all[1:] {
			c.Problems = append(c.Problems, other.Problems...)
			for _, t := range other.Timelines {
				c.Add(t)
			}
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
		return "", &emptyError{"archive " + o.String() + " holds no source"}
	case name != "":
		return "", usagef("there is "+strings.Join(known, ", "), "%s holds no source %q", o, name)
	}
	return "", usagef("say --source "+strings.Join(known, " or --source "), "there are %d sources", len(known))
}

// identityFlag is --identity.
func (a *app) identityFlag(cmd *cobra.Command) {
	cmd.Flags().StringVar(&a.identityFile, "identity", "", "`FILE` with a secret key that opens an encrypted archive, as\nage-keygen writes it (default encryption.identity_file of a configuration)")
}

func (a *app) readIdentity() (crypt.Identity, error) {
	identity, warning, err := config.ReadIdentity(a.identityFile)
	if err != nil {
		return identity, usagef("name a file that age-keygen has written", "--identity: %v", err)
	}
	if warning != "" {
		a.term.say("offloader: warning: %s", warning)
	}
	return identity, nil
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
