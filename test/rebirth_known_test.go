package test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/offloader/offloader/internal/engine/enginetest"
	"github.com/offloader/offloader/test/blackbox"
)

// notElected keeps Sentinel from choosing a server while it waits and has nothing yet: docs/limits.md.
var notElected = []string{"--replica-priority", "0"}

// replicaOf is a replica of what listens at a port, with the master's users.
func (m *mortal) replicaOf(t *testing.T, port int, args ...string) *enginetest.Server {
	t.Helper()
	return enginetest.Start(t, m.Kind(), append(args, "--aclfile", m.acl, "--replicaof", fmt.Sprintf("127.0.0.1 %d", port))...)
}

// keeps waits until a daemon that is started again would know of these.
func (m *mortal) keeps(t *testing.T, all ...*enginetest.Server) {
	t.Helper()
	for _, s := range all {
		require.Eventually(t, func() bool { return strings.Contains(m.kept(), s.Addr()) }, 30*time.Second, 20*time.Millisecond)
	}
}

// elects waits until a Sentinel that watches the dead server has chosen another one.
func elects(t *testing.T, watches, other *enginetest.Server) {
	t.Helper()
	require.Eventually(t, func() bool { return strings.Contains(watches.Info("sentinel")["master0"], "address="+other.Addr()) }, 60*time.Second, 100*time.Millisecond)
}

// TestRebirthIsNotAgainstSentinel: a Sentinel has chosen another master, which is dead as well by now, so that nobody
// tells that it is one. The server comes back, and is not promoted.
func TestRebirthIsNotAgainstSentinel(t *testing.T) {
	t.Parallel()
	enginetest.Each(t, func(t *testing.T, kind enginetest.Kind) {
		t.Parallel()
		m := newMortal(t, kind, notElected...)
		other := m.replicaOf(t, m.Port())
		working(t, m.Server, 100)
		same(t, m.Server, other)
		m.still(t)
		watches := enginetest.Sentinel(t, kind, m.Port())
		m.keeps(t, other, watches)
		m.Kill()
		elects(t, watches, other)
		other.Kill()
		m.Restart()
		s := m.waits("Sentinel names " + other.Addr())
		require.Contains(t, s.Hint, "promote --source cache --latest")
		require.Equal(t, "slave", m.Info("replication")["role"])
		require.EqualValues(t, 0, m.d.Source("cache").Rebirths)
	})
}

// TestRebirthAfterTheDaemon: what happens while the daemon is down, as its master dies, it has heard nothing of. It knows
// whom to ask.
func TestRebirthAfterTheDaemon(t *testing.T) {
	t.Parallel()
	waiting := func(t *testing.T, m *mortal, why string) {
		t.Helper()
		s := m.waits(why)
		require.Contains(t, s.Hint, "promote --source cache --latest")
		require.Equal(t, "slave", m.Info("replication")["role"])
		require.Contains(t, fmt.Sprint(m.error("SET", "k", "v")), "READONLY")
		require.EqualValues(t, 0, s.Rebirths)
	}
	t.Run("Sentinel has chosen another", func(t *testing.T) {
		t.Parallel()
		m := newMortal(t, enginetest.Any(t), notElected...)
		other := m.replicaOf(t, m.Port())
		m.Do("SET", "k", "kept")
		same(t, m.Server, other)
		digest := m.still(t)
		watches := enginetest.Sentinel(t, m.Kind(), m.Port())
		m.keeps(t, other, watches)

		m.d.Kill()
		m.Kill()
		elects(t, watches, other)
		other.Kill() // so that nobody else tells
		m.Restart()
		m.d.Restart()
		waiting(t, m, "Sentinel names "+other.Addr())
		watches.Kill() // what it has said after the daemon's death nobody knows
		waiting(t, m, "of 1 that watch it 0 say something now ("+watches.Addr())
		m.d.Do("promote", "--source", "cache", "--latest")
		m.reborn(1)
		require.Equal(t, digest, m.Digest())

		m.d.Kill() // and one that names it stands in nobody's way
		m.Kill()
		watches.Restart()
		watches.Do("SENTINEL", "REMOVE", "m")
		watches.Do("SENTINEL", "MONITOR", "m", "127.0.0.1", m.Port(), 1)
		m.Restart()
		m.d.Restart()
		m.reborn(1)
		require.Equal(t, digest, m.Digest())
	})
	t.Run("somebody has promoted a replica of the relay", func(t *testing.T) {
		t.Parallel()
		m := newMortal(t, enginetest.Any(t))
		other := m.replicaOf(t, m.port, "--masteruser", "replica", "--masterauth", "of the relay")
		m.Do("SET", "k", "kept")
		digest := m.still(t)
		same(t, m.Server, other)
		require.NotContains(t, m.Info("replication"), "slave1", "the master doesn't know it")
		m.keeps(t, other)

		m.d.Kill()
		other.Do("REPLICAOF", "NO", "ONE")
		m.Kill()
		m.Restart()
		m.d.Restart()
		waiting(t, m, other.Addr()+", which was of its replicas or has its name, is a master now")
		other.Do("REPLICAOF", "127.0.0.1", m.port)
		m.reborn(1)
		require.Equal(t, digest, m.Digest())
		require.NotContains(t, m.kept(), m.Addr(), "it is no other one, though it was on the relay")
		m.d.Until("cache", "it follows again", func(s blackbox.SourceStatus) bool {
			return len(s.Replicas) == 2 && (s.Replicas[0].State == "online" || s.Replicas[1].State == "online")
		})
		same(t, m.Server, other)
	})
}

