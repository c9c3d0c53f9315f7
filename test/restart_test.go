package test

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/engine/enginetest"
	"github.com/offloader/offloader/test/blackbox"
)

// TestRestartOfMaster: how a master comes back decides how its history goes on.
func TestRestartOfMaster(t *testing.T) {
	t.Parallel()
	enginetest.Each(t, func(t *testing.T, kind enginetest.Kind) {
		t.Parallel()
		t.Run("saved", func(t *testing.T) { restartedSaved(t, kind) })
		t.Run("empty", func(t *testing.T) { restartedEmpty(t, kind) })
		t.Run("rewound", func(t *testing.T) { restartedRewound(t, kind) })
	})
}

func attached(t *testing.T, kind enginetest.Kind) (*enginetest.Server, *blackbox.Daemon, moment) {
	t.Helper()
	master := enginetest.Start(t, kind)
	w := working(t, master, 300)
	d := blackbox.Start(t, t.TempDir(), blackbox.Source{Name: "cache", Address: master.Addr()})
	d.Streaming("cache")
	require.NoError(t, w.Run(t.Context(), 300))
	return master, d, note(t, master, 1)
}

// gone waits until a server that was told to leave has left.
func gone(t *testing.T, s *enginetest.Server) {
	t.Helper()
	require.Eventually(t, func() bool { return syscall.Kill(s.Pid(), 0) != nil }, 30*time.Second, 10*time.Millisecond)
}

// A master that saved when it left has new ids, and knows the old one: the same history.
func restartedSaved(t *testing.T, kind enginetest.Kind) {
	master, d, before := attached(t, kind)
	_ = master.Client().Do(t.Context(), "SHUTDOWN", "SAVE").Err() // it hangs up
	gone(t, master)
	master.Restart()
	working(t, master, 300)
	s := d.Streaming("cache")
	after := note(t, master, 1)

	require.EqualValues(t, 1, s.FullResyncs)
	require.Equal(t, "0", master.Info("stats")["sync_full"], "since its restart")
	require.Len(t, d.Timelines("cache"), 1)
	require.Nil(t, s.Suspect)
	before.equals(t, kind, d.Restore(before.byOffset()...))
	after.equals(t, kind, d.Restore(after.byOffset()...))
}

// A master that comes back with nothing begins a new timeline, see TestAmnesia. What was before stays.
func restartedEmpty(t *testing.T, kind enginetest.Kind) {
	master, d, before := attached(t, kind)
	master.Kill()
	require.NoError(t, os.Remove(filepath.Join(master.Dir(), "dump.rdb"))) // note made it
	master.Restart()
	d.Until("cache", "synced anew", func(s blackbox.SourceStatus) bool { return s.FullResyncs == 2 && s.State == "streaming" })
	working(t, master, 300)
	after := note(t, master, 1)

	timelines := d.Timelines("cache")
	require.Len(t, timelines, 2)
	require.NotNil(t, timelines[0].Ended)
	require.Nil(t, timelines[1].Ended)
	require.NotEmpty(t, timelines[1].Reason)
	require.NotEqual(t, timelines[0].Reason, timelines[1].Reason)
	require.Contains(t, d.Do("list"), timelines[1].Reason)
	before.equals(t, kind, d.Restore(append(before.byOffset(), "--timeline", timelines[0].Name)...))
	require.Len(t, timelines[0].Windows, 1)
	last := timelines[0].Windows[0].To
	require.Equal(t, timelines[0].Name, d.Restore("--at", last.Time.Format(time.RFC3339Nano)).Timeline)
	after.equals(t, kind, d.Restore(append(after.byOffset(), "--timeline", timelines[1].Name)...))
}

// A master that comes back with an older dataset, of a dump that it had, goes on as a branch, which is suspect: what
// it lost is kept, and taken.
func restartedRewound(t *testing.T, kind enginetest.Kind) {
	master, d, dumped := attached(t, kind) // note made the dump
	for range 50 {
		master.Do("INCR", "lost")
	}
	lost := lostMoment(t, master)
	master.Kill()
	master.Restart()
	working(t, master, 300)
	d.Until("cache", "on a branch", func(s blackbox.SourceStatus) bool {
		return s.State == "streaming" && s.ReplID == master.Info("replication")["master_replid"]
	})
	after := note(t, master, 1)

	timelines := d.Timelines("cache")
	require.Len(t, timelines, 2)
	require.Equal(t, "0", master.Info("stats")["sync_full"], "since its restart")
	require.NotNil(t, timelines[1].Parent)
	require.True(t, timelines[1].Suspect)
	require.Contains(t, timelines[1].Why, "started with an older dataset")
	require.Contains(t, timelines[1].Reason, "started again with an older dataset")
	require.Equal(t, timelines[1].Name, d.Source("cache").Suspect.Timeline)
	require.Equal(t, timelines[0].Name, d.Aim("--latest").Timeline)
	require.Equal(t, dumped.offset, timelines[1].Parent.Offset)
	dumped.equals(t, kind, d.Restore(append(dumped.byOffset(), "--timeline", timelines[0].Name)...))
	require.Equal(t, lost.digest, d.Restore(append(lost.byOffset(), "--timeline", timelines[0].Name)...).Boot(kind, "--replicaof", "127.0.0.1 1").Digest())
	after.equals(t, kind, d.Restore(append(after.byOffset(), "--timeline", timelines[1].Name)...))
	require.Contains(t, prunedToTheSecond(t, d, master), "deleted: 0 files")
	latest := d.Restore("--latest")
	require.Equal(t, timelines[0].Name, latest.Timeline)
	require.Equal(t, lost.digest, asItWas(latest, kind))
}

// lostMoment is a moment of which only the digest is noted: the master keeps the dump that it has.
func lostMoment(t *testing.T, master *enginetest.Server) moment {
	t.Helper()
	master.Do("DEBUG", "SET-ACTIVE-EXPIRE", 0)
	acknowledged(t, master, 1)
	for {
		m := moment{offset: master.Offset(), digest: master.Digest()}
		if master.Offset() == m.offset {
			return m
		}
	}
}
