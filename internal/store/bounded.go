package store

import (
	"context"
	"errors"
	"io"
	"sync/atomic"
	"time"

	"github.com/offloader/offloader/internal/archive"
)

const (
	// hangs is how long a call may make no headway. A disk that slept has woken up by then.
	hangs = 20 * time.Second
	// mostLeft is how many calls may hang before nothing more is asked.
	mostLeft = 16
	// largestRead is of what is read of a file at once.
	largestRead = 64 << 10
)

// Bounded is a folder that is read by who must not hang with it. A network file system whose server is gone answers
// no call, and what waits for one in the kernel can't be ended. So each call is made beside its caller, who leaves
// it when it makes no headway, or when ctx ends. Calls that were left are counted: where too many hang, nothing
// more is asked until one of them has returned. Put and Delete are as they are. Only the store's own shipper waits for
// them, and who leaves one can't know what becomes of it: a file might be deleted when it has been put there again, and the
// fsync of a large one takes long on a sound disk, and shows no headway.
func Bounded(d *Disk) Store { return &bounded{Disk: d, patience: hangs} }

type bounded struct {
	*Disk
	patience time.Duration
	left     atomic.Int64 // calls that nobody waits for any more
}

// errHangs says that a call did not come back.
var errHangs = errors.New("no answer: the disk hangs")

// call makes a call, which says by headway that it goes on. What comes too late is closed.
func call[T any](ctx context.Context, b *bounded, name string, what func(headway func()) (T, error)) (T, error) {
	var none T
	if b.left.Load() >= mostLeft {
		return none, b.failed(name, errHangs)
	}
	type outcome struct {
		v   T
		err error
	}
	done, left := make(chan outcome), make(chan struct{})
	var steps atomic.Int64
	go func() { // it may never end: left counts it then
		v, err := what(func() { steps.Add(1) })
		select {
		case done <- outcome{v, err}:
		case <-left:
			if c, ok := any(v).(io.Closer); ok && err == nil {
				_ = c.Close() // nothing was written
			}
			b.left.Add(-1)
		}
	}()
	leave := func(err error) (T, error) {
		b.left.Add(1)
		close(left)
		return none, err
	}
	patience := time.NewTimer(b.patience)
	defer patience.Stop()
	for seen := int64(0); ; {
		select {
		case o := <-done:
			return o.v, o.err
		case <-ctx.Done():
			return leave(context.Cause(ctx))
		case <-patience.C:
			now := steps.Load()
			if now == seen {
				return leave(b.failed(name, errHangs))
			}
			seen = now
			patience.Reset(b.patience)
		}
	}
}

// List implements Store.
func (b *bounded) List(ctx context.Context, dir string) ([]archive.Entry, error) {
	return call(ctx, b, dir, func(headway func()) ([]archive.Entry, error) { return b.list(ctx, dir, headway) })
}

// Dirs implements Store.
func (b *bounded) Dirs(ctx context.Context, dir string) ([]string, error) {
	return call(ctx, b, dir, func(func()) ([]string, error) { return b.Disk.Dirs(ctx, dir) })
}

// Open implements Store.
func (b *bounded) Open(ctx context.Context, name string) (io.ReadCloser, error) {
	f, err := call(ctx, b, name, func(func()) (io.ReadCloser, error) { return b.Disk.Open(ctx, name) })
	if err != nil {
		return nil, err
	}
	return &boundedFile{ReadCloser: f, b: b, ctx: ctx, name: name}, nil
}

// boundedFile is a file that is read.
type boundedFile struct {
	io.ReadCloser
	b    *bounded
	ctx  context.Context // a reader's life: Read is given none
	name string

	buf []byte // what a call reads into: p may be somebody else's when it comes back
	err error  // for good
}

func (f *boundedFile) Read(p []byte) (int, error) {
	if f.err != nil {
		return 0, f.err
	}
	size := min(len(p), largestRead)
	if len(f.buf) < size {
		f.buf = make([]byte, size)
	}
	into := f.buf[:size]
	n, err := call(f.ctx, f.b, f.name, func(func()) (int, error) { return f.ReadCloser.Read(into) })
	f.err = err
	return copy(p, into[:n]), err
}
