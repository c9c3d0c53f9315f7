package restore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/sync/errgroup"
	"pgregory.net/rapid"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/durable"
	"github.com/offloader/offloader/internal/durable/durabletest"
	"github.com/offloader/offloader/internal/plan"
	"github.com/offloader/offloader/internal/replay"
	"github.com/offloader/offloader/internal/replay/replaytest"
	"github.com/offloader/offloader/internal/resp"
	"github.com/offloader/offloader/internal/stream"
)

// emptyRDB is one without keys and without a checksum.
var emptyRDB = []byte("REDIS0011\xff\x00\x00\x00\x00\x00\x00\x00\x00")

// held makes a catalog of one timeline in which db is selected at the snapshot.
func held(l *replaytest.Log, db int, rdb []byte, ends ...stream.Offset) *archive.Catalog {
	t := &archive.Timeline{TimelineInfo: archive.TimelineInfo{Timeline: "a", ReplID: "aa", Offset: l.Start, Engine: "valkey"}}
	t.Snapshots = []archive.Snapshot{replaytest.Snapshot(archive.SnapshotInfo{Offset: l.Start, Time: 900, DB: db}, rdb)}
	from := l.Start
	for _, end := range append(ends, l.End()) {
		if end > from {
			t.Segments = append(t.Segments, l.Segment(stream.Range{From: from, To: end}, 1000))
			from = end
		}
	}
	return &archive.Catalog{Source: "cache", Timelines: []*archive.Timeline{t}}
}

func run(ctx context.Context, cat *archive.Catalog, req plan.Request, o Options) (report *Report, err error) {
	err = replay.Run(ctx, func(context.Context) (*archive.Catalog, error) { return cat, nil }, req, func(ctx context.Context, r *replay.Replay) error {
		report, err = To(ctx, r, o)
		return err
	})
	return report, err
}

// small is a log with two seconds in it, a transaction over their border, newlines and binary.
func small() *replaytest.Log {
	l := replaytest.NewLog(1000, 9)
	l.Add(1_700_000_000_100, "SET", "a", "\x00\r\n#TS:1\r\n*3\r\n")
	l.Add(1_700_000_000_200, "MULTI")
	l.Add(1_700_000_001_000, "SET", "b", "1")
	l.Blank(1_700_000_001_000, 2)
	l.Add(1_700_000_001_100, "EXEC")
	l.Add(1_700_000_001_200, "SELECT", "20")
	return l
}

const selected = "*2\r\n$6\r\nSELECT\r\n$1\r\n9\r\n"

func TestFolder(t *testing.T) {
	out := filepath.Join(t.TempDir(), "new", "folder")
	l := small()
	var done []int64
	report, err := run(t.Context(), held(l, 9, emptyRDB, l.Boundaries()[0].Offset), plan.Request{}, Options{Output: out, Progress: func(n, total int64) {
		require.EqualValues(t, len(emptyRDB)+len(l.Data), total)
		done = append(done, n)
	}})
	require.NoError(t, err)
	require.IsNonDecreasing(t, done)
	require.EqualValues(t, len(emptyRDB)+len(l.Data), done[len(done)-1])

	var names []string
	require.NoError(t, filepath.WalkDir(out, func(path string, d fs.DirEntry, err error) error {
		require.NoError(t, err)
		info, err := d.Info()
		require.NoError(t, err)
		rel, err := filepath.Rel(out, path)
		names = append(names, fmt.Sprintf("%s %o", rel, info.Mode().Perm()))
		return err
	}))
	require.Equal(t, []string{
		". 755", "appendonlydir 755", "appendonlydir/appendonly.aof.1.base.rdb 644",
		"appendonlydir/appendonly.aof.1.incr.aof 644", "appendonlydir/appendonly.aof.manifest 644",
	}, names)
	require.Equal(t, string(emptyRDB), content(t, out, "appendonlydir/appendonly.aof.1.base.rdb"))
	require.Equal(t, "file appendonly.aof.1.base.rdb seq 1 type b\nfile appendonly.aof.1.incr.aof seq 1 type i\n",
		content(t, out, "appendonlydir/appendonly.aof.manifest"))
	a, b := replaytest.Encode("SET", "a", "\x00\r\n#TS:1\r\n*3\r\n"), replaytest.Encode("SET", "b", "1")
	require.Equal(t, selected+"#TS:1700000000\r\n"+string(a)+"*1\r\n$5\r\nMULTI\r\n#TS:1700000001\r\n"+string(b)+
		"*1\r\n$4\r\nEXEC\r\n*2\r\n$6\r\nSELECT\r\n$2\r\n20\r\n", content(t, out, "appendonlydir/appendonly.aof.1.incr.aof"))

	keys, expired := int64(2), int64(0)
	start := report.Start
	report.Start = ""
	require.Equal(t, &Report{
		Source: "cache", Timeline: "a", Offset: l.End(), Time: 1_700_000_001_200, Snapshot: 1000, SnapshotTime: 900, Segments: 2,
		Bytes: report.Bytes, Keys: &keys, Expired: &expired, Output: out, Format: AOF,
	}, report)
	require.Regexp(t, `^valkey-server --dir \S+/new/folder --appendonly yes --save '' --bind 127\.0\.0\.1 --port \d+ --databases 21$`, start)
	size := 0
	for _, n := range []string{baseName, incrName, manifestName} {
		size += len(content(t, out, folderName+"/"+n))
	}
	require.EqualValues(t, size, report.Bytes)
}

