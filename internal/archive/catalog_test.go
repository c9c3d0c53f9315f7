package archive_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/store"
	"github.com/offloader/offloader/internal/stream"
)

func TestCatalog(t *testing.T) {
	s, root := disk(t)
	require.NoError(t, archive.WriteTimeline(t.Context(), s, info(0)))
	_, err := writeSnapshot(t, s, archive.SnapshotInfo{Offset: 0, Time: begin}, bytes.NewReader(rdb(100)))
	require.NoError(t, err)
	ping := command("PING") // 14 bytes
	put(t, s, stream.Cursor{Offset: 14}, ping, 100, begin, 1)
	put(t, s, stream.Cursor{}, ping, 100, begin, 1)
	put(t, s, stream.Cursor{}, ping+ping, 100, begin, 1)
	for _, e := range []archive.Event{
		{Kind: archive.EventReplID, Offset: 14, Time: begin + 5, ReplID: id},
		{Kind: archive.EventOutage, Offset: 14, Time: begin + 3, From: begin},
		{Kind: "later", Offset: 2, Time: begin + 9},
	} {
		require.NoError(t, archive.WriteEvent(t.Context(), s, "cache", timeline, e))
	}
	later := strings.Replace(timeline, "2026", "2027", 1)
	i := info(28)
	i.Timeline, i.Parent = later, &archive.Parent{Timeline: timeline, Offset: 28}
	require.NoError(t, archive.WriteTimeline(t.Context(), s, i))

	// What is not ours, or not whole, is passed over.
	for _, name := range []string{"README", "x/y/z", folder + "/log/.tmp-X", folder + "/log/readme", folder + "/notes", folder + "/events/x.json",
		folder + "/snapshots/00000000000000000014-1763924400000.rdb.zst", "lost+found/x"} {
		path := filepath.Join(root, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
		require.NoError(t, os.WriteFile(path, []byte("x"), 0o600))
	}
	require.NoError(t, os.Mkdir(filepath.Join(root, ".spool"), 0o700))
	sources, err := archive.Sources(t.Context(), s)
	require.NoError(t, err)
	require.Equal(t, []string{"cache", "x"}, sources)

	cat, err := archive.Load(t.Context(), s, "cache")
	require.NoError(t, err)
	require.Empty(t, cat.Problems)
	require.Len(t, cat.Timelines, 2)
	require.Equal(t, later, cat.Timelines[1].Timeline)
	tl := cat.Timeline(timeline)
	require.Equal(t, cat.Timelines[0], tl)
	require.Nil(t, cat.Timeline("nothing"))
	var ranges []stream.Range
	for _, seg := range tl.Segments {
		ranges = append(ranges, seg.Range)
	}
	require.Equal(t, []stream.Range{{From: 0, To: 28}, {From: 0, To: 14}, {From: 14, To: 28}}, ranges)
	var kinds []string
	for _, e := range tl.Events {
		kinds = append(kinds, e.Kind)
	}
	require.Equal(t, []string{"later", "outage", "replid"}, kinds)
	require.Len(t, tl.Snapshots, 1)
	require.Equal(t, ping+ping, read(t, tl.Segments[:1]))
	require.Equal(t, ping+ping, read(t, tl.Segments[1:]))
}

// What is wrong with one timeline is told, and leaves the others alone.
// crowded lists more than there is, and counts what is opened.
type crowded struct {
	store.Store
	more   []archive.Entry
	opened atomic.Int64
}

func (c *crowded) List(ctx context.Context, dir string) ([]archive.Entry, error) {
	entries, err := c.Store.List(ctx, dir)
	entries = append(entries, c.more...)
	slices.SortFunc(entries, func(a, b archive.Entry) int { return strings.Compare(a.Name, b.Name) })
	return entries, err
}

func (c *crowded) Open(ctx context.Context, name string) (io.ReadCloser, error) {
	c.opened.Add(1)
	return c.Store.Open(ctx, name)
}

// What a store has after a year in which it got a segment each second, a snapshot and a verification each day, and
// two events each month, is known after fewer than a hundred requests to S3, which lists a thousand names at once.
func TestAYearTakesFewRequests(t *testing.T) {
	s, _ := disk(t)
	require.NoError(t, archive.WriteTimeline(t.Context(), s, info(0)))
	year := &crowded{Store: s}
	add := func(name string) { year.more = append(year.more, archive.Entry{Name: folder + "/" + name, Size: 1}) }
	const hour = stream.Time(3_600_000)
	segment := func(n int, t0, t1 stream.Time) {
		add(archive.SegmentName{Range: stream.Range{From: stream.Offset(n), To: stream.Offset(n + 1)}, Time0: t0, Time1: t1}.String())
	}
	for n := range 365 * 24 { // joined by compaction
		at := begin + stream.Time(n)*hour
		segment(n, at, at+hour-1)
		if n%24 == 0 {
			snapshot := archive.SnapshotName{Offset: stream.Offset(n), Time: at}
			add(snapshot.RDB())
			add(snapshot.Sidecar())
			add(archive.EventName{Offset: stream.Offset(n), Time: at, Kind: archive.EventVerified}.String())
		}
		if n%(15*24) == 0 {
			require.NoError(t, archive.WriteEvent(t.Context(), s, "cache", timeline, archive.Event{Kind: archive.EventOutage, Offset: stream.Offset(n), Time: at, From: at - 1}))
		}
	}
	for n := range 3599 { // not joined yet
		at := begin + 365*24*hour + stream.Time(n)*1000
		segment(365*24+n, at, at+999)
	}
	cat, err := archive.Load(t.Context(), year, "cache")
	require.NoError(t, err)
	require.Empty(t, cat.Problems)
	require.Len(t, cat.Timelines[0].Segments, 365*24+3599)
	require.Len(t, cat.Timelines[0].Snapshots, 365)
	pages := len(year.more)/1000 + 1
	t.Logf("%d pages, %d files", pages, year.opened.Load())
	require.Less(t, pages+int(year.opened.Load()), 100)
}

func TestProblemsOfTimelines(t *testing.T) {
	good := strings.Replace(timeline, "2026", "2025", 1)
	for _, c := range []struct {
		name, says string
		wound      func(t *testing.T, dir string)
		stays      bool // the timeline can be used all the same
	}{
		{"timeline.json is missing", "timeline.json is damaged: it is missing", func(t *testing.T, dir string) {
			require.NoError(t, os.Remove(filepath.Join(dir, "timeline.json")))
		}, false},
		{"timeline.json is empty", "not the JSON", func(t *testing.T, dir string) {
			require.NoError(t, os.Truncate(filepath.Join(dir, "timeline.json"), 0))
		}, false},
		{"a later format", "newer version", func(t *testing.T, dir string) {
			change(t, filepath.Join(dir, "timeline.json"), func(b []byte) []byte {
				return bytes.Replace(b, []byte(`"format": 1`), []byte(`"format": 2`), 1)
			})
		}, false},
		{"no format", "it has format 0", func(t *testing.T, dir string) {
			change(t, filepath.Join(dir, "timeline.json"), func(b []byte) []byte { return []byte("{}") })
		}, false},
		{"another's timeline.json", "that of timeline", func(t *testing.T, dir string) {
			change(t, filepath.Join(dir, "timeline.json"), func(b []byte) []byte { return bytes.ReplaceAll(b, []byte("T183152"), []byte("T183153")) })
		}, false},
		{"a bad replid", "not a replication id", func(t *testing.T, dir string) {
			change(t, filepath.Join(dir, "timeline.json"), func(b []byte) []byte { return bytes.Replace(b, []byte(id), []byte("x"), 1) })
		}, false},
		{"a negative offset", "begins at offset -5", func(t *testing.T, dir string) {
			change(t, filepath.Join(dir, "timeline.json"), func(b []byte) []byte {
				return bytes.Replace(b, []byte(`"offset": 0`), []byte(`"offset": -5`), 1)
			})
		}, false},
		{"a damaged event", "what its name says", func(t *testing.T, dir string) {
			require.NoError(t, os.MkdirAll(filepath.Join(dir, "events"), 0o700))
			require.NoError(t, os.WriteFile(filepath.Join(dir, archive.EventName{Offset: 1, Time: begin, Kind: "ended"}.String()), []byte("{}"), 0o600))
		}, true},
		{"a snapshot that lost its RDB", ".rdb.zst is damaged: it is missing", func(t *testing.T, dir string) {
			require.NoError(t, os.MkdirAll(filepath.Join(dir, "snapshots"), 0o700))
			require.NoError(t, os.WriteFile(filepath.Join(dir, archive.SnapshotName{Offset: 3, Time: begin}.Sidecar()), []byte("{}"), 0o600))
		}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, root := disk(t)
			require.NoError(t, archive.WriteTimeline(t.Context(), s, info(0)))
			i := info(0)
			i.Timeline = good
			require.NoError(t, archive.WriteTimeline(t.Context(), s, i))
			put(t, s, stream.Cursor{}, command("PING"), 100, begin, 1)
			c.wound(t, filepath.Join(root, folder))
			cat, err := archive.Load(t.Context(), s, "cache")
			require.NoError(t, err)
			require.Len(t, cat.Problems, 1)
			require.ErrorContains(t, cat.Problems[0], folder)
			require.ErrorContains(t, cat.Problems[0], c.says)
			require.NotNil(t, cat.Timeline(good))
			require.Equal(t, c.stays, cat.Timeline(timeline) != nil)
		})
	}
}

