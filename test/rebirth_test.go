package test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/engine/enginetest"
	"github.com/offloader/offloader/test/blackbox"
)

// reborn starts a server without persistence that can only start as a replica of the relay, and the daemon
// that makes it the master.
func mortal(t *testing.T, kind enginetest.Kind, more string) (master *enginetest.Server, d *blackbox.Daemon, port int) {
	t.Helper()
	port = enginetest.FreePort(t)
	master = enginetest.Start(t, kind, "--replicaof", fmt.Sprintf("127.0.0.1 %d", port), "--replica-serve-stale-data", "no")
	d = blackbox.StartWith(t, t.TempDir(), fmt.Sprintf(`
sources: [{name: cache, address: %q, relay: {listen: "127.0.0.1:%d"}}]
spool: {path: $DIR/archive/.spool, max_size: 64MiB, min_free: 1%%}
stores: [{type: disk, path: $DIR/archive}]
%s`, master.Addr(), port, more))
	waits(d, "nothing is archived")
	d.Do("promote", "--empty")
	d.Streaming("cache")
	return master, d, port
}

// waits waits until the source waits for its rebirth, and says so why.
func waits(d *blackbox.Daemon, why string) blackbox.SourceStatus {
	return d.Until("cache", "it waits for its rebirth: "+why, func(s blackbox.SourceStatus) bool {
		return s.State == "waiting" && strings.Contains(s.Why, "rebirth") && strings.Contains(s.Why, why)
	})
}

func TestRebirth(t *testing.T) {
	enginetest.Each(t, func(t *testing.T, kind enginetest.Kind) {
		t.Parallel()
		master, d, _ := mortal(t, kind, "")
		for n := range int64(3) {
			working(t, master, 300) // its clients die with the server
			acknowledged(t, master, 1)
			if kind.AtLeast("valkey", 9, 0) {
				settle(t, master)
			}
			master.Do("DEBUG", "SET-ACTIVE-EXPIRE", 0)
			digest := master.Digest()
			began := time.Now()
			master.Kill()
			master.Restart()
			d.Until("cache", "it is reborn", func(s blackbox.SourceStatus) bool { return s.Rebirths == n+1 && s.State == "streaming" })
			t.Log(time.Since(began))
			require.Equal(t, digest, master.Digest())
			require.Equal(t, "0", master.Info("stats")["sync_full"])
		}
		require.Len(t, d.Timelines("cache"), 1)
	})
}
