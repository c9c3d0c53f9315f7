package test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/engine/enginetest"
	"github.com/offloader/offloader/test/blackbox"
)

// TestRebirthAtAnothersRelay: a server is started with the drop-in of another source. What it gets there is that one's data, which
// is not archived as its own.
func TestRebirthAtAnothersRelay(t *testing.T) {
	t.Parallel()
	kind := enginetest.Any(t)
	one, two := enginetest.Start(t, kind), enginetest.Start(t, kind)
	ports := [2]int{enginetest.FreePort(t), enginetest.FreePort(t)}
	for i := range 20 {
		one.Do("SET", fmt.Sprint("one:", i), i)
		two.Do("SET", fmt.Sprint("two:", i), i)
	}
	d := blackbox.StartWith(t, t.TempDir(), fmt.Sprintf(`
sources:
  - {name: one, address: %q, relay: {listen: "127.0.0.1:%d"}}
  - {name: two, address: %q, relay: {listen: "127.0.0.1:%d"}}
spool: {path: $DIR/spool, max_size: 64MiB, min_free: 1%%}
stores: [{type: disk, path: $DIR/archive}]
`, one.Addr(), ports[0], two.Addr(), ports[1]))
	for name, s := range map[string]*enginetest.Server{"one": one, "two": two} {
		d.Streaming(name)
		d.Durable(name, s.Offset())
	}
	digest := two.Digest()
	two.Kill()
	two.Restart("--replicaof", fmt.Sprintf("127.0.0.1 %d", ports[0]), "--replica-serve-stale-data", "no")
	s := d.Until("two", "it is told whom it follows", func(s blackbox.SourceStatus) bool {
		return strings.Contains(s.Why, "it follows the relay of source one")
	})
	require.Contains(t, s.Hint, fmt.Sprint(ports[1]))
	same(t, one, two)
	d.Until("two", "still", func(s blackbox.SourceStatus) bool { return s.State == "waiting" })
	two.Do("REPLICAOF", "127.0.0.1", ports[1])
	d.Until("two", "it is reborn", func(s blackbox.SourceStatus) bool { return s.Rebirths == 1 && s.State == "streaming" })
	require.Equal(t, digest, two.Digest())
	require.Len(t, d.Timelines("two"), 1)
}

// TestRebirthWhileItsRelayIsShut: `serve` stood in for a daemon that was down, at the relay's port, and has the server as its replica
// when the daemon is back. Its stream is the daemon's own, which is not archived once more as a master's.
func TestRebirthWhileItsRelayIsShut(t *testing.T) {
	t.Parallel()
	m := newMortal(t, enginetest.Any(t))
	m.Do("SET", "k", "kept")
	digest := m.still(t)
	m.d.Stop()
	m.Kill()
	password := filepath.Join(t.TempDir(), "password")
	require.NoError(t, os.WriteFile(password, []byte("of the relay"), 0o600))
	stands := m.d.Serve("--latest", "--listen", fmt.Sprintf("127.0.0.1:%d", m.port), "--username", "replica", "--password-file", password)
	m.Restart()
	require.Eventually(t, func() bool { return m.Info("replication")["master_link_status"] == "up" }, 20*time.Second, 20*time.Millisecond)
	m.d.Restart()
	m.waits("it follows this relay, which is not open")
	stands.Stop()
	m.reborn(1)
	require.Equal(t, digest, m.Digest())
	require.Len(t, m.d.Timelines("cache"), 1)
}
