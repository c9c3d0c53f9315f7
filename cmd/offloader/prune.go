package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/offloader/offloader/internal/config"
	"github.com/offloader/offloader/internal/retention"
	"github.com/offloader/offloader/internal/store"
	"github.com/offloader/offloader/internal/stream"
)

func (a *app) pruneCommand() *cobra.Command {
	var source string
	var dryRun bool
	cmd := &cobra.Command{
		Use:   "prune",
		Short: "Delete what the configured retention doesn't keep",
		Long: `Apply the retention that the configuration has for each store: delete what neither its window
and rules, nor a pin, nor something that waits for a release needs. After it, that can't be restored
any more; --dry-run says what would go, what would stay, and why, and deletes nothing.

A daemon may be at work on the archive meanwhile. Killed at any moment, a prune leaves all that is
to be kept, and the next one goes on. What the store keeps under a lock stays, and is told.
--dry-run asks for locks in the same way, file by file where the store has any; whether it lets us
delete at all is told by offloader check.

Exit codes: 0 done, also where locked files stay; 1 failed, or the store lets us delete nothing;
2 wrong usage or configuration, or it has no retention; 4 something in the archive is damaged, so
nothing of that source is deleted.`,
		Example: "  offloader prune --dry-run\n  offloader prune --source cache\n  offloader prune --dry-run --json",
		Args:    noArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.prune(cmd.Context(), source, dryRun, time.Now()) },
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "say what would go, and why; delete nothing")
	a.sourceFlag(cmd, &source)
	return cmd
}

// What prune prints as JSON.
type (
	pruned struct {
		DryRun  bool           `json:"dry_run"`
		Sources []prunedSource `json:"sources"`
	}
	prunedSource struct {
		Name   string        `json:"name"`
		Stores []prunedStore `json:"stores"`
	}
	prunedStore struct {
		Name    string       `json:"name"`
		From    stream.Time  `json:"window_from"` // null: all that there is lies in the window
		Files   []prunedFile `json:"files"`
		Going   prunedTotal  `json:"going"`
		Staying prunedTotal  `json:"staying"`
		Deleted prunedTotal  `json:"deleted"` // nothing with --dry-run
		Kept    []prunedKept `json:"kept"`    // what the store refuses to delete
	}
	prunedFile struct {
		Name     string         `json:"name"`
		Timeline string         `json:"timeline"`
		Kind     retention.Kind `json:"kind"`
		From     stream.Offset  `json:"from"` // of a segment; of the others both are the offset in their name
		To       stream.Offset  `json:"to"`
		Bytes    int64          `json:"bytes"`
		Goes     bool           `json:"goes"`
		Why      string         `json:"why"`
	}
	prunedTotal struct {
		Files int   `json:"files"`
		Bytes int64 `json:"bytes"`
	}
	prunedKept struct {
		Name  string      `json:"name"`
		Until stream.Time `json:"until"` // null where it isn't a lock that ends
		Why   string      `json:"why"`
	}
)

func (t *prunedTotal) add(bytes int64) { t.Files++; t.Bytes += bytes }

func (a *app) prune(ctx context.Context, source string, dryRun bool, now time.Time) error {
	if a.archiveURL != "" {
		return usagef("say --config FILE", "prune takes the retention from a configuration, and --archive has none")
	}
	c, err := a.loadConfig(config.LoadToRead, "")
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(c.Stores, func(s config.Store) bool { return c.RetentionIn(s) != nil }) {
		return usagef("add one, like retention: {window: 7d}", "the configuration has no \"retention\": nothing is ever deleted")
	}
	var names []string
	for _, s := range c.Sources {
		if source == "" || source == s.Name {
			names = append(names, s.Name)
		}
	}
	if len(names) == 0 {
		return usagef("see the configuration's \"sources\"", "there is no source %q", source)
	}
	all := pruned{DryRun: dryRun, Sources: []prunedSource{}}
	var errs []error
	for _, name := range names {
		one := prunedSource{Name: name, Stores: []prunedStore{}}
		for _, s := range c.Stores {
			if c.RetentionIn(s) == nil {
				continue
			}
			report, err := pruneStore(ctx, s, name, policy(c.RetentionIn(s)), dryRun, now)
			if report != nil {
				one.Stores = append(one.Stores, *report)
			}
			errs = append(errs, err)
		}
		all.Sources = append(all.Sources, one)
	}
	if a.json {
		err = a.term.json(all)
	} else {
		err = a.printPruned(all)
	}
	return errors.Join(append(errs, err)...)
}

// policy is a configuration's retention.
func policy(r *config.Retention) retention.Policy {
	return retention.Policy{
		Window: time.Duration(r.Window), Hourly: r.Keep.Hourly, Daily: r.Keep.Daily, Weekly: r.Keep.Weekly, Monthly: r.Keep.Monthly, Minimum: r.Minimum,
	}
}

