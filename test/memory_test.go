package test

import (
	"crypto/rand"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/engine/enginetest"
	"github.com/offloader/offloader/internal/store/s3test"
	"github.com/offloader/offloader/test/blackbox"
)

// However many buckets get a snapshot at once, one that is taken beside the first, and an export, the
// daemon of one source stays below 64 MiB.
func TestMemoryOfUploads(t *testing.T) {
	t.Parallel() // it waits most of the time: uploads are held up, so that all are on their way at once
	const dataset, stores = 200 << 20, 3
	master := enginetest.Start(t, enginetest.Any(t))
	value := make([]byte, 4<<20) // noise: it stays as large when it is compressed
	for i := range dataset / len(value) {
		_, _ = rand.Read(value)
		master.Do("SET", fmt.Sprint("key:", i), value)
	}
	server := s3test.Start(t, s3test.VersityGW)
	proxy := s3test.NewProxy(t, server)
	var held atomic.Int32
	let := make(chan struct{})
	release := sync.OnceFunc(func() { close(let) })
	t.Cleanup(release)
	proxy.Harm(func(r *http.Request) s3test.Fault {
		if n, err := strconv.Atoi(r.URL.Query().Get("partNumber")); err != nil || n < 10 {
			return s3test.Fault{}
		}
		return s3test.Fault{Before: func() {
			held.Add(1)
			<-let
		}}
	})
	var places []string
	for range stores {
		places = append(places, onS3(t, proxy.Endpoint(), server.Bucket(s3test.Plain)))
	}
	to := fmt.Sprintf("s3://%s/{source}-{time}.rdb?endpoint=%s&region=%s&path-style=true", server.Bucket(s3test.Plain), proxy.Endpoint(), s3test.Region)
	dir := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(dir, "spool"), 0o750))
	missed := fmt.Sprintf(`{"export of cache to %s": "2026-01-01T00:00:00Z"}`, to)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "spool", ".jobs.json"), []byte(missed), 0o600))
	config := fmt.Sprintf("sources: [{name: cache, address: %q}]\nspool: {path: $DIR/spool, min_free: 1%%}\nstores: [%s]\n", master.Addr(), strings.Join(places, ", "))
	d := blackbox.StartWith(t, dir, config, "AWS_ACCESS_KEY_ID="+s3test.AccessKey, "AWS_SECRET_ACCESS_KEY="+s3test.SecretKey)
	d.Streaming("cache")
	master.Do("SET", "later", "1") // so that it is another snapshot
	acknowledged(t, master, 1)
	taken := make(chan blackbox.Result, 1)
	go func() { taken <- d.Run("snapshot") }()
	logged := func(what string) {
		t.Helper()
		require.Eventually(t, func() bool { return strings.Contains(d.LogText(), what) }, time.Minute, 50*time.Millisecond, what)
	}
	logged("a snapshot was taken")
	d.Rewrite(config + fmt.Sprintf("exports: [{schedule: \"@every 5s\", to: %q}]\n", to))
	d.Reload()

	// Two parts of each: the first snapshot and the second in each bucket, and the export.
	require.Eventually(t, func() bool { return held.Load() == (2*stores+1)*2 }, time.Minute, 50*time.Millisecond, "all uploads at once")
	_, peak := d.RSS()
	t.Logf("%d MiB of memory at most while %d uploads wait", peak>>20, 2*stores+1)
	release()
	r := <-taken
	require.Zero(t, r.Code, "%s", r)
	logged("a dataset was exported, read back and found good")
	_, peak = d.RSS()
	t.Logf("%d MiB of memory at most", peak>>20)
	require.LessOrEqual(t, peak, int64(64<<20))
}
