// Package mirror brings one store up to another.
//
// What one archive has and another lacks is copied file by file, as it is stored: nothing is
// decompressed, decrypted or written anew, so the names, which hold sums, stay true, and every file
// is held against its sum while it passes: one that is damaged is not spread. A timeline's files
// come in the order in which a reader may see them: timeline.json, events, then snapshots (the sidecar
// last) and the log by their offsets, so that a copy that was cut off has a beginning of what is here. What the other store has already, in whatever segments, is not copied again,
// so a copy that was cut off goes on where it was.
//
// The daemon heals a store with it that was away too long (internal/source), and `offloader copy`
// is it.
package mirror

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/stream"
)

// Origin is what is copied from.
type Origin interface {
	archive.Files
	String() string // what errors call it
}

// Store is what is copied to.
type Store interface {
	Origin
	Put(ctx context.Context, name string, r io.Reader) error
}

// Result is what a copy did.
type Result struct {
	Files int64 `json:"files"`
	Bytes int64 `json:"bytes"` // as stored
}

// A Copier copies from one store to another.
type Copier struct {
	From Origin
	To   Store
	// Copied is told of each file that was; may be nil.
	Copied func(name string, bytes int64)

	done Result
}

// Done is what was copied so far.
func (c *Copier) Done() Result { return c.done }

