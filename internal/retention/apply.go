package retention

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/stream"
)

// Store is what retention takes of one. What it refuses to delete is archive.ErrKept, or for want of a
// right fs.ErrPermission; where that is a lock that ends, the error has a method Locked.
type Store interface {
	archive.Files
	archive.Depot
	// Delete takes a file away. One that doesn't exist is no error.
	Delete(ctx context.Context, name string) error
}

// Locks is what Rehearse takes of a store: it reads, and asks what Delete would refuse, in the same words.
type Locks interface {
	archive.Files
	// Kept tells what would keep Delete from taking a file away, as far as that can be asked.
	Kept(ctx context.Context, name string) error
}

// Result is what Run did, or would do.
type Result struct {
	*Decision
	Deleted int   // files
	Freed   int64 // bytes
	Kept    []Kept
	Refused error // why the store lets us delete nothing: retention is somebody else's job there

	gone map[string]bool // names of files that were come to, and whether they were deleted
}

// Gone tells whether a file was deleted.
func (r *Result) Gone(f File) bool { return r.gone[f.Name] }

// Tried tells of a file that goes whether it was come to, before something ended it all.
func (r *Result) Tried(f File) bool {
	_, tried := r.gone[f.Name]
	return tried
}

// Kept is a file that would have gone, and that the store keeps.
type Kept struct {
	Name  string
	Until time.Time // a lock's end, zero where there is another reason
	Why   error
}

// enough is how many refusals for want of a right tell that we have none to delete anything.
const enough = 10

// look lists and decides, and changes nothing.
func look(ctx context.Context, files archive.Files, source string, p Policy, now stream.Time) (*Decision, error) {
	entries, err := files.List(ctx, source)
	if err != nil {
		return nil, err
	}
	cat, err := archive.Load(ctx, files, source)
	if err != nil {
		return nil, err
	}
	if len(cat.Problems) > 0 {
		return nil, &BlockedError{source, cat.Problems}
	}
	return Choose(cat, entries, p, now), nil
}

// A BlockedError says that nothing is deleted of a source because something of its archive can't be
// read: it might be what says that the rest has to stay.
type BlockedError struct {
	Source   string
	Problems []error
}

func (e *BlockedError) Error() string {
	s := fmt.Sprintf("retention deletes nothing of %s, since something of its archive can't be read: %v", e.Source, e.Problems[0])
	if more := len(e.Problems) - 1; more > 0 {
		s += fmt.Sprintf(" (and %d more)", more)
	}
	return s
}

// Unwrap gives what can't be read.
func (e *BlockedError) Unwrap() []error { return e.Problems }

// Hint says what to do about it.
func (e *BlockedError) Hint() string {
	return "bring the file back from another copy, or move it out of the archive if it doesn't matter"
}

// Run applies the policy to a source in one store. What goes is decided twice, by two listings,
// and only that goes of which both say so: a pin may have come meanwhile. It ends at the first
// error, and can be run again at any time, also beside another.
func Run(ctx context.Context, s Store, source string, p Policy, now stream.Time) (*Result, error) {
	first, err := look(ctx, s, source, p, now)
	if err != nil || len(first.Going) == 0 {
		return &Result{Decision: first}, err
	}
	d, err := look(ctx, s, source, p, now)
	if err != nil {
		return &Result{Decision: first}, err
	}
	r := &Result{Decision: d}
	twice := map[string]bool{}
	for _, f := range first.Going {
		twice[f.Name] = true
	}
	for _, n := range d.Notes {
		if err := archive.WriteEvent(ctx, s, source, n.Timeline, n.Event); err != nil {
			return r, fmt.Errorf("note what retention lets go: %w", err)
		}
	}
	err = r.deleteAll(ctx, s.Delete, twice)
	return r, err
}

// Rehearse is Run that deletes nothing, and asks the store in its stead what it would refuse: what goes
// by its Result would go now. Whether the store lets us delete at all isn't known by that.
func Rehearse(ctx context.Context, s Locks, source string, p Policy, now stream.Time) (*Result, error) {
	d, err := look(ctx, s, source, p, now)
	if err != nil {
		return nil, err
	}
	r, all := &Result{Decision: d}, map[string]bool{}
	for _, f := range d.Going {
		all[f.Name] = true
	}
	err = r.deleteAll(ctx, s.Kept, all)
	return r, err
}

// deleteAll deletes what goes, if it is among those that may.
func (r *Result) deleteAll(ctx context.Context, del func(context.Context, string) error, may map[string]bool) error {
	r.gone = map[string]bool{}
	stuck := map[string]bool{} // timelines, and snapshots, of which something stays after all
	for _, f := range r.Going {
		base, _, _ := strings.Cut(strings.TrimSuffix(f.Name, ".json"), ".rdb") // of a snapshot's two files
		small := f.Kind == Event || f.Kind == Timeline
		if !may[f.Name] || small && stuck[f.Timeline] || f.Kind == Snapshot && stuck[base] {
			stuck[f.Timeline], r.gone[f.Name] = true, false
			continue
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		kept := len(r.Kept)
		if err := r.delete(ctx, del, f); err != nil || r.Refused != nil {
			return err
		}
		if len(r.Kept) > kept {
			stuck[f.Timeline], stuck[base] = true, true
		}
	}
	r.Refused = r.refusal(1)
	return nil
}

func (r *Result) delete(ctx context.Context, del func(context.Context, string) error, f File) error {
	if err := del(ctx, f.Name); err != nil {
		return r.keep(f.Name, err)
	}
	r.Deleted++
	r.Freed += f.Size
	r.gone[f.Name] = true
	return nil
}

// keep notes a file that stays because the store wants it so; any other error comes back.
func (r *Result) keep(name string, err error) error {
	kept := Kept{Name: name, Why: err}
	var lock interface {
		Locked() (until time.Time, ok bool)
	}
	ends := false
	if errors.As(err, &lock) {
		kept.Until, ends = lock.Locked()
	}
	if !ends && !errors.Is(err, archive.ErrKept) && !errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("delete what retention lets go: %w", err)
	}
	r.Kept, r.gone[name] = append(r.Kept, kept), false
	r.Refused = r.refusal(enough)
	return nil
}

// refusal is why we may delete nothing, if so many files that were tried say so, and none says anything else.
func (r *Result) refusal(files int) error {
	other := func(k Kept) bool { return !errors.Is(k.Why, fs.ErrPermission) }
	if r.Deleted > 0 || len(r.Kept) < files || slices.ContainsFunc(r.Kept, other) {
		return nil
	}
	return r.Kept[len(r.Kept)-1].Why
}
