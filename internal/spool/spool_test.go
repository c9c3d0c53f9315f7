package spool

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/durable"
	"github.com/offloader/offloader/internal/stream"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testID = stream.ReplID("0123456789abcdef0123456789abcdef01234567")

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func cmd(args ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "*%d\r\n", len(args))
	for _, a := range args {
		fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(a), a)
	}
	return b.String()
}

// open opens the spool in dir and the source "cache" in it. close gives both up.
func open(t require.TestingT, dir string, o Options) (s *Spool, src *Source, closeAll func()) {
	if o.MaxSize == 0 {
		o.MaxSize = 1 << 30
	}
	s, err := Open(dir, o)
	require.NoError(t, err)
	src, err = s.Source("cache")
	require.NoError(t, err)
	return s, src, func() {
		require.NoError(t, src.Close())
		require.NoError(t, s.Close())
	}
}

// begin makes a timeline that begins at offset 100 with a small snapshot.
func begin(t require.TestingT, src *Source, name string) *Timeline {
	info := archive.TimelineInfo{Format: 1, Source: "cache", Timeline: name, ReplID: testID, Offset: 100, Reason: "test"}
	in, err := src.Receive(info, 3)
	require.NoError(t, err)
	_, err = in.Write([]byte("RDB"))
	require.NoError(t, err)
	at := stream.Cursor{Offset: 100, DB: 3, Time: stream.TimeOf(epoch)}
	tl, err := in.Whole(archive.SnapshotInfo{Offset: 100, Time: at.Time, Bytes: 3, DB: 3}, at, nil)
	require.NoError(t, err)
	return tl
}

// awaitDurable waits until the last boundary is durable.
func awaitDurable(t require.TestingT, src *Source, tl *Timeline) {
	late := time.After(10 * time.Second)
	for tl.Durable() != tl.Boundary() {
		select {
		case <-src.Committed():
		case <-late:
			require.FailNow(t, "not durable", "durable %+v, boundary %+v, failed %v", tl.Durable(), tl.Boundary(), tl.Failed())
		}
	}
}

// readAll gives all bytes of a range.
func readAll(t require.TestingT, r archive.PieceReader, from stream.Offset) []byte {
	var all []byte
	for {
		p, err := r.Next()
		if errors.Is(err, io.EOF) {
			require.NoError(t, r.Close())
			return all
		}
		require.NoError(t, err)
		require.Equal(t, from+stream.Offset(len(all)), p.At)
		all = append(all, p.Data...)
	}
}

func TestAppendedBytesBecomeDurableAndComeBack(t *testing.T) {
	dir := t.TempDir()
	_, src, closeAll := open(t, dir, Options{})
	tl := begin(t, src, "t1")
	want := cmd("SET", "a", "1") + cmd("SELECT", "7") + cmd("SET", "b", "2")
	require.NoError(t, tl.Append([]byte(want+cmd("SET", "half", "x")[:9]), epoch.Add(time.Second)))
	awaitDurable(t, src, tl)
	end := stream.Cursor{Offset: 100 + stream.Offset(len(want)), DB: 7, Time: stream.TimeOf(epoch.Add(time.Second))}
	require.Equal(t, end, tl.Durable())

	r, err := tl.Reader(stream.Range{From: 100, To: end.Offset})
	require.NoError(t, err)
	require.Equal(t, 3, r.DB())
	require.Equal(t, want, string(readAll(t, r, 100)))
	mid := 100 + stream.Offset(len(cmd("SET", "a", "1")+cmd("SELECT", "7")))
	r, err = tl.Reader(stream.Range{From: mid, To: end.Offset})
	require.NoError(t, err)
	require.Equal(t, 7, r.DB())
	require.Equal(t, cmd("SET", "b", "2"), string(readAll(t, r, mid)))
	closeAll()

	// The next owner resumes at the boundary; the half command is gone.
	_, src, closeAll = open(t, dir, Options{})
	defer closeAll()
	require.Len(t, src.Timelines(), 1)
	tl = src.Timelines()[0]
	require.Equal(t, end, tl.Boundary())
	require.Equal(t, end, tl.Durable())
	require.Equal(t, testID, tl.ReplID())
	more := cmd("SET", "c", "3")
	require.NoError(t, tl.Append([]byte(more), epoch.Add(2*time.Second)))
	views, err := View(dir, "cache")
	require.NoError(t, err)
	require.Len(t, views, 1)
	require.Equal(t, stream.Range{From: 100, To: end.Offset + stream.Offset(len(more))}, views[0].Segments[0].Range)
	reader, err := views[0].Segments[0].Open(context.Background())
	require.NoError(t, err)
	require.Equal(t, want+more, string(readAll(t, reader, 100)))
	require.Len(t, views[0].Snapshots, 1)
	rdb, err := views[0].Snapshots[0].Open(context.Background())
	require.NoError(t, err)
	b, err := io.ReadAll(rdb)
	require.NoError(t, errors.Join(err, rdb.Close()))
	require.Equal(t, "RDB", string(b))
}

