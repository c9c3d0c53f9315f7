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

// stepReader reads what a step takes of its segment. It checks that all of it is there, and that
// it begins and ends at boundaries: an engine that is fed from the middle of a command, or of a
// transaction, doesn't load, or has half of it. At the ends of the segment that is known from its
// reader. Where a step begins or ends inside (at a snapshot, where a branch leaves, where another
// segment ended, at the point) only the names say so, and the stream is followed up to there.
type stepReader struct {
	step   plan.Step
	pieces archive.PieceReader
	at     stream.Offset // of the next byte that is wanted
	db     int           // selected where the step begins, known once next was called

	framer *resp.Framer    // at the segment's beginning at first; nil before the first piece
	cuts   []stream.Offset // inside the segment, not yet passed: each has to be a boundary
}

func openStep(ctx context.Context, step plan.Step) (*stepReader, error) {
	pieces, err := step.Segment.Open(ctx)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", segmentName(step), err)
	}
	s := &stepReader{step: step, pieces: pieces, at: step.Range.From}
	for _, o := range [...]stream.Offset{step.Range.From, step.Range.To} {
		if step.Segment.From < o && o < step.Segment.To {
			s.cuts = append(s.cuts, o)
		}
	}
	return s, nil
}

func segmentName(step plan.Step) string {
	if step.Segment.Name == "" {
		return "the spool's part " + step.Segment.Range.String()
	}
	return step.Timeline + "/" + step.Segment.Name
}

// next gives the next piece of the step. Before io.EOF, what the step leaves out at the end of
// the segment is read too.
func (s *stepReader) next() (stream.Piece, error) {
	for {
		p, err := s.pieces.Next()
		if err == io.EOF {
			if s.at < s.step.Range.To {
				return p, s.gap("ends", s.at, s.at)
			}
			return p, io.EOF
		}
		if err == nil {
			err = s.follow(p)
		}
		if err != nil {
			return p, err
		}
		r := s.step.Range
		if p.End() <= s.at || p.At >= r.To {
			continue
		}
		if p.At > s.at {
			return p, s.gap("goes on", p.At, s.at)
		}
		if cut := int(s.at - p.At); cut > 0 {
			// The step begins at a boundary, so what is left begins with a command.
			p.At, p.Data, p.First = s.at, p.Data[cut:], 0
			if p.Blank {
				p.First = -1
			}
		}
		if over := p.End() - r.To; over > 0 {
			p.Data = p.Data[:len(p.Data)-int(over)]
			if p.First >= len(p.Data) {
				p.First = -1
			}
		}
		s.at = p.End()
		return p, nil
	}
}

// follow frames the segment's bytes up to the last cut in it.
func (s *stepReader) follow(p stream.Piece) error {
	if s.framer == nil {
		s.db = s.pieces.DB()
		s.framer = resp.NewFramer(stream.Cursor{Offset: s.step.Segment.From, DB: s.db})
	}
	for len(s.cuts) > 0 && len(p.Data) > 0 {
		if p.At != s.framer.Offset() {
			return s.gap("goes on", p.At, s.framer.Offset())
		}
		n, _, _, err := s.framer.Feed(p.Data[:min(int64(len(p.Data)), int64(s.cuts[0]-p.At))])
		if err != nil {
			return s.damage("what it holds is no replication stream", err)
		}
		p.At, p.Data = p.At+stream.Offset(n), p.Data[n:]
		if p.At < s.cuts[0] {
			continue
		}
		if s.framer.Boundary().Offset != p.At {
			return s.damage(fmt.Sprintf("its bytes %s are needed, and %d is no boundary: a command or transaction that begins at %d goes on there",
				s.step.Range, p.At, s.framer.Boundary().Offset), nil)
		}
		if p.At == s.step.Range.From {
			s.db = s.framer.DB()
		}
		s.cuts = s.cuts[1:]
	}
	return nil
}

// begins makes sure that the stream goes on in the database that the snapshot says: what is written
// there would else be written into another one.
func (s *stepReader) begins(db int) error {
	if s.db == db {
		return nil
	}
	return s.damage(fmt.Sprintf("it has database %d selected at offset %d, and the snapshot there says %d", s.db, s.step.Range.From, db), nil)
}

// gap is a reader that didn't keep to its range. That is checked where segments are read, so
// what is here is a file that is damaged in a way nobody thought of.
func (s *stepReader) gap(what string, at, want stream.Offset) error {
	return s.damage(fmt.Sprintf("it %s at offset %d where %d was to follow", what, at, want), nil)
}

func (s *stepReader) damage(what string, err error) error {
	return &archive.DamageError{Name: segmentName(s.step), What: what, Err: err}
}

func (s *stepReader) close() error { return s.pieces.Close() }

// drain reads a step to its end for the checksum there.
func (s *stepReader) drain() error {
	for {
		if _, err := s.next(); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
	}
}
