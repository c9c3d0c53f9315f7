package spool

import (
	"fmt"
	"io/fs"

	"github.com/offloader/offloader/internal/stream"
)

// Head is how far a timeline is, as one look shows it: up to Durable everything came under an id that
// leads to ReplID.
type Head struct {
	Trimmed stream.Offset // the first that the spool holds
	Durable stream.Offset
	ReplID  stream.ReplID
	Closed  bool
}

// Head looks at a timeline that is written.
func (t *Timeline) Head() Head {
	t.mu.Lock()
	defer t.mu.Unlock()
	return Head{Trimmed: t.chunks[0].from, Durable: t.durable.Offset, ReplID: t.replID, Closed: t.closed}
}

// Tail reads a timeline that is written, from any byte on. Each record is checked before it is given.
type Tail struct {
	t    *Timeline
	at   stream.Offset // of the next byte that is given
	cur  *chunkReader  // nil before the first
	from stream.Offset // where its chunk begins
	pos  stream.Offset // of the next record in it
	rest []byte        // of the record read last; its first byte is at
}

// Tail begins to read behind an offset. Opening of files is left to Next.
func (t *Timeline) Tail(at stream.Offset) *Tail { return &Tail{t: t, at: at} }

// Next gives some of the bytes up to an offset that is durable and lies behind those given before. They
// are valid until the next call. It fails with fs.ErrNotExist when the spool has let go of them: the
// stores have them.
func (l *Tail) Next(to stream.Offset) ([]byte, error) {
	from, next, err := l.t.chunkOf(l.at)
	if err != nil {
		return nil, err
	}
	// Of a chunk that nothing was read of yet, the file may have been replaced: it is as long as
	// nothing in it is durable.
	if l.cur == nil || l.from != from || l.at == from {
		if err := l.open(from); err != nil {
			return nil, err
		}
	}
	for len(l.rest) == 0 {
		rec, err := l.cur.next(l.pos)
		if err != nil {
			return nil, fmt.Errorf("read the spool behind offset %d: %w", l.pos, err)
		}
		l.pos = rec.End()
		if l.pos > l.at {
			l.rest = rec.Data[max(0, l.at-rec.At):]
		}
	}
	// Bytes beyond the beginning of the next chunk are dead: the link began there anew.
	n := min(int64(len(l.rest)), stream.Range{From: l.at, To: min(to, next)}.Len())
	given := l.rest[:n]
	l.rest, l.at = l.rest[n:], l.at+stream.Offset(n)
	return given, nil
}

func (l *Tail) open(from stream.Offset) error {
	if err := l.Close(); err != nil {
		return err
	}
	cur, err := openChunk(chunkPath(l.t.folder(), from), from)
	if err != nil {
		return fmt.Errorf("read the spool: %w", err)
	}
	l.cur, l.from, l.pos, l.rest = cur, from, from, nil
	return nil
}

// Close closes what is open.
func (l *Tail) Close() error {
	if l.cur == nil {
		return nil
	}
	err := l.cur.close()
	l.cur = nil
	return err
}

// chunkOf is where the chunk that holds the byte behind at begins, and where the one behind it does.
func (t *Timeline) chunkOf(at stream.Offset) (from, next stream.Offset, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return 0, 0, errClosed
	}
	next = t.durable.Offset
	for n := len(t.chunks) - 1; n >= 0; n-- {
		if t.chunks[n].from <= at {
			return t.chunks[n].from, next, nil
		}
		next = t.chunks[n].from
	}
	return 0, 0, fmt.Errorf("the spool has let go of offset %d: %w", at, fs.ErrNotExist)
}
