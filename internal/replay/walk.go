package replay

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/plan"
	"github.com/offloader/offloader/internal/resp"
	"github.com/offloader/offloader/internal/stream"
)

// mark is the end of a command, or of bare newlines between two.
type mark struct {
	to       stream.Offset
	time     stream.Time   // when the first byte was received
	boundary bool          // no transaction is open
	cmd      *resp.Command // nil for newlines
}

// errEnough is what a visitor returns when it has seen enough.
var errEnough = errors.New("seen enough")

// walk shows a visitor what a step holds, in order. It always reads the segment to its end, so
// what was shown is known to be right when it returns nil.
func walk(ctx context.Context, step plan.Step, visit func(mark) error) (err error) {
	pieces, err := openStep(ctx, step)
	if err != nil {
		return &stepError{step, err}
	}
	defer func() { err = errors.Join(err, pieces.close()) }()
	var commands *resp.Commands
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		p, err := pieces.next()
		if err == io.EOF {
			return endsWell(step, commands)
		}
		if err != nil {
			return &stepError{step, err}
		}
		if commands == nil {
			commands = resp.NewCommands(stream.Cursor{Offset: p.At, DB: pieces.db, Time: p.Time})
		}
		err = show(commands, p, visit)
		if err == nil {
			continue
		}
		if err := pieces.drain(); err != nil { // damage is the cause of all else
			return &stepError{step, err}
		}
		var malformed *resp.ProtocolError
		switch {
		case errors.Is(err, errEnough):
			return nil
		case errors.As(err, &malformed):
			return &stepError{step, &archive.DamageError{Name: segmentName(step), What: "what it holds is no replication stream", Err: err}}
		}
		return err
	}
}

// show gives a visitor what ends in one piece.
func show(commands *resp.Commands, p stream.Piece, visit func(mark) error) error {
	err := commands.Each(p, func(c *resp.Command) error {
		return visit(mark{c.End, c.Time, c.After == c.End, c})
	})
	if err != nil || !p.Blank {
		return err
	}
	return visit(mark{p.End(), p.Time, commands.Boundary().Offset == p.End(), nil})
}

// endsWell makes sure that the step ended where it should, at a boundary.
func endsWell(step plan.Step, commands *resp.Commands) error {
	if commands == nil || commands.Boundary().Offset == step.Range.To {
		return nil
	}
	return &stepError{step, &archive.DamageError{
		Name: segmentName(step),
		What: fmt.Sprintf("offset %d is no boundary of the stream", step.Range.To),
	}}
}
