package test

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/engine/enginetest"
	"github.com/offloader/offloader/internal/store/s3test"
	"github.com/offloader/offloader/test/blackbox"
)

// service is an S3 server, and all that can happen to it. The daemon reaches it through a proxy.
type service struct {
	*s3test.Server
	proxy  *s3test.Proxy
	disk   string // its own, to be filled; "" where nobody may mount one
	bucket string
}

func startService(t *testing.T, kind s3test.Kind) *service {
	t.Helper()
	s := &service{disk: smallDisk(t, "120m")}
	if s.disk == "" {
		s.Server = s3test.Start(t, kind)
	} else {
		s.Server = s3test.StartIn(t, kind, s.disk)
	}
	s.proxy, s.bucket = s3test.NewProxy(t, s.Server), s.Bucket(s3test.Plain)
	return s
}

// store is that of a configuration.
func (s *service) store(t *testing.T) string { return onS3(t, s.proxy.Endpoint(), s.bucket) }

// alone is the archive as somebody finds it who has nothing but the bucket.
func (s *service) alone(t *testing.T) blackbox.Archive {
	return blackbox.ArchiveOn(t, s.URL(s.bucket, "redis"), "AWS_ACCESS_KEY_ID="+s3test.AccessKey, "AWS_SECRET_ACCESS_KEY="+s3test.SecretKey)
}

// onS3 is a store in a bucket, as a configuration has it.
func onS3(t *testing.T, endpoint, bucket string) string {
	t.Helper()
	secret := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(secret, []byte(s3test.SecretKey+"\n"), 0o600))
	return fmt.Sprintf("{type: s3, bucket: %s, prefix: redis/, region: %s, endpoint: %q, path_style: true, access_key_id: %s, secret_access_key_file: %s}",
		bucket, s3test.Region, endpoint, s3test.AccessKey, secret)
}

// trouble is what happens to a service for a while.
type trouble struct {
	name  string
	begin func(t *testing.T, s *service) (end func())
	says  string // the daemon's status, with a way out; "": that the store is behind
	hint  string
	full  bool // only with full counts
}

// troubles are those that the proxy makes, and those that are real.
var troubles = []trouble{
	{name: "killed", begin: func(_ *testing.T, s *service) func() { s.Kill(); return s.Restart }, says: "the connection broke"},
	{name: "out of space", begin: fullDisk, says: "full", hint: "make room there"},
	{name: "answering 500", begin: harm(always, s3test.Fault{Status: 500, Code: "InternalError"}), says: "the service has an error (InternalError)", hint: "the spool keeps what waits"},
	{name: "answering 503", begin: harm(always, s3test.Fault{Status: 503, Code: "SlowDown"}), says: "the service asks for a pause (SlowDown)", hint: "the spool keeps what waits"},
	{name: "answering 403", begin: harm(always, s3test.Fault{Status: 403, Code: "AccessDenied"}), says: "access is denied (AccessDenied)", hint: "grant what it takes: s3:"},
	{name: "cutting uploads midway", begin: harm(uploads, s3test.Fault{CutUp: 1000}), says: "the connection broke"},
	{name: "slow", begin: harm(uploads, s3test.Fault{Rate: 80_000})},
	{name: "hung", begin: hang},
	{name: "hung for long", begin: hang, says: "has not answered within 30s", hint: "does the service hang", full: true},
}

func hang(_ *testing.T, s *service) func() {
	s.Pause()
	return s.Resume
}

// fullDisk fills the server's own disk. Where nobody may mount one the proxy says what MinIO would.
func fullDisk(t *testing.T, s *service) func() {
	if s.disk == "" {
		return harm(always, s3test.Fault{Status: http.StatusInsufficientStorage, Code: "XMinioStorageFull"})(t, s)
	}
	filler := fillDisk(t, s.disk)
	return func() { require.NoError(t, os.Remove(filler)) }
}

func harm(meant func(*http.Request) bool, f s3test.Fault) func(*testing.T, *service) func() {
	return func(_ *testing.T, s *service) func() {
		s.proxy.Harm(func(r *http.Request) s3test.Fault {
			if meant(r) {
				return f
			}
			return s3test.Fault{}
		})
		return s.proxy.Mend
	}
}