// What a crash may leave of a spool, and the boundary that must survive it.
func TestWounds(t *testing.T) {
	one, two, three := cmd("SET", "a", "1"), cmd("SET", "b", strings.Repeat("x", 100)), cmd("SET", "c", "3")
	ends := []stream.Offset{100, 127, 127 + stream.Offset(len(two)), 127 + stream.Offset(len(two)+len(three))}
	for _, c := range []struct {
		name  string
		wound func(b []byte) []byte
		want  stream.Offset
	}{
		{"none", func(b []byte) []byte { return b }, ends[3]},
		{"last record cut by a byte", func(b []byte) []byte { return b[:len(b)-1] }, ends[2]},
		{"last record cut in its header", func(b []byte) []byte { return b[:len(b)-len(three)-3] }, ends[2]},
		{"a flipped bit in the second record", func(b []byte) []byte {
			b[headerSize+recordSize+len(one)+recordSize+50] ^= 4
			return b
		}, ends[1]},
		{"a record's length torn to nonsense", func(b []byte) []byte {
			copy(b[headerSize+recordSize+len(one)+4:], "\xff\xff\xff\xff")
			return b
		}, ends[1]},
		{"zeros behind the last record", func(b []byte) []byte { return append(b, make([]byte, 4096)...) }, ends[3]},
		{"zeros in place of the last record", func(b []byte) []byte {
			clear(b[len(b)-recordSize-len(three):])
			return b
		}, ends[2]},
		{"an old record behind the last", func(b []byte) []byte {
			return append(b, b[headerSize:headerSize+recordSize+len(one)]...)
		}, ends[3]},
		{"only the header", func(b []byte) []byte { return b[:headerSize] }, ends[0]},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			_, src, closeAll := open(t, dir, Options{})
			tl := begin(t, src, "t1")
			for i, p := range []string{one, two, three} {
				require.NoError(t, tl.Append([]byte(p), epoch.Add(time.Duration(i)*time.Second)))
			}
			closeAll()
			path := chunkPath(filepath.Join(dir, "cache", "t1"), 100)
			b, err := os.ReadFile(path)
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(path, c.wound(b), 0o644))

			views, err := View(dir, "cache")
			require.NoError(t, err)
			if c.want > 100 {
				require.Equal(t, c.want, views[0].Segments[0].To)
			}
			_, src, closeAll = open(t, dir, Options{})
			defer closeAll()
			tl = src.Timelines()[0]
			require.Equal(t, c.want, tl.Boundary().Offset)
			require.NoError(t, tl.Append([]byte(cmd("SET", "new", "1")), epoch.Add(time.Minute)))
			r, err := tl.Reader(stream.Range{From: 100, To: tl.Boundary().Offset})
			require.NoError(t, err)
			require.Equal(t, (one + two + three)[:c.want-100]+cmd("SET", "new", "1"), string(readAll(t, r, 100)))
		})
	}
}

