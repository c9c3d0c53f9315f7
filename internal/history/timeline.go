package history

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/resp"
	"github.com/offloader/offloader/internal/stream"
)

// Timeline searches all that is held of one timeline, without what it continues. load lists what
// there is of the source; it is called again when a file has vanished, since segments are joined
// and spools trimmed while they are read. hole is told what is missing in the middle, before the
// entries behind it.
//
// Errors are those of load and Search, and *archive.DamageError. A timeline that there isn't has no
// entries.
func Timeline(ctx context.Context, load func(context.Context) (*archive.Catalog, error), name string, q Query, hole func(stream.Range), found func(Entry) error) error {
	r := reader{query: q, found: found, hole: hole}
	for {
		cat, err := load(ctx)
		if err != nil {
			return err
		}
		t := cat.Timeline(name)
		if t == nil {
			return nil
		}
		before := r.at
		switch err = r.timeline(ctx, t); {
		case errors.Is(err, ErrStop):
			return nil
		case errors.Is(err, fs.ErrNotExist) && ctx.Err() == nil && (r.at > before || r.again < listings):
			if r.again++; r.at > before {
				r.again = 0
			}
		default:
			return err
		}
	}
}

// reader goes through a timeline's segments. A transaction never goes from one into the next.
type reader struct {
	query Query
	found func(Entry) error
	hole  func(stream.Range)
	at    stream.Offset // a boundary; what is before it was searched
	again int           // how often it was listed since a segment was read
}

// listings is how often the archive is listed without any progress, before it is believed that a
// file has vanished: under load, segments and chunks come and go within tenths of a second.
const listings = 10

func (r *reader) timeline(ctx context.Context, t *archive.Timeline) error {
	r.at = max(r.at, t.Offset)
	for end := t.End(); r.at < end; {
		segments, _ := archive.Cover(t.Segments, stream.Range{From: r.at, To: end})
		if len(segments) == 0 {
			next := nextBehind(t.Segments, r.at)
			if next == nil {
				return nil // a snapshot is all that is held there
			}
			if next.Time0 >= r.query.From {
				r.hole(stream.Range{From: r.at, To: next.From})
			}
			r.at = next.From
			continue
		}
		for _, s := range segments {
			if r.query.To != 0 && s.Time0 >= r.query.To {
				return nil
			}
			if s.Time1 >= r.query.From {
				if err := r.segment(ctx, t.Timeline, s); err != nil {
					return err
				}
			}
			r.at = s.To
			if r.query.To != 0 && s.Time1 >= r.query.To {
				return nil // nor is a hole behind it of interest
			}
		}
	}
	return nil
}

// nextBehind is the first segment that begins behind at, nil if there is none.
func nextBehind(segments []archive.Segment, at stream.Offset) *archive.Segment {
	for i := range segments { // by From
		if segments[i].From > at {
			return &segments[i]
		}
	}
	return nil
}

// segment searches one from r.at on.
func (r *reader) segment(ctx context.Context, timeline string, s archive.Segment) (err error) {
	name := timeline + "/" + s.Name
	if s.Name == "" {
		name = "the spool's part " + s.Range.String()
	}
	pieces, err := s.Open(ctx)
	if err != nil {
		return fmt.Errorf("open %s: %w", name, err)
	}
	defer func() {
		if closed := pieces.Close(); err == nil {
			err = closed
		}
	}()
	first, err := pieces.Next() // behind it, the database is known
	if err != nil {
		if err == io.EOF {
			return &archive.DamageError{Name: name, What: "it is empty"}
		}
		return err
	}
	from, stopped := r.at, false
	begin := stream.Cursor{Offset: first.At, DB: pieces.DB(), Time: first.Time}
	err = Search(ctx, begin, &pushedBack{first, false, pieces}, r.query, func(e Entry) error {
		if e.Offset < from {
			return nil // the segment before went further
		}
		err := r.found(e)
		stopped = errors.Is(err, ErrStop)
		r.at = max(r.at, e.After) // should the rest have vanished, this isn't told twice
		return err
	})
	var malformed *resp.ProtocolError
	switch {
	case stopped:
		return ErrStop
	case errors.As(err, &malformed):
		return &archive.DamageError{Name: name, What: "what it holds is no replication stream", Err: err}
	}
	return err
}

// pushedBack gives a piece, and then those of the reader that it came from.
type pushedBack struct {
	first stream.Piece
	given bool
	rest  Pieces
}

func (p *pushedBack) Next() (stream.Piece, error) {
	if p.given {
		return p.rest.Next()
	}
	p.given = true
	return p.first, nil
}
