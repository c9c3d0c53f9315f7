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
// a service looks at rights first, and at how an object is to be kept, and then refuses it.
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
	if put = s.canLock(ctx); put != nil {
		return list, read, put
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

// canLock is nil unless locks are asked for and the bucket is known to have none: some services look at
// the checksum before they find that out. Who may not see that learns of it by what is put.
func (s *S3) canLock(ctx context.Context) error {
	if s.o.LockMode == "" {
		return nil
	}
	locks, err := s.bucketLocks(ctx)
	if known := err == nil; locks || !known {
		return nil
	}
	return &S3Error{
		Store: s.String(), what: "object_lock is asked for, and Object Lock is off for the bucket, so nothing can be put there",
		hint: "switch Object Lock on for the bucket, for which some services want a new one; or leave out object_lock",
	}
}

// TryDelete tells what keeps us from deleting: nil is nothing. Where that can't be tried without a trace
// it isn't, and untried says why: in a bucket with versions even the deletion of nothing leaves a mark.
func (s *S3) TryDelete(ctx context.Context) (untried string, err error) {
	versions, err := s.versions(ctx)
	switch {
	case code(err) == "AccessDenied":
		return "this archiver may not see whether the bucket has versions (s3:GetBucketVersioning), in which even the deletion of nothing leaves a mark", nil
	case err != nil:
		return "", err
	case !versions:
		return "", s.delete(ctx, trial)
	}
	if _, err := s.bucketLocks(ctx); code(err) == "AccessDenied" {
		return "", s.blind(trial)
	}
	return "the bucket has versions, and even the deletion of nothing leaves a mark in it", nil
}
