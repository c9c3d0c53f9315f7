package spool

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/durable/durabletest"
	"github.com/offloader/offloader/internal/stream"
)

// forgetful is a disk below dir that keeps, over a power cut, what was fsynced and no more than it
// must. It also fails on demand.
type forgetful struct {
	dir string

	mu     sync.Mutex
	synced map[uint64][]byte            // by inode: content at the last fsync
	held   map[uint64]*os.File          // open, so that no inode's number is used again
	names  map[string]map[string]uint64 // folder → name → inode, at the folder's last fsync
	fails  func(point, path string) error
	dead   bool
}

var errDisk = errors.New("input/output error")

func newForgetful(t testing.TB, dir string) *forgetful {
	d := &forgetful{dir: dir, synced: map[uint64][]byte{}, held: map[uint64]*os.File{}, names: map[string]map[string]uint64{}}
	_ = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error { // what is there, is durable
		if err != nil || e.IsDir() {
			return d.at(durabletest.SyncDir, path)
		}
		return d.at(durabletest.Sync, path)
	})
	durabletest.Fail(t, d.at)
	return d
}

// hold opens the file or folder at path and gives its inode, 0 where there is none.
func (d *forgetful) hold(path string) uint64 {
	f, err := os.Open(path)
	if err != nil {
		return 0
	}
	info, err := f.Stat()
	if err != nil {
		return 0
	}
	ino := info.Sys().(*syscall.Stat_t).Ino
	if d.held[ino] != nil {
		_ = f.Close()
	} else {
		d.held[ino] = f
	}
	return ino
}

func (d *forgetful) at(point, path string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !strings.HasPrefix(path, d.dir) {
		return nil
	}
	if d.dead {
		return errDisk
	}
	if d.fails != nil {
		if err := d.fails(point, path); err != nil {
			return err
		}
	}
	switch point {
	case durabletest.Sync:
		if b, err := os.ReadFile(path); err == nil {
			d.synced[d.hold(path)] = b
		}
	case durabletest.SyncDir:
		d.names[path] = d.list(path)
	}
	return nil
}

func (d *forgetful) list(dir string) map[string]uint64 {
	names := map[string]uint64{}
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		names[e.Name()] = d.hold(filepath.Join(dir, e.Name()))
	}
	return names
}

// cut ends the owner's life and gives what a new one finds, in a new folder. kept says how much,
// of n bytes that were never fsynced, are there all the same.
func (d *forgetful) cut(to string, kept func(n int) int) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.dead = true
	err := d.copy(d.dir, to, kept)
	for _, f := range d.held {
		_ = f.Close()
	}
	return err
}

func (d *forgetful) copy(from, to string, kept func(n int) int) error {
	if err := os.MkdirAll(to, 0o750); err != nil {
		return err
	}
	names := map[string]uint64{}
	maps.Copy(names, d.names[from])
	now := d.list(from)
	for _, name := range slices.Sorted(maps.Keys(now)) { // a name may last though nobody asked for it
		if names[name] != now[name] && kept(1) == 1 {
			names[name] = now[name]
		}
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		f := d.held[names[name]]
		if info, err := f.Stat(); err != nil {
			return err
		} else if info.IsDir() {
			if err := d.copy(filepath.Join(from, name), filepath.Join(to, name), kept); err != nil {
				return err
			}
			continue
		}
		all, err := io.ReadAll(io.NewSectionReader(f, 0, 1<<40))
		if err != nil {
			return err
		}
		content := d.synced[names[name]]
		if bytes.HasPrefix(all, content) {
			content = all[:len(content)+kept(len(all)-len(content))]
		}
		if err := os.WriteFile(filepath.Join(to, name), content, 0o640); err != nil {
			return err
		}
	}
	return nil
}

