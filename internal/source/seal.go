package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/crypt"
	"github.com/offloader/offloader/internal/spool"
	"github.com/offloader/offloader/internal/stream"
)

// Encoders are the compressors for one store that all sources of a daemon share: few, so that
// memory does not follow the number of sources, and none that waits for another store.
type Encoders struct{ idle chan *archive.Encoder }

// NewEncoders makes n of them. Where there are recipients, what is stored is encrypted to them.
func NewEncoders(n int, to ...crypt.Recipient) (*Encoders, error) {
	e := &Encoders{make(chan *archive.Encoder, n)}
	for range n {
		enc, err := archive.NewEncoder(to...)
		if err != nil {
			return nil, err
		}
		e.idle <- enc
	}
	return e, nil
}

// take waits for an encoder; give gives it back.
func (e *Encoders) take(ctx context.Context) (*archive.Encoder, error) {
	select {
	case enc := <-e.idle:
		return enc, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (e *Encoders) give(enc *archive.Encoder) {
	enc.Release()
	e.idle <- enc
}

// seal makes a segment of a range of the spool and stores it. It is written beside the spool
// first, since its name holds its checksum.
func (sh *shipper) seal(ctx context.Context, t *spool.Timeline, r stream.Range) (name archive.SegmentName, err error) {
	enc, err := sh.encoders.take(ctx) // first: whoever waits for one needs no memory
	if err != nil {
		return name, err
	}
	defer sh.encoders.give(enc)
	pieces, err := t.Reader(r)
	if err != nil {
		return name, fmt.Errorf("seal %s: %w", r, err)
	}
	defer func() { err = errors.Join(err, pieces.Close()) }()
	tmp, err := os.Create(filepath.Join(sh.dir, fmt.Sprintf("seal.%d.tmp", sh.n)))
	if err != nil {
		return name, fmt.Errorf("seal %s: %w", r, err)
	}
	defer func() { err = errors.Join(err, tmp.Close(), os.Remove(tmp.Name())) }()

	head := archive.SegmentHead{
		Source: sh.s.o.Name, Timeline: t.Info().Timeline, ReplID: pieces.ReplID(),
		From: stream.Cursor{Offset: r.From, DB: pieces.DB()},
	}
	if enc.Encrypts() {
		end, _, err := t.CursorAt(r.To)
		if err != nil {
			return name, fmt.Errorf("seal %s: %w", r, err)
		}
		head.End = &end
	}
	w, err := archive.NewSegmentWriter(tmp, enc, head)
	if err != nil {
		return name, fmt.Errorf("seal %s: %w", r, err)
	}
	for {
		p, err := pieces.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			err = w.Write(p)
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return name, fmt.Errorf("seal %s: %w", r, err)
		}
	}
	if name, err = w.Close(); err != nil {
		return name, fmt.Errorf("seal %s: %w", r, err)
	}
	if name.Range != r {
		return name, fmt.Errorf("seal %s: the spool gave %s", r, name.Range)
	}
	if _, err := tmp.Seek(0, io.SeekStart); err != nil {
		return name, err
	}
	err = sh.store.Put(ctx, sh.path(t, name.String()), tmp)
	if errors.Is(err, fs.ErrExist) {
		err = nil // from before a crash: its name has the sum of its bytes
	}
	return name, err
}

// path is the name in the store of a timeline's file.
func (sh *shipper) path(t *spool.Timeline, name string) string {
	return path.Join(sh.s.o.Name, t.Info().Timeline, name)
}
