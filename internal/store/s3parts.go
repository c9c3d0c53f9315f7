package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"golang.org/x/sync/errgroup"
)

// An upload in parts: create, parts, two at a time, complete. The object appears with the last
// step, which is also where it is refused if it has come to exist meanwhile.
//
// The SDK's own uploader isn't used since it holds several times the memory.

const (
	// maxParts is S3's limit.
	maxParts = 10_000
	// inFlight is how many parts are sent at once: one alone doesn't fill a connection, more add no speed.
	// The next is read meanwhile.
	inFlight = 2
	// filePart is the least size of a part of a file, streamPart of one of a stream.
	filePart, streamPart = 16 << 20, 8 << 20
	// abortFor is how long cleaning up may take, also where the program is about to end.
	abortFor = 5 * time.Second
)

// part is a piece of an upload.
type part struct {
	body *io.SectionReader
	sum  uint32
	free func(tries int) // when it was sent
}

// parts gives an upload's pieces one after the other, io.EOF itself behind the last. It is the only reader
// of its source.
type parts interface {
	next(ctx context.Context, n int) (*part, error)
	sum() uint32 // of all that next gave
	size() int64
}

func (s *S3) putParts(ctx context.Context, name string, src parts) (err error) {
	// Whether the name is taken is decided at the end: here it saves the way there.
	if _, err := s.head(ctx, name); err == nil {
		return s.existing(name)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	in := &s3.CreateMultipartUploadInput{
		Bucket: s.bucket(), Key: s.key(name), ChecksumAlgorithm: types.ChecksumAlgorithmCrc32, ChecksumType: types.ChecksumTypeFullObject,
		Tagging: s.tagging(), StorageClass: types.StorageClass(s.o.StorageClass),
		ServerSideEncryption: types.ServerSideEncryption(s.o.Encryption), SSEKMSKeyId: given(s.o.KMSKeyID),
		ObjectLockMode: types.ObjectLockMode(s.o.LockMode), ObjectLockRetainUntilDate: s.retainUntil(),
	}
	var upload *string
	err = s.call(ctx, "put", name, s.o.Timeout, func(ctx context.Context, _ int) error {
		out, err := s.client.CreateMultipartUpload(ctx, in)
		if err == nil {
			upload = out.UploadId
		}
		return err
	})
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			s.abort(ctx, name, upload)
		}
	}()
	sent, err := s.sendParts(ctx, name, upload, src)
	if err != nil {
		return err
	}
	return s.complete(ctx, name, upload, sent, src)
}

// abort gives up an upload. That it fails is no news: what made us give up is. Parts that are left are
// never seen; a lifecycle rule of the bucket clears them away (docs/limits.md).
func (s *S3) abort(ctx context.Context, name string, upload *string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), min(abortFor, s.o.Timeout))
	defer cancel()
	_ = s.call(ctx, "put", name, s.o.Timeout, func(ctx context.Context, _ int) error {
		_, err := s.client.AbortMultipartUpload(ctx, &s3.AbortMultipartUploadInput{Bucket: s.bucket(), Key: s.key(name), UploadId: upload})
		return err
	})
}

// sendParts returns when all are there, or none is on its way any more.
func (s *S3) sendParts(ctx context.Context, name string, upload *string, src parts) ([]types.CompletedPart, error) {
	sending, stop := context.WithCancel(ctx)
	defer stop()
	g, alive := errgroup.WithContext(sending)
	g.SetLimit(inFlight)
	var sent []*types.CompletedPart
	var readErr error
	for n := 1; ; n++ {
		p, err := src.next(alive, n)
		if err == io.EOF {
			break
		}
		if err == nil && n > maxParts {
			err = fmt.Errorf("it is larger than %d parts can be", maxParts)
		}
		if err != nil {
			if alive.Err() == nil {
				readErr = s.unread(name, err)
			}
			break
		}
		done := &types.CompletedPart{PartNumber: aws.Int32(int32(n)), ChecksumCRC32: crc(p.sum)}
		sent = append(sent, done)
		g.Go(func() error { // Wait is below
			etag, err := s.sendPart(alive, name, upload, done, p)
			done.ETag = etag
			return err
		})
	}
	if readErr != nil {
		stop()
	}
	err := g.Wait()
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case readErr != nil:
		return nil, readErr
	case err != nil:
		return nil, err
	}
	list := make([]types.CompletedPart, len(sent))
	for i, p := range sent {
		list[i] = *p
	}
	return list, nil
}

func (s *S3) sendPart(ctx context.Context, name string, upload *string, done *types.CompletedPart, p *part) (etag *string, err error) {
	tried := 0
	err = s.call(ctx, "put", name, s.patience(p.body.Size()), func(ctx context.Context, try int) error {
		tried = try
		if _, err := p.body.Seek(0, io.SeekStart); err != nil {
			return err
		}
		out, err := s.client.UploadPart(ctx, &s3.UploadPartInput{
			Bucket: s.bucket(), Key: s.key(name), UploadId: upload, PartNumber: done.PartNumber,
			Body: p.body, ContentLength: aws.Int64(p.body.Size()), ChecksumCRC32: done.ChecksumCRC32,
		})
		if err == nil {
			etag = out.ETag
		}
		return err
	})
	p.free(tried)
	return etag, err
}

// complete makes the object appear. A service that puts many parts together may take its time.
func (s *S3) complete(ctx context.Context, name string, upload *string, sent []types.CompletedPart, src parts) error {
	sum := crc(src.sum())
	patience := s.o.Timeout + time.Duration(len(sent))*100*time.Millisecond
	return s.call(ctx, "put", name, patience, func(ctx context.Context, try int) error {
		_, err := s.client.CompleteMultipartUpload(ctx, &s3.CompleteMultipartUploadInput{
			Bucket: s.bucket(), Key: s.key(name), UploadId: upload, MultipartUpload: &types.CompletedMultipartUpload{Parts: sent},
			ChecksumCRC32: sum, ChecksumType: types.ChecksumTypeFullObject, MpuObjectSize: aws.Int64(src.size()), IfNoneMatch: aws.String("*"),
		})
		// The upload is gone when an earlier try has completed it.
		if try > 1 && (exists(err) || code(err) == "NoSuchUpload") {
			return s.ours(ctx, name, src.size(), *sum, err)
		}
		return err
	})
}