// A random life of a timeline: appends in any split, cuts, new ids, trims, crashes that lose any
// part of what was not fsynced. What was durable is never lost, and what is read back is what
// was sent.
func TestAnyLifeKeepsWhatWasDurable(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp("", "spool")
		require.NoError(t, err)
		defer os.RemoveAll(dir)
		now := epoch
		var sent []byte                                             // all whole bytes of the stream from offset 100 on
		_, src, closeAll := open(t, dir, Options{MaxSize: 1 << 20}) // chunks of 64 KiB
		tl := begin(t, src, "t1")
		trimmed := stream.Offset(100)
		for range rapid.IntRange(1, 25).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(-500, 2000).Draw(t, "ms")) * time.Millisecond)
			switch rapid.SampledFrom([]string{"append", "append", "append", "cut", "id", "trim", "crash", "reopen", "alive"}).Draw(t, "step") {
			case "append":
				p := []byte(cmd("SET", "k", strings.Repeat("v", rapid.IntRange(0, 90_000).Draw(t, "size"))))
				if rapid.Bool().Draw(t, "multi") {
					p = []byte(cmd("MULTI") + string(p) + cmd("EXEC"))
				}
				if len(sent)+len(p) > 600_000 {
					continue
				}
				sent = append(sent, p...)
				for len(p) > 0 {
					n := rapid.IntRange(1, len(p)).Draw(t, "split")
					require.NoError(t, tl.Append(p[:n], now))
					p = p[n:]
				}
			case "cut":
				require.NoError(t, tl.Append([]byte(cmd("SET", "lost", "half"))[:rapid.IntRange(1, 20).Draw(t, "half")], now))
				at, err := tl.Cut()
				require.NoError(t, err)
				require.Equal(t, 100+stream.Offset(len(sent)), at.Offset)
			case "id":
				id := stream.ReplID(fmt.Sprintf("%040x", rapid.IntRange(1, 9).Draw(t, "id")))
				require.NoError(t, tl.SetReplID(id, "", now))
				require.Equal(t, id, tl.ReplID())
			case "alive":
				require.NoError(t, tl.Alive(now))
			case "trim":
				awaitDurable(t, src, tl)
				if cut, ok := tl.CutAfter(trimmed + stream.Offset(rapid.IntRange(0, 100_000).Draw(t, "trim"))); ok {
					require.NoError(t, tl.Trim(cut))
					trimmed = cut
				}
			case "crash":
				safe := tl.Durable().Offset
				id := tl.ReplID()
				crash(t, dir, closeAll, safe)
				_, src, closeAll = open(t, dir, Options{MaxSize: 1 << 20})
				tl = src.Timelines()[0]
				require.GreaterOrEqual(t, tl.Boundary().Offset, safe)
				require.Equal(t, id, tl.ReplID())
				sent = sent[:tl.Boundary().Offset-100]
			case "reopen":
				closeAll()
				_, src, closeAll = open(t, dir, Options{MaxSize: 1 << 20})
				tl = src.Timelines()[0]
			}
			require.Equal(t, 100+stream.Offset(len(sent)), tl.Boundary().Offset)
			from := tl.Trimmed()
			require.LessOrEqual(t, from, max(trimmed, 100))
			r, err := tl.Reader(stream.Range{From: from, To: tl.Boundary().Offset})
			require.NoError(t, err)
			require.True(t, bytes.Equal(sent[from-100:], readAll(t, r, from)))
		}
		closeAll()
	})
}

// crash ends the owner and then tears what was not durable: each chunk's bytes behind the safe
// offset are cut at a random place.
func crash(t *rapid.T, dir string, closeAll func(), safe stream.Offset) {
	closeAll()
	tdir := filepath.Join(dir, "cache", "t1")
	chunks, err := listChunks(tdir)
	require.NoError(t, err)
	for i, c := range chunks {
		path := chunkPath(tdir, c.from)
		keep := int64(headerSize)
		r, err := openChunk(path, c.from)
		require.NoError(t, err)
		for at := c.from; ; {
			rec, err := r.next(at)
			if err != nil || rec.sealed || rec.At >= safe || i+1 < len(chunks) && rec.At >= chunks[i+1].from {
				break
			}
			at, keep = rec.End(), r.pos
		}
		require.NoError(t, r.close())
		if i+1 < len(chunks) && chunks[i+1].from <= safe {
			continue // durable wholly
		}
		if c.size > keep {
			cut := keep + int64(rapid.IntRange(0, int(c.size-keep)).Draw(t, "torn"))
			require.NoError(t, os.Truncate(path, cut))
		}
	}
}

func TestOneOwner(t *testing.T) {
	dir := t.TempDir()
	_, _, closeAll := open(t, dir, Options{})
	_, err := Open(dir, Options{MaxSize: 1})
	var held *durable.LockedError
	require.ErrorAs(t, err, &held)
	closeAll()
	_, _, closeAll = open(t, dir, Options{})
	closeAll()
}

func TestAnRDBThatDidNotArriveWholeLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	_, src, closeAll := open(t, dir, Options{})
	in, err := src.Receive(archive.TimelineInfo{Timeline: "t1", ReplID: testID}, -1)
	require.NoError(t, err)
	_, err = in.Write(make([]byte, 9<<20))
	require.NoError(t, err)
	views, err := View(dir, "cache")
	require.NoError(t, err)
	require.Empty(t, views)
	require.NoError(t, in.Discard())
	_, err = os.Stat(filepath.Join(dir, "cache", "t1"))
	require.ErrorIs(t, err, fs.ErrNotExist)

	in, err = src.Receive(archive.TimelineInfo{Timeline: "t2", ReplID: testID}, -1)
	require.NoError(t, err)
	require.NoError(t, in.file.end()) // the daemon dies here
	closeAll()
	_, src, closeAll = open(t, dir, Options{})
	defer closeAll()
	require.Empty(t, src.Timelines())
	_, err = os.Stat(filepath.Join(dir, "cache", "t2"))
	require.ErrorIs(t, err, fs.ErrNotExist)
}

