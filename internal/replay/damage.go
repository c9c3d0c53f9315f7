package replay

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/plan"
)

// A DamagedError is an *archive.DamageError (it unwraps to it) in a file that the restore needs,
// with the ways round that file.
type DamagedError struct {
	Source string
	Damage *archive.DamageError
	Way    plan.Detour // Same: Run has gone it, as often as it does

	aside func(*archive.Catalog) *archive.Catalog // takes the file out
}

func (e *DamagedError) Error() string { return e.Source + ": " + e.Damage.Error() }

func (e *DamagedError) Unwrap() error { return e.Damage }

// unreadError says that a store doesn't give a file that another store has too.
type unreadError struct {
	error
	aside func(*archive.Catalog) *archive.Catalog
}

func (e *unreadError) Unwrap() error { return e.error }

// Hint names what can be had without the file.
func (e *DamagedError) Hint() string {
	before, after := e.Way.Before, e.Way.After
	switch {
	case e.Way.Same:
		return "many files are damaged: `offloader verify` names all of them, and what they cost"
	case before != nil && after != nil:
		return fmt.Sprintf("without that file, %s and what is before it can be restored, and again from %s on", before, after)
	case before != nil:
		return fmt.Sprintf("without that file, %s and what is before it can be restored", before)
	case after != nil:
		return fmt.Sprintf("without that file, %s and what is after it can be restored", after)
	}
	return "without that file nothing can be restored; if another store has the archive too, restore from there"
}

// damaged adds the way round a step's segment to an error that says damage, and leaves others as
// they are.
func damaged(aim *plan.Aim, err error, step plan.Step) error {
	return withWay(aim, err, step.Segment.Elsewhere(), func() plan.Detour { return aim.WithoutSegment(step) },
		func(c *archive.Catalog) *archive.Catalog { return c.WithoutSegment(step.Timeline, step.Segment) })
}

// DamagedSnapshot gives an error that says damage of r's snapshot the way round it, and leaves
// others as they are.
func (r *Replay) DamagedSnapshot(err error) error {
	return withWay(r.aim, err, r.Snapshot.Elsewhere(), func() plan.Detour { return r.aim.WithoutSnapshot(r.From.Timeline, r.Snapshot) },
		func(c *archive.Catalog) *archive.Catalog { return c.WithoutSnapshot(r.From.Timeline, r.Snapshot) })
}

func withWay(aim *plan.Aim, err error, elsewhere bool, way func() plan.Detour, aside func(*archive.Catalog) *archive.Catalog) error {
	var damage *archive.DamageError
	switch {
	case errors.As(err, new(*DamagedError)), errors.As(err, new(*unreadError)):
		return err
	case !errors.As(err, &damage) && elsewhere && !errors.Is(err, fs.ErrNotExist):
		return &unreadError{err, aside}
	case damage == nil:
		return err
	}
	return &DamagedError{Source: aim.Source, Damage: damage, Way: way(), aside: aside}
}

// stepError is damage in one step.
type stepError struct {
	step plan.Step
	err  error
}

func (e *stepError) Error() string { return e.err.Error() }

func (e *stepError) Unwrap() error { return e.err }

// aside turns what went wrong while looking for the point into what users are told.
func aside(aim *plan.Aim, err error) error {
	var in *stepError
	if errors.As(err, &in) {
		return damaged(aim, in.err, in.step)
	}
	return err
}
