package verify

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"filippo.io/age"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/crypt"
	"github.com/offloader/offloader/internal/plan"
	"github.com/offloader/offloader/internal/replay/replaytest"
	"github.com/offloader/offloader/internal/stream"
)

// made is an archive: one timeline that begins at 1000 with a snapshot of three keys, and five
// segments, of ten commands each, with a second snapshot behind the third.
type made struct {
	*maker
	timeline string
	ends     []stream.Offset // ends[0] is the begin
	segments []string
}

func makeArchive(t require.TestingT, to ...crypt.Recipient) made {
	m := made{maker: newMaker(t, 1000, 0, to...)}
	m.ends = []stream.Offset{1000}
	for i := range 50 {
		at := start + stream.Time(i*100)
		if i%10 == 0 {
			m.log.Add(at, "SELECT", fmt.Sprint(i/10%3))
		}
		m.log.Add(at, "SET", fmt.Sprintf("key:%d", i), "value")
		if i%10 == 9 {
			m.ends = append(m.ends, m.log.End())
		}
	}
	m.timeline = m.maker.timeline(archive.TimelineInfo{Offset: 1000})
	m.maker.snapshot(m.timeline, stream.Cursor{Offset: 1000, Time: start}, 3)
	for i, to := range m.ends[1:] {
		m.segments = append(m.segments, m.segment(m.timeline, stream.Range{From: m.ends[i], To: to}))
	}
	at := m.log.At(start + 2950)
	require.Equal(t, m.ends[3], at.Offset)
	m.maker.snapshot(m.timeline, at, 3)
	return m
}

// found are the findings in a store.
func found(t require.TestingT, files archive.Files) *Result {
	r, err := Run(context.Background(), Options{Files: files})
	var f *FoundError
	if len(r.Findings) == 0 {
		require.NoError(t, err)
	} else {
		require.ErrorAs(t, err, &f)
		require.Equal(t, r.Findings, f.Findings)
		require.NotEmpty(t, f.Hint())
	}
	return r
}

func TestNothingIsFound(t *testing.T) {
	m := makeArchive(t)
	r := found(t, m.to)
	require.EqualValues(t, 1+4+5, r.Files)
	bytes := int64(0)
	for _, b := range m.to.files {
		bytes += int64(len(b))
	}
	require.Equal(t, bytes, r.Bytes)
	require.Equal(t, []Source{{Name: cache, Timelines: r.Sources[0].Timelines, Snapshots: Tally{4, r.Sources[0].Snapshots.Bytes}, Log: Tally{5, r.Sources[0].Log.Bytes}, Sound: true}}, r.Sources)
	require.Empty(t, r.Notes)
}

