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
// A damaged file, or one that a store doesn't give and another one has, is set aside. Where others hold its
// range those are searched; else it is a hole, and an error at the end.
//
// Errors are those of load and Search, and *archive.DamageError. A timeline that there isn't has no
// entries.
func Timeline(ctx context.Context, load func(context.Context) (*archive.Catalog, error), name string, q Query, hole func(stream.Range), found func(Entry) error) error {
	r := reader{query: q, found: found, hole: hole}
	var aside []archive.Segment
	var lost []error
	for {
		cat, err := load(ctx)
		if err != nil {
			return err
		}
		for _, s := range aside {
			cat = cat.WithoutSegment(name, s)
		}
		t := cat.Timeline(name)
		if t == nil {
			return errors.Join(lost...)
		}
		before := r.at
		var bad *segmentError
		switch err = r.timeline(ctx, t); {
		case err == nil, errors.Is(err, ErrStop):
			return errors.Join(lost...)
		case errors.Is(err, fs.ErrNotExist) && ctx.Err() == nil && (r.at > before || r.again < listings):
			if r.again++; r.at > before {
				r.again = 0
			}
		case r.refused == nil && ctx.Err() == nil && len(aside) < damages && errors.As(err, &bad) && bad.setAside():
			aside = append(aside, bad.Segment)
			left := cat.WithoutSegment(name, bad.Segment).Timeline(name).Segments
			if len(archive.Missing(left, stream.Range{From: max(r.at, bad.From), To: bad.To})) > 0 {
				lost = append(lost, bad.error)
			}
		default:
			return errors.Join(append(lost, err)...)
		}
	}
}

// damages is how many files are set aside at most: each costs another listing.
const damages = 20

// segmentError is what went wrong with one segment.
type segmentError struct {
	archive.Segment
	error
}

func (e *segmentError) Unwrap() error { return e.error }

// setAside tells whether it is worth looking for others in its place.
func (e *segmentError) setAside() bool {
	return errors.As(e.error, new(*archive.DamageError)) || e.Elsewhere() && !errors.Is(e.error, fs.ErrNotExist)
}

// reader goes through a timeline's segments. A transaction never goes from one into the next.
type reader struct {
	query Query
	found func(Entry) error
	hole  func(stream.Range)
	at    stream.Offset // a boundary; what is before it was searched
	again int           // how often it was listed since a segment was read

	refused error // what found said: no word on a file
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
					return &segmentError{s, err}
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
		r.refused, stopped = err, errors.Is(err, ErrStop)
		r.at = max(r.at, e.After) // should the rest have vanished, this isn't told twice
		return err
	})
	switch {
	case stopped:
		return ErrStop
	case errors.As(err, new(*archive.DamageError)): // whatever the cause
	case errors.As(err, new(*resp.ProtocolError)):
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
