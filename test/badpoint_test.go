package test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/test/blackbox"
)

// stamp is a time as a user may type it.
func stamp(at time.Time) string { return at.UTC().Format("2006-01-02T15:04:05.000Z") }

// Points that can't be restored, and words that can't be meant: the exit code says which, the
// message why and where to instead, and nothing is written.
func TestBadInputPoints(t *testing.T) {
	t.Parallel()
	s := tell(t)
	dir := s.copied(t)
	empty := t.TempDir()
	from, to := s.outage[0], s.outage[1]
	inside := from.Add(to.Sub(from) / 2)
	for _, row := range []struct {
		name string
		args []string
		code int
		says []string
	}{
		{"a time in the future", []string{"--at", strconv.FormatInt(s.endTime.Add(time.Hour).Unix(), 10)}, 3,
			[]string{"after the last byte held", fmt.Sprintf("offset %d", s.end), stamp(s.endTime)}},
		{"61 seconds after the last byte", []string{"--at", stamp(s.endTime.Add(61 * time.Second))}, 3,
			[]string{"after the last byte held", fmt.Sprintf("offset %d", s.end)}},
		{"an offset in the future", []string{"--offset", strconv.FormatInt(s.end+1, 10)}, 3,
			[]string{"after the last offset held", fmt.Sprintf("offset %d", s.end)}},
		{"the largest offset", []string{"--offset", "9223372036854775807"}, 3, []string{"after the last offset held"}},
		{"an offset that is none", []string{"--offset", "9223372036854775808"}, 2, []string{"9223372036854775808"}},
		{"a time in the outage", []string{"--at", stamp(inside)}, 3, []string{"the link was down", stamp(from), stamp(to), fmt.Sprintf("offset %d", s.beforeOut)}},
		{"the first moment of the outage", []string{"--at", stamp(from.Add(time.Millisecond))}, 3, []string{"the link was down", stamp(from), stamp(to)}},
		{"the last moment of the outage", []string{"--at", stamp(to.Add(-time.Millisecond))}, 3, []string{"the link was down", stamp(from), stamp(to)}},
		{"a time before all", []string{"--at", "2001-01-01T00:00:00Z"}, 3, []string{"before all that is held", fmt.Sprintf("offset %d", s.begin)}},
		{"inside a transaction", []string{"--offset", strconv.FormatInt(s.multi+23+20, 10)}, 3,
			[]string{"inside", fmt.Sprintf("offset %d", s.beforeOut), "the boundaries before and after it are"}},
		{"inside a command", []string{"--offset", strconv.FormatInt(s.flush+1, 10)}, 3, []string{strconv.FormatInt(s.flush, 10)}},
		{"no such command", []string{"--before", "DEL nothing"}, 3, []string{"DEL nothing", "there is none"}},
		{"unknown source", []string{"--latest", "--source", "nobody"}, 2, []string{`no source "nobody"`, "cache"}},
		{"a source that is a path", []string{"--latest", "--source", "../cache"}, 2, []string{"no source"}},
		{"unknown timeline", []string{"--latest", "--timeline", "nope"}, 2, []string{`no timeline "nope"`, s.timeline}},
		{"no point", nil, 2, []string{"--at, --offset, --before or --latest"}},
		{"two points", []string{"--latest", "--at", "now"}, 2, []string{"--latest"}},
		{"not a time", []string{"--at", "yesteryear"}, 2, []string{"yesteryear", "RFC 3339"}},
		{"an empty time", []string{"--at", ""}, 2, []string{"RFC 3339"}},
		{"an empty command", []string{"--before", ""}, 2, nil},
		{"an unknown format", []string{"--latest", "--format", "tar"}, 2, []string{"tar", "aof"}},
		{"a later format", []string{"--latest", "--format", "rdb"}, 2, []string{"not in this version"}},
		{"a later flag", []string{"--latest", "--keys", "x*"}, 2, []string{"not in this version"}},
		{"a folder and a server", []string{"--latest", "--to", "redis://x"}, 2, []string{"--to is a server", "keep one"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			out := filepath.Join(t.TempDir(), "out")
			r := blackbox.ArchiveAt(t, dir).Run(append([]string{"restore", "--output", out}, row.args...)...)
			require.Equal(t, row.code, r.Code, "%s", r)
			require.Empty(t, r.Stdout, "data goes to stdout, this is none")
			for _, words := range row.says {
				require.Contains(t, r.Stderr, words)
			}
			require.NoDirExists(t, out)
			entries, err := os.ReadDir(filepath.Dir(out))
			require.NoError(t, err)
			require.Empty(t, entries, "nothing is left beside it")
		})
	}
	t.Run("missing archive folder", func(t *testing.T) {
		for _, command := range [][]string{{"restore", "--latest", "--dry-run"}, {"list"}, {"log"}} {
			r := blackbox.ArchiveAt(t, filepath.Join(empty, "nowhere")).Run(command...)
			require.Equal(t, 1, r.Code, "%s", r)
			require.Contains(t, r.Stderr, "nowhere: no such file or directory")
			require.Contains(t, r.Stderr, "is the disk mounted, and the path right?")
		}
	})
	t.Run("empty archive", func(t *testing.T) {
		r := blackbox.ArchiveAt(t, empty).Run("restore", "--latest", "--dry-run")
		require.Equal(t, 3, r.Code, "%s", r)
		require.Contains(t, r.Stderr, "holds no source")
		r = blackbox.ArchiveAt(t, empty).Run("list", "--json")
		require.Equal(t, 0, r.Code, "%s", r)
		require.JSONEq(t, `{"sources": []}`, r.Stdout)
	})
	t.Run("no archive but a file", func(t *testing.T) {
		r := blackbox.ArchiveAt(t, filepath.Join(dir, "cache", s.timeline, "timeline.json")).Run("list")
		require.Equal(t, 1, r.Code, "%s", r)
		require.Contains(t, r.Stderr, "not a directory")
	})
	t.Run("output folder not empty", func(t *testing.T) {
		out := t.TempDir()
		keep := filepath.Join(out, "precious")
		require.NoError(t, os.WriteFile(keep, []byte("data"), 0o600))
		before := files(t, out)
		r := blackbox.ArchiveAt(t, dir).Run("restore", "--latest", "--output", out)
		require.Equal(t, 1, r.Code, "%s", r)
		require.Contains(t, r.Stderr, out)
		require.Contains(t, r.Stderr, "not empty")
		require.Equal(t, before, files(t, out))
		r = blackbox.ArchiveAt(t, dir).Run("restore", "--latest", "--output", keep)
		require.Equal(t, 1, r.Code, "a file: %s", r)
		data, err := os.ReadFile(keep)
		require.NoError(t, err)
		require.Equal(t, "data", string(data))
	})
	t.Run("output folder in the archive", func(t *testing.T) {
		r := blackbox.ArchiveAt(t, dir).Run("restore", "--latest", "--output", filepath.Join(dir, "cache", "out"))
		require.Equal(t, 1, r.Code, "%s", r)
		require.Contains(t, r.Stderr, "holds the archive")
		require.NoDirExists(t, filepath.Join(dir, "cache", "out"))
	})
}