func always(*http.Request) bool { return true }

func uploads(r *http.Request) bool { return r.Method == http.MethodPut }

// Whatever happens to S3 while a master is written to: the master doesn't notice, nor does a store
// on disk beside it; it is told, with what to do; when it is over the bucket gets what it lacks, and in
// the end it restores by itself every moment, also those of the trouble.
func TestS3InTrouble(t *testing.T) {
	t.Parallel() // it waits most of the time
	for _, row := range []struct {
		service s3test.Kind
		beside  bool // a store on disk
		full    bool // only with full counts
	}{{s3test.MinIO, true, false}, {s3test.VersityGW, false, false}, {s3test.MinIO, false, true}, {s3test.VersityGW, true, true}} {
		if row.full && !torture() {
			continue
		}
		name := string(row.service)
		if row.beside {
			name += " beside a disk"
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s3InTrouble(t, startService(t, row.service), row.beside)
		})
	}
}

func s3InTrouble(t *testing.T, s *service, beside bool) {
	kind := enginetest.Any(t)
	master := enginetest.Start(t, kind, "--repl-backlog-size", "64mb")
	stores, size := s.store(t), "256MiB"
	if beside { // the disk gets a segment each eighth of the spool
		stores, size = "{type: disk, path: $DIR/archive}, "+stores, "8MiB"
	}
	d := blackbox.StartWith(t, t.TempDir(), fmt.Sprintf("sources: [{name: cache, address: %q}]\nspool: {path: $DIR/spool, max_size: %s, min_free: 1%%}\nstores: [%s]\n",
		master.Addr(), size, stores))
	d.Streaming("cache")
	l := startTraffic(t, master)
	n := strings.Count(stores, "type:") - 1 // of the bucket
	l.waited(t, 25)
	moments := []moment{l.note(t, master)}
	for _, trouble := range troubles {
		if trouble.full && !torture() {
			continue
		}
		l.waited(t, 25)
		before := l.took()
		end := trouble.begin(t, s)
		at := master.Offset()
		if trouble.full { // a request is given up after 30 s
			d.Until("cache", "behind", func(s blackbox.SourceStatus) bool { return s.Stores[n].LagSeconds > 20 })
		}
		told := d.Until("cache", "told that S3 is "+trouble.name, func(s blackbox.SourceStatus) bool {
			if trouble.says == "" {
				return s.Stores[n].LagSeconds > 3
			}
			return strings.Contains(s.Stores[n].Error, trouble.says)
		})
		require.Equal(t, "streaming", told.State)
		if trouble.says != "" {
			require.Contains(t, told.Stores[n].Hint, trouble.hint)
			require.Contains(t, d.Get("/readyz"), "store "+told.Stores[n].Name+": archive")
		}
		if beside {
			d.Until("cache", "stored on disk", func(s blackbox.SourceStatus) bool { return s.Stores[0].Stored >= at })
			require.Empty(t, d.Source("cache").Stores[0].Error)
		}
		within := l.note(t, master)
		during := l.took()
		end()
		d.Until("cache", "healed after S3 was "+trouble.name, func(s blackbox.SourceStatus) bool {
			return s.Stores[n].Error == "" && s.Stores[n].Stored >= within.offset && len(s.Stores[n].Holes) == 0
		})
		requireUnhurt(t, trouble.name, before, during)
		moments = append(moments, within)
	}
	l.stop()
	require.NoError(t, l.err)
	last := note(t, master, 1)
	d.Until("cache", "stored", func(s blackbox.SourceStatus) bool { return s.Stores[n].Stored >= last.offset })
	status := d.Source("cache")
	require.EqualValues(t, 1, status.FullResyncs)
	require.Zero(t, status.PartialResyncs, "the link was never put down")
	require.Equal(t, "1", master.Info("stats")["sync_full"])
	d.Kill()

	alone := s.alone(t)
	alone.Do("verify")
	timelines := alone.Timelines("cache")
	require.Len(t, timelines, 1)
	require.Empty(t, timelines[0].Gaps)
	for _, m := range append(moments, last) {
		m.equals(t, kind, alone.Restore(m.byOffset()...))
	}
	require.Equal(t, last.digest, alone.Restore("--latest").Boot(kind).Digest())
}

