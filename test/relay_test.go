package test

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/engine/enginetest"
	"github.com/offloader/offloader/test/blackbox"
	"github.com/offloader/offloader/test/workload"
)

// relaying starts a daemon whose source has a relay, with a spool so small that most of the stream is read
// from the store.
func relaying(t *testing.T, address, more string) (d *blackbox.Daemon, port int) {
	t.Helper()
	port = enginetest.FreePort(t)
	d = blackbox.StartWith(t, t.TempDir(), fmt.Sprintf(`
sources: [{name: cache, address: %q, relay: {listen: "127.0.0.1:%d"%s}}]
spool: {path: $DIR/archive/.spool, max_size: 16MiB, min_free: 1%%}
stores: [{type: disk, path: $DIR/archive}]
`, address, port, more))
	d.Streaming("cache")
	return d, port
}

// follow tells a server whom to follow. A port that nobody listens on leaves it where it is.
func follow(s *enginetest.Server, port int) { s.Do("REPLICAOF", "127.0.0.1", port) }

// same waits until the servers are at the offset of the first, and compares what they hold. Nobody may write.
func same(t *testing.T, master *enginetest.Server, replicas ...*enginetest.Server) {
	t.Helper()
	if master.Kind().AtLeast("valkey", 9, 0) {
		settle(t, master)
	}
	master.Do("DEBUG", "SET-ACTIVE-EXPIRE", 0)
	defer master.Do("DEBUG", "SET-ACTIVE-EXPIRE", 1)
	for _, r := range replicas {
		require.Eventually(t, func() bool {
			return r.Offset() == master.Offset() && r.Info("replication")["master_link_status"] == "up"
		},
			30*time.Second, 10*time.Millisecond, "%d: %v", master.Offset(), r.Info("replication"))
		require.Equal(t, master.Digest(), r.Digest())
	}
}

// replicaOf is what status says of a replica.
func replicaOf(s blackbox.SourceStatus, r *enginetest.Server) (found struct{ Full, Partial, Offset int64 }) {
	for _, known := range s.Replicas {
		if known.Address == r.Addr() {
			found.Full, found.Partial, found.Offset = known.FullSyncs, known.PartialSyncs, known.Offset
		}
	}
	return found
}

// TestRelay: a replica attaches to the archive, has one of its own, is away, moves to the master and back,
// and outlives kills of the daemon, with the one full copy that it got from us. The master notices nothing.
func TestRelay(t *testing.T) {
	t.Parallel()
	enginetest.Each(t, func(t *testing.T, kind enginetest.Kind) {
		t.Parallel()
		master := enginetest.Start(t, kind, "--repl-backlog-size", "64mb")
		w := working(t, master, 500)
		d, port := relaying(t, master.Addr(), "")
		require.NoError(t, w.Run(t.Context(), 500))
		master.Do(w.Big("big", 12<<20, false)...)
		replica := enginetest.Start(t, kind, "--replicaof", fmt.Sprintf("127.0.0.1 %d", port))
		sub := enginetest.Start(t, kind, "--replicaof", fmt.Sprintf("127.0.0.1 %d", replica.Port()))
		require.NoError(t, w.Run(t.Context(), 500))
		same(t, master, replica, sub)

		// Only what is durable with us is acknowledged to the master: the replica doesn't count there.
		conn := master.Client().Conn()
		require.NoError(t, conn.Set(t.Context(), "waited for", "1", 0).Err())
		n, err := conn.Wait(t.Context(), 2, 300*time.Millisecond).Result()
		require.NoError(t, err)
		require.EqualValues(t, 1, n)
		require.NoError(t, conn.Close())

		// Away, for longer than our spool reaches back.
		follow(replica, 1)
		for i := range 3 {
			require.NoError(t, w.Run(t.Context(), 200))
			master.Do(w.Big(fmt.Sprint("missed ", i), 8<<20, false)...)
			d.Durable("cache", master.Offset())
		}
		follow(replica, port)
		same(t, master, replica, sub)

		// To the master and back.
		follow(replica, master.Port())
		require.NoError(t, w.Run(t.Context(), 200))
		same(t, master, replica)
		follow(replica, port)
		require.NoError(t, w.Run(t.Context(), 200))
		same(t, master, replica, sub)

		for range 3 {
			killed := make(chan struct{})
			go func() { defer close(killed); d.Kill() }()
			require.NoError(t, w.Run(t.Context(), 200))
			<-killed
			d.Restart()
			d.Streaming("cache")
			same(t, master, replica, sub)
		}
		s := d.Until("cache", "the replica has acknowledged all", func(s blackbox.SourceStatus) bool { return replicaOf(s, replica).Offset >= master.Offset() })
		require.EqualValues(t, 0, replicaOf(s, replica).Full, "of this daemon")
		require.EqualValues(t, 1, s.PartialResyncs)
		require.Equal(t, "1", master.Info("stats")["sync_full"], "ours")
		require.Equal(t, 1, strings.Count(replica.LogText(), "Full resync from"), "the replica's")
		require.Equal(t, "1", replica.Info("stats")["sync_full"], "its own replica's")
		require.Contains(t, d.Do("status"), replica.Addr())
		require.Contains(t, d.Run("check").Stdout, fmt.Sprintf("127.0.0.1:%d is open, replicas attached: 1", port))
		s = d.Source("cache")
		require.Equal(t, "127.0.0.1:"+strconv.Itoa(port), s.Relay.Listen)
	})
}