// An older engine than wrote it ends at once, so it is said which one it takes.
func TestWhichEngine(t *testing.T) {
	for _, row := range []struct {
		engine, version string
		rdb             int
		want            string
	}{
		{"redis", "8.0.2", 12, "redis 8.0 or newer"},
		{"redis", "7.0.15", 10, "redis 7.0 or newer"},
		{"redis", "7.0.15", 12, "redis 7.4 or newer"}, // upgraded since the timeline began
		{"valkey", "8.1.3", 80, "valkey 9.0 or newer"},
		{"valkey", "", 11, "valkey 7.2 or newer"},
		{"redis", "6.2.14", 9, "redis 6.2 or newer"},
		{"redis", "", 99, ""},
	} {
		require.Equal(t, row.want, atLeast(row.engine, row.version, row.rdb))
	}
}

func TestSingle(t *testing.T) {
	out := t.TempDir()
	l := small()
	report, err := run(t.Context(), held(l, 9, emptyRDB), plan.Request{}, Options{Output: out, Format: AOFSingle})
	require.NoError(t, err)
	entries, err := os.ReadDir(out)
	require.NoError(t, err)
	require.Len(t, entries, 1)
	all := l.Bytes(stream.Range{From: 1000, To: l.End()})
	require.Equal(t, string(emptyRDB)+selected+string(all), content(t, out, "appendonly.aof"), "no line of it is an annotation")
	require.EqualValues(t, 2, *report.Keys)
	require.Contains(t, report.Start, "--appendfilename appendonly.aof")
}

func content(t *testing.T, dir, name string) string {
	b, err := os.ReadFile(filepath.Join(dir, name))
	require.NoError(t, err)
	return string(b)
}

// The report's JSON is a contract: names of fields, numbers, times with milliseconds in UTC.
func TestReportsJSON(t *testing.T) {
	l := small()
	report, err := run(t.Context(), held(l, 9, emptyRDB), plan.Request{Point: plan.Point{Kind: plan.Before, Command: []string{"set", "b"}}}, Options{Output: filepath.Join(t.TempDir(), "o")})
	require.NoError(t, err)
	b, err := json.Marshal(report)
	require.NoError(t, err)
	var m map[string]any
	require.NoError(t, json.Unmarshal(b, &m))
	for _, name := range []string{"source", "timeline", "offset", "time", "snapshot", "segments", "bytes", "keys", "expired", "output", "start"} {
		require.Contains(t, m, name)
	}
	require.Equal(t, "2023-11-14T22:13:20.100Z", m["time"])
	require.Equal(t, map[string]any{"time": "2023-11-14T22:13:21.000Z", "offset": float64(1056), "db": float64(9), "command": "SET b 1", "left_out": float64(0)}, m["before"])
}

