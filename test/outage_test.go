package test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/engine/enginetest"
	"github.com/offloader/offloader/test/blackbox"
)

// TestOutage: while the link is down nobody can say which write came when. A time inside is
// refused, with the points on both sides; offsets inside are as good as any.
func TestOutage(t *testing.T) {
	t.Parallel()
	enginetest.Each(t, func(t *testing.T, kind enginetest.Kind) {
		t.Parallel()
		master := enginetest.Start(t, kind, "--repl-backlog-size", "64mb")
		w := working(t, master, 300)
		proxy := blackbox.NewProxy(t, master.Addr())
		d := blackbox.Start(t, t.TempDir(), blackbox.Source{Name: "cache", Address: proxy.Addr()})
		d.Streaming("cache")
		require.NoError(t, w.Run(t.Context(), 300))
		before := note(t, master, 1)

		proxy.Cut()
		d.Until("cache", "cut off", func(s blackbox.SourceStatus) bool { return s.State != "streaming" })
		require.NoError(t, w.Run(t.Context(), 300))
		inside := note(t, master, 0)
		require.NoError(t, w.Run(t.Context(), 300))
		proxy.Mend()
		d.Durable("cache", master.Offset())
		d.Streaming("cache")
		require.NoError(t, w.Run(t.Context(), 300))
		after := note(t, master, 1)
		require.Equal(t, "1", master.Info("stats")["sync_full"])

		for _, m := range []moment{before, inside, after} {
			m.equals(t, kind, d.Restore(m.byOffset()...))
		}
		after.equals(t, kind, d.Restore(after.byTime()...))

		out := filepath.Join(t.TempDir(), "out")
		r := d.Run(append([]string{"restore", "--output", out}, inside.byTime()...)...)
		require.Equal(t, 3, r.Code, "%s", r)
		_, err := os.Stat(out)
		require.ErrorIs(t, err, os.ErrNotExist)
		ends := regexp.MustCompile(`offset (\d+) \((\S+)\) and offset (\d+) \((\S+)\)`).FindStringSubmatch(r.Stderr)
		require.NotNil(t, ends, "the error names both ends: %s", r)
		for _, offset := range []string{ends[1], ends[3]} {
			d.Do("restore", "--dry-run", "--offset", offset)
		}
		for _, at := range []string{ends[2], ends[4]} {
			d.Do("restore", "--dry-run", "--at", at)
		}
		require.LessOrEqual(t, before.offset, number(t, ends[1]), "%s\n%+v", r, d.Timelines("cache"))
		require.Less(t, number(t, ends[1]), inside.offset)
		require.Greater(t, number(t, ends[3]), inside.offset)
		require.LessOrEqual(t, number(t, ends[3]), after.offset)

		// The list tells of it as well.
		timelines := d.Timelines("cache")
		require.Len(t, timelines, 1)
		require.Len(t, timelines[0].Gaps, 1)
		require.NotEmpty(t, timelines[0].Gaps[0].Cause)
		require.False(t, inside.at.Before(timelines[0].Gaps[0].From.Time) || inside.at.After(timelines[0].Gaps[0].To.Time))
	})
}

func number(t *testing.T, s string) (n int64) {
	t.Helper()
	_, err := fmt.Sscan(s, &n)
	require.NoError(t, err)
	return n
}
