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
	got := 0
	require.Nil(t, b.attach("a", "", now))
	for second := range 600 {
		for tenth := range 10 {
			at := now.Add(time.Duration(second)*time.Second + time.Duration(tenth)*100*time.Millisecond)
			if b.beginCopy("a", at) == nil {
				b.gets("a", 1, true, at)
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
		b.gets("a", 1, false, now)
		b.endCopy()
	}

	require.Nil(t, b.attach("early", "", now))
	for range 10 * freeCopies { // there was nothing to get yet
		require.Nil(t, b.beginCopy("early", now))
		b.endCopy()
	}
	for i := range maxCopies - 1 {
		require.Nil(t, b.attach(fmt.Sprint(i), "", now))
		require.Nil(t, b.beginCopy(fmt.Sprint(i), now))
	}
	require.Nil(t, b.attach("late", "", now))
	require.ErrorContains(t, b.beginCopy("late", now), "as many full syncs are running as are served at once")
	b.endCopy()
	require.Nil(t, b.beginCopy("late", now))
}

// Who waits for an answer, for as long as a store or a scratch engine takes, is not away since it came.
func TestWhoWaitsIsThere(t *testing.T) {
	b, now := newBook(), time.Now()
	require.Nil(t, b.attach("a", "", now))
	later := now.Add(5 * time.Minute)
	require.Equal(t, stream.TimeOf(later), b.list(later)[0].Since)
	b.leave("a", later)
	require.Equal(t, stream.TimeOf(later), b.list(later.Add(time.Minute))[0].Since)
}

// However many come and go, so many are served, and so many remembered.
func TestTheBookIsBounded(t *testing.T) {
	b, now := newBook(), time.Now()
	for i := range 3 * maxKnown {
		require.Nil(t, b.attach(fmt.Sprint(i), "", now))
		b.leave(fmt.Sprint(i), now.Add(time.Duration(i)*time.Second))
	}
	require.Len(t, b.list(now), maxKnown)
	for i := range maxReplicas {
		require.Nil(t, b.attach(fmt.Sprint("r", i), "", now))
	}
	require.ErrorContains(t, b.attach("more", "", now), "as many replicas are attached")
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
		require.Nil(t, b.attach(names[i], "", now))
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
	require.Nil(t, b.attach("new", "", now))
	require.True(t, ask("new"), "nobody asks any more")
	require.False(t, ask(waiting[0]))
}
