// Package feed is what a relay's replicas get: the archive as the stream of its master.
//
// A replica that comes with an id and an offset of the history that is served gets every byte behind
// them, from wherever they lie: the stores' segments, the spool, and then what becomes durable while it
// listens. One that comes with another history gets the newest snapshot first. Nothing is framed on the
// way: bytes are settled by id and offset, so they can be given from any byte on.
//
// What is served is a Live timeline, the one that a daemon writes, or a fixed point of the archive
// (Fixed). What is known of the archive is kept as long as it serves: a replica that comes back is
// answered without listing a store, most often from the spool alone.
//
// A segment of a store is read to its end, where its checksum stands, before any of it is given: a
// replica can't give back what it has applied. A file that is damaged is set aside, and others are used.
// Where a store is so slow that a replica loses its patience over that, it comes back, and the segment that
// it needs next is read while it still waits for its answer, for which it has all the time that we want.
package feed

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"sync"
	"time"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/relay"
	"github.com/offloader/offloader/internal/stream"
)

// Head is what is served: a timeline, up to a boundary.
type Head struct {
	Timeline string
	ReplID   stream.ReplID // in force at Durable
	Spooled  stream.Offset // from here on a Tail gives it
	Durable  stream.Offset
	Snapshot stream.Offset // of the snapshot that was taken last, 0 where that isn't known
}

// Live is a timeline that goes on.
type Live interface {
	// Head is the newest timeline; ok is false while there is none.
	Head() (h Head, ok bool)
	// News is closed when next the Head has changed. Who asks for it before the Head misses nothing.
	News() <-chan struct{}
	// Tail reads the named timeline behind an offset, while it is the newest.
	Tail(timeline string, behind stream.Offset) (Tail, error)
}

// Tail gives bytes that are durable, up to an offset, some at each call. It fails with fs.ErrNotExist
// where it no longer holds them: the stores do.
type Tail interface {
	Next(to stream.Offset) ([]byte, error)
	Close() error
}

// Options say what to serve.
type Options struct {
	Source string
	Live   Live
	Load   func(context.Context) (*archive.Catalog, error) // what is held; it looks into the spool first
	Logger *slog.Logger                                    // nil: silent
}

// Feed serves one source. It is a relay.Archive.
type Feed struct {
	o     Options
	fixed bool // nothing more comes

	loading chan struct{} // capacity 1: full while the archive is listed

	mu       sync.Mutex
	known    *history // nil: nothing yet
	knownAt  time.Time
	verified map[string]bool          // segments that were read to their ends
	reading  map[string]chan struct{} // those that are read to their ends now, each closed when it was
	aside    []func(*archive.Catalog) *archive.Catalog
}

// New serves what Live says.
func New(o Options) *Feed {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Feed{o: o, loading: make(chan struct{}, 1), verified: map[string]bool{}, reading: map[string]chan struct{}{}}
}

// Fixed serves a timeline up to a boundary of it or of its parents, and no further.
func Fixed(o Options, timeline string, to stream.Offset) *Feed {
	o.Live = fixed{timeline, to}
	f := New(o)
	f.fixed = true
	return f
}

// fixed is a Live that stands still. Its id is found in the archive.
type fixed struct {
	timeline string
	to       stream.Offset
}

func (f fixed) Head() (Head, bool) {
	return Head{Timeline: f.timeline, Spooled: math.MaxInt64, Durable: f.to}, true
}
func (fixed) News() <-chan struct{} { return nil }
func (fixed) Tail(string, stream.Offset) (Tail, error) {
	return nil, errors.New("a fixed point has no tail")
}

// relistAfter is how old what is known of the archive has to be before a replica that it doesn't help
// makes us look again.
const relistAfter = time.Second

// releaseAfter is that for a suspect timeline: its replicas ask each second, and a user takes their time.
const releaseAfter = 5 * time.Second

// sizeAfter is how old it may be for Size.
const sizeAfter = 10 * time.Minute

// maxAside is how many damaged files are set aside, and maxVerified how many whole ones are remembered.
const (
	maxAside    = 20
	maxVerified = 100_000
)

// ID is the replication id under which replicas are served now.
func (f *Feed) ID(ctx context.Context) (stream.ReplID, error) {
	h, _, err := f.history(ctx, time.Time{})
	if err != nil {
		return "", err
	}
	return h.id, nil
}

// Size is what a full copy would consist of now: the bytes of its RDB, and of the stream behind it. It fails
// where none can be given.
func (f *Feed) Size(ctx context.Context) (rdb, behind int64, err error) {
	h, head, err := f.history(ctx, time.Now().Add(-sizeAfter))
	if err != nil {
		return 0, 0, err
	}
	// What the spool has let go of since is in the stores, where nobody has looked yet.
	s := h.snapshot(min(h.listed.Spooled, head.Durable), head.Durable)
	if s == nil {
		return 0, 0, errNothing
	}
	info, err := s.Info(ctx)
	if err != nil {
		return 0, 0, err
	}
	return info.Bytes, int64(head.Durable - s.Offset), nil
}