// Wounds, each with the file that is named, what is said of it, and the offsets of the moments that
// are lost.
func TestWounds(t *testing.T) {
	whole := makeArchive(t)
	e := whole.ends
	json := func(m made) string { return m.to.one(t, "timeline.json") }
	side := func(m made, at stream.Offset) string {
		return m.to.one(t, "snapshots/", fmt.Sprintf("%020d", at), ".json")
	}
	rdb := func(m made, at stream.Offset) string {
		return m.to.one(t, "snapshots/", fmt.Sprintf("%020d", at), ".zst")
	}
	flip := func(m made, name string) string {
		b := slices.Clone(m.to.files[name])
		b[len(b)/2] ^= 1
		m.to.files[name] = b
		return name
	}
	type lost = [2]stream.Offset
	for _, row := range []struct {
		name string
		hurt func(m made) (file string)
		what string
		lost []lost
		cost string // where nothing is lost
	}{
		{"a bit in a segment", func(m made) string { return flip(m, m.segments[1]) }, "", []lost{{e[1], e[3]}}, ""},
		{"a bit in the last segment", func(m made) string { return flip(m, m.segments[4]) }, "", []lost{{e[4], e[5]}}, ""},
		{"a segment is cut", func(m made) string {
			n := m.segments[0]
			m.to.files[n] = m.to.files[n][:len(m.to.files[n])/2]
			return n
		}, "", []lost{{e[0], e[3]}}, ""},
		{"a segment is empty", func(m made) string { m.to.files[m.segments[0]] = nil; return m.segments[0] }, "it holds nothing of the stream", []lost{{e[0], e[3]}}, ""},
		{"a byte too much", func(m made) string {
			m.to.files[m.segments[0]] = append(slices.Clone(m.to.files[m.segments[0]]), 0)
			return m.segments[0]
		}, "", []lost{{e[0], e[3]}}, ""},
		{"a segment of another timeline", func(m made) string {
			return m.replace(0, m.log, archive.SegmentHead{Source: cache, Timeline: archive.TimelineName(start+1, id), ReplID: id})
		}, "it belongs to timeline", []lost{{e[0], e[3]}}, ""},
		{"a segment of another source", func(m made) string {
			return m.replace(0, m.log, archive.SegmentHead{Source: "sessions", Timeline: m.timeline, ReplID: id})
		}, `its head says that it is of source "sessions"`, []lost{{e[0], e[3]}}, ""},
		{"a segment of another history", func(m made) string {
			return m.replace(0, m.log, archive.SegmentHead{Source: cache, Timeline: m.timeline, ReplID: other})
		}, "its head has the replication id " + string(other), []lost{{e[0], e[3]}}, ""},
		{"a segment under another one's name", func(m made) string {
			m.to.files[m.segments[1]] = m.to.files[m.segments[2]]
			return m.segments[1]
		}, "time 1795000002000 is not between", []lost{{e[1], e[3]}}, ""},
		{"a segment's name in part", func(m made) string {
			bad := strings.Replace(m.segments[4], "-", "_", 4)
			m.to.files[bad] = m.to.files[m.segments[4]]
			delete(m.to.files, m.segments[4])
			return bad
		}, "its name is none of the archive's: ", nil, "what was in it is missing"},
		{"a segment is missing", func(m made) string { delete(m.to.files, m.segments[1]); return cache + "/" + m.timeline + "/log" },
			fmt.Sprintf("offsets %d to %d are missing, and no event says why", e[1], e[2]), []lost{{e[1], e[3]}}, ""},
		{"a bit in a snapshot", func(m made) string { return flip(m, rdb(m, 1000)) }, "", []lost{{e[0], e[3]}}, ""},
		{"a bit in a snapshot that isn't the only way", func(m made) string { return flip(m, rdb(m, e[3])) }, "", nil, "nothing: every moment can be restored without it"},
		{"a snapshot's RDB is missing", func(m made) string { n := rdb(m, 1000); delete(m.to.files, n); return n }, "it is missing", []lost{{e[0], e[3]}}, ""},
		{"the first snapshot's sidecar is missing", func(m made) string { delete(m.to.files, side(m, 1000)); return rdb(m, 1000) }, "its sidecar is missing", []lost{{e[0], e[3]}}, ""},
		{"a sidecar is garbled", func(m made) string { n := side(m, 1000); m.to.files[n] = []byte("{"); return n }, "it is not the JSON that belongs there", []lost{{e[0], e[3]}}, ""},
		{"a sidecar of another offset", func(m made) string { m.to.files[side(m, 1000)] = m.to.files[side(m, e[3])]; return side(m, 1000) }, "it doesn't say what its name says", []lost{{e[0], e[3]}}, ""},
		{"a sidecar counts wrong", func(m made) string { m.to.edit(t, side(m, 1000), `"2": 3`, `"2": 4`); return rdb(m, 1000) }, "its sidecar says that database 2 has 4 keys, there are 3", []lost{{e[0], e[3]}}, ""},
		{"a sidecar counts what isn't there", func(m made) string { m.to.edit(t, side(m, 1000), `"2": 3`, `"2": 3, "7": 1`); return rdb(m, 1000) }, "its sidecar says that database 7 has 1 keys, there are none", []lost{{e[0], e[3]}}, ""},
		{"a sidecar of another version", func(m made) string {
			m.to.edit(t, side(m, 1000), `"rdb_version": 11`, `"rdb_version": 10`)
			return rdb(m, 1000)
		}, "its sidecar says RDB version 10, the file says 11", []lost{{e[0], e[3]}}, ""},
		{"a sidecar of another history", func(m made) string { m.to.edit(t, side(m, 1000), string(id), string(other)); return rdb(m, 1000) }, "its sidecar has the replication id ffff", []lost{{e[0], e[3]}}, ""},
		{"a sidecar selects another database", func(m made) string { m.to.edit(t, side(m, e[3]), `"db": 2`, `"db": 1`); return rdb(m, e[3]) }, "database 1 is selected at offset", nil, "nothing"},
		{"timeline.json is missing", func(m made) string { n := json(m); delete(m.to.files, n); return n }, "it is missing", nil, "nothing of this timeline can be restored"},
		{"timeline.json is garbled", func(m made) string { n := json(m); m.to.files[n] = []byte("["); return n }, "it is not the JSON that belongs there", nil, "nothing of this timeline can be restored"},
		{"a parent that is missing", func(m made) string {
			n := json(m)
			m.to.edit(t, n, `"spool"`, `"parent": {"timeline": "20200101T000000.000Z-1a2b3c4d", "offset": 1000}, "spool"`)
			return n
		}, "its parent 20200101T000000.000Z-1a2b3c4d is missing", nil, "nothing of this timeline can be restored"},
		{"an event is garbled", func(m made) string {
			m.event(m.timeline, archive.Event{Kind: archive.EventOutage, Offset: e[1], Time: start + 1000, From: start + 900})
			n := m.to.one(t, "outage")
			m.to.files[n] = nil
			return n
		}, "it is not the JSON that belongs there", nil, "what it said is not known"},
		{"a note of a verification is garbled", func(m made) string {
			m.event(m.timeline, archive.Event{Kind: archive.EventVerified, Offset: e[1], Time: start + 1000})
			n := m.to.one(t, "verified")
			m.to.files[n] = nil
			return n
		}, "it is not the JSON that belongs there", nil, "nothing"},
		{"segments that overlap and disagree", func(m made) string {
			l := replaytest.NewLog(m.ends[1], 0) // "VALUE" in place of the last "value"
			for i := range 10 {
				if i == 0 {
					l.Add(start+1000, "SELECT", "1")
				}
				value := "value"
				if i == 9 {
					value = "vAlue"
				}
				l.Add(start+stream.Time(1000+i*100), "SET", fmt.Sprintf("key:%d", 10+i), value)
			}
			require.Equal(t, m.ends[2], l.End())
			// Of two with one range the names decide which comes second.
			return max(m.segments[1], m.segmentOf(l, m.timeline, stream.Range{From: m.ends[1], To: m.ends[2]}, archive.SegmentHead{Source: cache, Timeline: m.timeline, ReplID: id}))
		}, fmt.Sprintf("hold different bytes at offset %d", e[2]-6), []lost{{e[1], e[3]}}, ""},
		{"a segment in the wrong database", func(m made) string {
			l := replaytest.NewLog(m.ends[1], 5)
			for i := range 10 {
				if i == 0 {
					l.Add(start+1000, "SELECT", "1")
				}
				l.Add(start+stream.Time(1000+i*100), "SET", fmt.Sprintf("key:%d", 10+i), "value")
			}
			return m.replace(1, l, archive.SegmentHead{Source: cache, Timeline: m.timeline, ReplID: id})
		}, fmt.Sprintf("database 5 is selected at offset %d by it, and 0 by", e[1]), []lost{{e[1], e[3]}}, ""},
		{"times that fall", func(m made) string {
			l := replaytest.NewLog(m.ends[1], 0)
			for i := range 10 {
				if i == 0 {
					l.Add(start+500, "SELECT", "1")
				}
				l.Add(start+500, "SET", fmt.Sprintf("key:%d", 10+i), "value")
			}
			return m.replace(1, l, archive.SegmentHead{Source: cache, Timeline: m.timeline, ReplID: id})
		}, "times must not fall", nil, "may end at another moment"},
	} {
		t.Run(row.name, func(t *testing.T) {
			m := whole
			hurt := *whole.maker
			hurt.to = whole.to.clone()
			m.maker, m.segments = &hurt, slices.Clone(whole.segments)
			file := row.hurt(m)
			r := found(t, m.to)
			i := slices.IndexFunc(r.Findings, func(f Finding) bool { return f.File == file && strings.Contains(f.What, row.what) })
			require.GreaterOrEqual(t, i, 0, "%s: %q isn't among %+v", file, row.what, r.Findings)
			f := r.Findings[i]
			var got []lost
			for _, l := range f.Lost {
				require.Equal(t, m.timeline, l.Timeline)
				got = append(got, lost{l.From.Offset, l.To.Offset})
			}
			require.Equal(t, row.lost, got, "%+v", f)
			if row.cost != "" {
				require.Contains(t, f.Cost, row.cost)
			} else {
				require.Contains(t, f.Cost, "can't be restored: ")
			}
			if row.name != "a segment's name in part" { // which is missing then, too
				require.Len(t, r.Findings, 1, "%+v", r.Findings)
			}
		})
	}
}

