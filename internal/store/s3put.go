package store

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"net/url"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
)

// The checksum is CRC32, of the whole object also where it comes in parts: all services know it,
// and it costs next to nothing, which can't be said of CRC64NVME on all of them. What matters for
// good is summed above: names and sidecars hold CRC64 and SHA-256.

// maxSingle is the largest file that is put by one request. More requests would be paid for, and
// in the file all bytes are at hand for another try.
const maxSingle = 32 << 20

// Put implements Store. A file, or another reader that can be read anywhere, is sent as it lies there;
// of another one three parts at most lie in S3Options.Scratch. Neither is held in memory.
//
// Where no answer came to a request that may have been carried out, the next one tells: an object
// that is there then and has our size and checksum is ours. If none of the tries had an answer
// Put fails, and the object may be there all the same.
func (s *S3) Put(ctx context.Context, name string, r io.Reader) error {
	if err := checkName(name); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if f, ok := r.(file); ok {
		if at, size, err := rest(f); err == nil { // it fails on a pipe
			if size <= maxSingle {
				return s.putWhole(ctx, name, io.NewSectionReader(f, at, size))
			}
			return s.putParts(ctx, name, newSections(f, at, size))
		}
	}
	start := make([]byte, 64<<10) // most that isn't a file is small
	n, ended, err := readFull(ctx, r, start, 0)
	switch {
	case err != nil:
		return s.unread(name, err)
	case ended:
		return s.putWhole(ctx, name, io.NewSectionReader(bytes.NewReader(start), 0, int64(n)))
	}
	parts := newStreamed(r, start, s.o.Scratch)
	defer parts.close()
	whole, err := parts.start(ctx)
	switch {
	case err != nil:
		return s.unread(name, err)
	case whole != nil:
		return s.putWhole(ctx, name, whole)
	}
	return s.putParts(ctx, name, parts)
}

// readFull fills buf, of which some is filled already, until ctx or r ends. Only io.EOF itself is an
// end: an error that holds it, or io.ErrUnexpectedEOF, says that r was cut off.
func readFull(ctx context.Context, r io.Reader, buf []byte, filled int) (n int, ended bool, err error) {
	for filled < len(buf) {
		if ctx.Err() != nil {
			return filled, false, context.Cause(ctx)
		}
		got, err := r.Read(buf[filled:])
		filled += got
		if err == io.EOF {
			return filled, true, nil
		}
		if err != nil {
			return filled, false, err
		}
	}
	return filled, false, nil
}

// unread says that it was reading what is to be put that failed.
func (s *S3) unread(name string, err error) error {
	return fmt.Errorf("archive %s: %s: %w", s, name, err)
}

// file is a reader that can be read anywhere, and again.
type file interface {
	io.ReaderAt
	io.Seeker
}

// rest is where a file stands and how much is behind that.
func rest(f file) (at, size int64, err error) {
	if at, err = f.Seek(0, io.SeekCurrent); err != nil {
		return 0, 0, err
	}
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, 0, err
	}
	_, err = f.Seek(at, io.SeekStart)
	return at, max(0, end-at), err
}

// putWhole stores one body by one request.
func (s *S3) putWhole(ctx context.Context, name string, body *io.SectionReader) error {
	sum := crc32.NewIEEE()
	if err := digest(ctx, sum, body); err != nil {
		return s.unread(name, err)
	}
	in := &s3.PutObjectInput{
		Bucket: s.bucket(), Key: s.key(name), ContentLength: aws.Int64(body.Size()),
		ChecksumCRC32: crc(sum.Sum32()), IfNoneMatch: aws.String("*"),
		Tagging: s.tagging(), StorageClass: types.StorageClass(s.o.StorageClass),
		ServerSideEncryption: types.ServerSideEncryption(s.o.Encryption), SSEKMSKeyId: given(s.o.KMSKeyID),
		ObjectLockMode: types.ObjectLockMode(s.o.LockMode), ObjectLockRetainUntilDate: s.retainUntil(),
	}
	return s.call(ctx, "put", name, s.patience(body.Size()), func(ctx context.Context, try int) error {
		if _, err := body.Seek(0, io.SeekStart); err != nil {
			return err
		}
		in.Body = body
		_, err := s.client.PutObject(ctx, in)
		if try > 1 && exists(err) {
			return s.ours(ctx, name, body.Size(), *in.ChecksumCRC32, err)
		}
		return err
	})
}

// digest writes all of a part of a file to a sum.
func digest(ctx context.Context, sum io.Writer, body *io.SectionReader) error {
	buf := make([]byte, 256<<10)
	for left := body.Size(); left > 0; {
		n, ended, err := readFull(ctx, body, buf[:min(left, int64(len(buf)))], 0)
		if err == nil && ended {
			err = io.ErrUnexpectedEOF // somebody has cut the file
		}
		if err != nil {
			return err
		}
		_, _ = sum.Write(buf[:n]) // a sum takes everything
		left -= int64(n)
	}
	return nil
}

// ours tells, when a request was refused because the object exists, whether it was an earlier try
// of ours that made it: then all is well, else the refusal stands.
func (s *S3) ours(ctx context.Context, name string, size int64, sum string, refusal error) error {
	there, err := s.client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: s.bucket(), Key: s.key(name), ChecksumMode: types.ChecksumModeEnabled})
	if err != nil {
		return err
	}
	if aws.ToInt64(there.ContentLength) == size && aws.ToString(there.ChecksumCRC32) == sum {
		return nil
	}
	return refusal
}

// crc writes a checksum as S3 does: big-endian, in base64.
func crc(sum uint32) *string {
	return aws.String(base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint32(nil, sum)))
}

func given(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func (s *S3) tagging() *string {
	v := url.Values{}
	for name, value := range s.o.Tags {
		v.Set(name, value)
	}
	return given(v.Encode())
}

func (s *S3) retainUntil() *time.Time {
	if s.o.LockMode == "" {
		return nil
	}
	return aws.Time(time.Now().Add(s.o.LockFor))
}

// existing is what has the name already.
func (s *S3) existing(name string) error {
	return &S3Error{Store: s.String(), Op: "put", Name: name, Err: fs.ErrExist}
}