// What an event's name says has happened, whatever became of the file.
func TestDamagedEvents(t *testing.T) {
	s, root := disk(t)
	require.NoError(t, archive.WriteTimeline(t.Context(), s, info(0)))
	require.NoError(t, os.MkdirAll(filepath.Join(root, folder, "events"), 0o700))
	write := func(e archive.Event, content string) *archive.Timeline {
		require.NoError(t, os.WriteFile(filepath.Join(root, folder, e.Name()), []byte(content), 0o600))
		cat, err := archive.Load(t.Context(), s, "cache")
		require.NoError(t, err)
		require.Empty(t, cat.Losses())
		events := cat.Timelines[0].Events
		require.Len(t, cat.Problems, len(events))
		last := events[len(events)-1]
		var damage *archive.DamageError
		require.ErrorAs(t, last.Damage, &damage)
		require.Equal(t, folder+"/"+e.Name(), damage.Name)
		require.Equal(t, e, archive.Event{Kind: last.Kind, Offset: last.Offset, Time: last.Time})
		return cat.Timelines[0]
	}
	require.True(t, write(archive.Event{Kind: archive.EventSuspect, Offset: 1, Time: begin}, "").Suspect())
	require.False(t, write(archive.Event{Kind: archive.EventRelease, Offset: 1, Time: begin + 1}, "{").Suspect())
	outage := write(archive.Event{Kind: archive.EventOutage, Offset: 2, Time: begin + 2}, `{"kind": "outage", "offset": 2, "time": "2025-11-23T19:00:00.002Z"}`)
	require.ErrorContains(t, outage.Events[2].Damage, "it doesn't say since when the link was down")
	gaps, err := (&archive.Catalog{Timelines: []*archive.Timeline{outage}}).Gaps(outage)
	require.NoError(t, err)
	require.Empty(t, gaps)
	replid := write(archive.Event{Kind: archive.EventReplID, Offset: 3, Time: begin + 3}, `{"kind": "replid", "offset": 3, "time": "2025-11-23T19:00:00.003Z"}`)
	require.ErrorContains(t, replid.Events[3].Damage, "is not a replication id")
	require.Equal(t, stream.ReplID(id), replid.ReplIDAt(4))
}

