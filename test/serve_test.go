package test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/engine/enginetest"
	"github.com/offloader/offloader/test/blackbox"
)

// reaches waits until a replica has all up to an offset, and nothing more.
func reaches(t *testing.T, replica *enginetest.Server, offset int64) {
	t.Helper()
	require.Eventually(t, func() bool {
		i := replica.Info("replication")
		return i["master_link_status"] == "up" && i["slave_repl_offset"] == strconv.FormatInt(offset, 10)
	}, 30*time.Second, 10*time.Millisecond, "offset %d: %v", offset, replica.Info("replication"))
}

// becomes compares a server that loaded by replication with the moment: as it is, and promoted.
func (m moment) becomes(t *testing.T, s *enginetest.Server) {
	t.Helper()
	s.Do("DEBUG", "SET-ACTIVE-EXPIRE", 0)
	require.Equal(t, m.digest, s.Digest(), "at offset %d\n%s", m.offset, m.differences(s))
	require.Equal(t, m.expiries, expiries(t, s), "keys, and when they expire, at offset %d", m.offset)
	s.Do("REPLICAOF", "NO", "ONE")
	require.Equal(t, m.digest, s.Digest(), "at offset %d, promoted", m.offset)
}

// TestServe: an engine that is told REPLICAOF becomes what the master was at the point, and no daemon is
// needed for that.
func TestServe(t *testing.T) {
	t.Parallel()
	enginetest.Each(t, func(t *testing.T, kind enginetest.Kind) {
		t.Parallel()
		master := enginetest.Start(t, kind)
		w := working(t, master, 500)
		d := blackbox.Start(t, t.TempDir(), blackbox.Source{Name: "cache", Address: master.Addr()})
		d.Streaming("cache")
		require.NoError(t, w.Run(t.Context(), 500))
		first := note(t, master, 1)
		require.NoError(t, w.Run(t.Context(), 500))
		last := note(t, master, 1)

		id := master.Info("replication")["master_replid"]
		for _, c := range []struct {
			moment
			args []string
		}{{first, first.byOffset()}, {first, first.byTime()}, {last, last.byOffset()}} {
			if c.offset == last.offset {
				d.Stop() // from here on there is no daemon
			}
			s := d.Serve(c.args...)
			require.Equal(t, id, s.ReplID)
			require.Equal(t, c.offset, s.Offset)
			host, port := s.At()
			replica := enginetest.Start(t, kind, "--replicaof", host+" "+port)
			reaches(t, replica, s.Offset)
			if c.offset == last.offset {
				r := d.Run("restore", "--latest", "--to", "redis://"+s.Listen)
				require.Equal(t, 1, r.Code, r)
				require.Contains(t, r.Stderr, "what answers there is Offloader")
			}
			require.Equal(t, id, replica.Info("replication")["master_replid"])
			c.becomes(t, replica)
			s.Stop()
		}
		require.Equal(t, "1", master.Info("stats")["sync_full"])
	})
}

// A server that has more than the point, the master itself say, goes back to it: that is what it was told.
func TestServeRewinds(t *testing.T) {
	t.Parallel() // it waits most of the time
	kind := enginetest.Any(t)
	master := enginetest.Start(t, kind)
	d := blackbox.Start(t, t.TempDir(), blackbox.Source{Name: "cache", Address: master.Addr()})
	d.Streaming("cache")
	fill(t, master, "good")
	digest := master.Digest()
	master.Do("FLUSHALL")
	acknowledged(t, master, 1)
	s := d.Serve("--before", "FLUSHALL")
	d.Stop()
	host, port := s.At()
	master.Do("REPLICAOF", host, port)
	reaches(t, master, s.Offset)
	require.Equal(t, digest, master.Digest())
	master.Do("REPLICAOF", "NO", "ONE")
	require.Equal(t, digest, master.Digest())
	master.Do("SET", "and", "on")
}

