package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/offloader/offloader/internal/heartbeat"
	"github.com/offloader/offloader/internal/relay"
	"github.com/offloader/offloader/internal/source"
	"github.com/offloader/offloader/internal/stale"
	"github.com/offloader/offloader/internal/stream"
	"github.com/offloader/offloader/internal/syncer"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

// fakeSpool is a spool's size.
type fakeSpool struct{ used, most atomic.Int64 }

func (f *fakeSpool) Used() int64    { return f.used.Load() }
func (f *fakeSpool) MaxSize() int64 { return f.most.Load() }

// well is a source with which all is well.
func well(name string) Source {
	return Source{Status: source.Status{
		Name: name, State: "streaming", Phase: syncer.Streaming, Master: "10.0.0.5:6379", Timeline: "20260102T110000.000Z-01234567",
		Received: 2000, ReceivedTime: stream.TimeOf(noon), Durable: 1900, DurableTime: stream.TimeOf(noon), NotDurable: 100, NotDurableSecs: 0.25,
		Acked: 1800, Since: stream.TimeOf(noon.Add(-time.Hour)), FullResyncs: 1, PartialResyncs: 2, NextFullResync: stream.TimeOf(noon),
		LastSnapshot: &source.Moment{Offset: 1000, Time: stream.TimeOf(noon.Add(-time.Hour))}, LastBoot: &source.Verify{Time: stream.TimeOf(noon)},
		Spool: source.SpoolStatus{Bytes: 900, MaxBytes: 10_000},
		Stores: []source.StoreStatus{{Name: "/srv/archive", Stored: 1500, StoredTime: stream.TimeOf(noon.Add(-time.Second)), LagBytes: 400, LagSeconds: 1,
			Errors: 3, Segments: 4, StreamBytes: 500, IntervalSeconds: 1, LastVerify: &source.Verify{Time: stream.TimeOf(noon.Add(-24 * time.Hour))},
			Held: stale.Held{Since: stream.TimeOf(noon.Add(-240 * time.Hour)), Snapshot: stream.TimeOf(noon.Add(-time.Hour)),
				Stored: stream.TimeOf(noon.Add(-time.Second)), Verified: stream.TimeOf(noon.Add(-24 * time.Hour)),
				Booted: stream.TimeOf(noon.Add(-24 * time.Hour))}}},
		Errors: map[syncer.Kind]int64{syncer.KindTimeout: 5},
	}}
}

// rig is a server with its sources in the test's hand.
type rig struct {
	*Server
	sources []Source
	spool   *fakeSpool
	free    int64
	now     time.Time
	limits  stale.Limits
}

func newRig(sources ...Source) *rig {
	r := &rig{sources: sources, spool: &fakeSpool{}, free: 1 << 30, now: noon}
	r.spool.most.Store(10_000)
	r.Server = New(Options{
		Build:   Build{Version: "1.2.3", Commit: "abc", Go: "go1.26"},
		Sources: func(time.Time) []Source { return r.sources },
		Spool:   r.spool, Metrics: NewMetrics(), Now: func() time.Time { return r.now },
		Disks: []Disk{
			{Space: r.space, MinFree: func(total int64) int64 { return total / 10 }},
			{Store: "/srv/archive", Space: r.space, MinFree: func(total int64) int64 { return total / 10 }},
		},
		MaxAge: func() stale.Limits { return r.limits },
	})
	return r
}

func (r *rig) space() (free, total int64, err error) { return r.free, 1 << 30, nil }

func (r *rig) get(path string) (int, string) {
	w := httptest.NewRecorder()
	r.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	return w.Code, w.Body.String()
}

// metric is a value as scraped, "" where it is absent.
func (r *rig) metric(series string) string {
	_, body := r.get("/metrics")
	for line := range strings.Lines(body) {
		if rest, ok := strings.CutPrefix(line, series+" "); ok {
			return strings.TrimSpace(rest)
		}
	}
	return ""
}

