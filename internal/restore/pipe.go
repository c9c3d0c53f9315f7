package restore

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/offloader/offloader/internal/durable"
	"github.com/offloader/offloader/internal/stream"
)

const (
	chunkSize = 1 << 20
	// chunks is how many are on their way at most: enough that reading, writing and counting
	// don't wait for each other's hiccups.
	chunks = 8
	// syncEvery is how much is written before it is synced, beside the writing. Much less slows
	// the writing down, much more leaves a long fsync for the end.
	syncEvery = 32 << 20
)

// chunk is a part of a file on its way from the reader to the disk and to the counter.
type chunk struct {
	data   []byte         // of the file
	pieces []stream.Piece // the parts of it that are stream; their Data lies in data
	users  atomic.Int32   // who still needs it
}

// pipe takes the bytes of one file and hands them on in chunks.
type pipe struct {
	free    chan *chunk
	written chan *chunk
	counted chan *chunk // nil: nobody counts
	cur     *chunk
	whole   bool // all was given; known once the channels are closed
}

func newPipe(n, size int) *pipe {
	p := &pipe{free: make(chan *chunk, n), written: make(chan *chunk, n)}
	for range n {
		p.free <- &chunk{data: make([]byte, 0, size)}
	}
	return p
}

// file makes the file name of what fill gives, and shows it to count, if that is not nil. All
// of that runs side by side and has ended when file returns.
func (w *writer) file(ctx context.Context, name string, fill func(context.Context, *pipe) error, count func(*pipe) error) (err error) {
	path := filepath.Join(w.dir, name)
	f, err := durable.CreateAppend(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := os.Chmod(path, fileMode); err != nil {
		return err
	}
	p := newPipe(chunks, chunkSize)
	g, ctx := errgroup.WithContext(ctx)
	if count != nil {
		p.counted = make(chan *chunk, cap(p.free))
		g.Go(func() error { return count(p) })
	}
	due := make(chan struct{}, 1)
	g.Go(func() error {
		defer close(due)
		return w.drain(p, f, due)
	})
	g.Go(func() error {
		for range due {
			if err := f.Sync(); err != nil {
				return err
			}
		}
		return nil
	})
	g.Go(func() error {
		defer p.close()
		if err := fill(ctx, p); err != nil {
			return err
		}
		err := p.send(ctx)
		p.whole = err == nil
		return err
	})
	if err := g.Wait(); err != nil {
		return err
	}
	return f.Sync()
}

// drain writes chunks to f until there are no more, and says when syncing is due. After an
// error it goes on to take chunks, so that who gives them can't hang.
func (w *writer) drain(p *pipe, f *durable.File, due chan<- struct{}) (err error) {
	unsynced := 0
	for c := range p.written {
		if err == nil {
			_, err = f.Write(c.data)
		}
		w.done += int64(len(c.data))
		unsynced += len(c.data)
		p.release(c)
		if unsynced >= syncEvery {
			select {
			case due <- struct{}{}:
				unsynced = 0
			default: // the last one still runs
			}
		}
		if w.progress != nil && err == nil {
			w.progress(min(w.done, w.total), w.total)
		}
	}
	return err
}

// release gives a chunk back when its last user is done with it.
func (p *pipe) release(c *chunk) {
	if c.users.Add(-1) == 0 {
		c.data, c.pieces = c.data[:0], c.pieces[:0]
		p.free <- c
	}
}

// room makes sure that the current chunk can take a byte.
func (p *pipe) room(ctx context.Context) error {
	if p.cur != nil && len(p.cur.data) < cap(p.cur.data) {
		return nil
	}
	if err := p.send(ctx); err != nil {
		return err
	}
	select {
	case p.cur = <-p.free:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// send hands the current chunk on. The channels have room for all chunks that there are.
func (p *pipe) send(ctx context.Context) error {
	c := p.cur
	if c == nil {
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	p.cur = nil
	c.users.Store(1)
	if p.counted != nil {
		c.users.Store(2)
		p.counted <- c
	}
	p.written <- c
	return nil
}

func (p *pipe) close() {
	close(p.written)
	if p.counted != nil {
		close(p.counted)
	}
}

// write adds bytes that are not part of the stream.
func (p *pipe) write(ctx context.Context, b []byte) error {
	for len(b) > 0 {
		if err := p.room(ctx); err != nil {
			return err
		}
		n := min(len(b), cap(p.cur.data)-len(p.cur.data))
		p.cur.data = append(p.cur.data, b[:n]...)
		b = b[n:]
	}
	return nil
}

// piece adds a piece of the stream. One that is blank is shown to the counter only.
func (p *pipe) piece(ctx context.Context, s stream.Piece) error {
	if s.Blank {
		if err := p.room(ctx); err != nil {
			return err
		}
		s.Data = bytes.Clone(s.Data)
		p.cur.pieces = append(p.cur.pieces, s)
		return nil
	}
	for len(s.Data) > 0 {
		if err := p.room(ctx); err != nil {
			return err
		}
		at := len(p.cur.data)
		n := min(len(s.Data), cap(p.cur.data)-at)
		p.cur.data = append(p.cur.data, s.Data[:n]...)
		p.cur.pieces = append(p.cur.pieces, stream.Piece{At: s.At, Time: s.Time, Data: p.cur.data[at : at+n], First: -1})
		s.At, s.Data = s.At+stream.Offset(n), s.Data[n:]
	}
	return nil
}

// readFrom adds all that r gives.
func (p *pipe) readFrom(ctx context.Context, r io.Reader) error {
	for {
		if err := p.room(ctx); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		d := p.cur.data
		n, err := r.Read(d[len(d):cap(d)])
		p.cur.data = d[:len(d)+n]
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