// replace puts another segment in the place of the i-th.
func (m made) replace(i int, l *replaytest.Log, head archive.SegmentHead) string {
	delete(m.to.files, m.segments[i])
	m.segments[i] = m.segmentOf(l, m.timeline, stream.Range{From: m.ends[i], To: m.ends[i+1]}, head)
	return m.segments[i]
}

// What an event explains is told, and is no finding.
func TestExplainedHole(t *testing.T) {
	m := makeArchive(t)
	delete(m.to.files, m.segments[1])
	m.event(m.timeline, archive.Event{Kind: archive.EventOutage, Offset: m.ends[3], To: m.ends[4], Time: start + 3500, From: start + 2000}) // of moments, not bytes
	m.event(m.timeline, archive.Event{Kind: archive.EventHole, Offset: m.ends[1], To: m.ends[2], Time: start + 9000, Cause: "the spool was lost"})
	r := found(t, m.to)
	require.Empty(t, r.Findings)
	require.Equal(t, []string{fmt.Sprintf("cache/%s/log: offsets %d to %d are missing: hole: the spool was lost", m.timeline, m.ends[1], m.ends[2])}, r.Notes)
}

// What is no damage, but worth a word: a folder that was moved, a log that isn't cut at a snapshot,
// strange files, a snapshot whose sidecar is still to come.
func TestNotes(t *testing.T) {
	m := makeArchive(t)
	crossing := m.segment(m.timeline, stream.Range{From: m.ends[2], To: m.ends[4]})
	m.to.files[cache+"/notes.txt"] = []byte("hello")
	later := strings.Replace(m.to.one(t, "snapshots/", "1000", ".zst"), "1000", "1042", 1)
	m.to.files[later] = rdbOf(0, 0)
	moved := newMemory()
	for name, b := range m.to.files {
		moved.files["old-"+name] = b
	}
	r := found(t, moved)
	require.Empty(t, r.Findings)
	require.ElementsMatch(t, []string{
		"old-cache/" + m.timeline + `/timeline.json: it was written for source "cache"`,
		fmt.Sprintf("old-%s goes on over offset %d, which has a snapshot: the log is to be cut there", crossing, m.ends[3]),
		"source old-cache: files that are not the archive's were passed over: 1",
		"old-" + later + " has no sidecar: it is being stored, or a crash has left it",
	}, r.Notes)
}

