package verify

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/crc64"
)

// isSealed tells of an encrypted file that it can't be opened here. Its bytes as they are stored can
// still be held against their checksum; what is in it can't be looked at.
func (s *source) isSealed(encrypted bool) bool { return encrypted && !s.o.Opens }

func (s *source) storedSegment(ctx context.Context, file string, want uint64) (*read, error) {
	sum := crcSum(0)
	r := &read{file: file, sealed: true}
	if _, err := s.copyTo(ctx, &sum, file); err != nil {
		return r.damaged(err)
	}
	if uint64(sum) != want {
		r.wrong = fmt.Sprintf("its CRC64 is %016x, its name says %016x", uint64(sum), want)
	}
	return r, nil
}

func (s *source) storedSnapshot(ctx context.Context, file string, info archive.SnapshotInfo) (*read, error) {
	sum := sha256.New()
	r := &read{file: file, sealed: true}
	n, err := s.copyTo(ctx, sum, file)
	if err != nil {
		return r.damaged(err)
	}
	switch {
	case n != info.StoredBytes:
		r.wrong = fmt.Sprintf("it has %d bytes, the sidecar says %d", n, info.StoredBytes)
	case hex.EncodeToString(sum.Sum(nil)) != info.StoredSHA256:
		r.wrong = "its SHA-256 is not that of the sidecar"
	}
	return r, nil
}

// damaged takes note of damage that the store itself has found; other errors are no word on the file.
func (r *read) damaged(err error) (*read, error) {
	var damage *archive.DamageError
	if !errors.As(err, &damage) {
		return nil, err
	}
	r.wrong = damage.What
	return r, nil
}

// copyTo gives a file's bytes as they are stored to w.
func (s *source) copyTo(ctx context.Context, w io.Writer, file string) (int64, error) {
	f, err := s.meter.Open(ctx, file)
	if err != nil {
		return 0, err
	}
	n, err := io.CopyBuffer(w, &ctxReader{ctx, f}, make([]byte, 64<<10))
	if err := errors.Join(err, f.Close()); err != nil {
		return 0, fmt.Errorf("read %s: %w", file, err)
	}
	return n, nil
}

// crcSum is the CRC64 of what is written to it.
type crcSum uint64

func (c *crcSum) Write(p []byte) (int, error) {
	*c = crcSum(crc64.Update(uint64(*c), p))
	return len(p), nil
}
