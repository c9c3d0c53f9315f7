package test

import (
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/engine/enginetest"
	"github.com/offloader/offloader/test/blackbox"
)

// TestWAITIsDurable: clients write and wait for each write, the daemon is killed under them and
// comes back, and at last daemon and master are killed together. What was acknowledged is in the
// restore.
func TestWAITIsDurable(t *testing.T) {
	t.Parallel()
	writes := count(t, "writes", 1000, 200)
	enginetest.Each(t, func(t *testing.T, kind enginetest.Kind) {
		t.Parallel()
		t.Run("WAIT 1", func(t *testing.T) { waitIsDurable(t, kind, writes, "WAIT", 1, 2000) })
		if kind.HasWaitAOF() {
			t.Run("WAITAOF 0 1", func(t *testing.T) { waitIsDurable(t, kind, writes, "WAITAOF", 0, 1, 2000) })
		}
	})
}

func waitIsDurable(t *testing.T, kind enginetest.Kind, writes int, wait ...any) {
	master := enginetest.Start(t, kind)
	d := blackbox.Start(t, t.TempDir(), blackbox.Source{Name: "cache", Address: master.Addr()})
	d.Streaming("cache")

	c := &clients{addr: master.Addr(), wait: wait}
	c.start(4)
	for _, at := range []int{writes / 4, writes / 2} {
		c.reach(t, at)
		d.Kill()
		d.Restart()
	}
	c.reach(t, writes)
	// Whichever of the two dies first, a moment may lie between.
	require.NoError(t, syscall.Kill(master.Pid(), syscall.SIGKILL))
	d.Kill()
	acked, unsaid := c.stop()
	master.Kill()
	require.GreaterOrEqual(t, len(acked), writes)
	require.Equal(t, 0, unsaid, "clients that ended before the master did")

	restored := d.Restore("--latest").Boot(kind)
	values := restored.Client().MGet(t.Context(), acked...).Val()
	lost := 0
	for i, v := range values {
		if v != "value of "+acked[i] {
			lost++
			t.Logf("%s was acknowledged and isn't there", acked[i])
		}
	}
	require.Zero(t, lost, "of %d acknowledged writes", len(acked))
}

// clients write, each on a connection of its own, until their master is gone.
type clients struct {
	addr string
	wait []any
	wg   sync.WaitGroup
	n    atomic.Int64 // acknowledged

	mu     sync.Mutex
	acked  []string
	errors []error
}

func (c *clients) start(n int) {
	for i := range n {
		c.wg.Go(func() { c.write(i) })
	}
}

func (c *clients) write(id int) {
	client := redis.NewClient(&redis.Options{
		Addr: c.addr, Protocol: 2, DisableIdentity: true, MaxRetries: -1, DialerRetries: 1, ReadTimeout: time.Minute, PoolSize: 1,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	})
	defer func() { _ = client.Close() }()
	conn := client.Conn()
	defer func() { _ = conn.Close() }()
	for n := 0; ; n++ {
		key := fmt.Sprintf("client %d write %d", id, n)
		err := conn.Set(background, key, "value of "+key, 0).Err()
		var answer any
		if err == nil {
			answer, err = conn.Do(background, c.wait...).Result()
		}
		if err != nil {
			c.mu.Lock()
			c.errors = append(c.errors, err)
			c.mu.Unlock()
			return
		}
		if replicas(answer) >= 1 {
			c.mu.Lock()
			c.acked = append(c.acked, key)
			c.mu.Unlock()
			c.n.Add(1)
		}
	}
}

// replicas is how many of them acknowledged: the answer of WAIT, the second of WAITAOF's.
func replicas(answer any) int64 {
	if pair, ok := answer.([]any); ok && len(pair) == 2 {
		answer = pair[1]
	}
	n, _ := answer.(int64)
	return n
}

// reach waits until n writes were acknowledged.
func (c *clients) reach(t *testing.T, n int) {
	t.Helper()
	require.Eventually(t, func() bool { return c.n.Load() >= int64(n) }, time.Minute, time.Millisecond, "%d writes acknowledged", n)
}

// stop waits until the clients have ended, and tells what was acknowledged, and how many ended for
// another reason than that their master died.
func (c *clients) stop() (acked []string, otherwise int) {
	c.wg.Wait()
	for _, err := range c.errors {
		if _, isNet := err.(*net.OpError); !isNet && err.Error() != "EOF" {
			otherwise++
		}
	}
	return c.acked, otherwise
}
