package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/offloader/offloader/internal/archive"
)

// A KeptError says that a file was not deleted since it must not be, by us or now. The archive is
// as good as before; it is archive.ErrKept.
type KeptError struct {
	Store string
	Name  string
	Until time.Time // a retention's end, zero where there is another reason
	Why   string
	hint  string

	denied bool // a right is missing
}

func (e *KeptError) Error() string {
	return fmt.Sprintf("archive %s: %s is kept: %s", e.Store, e.Name, e.Why)
}

// Hint says what to do about it.
func (e *KeptError) Hint() string { return e.hint }

// Locked tells when a lock ends, if it is one that does.
func (e *KeptError) Locked() (until time.Time, ok bool) { return e.Until, !e.Until.IsZero() }

// Is has it recognised as archive.ErrKept, and as fs.ErrPermission where a right is missing.
func (e *KeptError) Is(target error) bool {
	return target == archive.ErrKept || e.denied && target == fs.ErrPermission
}

// lockTTL is how long a bucket that locks nothing is taken to go on so.
const lockTTL = time.Hour

// Delete implements Store. In a bucket with versions a deletion hides an object and succeeds even
// where it is locked; so it is asked before whether it is. That takes rights of its own there:
// s3:GetBucketObjectLockConfiguration, and where locks are used s3:GetObjectRetention and
// s3:GetObjectLegalHold. Without them nothing is deleted from such a bucket.
func (s *S3) Delete(ctx context.Context, name string) error {
	switch err := s.free(ctx, name); {
	case err == nil:
		return s.delete(ctx, name)
	case errors.Is(err, fs.ErrNotExist):
		return nil
	default:
		return err
	}
}

// Kept implements Store: it asks what Delete asks first.
func (s *S3) Kept(ctx context.Context, name string) error {
	if err := s.free(ctx, name); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// free is nil where nothing keeps an object, by all that is known or can be asked, and fs.ErrNotExist
// where it was asked and there is none.
func (s *S3) free(ctx context.Context, name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	if time.Now().Unix() < s.unlocks.Load() {
		return nil
	}
	return s.unlocked(ctx, name)
}

func (s *S3) delete(ctx context.Context, name string) error {
	err := s.call(ctx, "delete", name, s.o.Timeout, func(ctx context.Context, _ int) error {
		_, err := s.client.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: s.bucket(), Key: s.key(name)})
		return err
	})
	switch {
	case err == nil, errors.Is(err, fs.ErrNotExist):
		return nil
	case code(err) == "AccessDenied":
		return s.denied(name, "this archiver may not delete", "nothing, if deleting is somebody else's job there: archiving goes on, and retention isn't applied. Else grant it s3:DeleteObject")
	}
	return err
}

func (s *S3) denied(name, why, hint string) error {
	return &KeptError{Store: s.String(), Name: name, Why: why, hint: hint, denied: true}
}

// blind says that a lock of the bucket couldn't be seen, and so nothing there is deleted.
func (s *S3) blind(name string) error {
	return s.denied(name, "this archiver may not see whether the bucket locks what is in it", "grant it s3:GetBucketObjectLockConfiguration on the bucket")
}

// unlocked is nil when the object may be deleted, and fs.ErrNotExist when there is none.
func (s *S3) unlocked(ctx context.Context, name string) error {
	locks, bucketErr := s.bucketLocks(ctx)
	if bucketErr == nil && !locks && s.o.LockMode == "" {
		s.unlocks.Store(time.Now().Add(lockTTL).Unix())
		return nil
	}
	if bucketErr != nil && code(bucketErr) != "AccessDenied" {
		return bucketErr
	}
	head, err := s.head(ctx, name)
	if err != nil {
		return err
	}
	until := aws.ToTime(head.ObjectLockRetainUntilDate)
	switch {
	case head.ObjectLockLegalHoldStatus == types.ObjectLockLegalHoldStatusOn:
		return &KeptError{Store: s.String(), Name: name, Why: "it is under a legal hold", hint: "whoever put it there can take it off"}
	case until.After(time.Now()):
		return &KeptError{
			Store: s.String(), Name: name, Until: until, hint: "it can be deleted after that",
			Why: fmt.Sprintf("it is locked (%s) until %s", head.ObjectLockMode, until.UTC().Format(time.RFC3339)),
		}
	case version(head) == "":
		return nil // without versions there are no locks
	case bucketErr != nil:
		return s.blind(name)
	}
	return s.looked(ctx, name, until.IsZero())
}