// A power cut at any instant, on a disk that fails once, now and then, or from some point on: what
// Durable had said is there afterwards, byte for byte, and nothing is there that was not sent.
func TestPowerCutOnAFailingDisk(t *testing.T) {
	outer := t
	rapid.Check(t, func(t *rapid.T) {
		root, err := os.MkdirTemp("", "spool")
		require.NoError(t, err)
		defer os.RemoveAll(root)
		dir := filepath.Join(root, "0")
		disk := newForgetful(outer, dir)
		s, src, _ := open(t, dir, Options{MaxSize: 1 << 20})
		tl := begin(t, src, "t1")
		var sent []byte
		var safe, trimmed stream.Offset = 100, 100
		now := epoch
		check := func() {
			d := tl.Durable().Offset
			require.GreaterOrEqual(t, d, safe, "Durable fell")
			require.LessOrEqual(t, d, tl.Boundary().Offset)
			require.GreaterOrEqual(t, s.Used(), int64(0))
			safe = d
		}
		recover := func() { // as the link does
			for try := 0; ; try++ {
				at, err := tl.Cut()
				if err == nil {
					require.GreaterOrEqual(t, at.Offset, safe)
					sent = sent[:at.Offset-100]
					return
				}
				require.Less(t, try, 3, "Cut goes on failing on a disk that works again: %v", err)
				disk.mu.Lock()
				disk.fails = nil
				disk.mu.Unlock()
			}
		}
		lives := rapid.IntRange(1, 3).Draw(t, "lives")
		for life := 1; life <= lives; life++ {
			for range rapid.IntRange(1, 12).Draw(t, "steps") {
				now = now.Add(time.Second)
				if rapid.IntRange(0, 3).Draw(t, "wound") == 0 {
					point := rapid.SampledFrom([]string{durabletest.Write, durabletest.Sync, durabletest.SyncDir, durabletest.Rename, durabletest.Remove}).Draw(t, "point")
					after := rapid.IntRange(0, 5).Draw(t, "after")
					times := rapid.SampledFrom([]int{1, 2, 1 << 30}).Draw(t, "times")
					disk.mu.Lock()
					disk.fails = func(p, _ string) error {
						if p != point {
							return nil
						}
						if after--; after >= 0 || times <= 0 {
							return nil
						}
						times--
						return errDisk
					}
					disk.mu.Unlock()
				}
				var err error
				switch rapid.SampledFrom([]string{"append", "append", "append", "await", "half", "id", "trim", "alive", "event"}).Draw(t, "step") {
				case "append":
					for range rapid.IntRange(1, 4).Draw(t, "commands") {
						p := []byte(cmd("SET", "k", strings.Repeat("v", rapid.IntRange(0, 40_000).Draw(t, "size"))))
						if err = tl.Append(p, now); err != nil {
							break
						}
						sent = append(sent, p...)
					}
				case "half":
					if err = tl.Append([]byte(cmd("SET", "lost", "half"))[:rapid.IntRange(1, 20).Draw(t, "half")], now); err == nil {
						recover()
					}
				case "id":
					err = tl.SetReplID(stream.ReplID(fmt.Sprintf("%040x", rapid.IntRange(1, 9).Draw(t, "id"))), "", now)
				case "trim":
					if cut, ok := tl.CutAfter(tl.Trimmed() + stream.Offset(rapid.IntRange(0, 100_000).Draw(t, "trim"))); ok {
						_ = tl.Trim(cut) // it comes again
						trimmed = max(trimmed, cut)
					}
				case "alive":
					err = tl.Alive(now)
				case "event":
					_ = tl.AddEvent(eventAt(tl.Boundary().Offset, now))
				case "await":
					for tl.Failed() == nil && tl.Durable().Offset != tl.Boundary().Offset {
						select {
						case <-src.Committed():
						case <-time.After(time.Second):
						}
					}
				}
				check()
				if err != nil || tl.Failed() != nil {
					recover()
				}
			}
			check()
			next := filepath.Join(root, fmt.Sprint(life))
			require.NoError(t, disk.cut(next, func(n int) int { return rapid.IntRange(0, n).Draw(t, "kept") }))
			_ = src.Close() // the process is gone; its goroutines are not
			require.NoError(t, s.Close())

			dir = next
			disk = newForgetful(outer, dir)
			s, src, _ = open(t, dir, Options{MaxSize: 1 << 20})
			require.Len(t, src.Timelines(), 1)
			tl = src.Timelines()[0]
			require.GreaterOrEqual(t, tl.Boundary().Offset, safe, "an acknowledged byte is lost")
			require.LessOrEqual(t, tl.Boundary().Offset, 100+stream.Offset(len(sent)))
			require.LessOrEqual(t, tl.Trimmed(), trimmed)
			sent = sent[:tl.Boundary().Offset-100]
			r, err := tl.Reader(stream.Range{From: tl.Trimmed(), To: tl.Boundary().Offset})
			require.NoError(t, err)
			require.True(t, bytes.Equal(sent[tl.Trimmed()-100:], readAll(t, r, tl.Trimmed())), "other bytes than were sent")
			// All that exists now counts as durable, so another power cut must not take it.
			require.Equal(t, tl.Boundary(), tl.Durable())
			safe = tl.Durable().Offset
		}
		require.NoError(t, src.Close())
		require.Zero(t, s.Used())
		require.NoError(t, s.Close())
	})
}

func eventAt(at stream.Offset, now time.Time) archive.Event {
	return archive.Event{Kind: archive.EventClock, Offset: at, Time: stream.TimeOf(now)}
}
