package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/crypt"
	"github.com/offloader/offloader/internal/durable/durabletest"
	"github.com/offloader/offloader/internal/rdbwalk"
	"github.com/offloader/offloader/internal/spool"
	"github.com/offloader/offloader/internal/store"
	"github.com/offloader/offloader/internal/stream"
	"github.com/offloader/offloader/internal/syncer"
)

var errAway = errors.New("the store is away")

// mortal is a store that fails at its nth change, before or after it was made, once or for ever.
type mortal struct {
	*store.Disk
	left    int
	after   bool // the change was made, and nobody heard of it
	forever bool
}

func (m *mortal) change(do func() error) error {
	m.left--
	fails := m.left == 0 || m.left < 0 && m.forever
	if fails && (!m.after || m.left < 0) {
		return errAway
	}
	if err := do(); err != nil || !fails {
		return err
	}
	return errAway
}

func (m *mortal) Put(ctx context.Context, name string, r io.Reader) error {
	return m.change(func() error { return m.Disk.Put(ctx, name, r) })
}

func (m *mortal) Delete(ctx context.Context, name string) error {
	return m.change(func() error { return m.Disk.Delete(ctx, name) })
}

const shipID = stream.ReplID("0123456789abcdef0123456789abcdef01234567")

// bench is a spool, a store, and a shipper between them, with no master.
type bench struct {
	t     require.TestingT
	dir   string
	store Store
	spool *spool.Spool
	to    []crypt.Recipient // of what is stored from the next open on
	s     *Source
	sh    *shipper
}

func (b *bench) open() {
	var err error
	b.spool, err = spool.Open(filepath.Join(b.dir, "spool"), spool.Options{MaxSize: 1 << 20})
	require.NoError(b.t, err)
	encoders, err := NewEncoders(1, b.to...)
	require.NoError(b.t, err)
	b.s = New(Options{Name: "cache", Spool: b.spool, Stores: []StoreOptions{{Store: b.store, Encoders: encoders, Interval: time.Nanosecond}}, Target: 100_000})
	b.s.src, err = b.spool.Source("cache")
	require.NoError(b.t, err)
	b.s.endAgain(b.s.src.Timelines())
	b.sh = b.s.shippers[0]
}

func (b *bench) close() {
	require.NoError(b.t, b.s.src.Close())
	require.NoError(b.t, b.spool.Close())
}

// full begins a timeline as a full sync does.
func (b *bench) full(began time.Time, id stream.ReplID) *spool.Timeline {
	info := archive.TimelineInfo{Format: 1, Source: "cache", ReplID: id, Offset: 100, Began: stream.TimeOf(began), Spool: b.spool.ID(), Reason: "test"}
	info.Timeline = b.s.freeName(info.Began, info.ReplID)
	before := b.s.before()
	in, err := b.s.src.Receive(info, 3)
	require.NoError(b.t, err)
	_, err = in.Write([]byte("RDB"))
	require.NoError(b.t, err)
	t, err := in.Whole(archive.SnapshotInfo{Offset: 100, Time: info.Began, Bytes: 3, ReplID: id, Method: "full-sync"}, stream.Cursor{Offset: 100, Time: info.Began}, nil)
	require.NoError(b.t, err)
	if before != nil {
		b.s.end(before, causeOfEnd(info))
	}
	return t
}

// ship passes until the shipper has nothing more to do, or the store fails.
func (b *bench) ship(end bool) error {
	for {
		err := b.sh.pass(context.Background(), end)
		if err != nil {
			return err
		}
		busy := false
		for _, t := range b.s.src.Timelines() {
			p := b.sh.progress[t]
			busy = busy || p == nil || t.Durable() != t.Boundary() || p.stored.Offset != t.Boundary().Offset || len(p.gone) > 0
		}
		if !busy {
			return nil
		}
		time.Sleep(time.Millisecond)
	}
}