// Continue gives the stream behind an offset of the history that id names.
func (f *Feed) Continue(ctx context.Context, id stream.ReplID, behind stream.Offset) (relay.Stream, error) {
	head, ok := f.o.Live.Head()
	if !ok {
		return nil, errNothing
	}
	if id == head.ReplID && head.Spooled <= behind && behind <= head.Durable {
		return f.run(head, behind), nil // nobody has to be asked
	}
	after := time.Time{}
	for try := 0; ; try++ {
		h, head, err := f.history(ctx, after)
		if err != nil {
			return nil, err
		}
		end, known := h.shared(id, head.Durable)
		switch {
		case !known, behind > end && (f.fixed || id != h.id):
			return nil, relay.ErrFork
		case behind > end: // it may have been faster than our disk
			return nil, &relay.LaterError{Why: fmt.Sprintf("the replica is at offset %d, and only what is before %d is archived yet", behind, end)}
		case h.holds(stream.Range{From: behind, To: min(head.Spooled, head.Durable)}):
			r := f.run(head, behind)
			if behind >= min(head.Spooled, head.Durable) {
				return r, nil
			}
			switch err := r.openSegment(ctx); {
			case err == nil:
				return r, nil
			case errors.Is(err, io.EOF):
				return nil, errChanged
			default:
				r.tries = try
				if err := r.again(err); err != nil {
					return nil, err
				}
			}
		case try > 0:
			return nil, relay.ErrFork
		}
		after = time.Now().Add(-relistAfter) // what is known may be old
	}
}

var (
	errNothing = &relay.LaterError{Why: "nothing is archived yet"}
	errChanged = &relay.LaterError{Why: "the timeline has ended at this moment"}
)

// Copy gives the newest snapshot that leads to what is served, and the stream behind it.
func (f *Feed) Copy(ctx context.Context) (*relay.Copy, error) {
	after := time.Time{}
	for try := 1; ; try++ {
		h, head, err := f.history(ctx, after)
		if err != nil {
			return nil, err
		}
		if h.suspect && !f.fixed {
			if try == 1 { // perhaps it is no more
				after = time.Now().Add(-releaseAfter)
				continue
			}
			return nil, &relay.LaterError{Why: "timeline " + head.Timeline + " is suspect: replicas that have data would lose it. `offloader release` lets it be served"}
		}
		s := h.snapshot(min(head.Spooled, head.Durable), head.Durable)
		if s == nil {
			if try == 1 { // what is known may be old
				after = time.Now().Add(-relistAfter)
				continue
			}
			return nil, &relay.LaterError{Why: fmt.Sprintf("no snapshot leads to offset %d of timeline %s", head.Durable, head.Timeline),
				Do: "`offloader verify` says what is damaged or missing; have it back from another copy of the archive, and restart the daemon"}
		}
		c, err := f.open(ctx, head, *s)
		if err == nil || try >= tries || !f.goneOrDamaged(err, s.without) {
			return c, err
		}
	}
}

func (f *Feed) open(ctx context.Context, head Head, s placed) (*relay.Copy, error) {
	info, err := s.Info(ctx)
	if err != nil {
		return nil, err
	}
	rdb, err := s.Open(ctx)
	if err != nil {
		return nil, err
	}
	c := &relay.Copy{
		Offset: s.Offset, RDBVersion: info.RDBVersion, Bytes: info.Bytes,
		RDB: &checked{rdb, f, s}, Stream: f.run(head, s.Offset),
	}
	if f.fixed {
		c.End = head.Durable
	}
	return c, nil
}

// history is what is known of the archive, if it is of the head and not older than after, nor than the last snapshot,
// else what is there now.
func (f *Feed) history(ctx context.Context, after time.Time) (*history, Head, error) {
	if h, head, err := f.cached(after); h != nil || err != nil {
		return h, head, err
	}
	select {
	case f.loading <- struct{}{}:
	case <-ctx.Done():
		return nil, Head{}, context.Cause(ctx)
	}
	defer func() { <-f.loading }()
	if h, head, err := f.cached(after); h != nil || err != nil { // another has looked meanwhile
		return h, head, err
	}
	now := time.Now()
	before, _ := f.o.Live.Head()
	cat, err := f.o.Load(ctx)
	if err != nil {
		return nil, Head{}, err
	}
	f.mu.Lock()
	aside := f.aside
	f.mu.Unlock()
	for _, without := range aside {
		cat = without(cat)
	}
	head, ok := f.o.Live.Head()
	if !ok {
		return nil, Head{}, errNothing
	}
	h, err := newHistory(cat, head)
	if err != nil {
		return nil, Head{}, err
	}
	if before.Timeline == head.Timeline {
		h.listed = before
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.known, f.knownAt = h, now
	head.ReplID = h.id
	return h, head, nil
}

// cached gives nil where nothing is known that serves.
func (f *Feed) cached(after time.Time) (*history, Head, error) {
	head, ok := f.o.Live.Head()
	if !ok {
		return nil, Head{}, errNothing
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	h := f.known
	if h == nil || f.knownAt.Before(after) || h.listed.Snapshot != head.Snapshot || h.timeline != head.Timeline || head.ReplID != "" && h.id != head.ReplID {
		return nil, head, nil
	}
	head.ReplID = h.id
	return h, head, nil
}
