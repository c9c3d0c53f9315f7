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

// TestFlushAllStory is what the README tells: somebody flushes, it is found, the moment before it
// is restored, and nothing is missing.
func TestFlushAllStory(t *testing.T) {
	t.Parallel()
	enginetest.Each(t, func(t *testing.T, kind enginetest.Kind) {
		t.Parallel()
		master := enginetest.Start(t, kind)
		fill(t, master, "before the daemon")
		d := blackbox.StartBare(t, t.TempDir(), master.Addr())
		d.Streaming("main")
		fill(t, master, "under its eyes")
		want := note(t, master, 1)

		began := time.Now().Add(-time.Millisecond)
		require.NoError(t, master.DB(3).FlushAll(t.Context()).Err())
		for i := range 7 { // life goes on
			master.Do("SET", "after", i)
		}
		require.EqualValues(t, 1, master.Do("WAIT", 1, 20_000))
		ended := time.Now() // times are when the daemon received

		// It is found.
		entries := d.Log("--command", "flushall")
		require.Len(t, entries, 1)
		found := entries[0]
		require.Equal(t, 3, found.DB)
		require.Greater(t, found.After, found.Offset)
		require.False(t, found.Time.Before(began.Truncate(time.Millisecond)) || found.Time.After(ended), "%v is not in %v to %v", found.Time, began, ended)
		text := d.Do("log", "--command", "FLUSHALL")
		require.Contains(t, strings.ToUpper(text), "FLUSHALL")
		require.Contains(t, text, fmt.Sprint(found.Offset))

		// A look before doing it changes nothing.
		dry := d.Do("restore", "--before", "FLUSHALL", "--dry-run")
		require.Contains(t, dry, fmt.Sprint(found.Offset))

		restored := d.Restore("--before", "FLUSHALL")
		require.NotNil(t, restored.Before)
		require.Equal(t, found.Offset, restored.Before.Offset)
		require.Equal(t, found.Time, restored.Before.Time)
		require.Equal(t, 3, restored.Before.DB)
		require.EqualValues(t, 7, restored.Before.LeftOut)
		require.Equal(t, want.digest, restored.Boot(kind).Digest())
		want.equals(t, kind, d.Restore("--before", "FLUSHALL"))
		require.EqualValues(t, len(want.expiries), *restored.Keys)

		// For people, too.
		out := t.TempDir()
		text = d.Do("restore", "--before", "flushall", "--output", out)
		for _, part := range []string{"flushall", fmt.Sprintf("offset %d", found.Offset), "db 3", "7 commands", found.Time.Format("15:04:05.000"), out, "-server --dir"} {
			require.Contains(t, strings.ToLower(text), strings.ToLower(part))
		}
		again := d.Run("restore", "--before", "FLUSHALL", "--output", out)
		require.Equal(t, 1, again.Code, "%s: a folder that isn't empty", again)

		// The same is reached by what log says, and what is there now as well.
		want.equals(t, kind, d.Restore("--offset", fmt.Sprint(found.Offset)))
		require.Equal(t, master.Digest(), d.Restore("--latest").Boot(kind).Digest())
		flushed := d.Restore("--offset", fmt.Sprint(found.After)).Boot(kind)
		require.Empty(t, flushed.Info("keyspace"))
	})
}

// fill writes keys of all types into some databases, none of which expires soon.
func fill(t *testing.T, s *enginetest.Server, name string) {
	t.Helper()
	for db := range 4 {
		c := s.DB(db)
		for i := range 50 {
			key := fmt.Sprintf("%s: %d of %d", name, i, db)
			for _, args := range [][]any{
				{"SET", key, strings.Repeat(key, i+1)},
				{"SET", key + " for an hour", key, "EX", 3600},
				{"RPUSH", "l " + key, "a", "b\r\nc\x00", key},
				{"HSET", "h " + key, "f", key, "g", i},
				{"ZADD", "z " + key, i, "m", i * 2, "n"},
				{"SADD", "s " + key, i, i + 1, "x"},
				{"XADD", "x " + key, "*", "f", key},
			} {
				require.NoError(t, c.Do(t.Context(), args...).Err())
			}
		}
	}
}