// The points beside those that can't be restored can, each to what the master held then.
func TestPointsAtTheEdges(t *testing.T) {
	t.Parallel()
	s := tell(t)
	from, to := s.outage[0], s.outage[1]
	dir := s.copied(t)
	for _, row := range []struct {
		name, digest string
		args         []string
		offset       int64 // 0: whichever
	}{
		{"where the outage begins", "before the outage", []string{"--at", stamp(from)}, s.beforeOut},
		{"where the outage ends", "after the outage", []string{"--at", stamp(to)}, 0},
		{"an offset in the outage", "before the outage", []string{"--offset", strconv.FormatInt(s.beforeOut, 10)}, s.beforeOut},
		{"before FLUSHALL", "before FLUSHALL", []string{"--before", "flushall"}, s.flush},
		{"before FLUSHALL, by offset", "before FLUSHALL", []string{"--offset", strconv.FormatInt(s.flush, 10)}, s.flush},
		{"now", "latest", []string{"--at", "now"}, s.end},
		{"latest", "latest", []string{"--latest"}, s.end},
		{"by name of source and timeline", "latest", []string{"--latest", "--source", "cache", "--timeline", s.timeline}, s.end},
		{"59 seconds after the last byte", "latest", []string{"--at", stamp(s.endTime.Add(59 * time.Second))}, s.end},
		{"60 seconds after the last byte", "latest", []string{"--at", stamp(s.endTime.Add(60 * time.Second))}, s.end},
		{"the last byte, in milliseconds", "latest", []string{"--at", strconv.FormatInt(s.endTime.UnixMilli(), 10)}, s.end},
		{"single file", "latest", []string{"--latest", "--format", "aof-single"}, s.end},
	} {
		t.Run(row.name, func(t *testing.T) {
			restored := blackbox.ArchiveAt(t, dir).Restore(row.args...)
			if row.offset != 0 {
				require.Equal(t, row.offset, restored.Offset)
			}
			require.Equal(t, s.digests[row.digest], restored.Boot(s.kind).Digest())
		})
	}
	t.Run("the archive's name", func(t *testing.T) {
		want := blackbox.ArchiveAt(t, dir).Do("list", "--json")
		for _, name := range []string{dir + "/", dir + "///", "file://" + dir, "file://" + dir + "/"} {
			require.Equal(t, want, blackbox.ArchiveAt(t, name).Do("list", "--json"), name)
		}
	})
}
