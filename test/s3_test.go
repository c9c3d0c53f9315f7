package test

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/engine/enginetest"
	"github.com/offloader/offloader/internal/store/s3test"
	"github.com/offloader/offloader/internal/stream"
	"github.com/offloader/offloader/test/blackbox"
	"github.com/offloader/offloader/test/workload"
)

// TestS3: a daemon archives to a bucket. The service dies under load and comes back, which the
// master doesn't notice; in the end the bucket alone brings back what the master held.
func TestS3(t *testing.T) {
	t.Parallel()
	kind := enginetest.Any(t)
	s3test.Each(t, func(t *testing.T, service s3test.Kind) {
		t.Parallel()
		server := s3test.Start(t, service)
		name := server.Bucket(s3test.Plain)
		master := enginetest.Start(t, kind)
		w := workload.New(rand.Uint64(), master)
		defer func() { require.NoError(t, w.Close()) }()
		require.NoError(t, w.Run(t.Context(), 500))
		master.Do(w.Big("noise", 12<<20, false)...) // a snapshot that goes in parts

		d := blackbox.StartWith(t, t.TempDir(), fmt.Sprintf("sources: [{name: cache, address: %q}]\nspool: {path: $DIR/spool}\nstores: [%s]\n",
			master.Addr(), onS3(t, server.Endpoint(), name)))
		d.Streaming("cache")
		stored := func() {
			t.Helper()
			end := master.Offset()
			d.Until("cache", fmt.Sprintf("stored up to %d", end), func(s blackbox.SourceStatus) bool { return s.Stores[0].Stored >= end })
		}
		require.NoError(t, w.Run(t.Context(), 500))
		stored()

		server.Kill()
		require.NoError(t, w.Run(t.Context(), 500))
		d.Durable("cache", master.Offset())
		s := d.Until("cache", "in trouble with its store", func(s blackbox.SourceStatus) bool { return s.Stores[0].Error != "" })
		require.Contains(t, s.Stores[0].Error, "nothing listens at "+server.Addr())
		require.Contains(t, s.Stores[0].Hint, "does the service run")
		require.Equal(t, "streaming", s.State)
		r := d.Run("list")
		require.Equal(t, 1, r.Code, "%s", r)
		require.Contains(t, r.Stderr, "nothing listens")
		server.Restart()
		stored()
		d.Until("cache", "well again", func(s blackbox.SourceStatus) bool { return s.Stores[0].Error == "" })
		require.EqualValues(t, 1, d.Source("cache").FullResyncs)
		_, peak := d.RSS()
		t.Logf("%d MiB of memory at most", peak>>20)

		digest := master.Digest()
		d.Kill()
		archive := blackbox.ArchiveOn(t, server.URL(name, "redis"), "AWS_ACCESS_KEY_ID="+s3test.AccessKey, "AWS_SECRET_ACCESS_KEY="+s3test.SecretKey)
		require.Equal(t, digest, archive.Restore("--latest").Boot(kind).Digest())
		require.Len(t, archive.Timelines("cache"), 1)
	})
}

// TestS3UploadInterval: while a master is written to a little all the time, no byte is missing in the bucket
// for much longer than the interval, as who looks at the requests from outside sees it.
func TestS3UploadInterval(t *testing.T) {
	t.Parallel() // it waits for the interval
	const (
		interval = time.Second
		slack    = 2 * time.Second // for a busy machine
	)
	server := s3test.Start(t, s3test.MinIO)
	proxy := s3test.NewProxy(t, server)
	type arrival struct {
		at time.Time
		to stream.Offset
	}
	arrivals := make(chan arrival, 1000)
	proxy.Watch(func(r *http.Request, status int) {
		i := strings.Index(r.URL.Path, "/log/")
		if r.Method != http.MethodPut || status != http.StatusOK || i < 0 {
			return
		}
		if n, err := archive.ParseSegmentName(r.URL.Path[i+1:]); err == nil {
			arrivals <- arrival{time.Now(), n.To}
		}
	})
	master := enginetest.Start(t, enginetest.Any(t))
	place := strings.TrimSuffix(onS3(t, proxy.Endpoint(), server.Bucket(s3test.Plain)), "}")
	d := blackbox.StartWith(t, t.TempDir(), fmt.Sprintf("sources: [{name: cache, address: %q}]\nspool: {path: $DIR/spool}\nstores: [%s, upload_interval: %s}]\n", master.Addr(), place, interval))
	d.Streaming("cache")
	d.Until("cache", "stored", func(s blackbox.SourceStatus) bool {
		return len(s.Stores) == 1 && s.Stores[0].StoredTime.Unix() > 0 && s.Stores[0].LagBytes == 0
	})

	var written []arrival // when what ends there was written
	for began, tick := time.Now(), time.Tick(50*time.Millisecond); time.Since(began) < 6*interval; <-tick {
		at := time.Now()
		master.Do("SET", "key", at.String())
		written = append(written, arrival{at, stream.Offset(master.Offset())})
	}
	var stored arrival
	segments := 0
	for _, w := range written {
		for stored.to < w.to {
			select {
			case a := <-arrivals:
				segments++
				if a.to > stored.to {
					stored = a
				}
			case <-time.After(interval + slack):
				t.Fatalf("offset %d is not in the bucket after %v", w.to, time.Since(w.at))
			}
		}
		require.Less(t, stored.at.Sub(w.at), interval+slack, "offset %d came late", w.to)
	}
	require.LessOrEqual(t, segments, 10, "but not each byte by itself: a request is paid for")
}

// Check tells what is wrong with a bucket, and leaves nothing in it.
func TestCheckOfS3(t *testing.T) {
	t.Parallel()
	master := enginetest.Start(t, enginetest.Any(t))
	s3test.Each(t, func(t *testing.T, service s3test.Kind) {
		server := s3test.Start(t, service)
		name := server.Bucket(s3test.Locking) // where even what is deleted leaves a trace
		keys := []string{"AWS_ACCESS_KEY_ID=" + s3test.AccessKey, "AWS_SECRET_ACCESS_KEY=" + s3test.SecretKey}
		check := func(url string, env ...string) blackbox.Result {
			return blackbox.ArchiveOn(t, url, append(env, "AWS_EC2_METADATA_DISABLED=true", "AWS_CONFIG_FILE=/dev/null", "AWS_SHARED_CREDENTIALS_FILE=/dev/null")...).
				Run("check", "--master", master.Addr())
		}
		r := check(server.URL(name, "p"), keys...)
		require.Contains(t, r.Stdout, "can be listed, read and written; whether it lets us delete is not tried: the bucket has versions", "%s", r)
		require.Empty(t, server.Versions(name))

		r = check(server.URL(name, "p"), keys[0], "AWS_SECRET_ACCESS_KEY=wrong")
		require.Equal(t, 1, r.Code)
		require.Contains(t, r.Stdout, "the secret key is wrong")
		r = check(server.URL("nowhere", "p"), keys...)
		require.Equal(t, 1, r.Code)
		require.Contains(t, r.Stdout, "there is no such bucket")
		r = check(server.URL(name, "p"))
		require.Equal(t, 1, r.Code)
		require.Contains(t, r.Stdout, "there are no credentials")
	})
}