// TestRebirthBesideAReplicaThatRefuses: a replica doesn't have our user, as users are not replicated. While it follows the relay
// it can't be the master, nor have more, and keeps nobody from being reborn; when it doesn't, it may.
func TestRebirthBesideAReplicaThatRefuses(t *testing.T) {
	t.Parallel()
	m := newMortal(t, enginetest.Any(t))
	other := enginetest.Start(t, m.Kind(), "--masteruser", "replica", "--masterauth", "of the relay", "--replicaof", fmt.Sprintf("127.0.0.1 %d", m.port))
	m.Do("SET", "k", "kept")
	digest := m.still(t)
	same(t, m.Server, other)
	m.keeps(t, other)
	m.Kill()
	m.Restart()
	m.reborn(1)
	require.Equal(t, digest, m.Digest())

	// Beside the relay it may have more: check says so before that matters.
	check := func() string { return found(t, m.d.Run("check", "--json"), "rebirth") }
	require.Contains(t, check(), "ok if it dies and is started again, it comes back with all that is durable")
	other.Do("REPLICAOF", "127.0.0.1", m.Port())
	other.Do("CONFIG", "SET", "masteruser", "", "masterauth", "")
	require.Eventually(t, func() bool { return other.Info("replication")["master_link_status"] == "up" }, 20*time.Second, 20*time.Millisecond)
	require.Contains(t, check(), "warn replica "+other.Addr()+" of the master doesn't let our user ask what it is")
	require.NotContains(t, check(), "comes back with all")
	other.Do("ACL", "SETUSER", "offloader", "on", ">secret", "+info", "+role")
	require.Contains(t, check(), "ok replicas that follow the master itself and let us ask them: 1")
	require.Contains(t, check(), "ok if it dies and is started again, it comes back with all that is durable")
	other.Do("ACL", "DELUSER", "offloader")

	other.Do("REPLICAOF", "NO", "ONE") // nobody may see that it is a master now
	m.Kill()
	m.Restart()
	s := m.waits("replica " + other.Addr() + " may have become the master, and can't be asked")
	require.Contains(t, s.Why, "WRONGPASS")
	require.Contains(t, s.Hint, "+info +role")
	require.Equal(t, "slave", m.Info("replication")["role"])
	other.Do("CONFIG", "SET", "masteruser", "replica", "masterauth", "of the relay")
	other.Do("REPLICAOF", "127.0.0.1", m.port)
	m.reborn(2)
	require.Equal(t, digest, m.Digest())

	// It gets a full copy, which it takes its time to load: so long it follows, too.
	for i := range 500 {
		m.Do("SET", fmt.Sprint("key:", i), noise(t, 2<<10))
	}
	digest = m.still(t)
	m.d.Do("snapshot")
	same(t, m.Server, other)
	other.Do("CONFIG", "SET", "key-load-delay", 50_000, "loading-process-events-interval-bytes", 1024)
	other.Do("REPLICAOF", "NO", "ONE")
	other.Do("DEBUG", "CHANGE-REPL-ID")
	other.Do("REPLICAOF", "127.0.0.1", m.port)
	loads := func() bool { return other.Info("persistence")["loading"] == "1" }
	require.Eventually(t, loads, 20*time.Second, 10*time.Millisecond)
	m.Kill()
	m.Restart()
	m.reborn(3)
	require.Equal(t, digest, m.Digest())
	require.True(t, loads(), "still, or this shows nothing")
}

// TestRebirthBesideAnotherDaemon: another daemon archives the same source, and holds what this one doesn't, as WAIT has
// confirmed. It can't be the master, and what it holds is nobody's to throw away: the server is reborn through that one.
func TestRebirthBesideAnotherDaemon(t *testing.T) {
	t.Parallel()
	m := newMortal(t, enginetest.Any(t))
	port := enginetest.FreePort(t)
	other := blackbox.StartWith(t, t.TempDir(), fmt.Sprintf(`
sources: [{name: cache, address: %q, username: offloader, password: secret, relay: {listen: "127.0.0.1:%d", username: replica, password: "of the relay"}}]
spool: {path: $DIR/spool, max_size: 64MiB, min_free: 1%%}
stores: [{type: disk, path: $DIR/archive}]
`, m.Addr(), port))
	other.Streaming("cache")
	require.Eventually(t, func() bool { return strings.Contains(m.kept(), "127.0.0.1:") }, 20*time.Second, 20*time.Millisecond)
	m.d.Signal(unix.SIGSTOP)
	for n := range 24 { // more than the two kernels keep for it
		m.Do("SET", fmt.Sprint("large", n), strings.Repeat("x", 1<<20))
	}
	acknowledged(t, m.Server, 1)
	digest := m.Digest()
	m.Kill()
	m.d.Signal(unix.SIGCONT)
	m.Restart()
	s := m.waits("another Offloader, at 127.0.0.1:")
	require.Contains(t, s.Why, "bytes more than are durable here")
	require.Contains(t, s.Hint, "restart the server as a replica of that one's relay")
	require.Contains(t, s.Hint, "promote --source cache --latest")
	require.Equal(t, "slave", m.Info("replication")["role"])

	m.Kill()
	m.Restart("--replicaof", fmt.Sprintf("127.0.0.1 %d", port))
	other.Until("cache", "it is reborn", func(s blackbox.SourceStatus) bool { return s.Rebirths == 1 && s.State == "streaming" })
	require.Equal(t, digest, m.Digest())

	m.d.Streaming("cache")
	m.d.Durable("cache", m.Offset())
	other.Kill() // it might be ahead for all that is known, and is no server that could be the master
	m.Kill()
	m.Restart()
	m.reborn(1)
	require.Equal(t, digest, m.Digest())
}