// A segment that was put into another timeline's folder is found out.
func TestSegmentsOfOtherTimelines(t *testing.T) {
	s, root := disk(t)
	put(t, s, stream.Cursor{}, command("PING"), 100, begin, 1)
	other := strings.Replace(timeline, "2026", "2027", 1)
	require.NoError(t, os.Rename(filepath.Join(root, folder), filepath.Join(root, "cache", other)))
	i := info(0)
	i.Timeline = other
	require.NoError(t, archive.WriteTimeline(t.Context(), s, i))
	cat, err := archive.Load(t.Context(), s, "cache")
	require.NoError(t, err)
	r, err := cat.Timelines[0].Segments[0].Open(t.Context())
	require.NoError(t, err)
	_, err = r.Next()
	require.ErrorContains(t, err, "it belongs to timeline")
	require.NoError(t, r.Close())
}

// A spool, or a second store, adds what the first doesn't have.
func TestCatalogsUnite(t *testing.T) {
	seg := func(from, to stream.Offset, name string) archive.Segment {
		return archive.Segment{Range: stream.Range{From: from, To: to}, Name: name}
	}
	snap := func(at stream.Offset, name string) archive.Snapshot {
		return archive.Snapshot{Offset: at, Time: begin, Name: name}
	}
	event := archive.Event{Kind: archive.EventEnded, Offset: 5, Time: begin, Cause: "x"}
	torn := archive.Event{Kind: archive.EventEnded, Offset: 5, Time: begin, Damage: io.EOF}
	stored := &archive.Timeline{TimelineInfo: info(0), Events: []archive.Event{torn}, Snapshots: []archive.Snapshot{snap(0, "s0")}, Segments: []archive.Segment{seg(0, 10, "a"), seg(10, 20, "b")}}
	spooled := &archive.Timeline{TimelineInfo: info(0), Events: []archive.Event{event, {Kind: archive.EventClock, Offset: 1}},
		Snapshots: []archive.Snapshot{snap(0, ""), snap(15, "")}, Segments: []archive.Segment{seg(5, 30, ""), seg(10, 20, "b")}}
	younger := &archive.Timeline{TimelineInfo: info(7)}
	younger.Timeline = strings.Replace(timeline, "2026", "2025", 1)

	c := &archive.Catalog{Source: "cache"}
	for _, t := range []*archive.Timeline{stored, spooled, younger} {
		c.Add(t)
	}
	require.Len(t, c.Timelines, 2)
	require.Equal(t, younger.TimelineInfo, c.Timelines[0].TimelineInfo)
	got := c.Timelines[1]
	held := func(t *archive.Timeline) (names []string) {
		for _, s := range t.Segments {
			names = append(names, fmt.Sprintf("%v%s %v", s.Range, s.Name, s.Elsewhere()))
		}
		for _, s := range t.Snapshots {
			names = append(names, fmt.Sprintf("%d%s %v", s.Offset, s.Name, s.Elsewhere()))
		}
		return names
	}
	require.Equal(t, []string{"[0,10)a false", "[5,30) false", "[10,20)b true", "0s0 true", "15 false"}, held(got))
	require.Equal(t, []archive.Event{{Kind: archive.EventClock, Offset: 1}, event}, got.Events)
	require.Len(t, spooled.Segments, 2, "what was added is left as it is")

	// What another has stands in for what is damaged, and for nothing else.
	c = c.WithoutSegment(timeline, seg(10, 20, "b")).WithoutSnapshot(timeline, snap(0, "s0"))
	require.Equal(t, []string{"[0,10)a false", "[5,30) false", "[10,20)b false", "0 false", "15 false"}, held(c.Timelines[1]))
	c = c.WithoutSegment(timeline, seg(10, 20, "b")).WithoutSegment(timeline, seg(25, 26, "")).WithoutSnapshot(timeline, snap(0, ""))
	require.Equal(t, []string{"[0,10)a false", "15 false"}, held(c.Timelines[1]))
	require.Len(t, got.Segments, 3, "and the catalog before is left as it is")
}

