package archive

import (
	"errors"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/offloader/offloader/internal/stream"
)

func TestNames(t *testing.T) {
	at := stream.TimeOf(time.Date(2026, 11, 23, 18, 31, 52, 123e6, time.UTC))
	require.Equal(t, testTimeline, TimelineName(at, testID))
	began, short, err := ParseTimelineName(testTimeline)
	require.NoError(t, err)
	require.Equal(t, at, began)
	require.Equal(t, "1a2b3c4d", short)

	seg := SegmentName{stream.Range{From: 1, To: 1<<63 - 1}, at, at + 1, 0xe9c6d914c4b8d9ca, false}
	require.Equal(t, "log/00000000000000000001-09223372036854775807-1795458712123-1795458712124-e9c6d914c4b8d9ca.aof.zst", seg.String())
	seg.Encrypted = true
	require.Equal(t, "log/00000000000000000001-09223372036854775807-1795458712123-1795458712124-e9c6d914c4b8d9ca.aof.zst.age", seg.String())
	require.Equal(t, "snapshots/00000000000000000042-1795458712123.rdb.zst.age", SnapshotName{42, at, true}.RDB())
	require.Equal(t, "snapshots/00000000000000000042-1795458712123.json", SnapshotName{42, at, true}.Sidecar())
	require.Equal(t, "snapshots/00000000000000000042-1795458712123.rdb.zst", SnapshotName{42, at, false}.RDB())
	require.Equal(t, "snapshots/00000000000000000042-1795458712123.json", SnapshotName{42, at, false}.Sidecar())
	require.Equal(t, "events/00000000000000000042-1795458712123-outage.json", EventName{42, at, EventOutage}.String())
}

// What is formed is read back, and sorts as what it names does.
func TestNamesReadBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		offset := rapid.Map(rapid.Int64Range(0, 1<<63-2), func(n int64) stream.Offset { return stream.Offset(n) })
		instant := rapid.Map(rapid.Int64Range(1, maxTime), func(n int64) stream.Time { return stream.Time(n) })
		segment := rapid.Custom(func(t *rapid.T) SegmentName {
			n := SegmentName{stream.Range{From: offset.Draw(t, "from")}, instant.Draw(t, "time0"), 0, rapid.Uint64().Draw(t, "sum"), rapid.Bool().Draw(t, "encrypted")}
			n.To = n.From + 1 + stream.Offset(rapid.Int64Range(0, 1<<63-2-int64(n.From)).Draw(t, "len"))
			n.Time1 = stream.Time(rapid.Int64Range(int64(n.Time0), maxTime).Draw(t, "time1"))
			return n
		})
		names := rapid.SliceOfN(segment, 2, 5).Draw(t, "segments")
		var text []string
		for _, n := range names {
			got, err := ParseSegmentName(n.String())
			require.NoError(t, err)
			require.Equal(t, n, got)
			text = append(text, n.String())
		}
		sort.Slice(names, func(i, j int) bool { return names[i].From < names[j].From })
		sort.Strings(text)
		for i, n := range names {
			got, err := ParseSegmentName(text[i])
			require.NoError(t, err)
			require.Equal(t, n.From, got.From)
		}

		snap := SnapshotName{offset.Draw(t, "offset"), instant.Draw(t, "time"), rapid.Bool().Draw(t, "encrypted")}
		for _, sidecar := range []bool{false, true} {
			name := map[bool]string{false: snap.RDB(), true: snap.Sidecar()}[sidecar]
			got, is, err := ParseSnapshotName(name)
			require.NoError(t, err)
			require.Equal(t, SnapshotName{snap.Offset, snap.Time, snap.Encrypted && !sidecar}, got)
			require.Equal(t, sidecar, is)
		}
		event := EventName{snap.Offset, snap.Time, rapid.StringMatching("[a-z]{1,20}").Draw(t, "kind")}
		got, err := ParseEventName(event.String())
		require.NoError(t, err)
		require.Equal(t, event, got)

		began := stream.Time(rapid.Int64Range(0, 4_000_000_000_000).Draw(t, "began"))
		back, _, err := ParseTimelineName(TimelineName(began, testID))
		require.NoError(t, err)
		require.Equal(t, began, back)
	})
}