// Whatever the commands, where the seconds change and how pieces and chunks are cut: without the
// annotations the log is the stream, annotations stand between commands only, and who counts sees
// the stream with its newlines.
func TestLogIsTheStream(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := replaytest.NewLog(0, 0)
		now := stream.Time(1_700_000_000_000)
		for range rapid.IntRange(1, 10).Draw(t, "commands") {
			now += stream.Time(rapid.SampledFrom([]int{0, 1, 400, 3000}).Draw(t, "later"))
			if rapid.IntRange(0, 5).Draw(t, "kind") == 0 {
				l.Blank(now, rapid.IntRange(1, 3).Draw(t, "newlines"))
				continue
			}
			size := rapid.IntRange(0, 60).Draw(t, "size")
			l.Add(now, "SET", "k", strings.Repeat("#TS:1\r\n", 1+size/7)[:size])
		}
		b, counted := through(t, l, rapid.IntRange(1, 100).Draw(t, "chunk"))
		require.Equal(t, string(l.Data), counted)
		// Read it as an engine does: a line of '#' where a command would begin, else a command.
		framer := resp.NewFramer(stream.Cursor{})
		var stripped []byte
		last := ""
		for len(b) > 0 {
			if b[0] == '#' {
				line, rest, ok := strings.Cut(string(b), "\n")
				require.True(t, ok)
				require.Regexp(t, `^#TS:17\d{8}\r$`, line)
				require.Less(t, last, line)
				last, b = line, []byte(rest)
				continue
			}
			n, whole, err := framer.Next(b)
			require.True(t, whole && err == nil, err)
			stripped, b = append(stripped, b[:n]...), b[n:]
		}
		require.Equal(t, string(l.Bytes(stream.Range{To: l.End()})), string(stripped))
	})
}

// through is what goes to a file, and to the counter, through chunks of that size.
func through(t *rapid.T, l *replaytest.Log, size int) (file []byte, counted string) {
	p := newPipe(3, size)
	p.counted = make(chan *chunk, 3)
	var g errgroup.Group
	g.Go(func() error {
		for c := range p.written {
			file = append(file, c.data...)
			p.release(c)
		}
		return nil
	})
	g.Go(func() error {
		for c := range p.counted {
			for _, piece := range c.pieces {
				counted += string(piece.Data)
			}
			p.release(c)
		}
		return nil
	})
	err := replay.Run(t.Context(), func(context.Context) (*archive.Catalog, error) { return held(l, 0, emptyRDB), nil }, plan.Request{},
		func(ctx context.Context, r *replay.Replay) error {
			w := &writer{r: r}
			return errors.Join(w.log(ctx, p, true), p.send(ctx))
		})
	require.NoError(t, err)
	p.close()
	require.NoError(t, g.Wait())
	return file, counted
}

