package spool

import (
	"errors"
	"fmt"
	"io"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/resp"
	"github.com/offloader/offloader/internal/stream"
)

// Reader gives the stream bytes of a range of one timeline, in the pieces in which they came. It
// implements archive.PieceReader.
type Reader struct {
	dir    string
	r      stream.Range
	chunks []chunk
	cur    *chunkReader
	at     stream.Offset // of the next piece
	db     int
	replID stream.ReplID
	last   record
}

// Reader reads [from,to), both boundaries, from the running spool.
func (t *Timeline) Reader(r stream.Range) (*Reader, error) {
	t.mu.Lock()
	dir, chunks := t.dir, append([]chunk(nil), t.chunks...)
	t.mu.Unlock()
	return openReader(dir, chunks, r)
}

// openReader finds the chunk of the first byte, and the database selected there.
func openReader(dir string, chunks []chunk, r stream.Range) (*Reader, error) {
	n := 0
	for n+1 < len(chunks) && chunks[n+1].from <= r.From {
		n++
	}
	if len(chunks) == 0 || chunks[n].from > r.From {
		return nil, fmt.Errorf("the spool %s no longer holds offset %d", dir, r.From)
	}
	s := &Reader{dir: dir, r: r, chunks: chunks[n:]}
	if err := s.open(); err != nil {
		return nil, err
	}
	s.replID = s.cur.head.replID
	f := resp.NewFramer(s.cur.head.at)
	for s.at < r.From {
		rec, err := s.next()
		if err != nil {
			return nil, errors.Join(fmt.Errorf("look for offset %d in the spool: %w", r.From, err), s.Close())
		}
		data := rec.Data
		if rec.End() > r.From { // the rest of the record is for the reader
			data = rec.Data[:r.From-rec.At]
			rest := rec
			rest.At, rest.Data, rest.First = r.From, rec.Data[len(data):], 0
			s.last = rest
		}
		for len(data) > 0 {
			k, _, _, err := f.Feed(data)
			if err != nil {
				return nil, errors.Join(err, s.Close())
			}
			data = data[k:]
		}
	}
	if !f.Between() {
		return nil, errors.Join(fmt.Errorf("offset %d is inside a command", r.From), s.Close())
	}
	s.db = f.DB()
	return s, nil
}

// open opens the chunk that s.chunks begins with.
func (s *Reader) open() (err error) {
	c := s.chunks[0]
	s.cur, err = openChunk(chunkPath(s.dir, c.from), c.from)
	if err != nil {
		s.cur = nil
		return fmt.Errorf("read the spool: %w", s.torn(err))
	}
	s.at = c.from
	return nil
}

// next gives the next record, cut where the next chunk begins.
func (s *Reader) next() (record, error) {
	for {
		if s.cur == nil {
			if err := s.open(); err != nil {
				return record{}, err
			}
		}
		end := s.r.To
		if len(s.chunks) > 1 {
			end = min(end, s.chunks[1].from)
		}
		if s.at >= end {
			if s.at >= s.r.To {
				return record{}, io.EOF
			}
			err := s.cur.close()
			s.cur, s.chunks = nil, s.chunks[1:]
			if err != nil {
				return record{}, err
			}
			continue
		}
		rec, err := s.cur.next(s.at)
		if err != nil {
			return rec, s.torn(err)
		}
		if rec.End() > end {
			rec.Data = rec.Data[:end-rec.At]
			if rec.First >= len(rec.Data) {
				rec.First = -1
			}
		}
		s.at = rec.End()
		if len(rec.Data) > 0 {
			return rec, nil
		}
	}
}

// torn turns the end of the open chunk into damage of its file, where bytes were to follow.
func (s *Reader) torn(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, errTorn) {
		what := fmt.Sprintf("what follows offset %d is not whole", s.at)
		return &archive.DamageError{Name: chunkPath(s.dir, s.chunks[0].from), What: what, Err: io.ErrUnexpectedEOF}
	}
	return err
}

// Next gives the next piece. Its Data is valid until the next call.
func (s *Reader) Next() (stream.Piece, error) {
	if len(s.last.Data) > 0 {
		rec := s.last
		s.last = record{}
		if over := rec.End() - s.r.To; over > 0 {
			rec.Data = rec.Data[:len(rec.Data)-int(over)]
		}
		return rec.Piece, nil
	}
	rec, err := s.next()
	return rec.Piece, err
}

// DB is the database selected before the first byte.
func (s *Reader) DB() int { return s.db }

// ReplID is the replication id in force at the first byte.
func (s *Reader) ReplID() stream.ReplID { return s.replID }

// Close closes what is open.
func (s *Reader) Close() error {
	if s.cur == nil {
		return nil
	}
	err := s.cur.close()
	s.cur = nil
	return err
}
