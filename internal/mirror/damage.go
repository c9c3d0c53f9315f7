package mirror

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/offloader/offloader/internal/archive"
)

// A DamagedError says in which of the stores a file is damaged. It unwraps to the *archive.DamageError.
type DamagedError struct {
	Store  string
	There  bool // it is the store that is copied to
	Damage *archive.DamageError
}

func (e *DamagedError) Error() string { return fmt.Sprintf("archive %s: %v", e.Store, e.Damage) }

func (e *DamagedError) Unwrap() error { return e.Damage }

// Hint says what to do about it.
func (e *DamagedError) Hint() string {
	if e.There {
		return "take that file away there, and copy again: the one that is copied from is whole"
	}
	return "copy it from another archive that has it whole, if there is one; `offloader verify` says what it costs"
}

// here tells of damage that it is in the store that is copied from; other errors stay as they are.
func (c *Copier) here(err error) error { return damagedIn(c.From, false, err) }

// there is the same for the store that is copied to.
func (c *Copier) there(err error) error { return damagedIn(c.To, true, err) }

func damagedIn(store fmt.Stringer, there bool, err error) error {
	var damage *archive.DamageError
	if errors.As(err, new(*DamagedError)) || !errors.As(err, &damage) {
		return err
	}
	return &DamagedError{store.String(), there, damage}
}

// Has tells whether a catalog holds what a file of the same source held that is damaged elsewhere: the file
// itself or, of a segment, others that hold its range.
func Has(cat *archive.Catalog, file string) bool {
	timeline, name, _ := strings.Cut(strings.TrimPrefix(file, cat.Source+"/"), "/")
	t := cat.Timeline(timeline)
	if t == nil {
		return false
	}
	if n, err := archive.ParseSegmentName(name); err == nil {
		return len(archive.Missing(t.Segments, n.Range)) == 0
	}
	if n, _, err := archive.ParseSnapshotName(name); err == nil {
		return slices.ContainsFunc(t.Snapshots, func(s archive.Snapshot) bool { return s.Offset == n.Offset && s.Time == n.Time })
	}
	if _, err := archive.ParseEventName(name); err == nil {
		return slices.ContainsFunc(t.Events, func(e archive.Event) bool { return e.Name() == name && e.Damage == nil })
	}
	return true // timeline.json
}

// Compare finds files of a source that the other store has by the same name, and of another size. Which of
// the two is damaged is told by reading the one that is here.
func (c *Copier) Compare(ctx context.Context, source string) error {
	from, err := archive.Load(ctx, c.From, source)
	if err != nil {
		return err
	}
	to, err := archive.Load(ctx, c.To, source)
	if err != nil {
		return err
	}
	var errs []error
	for _, t := range from.Timelines {
		if have := to.Timeline(t.Timeline); have != nil && ctx.Err() == nil {
			errs = append(errs, c.compare(ctx, t, have))
		}
	}
	return errors.Join(errs...)
}

func (c *Copier) compare(ctx context.Context, t, have *archive.Timeline) error {
	var errs []error
	tell := func(name string, here, there int64, check func(io.Reader) io.Reader) {
		err := c.whole(ctx, t.Path(name), check)
		if err == nil {
			err = c.there(&archive.DamageError{Name: t.Path(name), What: fmt.Sprintf("it has %d bytes, and in archive %s, where it is whole, %d", there, c.From, here)})
		}
		errs = append(errs, err)
	}
	sizes := map[string]int64{}
	for _, s := range have.Segments {
		sizes[s.Name] = s.Size
	}
	for _, s := range have.Snapshots {
		sizes[s.Name] = s.Size
	}
	for _, s := range t.Segments {
		if size, known := sizes[s.Name]; known && size != s.Size {
			tell(s.Name, s.Size, size, segmentCheck(t, s))
		}
	}
	for _, s := range t.Snapshots {
		size, known := sizes[s.Name]
		if !known || size == s.Size {
			continue
		}
		info, err := s.Info(ctx)
		if err != nil {
			errs = append(errs, c.here(err))
			continue
		}
		tell(s.Name, s.Size, size, snapshotCheck(t, s, info))
	}
	return errors.Join(errs...)
}

// whole reads a file of the store that is copied from.
func (c *Copier) whole(ctx context.Context, name string, check func(io.Reader) io.Reader) (err error) {
	src, err := c.From.Open(ctx, name)
	if err != nil {
		return c.here(err)
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	_, err = io.Copy(io.Discard, check(src))
	return c.here(err)
}