func TestFullSpool(t *testing.T) {
	dir := t.TempDir()
	s, src, closeAll := open(t, dir, Options{MaxSize: 1 << 20})
	defer closeAll()
	tl := begin(t, src, "t1")
	p := []byte(cmd("SET", "k", strings.Repeat("v", 50_000)))
	var full *FullError
	for range 30 {
		if err := tl.Append(p, epoch); err != nil {
			require.ErrorAs(t, err, &full)
			break
		}
	}
	require.NotNil(t, full, "the spool took more than its bound")
	require.LessOrEqual(t, s.Used(), int64(1<<20))
	require.Error(t, s.Room())
	awaitDurable(t, src, tl)
	cut, ok := tl.CutAfter(tl.Boundary().Offset - 160_000)
	require.True(t, ok)
	require.NoError(t, tl.Trim(cut))
	require.NoError(t, s.Room())
	require.NoError(t, tl.Append(p, epoch))

	// A file system counts as full at MinFree.
	free := int64(0)
	s.opts.MinFree = func(int64) int64 { return free }
	require.NoError(t, s.Room())
	require.NoError(t, s.Fits(1<<10))
	require.ErrorAs(t, s.Fits(1<<60), &full)
	require.False(t, s.Tight(), "that was only a question")
	free = 1 << 60
	require.ErrorAs(t, s.Room(), &full)
	_, err := src.Receive(archive.TimelineInfo{Timeline: "t2", ReplID: testID}, 10)
	require.ErrorAs(t, err, &full)
}

func TestTimesNeverFall(t *testing.T) {
	_, src, closeAll := open(t, t.TempDir(), Options{})
	defer closeAll()
	tl := begin(t, src, "t1")
	for _, s := range []int{10, 5, 20, 1} {
		require.NoError(t, tl.Append([]byte(cmd("PING")), epoch.Add(time.Duration(s)*time.Second)))
	}
	r, err := tl.Reader(stream.Range{From: 100, To: tl.Boundary().Offset})
	require.NoError(t, err)
	var got []time.Duration
	for {
		p, err := r.Next()
		if err != nil {
			break
		}
		got = append(got, p.Time.Go().Sub(epoch)/time.Second)
	}
	require.NoError(t, r.Close())
	require.Equal(t, []time.Duration{10, 10, 20, 20}, got)
}

func TestRename(t *testing.T) {
	dir := t.TempDir()
	_, src, closeAll := open(t, dir, Options{})
	tl := begin(t, src, "t1")
	require.NoError(t, tl.Append([]byte(cmd("PING")), epoch))
	require.NoError(t, src.Rename(tl, "t2"))
	require.NoError(t, tl.Append([]byte(cmd("PING")), epoch))
	closeAll()
	_, src, closeAll = open(t, dir, Options{})
	defer closeAll()
	require.Equal(t, "t2", src.Timelines()[0].Info().Timeline)
	require.Equal(t, stream.Offset(128), src.Timelines()[0].Boundary().Offset)
}

// FuzzChunk opens chunks of any bytes: an error or a shorter stream, never a panic or more memory
// than a record.
func FuzzChunk(f *testing.F) {
	head := chunkHead{at: stream.Cursor{Offset: 5}, replID: testID}.encode()
	r := record{Piece: stream.Piece{At: 5, Data: []byte(cmd("PING"))}, boundary: 19}
	f.Add(append(append(head, r.appendHead(nil)...), r.Data...))
	f.Add(head)
	f.Fuzz(func(t *testing.T, b []byte) {
		dir := t.TempDir()
		require.NoError(t, os.WriteFile(chunkPath(dir, 5), b, 0o600))
		_, _ = walkChunks(dir)
	})
}

func BenchmarkAppend(b *testing.B) {
	dir := b.TempDir()
	_, src, closeAll := open(b, dir, Options{MaxSize: 1 << 40})
	defer closeAll()
	tl := begin(b, src, "t1")
	p := bytes.Repeat([]byte(cmd("SET", "key:000001", strings.Repeat("x", 100))), 2000)
	r := rand.New(rand.NewPCG(1, 2))
	b.SetBytes(int64(len(p)))
	for b.Loop() {
		n := r.IntN(len(p))
		if err := errors.Join(tl.Append(p[:n], epoch), tl.Append(p[n:], epoch)); err != nil {
			b.Fatal(err)
		}
		if cut, ok := tl.CutAfter(tl.Boundary().Offset - 128<<20); ok {
			if err := tl.Trim(cut); err != nil {
				b.Fatal(err)
			}
		}
	}
}

// A source can be closed and opened again beside others, and its bytes count once.
func TestUsedCountsOpenTimelinesOnce(t *testing.T) {
	s, src, _ := open(t, t.TempDir(), Options{})
	tl := begin(t, src, "t1")
	require.NoError(t, tl.Append([]byte(cmd("SET", "k", "v")), epoch))
	awaitDurable(t, src, tl)
	for range 3 {
		require.Positive(t, s.Used())
		require.NoError(t, src.Close())
		require.Zero(t, s.Used())
		var err error
		src, err = s.Source("cache")
		require.NoError(t, err)
	}
	require.NoError(t, src.Drop(src.Timelines()[0]))
	require.Zero(t, s.Used())
	require.NoError(t, s.Close())
}
