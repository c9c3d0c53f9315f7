package relay

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/stream"
)

func TestPitfall18HammeringIsSlowedDown(t *testing.T) {
	b, now := newBook(), time.Now()
	got, n := 0, comes(t, b, "a", now)
	for second := range 600 {
		for tenth := range 10 {
			at := now.Add(time.Duration(second)*time.Second + time.Duration(tenth)*100*time.Millisecond)
			if b.beginCopy("a", at) == nil {
				b.gets("a", n, 1, true, at)
				b.endCopy()
				got++
			}
		}
	}
	require.Greater(t, got, freeCopies)
	require.Less(t, got, 20, "in ten minutes")
	require.NotNil(t, b.beginCopy("a", now.Add(600*time.Second)))
	b.acked("a", 1, now) // it has loaded one
	require.Nil(t, b.beginCopy("a", now))

	for range 10 * freeCopies { // a tool loads nothing that we would hear of
		require.Nil(t, b.beginCopy("a", now))
		b.gets("a", n, 1, false, now)
		b.endCopy()
	}

	comes(t, b, "early", now)
	for range 10 * freeCopies { // there was nothing to get yet
		require.Nil(t, b.beginCopy("early", now))
		b.endCopy()
	}
	for i := range maxCopies - 1 {
		comes(t, b, fmt.Sprint(i), now)
		require.Nil(t, b.beginCopy(fmt.Sprint(i), now))
	}
	comes(t, b, "late", now)
	require.ErrorContains(t, b.beginCopy("late", now), "as many full syncs are running as are served at once")
	b.endCopy()
	require.Nil(t, b.beginCopy("late", now))
}

// A replica comes back before its old connection is seen to end. What that one takes, late, says nothing of the replica.
func TestTheLastConnectionCounts(t *testing.T) {
	b, now := newBook(), time.Now()
	old, n := comes(t, b, "a", now), comes(t, b, "a", now)
	require.NotEqual(t, old, n)
	b.gets("a", n, 1, true, now)
	b.streams("a", n, false, now)
	b.gets("a", old, 1, true, now)
	require.Equal(t, Online, b.list(now)[0].State)
	b.streams("a", old, false, now)
	b.gets("a", n, 1, true, now)
	require.Equal(t, Copying, b.list(now)[0].State)
	b.streams("a", old, true, now)
	require.Equal(t, Copying, b.list(now)[0].State)
	b.leave("a", now)
	require.Equal(t, Copying, b.list(now)[0].State)
	b.leave("a", now)
	require.Equal(t, Away, b.list(now)[0].State)
	require.EqualValues(t, 3, b.list(now)[0].FullSyncs)
	require.EqualValues(t, 1, b.list(now)[0].PartialSyncs)
}

// comes has a replica attach.
func comes(t *testing.T, b *book, address string, now time.Time) int {
	t.Helper()
	n, later := b.attach(address, "", false, now)
	require.Nil(t, later)
	return n
}

// Who waits for an answer, for as long as a store or a scratch engine takes, is not away since it came.
func TestWhoWaitsIsThere(t *testing.T) {
	b, now := newBook(), time.Now()
	comes(t, b, "a", now)
	later := now.Add(5 * time.Minute)
	require.Equal(t, stream.TimeOf(later), b.list(later)[0].Since)
	b.leave("a", later)
	require.Equal(t, stream.TimeOf(later), b.list(later.Add(time.Minute))[0].Since)
}

// However many come and go, so many are served, and so many remembered.
func TestTheBookIsBounded(t *testing.T) {
	b, now := newBook(), time.Now()
	for i := range 3 * maxKnown {
		comes(t, b, fmt.Sprint(i), now)
		b.leave(fmt.Sprint(i), now.Add(time.Duration(i)*time.Second))
	}
	require.Len(t, b.list(now), maxKnown)
	for i := range maxReplicas {
		comes(t, b, fmt.Sprint("r", i), now)
	}
	_, later := b.attach("more", "", false, now)
	require.ErrorContains(t, later, "as many replicas are attached")
	require.Len(t, b.list(now), maxKnown)
}

// Replicas ask each second, at whatever moment of it. Whose turn it is does not depend on who asks first when
// a place is free, and nobody keeps it free who asks no more.
func TestWhoHasWaitedLongestIsNext(t *testing.T) {
	b, now := newBook(), time.Now()
	ask := func(name string) bool { return b.beginCopy(name, now) == nil }
	names := []string{}
	for i := range maxCopies + 4 {
		names = append(names, fmt.Sprint(i))
		comes(t, b, names[i], now)
	}
	for _, name := range names[:maxCopies] {
		require.True(t, ask(name))
	}
	waiting := names[maxCopies:]
	for range 20 {
		for i := range waiting {
			now = now.Add(time.Second / 4)
			require.False(t, ask(waiting[(i+1)%4]), "the last comes first, and then again")
		}
	}
	// The one that asked first of all is waiting[1].
	b.endCopy()
	for _, name := range []string{waiting[0], waiting[3], waiting[2]} {
		require.False(t, ask(name), name)
	}
	require.True(t, ask(waiting[1]))
	b.endCopy()
	b.endCopy()
	require.False(t, ask(waiting[0]))
	require.True(t, ask(waiting[3]), "two places, and one waits for longer")
	require.True(t, ask(waiting[2]))

	b.endCopy()
	now = now.Add(stillAsks)
	comes(t, b, "new", now)
	require.True(t, ask("new"), "nobody asks any more")
	require.False(t, ask(waiting[0]))
}
