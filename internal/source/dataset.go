package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/offloader/offloader/internal/rdbwalk"
	"github.com/offloader/offloader/internal/stream"
	"github.com/offloader/offloader/internal/syncer"
)

// Dataset gives use what the source holds now, as an RDB, and where it stands in the timeline that
// goes on, unless that is suspect: whoever exports wants what is good. from is as for TakeSnapshot. The RDB passes as fast as use reads it and is kept nowhere,
// so it is the server's child that waits; it ends in io.EOF only when all of it has come and is
// sound. What use returns is returned.
func (s *Source) Dataset(ctx context.Context, from *syncer.Options, use func(timeline string, at Moment, rdb io.Reader) error) error {
	give, err := s.turn(ctx)
	if err != nil {
		return err
	}
	defer give()
	cur, o, err := s.beside(from)
	if err != nil {
		return err
	}
	if sus := s.Suspect(); sus != nil && sus.Timeline == cur.Info().Timeline {
		return &SuspectError{s.o.Name, *sus}
	}
	var p *passing
	err = syncer.Fetch(ctx, o, func(m syncer.Master, id stream.ReplID, at stream.Offset, _ int64) (syncer.Incoming, error) {
		if err := isOf(cur, m, id); err != nil {
			return nil, err
		}
		now := Moment{at, stream.TimeOf(time.Now())}
		p = pass(func(rdb io.Reader) error { return use(cur.Info().Timeline, now, rdb) })
		return p, nil
	})
	if p != nil {
		if used := p.wait(); used != nil && errors.Is(err, used) {
			return used // it is why the transfer was broken off
		}
	}
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("take the dataset of source %s: %w", s.o.Name, err)
	}
	return err
}

// passing is an RDB on its way through to a reader.
type passing struct {
	to    *io.PipeWriter
	ended chan struct{} // closed when the reader has returned
	err   error         // that of the reader, once it has
}

func pass(use func(io.Reader) error) *passing {
	r, w := io.Pipe()
	p := &passing{to: w, ended: make(chan struct{})}
	go func() { // wait waits for it
		defer close(p.ended)
		p.err = use(r)
		if p.err == nil {
			r.CloseWithError(errors.New("not all of the RDB was read")) // nobody sees it of one that was
		} else {
			r.CloseWithError(p.err)
		}
	}()
	return p
}

func (p *passing) wait() error {
	<-p.ended
	return p.err
}

func (p *passing) Write(b []byte) (int, error) { return p.to.Write(b) }

// Whole lets the reader have the end.
func (p *passing) Whole(rdbwalk.Summary) error {
	if err := p.to.Close(); err != nil {
		return err
	}
	return p.wait()
}

// Discard lets the reader know that there will be none.
func (p *passing) Discard(cause error) {
	p.to.CloseWithError(fmt.Errorf("the RDB didn't come whole: %w", cause))
	_ = p.wait() // Dataset looks at it
}
