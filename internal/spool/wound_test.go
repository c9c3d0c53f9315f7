package spool

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/durable/durabletest"
	"github.com/offloader/offloader/internal/stream"
)

// failAt has the disk fail at one point, from its nth time on, so many times.
func failAt(t *testing.T, point string, nth, times int) {
	durabletest.Fail(t, func(p, _ string) error {
		if p != point {
			return nil
		}
		if nth--; nth > 0 || times <= 0 {
			return nil
		}
		times--
		return errDisk
	})
}

// The link calls Discard when Whole has failed: whatever the disk refused, nothing is left, and
// the next RDB is taken.
func TestAnRDBThatCouldNotBeMadeDurableLeavesNothing(t *testing.T) {
	for _, point := range []string{durabletest.Sync, durabletest.SyncDir, durabletest.Rename} {
		for nth := 1; nth <= 4; nth++ {
			dir := t.TempDir()
			_, src, closeAll := open(t, dir, Options{})
			in, err := src.Receive(archive.TimelineInfo{Format: 1, Timeline: "t1", ReplID: testID, Offset: 100}, 3)
			require.NoError(t, err)
			_, err = in.Write([]byte("RDB"))
			require.NoError(t, err)
			failAt(t, point, nth, 1)
			at := stream.Cursor{Offset: 100, Time: 1}
			if _, err = in.Whole(archive.SnapshotInfo{Offset: 100, Time: 1, Bytes: 3}, at, nil); err == nil {
				closeAll() // it needs no more of those
				continue
			}
			require.ErrorIs(t, err, errDisk)
			require.NoError(t, in.Discard())
			require.Empty(t, src.Timelines())
			_, err = os.Stat(filepath.Join(dir, "cache", "t1"))
			require.ErrorIs(t, err, fs.ErrNotExist)
			begin(t, src, "t2")
			closeAll()
		}
	}
}

// A master that says nonsense right behind a boundary is heard again after the next connection.
func TestNonsenseIsForgottenByCut(t *testing.T) {
	_, src, closeAll := open(t, t.TempDir(), Options{})
	defer closeAll()
	tl := begin(t, src, "t1")
	for _, nonsense := range []string{"X", "+CONTINUE\r\n", "*x\r\n", strings.Repeat("y", 100), cmd("PING") + "X"} {
		require.Error(t, tl.Append([]byte(nonsense), epoch))
		at, err := tl.Cut()
		require.NoError(t, err)
		require.NoError(t, tl.Append([]byte(cmd("PING")), epoch), nonsense)
		require.Equal(t, at.Offset+14, tl.Boundary().Offset)
	}
}

// A client may keep our own files in its database. What looks like a chunk's trailer is none, if
// the spool's next chunk doesn't begin there.
func TestAValueThatLooksLikeATrailer(t *testing.T) {
	dir := t.TempDir()
	_, src, closeAll := open(t, dir, Options{})
	tl := begin(t, src, "t1")
	require.NoError(t, tl.Append([]byte(cmd("SET", "a", "1")), epoch))
	trailer := record{Piece: stream.Piece{At: 100_000, Time: 1, First: -1}, boundary: 100_000, sealed: true}
	value := cmd("SET", "spool", string(trailer.appendHead(nil)))
	require.NoError(t, tl.Append([]byte(value[:len(value)-2]), epoch)) // as reads may split it
	closeAll()
	views, err := View(dir, "cache")
	require.NoError(t, err)
	require.Equal(t, stream.Offset(127), views[0].Segments[0].To)
	_, src, closeAll = open(t, dir, Options{})
	defer closeAll()
	require.Equal(t, stream.Offset(127), src.Timelines()[0].Boundary().Offset)
}

// several makes a spool of some chunks.
func several(t *testing.T, dir string) (end stream.Offset) {
	_, src, closeAll := open(t, dir, Options{MaxSize: 1 << 20})
	defer closeAll()
	tl := begin(t, src, "t1")
	for range 10 {
		require.NoError(t, tl.Append([]byte(cmd("SET", "k", strings.Repeat("v", 40_000))), epoch))
	}
	awaitDurable(t, src, tl)
	return tl.Boundary().Offset
}

// A chunk that ends too early may be the tear of a crash, behind which nothing was durable. If
// something was, it is not thrown away.
func TestDurableBytesBehindADamagedChunkAreKept(t *testing.T) {
	dir := t.TempDir()
	several(t, dir)
	tdir := filepath.Join(dir, "cache", "t1")
	chunks, err := listChunks(tdir)
	require.NoError(t, err)
	require.Greater(t, len(chunks), 3)
	require.NoError(t, os.Truncate(chunkPath(tdir, chunks[1].from), chunks[1].size-100))

	s, err := Open(dir, Options{MaxSize: 1 << 20})
	require.NoError(t, err)
	_, err = s.Source("cache")
	var damage *DamageError
	require.ErrorAs(t, err, &damage)
	require.NotEmpty(t, damage.Hint())
	require.NoError(t, s.Close())
	left, err := listChunks(tdir)
	require.NoError(t, err)
	require.Len(t, left, len(chunks))
}

// A file that could not be removed must not look like the edge of a tear later.
func TestATrimThatFailsLosesNothing(t *testing.T) {
	for _, point := range []string{durabletest.Remove, durabletest.SyncDir} {
		for nth := 1; nth <= 2; nth++ {
			dir := t.TempDir()
			end := several(t, dir)
			s, src, _ := open(t, dir, Options{MaxSize: 1 << 20})
			tl := src.Timelines()[0]
			failAt(t, point, nth, 1)
			require.ErrorIs(t, tl.Trim(end-100_000), errDisk)
			require.NoError(t, tl.Trim(end-50_000))
			require.NoError(t, src.Close())
			require.Zero(t, s.Used())
			require.NoError(t, s.Close())
			_, src, closeAll := open(t, dir, Options{MaxSize: 1 << 20})
			require.Equal(t, end, src.Timelines()[0].Boundary().Offset)
			closeAll()
		}
	}
}

