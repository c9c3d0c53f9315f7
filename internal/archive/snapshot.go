package archive

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"

	"github.com/klauspost/compress/zstd"

	"github.com/offloader/offloader/internal/crypt"
)

// WriteSnapshot stores the RDB that rdb gives and then its sidecar: only when that is there does
// the snapshot exist. info says all but sizes and sums, which are found on the way and come
// back. enc is busy until it returns; memory is that of enc. What an earlier, killed attempt has
// stored is checked and kept.
func WriteSnapshot(ctx context.Context, d Depot, enc *Encoder, source, timeline string, info SnapshotInfo, rdb io.Reader) (SnapshotInfo, error) {
	names := SnapshotName{info.Offset, info.Time, enc.Encrypts()}
	if _, _, err := ParseSnapshotName(names.RDB()); err != nil {
		return SnapshotInfo{}, err
	}
	name := inTimeline(source, timeline, names.RDB())
	c := newCompressor(enc.zstd, rdb)
	encoded, err := enc.reader(c)
	if err != nil {
		return SnapshotInfo{}, err
	}
	r := &storedReader{r: encoded, sum: newCounter()}
	err = d.Put(ctx, name, r)
	taken := errors.Is(err, fs.ErrExist)
	if taken { // put may have read nothing: the sums are still needed
		_, err = io.Copy(io.Discard, &ctxReader{ctx, r})
	}
	if err != nil {
		return SnapshotInfo{}, err
	}
	info.Bytes, info.SHA256 = c.in.n, c.in.hex()
	info.StoredBytes, info.StoredSHA256 = r.sum.n, r.sum.hex()
	if taken {
		there := sameRDB
		if names.Encrypted {
			there = asStored
		}
		if info.StoredBytes, info.StoredSHA256, err = there(ctx, d, name, info); err != nil {
			return SnapshotInfo{}, err
		}
	}
	return writeSidecar(ctx, d, inTimeline(source, timeline, names.Sidecar()), info)
}

// writeSidecar stores info. Where the snapshot exists already, as a file that is encrypted while this
// one isn't or the other way round, it stays as it is.
func writeSidecar(ctx context.Context, d Depot, name string, info SnapshotInfo) (SnapshotInfo, error) {
	err := putJSON(ctx, d, name, info)
	if !errors.Is(err, fs.ErrExist) {
		return info, err
	}
	var there SnapshotInfo
	if err := getJSON(ctx, d.Open, name, &there); err != nil {
		return info, err
	}
	if there.Bytes == info.Bytes && there.SHA256 == info.SHA256 {
		return there, nil
	}
	return info, err
}

// asStored tells size and sum of the stored file name. What is in it can't be told without an
// identity: it is what an earlier attempt has put there, of the same RDB, whole as all that is put.
func asStored(ctx context.Context, d Depot, name string, _ SnapshotInfo) (int64, string, error) {
	f, err := d.Open(ctx, name)
	if err != nil {
		return 0, "", err
	}
	sum := newCounter()
	_, err = io.Copy(sum, &ctxReader{ctx, f})
	if err := errors.Join(err, f.Close()); err != nil {
		return 0, "", fmt.Errorf("read %s: %w", name, err)
	}
	return sum.n, sum.hex(), nil
}

// sameRDB tells size and sum of the stored file name, which must hold the RDB of info.
func sameRDB(ctx context.Context, d Depot, name string, info SnapshotInfo) (int64, string, error) {
	f, err := d.Open(ctx, name)
	if err != nil {
		return 0, "", err
	}
	info.StoredBytes = -1 // not known yet
	r, err := newSnapshotReader(f, name, false, info)
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

// snapshotReader gives the RDB's bytes and, in place of io.EOF, what is wrong with them. What is
// checked are both sums of the sidecar: that of the file as stored, so that any flipped bit shows,
// also one that would change nothing in the RDB, and that of the RDB, so that one in the sidecar does.
type snapshotReader struct {
	file   string
	info   SnapshotInfo
	src    io.ReadCloser
	stored storedReader
	cipher *decrypter // nil for a plain file
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
func newSnapshotReader(src io.ReadCloser, file string, encrypted bool, info SnapshotInfo, identities ...crypt.Identity) (*snapshotReader, error) {
	dec, err := NewDecoder()
	if err != nil {
		return nil, errors.Join(err, src.Close())
	}
	r := &snapshotReader{file: file, info: info, src: src, dec: dec, rdb: newCounter(), stored: storedReader{r: src, sum: newCounter()}}
	in := bufio.NewReaderSize(&r.stored, storedSize)
	packed := io.Reader(in)
	if encrypted {
		r.cipher = &decrypter{src: in, file: file, identities: identities}
		packed = r.cipher
	}
	if err := dec.Reset(packed); err != nil {
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
	case r.cipher != nil && r.cipher.err != nil:
		err = r.cipher.why(func() bool { return r.info.StoredBytes < 0 || r.stored.sum.hex() == r.info.StoredSHA256 })
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