// Source copies all timelines of a source. One that the other store has under the same name from
// another spool is left alone, and is an error once the others are copied; so is what is damaged,
// here or there: a *DamagedError.
func (c *Copier) Source(ctx context.Context, source string) error {
	from, err := archive.Load(ctx, c.From, source)
	if err != nil {
		return err
	}
	to, err := archive.Load(ctx, c.To, source)
	if err != nil {
		return err
	}
	var errs []error
	for _, err := range from.Problems {
		errs = append(errs, c.here(err))
	}
	for _, t := range from.Timelines {
		if err := c.timeline(ctx, t, to.Timeline(t.Timeline)); err != nil {
			errs = append(errs, err)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	return errors.Join(errs...)
}

// timeline copies t; have is what the other store knows of it, nil for nothing.
func (c *Copier) timeline(ctx context.Context, t, have *archive.Timeline) error {
	if have == nil {
		if err := c.file(ctx, t.Path(archive.TimelineFile), asItIs); err != nil {
			return fmt.Errorf("copy timeline %s: %w", t.Timeline, err)
		}
		have = &archive.Timeline{TimelineInfo: t.TimelineInfo}
	}
	if have.Spool != t.Spool || have.ReplID != t.ReplID || have.Offset != t.Offset {
		return fmt.Errorf("timeline %s is another one in the other store: it has spool %s there and %s here", t.Timeline, have.Spool, t.Spool)
	}
	// Whatever instant it is cut off at, what is there has no hole that nothing explains.
	var damaged []error
	next, at := *have, t.Offset // what is copied is added to it
	steps := []func() error{func() error { return c.events(ctx, t, have, explains) }}
	log := func(to stream.Offset) func() error {
		return func() error {
			_, err := c.Log(ctx, t, &next, stream.Range{From: at, To: max(at, to)})
			at = max(at, to)
			return err
		}
	}
	for _, s := range t.Snapshots {
		steps = append(steps, log(s.Offset), func() error { return c.snapshot(ctx, t, have, s) })
	}
	steps = append(steps, log(t.End()), func() error { return c.events(ctx, t, have, concludes) })
	for _, step := range steps {
		err := step()
		damaged = append(damaged, err)
		if err != nil && !errors.As(err, new(*DamagedError)) {
			break // the store is away, say: each of the others would wait for it as long
		}
	}
	return errors.Join(damaged...)
}

// Snapshots copies those of t that have lacks.
func (c *Copier) Snapshots(ctx context.Context, t, have *archive.Timeline) error {
	var errs []error
	for _, s := range t.Snapshots {
		if ctx.Err() == nil {
			errs = append(errs, c.snapshot(ctx, t, have, s))
		}
	}
	return errors.Join(errs...)
}

// snapshot copies the RDB, and then its sidecar: with it the snapshot exists.
func (c *Copier) snapshot(ctx context.Context, t, have *archive.Timeline, s archive.Snapshot) error {
	if slices.ContainsFunc(have.Snapshots, func(h archive.Snapshot) bool { return h.Offset == s.Offset && h.Time == s.Time }) {
		return nil
	}
	info, err := s.Info(ctx)
	if err == nil {
		err = c.file(ctx, t.Path(s.Name), snapshotCheck(t, s, info))
	}
	if err == nil {
		err = c.file(ctx, t.Path(s.Sidecar()), asItIs)
	}
	if err != nil {
		return fmt.Errorf("copy a snapshot: %w", c.here(err))
	}
	return nil
}

// Log copies segments that together hold what is here of r and missing there. It gives what of r is
// still missing when it is done, and adds to have what was copied. In the place of one that is damaged come
// those that it was joined from, where they are still here.
func (c *Copier) Log(ctx context.Context, t, have *archive.Timeline, r stream.Range) (missing []stream.Range, err error) {
	here, there := slices.Clone(t.Segments), slices.Clone(have.Segments)
	var damaged []error
	for _, hole := range archive.Missing(there, r) {
		for at := hole.From; at < hole.To; {
			used, _ := archive.Cover(here, stream.Range{From: at, To: hole.To})
			if len(used) == 0 {
				if at = next(here, at); at < 0 {
					break // nothing more here
				}
				continue
			}
			for _, s := range used {
				err := c.file(ctx, t.Path(s.Name), segmentCheck(t, s))
				if errors.As(err, new(*DamagedError)) {
					damaged = append(damaged, fmt.Errorf("copy a segment: %w", err))
					here = slices.DeleteFunc(here, func(other archive.Segment) bool { return other.Name == s.Name })
					break // to what else holds it
				}
				if err != nil {
					return nil, fmt.Errorf("copy a segment: %w", err)
				}
				there, at = append(there, s), s.To
			}
		}
	}
	slices.SortStableFunc(there, func(a, b archive.Segment) int {
		return cmp.Or(cmp.Compare(a.From, b.From), cmp.Compare(b.To, a.To))
	})
	have.Segments = there
	return archive.Missing(there, r), errors.Join(damaged...)
}

// next is where the first segment behind an offset begins, -1 where none does.
func next(segments []archive.Segment, at stream.Offset) stream.Offset {
	for _, s := range segments {
		if s.From > at {
			return s.From
		}
	}
	return -1
}

// explains are the events that say what a timeline is, and why something is missing in it.
func explains(e archive.Event) bool { return !concludes(e) }

// concludes are those that say of the log that it is all there.
func concludes(e archive.Event) bool {
	return e.Kind == archive.EventVerified || e.Kind == archive.EventEnded
}

// events copies those of a kind that the other store lacks. One that it has in other words stays: each is
// written once. One that is damaged is among the problems, and stays alone.
func (c *Copier) events(ctx context.Context, t, have *archive.Timeline, wanted func(archive.Event) bool) error {
	for _, e := range t.Events {
		if !wanted(e) || e.Damage != nil || slices.ContainsFunc(have.Events, func(h archive.Event) bool { return h.Name() == e.Name() }) {
			continue
		}
		if err := c.file(ctx, t.Path(e.Name()), asItIs); err != nil {
			return fmt.Errorf("copy an event: %w", err)
		}
	}
	return nil
}

// asItIs is for files that have no sum.
func asItIs(r io.Reader) io.Reader { return r }

func segmentCheck(t *archive.Timeline, s archive.Segment) func(io.Reader) io.Reader {
	return func(r io.Reader) io.Reader { return archive.CheckStoredSegment(r, t.Path(s.Name), s.Sum) }
}

func snapshotCheck(t *archive.Timeline, s archive.Snapshot, info archive.SnapshotInfo) func(io.Reader) io.Reader {
	return func(r io.Reader) io.Reader { return archive.CheckStoredSnapshot(r, t.Path(s.Name), info) }
}

// file copies one file; check gives its bytes on and fails at its end where they are not right.
// One that is there already, from a copy that was cut off, must pass the same check.
func (c *Copier) file(ctx context.Context, name string, check func(io.Reader) io.Reader) (err error) {
	src, err := c.From.Open(ctx, name)
	if err != nil {
		return c.here(err)
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	n := &counter{r: check(src)}
	err = c.To.Put(ctx, name, n)
	switch {
	case n.err != nil:
		return c.here(n.err) // whatever the other store calls it
	case errors.Is(err, fs.ErrExist):
		return c.same(ctx, name, check)
	case err != nil:
		return err
	}
	c.done.Files++
	c.done.Bytes += n.n
	if c.Copied != nil {
		c.Copied(name, n.n)
	}
	return nil
}

// same checks a file that the other store has.
func (c *Copier) same(ctx context.Context, name string, check func(io.Reader) io.Reader) (err error) {
	there, err := c.To.Open(ctx, name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, there.Close()) }()
	_, err = io.Copy(io.Discard, check(there))
	if errors.As(err, new(*archive.DamageError)) {
		if err := c.whole(ctx, name, check); err != nil {
			return err
		}
	}
	return c.there(err)
}

// counter remembers that it was reading that failed.
type counter struct {
	r   io.Reader
	n   int64
	err error
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	if err != nil && err != io.EOF {
		c.err = err
	}
	return n, err
}