// version is an object's version, "" where the bucket has none.
func version(head *s3.HeadObjectOutput) string {
	if v := aws.ToString(head.VersionId); v != "null" {
		return v
	}
	return ""
}

// looked makes sure that locks that aren't shown aren't there: a HEAD leaves out what one has no
// right to see.
func (s *S3) looked(ctx context.Context, name string, retention bool) error {
	asked := func(what, right string, ask func(context.Context) error) error {
		err := s.call(ctx, "look for a lock of", name, s.o.Timeout, func(ctx context.Context, _ int) error { return ask(ctx) })
		switch code(err) {
		case "AccessDenied":
			return s.denied(name, "this archiver may not see whether it "+what, "grant it "+right+" on the bucket")
		case "NoSuchObjectLockConfiguration", "InvalidRequest": // this object has none
			return nil
		}
		return err
	}
	if retention {
		err := asked("is locked", "s3:GetObjectRetention", func(ctx context.Context) error {
			out, err := s.client.GetObjectRetention(ctx, &s3.GetObjectRetentionInput{Bucket: s.bucket(), Key: s.key(name)})
			if err == nil && out.Retention != nil && aws.ToTime(out.Retention.RetainUntilDate).After(time.Now()) {
				return errLocked
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return asked("is under a legal hold", "s3:GetObjectLegalHold", func(ctx context.Context) error {
		out, err := s.client.GetObjectLegalHold(ctx, &s3.GetObjectLegalHoldInput{Bucket: s.bucket(), Key: s.key(name)})
		if err == nil && out.LegalHold != nil && out.LegalHold.Status == types.ObjectLockLegalHoldStatusOn {
			return errLocked
		}
		return err
	})
}

// errLocked is a lock that a HEAD has not shown, which it should.
var errLocked = fmt.Errorf("it is locked: %w", archive.ErrKept)

// bucketLocks tells whether Object Lock is on.
func (s *S3) bucketLocks(ctx context.Context) (bool, error) {
	var on bool
	err := s.call(ctx, "look for locks of", "", s.o.Timeout, func(ctx context.Context, _ int) error {
		out, err := s.client.GetObjectLockConfiguration(ctx, &s3.GetObjectLockConfigurationInput{Bucket: s.bucket()})
		on = err == nil && out.ObjectLockConfiguration != nil && out.ObjectLockConfiguration.ObjectLockEnabled == types.ObjectLockEnabledEnabled
		return err
	})
	switch code(err) {
	case "ObjectLockConfigurationNotFoundError", "NotImplemented", "MethodNotAllowed": // services without locks
		return false, nil
	}
	return on, err
}

// versions tells whether the bucket keeps versions, also where it is told to keep no more of them.
func (s *S3) versions(ctx context.Context) (bool, error) {
	var on bool
	err := s.call(ctx, "look for versions in", "", s.o.Timeout, func(ctx context.Context, _ int) error {
		out, err := s.client.GetBucketVersioning(ctx, &s3.GetBucketVersioningInput{Bucket: s.bucket()})
		on = err == nil && out.Status != ""
		return err
	})
	switch code(err) {
	case "NotImplemented", "MethodNotAllowed": // services without versions
		return false, nil
	}
	return on, err
}

// head asks for what is known of an object. An answer to a HEAD has no words to it: where it is a
// refusal, and of a 404 nobody knows whether it means the bucket, a listing tells why.
func (s *S3) head(ctx context.Context, name string) (out *s3.HeadObjectOutput, err error) {
	err = s.call(ctx, "look at", name, s.o.Timeout, func(ctx context.Context, _ int) error {
		out, err = s.client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: s.bucket(), Key: s.key(name)})
		return err
	})
	if status := statusOf(err); status >= 400 && status < 500 {
		if why := s.words(ctx, name); why != nil {
			return nil, why
		}
	}
	return out, err
}
