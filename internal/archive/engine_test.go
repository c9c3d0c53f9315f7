package archive_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/crypt"
	"github.com/offloader/offloader/internal/engine/enginetest"
	"github.com/offloader/offloader/internal/resp"
	"github.com/offloader/offloader/internal/store"
	"github.com/offloader/offloader/internal/stream"
)

func command(args ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "*%d\r\n", len(args))
	for _, a := range args {
		fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(a), a)
	}
	return b.String()
}

// put writes a segment of a stream that came in parts of that size, step milliseconds apart.
func put(t *testing.T, s store.Store, from stream.Cursor, all string, size int, at, step stream.Time, to ...crypt.Recipient) string {
	t.Helper()
	f := resp.NewFramer(from)
	var pieces []stream.Piece
	for rest := []byte(all); len(rest) > 0; at += step {
		part := rest[:min(len(rest), size)]
		rest = rest[len(part):]
		for len(part) > 0 {
			off := f.Offset()
			n, first, blank, err := f.Feed(part)
			require.NoError(t, err)
			pieces = append(pieces, stream.Piece{At: off, Time: at, Data: part[:n], First: first, Blank: blank})
			part = part[n:]
		}
	}
	enc, err := archive.NewEncoder(to...)
	require.NoError(t, err)
	var stored bytes.Buffer
	end := f.Boundary()
	w, err := archive.NewSegmentWriter(&stored, enc, archive.SegmentHead{Source: "cache", Timeline: timeline, ReplID: id, From: from, End: &end})
	require.NoError(t, err)
	for _, p := range pieces {
		require.NoError(t, w.Write(p))
	}
	name, err := w.Close()
	require.NoError(t, err)
	require.NoError(t, s.Put(t.Context(), "cache/"+timeline+"/"+name.String(), &stored))
	return name.String()
}

const (
	id       = stream.ReplID("1a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d")
	timeline = "20261123T183152.123Z-1a2b3c4d"
	begin    = stream.Time(1_763_924_400_000)
)

// script is the commands of docs/format.md's last chapter, with other first lines.
func script(t *testing.T, timeline, out string) string {
	t.Helper()
	doc, err := os.ReadFile("../../docs/format.md")
	require.NoError(t, err)
	block := regexp.MustCompile("(?s)```sh\n(timeline=.*?)```").FindSubmatch(doc)
	require.NotNil(t, block)
	lines := strings.SplitN(string(block[1]), "\n", 4)
	return "timeline=" + timeline + "\nout=" + out + "\nkey=/no/such\n" + lines[3]
}

