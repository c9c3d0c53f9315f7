package main

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/config"
	"github.com/offloader/offloader/internal/httpapi"
	"github.com/offloader/offloader/internal/relay"
	"github.com/offloader/offloader/internal/source"
	"github.com/offloader/offloader/internal/stream"
	"github.com/offloader/offloader/internal/syncer"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

func ago(d time.Duration) stream.Time { return stream.TimeOf(noon.Add(-d)) }

// streaming is a source with which all is well.
func streaming() httpapi.Source {
	return httpapi.Source{Status: source.Status{
		Name: "cache", State: "streaming", Phase: syncer.Streaming, PhaseSince: ago(2*time.Hour + 3*time.Minute),
		Master: "10.0.0.5:6379", Engine: "redis", Version: "7.0.15", Role: "master",
		Timeline: "20260102T095649.000Z-01234567", ReplID: "0123456789abcdef0123456789abcdef01234567",
		Received: 1234600, Durable: 1234567, Acked: 1234567, NotDurable: 33, DurableTime: ago(400 * time.Millisecond), Since: ago(2*time.Hour + 3*time.Minute),
		FullResyncs: 1, PartialResyncs: 2, LastSnapshot: &source.Moment{Offset: 1000, Time: ago(26 * time.Hour)},
		Spool:  source.SpoolStatus{Bytes: 3 << 20, MaxBytes: 20 << 30},
		Stores: []source.StoreStatus{{Name: "/srv/archive", Stored: 1234000, StoredTime: ago(5 * time.Second), LagBytes: 567, LagSeconds: 4.2}},
	}}
}

func TestStatusForPeople(t *testing.T) {
	change := func(f func(*httpapi.Source)) httpapi.Source { s := streaming(); f(&s); return s }
	for _, row := range []struct {
		name   string
		source httpapi.Source
		want   string
	}{
		{"all is well", streaming(), `
cache: every moment from 09:57:00 to 400 ms ago can be restored; 33 B not yet durable
  master    10.0.0.5:6379, redis 7.0.15
  link      streaming for 2 h 3 m
  timeline  20260102T095649.000Z-01234567, replication id 0123456789abcdef0123456789abcdef01234567
  offsets   received 1,234,600, durable 1,234,567, acknowledged 1,234,567
  snapshot  2026-01-01 10:00:00, at offset 1,000
  resyncs   1 full, 2 partial
  spool     3.0 MiB of 20 GiB
  store     /srv/archive: up to offset 1,234,000, 567 B and 4.2 s behind
  WAIT      1 means durable here while Offloader is the master's only replica, n+1 beside n others
`},
		{"the master is away", change(func(s *httpapi.Source) {
			s.State, s.Phase, s.Why, s.Until = "waiting", syncer.Waiting, "to connect again", ago(-3*time.Second)
			s.Error, s.Hint = "10.0.0.5:6379, connect: nothing listens there", "is the server up, and is this its port?"
			s.NotDurable, s.DurableTime, s.Since, s.LastSnapshot = 0, ago(10*time.Minute), ago(50*time.Hour), nil
			s.NextFullResync = ago(-20 * time.Minute)
			s.Stores[0].LagBytes, s.Stores[0].Error = 0, "archive /srv/archive: read-only file system"
		}), `
cache: nothing is archived since 11:50:00 (10 m 0 s ago): waiting to connect again; every moment from 2025-12-31 10:00:00 to 11:50:00 (10 m 0 s ago) can be restored; 0 B not yet durable
  master    10.0.0.5:6379, redis 7.0.15
  link      waiting to connect again, for another 3.0 s
  error     10.0.0.5:6379, connect: nothing listens there
            → is the server up, and is this its port?
  timeline  20260102T095649.000Z-01234567, replication id 0123456789abcdef0123456789abcdef01234567
  offsets   received 1,234,600, durable 1,234,567, acknowledged 1,234,567
  resyncs   1 full, 2 partial; the next full one not before 12:20:00
  spool     3.0 MiB of 20 GiB
  store     /srv/archive: up to offset 1,234,000, all that is durable
            archive /srv/archive: read-only file system
`},
		{"replicas of its relay", change(func(s *httpapi.Source) {
			s.Relay = &httpapi.Relay{Listen: "10.0.0.9:6390"}
			s.Replicas = []relay.Replica{
				{Address: "10.0.0.6:6379", State: relay.Online, Since: ago(time.Hour), Offset: 1234543, AckTime: ago(time.Second)},
				{Address: "10.0.0.7:6379", State: relay.Copying, Since: ago(3 * time.Second)},
			}
		}), `
cache: every moment from 09:57:00 to 400 ms ago can be restored; 33 B not yet durable
  master    10.0.0.5:6379, redis 7.0.15
  link      streaming for 2 h 3 m
  timeline  20260102T095649.000Z-01234567, replication id 0123456789abcdef0123456789abcdef01234567
  offsets   received 1,234,600, durable 1,234,567, acknowledged 1,234,567
  snapshot  2026-01-01 10:00:00, at offset 1,000
  relay     replicas attach to 10.0.0.9:6390
  replica   10.0.0.6:6379 online since 11:00:00, acknowledged 1,234,543, 24 B behind
  replica   10.0.0.7:6379 copying since 11:59:57
  resyncs   1 full, 2 partial
  spool     3.0 MiB of 20 GiB
  store     /srv/archive: up to offset 1,234,000, 567 B and 4.2 s behind
  WAIT      1 means durable here while Offloader is the master's only replica, n+1 beside n others
`},
		{"a full sync", httpapi.Source{Status: source.Status{
			Name: "cache", State: "syncing", Phase: syncer.Receiving, PhaseSince: ago(3 * time.Second), Master: "10.0.0.5:6379", Upstream: "10.0.0.4:6379", Engine: "valkey", Version: "9.1.2",
			Transfer: &source.Transfer{Bytes: 1 << 30, Total: 4 << 30, Rate: 350 << 20, LeftSeconds: 8.8}, FullResyncs: 1, Spool: source.SpoolStatus{MaxBytes: 1 << 30},
			Stores: []source.StoreStatus{{Name: "/srv/archive"}},
		}}, `
cache: nothing can be restored yet
  master   10.0.0.5:6379, valkey 9.1.2, itself a replica of 10.0.0.4:6379
  link     full sync, receiving, 1.0 GiB of 4.0 GiB (25 %), 350 MiB/s, 8.8 s left
  resyncs  1 full, 0 partial
  spool    0 B of 1.0 GiB
  store    /srv/archive: nothing of the stream yet
`},
	} {
		t.Run(row.name, func(t *testing.T) {
			term, out, _ := words()
			a := &app{term: term}
			require.NoError(t, a.printStatus(httpapi.Report{Sources: []httpapi.Source{row.source}}, noon))
			require.Equal(t, strings.TrimPrefix(row.want, "\n"), out.String())
		})
	}
}