// The newest segments are gone: what was noted of an earlier verification tells.
func TestTail(t *testing.T) {
	m := makeArchive(t)
	_, err := Run(t.Context(), Options{Files: m.to, Note: m.to})
	require.NoError(t, err)
	delete(m.to.files, m.segments[4])
	r := found(t, m.to)
	require.Len(t, r.Findings, 1)
	require.Contains(t, r.Findings[0].What, fmt.Sprintf("it ends at offset %d, and at ", m.ends[4]))
	require.Equal(t, m.ends[5], r.Findings[0].Lost[0].To.Offset)
}

// A branch: what its parent loses, it loses too.
func TestBranch(t *testing.T) {
	m := makeArchive(t)
	child := m.maker.timeline(archive.TimelineInfo{Timeline: archive.TimelineName(start+9000, id), Offset: m.ends[4], Parent: &archive.Parent{Timeline: m.timeline, Offset: m.ends[4]}})
	m.segment(child, stream.Range{From: m.ends[4], To: m.ends[5]})
	require.Empty(t, found(t, m.to).Findings)
	b := slices.Clone(m.to.files[m.segments[3]])
	b[len(b)/2] ^= 1
	m.to.files[m.segments[3]] = b
	r := found(t, m.to)
	require.Len(t, r.Findings, 1)
	var got []string
	for _, l := range r.Findings[0].Lost {
		got = append(got, fmt.Sprintf("%s %d-%d", l.Timeline, l.From.Offset, l.To.Offset))
	}
	require.Equal(t, []string{fmt.Sprintf("%s %d-%d", m.timeline, m.ends[3], m.ends[5]), fmt.Sprintf("%s %d-%d", child, m.ends[3], m.ends[5])}, got)

	delete(m.to.files, m.segments[3]) // now it is the parent's hole, told once
	r = found(t, m.to)
	require.Len(t, r.Findings, 1)
	require.Equal(t, "cache/"+m.timeline+"/log", r.Findings[0].File)

	only, err := Run(t.Context(), Options{Files: m.to, Source: cache, Timeline: child})
	require.NoError(t, err)
	require.EqualValues(t, 2, only.Files)
	var unknown *plan.UnknownTimelineError
	_, err = Run(t.Context(), Options{Files: m.to, Source: cache, Timeline: "nope"})
	require.ErrorAs(t, err, &unknown)
}