// Whatever the store refuses, and whenever the daemon dies in between: in the end the store has
// every byte, once, each timeline its snapshot and one word of its end, and no segment lies within
// another. At no time it has a count of the master's without the stream up to there.
func TestShippingThroughFailuresAndDeaths(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		dir := tempDir(t)
		disk, err := store.OpenDisk(context.Background(), filepath.Join(dir, "archive"), store.Options{Write: true})
		require.NoError(t, err)
		b := &bench{t: t, dir: dir, store: disk}
		key, identity := newKey(t)
		encrypt := rapid.SampledFrom([][]crypt.Recipient{nil, {key}}) // switched on or off at any restart
		b.to = encrypt.Draw(t, "encrypt")
		b.open()
		began := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
		now := began
		tl := b.full(now, shipID)
		name := tl.Info().Timeline
		sent, counted := map[string]*strings.Builder{name: {}}, map[string]bool{}
		counts := func() (held int) {
			cat, err := archive.Load(context.Background(), disk, "cache")
			require.NoError(t, err)
			for _, stored := range cat.Timelines {
				for _, e := range stored.Events {
					if e.Kind == archive.EventCounted {
						held++
						require.LessOrEqual(t, e.Offset, max(stored.End(), 100))
					}
				}
			}
			return held
		}
		write := func() {
			now = now.Add(time.Second)
			size := rapid.IntRange(1, 60_000).Draw(t, "size")
			p := fmt.Sprintf("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$%d\r\n%s\r\n", size, strings.Repeat("v", size))
			require.NoError(t, tl.Append([]byte(p), now))
			sent[name].WriteString(p)
		}
		for range rapid.IntRange(5, 30).Draw(t, "steps") {
			switch rapid.SampledFrom([]string{"write", "write", "write", "write", "count", "ship", "wound", "death", "full"}).Draw(t, "step") {
			case "write":
				if tl.Boundary().Offset-tl.Trimmed() < 500_000 {
					write()
				}
			case "count":
				e := archive.Event{Kind: archive.EventCounted, Offset: tl.Boundary().Offset, Time: stream.TimeOf(now), Counts: map[string]int64{"0": 1}}
				require.NoError(t, tl.AddEvent(e))
				counted[tl.Info().Timeline+e.Name()] = true
			case "ship":
				require.NoError(t, b.ship(false))
			case "wound":
				b.store = &mortal{Disk: disk, left: rapid.IntRange(1, 8).Draw(t, "left"), after: rapid.Bool().Draw(t, "after"), forever: rapid.Bool().Draw(t, "forever")}
				b.sh.store = b.store
				if err := b.ship(false); err != nil {
					require.ErrorIs(t, err, errAway)
				}
				b.store, b.sh.store = disk, disk
			case "death":
				b.sh.store = &mortal{Disk: disk, left: rapid.IntRange(1, 8).Draw(t, "left"), after: rapid.Bool().Draw(t, "after"), forever: true}
				_ = b.ship(rapid.Bool().Draw(t, "end"))
				b.close()
				b.to = encrypt.Draw(t, "encrypt")
				b.open()
				all := b.s.src.Timelines()
				tl = all[len(all)-1]
				require.Equal(t, name, tl.Info().Timeline)
			case "full":
				now = now.Add(time.Minute)
				tl = b.full(now, shipID)
				name = tl.Info().Timeline
				sent[name] = &strings.Builder{}
			}
			counts()
		}
		require.NoError(t, b.ship(true))
		require.NoError(t, b.ship(true))
		require.Len(t, b.s.src.Timelines(), 1, "ended timelines stay in the spool")
		require.Equal(t, len(counted), counts())
		b.close()

		cat, err := archive.Load(context.Background(), disk, "cache", identity)
		require.NoError(t, err)
		require.Empty(t, cat.Problems)
		require.Len(t, cat.Timelines, len(sent))
		for i, stored := range cat.Timelines {
			require.Len(t, stored.Snapshots, 1)
			requireRDB(t, stored.Snapshots[0])
			var ends int
			for _, e := range stored.Events {
				if e.Kind == archive.EventEnded {
					ends++
				}
			}
			require.Equal(t, i < len(cat.Timelines)-1, ends == 1, "%d ends", ends)
			for k, seg := range stored.Segments {
				for l, o := range stored.Segments {
					require.False(t, k != l && o.From <= seg.From && seg.To <= o.To, "%s lies within %s", seg.Name, o.Name)
				}
			}
			want := sent[stored.Timeline].String()
			r := stream.Range{From: 100, To: 100 + stream.Offset(len(want))}
			used, reached := archive.Cover(stored.Segments, r)
			require.Equal(t, r.To, reached, "a hole: %+v", stored.Segments)
			require.True(t, want == read(t, used, r), "other bytes")
		}
	})
}

