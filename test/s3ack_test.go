package test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/engine/enginetest"
	"github.com/offloader/offloader/internal/store/s3test"
	"github.com/offloader/offloader/test/blackbox"
)

// intoBucketOnly archives a master to a bucket, its only store.
func intoBucketOnly(t *testing.T, s *service, dir, ack string) (*enginetest.Server, *blackbox.Daemon) {
	t.Helper()
	master := enginetest.Start(t, enginetest.Any(t))
	d := blackbox.StartWith(t, dir, fmt.Sprintf("sources: [{name: cache, address: %q}]\nspool: {path: $DIR/spool, min_free: 1%%}\nstores: [%s]\nack: %s\n",
		master.Addr(), onS3(t, s.Endpoint(), s.bucket), ack))
	d.Streaming("cache")
	master.Do("SET", "first", "1")
	stored(t, d, note(t, master, 1).offset)
	return master, d
}

// writes makes some, and takes the time of it as a client does.
func writes(master *enginetest.Server, n int) (each []time.Duration) {
	for i := range n {
		began := time.Now()
		master.Do("SET", fmt.Sprint("key:", i), time.Now().String())
		each = append(each, time.Since(began))
	}
	return each
}

// With "ack: store" a WAIT means that the bucket has it. While S3 is away WAIT waits, and the master is no slower;
// when it is back the WAIT is answered. What was acknowledged is in the bucket, whatever is lost of the rest: the
// spool's disk, while S3 is away, and the master.
func TestAckStoreOnS3(t *testing.T) {
	t.Parallel() // it waits most of the time
	s3test.Each(t, func(t *testing.T, service s3test.Kind) {
		t.Parallel()
		s, dir := startService(t, service), t.TempDir()
		master, d := intoBucketOnly(t, s, dir, "store")
		before := writes(master, 50)
		at := master.Offset()
		require.EqualValues(t, 1, master.Do("WAIT", 1, 30_000))
		ends := s.alone(t).Timelines("cache")[0].Windows
		require.GreaterOrEqual(t, ends[len(ends)-1].To.Offset, at, "what WAIT has acknowledged is in the bucket")

		s.Kill()
		during := writes(master, 50)
		require.EqualValues(t, 0, master.Do("WAIT", 1, 1500), "the bucket lacks it")
		require.Less(t, median(during), 10*median(before)+20*time.Millisecond, "a write is slower")
		d.Durable("cache", master.Offset())
		require.Equal(t, "streaming", d.Source("cache").State, "the link stays up")
		require.EqualValues(t, 0, master.Do("WAIT", 1, 100), "what is in the spool isn't in the bucket")
		s.Restart()
		require.EqualValues(t, 1, master.Do("WAIT", 1, 30_000))
		acknowledged := master.Digest()

		s.Kill()
		master.Do("SET", "never acknowledged", "1")
		require.EqualValues(t, 0, master.Do("WAIT", 1, 500))
		d.Kill()
		master.Kill()
		require.NoError(t, os.RemoveAll(filepath.Join(dir, "spool")))
		s.Restart()
		require.Equal(t, acknowledged, s.alone(t).Restore("--latest").Boot(master.Kind()).Digest())
	})
}

// S3, the only store, is away, and the spool's disk is lost: the daemon waits until S3 answers, and goes on
// where the bucket ends, as far back as the master's backlog reaches: then nothing is lost, with no full sync. Else a
// timeline begins, and the moments between, which only the spool had, can't be had.
func TestS3AwayAndTheSpoolLost(t *testing.T) {
	t.Parallel() // it waits most of the time
	for name, reaches := range map[string]bool{"backlog reaches back": true, "backlog too short": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, dir := startService(t, s3test.VersityGW), t.TempDir()
			master, d := intoBucketOnly(t, s, dir, "local")
			if !reaches {
				master.Do("CONFIG", "SET", "repl-backlog-size", "16384")
			}
			before := note(t, master, 1)
			stored(t, d, before.offset)
			s.Kill()
			writes(master, 50)
			lost := note(t, master, 1) // the spool has it
			master.Do("SET", "large", noise(t, 100_000))
			d.Kill()
			require.NoError(t, os.RemoveAll(filepath.Join(dir, "spool")))
			d.Restart()
			waiting := d.Until("cache", "waiting for S3", func(s blackbox.SourceStatus) bool { return s.Error != "" })
			require.Equal(t, "waiting", waiting.State)
			require.Contains(t, waiting.Error, "nothing listens at "+s.Addr())
			require.EqualValues(t, 0, master.Do("WAIT", 1, 100), "nothing is acknowledged meanwhile")
			s.Restart()
			d.Streaming("cache")
			now := note(t, master, 1)
			stored(t, d, now.offset)
			d.Kill()

			alone := s.alone(t)
			before.equals(t, master.Kind(), alone.Restore(before.byOffset()...))
			now.equals(t, master.Kind(), alone.Restore("--latest"))
			if reaches {
				require.Equal(t, "1", master.Info("stats")["sync_full"])
				lost.equals(t, master.Kind(), alone.Restore(lost.byOffset()...))
				return
			}
			require.Equal(t, "2", master.Info("stats")["sync_full"])
			r := alone.Run(append([]string{"restore", "--dry-run"}, lost.byOffset()...)...)
			require.Equal(t, 3, r.Code, "%s", r)
		})
	}
}

// S3, the only store, and the master go at once. What was acknowledged meanwhile, or before, is in the spool; a
// restore waits for S3, and once it is back it gets all of it from the bucket, though the master stays dead.
func TestS3AndTheMasterAtOnce(t *testing.T) {
	t.Parallel() // it waits most of the time
	s, dir := startService(t, s3test.MinIO), t.TempDir()
	master, d := intoBucketOnly(t, s, dir, "local")
	s.Kill()
	writes(master, 50)
	m := note(t, master, 1)
	master.Kill()
	r := d.Run("restore", "--latest", "--output", filepath.Join(dir, "out"))
	require.Equal(t, 1, r.Code, "%s", r)
	require.Contains(t, r.Stderr, "nothing listens at "+s.Addr())
	s.Restart()
	stored(t, d, m.offset)
	d.Kill()
	m.equals(t, master.Kind(), s.alone(t).Restore("--latest"))
}
