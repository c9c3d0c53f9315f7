package test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/engine/enginetest"
	"github.com/offloader/offloader/test/blackbox"
)

// TestRebirthWithoutRights: a user who may not ask the server what it is, or may not promote it. Its stream, which
// is our own, is not taken for a master's; what it lacks is said; a word that comes to nothing doesn't stay.
func TestRebirthWithoutRights(t *testing.T) {
	t.Parallel()
	m := newMortal(t, enginetest.Any(t))
	working(t, m.Server, 300)
	good := m.still(t)
	m.d.Until("cache", "it is known what it holds", func(s blackbox.SourceStatus) bool { return s.Known != nil && s.Known.Keys > 50 })
	m.Do("ACL", "SETUSER", "offloader", "-info", "-replicaof", "-role")
	m.Do("ACL", "SAVE")
	m.Kill()
	m.Restart()
	require.Contains(t, m.waits("not be asked for INFO").Hint, "+info +role +replicaof")
	m.Do("ACL", "SETUSER", "offloader", "+info")
	m.waits("not be asked for ROLE")
	m.Do("ACL", "SETUSER", "offloader", "+role")
	m.d.Until("cache", "it says what it lacks", func(s blackbox.SourceStatus) bool {
		return strings.Contains(s.Hint, "ACL SETUSER offloader +replicaof")
	})
	m.Do("ACL", "SETUSER", "offloader", "+replicaof")
	m.Do("ACL", "SAVE")
	m.reborn(1)
	require.Equal(t, good, m.Digest())

	// Suspect, and --latest can't be done: then release counts, and nothing of the other word.
	m.Kill()
	m.Restart("--replicaof", "no one")
	m.Do("SET", "after", "the loss")
	m.d.Until("cache", "it is suspect", func(s blackbox.SourceStatus) bool { return s.Suspect != nil && s.State == "streaming" })
	bad := m.still(t)
	m.Do("ACL", "SETUSER", "offloader", "-replicaof")
	m.Do("ACL", "SAVE")
	m.Kill()
	m.Restart()
	m.waits("suspect")
	r := m.d.Run("promote", "--latest")
	require.Equal(t, 1, r.Code, r)
	require.Contains(t, r.Stderr, "+replicaof")
	m.waits("suspect")
	m.d.Do("release", "--source", "cache")
	m.Do("ACL", "SETUSER", "offloader", "+replicaof")
	m.reborn(2)
	require.Equal(t, bad, m.Digest())
}

// TestRebirthOfOneThatHoldsMore: its own dump.rdb has what no daemon was there to take. It is nobody's to throw away.
func TestRebirthOfOneThatHoldsMore(t *testing.T) {
	t.Parallel()
	enginetest.Each(t, func(t *testing.T, kind enginetest.Kind) {
		t.Parallel()
		m := newMortal(t, kind)
		m.Do("SET", "k", "v")
		m.d.Durable("cache", m.Offset())
		m.d.Kill()
		m.Do("SET", "ahead", "1")
		m.Do("SAVE")
		m.Kill()
		m.Restart()
		m.d.Restart()
		require.Contains(t, m.waits("only what is before").Hint, "promote --source cache --latest")
		require.Contains(t, fmt.Sprint(m.error("GET", "ahead")), "MASTERDOWN")
		m.d.Do("promote", "--latest")
		s := m.d.Streaming("cache")
		require.Nil(t, s.Suspect)
		require.Equal(t, "1", m.Do("GET", "ahead"))
		acknowledged(t, m.Server, 1)
		require.Equal(t, m.still(t), m.d.Restore("--latest").Boot(kind).Digest())
	})
}

// TestRebirthBehindAnotherAddress: it follows the relay by way of another address, and comes from another one than the
// source has. What it is is found out, and its stream is not asked for, which would be our own.
func TestRebirthBehindAnotherAddress(t *testing.T) {
	t.Parallel()
	kind := enginetest.Any(t)
	port := enginetest.FreePort(t)
	detour := blackbox.NewProxy(t, fmt.Sprintf("127.0.0.1:%d", port))
	s := enginetest.Start(t, kind, "--replicaof", strings.Replace(detour.Addr(), ":", " ", 1), "--replica-serve-stale-data", "no")
	proxy := blackbox.NewProxy(t, s.Addr())
	d := blackbox.StartWith(t, t.TempDir(), fmt.Sprintf(`
sources: [{name: cache, address: %q, relay: {listen: "127.0.0.1:%d"}}]
spool: {path: $DIR/spool, max_size: 64MiB, min_free: 1%%}
stores: [{type: disk, path: $DIR/archive}]
`, proxy.Addr(), port))
	m := &mortal{Server: s, d: d, port: port}
	require.Contains(t, m.waits("says there that it is "+s.Addr()).Hint, "replica-announce-port")
	_, at, _ := strings.Cut(proxy.Addr(), ":")
	s.Do("CONFIG", "SET", "replica-announce-port", at)
	m.waits("nothing is archived")
	d.Do("promote", "--empty")
	d.Streaming("cache")
	s.Do("SET", "k", "v")
	d.Durable("cache", s.Offset())

	s.Kill()
	s.Restart()
	m.waits("says there that it is " + s.Addr())
	require.Contains(t, fmt.Sprint(m.error("SET", "k", "v")), "READONLY")
	s.Do("CONFIG", "SET", "replica-announce-port", at)
	s.Do("REPLICAOF", "127.0.0.1", port) // it comes anew
	m.reborn(1)
	require.Equal(t, "v", s.Do("GET", "k"))
}

// TestRebirthOfAChainedSource: a source that follows a master of its own is archived and left alone. Does it come back as
// our replica, that master is still there: nothing is promoted beside it.
func TestRebirthOfAChainedSource(t *testing.T) {
	t.Parallel()
	kind := enginetest.Any(t)
	above := enginetest.Start(t, kind)
	port := enginetest.FreePort(t)
	s := enginetest.Start(t, kind, "--replicaof", fmt.Sprintf("127.0.0.1 %d", above.Port()), "--replica-serve-stale-data", "no")
	d := blackbox.StartWith(t, t.TempDir(), fmt.Sprintf(`
sources: [{name: cache, address: %q, relay: {listen: "127.0.0.1:%d"}}]
spool: {path: $DIR/spool, max_size: 64MiB, min_free: 1%%}
stores: [{type: disk, path: $DIR/archive}]
`, s.Addr(), port))
	m := &mortal{Server: s, d: d, port: port}
	d.Streaming("cache")
	above.Do("SET", "k", "v")
	d.Durable("cache", above.Offset())
	require.Equal(t, "slave", s.Info("replication")["role"])

	m.Kill()
	m.Restart("--replicaof", fmt.Sprintf("127.0.0.1 %d", port))
	require.Contains(t, m.waits(above.Addr()+", which was of its replicas or has its name, is a master now").Hint, "promote --source cache --latest")
	above.Kill()
	m.reborn(1)
	require.Equal(t, "v", s.Do("GET", "k"))
}
