package test

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/engine/enginetest"
	"github.com/offloader/offloader/test/blackbox"
	"github.com/offloader/offloader/test/workload"
)

// big is a value that no buffer holds by chance.
const big = 64 << 20

// TestDigest is the product's proof: under a workload over every data type, moments are noted, and
// later each is restored, by offset or by time, from spool or store, in either format, and holds
// what the master held.
func TestDigest(t *testing.T) {
	t.Parallel()
	n := count(t, "moments", 20, 8)
	steps := count(t, "steps of the workload between moments", 5000, 800)
	enginetest.Each(t, func(t *testing.T, kind enginetest.Kind) {
		t.Parallel()
		// A backlog that covers what is written while the daemon restarts, whatever the machine is busy with.
		master := enginetest.Start(t, kind, "--repl-backlog-size", "256mb")
		seed := rand.Uint64()
		t.Logf("seed %d", seed)
		w := workload.New(seed, master)
		defer func() { require.NoError(t, w.Close()) }()
		require.NoError(t, w.Run(t.Context(), 2*steps))
		master.Do(w.Big("big:zeros", big, true)...)

		dir := t.TempDir()
		d := blackbox.Start(t, dir, blackbox.Source{Name: "cache", Address: master.Addr()})
		d.Streaming("cache")
		var moments []moment
		for i := range n {
			switch i {
			case n / 4:
				master.Do("DEL", "big:zeros")
				master.Do(w.Big("big:noise", big, false)...)
			case n / 2:
				d.Stop()
				master.Do("DEL", "big:noise")
				d.Restart()
			}
			killed := make(chan struct{})
			go func() {
				defer close(killed)
				if i == 3*n/4 {
					d.Kill()
				}
			}()
			require.NoError(t, w.Run(t.Context(), steps))
			if <-killed; i == 3*n/4 {
				d.Restart()
			}
			d.Streaming("cache")
			moments = append(moments, note(t, master, 1))
		}
		require.Empty(t, w.Missing(), "commands that the workload never did")
		require.Equal(t, "1", master.Info("stats")["sync_full"], "full resyncs")
		require.NotEqual(t, "0", master.Info("stats")["expired_keys"])

		for i, m := range moments {
			if i == n/2 {
				d.Stop() // from here on there is no daemon
			}
			way := i
			if i == 3*n/4-1 {
				way = 0 // a time just before the kill may lie in the outage: the last sign of life is some time back
			}
			m.equals(t, kind, restore(t, d.Archive, m, way))
		}
		require.NoError(t, os.Rename(filepath.Join(d.Dir, ".spool"), filepath.Join(dir, "gone")))
		last := moments[n-1]
		last.equals(t, kind, restore(t, blackbox.ArchiveAt(t, d.Dir), last, 0))
	})
}

// restore restores a moment, in one of the ways that there are.
func restore(t *testing.T, from blackbox.Archive, m moment, way int) *blackbox.Restored {
	t.Helper()
	ways := [][]string{
		m.byOffset(),
		m.byTime(),
		append(m.byOffset(), "--format", "aof-single"),
		append(m.byTime(), "--format", "aof"),
	}
	r := from.Restore(slices.Clone(ways[way%len(ways)])...)
	if way%2 == 0 {
		require.Equal(t, m.offset, r.Offset)
		// Its time, to the millisecond, leads to it again, or to a PING that came in the same one.
		again := from.Aim("--at", r.Time.Format(time.RFC3339Nano))
		require.GreaterOrEqual(t, again.Offset, m.offset)
		require.LessOrEqual(t, again.Offset, m.offset+int64(len("*1\r\n$4\r\nping\r\n")))
	}
	t.Cleanup(r.Remove)
	return r
}
