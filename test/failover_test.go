package test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/engine/enginetest"
	"github.com/offloader/offloader/test/blackbox"
	"github.com/offloader/offloader/test/workload"
)

// couple is a master with a replica, and a daemon behind an address that can lead to either.
type couple struct {
	a, b  *enginetest.Server
	proxy *blackbox.Proxy
	d     *blackbox.Daemon
	w     *workload.Workload // on a
}

func newCouple(t *testing.T, kind enginetest.Kind) *couple {
	t.Helper()
	// No PING of the master may come between the last look and the failover.
	c := &couple{a: enginetest.Start(t, kind, "--repl-ping-replica-period", "3600", "--repl-backlog-size", "64mb")}
	c.w = working(t, c.a, 500)
	c.b = enginetest.Start(t, kind, "--replicaof", fmt.Sprintf("127.0.0.1 %d", c.a.Port()))
	c.proxy = blackbox.NewProxy(t, c.a.Addr())
	c.d = blackbox.Start(t, t.TempDir(), blackbox.Source{Name: "cache", Address: c.proxy.Addr()})
	c.d.Streaming("cache")
	require.Eventually(t, func() bool { return c.a.Info("replication")["connected_slaves"] == "2" }, 20*time.Second, 10*time.Millisecond)
	return c
}

// working makes a workload and runs its first steps.
func working(t *testing.T, s *enginetest.Server, steps int) *workload.Workload {
	t.Helper()
	w := workload.New(7, s)
	t.Cleanup(func() { _ = w.Close() })
	require.NoError(t, w.Run(t.Context(), steps))
	return w
}

// caughtUp waits until b has all that a has, and expires nothing more.
func (c *couple) caughtUp(t *testing.T) {
	t.Helper()
	c.a.Do("DEBUG", "SET-ACTIVE-EXPIRE", 0)
	require.Eventually(t, func() bool { return c.a.Offset() == c.b.Offset() }, 20*time.Second, 10*time.Millisecond)
}

// promote makes b the master, and then leads the daemon to it.
func (c *couple) promote(t *testing.T) {
	t.Helper()
	c.b.Do("REPLICAOF", "NO", "ONE")
	c.proxy.To(c.b.Addr())
	c.a.Kill()
}

// TestFailover: the master dies and a replica is promoted.
func TestFailover(t *testing.T) {
	t.Parallel()
	enginetest.Each(t, func(t *testing.T, kind enginetest.Kind) {
		t.Parallel()
		t.Run("that the new master can continue", func(t *testing.T) { continued(t, kind) })
		t.Run("that lost our tail", func(t *testing.T) { branched(t, kind) })
	})
}

// The new master has all that we have: the timeline goes on under the new id.
func continued(t *testing.T, kind enginetest.Kind) {
	c := newCouple(t, kind)
	require.NoError(t, c.w.Run(t.Context(), 500))
	before := note(t, c.a, 2)
	c.caughtUp(t)
	c.d.Durable("cache", c.a.Offset())
	c.promote(t)
	working(t, c.b, 500)
	s := c.d.Streaming("cache")
	after := note(t, c.b, 1)

	require.EqualValues(t, 1, s.FullResyncs)
	require.Equal(t, "0", c.b.Info("stats")["sync_full"], "of the new master")
	require.Equal(t, c.b.Info("replication")["master_replid"], c.d.Source("cache").ReplID)
	timelines := c.d.Timelines("cache")
	require.Len(t, timelines, 1)
	require.Nil(t, timelines[0].Parent)
	for _, gap := range timelines[0].Gaps { // in the times at which things came; no byte is missing
		require.Contains(t, gap.Cause, "outage")
	}
	for _, m := range []moment{before, after} {
		m.equals(t, kind, c.d.Restore(m.byOffset()...))
	}
	before.equals(t, kind, c.d.Restore(before.byTime()...))
	after.equals(t, kind, c.d.Restore(after.byTime()...))
	c.d.Do("verify")
}