func TestProgressOfFullSyncs(t *testing.T) {
	saving := httpapi.Source{Status: source.Status{Name: "a", State: "syncing", Phase: syncer.Saving, PhaseSince: ago(12 * time.Second)}}
	diskless := httpapi.Source{Status: source.Status{Name: "b", State: "syncing", Phase: syncer.Receiving,
		Transfer: &source.Transfer{Bytes: 3 << 20, Total: -1, Rate: 1 << 20, LeftSeconds: -1}}}
	require.Empty(t, syncLine([]httpapi.Source{streaming()}, noon))
	require.Equal(t, "a: full sync, the master makes its RDB, for 12.0 s now", syncLine([]httpapi.Source{streaming(), saving}, noon))
	require.Equal(t, "b: full sync, receiving, 3.0 MiB, 1.0 MiB/s (and 2 more)", syncLine([]httpapi.Source{diskless, saving, diskless}, noon))

	var log bytes.Buffer
	l, err := newLogger("text", "info", &log)
	require.NoError(t, err)
	logSyncs(l, []httpapi.Source{streaming(), saving, diskless}, noon)
	lines := strings.Split(log.String(), "\n")
	require.Len(t, lines, 3)
	require.Contains(t, lines[0], `msg="full sync" source=a phase=saving for="12.0 s"`)
	require.Contains(t, lines[1], `msg="full sync" source=b phase=receiving bytes=3145728 rate="1.0 MiB/s"`)
}

// Log lines stand above the live one, which is drawn again below them.
func TestLiveLine(t *testing.T) {
	var out bytes.Buffer
	l := &liveLine{out: &out}
	write := func(s string) {
		n, err := l.Write([]byte(s))
		require.NoError(t, err)
		require.Equal(t, len(s), n)
	}
	write("one\n")
	l.show("50 %")
	write("two\n")
	l.show("60 %")
	l.show("60 %")
	l.show("")
	write("three\n")
	require.Equal(t, "one\n"+erase+"50 %"+erase+"two\n50 %"+erase+"60 %"+erase+"three\n", out.String())
}

func TestStatusLineForSystemd(t *testing.T) {
	away := httpapi.Source{Status: source.Status{Name: "b", State: "waiting", Why: "to connect again", Error: "10.0.0.6:6379, connect:\nnothing listens there"}}
	full := httpapi.Source{Status: source.Status{Name: "c", State: "waiting", Why: "for room in the spool"}}
	require.Equal(t, "cache: streaming, 33 B not yet durable", statusLine([]httpapi.Source{streaming()}))
	require.Equal(t, "cache: streaming, 33 B not yet durable; b: waiting, 10.0.0.6:6379, connect: nothing listens there; c: waiting for room in the spool",
		statusLine([]httpapi.Source{streaming(), away, full}))
	many := []httpapi.Source{away, full}
	for range 38 {
		many = append(many, streaming())
	}
	require.Equal(t, "38 of 40 sources streaming; b: waiting, 10.0.0.6:6379, connect: nothing listens there; c: waiting for room in the spool", statusLine(many))
	require.Equal(t, "0 of 7 sources streaming; c: waiting for room in the spool; c: waiting for room in the spool; c: waiting for room in the spool; c: waiting for room in the spool; c: waiting for room in the spool; and 2 more",
		statusLine([]httpapi.Source{full, full, full, full, full, full, full}))
}