// requireRDB wants the snapshot to be what full began with.
func requireRDB(t require.TestingT, s archive.Snapshot) {
	r, err := s.Open(context.Background())
	require.NoError(t, err)
	got, err := io.ReadAll(r)
	require.NoError(t, err)
	require.NoError(t, r.Close())
	require.Equal(t, "RDB", string(got))
}

func tempDir(t *rapid.T) string {
	dir, err := os.MkdirTemp("", "source")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	return dir
}

// read gives the bytes of r out of segments that cover it.
func read(t require.TestingT, used []archive.Segment, r stream.Range) string {
	var all strings.Builder
	at := r.From
	for _, seg := range used {
		p, err := seg.Open(context.Background())
		require.NoError(t, err)
		for {
			piece, err := p.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			require.NoError(t, err)
			if piece.End() > at {
				all.Write(piece.Data[max(0, int(at-piece.At)):])
				at = piece.End()
			}
		}
		require.NoError(t, p.Close())
	}
	return all.String()
}

// A timeline's name that another spool has taken is given up, a branch of it follows, and what
// this spool has claimed before is its own, also when a later version words it otherwise.
func TestNamesThatAnotherSpoolTook(t *testing.T) {
	dir := t.TempDir()
	disk, err := store.OpenDisk(t.Context(), filepath.Join(dir, "archive"), store.Options{Write: true})
	require.NoError(t, err)
	b := &bench{t: t, dir: dir, store: disk}
	b.open()
	tl := b.full(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), shipID)
	theirs := tl.Info()
	theirs.Spool = "another"
	require.NoError(t, archive.WriteTimeline(t.Context(), disk, theirs))
	branch := tl.Info()
	branch.Began++
	branch.Timeline = b.s.freeName(branch.Began, shipID)
	branch.Parent = &archive.Parent{Timeline: tl.Info().Timeline, Offset: 100}
	_, err = b.s.src.Branch(branch, stream.Cursor{Offset: 100, Time: branch.Began}, nil)
	require.NoError(t, err)
	require.NoError(t, b.ship(false))
	require.NotEqual(t, theirs.Timeline, tl.Info().Timeline)
	cat, err := archive.Load(t.Context(), disk, "cache")
	require.NoError(t, err)
	require.Len(t, cat.Timelines, 3)
	require.Equal(t, tl.Info().Timeline, cat.Timeline(branch.Timeline).Parent.Timeline)

	ours := branch
	ours.Parent = &archive.Parent{Timeline: tl.Info().Timeline, Offset: 100}
	ours.Reason = "in other words"
	require.NoError(t, b.sh.claim(t.Context(), tl, ours))
	b.close()
}

// keeping is a store that lets nobody delete.
type keeping struct{ *store.Disk }

func (keeping) Delete(context.Context, string) error {
	return fmt.Errorf("not by you: %w", archive.ErrKept)
}

// A store that keeps what compaction has replaced gets the rest all the same, and the spool lets
// go of it; that is said once, and a reader doesn't mind.
func TestShippingToAStoreThatKeeps(t *testing.T) {
	dir := t.TempDir()
	disk, err := store.OpenDisk(t.Context(), filepath.Join(dir, "archive"), store.Options{Write: true})
	require.NoError(t, err)
	b := &bench{t: t, dir: dir, store: keeping{disk}}
	b.open()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	tl := b.full(now, shipID)
	for range 40 {
		now = now.Add(time.Second)
		require.NoError(t, tl.Append(fmt.Appendf(nil, "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$%d\r\n%s\r\n", 20_000, strings.Repeat("v", 20_000)), now))
		require.NoError(t, b.ship(false))
	}
	end := tl.Boundary().Offset
	require.Greater(t, tl.Trimmed(), stream.Offset(100))
	b.close()
	b.open() // who comes back finds the same, and tries once more
	require.NoError(t, b.ship(true))
	b.close()
	cat, err := archive.Load(t.Context(), disk, "cache")
	require.NoError(t, err)
	require.Len(t, cat.Timelines, 1)
	covered := stream.Offset(100)
	for _, s := range cat.Timelines[0].Segments {
		require.LessOrEqual(t, s.From, covered, "no hole")
		covered = max(covered, s.To)
	}
	require.Equal(t, end, covered)
	require.Greater(t, len(cat.Timelines[0].Segments), 20, "the small ones are still there")
}