func TestHealth(t *testing.T) {
	change := func(f func(*Source)) []Source { s := well("cache"); f(&s); return []Source{well("other"), s} }
	for _, row := range []struct {
		name           string
		sources        []Source
		healthy, ready bool
		reasons        string
	}{
		{"all is well", []Source{well("cache")}, true, true, "ok\n"},
		{"master away", change(func(s *Source) {
			s.State, s.Why, s.Error = "waiting", "to connect again", "10.0.0.5:6379, connect: nothing listens there"
		}),
			true, false, "cache: waiting to connect again: 10.0.0.5:6379, connect: nothing listens there\n"},
		{"full sync", change(func(s *Source) { s.State = "syncing" }), true, false, "cache: syncing\n"},
		{"fsync hangs", change(func(s *Source) { s.NotDurableSecs = 11 }), true, false, "cache: 100 bytes are not durable after 11 s\n"},
		{"spool full", change(func(s *Source) { s.Spool.Error = "spool /s is full: it holds 20 GiB" }), true, false, "cache: spool /s is full: it holds 20 GiB\n"},
		{"relay shut", change(func(s *Source) { s.Relay = &Relay{"10.0.0.9:6390", "nobody has that address"} }), true, false,
			"cache: its relay is not open: nobody has that address\n"},
		{"store away", change(func(s *Source) { s.Stores[0].Error = "read-only file system" }), true, false, "cache: store /srv/archive: read-only file system\n"},
		{"store late", change(func(s *Source) { s.Stores[0].LagSeconds = 130 }), true, false, "cache: store /srv/archive: 400 bytes behind for 130 s\n"},
		{"two reasons", change(func(s *Source) { s.State = "connecting"; s.Stores[0].LagSeconds = 130 }), true, false,
			"cache: connecting\ncache: store /srv/archive: 400 bytes behind for 130 s\n"},
		{"archiving ended", change(func(s *Source) { s.Ended, s.State = "open its spool: no such file", "waiting" }), false, false, "cache: not archived: open its spool: no such file\n"},
	} {
		t.Run(row.name, func(t *testing.T) {
			r := newRig(row.sources...)
			code := func(ok bool) int {
				if ok {
					return http.StatusOK
				}
				return http.StatusServiceUnavailable
			}
			got, body := r.get("/readyz")
			require.Equal(t, code(row.ready), got)
			require.Equal(t, row.reasons, body)
			got, body = r.get("/healthz")
			require.Equal(t, code(row.healthy), got)
			if row.healthy {
				require.Equal(t, "ok\n", body)
			} else {
				require.Equal(t, "cache: its archiving ended, and is tried again: open its spool: no such file\n", body)
			}
		})
	}
}

func TestStatusIsTheContract(t *testing.T) {
	r := newRig(well("cache"))
	code, body := r.get("/api/v1/status")
	require.Equal(t, http.StatusOK, code)
	var got map[string]any
	require.NoError(t, json.Unmarshal([]byte(body), &got))
	require.Equal(t, "1.2.3", got["version"])
	src := got["sources"].([]any)[0].(map[string]any)
	for _, field := range []string{"name", "state", "master", "timeline", "replid", "received", "durable", "full_resyncs", "partial_resyncs", "last_snapshot", "spool", "stores"} {
		require.Contains(t, src, field)
	}
	require.Equal(t, map[string]any{"offset": 1000.0, "time": "2026-01-02T11:00:00.000Z"}, src["last_snapshot"])
	require.NotContains(t, src, "ended")

	var back Report
	require.NoError(t, json.Unmarshal([]byte(body), &back))
	require.Equal(t, Report{Version: "1.2.3", Sources: []Source{well("cache")}, Jobs: []Job{}}, back)

	_, body = newRig().get("/api/v1/status")
	require.Contains(t, body, `"sources": []`)
}

