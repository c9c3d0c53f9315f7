package engine

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/engine/enginetest"
	"github.com/offloader/offloader/internal/stream"
)

func binary(t *testing.T, kind enginetest.Kind) Binary {
	t.Helper()
	b, err := ask(t.Context(), kind.Tool("server"))
	require.NoError(t, err)
	require.Equal(t, kind.Version(), b.Version)
	require.Equal(t, kind.Valkey(), b.Product == Valkey)
	return b
}

// A scratch engine becomes what a master is, with keys whose time has passed and with a database that
// few have, and is gone without a trace.
func TestFollow(t *testing.T) {
	enginetest.Each(t, func(t *testing.T, kind enginetest.Kind) {
		tmp := t.TempDir()
		master := enginetest.Start(t, kind, "--requirepass", "secret", "--databases", "2000")
		master.Do("DEBUG", "SET-ACTIVE-EXPIRE", 0)
		master.Do("SET", "gone", "v", "PX", 1)
		master.Do("MSET", "a", "1", "b", "2")
		require.NoError(t, master.DB(1999).Set(t.Context(), "far", "v", 0).Err())
		restore := os.Getenv("TMPDIR")
		require.NoError(t, os.Setenv("TMPDIR", tmp))
		e, err := Start(t.Context(), binary(t, kind), Options{Databases: 2000, Memory: 2 << 30})
		require.NoError(t, os.Setenv("TMPDIR", restore))
		require.NoError(t, err)
		left, err := os.ReadDir(tmp)
		require.NoError(t, err)
		require.Empty(t, left, "the folder is gone while it runs")

		replica := enginetest.Start(t, kind, "--replicaof", "127.0.0.1 "+strconv.Itoa(master.Port()), "--masterauth", "secret", "--databases", "2000")
		require.Eventually(t, func() bool { return replica.Info("replication")["master_link_status"] == "up" }, 30*time.Second, 10*time.Millisecond)
		err = e.Follow(t.Context(), master.Addr(), "secret", stream.Offset(master.Offset()))
		for err != nil && strings.Contains(err.Error(), "was to have no more than") { // a PING came meanwhile
			err = e.Follow(t.Context(), master.Addr(), "secret", stream.Offset(master.Offset()))
		}
		require.NoError(t, err)
		keys, err := e.Keys(t.Context())
		require.NoError(t, err)
		require.Equal(t, map[string]int64{"0": 3, "1999": 1}, keys)
		pid := e.process.Pid
		adj, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "oom_score_adj"))
		require.NoError(t, err)
		require.Equal(t, "1000", strings.TrimSpace(string(adj)))
		require.Empty(t, e.Complaints())
		require.ErrorIs(t, syscall.Kill(pid, 0), syscall.ESRCH)
		e.Close()
	})
}

// Whatever ends it is told, with what it said, and nothing stays of it.
func TestEnds(t *testing.T) {
	kind := enginetest.Any(t)
	b := binary(t, kind)
	master := enginetest.Start(t, kind)
	master.Do("DEBUG", "POPULATE", 100_000, "key", 1000)
	replica := enginetest.Start(t, kind, "--replicaof", "127.0.0.1 "+strconv.Itoa(master.Port()))
	require.Eventually(t, func() bool { return replica.Info("replication")["master_link_status"] == "up" }, 30*time.Second, 10*time.Millisecond)
	master.Do("SET", "a", "1") // there is a stream, from the first replica on
	for name, row := range map[string]struct {
		o    Options
		ends func(e *Engine, cancel context.CancelCauseFunc)
		says string
	}{
		"told to":                 {Options{}, func(_ *Engine, cancel context.CancelCauseFunc) { cancel(errors.New("enough")) }, "enough"},
		"killed":                  {Options{}, func(e *Engine, _ context.CancelCauseFunc) { e.kill() }, "failed: it ended (signal: killed)"},
		"more than it may":        {Options{Memory: 150 << 20}, func(*Engine, context.CancelCauseFunc) {}, "failed: it ended"},
		"more than was asked for": {Options{}, func(*Engine, context.CancelCauseFunc) {}, "and was to have no more than 0"},
	} {
		t.Run(name, func(t *testing.T) {
			tmp := t.TempDir()
			t.Setenv("TMPDIR", tmp)
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			e, err := Start(ctx, b, row.o)
			require.NoError(t, err)
			row.ends(e, cancel)
			err = e.Follow(ctx, master.Addr(), "", 0)
			require.ErrorContains(t, err, row.says)
			if row.o.Memory > 0 {
				var failed *FailedError
				require.ErrorAs(t, err, &failed)
				require.Contains(t, failed.Hint(), "a host with more memory")
			}
			e.Close()
			require.ErrorIs(t, syscall.Kill(e.process.Pid, 0), syscall.ESRCH)
			left, err := os.ReadDir(tmp)
			require.NoError(t, err)
			require.Empty(t, left)
		})
	}
}