// What a disk refuses while a full sync is made durable costs that sync, and no more: the offset
// of before isn't acknowledged to the new history, and the timeline of before goes on.
func TestAnRDBThatTheDiskRefuses(t *testing.T) {
	dir := t.TempDir()
	disk, err := store.OpenDisk(t.Context(), filepath.Join(dir, "archive"), store.Options{Write: true})
	require.NoError(t, err)
	b := &bench{t: t, dir: dir, store: disk}
	b.open()
	defer b.close()
	b.s.cur = b.full(time.Now(), shipID)
	in, err := b.s.FullSync(syncer.Master{}, shipID, 5000, 3)
	require.NoError(t, err)
	_, err = in.Write([]byte("RDB"))
	require.NoError(t, err)
	durabletest.Fail(t, func(point, path string) error {
		if point == durabletest.Sync && strings.Contains(path, "incoming") {
			return errAway
		}
		return nil
	})
	require.ErrorIs(t, in.Whole(rdbwalk.Summary{}), errAway)
	in.Discard(errAway)
	require.Zero(t, b.s.Durable(), "it is still the same connection")
	b.s.Down(errAway)
	require.Equal(t, stream.Offset(100), b.s.Durable())
}

// A daemon that dies between the beginning of a timeline and the notes of what it ends has them in
// the archive all the same, each once, however often it starts: of a branch, and of a full sync that took its place.
func TestEndsAreNotedAfterACrash(t *testing.T) {
	const ping, set = "*1\r\n$4\r\nPING\r\n", "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\n"
	next := stream.ReplID(strings.Repeat("f", 40))
	for name, begin := range map[string]func(*Source) error{
		"a branch": func(s *Source) error { return s.Continued(syncer.Master{}, syncer.Resume{Offset: 114}, next) },
		"a full sync": func(s *Source) error {
			in, err := s.FullSync(syncer.Master{}, next, 5000, 3)
			if err == nil {
				_, err = in.Write([]byte("RDB"))
			}
			if err == nil {
				err = in.Whole(rdbwalk.Summary{})
			}
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			disk, err := store.OpenDisk(t.Context(), filepath.Join(dir, "archive"), store.Options{Write: true})
			require.NoError(t, err)
			b := &bench{t: t, dir: dir, store: disk}
			b.open()
			began := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
			tl := b.full(began, shipID)
			require.NoError(t, tl.Append([]byte(ping+set+set), began.Add(time.Second)))
			b.s.cur = tl
			b.s.askBranch(branchPoint{resumePoint{tl.Info().Timeline, shipID, stream.Cursor{Offset: 114, Time: 7}}, "a failover", stream.Range{From: 114, To: 168}})
			dies := true
			durabletest.Fail(t, func(_, path string) error {
				if dies && strings.Contains(path, filepath.Join(tl.Info().Timeline, "events")) {
					return errAway
				}
				return nil
			})
			require.NoError(t, begin(b.s))
			dies = false
			for range 3 {
				b.close()
				b.open()
			}
			b.sh.store = &mortal{Disk: disk, left: 4, after: true, forever: true}
			require.Error(t, b.ship(true))
			b.close()
			b.open()
			require.NoError(t, b.ship(true))
			b.close()
			cat, err := archive.Load(t.Context(), disk, "cache")
			require.NoError(t, err)
			require.Len(t, cat.Timelines, 2)
			events := cat.Timelines[0].Events
			require.Len(t, events, 2)
			require.Equal(t, archive.Event{Kind: archive.EventLost, Offset: 114, To: 168, From: 7, Time: events[0].Time, Commands: 2, Cause: "a failover"}, events[0])
			require.Equal(t, archive.EventEnded, events[1].Kind)
			require.Equal(t, stream.Offset(168), events[1].Offset)
		})
	}
}
