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

// TestFullSyncsTakeTurns: with room for one at a time, a daemon with several masters forks one after
// the other, and says who waits; all get there.
func TestFullSyncsTakeTurns(t *testing.T) {
	t.Parallel()
	kind := enginetest.Any(t)
	const n = 3
	yaml := "sources:\n"
	for i := range n {
		s := enginetest.Start(t, kind)
		for key := range 100 {
			s.Do("SET", key, "value")
		}
		s.Do("CONFIG", "SET", "rdb-key-save-delay", "5000") // half a second for the RDB
		yaml += fmt.Sprintf("  - {name: s%d, address: %q}\n", i, s.Addr())
	}
	d := blackbox.StartWith(t, t.TempDir(), yaml+`
spool: {path: $DIR/archive/.spool, min_free: 1%}
stores: [{type: disk, path: $DIR/archive}]
max_full_syncs: 1
`)
	require.Eventually(t, func() bool {
		return strings.Contains(d.Get("/readyz"), "waiting for the turn of its full sync: as many run as may at once (max_full_syncs: 1)")
	}, 30*time.Second, 10*time.Millisecond)
	for i := range n {
		s := d.Streaming(fmt.Sprint("s", i))
		require.EqualValues(t, 1, s.FullResyncs)
		require.Empty(t, s.Error)
	}
	d.Do("snapshot", "--source", "s1") // takes a turn as well, and there is one
}
