package archive

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"

	"github.com/klauspost/compress/zstd"
)

// WriteSnapshot stores the RDB that rdb gives and then its sidecar: only when that is there does
// the snapshot exist. info says all but sizes and sums, which are found on the way and come
// back. enc is busy until it returns; memory is that of enc. What an earlier, killed attempt has
// stored is checked and kept.
func WriteSnapshot(ctx context.Context, d Depot, enc *zstd.Encoder, source, timeline string, info SnapshotInfo, rdb io.Reader) (SnapshotInfo, error) {
	names := SnapshotName{info.Offset, info.Time}
	if _, _, err := ParseSnapshotName(names.RDB()); err != nil {
		return SnapshotInfo{}, err
	}
	name := inTimeline(source, timeline, names.RDB())
	r := newCompressor(enc, rdb)
	err := d.Put(ctx, name, r)
	taken := errors.Is(err, fs.ErrExist)
	if taken { // put may have read nothing: the sums are still needed
		_, err = io.Copy(io.Discard, &ctxReader{ctx, r})
	}
	if err != nil {
		return SnapshotInfo{}, err
	}
	info.Bytes, info.SHA256 = r.in.n, r.in.hex()
	info.StoredBytes, info.StoredSHA256 = r.out.n, r.out.hex()
	if taken {
		if info.StoredBytes, info.StoredSHA256, err = sameRDB(ctx, d, name, info); err != nil {
			return SnapshotInfo{}, err
		}
	}
	return info, putJSON(ctx, d, inTimeline(source, timeline, names.Sidecar()), info)
}

// sameRDB tells size and sum of the stored file name, which must hold the RDB of info.
func sameRDB(ctx context.Context, d Depot, name string, info SnapshotInfo) (int64, string, error) {
	f, err := d.Open(ctx, name)
	if err != nil {
		return 0, "", err
	}
	info.StoredBytes = -1 // not known yet
	r, err := newSnapshotReader(f, name, info)
	if err != nil {
		return 0, "", err
	}
	_, err = io.Copy(io.Discard, &ctxReader{ctx, r})
	if err := errors.Join(err, r.Close()); err != nil {
		return 0, "", err
	}
	return r.stored.sum.n, r.stored.sum.hex(), nil
}

// ctxReader ends with its context.
type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

func (c *ctxReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, context.Cause(c.ctx)
	}
	return c.r.Read(p)
}

// counter is how many bytes there were, and their SHA-256.
type counter struct {
	n   int64
	sum hash.Hash
}

func newCounter() *counter { return &counter{sum: sha256.New()} }

func (c *counter) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	return c.sum.Write(p)
}

func (c *counter) hex() string { return hex.EncodeToString(c.sum.Sum(nil)) }

// compressor is an encoder that is read from: each Read encodes as much as it takes to have
// something to give. That needs no goroutine, and holds one block.
type compressor struct {
	src     io.Reader
	enc     *zstd.Encoder
	in, out *counter
	buf     []byte
	ready   bytes.Buffer
	done    bool
}

func newCompressor(enc *zstd.Encoder, src io.Reader) *compressor {
	c := &compressor{src: src, enc: enc, in: newCounter(), out: newCounter(), buf: make([]byte, 128<<10)}
	enc.Reset(&c.ready)
	return c
}

func (c *compressor) Read(p []byte) (int, error) {
	for c.ready.Len() == 0 {
		if c.done {
			return 0, io.EOF
		}
		c.ready.Reset()
		n, err := c.src.Read(c.buf)
		_, _ = c.in.Write(c.buf[:n]) // a hash never fails
		if _, err := c.enc.Write(c.buf[:n]); err != nil {
			return 0, err
		}
		if err == io.EOF {
			c.done = true
			err = c.enc.Close()
		}
		if err != nil {
			return 0, err
		}
	}
	n, _ := c.ready.Read(p) // it has something
	_, _ = c.out.Write(p[:n])
	return n, nil
}

// snapshotReader gives the RDB's bytes and, in place of io.EOF, what is wrong with them. What is
// checked are both sums of the sidecar: that of the file as stored, so that any flipped bit shows,
// also one that would change nothing in the RDB, and that of the RDB, so that one in the sidecar does.
type snapshotReader struct {
	file   string
	info   SnapshotInfo
	src    io.ReadCloser
	stored storedReader
	dec    *zstd.Decoder
	rdb    *counter
	err    error
}

// storedReader counts and sums what is read of r, and remembers how reading failed.
type storedReader struct {
	r   io.Reader
	sum *counter
	err error
}

func (s *storedReader) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	_, _ = s.sum.Write(p[:n]) // a hash never fails
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

// newSnapshotReader reads the file with that name as info describes it. A negative StoredBytes
// says that the file as stored isn't known.
func newSnapshotReader(src io.ReadCloser, file string, info SnapshotInfo) (*snapshotReader, error) {
	dec, err := NewDecoder()
	if err != nil {
		return nil, errors.Join(err, src.Close())
	}
	r := &snapshotReader{file: file, info: info, src: src, dec: dec, rdb: newCounter(), stored: storedReader{r: src, sum: newCounter()}}
	if err := dec.Reset(bufio.NewReaderSize(&r.stored, storedSize)); err != nil {
		dec.Close()
		return nil, errors.Join(err, src.Close())
	}
	return r, nil
}

func (r *snapshotReader) Read(p []byte) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	n, err := r.dec.Read(p)
	_, _ = r.rdb.Write(p[:n]) // a hash never fails
	switch {
	case r.rdb.n > r.info.Bytes:
		err = r.damage(fmt.Sprintf("the RDB is longer than %d bytes", r.info.Bytes), nil)
	case err == nil:
	case r.stored.err != nil:
		err = fmt.Errorf("read %s: %w", r.file, r.stored.err)
	case errors.Is(err, io.EOF):
		err = r.finish()
	default:
		err = r.damage("it can't be decompressed", err)
	}
	if err != nil {
		r.err = err
	}
	return n, err
}

func (r *snapshotReader) damage(what string, err error) error {
	return &DamageError{Name: r.file, What: what, Err: err}
}

func (r *snapshotReader) finish() error {
	i := r.info
	switch {
	case r.rdb.n != i.Bytes:
		return r.damage(fmt.Sprintf("the RDB has %d bytes, the sidecar says %d", r.rdb.n, i.Bytes), nil)
	case i.StoredBytes >= 0 && r.stored.sum.n != i.StoredBytes:
		return r.damage(fmt.Sprintf("it has %d bytes, the sidecar says %d", r.stored.sum.n, i.StoredBytes), nil)
	case i.StoredBytes >= 0 && r.stored.sum.hex() != i.StoredSHA256:
		return r.damage("its SHA-256 is not that of the sidecar", nil)
	case r.rdb.hex() != i.SHA256:
		return r.damage("the RDB's SHA-256 is not that of the sidecar", nil)
	}
	return io.EOF
}

func (r *snapshotReader) Close() error {
	r.dec.Close()
	if r.err == nil {
		r.err = errors.New("read of a closed snapshot")
	}
	return r.src.Close()
}