// S3 is away for longer than the spool can keep what it lacks. What only the disk has by then is let go of; the
// hole is told in the status and, once the bucket can be written again, in the archive there, and
// heals when the disk can be read.
func TestS3AwayForLong(t *testing.T) {
	t.Parallel() // it waits most of the time
	s3test.Each(t, func(t *testing.T, service s3test.Kind) {
		if service == s3test.MinIO && !torture() {
			return // it is not about the service
		}
		t.Parallel()
		kind := enginetest.Any(t)
		s := startService(t, service)
		master := enginetest.Start(t, kind)
		dir := t.TempDir()
		d := blackbox.StartWith(t, dir, fmt.Sprintf(`
sources: [{name: cache, address: %q}]
spool: {path: $DIR/spool, max_size: 8MiB, min_free: 1%%}
stores: [{type: disk, path: $DIR/archive}, %s]
`, master.Addr(), s.store(t)))
		began := d.Streaming("cache")
		d.Until("cache", "stored", func(s blackbox.SourceStatus) bool { return s.Stores[1].Stored >= began.Durable })
		early := note(t, master, 1)

		end := harm(always, s3test.Fault{Status: 503, Code: "SlowDown"})(t, s)
		master.Do("SET", "key", "value")
		d.Until("cache", "told that S3 is away", func(s blackbox.SourceStatus) bool { return s.Stores[1].Error != "" })
		for i := range 200 { // 20 MB
			master.Do("SET", fmt.Sprint("key:", i%20), noise(t, 100_000))
			if i%5 == 0 { // no faster than the disk can take it
				require.EqualValues(t, 1, master.Do("WAIT", 1, 10_000))
				d.Until("cache", "not full", func(s blackbox.SourceStatus) bool { return s.Spool.Bytes < 7<<20 })
			}
		}
		middle := note(t, master, 1)
		require.Equal(t, "streaming", d.Source("cache").State)

		d.Until("cache", "told of a hole while S3 is away", func(s blackbox.SourceStatus) bool {
			return s.Stores[1].Error != "" && len(s.Stores[1].Holes) > 0
		})
		require.Contains(t, d.Do("status"), "are missing: the spool was full while this store could not be written: ")
		require.Contains(t, d.Get("/readyz"), "wait to be healed from another store")

		diskBack := away(t, filepath.Join(dir, "archive"))
		end()
		holed := d.Until("cache", "told of its hole", func(s blackbox.SourceStatus) bool {
			return s.Stores[1].Error == "" && len(s.Stores[1].Holes) > 0 && s.Stores[1].Stored >= middle.offset
		}).Stores[1].Holes[0]
		require.Contains(t, holed.Cause, "the spool was full while this store could not be written: ")
		require.Contains(t, holed.Cause, "asks for a pause")
		require.Contains(t, d.Get("/readyz"), "wait to be healed from another store")
		alone := s.alone(t)
		gap := alone.Timelines("cache")[0].Gaps[0]
		require.Equal(t, "hole: "+holed.Cause, gap.Cause)
		require.Equal(t, []int64{holed.From, holed.To}, []int64{gap.From.Offset, gap.To.Offset})
		require.Contains(t, alone.Do("list"), "the spool was full")
		r := alone.Run(append([]string{"restore", "--dry-run"}, middle.byOffset()...)...)
		require.Equal(t, 3, r.Code, "%s", r)
		require.Contains(t, r.Stderr, "the spool was full")

		diskBack()
		late := note(t, master, 1)
		d.Until("cache", "healed", func(s blackbox.SourceStatus) bool {
			return s.Stores[0].Error == "" && s.Stores[1].Error == "" && len(s.Stores[1].Holes) == 0 && s.Stores[1].Stored >= late.offset
		})
		require.Equal(t, "1", master.Info("stats")["sync_full"])
		require.Zero(t, d.Source("cache").PartialResyncs, "the link was not put down")
		d.Kill()
		require.Empty(t, alone.Timelines("cache")[0].Gaps)
		alone.Do("verify")
		for _, m := range []moment{early, middle, late} {
			m.equals(t, kind, alone.Restore(m.byOffset()...))
		}
	})
}