// Any cuts, any overlaps: nothing is found. Any one byte changed in a file with a checksum, or a
// file gone: it is.
func TestAnyArchive(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newMaker(t, stream.Offset(rapid.Int64Range(0, 1<<40).Draw(t, "from")), 0)
		at := start
		for range rapid.IntRange(1, 60).Draw(t, "commands") {
			at += stream.Time(rapid.IntRange(0, 1500).Draw(t, "later"))
			switch rapid.IntRange(0, 9).Draw(t, "what") {
			case 0:
				m.log.Add(at, "SELECT", fmt.Sprint(rapid.IntRange(0, 15).Draw(t, "db")))
			case 1:
				m.log.Blank(at, rapid.IntRange(1, 3).Draw(t, "newlines"))
			case 2:
				m.log.Add(at, "MULTI")
				m.log.Add(at, "SET", "a", "b")
				m.log.Add(at, "EXEC")
			default:
				m.log.Add(at, "SET", "key", rapid.StringN(0, 40, 200).Draw(t, "value"))
			}
		}
		timeline := m.timeline(archive.TimelineInfo{Offset: m.log.Start})
		m.snapshot(timeline, stream.Cursor{Offset: m.log.Start, Time: start}, 1)
		ends := []stream.Offset{m.log.Start}
		for _, b := range m.log.Boundaries() {
			if b.Offset > ends[len(ends)-1] {
				ends = append(ends, b.Offset)
			}
		}
		cut := rapid.SampledFrom(ends)
		ranges := map[stream.Range]bool{}
		for from := m.log.Start; from < m.log.End(); { // without a hole
			to := max(cut.Draw(t, "to"), ends[slices.Index(ends, from)+1])
			ranges[stream.Range{From: from, To: to}] = true
			from = to
		}
		for range rapid.IntRange(0, 6).Draw(t, "overlaps") {
			if r := (stream.Range{From: cut.Draw(t, "from"), To: cut.Draw(t, "to")}); r.Len() > 0 {
				ranges[r] = true
			}
		}
		for r := range ranges {
			m.segment(timeline, r)
		}
		r := found(t, m.to)
		require.Empty(t, r.Findings)

		file := rapid.SampledFrom(m.to.names(".zst")).Draw(t, "file")
		b := slices.Clone(m.to.files[file])
		b[rapid.IntRange(0, len(b)-1).Draw(t, "byte")] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
		m.to.files[file] = b
		r = found(t, m.to)
		require.Len(t, r.Findings, 1)
		require.Equal(t, file, r.Findings[0].File)
	})
}

// A daemon joins segments while they are read: neither what vanished nor the hole that a listing
// in the middle seems to show is damage.
func TestArchiveThatLives(t *testing.T) {
	m := makeArchive(t)
	opened := 0
	m.to.open = func(name string) error {
		if !strings.Contains(name, "/log/") {
			return nil
		}
		if opened++; opened == 2 {
			joined := m.segment(m.timeline, stream.Range{From: m.ends[0], To: m.ends[3]})
			for _, n := range m.segments[:3] {
				delete(m.to.files, n)
			}
			require.Contains(t, m.to.files, joined)
		}
		return nil
	}
	r := found(t, m.to)
	require.Empty(t, r.Findings)
	require.EqualValues(t, 3, r.Sources[0].Log.Files)
}