func TestOnlyReading(t *testing.T) {
	r := newRig(well("cache"))
	for _, path := range []string{"/metrics", "/healthz", "/readyz", "/api/v1/status"} {
		for method, want := range map[string]int{"GET": 200, "HEAD": 200, "POST": 405, "PUT": 405, "DELETE": 405, "OPTIONS": 405, "WHATEVER": 405} {
			w := httptest.NewRecorder()
			r.Handler().ServeHTTP(w, httptest.NewRequest(method, path, strings.NewReader("x")))
			require.Equal(t, want, w.Code, "%s %s", method, path)
		}
	}
	for _, path := range []string{"/", "/api/v1/other", "/debug/pprof/", "/metrics/x"} {
		code, _ := r.get(path)
		require.Equal(t, http.StatusNotFound, code, path)
	}
}

func TestMetricsAreWhatTheSourcesSay(t *testing.T) {
	s := well("cache")
	s.Transfer = &source.Transfer{Bytes: 10, Total: -1, LeftSeconds: -1}
	s.Relay = &Relay{Listen: "10.0.0.9:6390", Error: "nobody has that address"}
	s.Replicas = []relay.Replica{
		{Address: "10.0.0.6:6379", State: relay.Online, Offset: 1850, AckTime: s.DurableTime, FullSyncs: 1, PartialSyncs: 2, SentBytes: 4000},
		{Address: "10.0.0.7:6379", State: relay.Copying},
	}
	r := newRig(s)
	r.spool.used.Store(900)
	for series, want := range map[string]string{
		`offloader_source_state{source="cache",state="streaming"}`:                        "1",
		`offloader_source_state{source="cache",state="waiting"}`:                          "0",
		`offloader_received_offset_bytes{source="cache"}`:                                 "2000",
		`offloader_durable_offset_bytes{source="cache"}`:                                  "1900",
		`offloader_durable_timestamp_seconds{source="cache"}`:                             "1.7673552e+09",
		`offloader_not_durable_bytes{source="cache"}`:                                     "100",
		`offloader_not_durable_seconds{source="cache"}`:                                   "0.25",
		`offloader_last_snapshot_offset_bytes{source="cache"}`:                            "1000",
		`offloader_full_resyncs_total{source="cache"}`:                                    "1",
		`offloader_link_errors_total{kind="timeout",source="cache"}`:                      "5",
		`offloader_relay_failing{source="cache"}`:                                         "1",
		`offloader_replica_state{replica="10.0.0.6:6379",source="cache",state="online"}`:  "1",
		`offloader_replica_state{replica="10.0.0.7:6379",source="cache",state="online"}`:  "0",
		`offloader_replica_offset_bytes{replica="10.0.0.6:6379",source="cache"}`:          "1850",
		`offloader_replica_lag_bytes{replica="10.0.0.6:6379",source="cache"}`:             "50",
		`offloader_replica_lag_bytes{replica="10.0.0.7:6379",source="cache"}`:             "", // it has said nothing yet
		`offloader_replica_full_syncs_total{replica="10.0.0.6:6379",source="cache"}`:      "1",
		`offloader_replica_partial_syncs_total{replica="10.0.0.6:6379",source="cache"}`:   "2",
		`offloader_replica_sent_bytes_total{replica="10.0.0.6:6379",source="cache"}`:      "4000",
		`offloader_stored_offset_bytes{source="cache",store="/srv/archive"}`:              "1500",
		`offloader_store_lag_bytes{source="cache",store="/srv/archive"}`:                  "400",
		`offloader_store_errors_total{source="cache",store="/srv/archive"}`:               "3",
		`offloader_store_snapshot_timestamp_seconds{source="cache",store="/srv/archive"}`: "1.7673516e+09",
		`offloader_store_verified_timestamp_seconds{source="cache",store="/srv/archive"}`: "1.7672688e+09",
		`offloader_store_verify_findings{source="cache",store="/srv/archive"}`:            "0",
		`offloader_store_booted_timestamp_seconds{source="cache",store="/srv/archive"}`:   "1.7672688e+09",
		`offloader_boot_findings{source="cache"}`:                                         "0",
		`offloader_spool_bytes`:                                                 "900",
		`offloader_full_sync_received_bytes{source="cache"}`:                    "10",
		`offloader_full_sync_expected_bytes{source="cache"}`:                    "", // the master didn't say
		`offloader_full_sync_left_seconds{source="cache"}`:                      "",
		`offloader_build_info{commit="abc",goversion="go1.26",version="1.2.3"}`: "1",
	} {
		if got := r.metric(series); got != want {
			t.Errorf("%s is %q, want %q", series, got, want)
		}
	}
}

