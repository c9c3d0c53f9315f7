package verify

import (
	"cmp"
	"context"
	"errors"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strconv"
	"sync"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/engine"
	"github.com/offloader/offloader/internal/feed"
	"github.com/offloader/offloader/internal/plan"
	"github.com/offloader/offloader/internal/relay"
	"github.com/offloader/offloader/internal/replay"
	"github.com/offloader/offloader/internal/stream"
)

// sorted are databases, by number.
func sorted(keys map[string]int64) []string {
	return slices.SortedFunc(maps.Keys(keys), func(a, b string) int {
		x, errX := strconv.Atoi(a)
		y, errY := strconv.Atoi(b)
		if errX != nil || errY != nil {
			return cmp.Compare(a, b)
		}
		return cmp.Compare(x, y)
	})
}

// replay has an engine replicate from a relay of its own that ends at a point, and returns when it is there.
func (b *boot) replay(ctx context.Context, e *engine.Engine, to *replay.Replay) error {
	timeline, end := to.Timeline.TimelineInfo.Timeline, to.To.Offset
	alive, cancel := context.WithCancelCause(ctx)
	w := &witness{boot: b, engine: e, ctx: alive, fail: cancel,
		feed: feed.Fixed(feed.Options{Source: b.Source, Load: b.o.Load, Logger: b.o.Logger}, timeline, end)}
	err := relay.Private(alive, w, b.o.Logger, func(ctx context.Context, address, password string) error {
		return e.Follow(ctx, address, password, end)
	})
	cancel(nil)
	var failed *feedError
	if errors.As(err, &failed) && ctx.Err() == nil {
		return b.explain(ctx, timeline, end, failed.err)
	}
	return err
}

// explain finds out why the relay could not go on: what is damaged is told as whoever restores is told.
func (b *boot) explain(ctx context.Context, timeline string, end stream.Offset, failed error) error {
	request := plan.Request{Point: plan.Point{Kind: plan.ByOffset, Offset: end}, Timeline: timeline}
	err := replay.Run(ctx, b.o.Load, request, func(ctx context.Context, r *replay.Replay) error {
		rdb, err := r.RDB(ctx)
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, rdb)
		if err := errors.Join(err, rdb.Close()); err != nil {
			return err
		}
		s := r.Stream(ctx)
		for err == nil {
			_, err = s.Next()
		}
		if err == io.EOF {
			err = nil
		}
		return errors.Join(err, s.Close())
	})
	return cmp.Or(err, failed)
}

// feedError says that the relay's archive has failed.
type feedError struct{ err error }

func (e *feedError) Error() string { return e.err.Error() }

// witness is a relay's archive for one engine, which asks again after whatever goes wrong, without end: it
// takes note of what does.
type witness struct {
	boot   *boot
	engine *engine.Engine
	feed   relay.Archive
	ctx    context.Context //nolint:containedctx // of the replay that it serves
	fail   context.CancelCauseFunc

	mu     sync.Mutex
	copies int  // how many were begun
	whole  bool // an RDB went out to its end
}

// maxCopies is how many an engine gets: what is damaged is set aside each time, and others are used.
const maxCopies = 20

// Continue implements relay.Archive.
func (w *witness) Continue(ctx context.Context, id stream.ReplID, behind stream.Offset) (relay.Stream, error) {
	s, err := w.feed.Continue(ctx, id, behind)
	if err != nil {
		if !errors.Is(err, relay.ErrFork) {
			w.failed(err)
		}
		return nil, err
	}
	return &watched{s, w}, nil
}

// Copy implements relay.Archive.
func (w *witness) Copy(ctx context.Context) (*relay.Copy, error) {
	w.mu.Lock()
	w.copies++
	whole, copies := w.whole, w.copies
	w.mu.Unlock()
	if whole || copies > maxCopies {
		w.fail(w.engine.Fail("it got the RDB, and asks for it once more: it can't load it"))
		return nil, context.Canceled
	}
	c, err := w.feed.Copy(ctx)
	if err != nil {
		w.failed(err)
		return nil, err
	}
	c.RDB, c.Stream = &watchedRDB{c.RDB, w}, &watched{c.Stream, w}
	return c, nil
}

func (w *witness) failed(err error) {
	if w.ctx.Err() == nil {
		w.fail(&feedError{err})
	}
}

func (w *witness) gave(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.boot.Bytes += int64(n)
	if show := w.boot.o.Progress; show != nil {
		show(w.boot.Bytes, max(w.boot.Bytes, w.boot.total))
	}
}

type watchedRDB struct {
	io.ReadCloser
	w *witness
}

func (r *watchedRDB) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	r.w.gave(n)
	switch {
	case err == nil:
	case err == io.EOF:
		r.w.mu.Lock()
		r.w.whole = true
		r.w.mu.Unlock()
	case !errors.As(err, new(*archive.DamageError)) && !errors.Is(err, fs.ErrNotExist): // those a feed sets aside
		r.w.failed(err)
	}
	return n, err
}

type watched struct {
	relay.Stream
	w *witness
}

func (s *watched) Next(ctx context.Context) ([]byte, error) {
	b, err := s.Stream.Next(ctx)
	if err != nil && err != io.EOF && ctx.Err() == nil {
		s.w.failed(err)
	}
	s.w.gave(len(b))
	return b, err
}
