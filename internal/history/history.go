// Package history tells what was written when: it reads a stretch of a replication stream and
// reports the commands that a Query asks for, each with the boundaries around it, so that a
// restore to just before or just behind it is one step away.
//
// It streams: an Entry is reported as soon as all of it is known, which for a command in a
// transaction is at its EXEC. Memory doesn't grow with the stream, nor with a transaction.
package history

import (
	"context"
	"errors"
	"io"

	"github.com/offloader/offloader/internal/resp"
	"github.com/offloader/offloader/internal/stream"
)

// Query is what is asked for. The zero Query asks for all writes.
type Query struct {
	// Key is a glob as in the command KEYS: a*, ?, [a-c], a backslash before a sign that stands for
	// itself. Found are the commands that touch a key like that, as one that they write or that they
	// read. FLUSHALL, FLUSHDB and SWAPDB touch every key, so they are always found; a command that is
	// not known (a module's) is found if any of its arguments is like that. "" is all commands.
	Key string

	// Command is a command's name, in any case, and perhaps its first arguments, as plan.ParseBefore
	// reads them. Empty is all but those that write nothing: SELECT, PING, REPLCONF, MULTI, EXEC.
	Command []string

	// From is the first instant of interest, To the first that isn't; 0 is no bound.
	From, To stream.Time
}

// Entry is a command that was found.
type Entry struct {
	Time stream.Time `json:"time"` // when its first byte was received
	// Offset is the last boundary before the command: a restore there gives the dataset without it.
	// Of a command in a transaction this is before the MULTI.
	Offset stream.Offset `json:"offset"`
	// After is the first boundary behind the command: a restore there has it in. 0 in a transaction
	// so long that its end was not waited for.
	After   stream.Offset `json:"after,omitempty"`
	DB      int           `json:"db"`       // in which it ran
	InMulti bool          `json:"in_multi"` // part of a transaction
	Command string        `json:"command"`  // as Text has it
}

// Pieces gives stream bytes in order, without holes. Next ends with io.EOF.
type Pieces interface {
	Next() (stream.Piece, error)
}

// ErrStop is what found returns when nothing more is wanted: Search then ends with nil.
var ErrStop = errors.New("enough was found")

// Search reads pieces, the first of which begins at the boundary from, and calls found for each
// command that q asks for, in their order. It reads to the end or to q.To. Its error is that of
// ctx, of pieces or of found, or a *resp.ProtocolError.
func Search(ctx context.Context, from stream.Cursor, pieces Pieces, q Query, found func(Entry) error) error {
	s := search{query: q, match: newMatcher(q), found: found}
	err := s.read(ctx, resp.NewCommands(from), pieces)
	if err == nil {
		err = s.flush(0) // of a transaction that doesn't end here
	}
	if errors.Is(err, ErrStop) {
		return nil
	}
	return err
}

// What waits for the end of a transaction. One with more entries is reported without knowing it.
const (
	maxWaiting      = 4096
	maxWaitingBytes = 1 << 20
)

type search struct {
	query Query
	match *matcher
	found func(Entry) error

	waiting      []Entry // of the open transaction
	waitingBytes int
}

func (s *search) read(ctx context.Context, commands *resp.Commands, pieces Pieces) error {
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		p, err := pieces.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if err := commands.Each(p, s.see); err != nil {
			return err
		}
	}
}

// see looks at the next command.
func (s *search) see(c *resp.Command) error {
	over := s.query.To != 0 && c.Time >= s.query.To
	if over && len(s.waiting) == 0 {
		return ErrStop // times never fall: nothing that is meant can follow
	}
	if !over && c.Time >= s.query.From && s.match.matches(c) {
		e := Entry{Time: c.Time, Offset: c.Before.Offset, DB: c.DB, InMulti: c.InMulti, Command: Text(c)}
		s.waiting = append(s.waiting, e)
		s.waitingBytes += len(e.Command)
	}
	if c.After != 0 || len(s.waiting) >= maxWaiting || s.waitingBytes >= maxWaitingBytes {
		return s.flush(c.After)
	}
	return nil
}

// flush reports what waits.
func (s *search) flush(after stream.Offset) error {
	for i := range s.waiting {
		s.waiting[i].After = after
		if err := s.found(s.waiting[i]); err != nil {
			return err
		}
	}
	s.waiting, s.waitingBytes = s.waiting[:0], 0
	return nil
}