func TestHistogramsCost(t *testing.T) {
	r := newRig(well("cache"))
	m := r.o.Metrics
	acks := m.Acks("cache")
	require.Zero(t, testing.AllocsPerRun(100, func() { m.Synced(time.Millisecond); acks.Acked("cache", 200*time.Microsecond) }))
	require.Equal(t, "101", r.metric(`offloader_fsync_duration_seconds_bucket{le="0.001"}`))
	require.Equal(t, "0", r.metric(`offloader_ack_duration_seconds_bucket{source="cache",le="0.0001"}`))
	require.Equal(t, "101", r.metric(`offloader_ack_duration_seconds_bucket{source="cache",le="0.0002"}`))
	m.Forget("cache")
	require.Empty(t, r.metric(`offloader_ack_duration_seconds_count{source="cache"}`))
}

// Every metric that is exported is in the documentation, with its type and labels, and no other.
func TestMetricsAreDocumented(t *testing.T) {
	text, err := os.ReadFile("../../docs/metrics.md")
	require.NoError(t, err)
	documented := map[string]string{}
	for _, m := range regexp.MustCompile("(?m)^\\| `(offloader_\\w+)` \\| (\\w+) \\| ([^|]*)\\|").FindAllStringSubmatch(string(text), -1) {
		documented[m[1]] = m[2] + " " + strings.Join(regexp.MustCompile(`\w+`).FindAllString(m[3], -1), ",")
	}
	s := well("cache")
	s.Transfer = &source.Transfer{Bytes: 10, Total: 20, LeftSeconds: 1}
	s.Suspect, s.Known = &source.Suspicion{}, &source.Known{}
	s.Relay = &Relay{}
	s.Replicas = []relay.Replica{{State: relay.Online, AckTime: s.DurableTime}}
	s.Rebirth = &Rebirth{Seconds: 12}
	r := newRig(s)
	r.o.Metrics.Acks("cache")
	r.o.Jobs = func() []Job {
		return []Job{{Name: "verify /srv", Next: s.DurableTime, Last: s.DurableTime, LastSuccess: s.DurableTime}}
	}
	r.o.Heartbeat = func() *heartbeat.Status { return &heartbeat.Status{Host: "hc.example.com", Last: s.DurableTime} }
	_, body := r.get("/metrics")
	exported := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^# TYPE (offloader_\w+) (\w+)$`).FindAllStringSubmatch(body, -1) {
		series := regexp.MustCompile(`(?m)^` + m[1] + `(?:_count)?(?:\{(.*)\})? `).FindStringSubmatch(body)
		require.NotNil(t, series, m[1])
		labels := map[string]bool{}
		for _, l := range regexp.MustCompile(`(\w+)="`).FindAllStringSubmatch(series[1], -1) {
			labels[l[1]] = true
		}
		var ordered []string
		for _, l := range []string{"version", "source", "replica", "commit", "store", "state", "kind", "goversion", "job"} {
			if labels[l] {
				ordered = append(ordered, l)
			}
		}
		exported[m[1]] = m[2] + " " + strings.Join(ordered, ",")
		require.Regexp(t, `^offloader_.*(_bytes|_seconds|_total|_info|_state|_ended|_failing|_findings|_per_day|_suspect|_keys|_waiting)$`, m[1], "a base unit")
	}
	require.Equal(t, documented, exported)
}