// Each restart leaves the chunks of before marked whole: looking into the spool reads the last one
// only, however often its owner began anew.
func TestRestartsSealWhatTheyFind(t *testing.T) {
	dir := t.TempDir()
	for range 4 {
		_, src, closeAll := open(t, dir, Options{})
		if len(src.Timelines()) == 0 {
			begin(t, src, "t1")
		}
		require.NoError(t, src.Timelines()[0].Append([]byte(cmd("PING")+cmd("SET", "half", "x")[:9]), epoch))
		closeAll()
	}
	state, err := walkChunks(filepath.Join(dir, "cache", "t1"))
	require.NoError(t, err)
	require.Len(t, state.chunks, 4)
	require.Len(t, state.unsealed, 1)
	require.Equal(t, stream.Offset(100+4*14), state.end.Offset)
}

// A branch of a timeline that gets another name is a branch of the same timeline.
func TestRenameTakesBranchesAlong(t *testing.T) {
	dir := t.TempDir()
	_, src, closeAll := open(t, dir, Options{})
	tl := begin(t, src, "t1")
	_, err := src.Branch(archive.TimelineInfo{Timeline: "t3", ReplID: testID, Offset: 100, Parent: &archive.Parent{Timeline: "t1", Offset: 100}},
		stream.Cursor{Offset: 100, Time: 1}, nil)
	require.NoError(t, err)
	require.NoError(t, src.Rename(tl, "t2"))
	require.Equal(t, "t2", src.Timelines()[1].Info().Parent.Timeline)
	require.NoError(t, tl.AddEvent(eventAt(100, epoch)))
	closeAll()
	_, src, closeAll = open(t, dir, Options{})
	defer closeAll()
	require.Len(t, src.Timelines(), 2)
	require.Equal(t, "t2", src.Timelines()[1].Info().Parent.Timeline)
	events, err := src.Timelines()[0].Events()
	require.NoError(t, err)
	require.Len(t, events, 1)
}

// Whoever looks into a spool at work sees an unbroken stream of the right bytes, or learns that a
// file has gone meanwhile and looks once more.
func TestViewsOfASpoolAtWork(t *testing.T) {
	dir := t.TempDir()
	_, src, closeAll := open(t, dir, Options{MaxSize: 1 << 20})
	defer closeAll()
	tl := begin(t, src, "t1")
	const size = 1000
	one := func(i int64) string { return cmd("SET", "k", strings.Repeat(string(rune('a'+i%26)), size)) }
	n := stream.Offset(len(one(0)))

	var readers sync.WaitGroup
	stop := make(chan struct{})
	for range 2 {
		readers.Go(func() {
			again := 0
			for {
				select {
				case <-stop:
					return
				default:
				}
				err := look(t, dir, one, n)
				if again++; err == nil {
					again = 0
				}
				if again > 100 || err != nil && !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("look: %v", err)
					return
				}
			}
		})
	}
	for i := range int64(3000) {
		if i == 2000 { // it ends, and another goes on
			awaitDurable(t, src, tl)
			require.NoError(t, src.Drop(tl))
			tl = begin(t, src, "t2")
		}
		p := one(int64(tl.Boundary().Offset-100) / int64(n))
		at := int(i) % len(p)
		require.NoError(t, tl.Append([]byte(p[:at]), epoch))
		if i%50 == 7 {
			_, err := tl.Cut()
			require.NoError(t, err)
			at = 0
		}
		require.NoError(t, tl.Append([]byte(p[at:]), epoch))
		if cut, ok := tl.CutAfter(tl.Trimmed() + 150_000); ok {
			require.NoError(t, tl.Trim(cut))
		}
	}
	close(stop)
	readers.Wait()
}

// look reads all of what a view names.
func look(t *testing.T, dir string, one func(i int64) string, n stream.Offset) error {
	views, err := View(dir, "cache")
	if err != nil {
		return err
	}
	for _, v := range views {
		for _, seg := range v.Segments {
			r, err := seg.Open(context.Background())
			if err != nil {
				return err
			}
			at := seg.From
			for at < seg.To {
				p, err := r.Next()
				if err != nil {
					return errors.Join(err, r.Close())
				}
				for _, b := range p.Data {
					if i := at - 100; one(int64(i / n))[i%n] != b {
						t.Errorf("byte %d of %v is wrong", at, seg.Range)
						return r.Close()
					}
					at++
				}
			}
			if err := r.Close(); err != nil {
				return err
			}
		}
	}
	return nil
}

// After it was closed a timeline takes nothing more, and its folder doesn't come back.
func TestADroppedTimelineStaysGone(t *testing.T) {
	dir := t.TempDir()
	_, src, closeAll := open(t, dir, Options{})
	defer closeAll()
	tl := begin(t, src, "t1")
	require.NoError(t, src.Drop(tl))
	require.Error(t, tl.Append([]byte(cmd("PING")), epoch))
	require.Error(t, tl.Alive(epoch.Add(time.Hour)))
	require.Error(t, tl.AddEvent(eventAt(100, epoch)))
	require.Error(t, tl.SetReplID(testID[:39]+"f", "", epoch))
	_, err := os.Stat(filepath.Join(dir, "cache", "t1"))
	require.ErrorIs(t, err, fs.ErrNotExist)
}
