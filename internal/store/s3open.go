package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/offloader/offloader/internal/archive"
)

const (
	// resumptions is how often a reader that gets next to nothing asks again for the rest.
	resumptions = 4
	// progress is what makes it forget how often it has asked.
	progress = 1 << 20
)

// Open implements Store. The object's bytes arrive as they are read; a connection that breaks or
// goes silent is replaced by one for the rest of the same object. What is read to its end has the
// length that the service said first, and its checksum, if it came over one connection; else it is
// an archive.DamageError.
func (s *S3) Open(ctx context.Context, name string) (io.ReadCloser, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	r := &s3Reader{s: s, ctx: ctx, name: name}
	if err := r.connect(); err != nil {
		return nil, err
	}
	return r, nil
}

// s3Reader is an object that is read.
type s3Reader struct {
	s    *S3
	ctx  context.Context // a reader's life: Read is given none
	name string

	body   io.ReadCloser
	cancel context.CancelCauseFunc
	idle   *time.Timer
	etag   *string
	at     int64
	size   int64
	mark   int64 // at, when resume was zero
	resume int   // how often it was asked again since mark

	pending error // came with the last bytes
	err     error // for good
}

// connect asks for all from r.at on.
func (r *s3Reader) connect() error {
	in := &s3.GetObjectInput{Bucket: r.s.bucket(), Key: r.s.key(r.name)}
	if r.etag == nil {
		in.ChecksumMode = types.ChecksumModeEnabled
	} else {
		in.Range, in.IfMatch = aws.String(fmt.Sprintf("bytes=%d-", r.at)), r.etag
	}
	return r.s.call(r.ctx, "read", r.name, r.s.o.Timeout, func(asking context.Context, _ int) error {
		// The body outlives the request for it, and so does its context.
		reading, cancel := context.WithCancelCause(r.ctx)
		answered := context.AfterFunc(asking, func() { cancel(context.Cause(asking)) })
		out, err := r.s.client.GetObject(reading, in)
		if err == nil && !answered() {
			err = errors.Join(context.Cause(asking), out.Body.Close())
		}
		if err == nil && out.ContentLength == nil {
			err = errors.Join(errors.New("the answer has no length"), out.Body.Close())
		}
		if err == nil && r.etag != nil && r.at+*out.ContentLength != r.size {
			err = errors.Join(fmt.Errorf("of %d bytes that are left it has %d", r.size-r.at, *out.ContentLength), out.Body.Close())
		}
		if err != nil {
			cancel(nil)
			return err
		}
		if r.etag == nil {
			r.etag, r.size = out.ETag, *out.ContentLength
			if r.etag == nil {
				r.etag = aws.String("*")
			}
		}
		r.body, r.cancel = out.Body, cancel
		r.idle = time.AfterFunc(r.s.o.Timeout, func() { cancel(errTimeout) })
		r.idle.Stop() // until somebody reads
		return nil
	})
}

func (r *s3Reader) Read(p []byte) (int, error) {
	for {
		if r.err != nil || len(p) == 0 {
			return 0, r.err
		}
		n, err := r.read(p)
		if n > 0 {
			return n, nil
		}
		if err != nil {
			r.err = r.again(err)
		}
	}
}

// read reads from the connection there is. An error comes alone.
func (r *s3Reader) read(p []byte) (int, error) {
	if err := r.pending; err != nil {
		r.pending = nil
		return 0, err
	}
	r.idle.Reset(r.s.o.Timeout)
	n, err := r.body.Read(p)
	r.idle.Stop() // whoever reads slowly isn't a connection that is silent
	r.at += int64(n)
	if n > 0 {
		r.pending = err
		return n, nil
	}
	return 0, err
}

// again replaces a connection that ended in err, where that makes sense; else it says how reading ends.
func (r *s3Reader) again(err error) error {
	switch {
	case err == io.EOF && r.at == r.size:
		return io.EOF
	case r.ctx.Err() != nil:
		return context.Cause(r.ctx)
	case r.at >= r.size: // all is there, and something is wrong with it
		return &archive.DamageError{Name: r.name, What: "the bucket gives other bytes than were put", Err: fmt.Errorf("archive %s: %w", r.s, err)}
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if r.at-r.mark >= progress {
		r.mark, r.resume = r.at, 0
	}
	if r.resume++; r.resume > resumptions {
		return r.s.failed("read", r.name, r.s.o.Timeout, fmt.Errorf("after %d of %d bytes: %w", r.at, r.size, err))
	}
	_ = r.disconnect() // it has broken, that is why we are here
	return r.connect()
}

func (r *s3Reader) disconnect() error {
	r.idle.Stop()
	r.cancel(nil)
	return r.body.Close()
}

// Close ends the connection, also in the middle.
func (r *s3Reader) Close() error {
	_ = r.disconnect() // what was read is read, and the rest isn't wanted
	if r.err == nil {
		r.err = errors.New("read of a closed file")
	}
	return nil
}
