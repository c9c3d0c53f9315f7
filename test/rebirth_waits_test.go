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

// TestRebirthBehindAnotherAddress: it follows the relay by a name, and from another address than the source has.
// What it is is found out, and its stream is not asked for, which would be our own.
func TestRebirthBehindAnotherAddress(t *testing.T) {
	t.Parallel()
	kind := enginetest.Any(t)
	port := enginetest.FreePort(t)
	s := enginetest.Start(t, kind, "--replicaof", fmt.Sprintf("localhost %d", port), "--replica-serve-stale-data", "no")
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
