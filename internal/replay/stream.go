package replay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/offloader/offloader/internal/plan"
	"github.com/offloader/offloader/internal/stream"
)

// Stream gives the bytes from the snapshot to the point, gapless, in the pieces in which they
// were received; pieces are cut where a step or the point ends. It is an archive.PieceReader.
//
// Long before the end is read, what holds it may have been joined and deleted. Then the same bytes
// are looked for elsewhere.
type Stream struct {
	ctx  context.Context // Next of a PieceReader takes none
	r    *Replay
	aim  *plan.Aim // of the listing that left is from
	left []plan.Step
	cur  *stepReader
	at   stream.Offset
	read []plan.Step // to the ends of their segments

	lost  stream.Offset // where a file was gone last
	tries int           // how often, there
}

// Stream begins to read the stream. Opening of files is left to Next.
func (r *Replay) Stream(ctx context.Context) *Stream {
	return &Stream{ctx: ctx, r: r, aim: r.aim, left: r.Steps, at: r.From.Offset}
}

// DB is the database selected at the snapshot.
func (s *Stream) DB() int { return s.r.Info.DB }

// Next gives the next piece, io.EOF behind the last one. Its Data is valid until the next call.
func (s *Stream) Next() (stream.Piece, error) {
	for {
		if err := s.ctx.Err(); err != nil {
			return stream.Piece{}, context.Cause(s.ctx)
		}
		if s.cur == nil {
			if len(s.left) == 0 {
				return stream.Piece{}, s.end()
			}
			cur, err := openStep(s.ctx, s.left[0])
			if err != nil {
				if s.elsewhere(err) {
					continue
				}
				return stream.Piece{}, damaged(s.aim, err, s.left[0])
			}
			s.cur = cur
		}
		p, err := s.cur.next()
		if err == nil && p.At == s.r.From.Offset {
			err = s.cur.begins(s.r.Info.DB)
		}
		if err == nil {
			s.at = p.End()
			return p, nil
		}
		if err != io.EOF {
			if s.elsewhere(err) {
				continue
			}
			return stream.Piece{}, damaged(s.aim, err, s.left[0])
		}
		err = s.cur.close()
		s.cur, s.left, s.read = nil, s.left[1:], append(s.read, s.left[0])
		if err != nil {
			return stream.Piece{}, err
		}
	}
}

// elsewhere lists the archive once more when err says that a file is gone, and goes on with what
// holds the rest now: bytes are settled by their offsets. Files are opened where they begin, which
// is at a boundary, so that is where the next piece begins too.
func (s *Stream) elsewhere(err error) bool {
	if !errors.Is(err, fs.ErrNotExist) || s.ctx.Err() != nil {
		return false
	}
	if s.lost != s.at {
		s.lost, s.tries = s.at, 0
	}
	if s.tries++; s.tries >= listings {
		return false
	}
	cat, err := s.r.load(s.ctx)
	if err != nil {
		return false
	}
	to := plan.Point{Kind: plan.ByOffset, Offset: s.r.To.Offset}
	aim, err := plan.Choose(cat, plan.Request{Point: to, Timeline: s.r.Timeline.TimelineInfo.Timeline})
	if err != nil {
		return false
	}
	steps := aim.Steps(stream.Range{From: s.at, To: s.r.To.Offset})
	if len(steps) == 0 || s.Close() != nil {
		return false
	}
	s.aim, s.left = aim, steps
	return true
}

// end makes sure that nothing was left out.
func (s *Stream) end() error {
	if s.at != s.r.To.Offset {
		return fmt.Errorf("the plan for %s ends at offset %d, not at %d", s.r.Source, s.at, s.r.To.Offset)
	}
	return io.EOF
}

// Sound are the steps whose segments were read to their ends, and found sound.
func (s *Stream) Sound() []plan.Step { return s.read }

// Close closes what is open.
func (s *Stream) Close() error {
	if s.cur == nil {
		return nil
	}
	err := s.cur.close()
	s.cur = nil
	return err
}