// Nothing appears, and nothing stays behind, whatever goes wrong and when.
func TestWoundsLeaveNothing(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	bad := &archive.DamageError{Name: "x", What: "it is broken"}
	cancelled, cancel := context.WithCancel(t.Context())
	defer cancel()
	big := replaytest.NewLog(0, 0)
	for range 50 {
		big.Add(1_700_000_000_000, "SET", "k", strings.Repeat("v", 100_000))
	}
	rows := []struct {
		name  string
		wound func(*archive.Timeline, *Options)
		ctx   context.Context
		want  string
	}{
		{"segment damaged at its end", func(tl *archive.Timeline, _ *Options) {
			open := tl.Segments[0].Open
			tl.Segments[0].Open = func(ctx context.Context) (archive.PieceReader, error) {
				r, err := open(ctx)
				r.(*replaytest.Pieces).Err = bad
				return r, err
			}
		}, nil, "x is damaged: it is broken"},
		{"segment cannot be opened", func(tl *archive.Timeline, _ *Options) {
			tl.Segments[0].Open = func(context.Context) (archive.PieceReader, error) { return nil, bad }
		}, nil, "x is damaged"},
		{"snapshot damaged at its end", func(tl *archive.Timeline, _ *Options) {
			tl.Snapshots[0].Open = func(context.Context) (io.ReadCloser, error) {
				return io.NopCloser(io.MultiReader(strings.NewReader(string(emptyRDB)), failing{bad})), nil
			}
		}, nil, "x is damaged: it is broken"},
		{"snapshot of another checksum", func(tl *archive.Timeline, _ *Options) {
			tl.Snapshots[0] = replaytest.Snapshot(archive.SnapshotInfo{}, append(emptyRDB[:10:10], 1, 2, 3, 4, 5, 6, 7, 8))
		}, nil, "its RDB is not sound"},
		{"snapshot cut short", func(tl *archive.Timeline, _ *Options) {
			tl.Snapshots[0] = replaytest.Snapshot(archive.SnapshotInfo{}, emptyRDB[:12])
		}, nil, "its RDB is not sound"},
		{"cancelled", func(_ *archive.Timeline, o *Options) {
			o.Progress = func(done, _ int64) { cancel() }
		}, cancelled, "context canceled"},
	}
	for _, r := range rows {
		for _, format := range []Format{AOF, AOFSingle} {
			t.Run(r.name+" "+string(format), func(t *testing.T) {
				dir := t.TempDir()
				cat := held(big, 0, emptyRDB)
				o := Options{Output: filepath.Join(dir, "out"), Format: format}
				r.wound(cat.Timelines[0], &o)
				ctx := r.ctx
				if ctx == nil {
					ctx = t.Context()
				}
				_, err := run(ctx, cat, plan.Request{}, o)
				require.ErrorContains(t, err, r.want)
				require.Empty(t, entries(t, dir))
			})
		}
	}
	// The disk: writing, syncing, renaming.
	for _, point := range []string{"write", "sync", "syncdir", "rename"} {
		t.Run(point, func(t *testing.T) {
			dir := t.TempDir()
			durabletest.Fail(t, func(at, path string) error {
				if at == point && strings.Contains(path, dir+"/") {
					return syscall.ENOSPC
				}
				return nil
			})
			_, err := run(t.Context(), held(big, 0, emptyRDB), plan.Request{}, Options{Output: filepath.Join(dir, "out")})
			require.ErrorIs(t, err, syscall.ENOSPC)
			if point != "syncdir" { // by then it has its name
				require.Empty(t, entries(t, dir))
			}
		})
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func entries(t *testing.T, dir string) (names []string) {
	all, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, e := range all {
		names = append(names, e.Name())
	}
	return names
}

func TestWhereNothingIsWritten(t *testing.T) {
	dir := t.TempDir()
	arch := filepath.Join(dir, "archive")
	require.NoError(t, os.MkdirAll(filepath.Join(arch, "cache"), 0o755))
	require.NoError(t, os.Symlink(arch, filepath.Join(dir, "link")))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o600))
	full := filepath.Join(dir, "full")
	require.NoError(t, os.MkdirAll(filepath.Join(full, "x"), 0o755))
	rows := []struct{ out, want, hint string }{
		{full, "is not empty: it holds x", "new or empty"},
		{filepath.Join(dir, "file"), "exists and is no folder", "new or empty"},
		{arch, "which holds the archive", "another folder"},
		{filepath.Join(arch, "cache", "new", "one"), "which holds the archive", "another folder"},
		{filepath.Join(dir, "link", "new"), "which holds the archive", "another folder"},
		{"/proc/offloader", "", ""},
		{"/sys/kernel", "", ""},
	}
	for _, r := range rows {
		_, err := run(t.Context(), held(small(), 9, emptyRDB), plan.Request{}, Options{Output: r.out, Keep: []string{filepath.Join(dir, "spool"), arch}})
		require.Error(t, err, r.out)
		require.ErrorContains(t, err, r.want)
		var hinted interface{ Hint() string }
		if r.hint != "" {
			require.True(t, errors.As(err, &hinted))
			require.Contains(t, hinted.Hint(), r.hint)
		}
	}
	require.ElementsMatch(t, []string{"archive", "link", "file", "full"}, entries(t, dir))
	require.Equal(t, []string{"cache"}, entries(t, arch))
	require.Equal(t, []string{"x"}, entries(t, full))
}