// A real engine loads what zstd -d makes of an archive, without this program: databases other
// than 0, binary values, transactions with annotations in them, newlines that no file may hold,
// segments that were joined and those that they were joined of.
func TestEnginesLoadSegments(t *testing.T) {
	enginetest.Each(t, func(t *testing.T, kind enginetest.Kind) {
		nasty := "a\r\n*3\r\n$3\r\nSET\x00#TS:17\r\n\xff#OFFLOADER:time 5\r\n"
		before := command("SET", "base", nasty) + command("SELECT", "3") + command("SET", "k", "0")
		parts := []string{
			command("SET", "k", nasty) + "\n\n" + command("INCR", "n") + command("MULTI") + command("INCR", "n") + command("SET", nasty, "x") + command("EXEC"),
			command("INCR", "n") + command("SELECT", "9") + command("SET", "k", strings.Repeat(nasty, 20_000)),
			command("MULTI") + command("SELECT", "0") + command("RPUSH", "l", "a", "b") + command("EXEC") + "\n" + command("RPUSH", "l", "c"),
		}
		dbs := []int{3, 3, 9}

		// What the master would hold.
		master := enginetest.Start(t, kind)
		feed(t, master, before)
		master.Do("SAVE")
		rdb, err := os.ReadFile(filepath.Join(master.Dir(), "dump.rdb"))
		require.NoError(t, err)
		feed(t, master, command("SELECT", "3")+strings.Join(parts, ""))

		root := t.TempDir()
		s, err := store.OpenURL(t.Context(), root, store.Options{Write: true, Now: time.Now()})
		require.NoError(t, err)
		at := stream.Offset(len(before))
		require.NoError(t, archive.WriteTimeline(t.Context(), s, archive.TimelineInfo{Source: "cache", Timeline: timeline, ReplID: id, Offset: at, Began: begin}))
		enc, err := archive.NewEncoder()
		require.NoError(t, err)
		_, err = archive.WriteSnapshot(t.Context(), s, enc, "cache", timeline, archive.SnapshotInfo{Offset: at, Time: begin, DB: 3}, bytes.NewReader(rdb))
		require.NoError(t, err)
		off := at
		for i, p := range parts {
			put(t, s, stream.Cursor{Offset: off, DB: dbs[i]}, p, 11, begin+stream.Time(i*100_000), 7)
			off += stream.Offset(len(p))
		}
		put(t, s, stream.Cursor{Offset: at, DB: 3}, parts[0]+parts[1], 11, begin, 7)            // joined
		put(t, s, stream.Cursor{Offset: off + 1, DB: 0}, command("FLUSHALL"), 11, begin+1e6, 7) // behind a hole

		cat, err := archive.Load(t.Context(), s, "cache")
		require.NoError(t, err)
		require.Empty(t, cat.Problems)
		used, reached := archive.Cover(cat.Timelines[0].Segments, stream.Range{From: at, To: off})
		require.Len(t, used, 2)
		require.Equal(t, off, reached)
		require.Equal(t, strings.Join(parts, ""), read(t, used))

		out := filepath.Join(t.TempDir(), "restored")
		cmd := exec.CommandContext(t.Context(), "sh", "-c", script(t, filepath.Join(root, "cache", timeline), out))
		said, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", said)
		require.Empty(t, string(said))
		segments, err := os.ReadFile(filepath.Join(out, "segments"))
		require.NoError(t, err)
		require.Equal(t, used[0].Name[4:]+"\n"+used[1].Name[4:]+"\n", string(segments))

		restored := enginetest.StartIn(t, kind, out, "--appendonly", "yes")
		require.NotContains(t, restored.LogText(), "CRITICAL")
		require.Empty(t, enginetest.Diff(t, master, restored))
		require.Equal(t, master.Digest(), restored.Digest())
		restored.Stop()

		// Stopping earlier: the last segment's first second is beyond that.
		cut := exec.CommandContext(t.Context(), kind.Tool("check-aof"), "--truncate-to-timestamp",
			strconv.FormatInt(int64(begin/1000)+150, 10), filepath.Join(out, "appendonlydir", "log.aof"))
		said, err = cut.CombinedOutput()
		require.NoError(t, err, "%s", said)
		feed(t, master, command("DEL", "l"))
		earlier := enginetest.StartIn(t, kind, out, "--appendonly", "yes")
		require.Empty(t, enginetest.Diff(t, master, earlier))
	})
}

// feed sends the commands of a stream as a client would, which sends no bare newlines.
func feed(t *testing.T, s *enginetest.Server, all string) {
	t.Helper()
	var commands bytes.Buffer
	f := resp.NewFramer(stream.Cursor{})
	for rest := []byte(all); len(rest) > 0; {
		n, _, blank, err := f.Feed(rest)
		require.NoError(t, err)
		if !blank {
			commands.Write(rest[:n])
		}
		rest = rest[n:]
	}
	pipe := exec.CommandContext(t.Context(), s.Kind().Tool("cli"), "-p", strconv.Itoa(s.Port()), "--pipe")
	pipe.Stdin = &commands
	said, err := pipe.CombinedOutput()
	require.NoError(t, err, "%s", said)
	require.Contains(t, string(said), "errors: 0", "%s", said)
}

func read(t *testing.T, segments []archive.Segment) string {
	t.Helper()
	var b strings.Builder
	for _, s := range segments {
		r, err := s.Open(context.WithoutCancel(t.Context()))
		require.NoError(t, err)
		for {
			p, err := r.Next()
			if err == io.EOF {
				break
			}
			require.NoError(t, err)
			b.Write(p.Data)
		}
		require.NoError(t, r.Close())
	}
	return b.String()
}
