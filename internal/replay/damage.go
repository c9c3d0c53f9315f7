package replay

import (
	"errors"
	"fmt"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/plan"
	"github.com/offloader/offloader/internal/stream"
)

// A DamagedError is an *archive.DamageError (it unwraps to it) in a file that the restore needs,
// with the ways round that file.
type DamagedError struct {
	Source        string
	Damage        *archive.DamageError
	Before, After *plan.Place // nearest points that don't need the file, nil where there is none
}

func (e *DamagedError) Error() string { return e.Source + ": " + e.Damage.Error() }

func (e *DamagedError) Unwrap() error { return e.Damage }

// Hint names the points that can be had without the file.
func (e *DamagedError) Hint() string {
	switch {
	case e.Before != nil && e.After != nil:
		return fmt.Sprintf("without that file, %s and what is before it can be restored, and again from %s on", e.Before, e.After)
	case e.Before != nil:
		return fmt.Sprintf("without that file, %s and what is before it can be restored", e.Before)
	case e.After != nil:
		return fmt.Sprintf("without that file, %s and what is after it can be restored", e.After)
	}
	return "without that file nothing can be restored; if another store has the archive too, restore from there"
}

// damaged adds the ways round to an error that says damage, and leaves others as they are. lost
// are the bytes of the stream that the file is needed for.
func damaged(aim *plan.Aim, err error, lost stream.Range) error {
	var damage *archive.DamageError
	var already *DamagedError
	if !errors.As(err, &damage) || errors.As(err, &already) {
		return err
	}
	e := &DamagedError{Source: aim.Source, Damage: damage}
	e.Before, e.After = aim.Without(lost)
	return e
}

// DamagedSnapshot gives an error that says damage of r's snapshot the ways round it, and leaves
// others as they are.
func (r *Replay) DamagedSnapshot(err error) error {
	err = damaged(r.aim, err, stream.Range{})
	var e *DamagedError
	if errors.As(err, &e) {
		e.Before, e.After = r.aim.WithoutSnapshot(r.From.Offset)
	}
	return err
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
		return damaged(aim, in.err, in.step.Range)
	}
	return err
}
