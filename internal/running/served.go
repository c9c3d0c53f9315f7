package running

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/offloader/offloader/internal/relay"
	"github.com/offloader/offloader/internal/stream"
)

// failing is how long the archive may fail the server before that is believed.
const failing = 3 * time.Second

// served is what the relay gives the server, watched: how much of the snapshot has gone, how often
// it was asked for, and what went wrong. It gives nothing of the log before that was looked through (allow).
type served struct {
	relay.Archive
	soon int64         // bytes of the snapshot after which the log should be looked through
	due  chan struct{} // closed when it should: not before, since there are better uses of a processor then
	once sync.Once

	asked  atomic.Bool  // somebody was here
	copies atomic.Int64 // full copies that were asked for
	rdb    atomic.Int64 // bytes of the snapshot, of the last copy

	mu   sync.Mutex
	err  error // what the server was told last, where that was no answer
	when time.Time
	upTo stream.Offset // of the log may be given
	more chan struct{} // closed when upTo rises
}

func newServed(a relay.Archive, snapshot int64) *served {
	return &served{Archive: a, soon: snapshot / 4 * 3, due: make(chan struct{}), more: make(chan struct{})}
}

// isDue has the log looked through.
func (s *served) isDue() { s.once.Do(func() { close(s.due) }) }

// allow lets the log be given up to an offset.
func (s *served) allow(upTo stream.Offset) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.upTo = upTo
	close(s.more)
	s.more = make(chan struct{})
}

// wait waits until the log may be given up to an offset.
func (s *served) wait(ctx context.Context, upTo stream.Offset) error {
	for {
		s.mu.Lock()
		enough, more := s.upTo >= upTo, s.more
		s.mu.Unlock()
		if enough {
			return nil
		}
		select {
		case <-more:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (s *served) Continue(ctx context.Context, id stream.ReplID, behind stream.Offset) (relay.Stream, error) {
	s.asked.Store(true)
	st, err := s.Archive.Continue(ctx, id, behind)
	if err != nil {
		s.trouble(err)
		return nil, err
	}
	s.well()
	return &servedStream{st, s, behind}, nil
}

func (s *served) Copy(ctx context.Context) (*relay.Copy, error) {
	s.asked.Store(true)
	c, err := s.Archive.Copy(ctx)
	if err != nil {
		s.trouble(err)
		return nil, err
	}
	s.well()
	s.copies.Add(1)
	s.rdb.Store(0)
	c.RDB = &servedRDB{c.RDB, s}
	c.Stream = &servedStream{c.Stream, s, c.Offset}
	return c, nil
}

// trouble remembers what keeps the server from getting on. That it has to wait or to begin anew is none.
func (s *served) trouble(err error) {
	if errors.Is(err, relay.ErrFork) || errors.Is(err, io.EOF) || errors.Is(err, context.Canceled) || errors.As(err, new(*relay.LaterError)) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err, s.when = err, time.Now()
}

func (s *served) well() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = nil
}

// failure is what keeps the server from getting on, for a while now: what is damaged may lie elsewhere too.
func (s *served) failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil || time.Since(s.when) < failing {
		return nil
	}
	return s.err
}

type servedRDB struct {
	io.ReadCloser
	s *served
}

func (r *servedRDB) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	if r.s.rdb.Add(int64(n)) >= r.s.soon {
		r.s.isDue()
	}
	if err != nil {
		r.s.trouble(err)
	}
	return n, err
}

type servedStream struct {
	relay.Stream
	s  *served
	at stream.Offset // of the next byte
}

func (r *servedStream) Next(ctx context.Context) ([]byte, error) {
	r.s.isDue()
	if err := r.s.wait(ctx, r.at+1); err != nil { // by then the feed knows that what it opens is sound
		return nil, err
	}
	b, err := r.Stream.Next(ctx)
	if err != nil {
		r.s.trouble(err)
		return nil, err
	}
	r.at += stream.Offset(len(b))
	return b, r.s.wait(ctx, r.at)
}