// The new master never had our last bytes: they are kept, and said to be lost, and a branch goes on
// without a full resync.
func branched(t *testing.T, kind enginetest.Kind) {
	c := newCouple(t, kind)
	shared := note(t, c.a, 2)
	c.caughtUp(t)
	c.b.Do("REPLICAOF", "NO", "ONE")
	for i := range 50 {
		c.a.Do("SET", fmt.Sprintf("lost:%d", i), i)
	}
	lost := note(t, c.a, 1)
	c.a.Do("DEBUG", "SET-ACTIVE-EXPIRE", 0)
	end := c.a.Offset()
	c.d.Durable("cache", end)
	c.promote(t)
	working(t, c.b, 500)
	c.d.Until("cache", "on a branch", func(s blackbox.SourceStatus) bool {
		return s.State == "streaming" && s.Timeline != "" && s.ReplID == c.b.Info("replication")["master_replid"]
	})
	after := note(t, c.b, 1)

	require.Equal(t, "0", c.b.Info("stats")["sync_full"], "of the new master")
	require.EqualValues(t, 1, c.d.Source("cache").FullResyncs)
	timelines := c.d.Timelines("cache")
	require.Len(t, timelines, 2)
	parent, branch := timelines[0], timelines[1]
	require.NotNil(t, branch.Parent)
	require.False(t, branch.Suspect)
	require.Nil(t, c.d.Source("cache").Suspect)
	require.Equal(t, parent.Name, branch.Parent.Timeline)
	require.LessOrEqual(t, shared.offset, branch.Parent.Offset)
	require.Less(t, branch.Parent.Offset, lost.offset)
	require.NotNil(t, parent.Ended)
	told := false
	for _, e := range parent.Events {
		if e.Kind == "lost" {
			told = true
			require.Equal(t, branch.Parent.Offset, e.Offset)
			require.Equal(t, end, e.To)
		}
	}
	require.True(t, told, "nothing tells of the writes that were lost: %+v", parent.Events)
	require.Contains(t, branch.Reason, "failover")

	shared.equals(t, kind, c.d.Restore(shared.byOffset()...))
	lost.equals(t, kind, c.d.Restore(append(lost.byOffset(), "--timeline", parent.Name)...))
	after.equals(t, kind, c.d.Restore(append(after.byOffset(), "--timeline", branch.Name)...))
	require.Equal(t, branch.Name, c.d.Restore("--latest").Timeline)
	require.Greater(t, after.offset, lost.offset)
	// Both histories have this offset, so one has to be named.
	r := c.d.Run(append([]string{"restore", "--dry-run"}, lost.byOffset()...)...)
	require.Equal(t, 2, r.Code, "%s", r)
	require.Contains(t, r.Stderr, parent.Name)
	require.Contains(t, r.Stderr, branch.Name)
	c.d.Do("verify")
}

// TestChained: the source is itself a replica. Ids, offsets and bytes are those of its master,
// which isn't asked for anything.
func TestChained(t *testing.T) {
	t.Parallel()
	enginetest.Each(t, func(t *testing.T, kind enginetest.Kind) {
		t.Parallel()
		top := enginetest.Start(t, kind)
		w := working(t, top, 500)
		source := enginetest.Start(t, kind, "--replicaof", fmt.Sprintf("127.0.0.1 %d", top.Port()))
		require.Eventually(t, func() bool { return source.Info("replication")["master_link_status"] == "up" }, 20*time.Second, 10*time.Millisecond)
		// A replica passes on what its master says. That doesn't begin anew with a SELECT for us: the
		// snapshot has to say which database the stream behind it is in.
		require.NoError(t, top.DB(5).Set(t.Context(), "before", "in 5", 0).Err())
		d := blackbox.Start(t, t.TempDir(), blackbox.Source{Name: "cache", Address: source.Addr()})
		d.Streaming("cache")
		require.NoError(t, top.DB(5).Set(t.Context(), "after", "in 5", 0).Err())
		first := note(t, top, 1)
		d.Durable("cache", first.offset)
		first.equals(t, kind, d.Restore(first.byOffset()...))
		first.equals(t, kind, d.Restore(append(first.byOffset(), "--format", "aof-single")...))
		require.NoError(t, w.Run(t.Context(), 500))
		m := note(t, top, 1)
		s := d.Durable("cache", m.offset)

		require.Equal(t, top.Info("replication")["master_replid"], s.ReplID)
		require.Equal(t, "1", top.Info("stats")["sync_full"], "its replica's own")
		require.Equal(t, "1", top.Info("replication")["connected_slaves"])
		require.Equal(t, "1", source.Info("stats")["sync_full"])
		m.equals(t, kind, d.Restore(m.byOffset()...))

		// The same bytes as its master gives: a daemon on the master tells the same story.
		direct := blackbox.Start(t, t.TempDir(), blackbox.Source{Name: "cache", Address: top.Addr()})
		from := direct.Streaming("cache").LastSnapshot
		require.NoError(t, w.Run(t.Context(), 200))
		top.Do("DEBUG", "SET-ACTIVE-EXPIRE", 0)
		end := top.Offset()
		for _, each := range []*blackbox.Daemon{d, direct} {
			each.Durable("cache", end)
		}
		require.Equal(t, told(direct, from.Offset, end), told(d, from.Offset, end))
		d.Do("verify")
	})
}

// told is what a log tells between two offsets, without times.
func told(d *blackbox.Daemon, from, to int64) (all []string) {
	for _, e := range d.Log("--key", "*") {
		if from <= e.Offset && e.After <= to {
			all = append(all, fmt.Sprint(e.Offset, " ", e.After, " ", e.DB, " ", e.Command))
		}
	}
	return all
}
