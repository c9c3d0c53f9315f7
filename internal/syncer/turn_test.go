package syncer

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/engine/enginetest"
	"github.com/offloader/offloader/internal/resp"
	"github.com/offloader/offloader/internal/schedule"
	"github.com/offloader/offloader/internal/stream"
)

// together counts how many RDBs come in at once, over several sinks.
type together struct {
	mu        sync.Mutex
	now, most int
}

func (c *together) add(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now += n
	c.most = max(c.most, c.now)
}

func (c *together) sink() *memory {
	m := newMemory()
	m.begins, m.whole = func() { c.add(1) }, func() { c.add(-1) }
	return m
}

// slow makes a master take a fifth of a second for its RDB, at least.
func slow(t *testing.T, kind enginetest.Kind) *enginetest.Server {
	s := enginetest.Start(t, kind)
	for i := range 100 {
		s.Do("SET", i, "value")
	}
	s.Do("CONFIG", "SET", "rdb-key-save-delay", "2000")
	return s
}

// With room for one, full syncs of many masters come one after the other, and all come.
func TestFullSyncsTakeTurns(t *testing.T) {
	kind := enginetest.Any(t)
	limit, count := schedule.NewLimit(1, 0), &together{}
	var masters []*enginetest.Server
	for range 4 {
		masters = append(masters, slow(t, kind))
	}
	var sinks []*memory
	for _, s := range masters {
		sinks = append(sinks, count.sink())
		up(t, Options{Address: s.Addr(), Turns: limit}, sinks[len(sinks)-1])
	}
	for i, s := range masters {
		caught(t, s, sinks[i])
		require.Equal(t, 1, fullSyncs(s))
	}
	require.Equal(t, 1, count.most)
	give, ok := limit.Try()
	require.True(t, ok, "all have given their turn back")
	give()
}

// A master that hangs in its full sync holds up the next one for as long as it takes to notice, and
// not again when it comes back.
func TestAStuckFullSyncEnds(t *testing.T) {
	kind := enginetest.Any(t)
	limit := schedule.NewLimit(1, 0)
	hangs, well := enginetest.Start(t, kind), enginetest.Start(t, kind)
	address := newProxy(t, hangs.Addr(), func(int) func([]byte) ([]byte, error) {
		return after("+FULLRESYNC", func(int64, []byte) ([]byte, error) { return nil, nil })
	})
	stuck, _ := up(t, Options{Address: address, Turns: limit, ReadTimeout: 3 * time.Second}, newMemory())
	eventually(t, "it hangs", func() bool { return fullSyncs(hangs) == 1 })
	sink := newMemory()
	l, _ := up(t, Options{Address: well.Addr(), Turns: limit}, sink)
	eventually(t, "the other waits for its turn", func() bool {
		s := l.Status()
		return s.Phase == Waiting && s.Why == "for the turn of its full sync: as many run as may at once (max_full_syncs: 1)"
	})
	caught(t, well, sink)
	require.NotEqual(t, Streaming, stuck.Status().Phase)
	require.Empty(t, l.Status().LastError, "to wait is no failure")
}

// What continues takes no turn, nor does what was not foreseen to become a full sync; what waits for one
// ends when it is told to.
func TestWhatTakesNoTurn(t *testing.T) {
	kind := enginetest.Any(t)
	limit := schedule.NewLimit(1, 0)
	master, other := enginetest.Start(t, kind), enginetest.Start(t, kind)
	sink := newMemory()
	_, stop := up(t, Options{Address: master.Addr(), Turns: limit}, sink)
	caught(t, master, sink)
	stop()
	give, err := limit.Take(t.Context())
	require.NoError(t, err, "the turn ended with the RDB")
	fill(master, 10)
	up(t, Options{Address: master.Addr(), Turns: limit}, sink)
	caught(t, master, sink)
	require.Equal(t, 1, fullSyncs(master))

	// Without INFO nothing can be foreseen.
	other.Do("ACL", "SETUSER", "blind", "on", ">pw", "+psync", "+replconf", "+ping")
	holds := newMemory()
	holds.id, holds.base, holds.framer = idA, 100, resp.NewFramer(stream.Cursor{Offset: 100})
	up(t, Options{Address: other.Addr(), Username: "blind", Password: func() (string, error) { return "pw", nil }, Turns: limit}, holds)
	eventually(t, "a full sync that nobody expected", func() bool { return see(holds, func(m *memory) bool { return m.wholes == 1 }) })

	ctx, cancel := context.WithCancelCause(t.Context())
	waits := New(Options{Address: other.Addr(), Turns: limit}, newMemory())
	ended := make(chan error, 1)
	go func() { ended <- waits.Run(ctx) }()
	eventually(t, "it waits", func() bool { return strings.Contains(waits.Status().Why, "max_full_syncs") })
	cancel(context.Canceled)
	require.ErrorIs(t, <-ended, context.Canceled)
	give()
	last := newMemory()
	up(t, Options{Address: other.Addr(), Turns: limit}, last)
	eventually(t, "the next one gets it", func() bool { return see(last, func(m *memory) bool { return m.wholes == 1 }) })
}