// Ten at once cost the master nothing, and each gets all.
func TestRelayManyAtOnce(t *testing.T) {
	t.Parallel()
	kind := nth(t, 1)
	master := enginetest.Start(t, kind)
	w := working(t, master, 300)
	master.Do(w.Big("big", 32<<20, false)...)
	d, port := relaying(t, master.Addr(), "")
	before := master.Info("stats")["total_net_repl_output_bytes"]
	var replicas []*enginetest.Server
	for range 10 {
		replicas = append(replicas, enginetest.Start(t, kind, "--replicaof", fmt.Sprintf("127.0.0.1 %d", port)))
	}
	same(t, master, replicas...)
	_, peak := d.RSS()
	require.Less(t, peak, int64(128<<20))
	require.Equal(t, "1", master.Info("stats")["sync_full"])
	after := master.Info("stats")["total_net_repl_output_bytes"]
	require.Less(t, number(t, after)-number(t, before), int64(1<<20))
}

// A new master under a new id: replicas of the relay ask again, and go on.
func TestRelayThroughAFailover(t *testing.T) {
	t.Parallel()
	enginetest.Each(t, func(t *testing.T, kind enginetest.Kind) {
		t.Parallel()
		a := enginetest.Start(t, kind, "--repl-ping-replica-period", "3600", "--repl-backlog-size", "64mb")
		w := working(t, a, 300)
		b := enginetest.Start(t, kind, "--replicaof", fmt.Sprintf("127.0.0.1 %d", a.Port()))
		proxy := blackbox.NewProxy(t, a.Addr())
		d, port := relaying(t, proxy.Addr(), "")
		replica := enginetest.Start(t, kind, "--replicaof", fmt.Sprintf("127.0.0.1 %d", port))
		away := enginetest.Start(t, kind, "--replicaof", fmt.Sprintf("127.0.0.1 %d", port))
		same(t, a, replica, away)
		follow(away, 1)
		require.NoError(t, w.Run(t.Context(), 200))
		a.Do("DEBUG", "SET-ACTIVE-EXPIRE", 0)
		require.Eventually(t, func() bool { return a.Offset() == b.Offset() && a.Offset() == replica.Offset() }, 20*time.Second, 10*time.Millisecond)
		b.Do("REPLICAOF", "NO", "ONE")
		proxy.To(b.Addr())
		a.Kill()
		id := b.Info("replication")["master_replid"]
		d.Until("cache", "the new master", func(s blackbox.SourceStatus) bool { return s.State == "streaming" && s.ReplID == id })
		other := workload.New(8, b)
		defer func() { require.NoError(t, other.Close()) }()
		require.NoError(t, other.Run(t.Context(), 200))
		follow(away, port) // with the old id, behind where the new one took over
		same(t, b, replica, away)
		for _, r := range []*enginetest.Server{replica, away} {
			require.Equal(t, id, r.Info("replication")["master_replid"])
			require.Equal(t, 1, strings.Count(r.LogText(), "Full resync from"))
		}
	})
}

