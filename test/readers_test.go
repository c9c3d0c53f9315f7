package test

import (
	"path/filepath"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/engine/enginetest"
	"github.com/offloader/offloader/test/blackbox"
)

// Whoever reads while the daemon is hard at work, spools, seals, compacts and deletes, sees an
// archive without a hole, up to the last byte that was durable when he began.
func TestReadersUnderLoad(t *testing.T) {
	t.Parallel()
	kind := enginetest.Any(t)
	master := enginetest.Start(t, kind, "--repl-backlog-size", "256mb")
	d := blackbox.StartWith(t, t.TempDir(), smallSpool(master))
	began := d.Streaming("cache")
	master.Do("INCR", "counter") // the first reader must have something to find
	d.Durable("cache", master.Offset())
	load(t, master, 3)
	out := filepath.Join(t.TempDir(), "out")
	var inTheMiddle int64
	for i := range count(t, "rounds of readers", 40, 12) {
		durable := d.Source("cache").Durable
		restored := d.Restore("--latest")
		require.GreaterOrEqual(t, restored.Offset, durable, "round %d", i)
		restored.Remove()
		if inTheMiddle == 0 && i > 2 {
			inTheMiddle = restored.Offset
		}
		one := d.Timelines("cache")
		require.Len(t, one, 1)
		require.Len(t, one[0].Windows, 1)
		require.Empty(t, one[0].Gaps)
		require.GreaterOrEqual(t, one[0].Windows[0].To.Offset, restored.Offset)
		require.NotEmpty(t, d.Log("--key", "counter"), "round %d: %s", i, d.Run("log").Stdout)
		r := d.Run("restore", "--dry-run", "--offset", strconv.FormatInt(max(began.Durable, inTheMiddle), 10), "--output", out)
		require.Equal(t, 0, r.Code, "%s", r)
	}
	require.Equal(t, "1", master.Info("stats")["sync_full"])
}