// A source is started anew at a reload only if something of it has changed.
func TestWhatASourceIsStartedAnewFor(t *testing.T) {
	ca := filepath.Join(t.TempDir(), "ca.pem")
	one := func(f func(*config.Source), text string) want {
		require.NoError(t, os.WriteFile(ca, []byte(text), 0o600))
		s := config.Source{Name: "cache", Address: "10.0.0.5:6379", Username: "u", Password: "p", TLS: &config.TLS{CAFile: ca}, Announce: "10.0.0.9:7000"}
		f(&s)
		w := want{Source: s}
		if s.TLS != nil {
			var err error
			w.files, err = sumOf(s.TLS.CAFile, s.TLS.CertFile, s.TLS.KeyFile)
			require.NoError(t, err)
		}
		return w
	}
	is := func(*config.Source) {}
	was := one(is, "certificate")
	require.True(t, was.same(one(is, "certificate")))
	require.Equal(t, syncer.Announce{Host: "10.0.0.9", Port: 7000}, was.link().Announce)
	require.False(t, was.same(one(is, "renewed certificate")))
	for name, f := range map[string]func(*config.Source){
		"address":  func(s *config.Source) { s.Address = "10.0.0.6:6379" },
		"username": func(s *config.Source) { s.Username = "v" },
		"password": func(s *config.Source) { s.Password = "q" },
		"announce": func(s *config.Source) { s.Announce = "" },
		"no tls":   func(s *config.Source) { s.TLS = nil },
		"tls name": func(s *config.Source) { s.TLS = &config.TLS{CAFile: ca, ServerName: "x"} },
	} {
		require.False(t, was.same(one(f, "certificate")), name)
	}
}

func TestWhereAListenerIsReached(t *testing.T) {
	for listen, want := range map[string]string{
		":9390": "127.0.0.1:9390", "0.0.0.0:9390": "127.0.0.1:9390", "[::]:9390": "127.0.0.1:9390", "10.0.0.9:80": "10.0.0.9:80", "host:80": "host:80",
	} {
		require.Equal(t, want, reachable(listen))
	}
}

// A daemon whose spool can't be seen from here, as one in a container, is asked at its port.
func TestADaemonIsFoundByItsPort(t *testing.T) {
	var status http.HandlerFunc = func(w http.ResponseWriter, r *http.Request) {
		require.Equal(t, "/api/v1/status", r.URL.Path)
		_, _ = io.WriteString(w, `{"version": "1.2.3", "sources": []}`)
	}
	daemon, other := httptest.NewServer(status), httptest.NewServer(http.NotFoundHandler())
	defer daemon.Close()
	defer other.Close()
	listen := func(s *httptest.Server) string { return strings.TrimPrefix(s.URL, "http://") }
	unseen := filepath.Join(t.TempDir(), "unseen")
	for _, spool := range []string{"", unseen} {
		body, err := askDaemon(t.Context(), spool, listen(daemon))
		require.NoError(t, err)
		require.Contains(t, string(body), "1.2.3")
	}
	_, err := askDaemon(t.Context(), "", listen(other))
	require.ErrorContains(t, err, "what answers there is no offloader: it said 404 Not Found")
	_, err = askDaemon(t.Context(), t.TempDir(), listen(daemon))
	require.ErrorContains(t, err, "no daemon runs on the spool", "its folder knows best")
}

func TestRestorableBeforeTheStoreHasAnswered(t *testing.T) {
	s := streaming()
	s.Since = 0
	const moments = "moments up to 11:59:59 can be restored, since when is not known before the store answers; 33 B not yet durable"
	require.Equal(t, moments, restorable(s.Status, noon))

	s.State = "connecting"
	require.Equal(t, "nothing is archived since 400 ms ago: connecting; "+moments, restorable(s.Status, noon))
	s.State, s.Why = "waiting", "with a full resync: the master's history is another: as it says"
	require.Equal(t, "nothing is archived since 400 ms ago: waiting with a full resync; "+moments, restorable(s.Status, noon))
	s.Why = "for its rebirth: it loads the snapshot"
	require.Equal(t, moments, restorable(s.Status, noon), "it has nothing that isn't archived")
}

func TestRestorableWithNoTimelineThatGoesOn(t *testing.T) {
	s := source.Status{State: "syncing", Stores: []source.StoreStatus{{}, {}}}
	require.Equal(t, "nothing can be restored yet", restorable(s, noon))
	s.Stores[1].Held.Snapshot = ago(time.Hour)
	require.Equal(t, "a new timeline begins with the copy that is under way; what is older can be restored: see `offloader list`", restorable(s, noon))
	s.State = "waiting"
	require.Equal(t, "nothing is archived now; what is older can be restored: see `offloader list`", restorable(s, noon))
}
