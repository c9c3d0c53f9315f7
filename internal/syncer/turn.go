package syncer

import (
	"context"
	"errors"
	"fmt"

	"github.com/offloader/offloader/internal/schedule"
)

// errNoTurn ends a connection that could only become a full sync, while as many run as may. The next
// connection is made when it is this link's turn: a master may hang up on one that stays idle, and
// after hours it may be able to continue after all.
var errNoTurn = errors.New("as many full syncs run as may at once")

// turn is a link's place among the full syncs that run at once, of all links. Each is a fork of a
// master, and an RDB that comes in as fast as the line lets it.
type turn struct {
	limit *schedule.Limit
	give  func() // nil while it has none
	due   bool   // the last connection ended for want of it
}

// await waits for a turn where one is due. waits is told before.
func (t *turn) await(ctx context.Context, waits func(most int)) error {
	if !t.due {
		return nil
	}
	waits(t.limit.Most())
	give, err := t.limit.Take(ctx)
	if err != nil {
		return fmt.Errorf("wait for the turn of a full sync: %w", err)
	}
	t.due, t.give = false, give
	return nil
}

// begin takes a turn if there is one, or goes on with the one that await brought.
func (t *turn) begin() bool {
	if t.give != nil {
		return true
	}
	give, ok := t.limit.Try()
	if ok {
		t.give = give
	}
	return ok
}

// must is begin for what can't go on without.
func (t *turn) must() error {
	if t.begin() {
		return nil
	}
	t.due = true
	return errNoTurn
}

// end gives it back, if there is one.
func (t *turn) end() {
	if t.give != nil {
		t.give()
		t.give = nil
	}
}
