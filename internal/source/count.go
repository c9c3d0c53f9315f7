package source

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/spool"
	"github.com/offloader/offloader/internal/stream"
	"github.com/offloader/offloader/internal/syncer"
)

// Counted is how many keys the master had at an offset, by its own word.
type Counted struct {
	Moment
	Timeline string
	Keys     map[string]int64 // by database, those that have any
}

// Count asks the master how many keys it has, and returns when that is noted in the timeline that goes on, and
// all up to there is durable. Number and offset come in one reply, which the master makes between two
// commands, so that whoever replays the archive up to there has to have as many.
func (s *Source) Count(ctx context.Context) (Counted, error) {
	cur, o, err := s.beside(nil)
	if err != nil {
		return Counted{}, err
	}
	c, err := s.ask(ctx, cur, o)
	if err != nil && ctx.Err() == nil {
		return c, fmt.Errorf("count the keys of source %s: %w", s.o.Name, err)
	}
	return c, err
}

func (s *Source) ask(ctx context.Context, cur *spool.Timeline, o syncer.Options) (c Counted, err error) {
	w := syncer.NewWatch(o)
	defer w.Close()
	m, err := w.Look(ctx)
	switch {
	case err != nil:
		return c, err
	case !m.Permitted:
		return c, fmt.Errorf("user %s may not ask for INFO: on the master, ACL SETUSER %s +info", name(o.Username), name(o.Username))
	case m.Keys == nil:
		return c, fmt.Errorf("%s doesn't tell in one reply of INFO where it stands and how many keys it has", m.Addr)
	}
	if err := isOf(cur, m, m.ReplID); err != nil {
		return c, err
	}
	waiting, cancel := context.WithTimeoutCause(ctx, catchUpFor, fmt.Errorf("the stream didn't come to offset %d within %v", m.Offset, catchUpFor))
	defer cancel()
	at, err := s.reached(waiting, cur, m.ReplID, m.Offset)
	if err != nil {
		return c, err
	}
	c = Counted{Moment: Moment{at.Offset, at.Time}, Timeline: cur.Info().Timeline, Keys: map[string]int64{}}
	for db, n := range m.Keys {
		c.Keys[strconv.Itoa(db)] = n
	}
	event := archive.Event{Kind: archive.EventCounted, Offset: at.Offset, Time: stream.TimeOf(time.Now()), Counts: c.Keys}
	return c, cur.AddEvent(event)
}

// reached waits until the stream has come to an offset, under an id.
func (s *Source) reached(ctx context.Context, cur *spool.Timeline, id stream.ReplID, at stream.Offset) (stream.Cursor, error) {
	for cur.Durable().Offset < at {
		select {
		case <-ctx.Done():
			return stream.Cursor{}, context.Cause(ctx)
		case <-s.over:
			return stream.Cursor{}, errStopped
		case <-time.After(10 * time.Millisecond):
		}
	}
	cursor, is, err := cur.CursorAt(at)
	if err == nil && is != id {
		err = fmt.Errorf("a failover came between: at offset %d the stream has replication id %s, what was asked for has %s", at, is.Short(), id.Short())
	}
	return cursor, err
}

func name(user string) string {
	if user == "" {
		return "default"
	}
	return user
}
