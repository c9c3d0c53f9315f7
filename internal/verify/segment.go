package verify

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/crc64"
	"github.com/offloader/offloader/internal/stream"
)

// segment reads one to its end. Its reader checks what it can know: checksum, range, framing,
// annotations, that times don't fall. Here its head is held against the timeline, and the ranges
// that it shares with others are summed.
func (s *source) segment(ctx context.Context, t *archive.Timeline, seg archive.Segment, shared []stream.Range) (*read, error) {
	file := s.path(t, seg.Name)
	if s.isSealed(seg.Encrypted) {
		return s.storedSegment(ctx, file, seg.Sum)
	}
	pieces, err := seg.Open(ctx)
	if err != nil {
		return damaged(err)
	}
	r, err := walk(ctx, pieces, seg, shared)
	if err := errors.Join(err, pieces.Close()); err != nil {
		return damaged(err)
	}
	r.file = file
	if head, ok := pieces.(interface{ Head() archive.SegmentHead }); ok && r.wrong == "" {
		r.wrong = wrongHead(t, seg, head.Head())
	}
	return r, nil
}

// walk reads all pieces.
func walk(ctx context.Context, pieces archive.PieceReader, seg archive.Segment, shared []stream.Range) (*read, error) {
	sums := summing{left: shared, sums: map[stream.Range]uint64{}}
	var first stream.Time
	for {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		p, err := pieces.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
		if first == 0 {
			first = p.Time
		}
		sums.add(p)
	}
	r := &read{from: &stream.Cursor{Offset: seg.From, DB: pieces.DB()}, sums: sums.sums}
	if end, ok := pieces.(interface{ Boundary() stream.Cursor }); ok {
		at := end.Boundary()
		r.to = &at
	}
	if first != seg.Time0 {
		r.wrong = fmt.Sprintf("its first byte was received at %s, its name says %s", first, seg.Time0)
	}
	return r, nil
}

// wrongHead says what of a head doesn't belong to the timeline. The reader has compared the rest.
func wrongHead(t *archive.Timeline, seg archive.Segment, head archive.SegmentHead) string {
	switch {
	case head.Source != t.Source:
		return fmt.Sprintf("its head says that it is of source %q", head.Source)
	case head.ReplID != t.ReplIDAt(seg.From):
		return fmt.Sprintf("its head has the replication id %s, and the timeline has %s there", head.ReplID, t.ReplIDAt(seg.From))
	}
	return ""
}

// summing sums ranges of a stream that passes in pieces.
type summing struct {
	left []stream.Range // in order; the first may have begun
	sum  uint64         // of the first
	sums map[stream.Range]uint64
}

func (s *summing) add(p stream.Piece) {
	for len(s.left) > 0 && s.left[0].From < p.End() {
		r := s.left[0]
		s.sum = crc64.Update(s.sum, p.Data[max(0, r.From-p.At):min(stream.Offset(len(p.Data)), r.To-p.At)])
		if r.To > p.End() {
			return
		}
		s.sums[r] = s.sum
		s.left, s.sum = s.left[1:], 0
	}
}

// overlaps are the ranges that two segments or more hold, cut wherever one of them begins or ends.
// segments are ordered as a Timeline has them.
func overlaps(segments []archive.Segment) (shared []stream.Range) {
	for i := 0; i < len(segments); {
		n, end := i+1, segments[i].To
		for n < len(segments) && segments[n].From < end {
			end = max(end, segments[n].To)
			n++
		}
		if n > i+1 {
			shared = append(shared, sharedBy(segments[i:n])...)
		}
		i = n
	}
	return shared
}

func sharedBy(segments []archive.Segment) (shared []stream.Range) {
	change := map[stream.Offset]int{} // how many more hold the bytes from there on
	var cuts []stream.Offset
	for _, s := range segments {
		change[s.From]++
		change[s.To]--
		cuts = append(cuts, s.From, s.To)
	}
	slices.Sort(cuts)
	cuts = slices.Compact(cuts)
	held := 0
	for i, at := range cuts[:len(cuts)-1] {
		if held += change[at]; held > 1 {
			shared = append(shared, stream.Range{From: at, To: cuts[i+1]})
		}
	}
	return shared
}

// within are those of the ordered ranges that lie in r. They never lie across its ends.
func within(ranges []stream.Range, r stream.Range) []stream.Range {
	begins := func(s stream.Range, at stream.Offset) int { return cmp.Compare(s.From, at) }
	from, _ := slices.BinarySearchFunc(ranges, r.From, begins)
	to, _ := slices.BinarySearchFunc(ranges, r.To, begins)
	return ranges[from:to]
}

// difference is the first offset in r at which two segments, both as they were written, differ.
func difference(ctx context.Context, a, b archive.Segment, r stream.Range) (at stream.Offset, err error) {
	first, err := a.Open(ctx)
	if err != nil {
		return 0, err
	}
	defer first.Close()
	second, err := b.Open(ctx)
	if err != nil {
		return 0, err
	}
	defer second.Close()
	c, d := cursor{pieces: first}, cursor{pieces: second}
	for at = r.From; at < r.To && ctx.Err() == nil; {
		one, err := c.from(at)
		if err != nil {
			return 0, err
		}
		two, err := d.from(at)
		if err != nil {
			return 0, err
		}
		n := min(len(one), len(two))
		if !bytes.Equal(one[:n], two[:n]) {
			for one[0] == two[0] {
				one, two, at = one[1:], two[1:], at+1
			}
			return at, nil
		}
		at += stream.Offset(n)
	}
	return at, context.Cause(ctx)
}

// cursor goes through a segment.
type cursor struct {
	pieces archive.PieceReader
	piece  stream.Piece
}

// from gives some bytes from the offset on, at least one.
func (c *cursor) from(at stream.Offset) ([]byte, error) {
	for c.piece.End() <= at {
		var err error
		if c.piece, err = c.pieces.Next(); err != nil {
			return nil, err
		}
	}
	return c.piece.Data[at-c.piece.At:], nil
}
