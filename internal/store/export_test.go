package store

import (
	"context"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/s3"
)

// SizeOfPart is how large part n of a stream is.
func SizeOfPart(n int) int { return sizeOfPart(n) }

// OpenS3With is OpenS3 with a client that is not quite as it should be, and no time to lose.
func OpenS3With(ctx context.Context, o S3Options, adjust func(*s3.Options)) (*S3, error) {
	s, err := openS3(ctx, o, adjust)
	if err == nil {
		s.pause = time.Millisecond
	}
	return s, err
}

// BoundedBy is Bounded with another patience. left counts the calls that nobody waits for any more.
func BoundedBy(d *Disk, patience time.Duration) (s Store, left func() int) {
	b := &bounded{Disk: d, patience: patience}
	return b, func() int { return int(b.left.Load()) }
}

// OpenDiskBy is OpenDisk with another patience.
func OpenDiskBy(ctx context.Context, root string, o Options, patience time.Duration) (*Disk, error) {
	return openDisk(ctx, root, o, patience)
}

// MostLeft is how many there may be.
const MostLeft = mostLeft
