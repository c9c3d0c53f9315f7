package relay

import (
	"context"
	"errors"
	"io"

	"github.com/offloader/offloader/internal/stream"
)

// An Archive is what replicas are served from. It gives bytes that are durable, and no others.
type Archive interface {
	// Continue gives the stream behind an offset of the history that id names. It fails with ErrFork
	// where that history is another one or is no longer held, with a *LaterError where it is not held
	// yet.
	Continue(ctx context.Context, id stream.ReplID, behind stream.Offset) (Stream, error)
	// Copy gives a snapshot and the stream behind it. It fails with a *LaterError where there is none
	// yet, or none that may be given.
	Copy(ctx context.Context) (*Copy, error)
}

// Stream is the stream from some byte on.
type Stream interface {
	// ReplID names the history that it is of.
	ReplID() stream.ReplID
	// Next waits for more bytes, which are valid until the next call. Its io.EOF says that the history
	// goes on under another id, or has ended: the replica has to ask again.
	Next(ctx context.Context) ([]byte, error)
	Close() error
}

// Copy is what a full sync consists of.
type Copy struct {
	Offset     stream.Offset // of the snapshot
	RDBVersion int
	Bytes      int64
	RDB        io.ReadCloser // its last Read fails if it is not what was archived
	Stream     Stream        // behind Offset
	End        stream.Offset // of the stream, 0 where it goes on: where Offset is another, an RDB alone is not what is served
}

func (c *Copy) close() error { return errors.Join(c.RDB.Close(), c.Stream.Close()) }

// ErrFork says that a replica's history is not the archive's, or no longer held: it needs a Copy.
var ErrFork = errors.New("the replica's history is not held")

// A LaterError says why a replica can't be served now. It will ask again.
type LaterError struct {
	Why string
	Do  string // what ends that; "": it goes by
}

func (e *LaterError) Error() string { return e.Why }

// Hint says what to do.
func (e *LaterError) Hint() string { return e.Do }
