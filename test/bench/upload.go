package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime/debug"
	"runtime/metrics"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/feature/s3/transfermanager"
	"github.com/aws/aws-sdk-go-v2/feature/s3/transfermanager/types"

	"github.com/offloader/offloader/internal/store"
	"github.com/offloader/offloader/internal/store/s3test"
)

// upload measures how fast a snapshot goes to S3, and in what memory: the SDK's own uploader and
// the store, to the same server, with the same checksum. The SDK's has its own defaults: parts of 8 MiB, five at
// a time, which it holds in memory. Both get a stream, which is what a snapshot is that is compressed on its
// way; a segment is a file. The parts of ours wait on the disk, as a daemon's do in its spool.
func (b *bench) upload() {
	ctx := context.Background()
	path := b.folder("upload")
	size := b.noise(path, b.share(0.125))
	for _, kind := range []s3test.Kind{s3test.MinIO, s3test.VersityGW} {
		server := s3test.Start(b, kind)
		bucket := server.Bucket(s3test.Plain)
		s, err := store.OpenS3(ctx, store.S3Options{
			Bucket: bucket, Endpoint: server.Endpoint(), Region: s3test.Region, PathStyle: true, AccessKeyID: s3test.AccessKey, SecretAccessKey: s3test.SecretKey,
			Scratch: filepath.Dir(path),
		})
		b.check(err, "open a bucket")
		sdk := transfermanager.New(server.Client())
		var ours, files, theirs, oursHeld, theirsHeld sample
		for n := range b.rounds {
			speed, held := b.send(path, size, func(f *os.File) error {
				_, err := sdk.UploadObject(ctx, &transfermanager.UploadObjectInput{
					Bucket: &bucket, Key: aws.String(fmt.Sprint("sdk", n)), Body: onlyReader{f}, ChecksumAlgorithm: types.ChecksumAlgorithmCrc32,
				})
				return err
			})
			theirs, theirsHeld = append(theirs, speed), append(theirsHeld, held)
			speed, held = b.send(path, size, func(f *os.File) error { return s.Put(ctx, fmt.Sprint("stream", n), onlyReader{f}) })
			ours, oursHeld = append(ours, speed), append(oursHeld, held)
			speed, _ = b.send(path, size, func(f *os.File) error { return s.Put(ctx, fmt.Sprint("file", n), f) })
			files = append(files, speed)
		}
		to := fmt.Sprintf("upload of %s to %s", megabytes(size), kind)
		b.compare(to+", as a stream", "MB/s", ours, theirs, "SDK's uploader, its own 5 parts at a time", 0.8, true)
		b.compare(to+", from a file", "MB/s", files, theirs, "SDK's uploader, its own 5 parts at a time", 0.8, true)
		b.bounded("memory of the stream's", "MiB", oursHeld, "SDK's uploader: "+theirsHeld.in("MiB"), 25, false)
	}
	b.check(os.Remove(path), "remove a file")
}

// onlyReader hides that a file can be read anywhere.
type onlyReader struct{ io.Reader }

// noise fills a file with what can't be compressed.
func (b *bench) noise(path string, size int64) int64 {
	f, err := os.Create(path)
	b.check(err, "make a file")
	_, err = io.CopyN(f, rand.NewChaCha8([32]byte{}), size)
	b.check(err, "fill a file")
	b.check(f.Close(), "close a file")
	return size
}

// send gives MB/s, and the MiB by which this process grew at most.
func (b *bench) send(path string, size int64, put func(f *os.File) error) (speed, held float64) {
	f, err := os.Open(path)
	b.check(err, "open a file")
	defer f.Close()
	settle()
	debug.FreeOSMemory()
	before, most := inUse(), uint64(0)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			most = max(most, inUse())
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
			}
		}
	}()
	began := time.Now()
	err = put(f)
	speed = rate(size, began)
	close(stop)
	<-stopped
	b.check(err, "upload")
	return speed, float64(most-min(most, before)) / (1 << 20)
}

// inUse is the memory that Go has of the system.
func inUse() uint64 {
	s := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64() - s[1].Value.Uint64()
}
