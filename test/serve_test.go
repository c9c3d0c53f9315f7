package test

import (
	"strconv"
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