func TestNoRoom(t *testing.T) {
	dir := t.TempDir()
	free, _, err := durable.Space(dir)
	require.NoError(t, err)
	cat := held(small(), 9, emptyRDB)
	info := archive.SnapshotInfo{Offset: 1000, Time: 900, Bytes: free + 1}
	cat.Timelines[0].Snapshots[0].Info = func(context.Context) (archive.SnapshotInfo, error) { return info, nil }
	_, err = run(t.Context(), cat, plan.Request{}, Options{Output: filepath.Join(dir, "out")})
	var space *SpaceError
	require.ErrorAs(t, err, &space)
	require.Greater(t, space.Need, free)
	require.Contains(t, space.Hint(), "another file system")
	require.Empty(t, entries(t, dir))
}

// A restore that is killed leaves nothing under the name it was given, and the next succeeds.
func TestKilledRestore(t *testing.T) {
	out := os.Getenv("RESTORE_TEST_OUT")
	l := replaytest.NewLog(0, 0)
	for range 50 {
		l.Add(1_700_000_000_000, "SET", "k", strings.Repeat("v", 100_000))
	}
	cat := held(l, 0, emptyRDB)
	if out != "" { // the child
		_, err := run(t.Context(), cat, plan.Request{}, Options{Output: out, Progress: func(done, total int64) {
			if done > total/2 {
				fmt.Println("half of it")
				select {}
			}
		}})
		require.NoError(t, err)
	}
	dir := t.TempDir()
	out = filepath.Join(dir, "out")
	child := exec.Command(os.Args[0], "-test.run=^TestKilledRestore$")
	child.Env = append(os.Environ(), "RESTORE_TEST_OUT="+out)
	said, err := child.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, child.Start())
	_, err = said.Read(make([]byte, 20))
	require.NoError(t, err)
	require.NoError(t, child.Process.Kill())
	require.Error(t, child.Wait())

	require.Len(t, entries(t, dir), 1, "what was being written")
	require.NoDirExists(t, out)
	_, err = run(t.Context(), cat, plan.Request{}, Options{Output: out})
	require.NoError(t, err)
	require.DirExists(t, filepath.Join(out, folderName))
}

func TestDescribeWritesNothing(t *testing.T) {
	dir := t.TempDir()
	l := small()
	err := replay.Run(t.Context(), func(context.Context) (*archive.Catalog, error) { return held(l, 9, emptyRDB), nil }, plan.Request{},
		func(_ context.Context, r *replay.Replay) error {
			report, err := Describe(r, Options{Output: filepath.Join(dir, "out")})
			require.NoError(t, err)
			require.Equal(t, l.End(), report.Offset)
			require.EqualValues(t, int64(len(emptyRDB)+len(l.Data)), report.Bytes)
			require.Nil(t, report.Keys)
			require.Equal(t, "not counted", report.KeysNote)
			return nil
		})
	require.NoError(t, err)
	require.Empty(t, entries(t, dir))
}

func TestFormats(t *testing.T) {
	for _, ok := range []string{"aof", "aof-single"} {
		f, err := ParseFormat(ok)
		require.NoError(t, err)
		require.Equal(t, ok, string(f))
	}
	_, err := ParseFormat("rdb")
	require.ErrorContains(t, err, "not in this version")
	_, err = ParseFormat("csv")
	require.ErrorContains(t, err, "aof-single")
}

func TestShellQuote(t *testing.T) {
	for _, w := range []string{"", "a b", "it's", "$HOME `x` \"y\" \\", "-x;rm", "ö\n", "/plain/path-1.2_3"} {
		out, err := exec.Command("sh", "-c", "printf %s "+ShellQuote(w)).Output()
		require.NoError(t, err)
		require.Equal(t, w, string(out))
	}
	require.Equal(t, "/plain/path-1.2_3", ShellQuote("/plain/path-1.2_3"))
}
