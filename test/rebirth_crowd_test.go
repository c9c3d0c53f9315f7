package test

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/engine/enginetest"
	"github.com/offloader/offloader/test/blackbox"
)

// TestRebirthInACrowd: a relay without a password, a thousand connections that say nothing more, as many replicas as it
// serves, which take nothing: the source's own server finds its place among them, and is the master again.
func TestRebirthInACrowd(t *testing.T) {
	t.Parallel()
	kind, port := enginetest.Any(t), enginetest.FreePort(t)
	s := enginetest.Start(t, kind, "--replicaof", fmt.Sprintf("127.0.0.1 %d", port), "--replica-serve-stale-data", "no")
	m := &mortal{Server: s, port: port, d: blackbox.StartWith(t, t.TempDir(), fmt.Sprintf(`
sources: [{name: cache, address: %q, relay: {listen: "127.0.0.1:%d"}}]
spool: {path: $DIR/spool, max_size: 64MiB, min_free: 1%%}
stores: [{type: disk, path: $DIR/archive}]
`, s.Addr(), port))}
	m.waits("nothing is archived")
	m.d.Do("promote", "--empty")
	m.d.Streaming("cache")
	m.Do("SET", "k", "kept")
	digest := m.still(t)

	crowd := func(n int, say string) {
		for range n {
			nc, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
			require.NoError(t, err)
			t.Cleanup(func() { _ = nc.Close() })
			_, _ = io.WriteString(nc, say) // it may have had to make room already
		}
	}
	crowd(100, "PSYNC ? -1\r\n")
	m.d.Until("cache", "no more are served", func(s blackbox.SourceStatus) bool { return len(s.Replicas) > 0 })
	m.Kill()
	crowd(1000, "PING\r\n")
	m.Restart()
	m.reborn(1)
	require.Equal(t, digest, m.Digest())
	require.Equal(t, "0", m.Info("stats")["sync_full"])
}

// TestRebirthFromADamagedSnapshot: the only snapshot is damaged, so the relay has nothing to give. That is why the source waits,
// and what status says; with the file as it was it goes on.
func TestRebirthFromADamagedSnapshot(t *testing.T) {
	t.Parallel()
	m := newMortal(t, enginetest.Any(t))
	m.Do("SET", "k", noise(t, 100_000))
	digest := m.still(t)
	m.d.Do("snapshot")
	files, err := filepath.Glob(filepath.Join(m.d.Dir, "cache", "*", "snapshots", "*.rdb.zst"))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	whole := map[string][]byte{}
	for _, name := range files {
		whole[name] = nil
		damage(t, name, func(b []byte) []byte {
			whole[name] = append(whole[name], b...)
			b[len(b)/2] ^= 1
			return b
		})
	}
	m.Kill()
	m.Restart()
	s := m.waits("the relay has put it off: no snapshot leads to offset")
	require.Contains(t, s.Hint, "offloader verify")
	require.Contains(t, m.d.Run("promote", "--latest").Stderr, "no snapshot leads to offset", "a word doesn't help")
	m.d.Stop()
	for name, b := range whole {
		require.NoError(t, os.WriteFile(name, b, 0o600))
	}
	m.d.Restart()
	m.reborn(1)
	require.Equal(t, digest, m.Digest())
}