func TestGrowth(t *testing.T) {
	s := well("cache")
	r := newRig(s)
	require.Equal(t, "0", r.metric(`offloader_stream_bytes_per_day{source="cache"}`))
	require.Equal(t, "+Inf", r.metric("offloader_spool_full_seconds"))

	// Ten minutes in which 6,000 bytes came, the spool took 1,000 and the disk 60 MB.
	r.now = r.now.Add(10 * time.Minute)
	r.sources[0].Received += 6000
	r.spool.used.Store(1000)
	r.free -= 60_000_000
	require.Equal(t, fmt.Sprint(6000*6*24), r.metric(`offloader_stream_bytes_per_day{source="cache"}`))
	require.Equal(t, "5400", r.metric("offloader_spool_full_seconds")) // 9,000 bytes at 100 a minute
	left := float64(1<<30-60_000_000-1<<30/10) / 100_000
	require.Equal(t, fmt.Sprintf("%.6g", left), fmt.Sprintf("%.6g", number(t, r.metric(`offloader_store_full_seconds{store="/srv/archive"}`))))

	// The offsets of another timeline begin elsewhere: that is no stream.
	r.sources[0].Timeline, r.sources[0].Received = "20260102T121000.000Z-89abcdef", 1_000_000_000
	require.Equal(t, fmt.Sprint(6000*6*24), r.metric(`offloader_stream_bytes_per_day{source="cache"}`))

	// What shrinks is not going to be full; what is full says so.
	r.now, r.free = r.now.Add(10*time.Minute), 1<<30
	r.spool.used.Store(0)
	require.Equal(t, "+Inf", r.metric("offloader_spool_full_seconds"))
	require.Equal(t, "+Inf", r.metric(`offloader_store_full_seconds{store="/srv/archive"}`))
	r.free = 1 << 20
	require.Equal(t, "0", r.metric(`offloader_store_full_seconds{store="/srv/archive"}`))
}

func number(t *testing.T, s string) (v float64) {
	_, err := fmt.Sscan(s, &v)
	require.NoError(t, err, s)
	return v
}

// The rates are of the last hour, and need nobody who scrapes.
func TestRatesForget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(well("cache"))
		r.o.Now = time.Now
		var received atomic.Int64
		r.o.Sources = func(time.Time) []Source {
			s := well("cache")
			s.Received = stream.Offset(received.Load())
			return []Source{s}
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- r.Run(ctx) }()
		synctest.Wait()
		received.Store(1 << 30)
		time.Sleep(30 * time.Minute)
		require.InEpsilon(t, 48*(1<<30), number(t, r.metric(`offloader_stream_bytes_per_day{source="cache"}`)), 0.001)
		time.Sleep(2 * time.Hour)
		require.Equal(t, "0", r.metric(`offloader_stream_bytes_per_day{source="cache"}`))
		cancel()
		require.NoError(t, <-ended)
	})
}

// deepDir is a folder whose path alone is longer than a socket's may be.
func deepDir(t *testing.T) string {
	dir := filepath.Join(t.TempDir(), strings.Repeat("d", 120))
	require.NoError(t, os.Mkdir(dir, 0o750))
	return dir
}

func TestSocketInADeepFolder(t *testing.T) {
	dir := deepDir(t)
	serve := func() (stop func()) {
		l, err := ListenIn(t.Context(), dir)
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- newRig(well("cache")).Run(ctx, l) }()
		return func() { cancel(); require.NoError(t, <-ended) }
	}
	ask := func() (string, error) {
		resp, err := ClientIn(dir).Get("http://offloader/healthz")
		if err != nil {
			return "", err
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		return string(body), err
	}
	stop := serve()
	body, err := ask()
	require.NoError(t, err)
	require.Equal(t, "ok\n", body)
	info, err := os.Stat(filepath.Join(dir, SocketName))
	require.NoError(t, err)
	require.Equal(t, fs.FileMode(0o660), info.Mode().Perm())

	stop()
	_, err = ask()
	require.ErrorIs(t, err, fs.ErrNotExist, "the socket is gone with the daemon")

	// What a killed daemon leaves is refused, and replaced by the next.
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join("/proc/self/cwd", SocketName), Net: "unix"})
	require.NoError(t, err)
	stale.SetUnlinkOnClose(false)
	require.NoError(t, stale.Close())
	require.NoError(t, os.Rename(SocketName, filepath.Join(dir, SocketName)))
	_, err = ask()
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
	stop = serve()
	_, err = ask()
	require.NoError(t, err)
	stop()

	_, err = ListenIn(t.Context(), filepath.Join(dir, "missing"))
	require.ErrorIs(t, err, fs.ErrNotExist)
}

