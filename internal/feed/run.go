package feed

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/relay"
	"github.com/offloader/offloader/internal/stream"
)

// run is the stream to one replica. It is a relay.Stream.
type run struct {
	f        *Feed
	timeline string
	id       stream.ReplID
	at       stream.Offset // of the next byte

	tail   Tail                // of the spool, nil while it isn't read
	pieces archive.PieceReader // of a segment, nil while none is read
	seg    *segmentAt
	opened time.Time // when what is known of the archive was asked for last
	tries  int       // how often, at this offset
}

// tries is how often the archive is listed for one offset: under load, segments and chunks come and go.
const tries = 10

func (f *Feed) run(head Head, behind stream.Offset) *run {
	return &run{f: f, timeline: head.Timeline, id: head.ReplID, at: behind}
}

func (r *run) ReplID() stream.ReplID { return r.id }

// Next waits for more. The head is looked at first: bytes that came under another id must not be given to
// a replica that would count them to the old one.
func (r *run) Next(ctx context.Context) ([]byte, error) {
	for {
		news := r.f.o.Live.News()
		head, ok := r.f.o.Live.Head()
		if !ok || head.Timeline != r.timeline || head.ReplID != "" && head.ReplID != r.id {
			return nil, io.EOF
		}
		if r.at < head.Durable {
			b, err := r.read(ctx, head)
			if err != nil {
				return nil, err
			}
			if len(b) > 0 {
				r.at += stream.Offset(len(b))
				return b, nil
			}
			continue
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-news:
		}
	}
}

// read gives some bytes from at on, or none where it has to be asked again.
func (r *run) read(ctx context.Context, head Head) ([]byte, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	var b []byte
	var err error
	switch {
	case r.pieces == nil && (r.tail != nil || r.at >= head.Spooled):
		b, err = r.spooled(head.Durable)
	default:
		b, err = r.stored(ctx, head)
	}
	if err == nil {
		r.tries = 0
		return b, nil
	}
	return nil, r.again(err)
}

// again closes what is open, and tells whether it is worth looking at the archive once more: nil, or else
// the error.
func (r *run) again(err error) error {
	without := func(c *archive.Catalog) *archive.Catalog { return c }
	if r.seg != nil {
		without = r.seg.without
	}
	again := r.f.goneOrDamaged(err, without)
	if closing := r.Close(); closing != nil || !again {
		return errors.Join(err, closing)
	}
	if r.tries++; r.tries >= tries {
		return err
	}
	r.opened = time.Now()
	return nil
}

func (r *run) spooled(to stream.Offset) ([]byte, error) {
	if r.tail == nil {
		tail, err := r.f.o.Live.Tail(r.timeline, r.at)
		if err != nil {
			return nil, err
		}
		r.tail = tail
	}
	return r.tail.Next(to)
}

// stored reads a segment from the byte at at on.
func (r *run) stored(ctx context.Context, head Head) ([]byte, error) {
	if r.pieces == nil {
		if err := r.openSegment(ctx); err != nil {
			return nil, err
		}
	}
	for {
		p, err := r.pieces.Next()
		if err == nil && p.End() <= r.at {
			continue
		}
		end := min(r.seg.to, head.Durable)
		switch {
		case err != nil && err != io.EOF:
			return nil, err
		case err == io.EOF || p.At >= end:
			if r.at < end {
				return nil, &archive.DamageError{Name: r.seg.name(), What: fmt.Sprintf("it ends before offset %d", end)}
			}
			return nil, r.Close() // then what follows it
		case p.At > r.at:
			return nil, &archive.DamageError{Name: r.seg.name(), What: fmt.Sprintf("it goes on at offset %d where %d was to follow", p.At, r.at)}
		}
		return p.Data[r.at-p.At : min(p.End(), end)-p.At], nil
	}
}

// openSegment finds the segment that holds at, and makes sure that it is whole.
func (r *run) openSegment(ctx context.Context) error {
	h, _, err := r.f.history(ctx, r.opened)
	if err != nil {
		return err
	}
	if h.timeline != r.timeline {
		return io.EOF
	}
	if r.seg = h.segment(r.at); r.seg == nil {
		return fmt.Errorf("offset %d of timeline %s is neither in the spool nor in a store: %w", r.at, r.timeline, fs.ErrNotExist)
	}
	if err := r.f.verify(ctx, r.seg); err != nil {
		return err
	}
	pieces, err := r.seg.Open(ctx)
	if err != nil {
		return err // pieces may be a reader's nil, which is no nil of this interface
	}
	r.pieces = pieces
	return nil
}

// Close closes what is open.
func (r *run) Close() error {
	var errs []error
	if r.tail != nil {
		errs = append(errs, r.tail.Close())
	}
	if r.pieces != nil {
		errs = append(errs, r.pieces.Close())
	}
	r.tail, r.pieces, r.seg = nil, nil, nil
	return errors.Join(errs...)
}

// verify reads a stored segment to its end, once. What the spool gives is checked record by record. Of
// several who want the same one reads.
func (f *Feed) verify(ctx context.Context, s *segmentAt) error {
	if s.Name == "" {
		return nil
	}
	for {
		f.mu.Lock()
		other, done := f.reading[s.name()], f.verified[s.name()]
		if !done && other == nil {
			break
		}
		f.mu.Unlock()
		if done {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-other:
		}
	}
	read := make(chan struct{})
	defer close(read)
	f.reading[s.name()] = read
	f.mu.Unlock()
	err := s.readToEnd(ctx)
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.reading, s.name())
	if err == nil {
		f.sound(s.name())
	}
	return err
}

// readToEnd fails if the segment is not as it was archived.
func (s *segmentAt) readToEnd(ctx context.Context) error {
	pieces, err := s.Open(ctx)
	if err != nil {
		return err
	}
	for err == nil && ctx.Err() == nil {
		_, err = pieces.Next()
	}
	if closing := pieces.Close(); err == io.EOF {
		err = closing
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// Sound says that a stored segment was read to its end, and found sound.
func (f *Feed) Sound(timeline string, s archive.Segment) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sound(segmentAt{Segment: s, timeline: timeline}.name())
}

// sound remembers a segment that was read. f.mu is held.
func (f *Feed) sound(name string) {
	if len(f.verified) >= maxVerified {
		clear(f.verified)
	}
	f.verified[name] = true
}

// goneOrDamaged tells whether it is worth looking again: a file is gone, or damaged, which is said and
// remembered.
func (f *Feed) goneOrDamaged(err error, without func(*archive.Catalog) *archive.Catalog) bool {
	var damage *archive.DamageError
	damaged := errors.As(err, &damage)
	if !damaged && !errors.Is(err, fs.ErrNotExist) {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if damaged {
		if len(f.aside) >= maxAside {
			return false
		}
		f.o.Logger.Error("a file of the archive is damaged, and others are used where there are any", "source", f.o.Source, "error", damage)
		f.aside = append(f.aside, without)
	}
	f.known = nil
	return true
}

// checked is a snapshot that is set aside if it is found damaged at its end.
type checked struct {
	io.ReadCloser
	f *Feed
	s placed
}

func (c *checked) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		c.f.goneOrDamaged(err, c.s.without)
	}
	return n, err
}

var _ relay.Archive = (*Feed)(nil)