// took is how long clients waited.
type took struct{ write, wait []time.Duration }

// requireUnhurt holds what a master's clients noticed during a trouble against what was before. The machine
// may be busy with other tests, so only what no busy machine explains counts.
func requireUnhurt(t *testing.T, name string, before, during took) {
	t.Helper()
	for what, pair := range map[string][2][]time.Duration{"write": {before.write, during.write}, "WAIT": {before.wait, during.wait}} {
		was, is := pair[0], pair[1]
		require.NotEmpty(t, was)
		require.NotEmpty(t, is)
		t.Logf("%s: a %s takes %v, %v at most; before %v", name, what, median(is), slices.Max(is), median(was))
		require.Less(t, median(is), 10*median(was)+20*time.Millisecond, "%s: a %s is slower", name, what)
		require.Less(t, slices.Max(is), 5*time.Second, "%s: a %s was held up", name, what)
	}
}

func median(all []time.Duration) time.Duration {
	return slices.Sorted(slices.Values(all))[len(all)/2]
}

// traffic writes to a master evenly, half a megabyte a second, and takes the time of it as a client does. Every
// tenth write is followed by a WAIT, which must be answered by 1: what is acknowledged then is safe.
type traffic struct {
	mu    sync.Mutex // held while it writes
	seen  took
	err   error
	end   context.CancelFunc
	ended chan struct{}
}

func startTraffic(t *testing.T, master *enginetest.Server) *traffic {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	l := &traffic{end: cancel, ended: make(chan struct{})}
	conn := master.Client().Conn()
	go func() { // stop waits for it
		defer close(l.ended)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for i := 0; l.err == nil; i++ {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				l.write(ctx, conn, i)
			}
		}
	}()
	t.Cleanup(l.stop)
	return l
}

// stop ends it. It may be called more than once.
func (l *traffic) stop() {
	l.end()
	<-l.ended
}

func (l *traffic) write(ctx context.Context, conn *redis.Conn, i int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	values := make([]byte, 20*250)
	_, _ = rand.Read(values) // it never fails
	began := time.Now()
	_, err := conn.Pipelined(ctx, func(p redis.Pipeliner) error {
		for j := range 20 {
			p.Set(ctx, fmt.Sprint("key:", (20*i+j)%2000), fmt.Sprintf("%x", values[250*j:250*(j+1)]), 0)
		}
		return nil
	})
	l.seen.write = append(l.seen.write, time.Since(began))
	if err == nil && i%10 == 0 {
		began = time.Now()
		var n int64
		if n, err = conn.Wait(ctx, 1, 10*time.Second).Result(); err == nil && n != 1 {
			err = fmt.Errorf("a WAIT was answered by %d after %v", n, time.Since(began))
		}
		l.seen.wait = append(l.seen.wait, time.Since(began))
	}
	if ctx.Err() == nil {
		l.err = err
	}
}

// waited waits until so many writes have been made since took was asked.
func (l *traffic) waited(t *testing.T, writes int) {
	t.Helper()
	require.Eventually(t, func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.err != nil || len(l.seen.write) >= writes
	}, patience, pollEvery)
	l.mu.Lock()
	defer l.mu.Unlock()
	require.NoError(t, l.err)
}

// took is how long clients have waited since it was asked last.
func (l *traffic) took() took {
	l.mu.Lock()
	defer l.mu.Unlock()
	seen := l.seen
	l.seen = took{}
	return seen
}

// note takes a moment, while nothing is written.
func (l *traffic) note(t *testing.T, master *enginetest.Server) moment {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	require.NoError(t, l.err)
	return note(t, master, 1)
}