// It is one store's file that is set aside: where that store is left out the next time, the other's stays.
func TestWhatIsSetAsideIsOfOneStore(t *testing.T) {
	load := func() *archive.Catalog {
		s, _ := disk(t)
		require.NoError(t, archive.WriteTimeline(t.Context(), s, info(0)))
		_, err := writeSnapshot(t, s, archive.SnapshotInfo{Offset: 0, Time: begin}, bytes.NewReader(rdb(100)))
		require.NoError(t, err)
		put(t, s, stream.Cursor{}, command("PING"), 100, begin, 1)
		cat, err := archive.Load(t.Context(), s, "cache")
		require.NoError(t, err)
		return cat
	}
	first, second := load(), load()
	bad := first.Timelines[0]
	without := func(c *archive.Catalog) *archive.Timeline {
		return c.WithoutSegment(timeline, bad.Segments[0]).WithoutSnapshot(timeline, bad.Snapshots[0]).Timelines[0]
	}
	require.Empty(t, without(first).Segments)
	require.Empty(t, without(first).Snapshots)
	require.Len(t, without(second).Segments, 1)
	require.Len(t, without(second).Snapshots, 1)
	both := &archive.Catalog{Source: "cache"}
	both.Add(second.Timelines[0])
	both.Add(bad)
	require.True(t, both.Timelines[0].Segments[0].Elsewhere())
	require.False(t, without(both).Segments[0].Elsewhere())
	require.False(t, without(both).Snapshots[0].Elsewhere())
}

// unlisted is a store whose listing was made while some of its files came, or before they went.
type unlisted struct {
	archive.Files
	but func(archive.Entry) bool
	and []archive.Entry
}

func (u unlisted) List(ctx context.Context, dir string) ([]archive.Entry, error) {
	all, err := u.Files.List(ctx, dir)
	return append(slices.DeleteFunc(all, u.but), u.and...), err
}

// A listing isn't made in one instant, so what it lacks is looked for before it is called damage.
func TestSnapshotsThatComeAndGoWhileTheyAreListed(t *testing.T) {
	s, _ := disk(t)
	require.NoError(t, archive.WriteTimeline(t.Context(), s, info(0)))
	_, err := writeSnapshot(t, s, archive.SnapshotInfo{Offset: 0, Time: begin}, bytes.NewReader(rdb(100)))
	require.NoError(t, err)
	gone := archive.SnapshotName{Offset: 5, Time: begin}
	cat, err := archive.Load(t.Context(), unlisted{s, func(e archive.Entry) bool { return strings.HasSuffix(e.Name, ".rdb.zst") },
		[]archive.Entry{{Name: folder + "/" + gone.Sidecar()}}}, "cache")
	require.NoError(t, err)
	require.Empty(t, cat.Problems)
	require.Empty(t, cat.Timelines[0].Snapshots)
}