func TestNamesThatAreNone(t *testing.T) {
	good := SegmentName{stream.Range{From: 10, To: 20}, 1_000_000_000_000, 1_000_000_000_001, 5, false}.String()
	for _, name := range []string{
		"", "log/", good + ".age.age", good + ".tmp", good + ".age.tmp", good + ".ag", good[1:], "x" + good, "log/" + good,
		strings.ToUpper(good), strings.Replace(good, "-", "_", 1), strings.Replace(good, "0", "", 1), strings.Replace(good, "0", "+", 1),
		strings.Replace(good, "00000000000000000010", "99999999999999999999", 1), // more than an offset can be
		strings.Replace(good, "00000000000000000010", "00000000000000000020", 1), // an empty range
		strings.Replace(good, "00000000000000000010", "00000000000000000021", 1),
		strings.Replace(good, "1000000000000", "1000000000002", 1),
		strings.Replace(good, "0005.", "000G.", 1),
	} {
		_, err := ParseSegmentName(name)
		var bad *NameError
		require.ErrorAs(t, err, &bad, name)
	}
	for _, name := range []string{"", "snapshots/", "snapshots/00000000000000000042-1795458712123.rdb", "snapshots/00000000000000000042-1795458712123.rdb.age", "snapshots/00000000000000000042-1795458712123.rdb.zst.age.age", "snapshots/00000000000000000042-1795458712123.json.age", "snapshots/00000000000000000042-179545871212.json", "events/00000000000000000042-1795458712123.json"} {
		_, _, err := ParseSnapshotName(name)
		require.Error(t, err, name)
	}
	for _, name := range []string{"", "events/00000000000000000042-1795458712123-.json", "events/00000000000000000042-1795458712123-a.b.json", "events/00000000000000000042-1795458712123-A.json", "events/00000000000000000042-1795458712123-" + strings.Repeat("a", 21) + ".json", "events/00000000000000000042-1795458712123-a"} {
		_, err := ParseEventName(name)
		require.Error(t, err, name)
	}
	for _, name := range []string{"", "main", "20261123T183152Z-1a2b3c4d", "20261123T183152.123Z", "20261123T183152.123Z-", "20261123T183152.123Z-1A2B3C4D", "20261123T183152.123Z-1a2b3c4d5", "20261323T183152.123Z-1a2b3c4d", "20261123T183152,123Z-1a2b3c4d"} {
		_, _, err := ParseTimelineName(name)
		require.Error(t, err, name)
	}
	for name, ok := range map[string]bool{"cache": true, "my cache 2": true, "übung": true, "": false, ".spool": false, "a/b": false, "a\\b": false, "a\nb": false, "\xff": false, strings.Repeat("a", 129): false} {
		require.Equal(t, ok, CheckSource(name) == nil, "%q", name)
	}
}

func FuzzNames(f *testing.F) {
	f.Add(SegmentName{stream.Range{From: 10, To: 20}, 1_000_000_000_000, 1_000_000_000_001, 5, false}.String())
	f.Add(SegmentName{stream.Range{From: 10, To: 20}, 1_000_000_000_000, 1_000_000_000_001, 5, true}.String())
	f.Add(SnapshotName{42, 1_000_000_000_000, false}.RDB())
	f.Add(SnapshotName{42, 1_000_000_000_000, true}.RDB())
	f.Add(SnapshotName{42, 1_000_000_000_000, false}.Sidecar())
	f.Add(EventName{42, 1_000_000_000_000, "outage"}.String())
	f.Add(testTimeline)
	f.Fuzz(func(t *testing.T, s string) {
		taken := 0
		if n, err := ParseSegmentName(s); err == nil {
			taken++
			if n.String() != s || n.Len() <= 0 {
				t.Fatalf("%q was taken for %q", s, n)
			}
		}
		if n, sidecar, err := ParseSnapshotName(s); err == nil {
			taken++
			if sidecar && n.Sidecar() != s || !sidecar && n.RDB() != s {
				t.Fatalf("%q was taken for %+v", s, n)
			}
		}
		if n, err := ParseEventName(s); err == nil {
			taken++
			if n.String() != s {
				t.Fatalf("%q was taken for %q", s, n)
			}
		}
		if began, short, err := ParseTimelineName(s); err == nil {
			taken++
			if TimelineName(began, stream.ReplID(short)) != s {
				t.Fatalf("%q was taken for %v %s", s, began, short)
			}
		}
		var bad *NameError
		if _, err := ParseSegmentName(s); err != nil && !errors.As(err, &bad) || taken > 1 {
			t.Fatalf("%q: %v, taken for %d things", s, err, taken)
		}
	})
}
