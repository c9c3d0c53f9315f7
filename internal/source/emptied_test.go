package source

import (
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/engine/enginetest"
	"github.com/offloader/offloader/internal/store"
	"github.com/offloader/offloader/internal/store/s3test"
	"github.com/offloader/offloader/internal/stream"
)

// emptyFolder empties a folder that is a store, as another disk would be that is mounted there.
func emptyFolder(t *testing.T, dir string) {
	t.Helper()
	all, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, e := range all {
		require.NoError(t, os.Rename(filepath.Join(dir, e.Name()), filepath.Join(t.TempDir(), e.Name())))
	}
}

// emptyBucket deletes a bucket and makes it again.
func emptyBucket(t *testing.T, client *s3.Client, bucket string) {
	t.Helper()
	require.Eventually(t, func() bool { // whoever archives there goes on
		all, err := client.ListObjectsV2(t.Context(), &s3.ListObjectsV2Input{Bucket: &bucket})
		require.NoError(t, err)
		for _, o := range all.Contents {
			_, err := client.DeleteObject(t.Context(), &s3.DeleteObjectInput{Bucket: &bucket, Key: o.Key})
			require.NoError(t, err)
		}
		_, err = client.DeleteBucket(t.Context(), &s3.DeleteBucketInput{Bucket: &bucket})
		return err == nil
	}, 20*time.Second, 10*time.Millisecond)
	_, err := client.CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: &bucket})
	require.NoError(t, err)
}

// filled writes more than the spool keeps, and waits until every store has it.
func (r *rig) filled(master *enginetest.Server) {
	r.t.Helper()
	value := strings.Repeat("x", 10_000)
	for i := range 3000 {
		master.Do("SET", fmt.Sprintf("k%d", i%100), value)
	}
	require.EqualValues(r.t, 1, master.Do("WAIT", 1, 5000))
	offset := stream.Offset(master.Offset())
	r.until("stored", func(s Status) bool {
		for _, st := range s.Stores {
			if st.Stored < offset || len(st.Holes) > 0 {
				return false
			}
		}
		return true
	})
}

// window is the last span that a store alone restores, of the only timeline.
func window(t *testing.T, st Store) archive.Window {
	t.Helper()
	cat, err := archive.Load(t.Context(), st, "cache")
	require.NoError(t, err)
	require.Len(t, cat.Timelines, 1)
	windows, err := cat.Windows(cat.Timelines[0])
	require.NoError(t, err)
	require.NotEmpty(t, windows)
	return windows[len(windows)-1]
}

// The only store is emptied, or made again, while the daemon runs: it says that nothing leads any more to
// what it archives, and what to do. With a new snapshot all is well.
func TestTheOnlyStoreIsEmptied(t *testing.T) {
	test := func(t *testing.T, open func(t *testing.T, r *rig) (st Store, empty func())) {
		t.Parallel()
		master := enginetest.Start(t, enginetest.Any(t))
		var st Store
		var empty func()
		r := &rig{t: t, dir: t.TempDir()}
		st, empty = open(t, r)
		r.tune = func(o *Options) { o.Target, o.Stores[0].Store = 1<<20, st }
		r.start(master.Addr())
		t.Cleanup(r.stop)
		began := r.streaming()
		r.filled(master)
		require.Empty(t, r.src.Status(time.Now()).Broken)

		empty()
		now := r.until("broken", func(s Status) bool { return s.Broken != "" && len(s.Stores[0].Holes) > 0 })
		require.Contains(t, now.BrokenHint, "`offloader snapshot`")
		require.Zero(t, now.Since)
		require.Nil(t, now.LastSnapshot)
		require.Equal(t, "the store was emptied", now.Stores[0].Holes[0].Cause)
		require.Equal(t, began.Timeline, now.Timeline)

		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		taken, err := r.src.TakeSnapshot(ctx, nil) // also where nothing was written meanwhile
		require.NoError(t, err)
		require.NoError(t, r.src.Stored(ctx, taken))
		now = r.until("well", func(s Status) bool {
			return s.Broken == "" && len(s.Stores[0].Holes) == 0 && s.Stores[0].LagSeconds == 0
		})
		require.GreaterOrEqual(t, now.Since, taken.Time)
		require.Equal(t, taken.Offset, now.LastSnapshot.Offset)
		require.EqualValues(t, 1, now.FullResyncs)
		r.filled(master)
		have := window(t, st)
		require.Equal(t, taken.Offset, have.From.Offset)
		require.GreaterOrEqual(t, have.To.Offset, stream.Offset(master.Offset())-math.MaxUint16)
	}
	t.Run("folder", func(t *testing.T) {
		test(t, func(t *testing.T, r *rig) (Store, func()) {
			dir := filepath.Join(r.dir, "archive")
			st, err := store.OpenDisk(t.Context(), dir, store.Options{Write: true})
			require.NoError(t, err)
			return st, func() { emptyFolder(t, dir) }
		})
	})
	s3test.Each(t, func(t *testing.T, kind s3test.Kind) {
		test(t, func(t *testing.T, _ *rig) (Store, func()) {
			server := s3test.Start(t, kind)
			bucket := server.Bucket(s3test.Plain)
			st, err := store.OpenS3(t.Context(), store.S3Options{Bucket: bucket, Endpoint: server.Endpoint(), Region: s3test.Region, PathStyle: true,
				AccessKeyID: s3test.AccessKey, SecretAccessKey: s3test.SecretKey})
			require.NoError(t, err)
			return st, func() { emptyBucket(t, server.Client(), bucket) }
		})
	})
}

// One of two stores is emptied: it gets all from the other one, and what can be restored stays the same.
func TestOneOfTwoStoresIsEmptied(t *testing.T) {
	t.Parallel()
	master := enginetest.Start(t, enginetest.Any(t))
	second := filepath.Join(t.TempDir(), "second")
	st, err := store.OpenDisk(t.Context(), second, store.Options{Write: true})
	require.NoError(t, err)
	r := newRig(t, master.Addr(), func(o *Options) {
		o.Target = 1 << 20
		encoders, err := NewEncoders(1)
		require.NoError(t, err)
		o.Stores = append(o.Stores, StoreOptions{Store: st, Encoders: encoders, Interval: 100 * time.Millisecond})
	})
	r.streaming()
	r.filled(master)
	since, before := r.until("since", func(s Status) bool { return s.Since > 0 }).Since, window(t, st)

	emptyFolder(t, second)
	r.until("seen", func(s Status) bool { return len(s.Stores[1].Holes) > 0 })
	r.until("healed", func(s Status) bool { return len(s.Stores[1].Holes) == 0 && s.Stores[1].LagSeconds == 0 })
	now := r.src.Status(time.Now())
	require.Empty(t, now.Broken)
	require.Equal(t, since, now.Since)
	require.NotNil(t, now.LastSnapshot)
	after := window(t, st)
	require.Equal(t, before.From, after.From)
	require.GreaterOrEqual(t, after.To.Offset, before.To.Offset)
}