// Connections beyond the bound wait for others to end; none is served beside them.
func TestConnectionsAreBounded(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	r := newRig(well("cache"))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx, l) }()
	ask := func(c net.Conn) error {
		if _, err := io.WriteString(c, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			return err
		}
		_, err := c.Read(make([]byte, 1024))
		return err
	}
	dial := func() net.Conn {
		c, err := net.Dial("tcp", l.Addr().String())
		require.NoError(t, err)
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	var conns []net.Conn
	for range maxConns {
		conns = append(conns, dial())
		require.NoError(t, ask(conns[len(conns)-1]))
	}
	last := dial()
	require.NoError(t, last.SetReadDeadline(time.Now().Add(50*time.Millisecond)))
	require.ErrorIs(t, ask(last), os.ErrDeadlineExceeded)
	require.NoError(t, conns[0].Close())
	require.NoError(t, last.SetReadDeadline(time.Now().Add(10*time.Second)))
	_, err = last.Read(make([]byte, 1024))
	require.NoError(t, err)

	began := time.Now()
	cancel()
	require.NoError(t, <-ended, "all connections are closed")
	require.Less(t, time.Since(began), idleTime/2, "though one more would have been let in")
	_, err = net.Dial("tcp", l.Addr().String())
	require.True(t, errors.Is(err, syscall.ECONNREFUSED))
}

// A job that failed is no readiness: a backup that isn't taken must not look like one.
func TestAFailedJobIsToldByReadyz(t *testing.T) {
	r := newRig(well("cache"))
	code, _ := r.get("/readyz")
	require.Equal(t, 200, code)
	r.o.Jobs = func() []Job {
		return []Job{{Name: "verify /srv"}, {Name: "snapshot of cache", Error: "the disk is full"}}
	}
	code, body := r.get("/readyz")
	require.Equal(t, 503, code)
	require.Equal(t, "snapshot of cache: the disk is full\n", body)
}

// What has grown old is no readiness, though all that is written now is safe: by the limits in force,
// store by store.
func TestWhatIsTooOldIsToldByReadyz(t *testing.T) {
	r := newRig(well("cache"))
	r.limits = stale.Limits{Snapshot: 2 * time.Hour, Stored: 5 * time.Minute, Verify: 48 * time.Hour}
	ready := func(want string) {
		t.Helper()
		_, body := r.get("/readyz")
		require.Equal(t, want, body)
	}
	ready("ok\n")
	r.now = noon.Add(4 * time.Minute)
	ready("ok\n")
	r.now = noon.Add(6 * time.Minute) // nothing is behind, and yet nothing has come
	ready("cache: store /srv/archive: its newest byte was received 6 min ago; max_age.stored is 5 min\n")
	r.sources[0].Stores[0].LagSeconds = 350 // which says it better
	ready("cache: store /srv/archive: 400 bytes behind for 350 s\n")
	r.limits.Stored, r.sources[0].Stores[0].LagSeconds = 0, 100 // without a limit: two minutes more than it takes
	ready("cache: store /srv/archive: its newest byte was received 6 min ago; max_age.stored is 2 min\n")
	r.sources[0].Stores[0].IntervalSeconds = 3600
	ready("ok\n")
	r.now = noon.Add(96 * time.Hour)
	r.sources[0].Stores[0].Held.Stored = stream.TimeOf(r.now)
	r.sources[0].Stores[0].Error = "read-only file system"
	ready("cache: store /srv/archive: read-only file system\n" +
		"cache: store /srv/archive: its newest snapshot is of 4 days ago; max_age.snapshot is 2 h\n" +
		"cache: store /srv/archive: it was last verified 5 days ago; max_age.verify is 2 days\n")
	require.Len(t, r.Unready(), 3)
	r.limits = stale.Limits{}
	ready("cache: store /srv/archive: read-only file system\n")
}
