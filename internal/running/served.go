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
// it was asked for, and what went wrong. It gives nothing of the log before that was looked through.
type served struct {
	relay.Archive
	log chan struct{} // closed when the log was looked through, and may be given

	asked  atomic.Bool  // somebody was here
	copies atomic.Int64 // full copies that were asked for
	rdb    atomic.Int64 // bytes of the snapshot, of the last copy

	mu   sync.Mutex
	err  error // what the server was told last, where that was no answer
	when time.Time
}

func (s *served) Continue(ctx context.Context, id stream.ReplID, behind stream.Offset) (relay.Stream, error) {
	s.asked.Store(true)
	st, err := s.Archive.Continue(ctx, id, behind)
	if err != nil {
		s.trouble(err)
		return nil, err
	}
	s.well()
	return &servedStream{st, s}, nil
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
	c.Stream = &servedStream{c.Stream, s}
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
	r.s.rdb.Add(int64(n))
	if err != nil {
		r.s.trouble(err)
	}
	return n, err
}

type servedStream struct {
	relay.Stream
	s *served
}

func (r *servedStream) Next(ctx context.Context) ([]byte, error) {
	select {
	case <-r.s.log:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	b, err := r.Stream.Next(ctx)
	if err != nil {
		r.s.trouble(err)
	}
	return b, err
}