// A new master that never had our tail: who has not seen the tail goes on, who has it gets a full copy, since
// what it holds is lost history.
func TestRelayThroughABranch(t *testing.T) {
	t.Parallel() // it waits most of the time
	enginetest.Each(t, func(t *testing.T, kind enginetest.Kind) {
		t.Parallel()
		a := enginetest.Start(t, kind, "--repl-ping-replica-period", "3600", "--repl-backlog-size", "64mb")
		w := working(t, a, 300)
		b := enginetest.Start(t, kind, "--replicaof", fmt.Sprintf("127.0.0.1 %d", a.Port()))
		proxy := blackbox.NewProxy(t, a.Addr())
		d, port := relaying(t, proxy.Addr(), "")
		with := enginetest.Start(t, kind, "--replicaof", fmt.Sprintf("127.0.0.1 %d", port))
		without := enginetest.Start(t, kind, "--replicaof", fmt.Sprintf("127.0.0.1 %d", port))
		require.NoError(t, w.Run(t.Context(), 100))
		same(t, a, with, without, b)
		a.Do("DEBUG", "SET-ACTIVE-EXPIRE", 0)
		follow(without, 1)
		follow(b, 1)
		a.Do("SET", "tail", "1")
		acknowledged(t, a, 1)
		require.Eventually(t, func() bool { return with.Offset() == a.Offset() }, 20*time.Second, 10*time.Millisecond)
		b.Do("REPLICAOF", "NO", "ONE")
		proxy.To(b.Addr())
		a.Kill()
		id := b.Info("replication")["master_replid"]
		d.Until("cache", "the new master", func(s blackbox.SourceStatus) bool { return s.State == "streaming" && s.ReplID == id })
		b.Do("SET", "other", "1")
		follow(without, port)
		same(t, b, with, without)
		require.Equal(t, 1, strings.Count(without.LogText(), "Full resync from"))
		require.Equal(t, 2, strings.Count(with.LogText(), "Full resync from"))
		require.Nil(t, with.Do("GET", "tail"))
		require.Len(t, d.Timelines("cache"), 2)

		// A timeline that goes on from nothing that was before: all get full copies of it.
		b.Do("DEBUG", "CHANGE-REPL-ID")
		proxy.Cut()
		proxy.Mend()
		d.Until("cache", "a new timeline", func(s blackbox.SourceStatus) bool { return s.FullResyncs == 2 && s.State == "streaming" })
		b.Do("SET", "another", "1")
		same(t, b, with, without)
	})
}

// What the master has and we have not made durable yet is no reason to take a replica's data away: it is told
// "later" in the one way that it understands.
func TestRelayPitfall19AReplicaThatIsAhead(t *testing.T) {
	t.Parallel() // it waits most of the time
	enginetest.Each(t, func(t *testing.T, kind enginetest.Kind) {
		t.Parallel()
		master := enginetest.Start(t, kind, "--repl-backlog-size", "64mb")
		proxy := blackbox.NewProxy(t, master.Addr())
		_, port := relaying(t, proxy.Addr(), "")
		replica := enginetest.Start(t, kind, "--replicaof", fmt.Sprintf("127.0.0.1 %d", port))
		same(t, master, replica)
		proxy.Stall()
		follow(replica, master.Port())
		master.Do("SET", "ahead", "1")
		same(t, master, replica)
		follow(replica, port)
		require.Eventually(t, func() bool { return strings.Count(replica.LogText(), "is archived yet") >= 2 }, 20*time.Second, 10*time.Millisecond)
		require.Equal(t, "1", replica.Do("GET", "ahead"))
		require.NotContains(t, replica.LogText(), "Retrying with SYNC")
		proxy.Mend()
		same(t, master, replica)
		require.Equal(t, 1, strings.Count(replica.LogText(), "Full resync from"))
	})
}