// listed shows a store without some files, so many times.
type listed struct {
	*memory
	without string
	times   int
}

func (l *listed) List(ctx context.Context, dir string) ([]archive.Entry, error) {
	entries, err := l.memory.List(ctx, dir)
	if l.times--; l.times >= 0 {
		entries = slices.DeleteFunc(entries, func(e archive.Entry) bool { return e.Name == l.without })
	}
	return entries, err
}

func TestHoleOfOneListing(t *testing.T) {
	m := makeArchive(t)
	require.Empty(t, found(t, &listed{m.to, m.segments[1], 1}).Findings)
	require.Len(t, found(t, &listed{m.to, m.segments[1], 2}).Findings, 1)
}

// What can't be read is neither right nor damaged, and the rest is read all the same.
func TestUnread(t *testing.T) {
	m := makeArchive(t)
	broken := errors.New("input/output error")
	m.to.open = func(name string) error {
		if name == m.segments[1] {
			return broken
		}
		return nil
	}
	r, err := Run(t.Context(), Options{Files: m.to, Note: m.to})
	var unread *UnreadError
	require.ErrorAs(t, err, &unread)
	require.ErrorIs(t, err, broken)
	require.Empty(t, r.Findings)
	require.Equal(t, []string{"input/output error"}, r.Unread)
	require.EqualValues(t, 4, r.Sources[0].Log.Files)
	require.Empty(t, m.to.names("verified"), "it was not")

	b := slices.Clone(m.to.files[m.segments[3]])
	b[len(b)/2] ^= 1
	m.to.files[m.segments[3]] = b
	_, err = Run(t.Context(), Options{Files: m.to, Note: m.to})
	var f *FoundError
	require.ErrorAs(t, err, &f)
	require.ErrorAs(t, err, &unread)
	require.Empty(t, m.to.names("verified"))
}

// A store that goes away is an error before every single file has failed.
func TestStoreThatGoesAway(t *testing.T) {
	m := newMaker(t, 0, 0)
	timeline := m.timeline(archive.TimelineInfo{})
	m.snapshot(timeline, stream.Cursor{Time: start}, 1)
	for i := range 50 {
		from := m.log.End()
		m.log.Add(start+stream.Time(i), "SET", "a", "b")
		m.segment(timeline, stream.Range{From: from, To: m.log.End()})
	}
	opens := 0
	m.to.open = func(name string) error {
		if strings.Contains(name, "/log/") {
			if opens++; opens > 5 {
				return errors.New("connection refused")
			}
		}
		return nil
	}
	_, err := Run(t.Context(), Options{Files: m.to})
	require.EqualError(t, err, "10 files in a row could not be read, the last: connection refused")
	require.Equal(t, 15, opens)
	_, err = Run(t.Context(), Options{Files: newMemory()})
	var empty *EmptyError
	require.ErrorAs(t, err, &empty)
}

// After a success the event is there, and says until where; the next catalog knows it by its name.
func TestNote(t *testing.T) {
	m := makeArchive(t)
	c, err := archive.Load(t.Context(), m.to, cache)
	require.NoError(t, err)
	_, ok := c.Verified()
	require.False(t, ok)
	r, err := Run(t.Context(), Options{Files: m.to, Note: m.to})
	require.NoError(t, err)
	require.Contains(t, string(m.to.files[m.to.one(t, "verified")]), `"note": "10 files, `)
	c, err = archive.Load(t.Context(), m.to, cache)
	require.NoError(t, err)
	last, ok := c.Verified()
	require.True(t, ok)
	require.Equal(t, m.ends[5], last.Offset)
	require.GreaterOrEqual(t, last.Time, r.Began)
	require.Equal(t, archive.EventVerified, last.Kind)
	r, err = Run(t.Context(), Options{Files: m.to})
	require.NoError(t, err)
	require.EqualValues(t, 1, r.Sources[0].Events.Files)
}

