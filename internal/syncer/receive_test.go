package syncer

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// feed gives l so many reads of size bytes, one every step, and tells what it said of the last.
func feed(l *load, from time.Time, reads, size int, step time.Duration) (heavy bool, now time.Time) {
	p := make([]byte, size)
	for now = from; reads > 0; reads-- {
		now = now.Add(step)
		heavy = l.heavy(p, now)
	}
	return heavy, now
}

// A breath delays what came while it lasts, so only a busy stream gets any.
func TestOnlyABusyStreamIsHeavy(t *testing.T) {
	start := time.Unix(1_700_000_000, 0)
	for _, row := range []struct {
		name  string
		size  int
		every time.Duration
		heavy bool
	}{
		{"a client", 150, time.Millisecond, false},
		{"0.5 MB/s", 500, time.Millisecond, false},
		{"5 MB/s in small reads", 500, 100 * time.Microsecond, true},
		{"50 MB/s in small reads", 5 << 10, 100 * time.Microsecond, true},
		{"50 MB/s in large reads", 250 << 10, 5 * time.Millisecond, true},
		{"50 MB/s, and we are seldom on", 2 << 20, 40 * time.Millisecond, true},
		{"a large value now and then", 500 << 10, time.Second, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			var l load
			heavy, now := feed(&l, start, 1000, row.size, row.every)
			require.Equal(t, row.heavy, heavy)
			heavy, _ = feed(&l, now.Add(time.Minute), 1, 100, 0)
			require.False(t, heavy, "the first bytes after a silence")
		})
	}
}

// Who WAITs has the master send GETACK, and then no byte of the stream is held up.
func TestNoBreathWhileSomebodyWaits(t *testing.T) {
	var l load
	heavy, now := feed(&l, time.Unix(1_700_000_000, 0), 1000, 10<<10, 100*time.Microsecond)
	require.True(t, heavy)

	require.False(t, l.heavy([]byte("*3\r\n$8\r\nREPLCONF\r\n$6\r\nGETACK\r\n$1\r\n*\r\n"), now), "the GETACK itself")
	heavy, now = feed(&l, now, 9000, 10<<10, 100*time.Microsecond)
	require.False(t, heavy, "for most of a second after it")
	heavy, _ = feed(&l, now, 2000, 10<<10, 100*time.Microsecond)
	require.True(t, heavy, "when nobody asked for a second")
}

// Replicas of ours shall not have what is written much later than they would from the master.
func TestAShortBreathWhereReplicasFollow(t *testing.T) {
	follow := false
	l := &Link{o: Options{Followed: func() bool { return follow }}}
	require.Equal(t, breath, l.breath())
	follow = true
	require.Equal(t, short, l.breath())
	require.Equal(t, breath, (&Link{}).breath())
}