// pruneStore prunes a source in one store. There is a report as soon as something was decided.
func pruneStore(ctx context.Context, where config.Store, source string, p retention.Policy, dryRun bool, now time.Time) (*prunedStore, error) {
	s, err := openStore(ctx, where, store.Options{})
	if err != nil {
		return nil, err
	}
	var r *retention.Result
	if dryRun {
		r, err = retention.Rehearse(ctx, s, source, p, stream.TimeOf(now))
	} else {
		r, err = retention.Run(ctx, s, source, p, stream.TimeOf(now))
	}
	if r == nil || r.Decision == nil {
		return nil, err
	}
	report := &prunedStore{Name: s.String(), From: r.From, Files: []prunedFile{}, Kept: []prunedKept{}}
	if !dryRun {
		report.Deleted = prunedTotal{r.Deleted, r.Freed}
	}
	for _, f := range r.Files {
		if f.Goes && !r.Gone(f) {
			f.Goes, f.Why = false, stays(r, f)
		}
		report.Files = append(report.Files, prunedFile{f.Name, f.Timeline, f.Kind, f.At.From, f.At.To, f.Size, f.Goes, f.Why})
		if f.Goes {
			report.Going.add(f.Size)
		} else {
			report.Staying.add(f.Size)
		}
	}
	for _, k := range r.Kept {
		kept := prunedKept{Name: k.Name, Why: k.Why.Error()}
		if !k.Until.IsZero() {
			kept.Until = stream.TimeOf(k.Until)
		}
		report.Kept = append(report.Kept, kept)
	}
	if r.Refused != nil {
		err = errors.Join(err, &refusedError{s.String(), r.Refused})
	}
	return report, err
}

// stays says why a file is still there that retention lets go.
func stays(r *retention.Result, f retention.File) string {
	switch {
	case r.Tried(f):
		return "the store keeps it, or a file that it belongs to"
	case r.Refused != nil:
		return "the store lets us delete nothing"
	}
	return "the prune ended before it came to it"
}

// A refusedError is a store in which we may delete nothing.
type refusedError struct {
	store string
	err   error
}

func (e *refusedError) Error() string {
	return fmt.Sprintf("%s lets us delete nothing, so retention is not this archiver's job there: %v", e.store, e.err)
}

func (e *refusedError) Unwrap() error { return e.err }

// Hint says what to do about it.
func (e *refusedError) Hint() string {
	return "leave it to who may delete there, and take \"retention\" of that store out of the configuration; or give the right to delete"
}

func (a *app) printPruned(all pruned) error {
	goes, total := "went", "deleted"
	if all.DryRun {
		goes, total = "goes", "would go"
	}
	for _, s := range all.Sources {
		for _, st := range s.Stores {
			began := "all of it lies in the window"
			if st.From != 0 {
				began = "the window begins at " + clock(st.From.Go())
			}
			if err := a.term.print("%s  in %s; %s", paint(a.term.colour, "1", s.Name), st.Name, began); err != nil {
				return err
			}
			if err := a.printFates(st, goes); err != nil {
				return err
			}
			gone := st.Deleted
			if all.DryRun {
				gone = st.Going
			}
			left := prunedTotal{st.Going.Files + st.Staying.Files - gone.Files, st.Going.Bytes + st.Staying.Bytes - gone.Bytes}
			if err := a.term.print("  %s: %s, %s; left: %s, %s", total, plural(int64(gone.Files), "file", "files"), size(gone.Bytes), plural(int64(left.Files), "file", "files"), size(left.Bytes)); err != nil {
				return err
			}
			for _, k := range st.Kept {
				a.term.say("offloader: the store keeps %s: %s", k.Name, k.Why)
			}
		}
	}
	return nil
}

// printFates tells what goes and what stays, timeline by timeline. Files of a kind that go or stay
// for one reason stand together.
func (a *app) printFates(st prunedStore, goes string) error {
	for i := 0; i < len(st.Files); {
		timeline := st.Files[i].Timeline
		var rows [][]cell
		for i < len(st.Files) && st.Files[i].Timeline == timeline {
			first := st.Files[i]
			var same []prunedFile
			for ; i < len(st.Files) && sameFate(first, st.Files[i]); i++ {
				same = append(same, st.Files[i])
			}
			fate, colour := "stays", ""
			if first.Goes {
				fate, colour = goes, "33"
			}
			what, bytes := pruneWhat(same)
			rows = append(rows, []cell{{fate, colour}, {what, ""}, {size(bytes), ""}, {first.Why, ""}})
		}
		if err := a.term.print("  %s", timeline); err != nil {
			return err
		}
		if err := a.term.table("    ", "", rows); err != nil {
			return err
		}
	}
	return nil
}

func sameFate(a, b prunedFile) bool {
	return a.Timeline == b.Timeline && a.Goes == b.Goes && a.Why == b.Why && (a.Kind == b.Kind || isSnapshot(a) && isSnapshot(b))
}

func isSnapshot(f prunedFile) bool {
	return f.Kind == retention.Snapshot || f.Kind == retention.Sidecar
}

// pruneWhat names files of one fate.
func pruneWhat(files []prunedFile) (what string, bytes int64) {
	from, to := files[0].From, files[0].To
	snapshots := map[stream.Offset]bool{}
	for _, f := range files {
		bytes += f.Bytes
		to = max(to, f.To)
		snapshots[f.From] = true
	}
	switch first := files[0]; {
	case first.Kind == retention.Segment:
		return fmt.Sprintf("log, offset %d to %d, %s", from, to, plural(int64(len(files)), "segment", "segments")), bytes
	case isSnapshot(first) && from == to:
		return fmt.Sprintf("snapshot, offset %d", from), bytes
	case isSnapshot(first):
		return fmt.Sprintf("%d snapshots, offset %d to %d", len(snapshots), from, to), bytes
	case first.Kind == retention.Event:
		return plural(int64(len(files)), "event", "events"), bytes
	default:
		return first.Name[strings.LastIndexByte(first.Name, '/')+1:], bytes
	}
}
