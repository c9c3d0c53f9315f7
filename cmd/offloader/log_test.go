package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"path"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/store"
	"github.com/offloader/offloader/internal/stream"
)

// began is 2026-03-01 12:00:00 UTC, when the first timeline of logArchive begins.
const began stream.Time = 1772366400000

// logArchive is the folder of an archive with two timelines of the source cache. Each holds the
// commands of a few seconds, a second apart.
func logArchive(t *testing.T) (dir string, timelines []string) {
	t.Helper()
	dir = t.TempDir()
	s, err := store.OpenDisk(t.Context(), dir, store.Options{Write: true})
	require.NoError(t, err)
	enc, err := archive.NewEncoder()
	require.NoError(t, err)
	for i, commands := range [][]string{
		{"SET user:1 a", "MULTI", "DEL user:2", "SET user:1 b", "EXEC", "FLUSHALL"},
		{"SET user:1 c", "PING", "SADD tags x"},
	} {
		at := began + stream.Time(i)*3_600_000
		id := stream.ReplID(strings.Repeat(fmt.Sprint(i), 40))
		name := archive.TimelineName(at, id)
		require.NoError(t, archive.WriteTimeline(t.Context(), s, archive.TimelineInfo{Source: "cache", Timeline: name, ReplID: id, Offset: 1000, Began: at, Spool: "s", Reason: "test"}))
		var file bytes.Buffer
		w, err := archive.NewSegmentWriter(&file, enc, archive.SegmentHead{Source: "cache", Timeline: name, ReplID: id, From: stream.Cursor{Offset: 1000, DB: 2, Time: at}})
		require.NoError(t, err)
		offset := stream.Offset(1000)
		for n, c := range commands {
			words := strings.Fields(c)
			data := fmt.Appendf(nil, "*%d\r\n", len(words))
			for _, word := range words {
				data = fmt.Appendf(data, "$%d\r\n%s\r\n", len(word), word)
			}
			require.NoError(t, w.Write(stream.Piece{At: offset, Time: at + stream.Time(n+1)*1000, Data: data}))
			offset += stream.Offset(len(data))
		}
		segment, err := w.Close()
		require.NoError(t, err)
		require.NoError(t, s.Put(t.Context(), path.Join("cache", name, "log", path.Base(segment.String())), &file))
		timelines = append(timelines, name)
	}
	return dir, timelines
}

// commandLine runs a command line as main does.
func commandLine(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, messages bytes.Buffer
	a := &app{term: &terminal{out: &out, err: &messages}, env: func(string) (string, bool) { return "", false }}
	code = a.main(t.Context(), args)
	return out.String(), messages.String(), code
}

func TestLogForPrograms(t *testing.T) {
	dir, timelines := logArchive(t)
	type entry struct {
		Timeline      string
		Time          string
		Offset, After int64
		DB            int
		InMulti       bool `json:"in_multi"`
		Command       string
	}
	type log struct {
		Source   string
		Timeline *string
		Entries  []entry
	}
	ask := func(args ...string) log {
		out, messages, code := commandLine(t, append([]string{"log", "--archive", dir, "--json"}, args...)...)
		require.Zero(t, code, messages)
		var l log
		require.NoError(t, json.Unmarshal([]byte(out), &l), out)
		require.Equal(t, "cache", l.Source)
		return l
	}
	commands := func(l log) (all []string) {
		for _, e := range l.Entries {
			all = append(all, e.Command)
		}
		return all
	}

	all := ask()
	require.Nil(t, all.Timeline)
	require.Equal(t, []string{"SET user:1 a", "DEL user:2", "SET user:1 b", "FLUSHALL", "SET user:1 c", "SADD tags x"}, commands(all))
	require.Equal(t, entry{timelines[0], "2026-03-01T12:00:03.000Z", 1032, 1118, 2, true, "DEL user:2"}, all.Entries[1])
	require.Equal(t, timelines[1], all.Entries[5].Timeline)

	require.Equal(t, []string{"DEL user:2", "FLUSHALL"}, commands(ask("--key", "user:2")))
	require.Equal(t, []string{"SET user:1 a", "SET user:1 b", "FLUSHALL"}, commands(ask("--key", "user:[13]", "--to", "2026-03-01T13:00:00Z")))
	require.Equal(t, []string{"FLUSHALL"}, commands(ask("--command", "flushall")))
	require.Equal(t, []string{"SET user:1 b"}, commands(ask("--command", "SET user:1 b")))
	require.Equal(t, []string{"SET user:1 c", "SADD tags x"}, commands(ask("--from", "2026-03-01T12:00:06.001Z")))
	require.Equal(t, []string{"SET user:1 a"}, commands(ask("--to", "1772366402")))

	one := ask("--timeline", timelines[1], "--source", "cache")
	require.Equal(t, &timelines[1], one.Timeline)
	require.Equal(t, []string{"SET user:1 c", "SADD tags x"}, commands(one))

	none := ask("--key", "nokey", "--command", "SET")
	require.NotNil(t, none.Entries)
	require.Empty(t, none.Entries)
}

func TestLogForPeople(t *testing.T) {
	dir, _ := logArchive(t)
	out, messages, code := commandLine(t, "log", "--archive", dir, "--command", "DEL", "--from", "2026-03-01T12:00:00Z")
	require.Zero(t, code)
	require.Regexp(t, `^\S+ \S+ \S+ +1032 +1118 +2  DEL user:2  \(in MULTI\)\n$`, out)
	require.Contains(t, messages, `"2026-03-01T12:00:00Z" was taken for `)
	require.Contains(t, messages, "restore --offset BEFORE gives the dataset without a command, --offset AFTER the one with it")

	out, messages, code = commandLine(t, "log", "--archive", dir, "--key", "nokey", "--command", "SET")
	require.Zero(t, code)
	require.Empty(t, out)
	require.Contains(t, messages, "nothing like that was written")
}

func TestLogOfWhatIsNotThere(t *testing.T) {
	dir, _ := logArchive(t)
	for name, c := range map[string]struct {
		args []string
		code int
		says string
	}{
		"a source":      {[]string{"--source", "cash"}, exitUsage, `no source "cash"`},
		"a timeline":    {[]string{"--timeline", "x"}, exitUsage, "x"},
		"a time":        {[]string{"--from", "soon"}, exitUsage, `"soon" is not a time`},
		"times crossed": {[]string{"--from", "200", "--to", "100"}, exitUsage, "is not before --to"},
		"a command":     {[]string{"--command", `"`}, exitUsage, "quote"},
		"an argument":   {[]string{"FLUSHALL"}, exitUsage, "log takes no argument"},
	} {
		out, messages, code := commandLine(t, append([]string{"log", "--archive", dir}, c.args...)...)
		require.Equal(t, c.code, code, name)
		require.Contains(t, messages, c.says, name)
		require.Empty(t, out, name)
	}
	_, _, code := commandLine(t, "log", "--archive", t.TempDir())
	require.Equal(t, exitUnreachable, code)
}