// Where nothing more comes, and nothing may be invented, a replica leaves after its patience, comes back, and
// is where it was: at the same offset, with the same data, and with the one full copy.
func TestServePitfall5SilenceCostsNothing(t *testing.T) {
	t.Parallel()
	enginetest.Each(t, func(t *testing.T, kind enginetest.Kind) {
		t.Parallel()
		master := enginetest.Start(t, kind)
		working(t, master, 300)
		d := archiving(t, master)
		m := note(t, master, 1)
		host, port := d.Serve(m.byOffset()...).At()
		replica := enginetest.Start(t, kind, "--repl-timeout", "1", "--replicaof", host+" "+port)
		require.Eventually(t, func() bool { return strings.Count(replica.LogText(), "Successful partial resynchronization") >= 2 },
			60*time.Second, 10*time.Millisecond, "%s", replica.LogText())
		reaches(t, replica, m.offset)
		m.becomes(t, replica)
		require.Equal(t, 1, strings.Count(replica.LogText(), "Full resync from"))
	})
}

// The engines' own client fetches an RDB from the relay and from serve, as from a master: with SYNC, and for
// itself alone. It is the newest snapshot, as the master sent it; what isn't the point that is served is refused.
func TestServeToTheEnginesOwnClient(t *testing.T) {
	t.Parallel()
	enginetest.Each(t, func(t *testing.T, kind enginetest.Kind) {
		t.Parallel()
		master := enginetest.Start(t, kind)
		w := working(t, master, 500)
		d, port := relaying(t, master.Addr(), "")
		began := strconv.FormatInt(d.Timelines("cache")[0].Snapshots[0].Offset, 10)
		_, dir := exported(t, d, "--offset", began)
		want, err := os.ReadFile(filepath.Join(dir, "dump.rdb"))
		require.NoError(t, err)
		require.NoError(t, w.Run(t.Context(), 200))
		m := note(t, master, 1)
		d.Durable("cache", m.offset)
		fetch := func(at string) (path, said string) {
			path = filepath.Join(t.TempDir(), "fetched.rdb")
			out, _ := exec.Command(kind.Tool("cli"), "-p", at, "--rdb", path).CombinedOutput() // what it has fetched tells
			return path, string(out)
		}
		_, there := d.Serve("--offset", began).At()
		for range 5 { // as often as one likes
			for _, at := range []string{strconv.Itoa(port), there} {
				path, said := fetch(at)
				got, err := os.ReadFile(path)
				require.NoError(t, err, said)
				require.True(t, bytes.Equal(want, got), "%d and %d bytes\n%s", len(want), len(got), said)
			}
		}
		_, between := d.Serve(m.byOffset()...).At()
		_, said := fetch(between)
		require.Contains(t, said, "an RDB alone would be of offset "+began)
		require.Equal(t, "1", master.Info("stats")["sync_full"])
		s := d.Source("cache")
		require.Equal(t, "streaming", s.State)
	})
}

// The same client as a replica that prints what it gets: RDB and stream, by SYNC, and without a word back.
func TestRelayToTheEnginesOwnClient(t *testing.T) {
	t.Parallel()
	enginetest.Each(t, func(t *testing.T, kind enginetest.Kind) {
		t.Parallel()
		master := enginetest.Start(t, kind)
		d, port := relaying(t, master.Addr(), "")
		said := &syncBuffer{}
		cmd := exec.Command(kind.Tool("cli"), "-p", strconv.Itoa(port), "--replica")
		cmd.Stdout, cmd.Stderr = said, said
		ended := start(t, cmd, syscall.SIGKILL)
		d.Until("cache", "it streams", func(s blackbox.SourceStatus) bool { return len(s.Replicas) == 1 && s.Replicas[0].State == "online" })
		master.Do("SET", "seen", "by the client")
		require.Eventually(t, func() bool { return strings.Contains(said.String(), "by the client") }, 20*time.Second, 10*time.Millisecond, "%s", said)
		require.NoError(t, cmd.Process.Kill())
		<-ended
		d.Until("cache", "it is gone", func(s blackbox.SourceStatus) bool { return len(s.Replicas) == 0 })
	})
}
