package store

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
)

// trial is what Try asks for. It is hidden, and never there.
const trial = ".offloader-check"

// Try tells what keeps us from listing, reading and putting: nil is nothing. It leaves nothing in
// the bucket. Reading is tried on an object that isn't there, and putting with a wrong checksum:
// a service looks at rights first, and at how an object is to be kept, and then refuses it. Deleting isn't tried, since where there
// are versions even the deletion of nothing leaves a mark.
func (s *S3) Try(ctx context.Context) (list, read, put error) {
	list = s.call(ctx, "list", "", s.o.Timeout, func(ctx context.Context, _ int) error {
		_, err := s.client.ListObjectsV2(ctx, &s3.ListObjectsV2Input{Bucket: s.bucket(), Prefix: given(s.prefix), MaxKeys: aws.Int32(1)})
		return err
	})
	if list != nil && code(list) == "" { // no answer: the others would wait for theirs as long
		return list, list, list
	}
	read = s.call(ctx, "read", trial, s.o.Timeout, func(ctx context.Context, _ int) error {
		out, err := s.client.GetObject(ctx, &s3.GetObjectInput{Bucket: s.bucket(), Key: s.key(trial)})
		if err == nil {
			err = out.Body.Close()
		}
		return err
	})
	if errors.Is(read, fs.ErrNotExist) {
		read = nil
	}
	const body = "offloader check"
	var lock *time.Time // a short one, should the service keep it after all
	if s.o.LockMode != "" {
		lock = aws.Time(time.Now().Add(time.Minute))
	}
	put = s.call(ctx, "put", trial, s.o.Timeout, func(ctx context.Context, _ int) error {
		_, err := s.client.PutObject(ctx, &s3.PutObjectInput{
			Bucket: s.bucket(), Key: s.key(trial), Body: strings.NewReader(body), IfNoneMatch: aws.String("*"),
			ChecksumCRC32: crc(^crc32.ChecksumIEEE([]byte(body))),
			Tagging:       s.tagging(), StorageClass: types.StorageClass(s.o.StorageClass),
			ServerSideEncryption: types.ServerSideEncryption(s.o.Encryption), SSEKMSKeyId: given(s.o.KMSKeyID),
			ObjectLockMode: types.ObjectLockMode(s.o.LockMode), ObjectLockRetainUntilDate: lock,
		})
		return err
	})
	switch code(put) {
	case "BadDigest", "XAmzContentChecksumMismatch", "InvalidDigest":
		return list, read, nil
	}
	if put == nil {
		put = fmt.Errorf("archive %s: the service has stored what arrived with a wrong checksum: it is no safe place", s)
		_, err := s.client.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: s.bucket(), Key: s.key(trial)})
		put = errors.Join(put, err)
	}
	return list, read, put
}