func TestProgress(t *testing.T) {
	m := makeArchive(t)
	stored := int64(0)
	for _, name := range m.to.names(".zst") {
		stored += int64(len(m.to.files[name]))
	}
	var done, total int64
	_, err := Run(t.Context(), Options{Files: m.to, Progress: func(d, n int64) {
		require.GreaterOrEqual(t, d, done)
		done, total = d, n
	}})
	require.NoError(t, err)
	require.Equal(t, stored, done)
	require.Equal(t, stored, total)
}

func TestCancelled(t *testing.T) {
	m := makeArchive(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	enough := errors.New("enough")
	m.to.open = func(name string) error {
		if name == m.segments[2] {
			cancel(enough)
		}
		return nil
	}
	_, err := Run(ctx, Options{Files: m.to, Note: m.to})
	require.ErrorIs(t, err, enough)
	require.Empty(t, m.to.names("verified"))
}

// What is encrypted, and can't be opened, is held against the checksums of what is stored. With an
// identity all is checked as what is plain is.
func TestSealed(t *testing.T) {
	key, err := age.GenerateX25519Identity()
	require.NoError(t, err)
	to, err := crypt.ParseRecipient(key.Recipient().String())
	require.NoError(t, err)
	identity, err := crypt.ParseIdentity("key.txt", []byte(key.String()))
	require.NoError(t, err)
	m := makeArchive(t, to)
	snapshot := m.to.one(t, "snapshots/", "1000", ".zst.age")
	r, err := Run(t.Context(), Options{Files: m.to})
	require.NoError(t, err)
	require.Empty(t, r.Findings)
	require.EqualValues(t, 2+len(m.segments), r.Sources[0].Sealed.Files)
	for _, opens := range []bool{false, true} {
		o := Options{Files: m.to, Opens: opens, Load: func(ctx context.Context, files archive.Files, name string) (*archive.Catalog, error) {
			return archive.Load(ctx, files, name, identity)
		}}
		r, err := Run(t.Context(), o)
		require.NoError(t, err)
		require.Equal(t, opens, r.Sources[0].Sealed.Files == 0)
		for _, name := range []string{m.segments[1], snapshot} {
			require.True(t, strings.HasSuffix(name, ".age"))
			hurt := m.to.clone()
			b := slices.Clone(hurt.files[name])
			b[len(b)/2] ^= 1
			hurt.files[name], o.Files = b, hurt
			r, err = Run(t.Context(), o)
			require.Error(t, err)
			require.Len(t, r.Findings, 1)
			require.Equal(t, name, r.Findings[0].File)
		}
		gone := m.to.clone()
		delete(gone.files, snapshot)
		o.Files = gone
		r, err = Run(t.Context(), o)
		require.Error(t, err)
		require.Len(t, r.Findings, 1)
		require.Contains(t, r.Findings[0].What, "it is missing")
	}
	// A key of somebody else's opens nothing, and finds nothing.
	_, err = Run(t.Context(), Options{Files: m.to, Opens: true})
	var no *crypt.IdentityError
	require.ErrorAs(t, err, &no)
}

// A store that was emptied, and goes on with what came later, leads nowhere: the way out is a new snapshot.
func TestAStoreThatWasEmptied(t *testing.T) {
	m := newMaker(t, 1000, 0)
	for i := range 10 {
		m.log.Add(start+stream.Time(i), "SET", fmt.Sprint("key:", i), "value")
	}
	from := m.log.At(start + 5).Offset
	timeline := m.timeline(archive.TimelineInfo{Offset: 1000})
	m.event(timeline, archive.Event{Kind: archive.EventHole, Offset: 1000, To: from, Time: start, Cause: "the store was emptied"})
	m.segment(timeline, stream.Range{From: from, To: m.log.End()})
	_, err := Run(t.Context(), Options{Files: m.to})
	var found *FoundError
	require.ErrorAs(t, err, &found)
	require.Len(t, found.Findings, 1)
	require.Equal(t, "there is no snapshot from which its log could be replayed", found.Findings[0].What)
	require.Contains(t, found.Hint(), "`offloader snapshot` takes a new snapshot to start from")
}
