package stale

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/stream"
)

const day = 24 * time.Hour

var noon = time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)

// ago is so long before noon.
func ago(d time.Duration) stream.Time { return stream.TimeOf(noon.Add(-d)) }

func TestJudge(t *testing.T) {
	all := Limits{Snapshot: 2 * day, Stored: 10 * time.Minute, Verify: 8 * day}
	well := Held{Since: ago(30 * day), Snapshot: ago(day), Stored: ago(10 * time.Second), Verified: ago(7 * day)}
	for _, row := range []struct {
		name   string
		limits Limits
		change func(*Held)
		want   []string
	}{
		{"all is well", all, func(*Held) {}, nil},
		{"no limits", Limits{}, func(h *Held) { *h = Held{Since: ago(400 * day)} }, nil},
		{"nothing is held", all, func(h *Held) { *h = Held{} }, nil},
		{"snapshot", all, func(h *Held) { h.Snapshot = ago(60 * time.Hour) }, []string{"its newest snapshot is of 2.5 days ago; max_age.snapshot is 2 days"}},
		{"just within", all, func(h *Held) { h.Snapshot = ago(2 * day) }, nil},
		{"stored", all, func(h *Held) { h.Stored = ago(11 * time.Minute) }, []string{"its newest byte was received 11 min ago; max_age.stored is 10 min"}},
		{"verify", all, func(h *Held) { h.Verified = ago(9 * day) }, []string{"it was last verified 9 days ago; max_age.verify is 8 days"}},
		{"never verified, and not due yet", all, func(h *Held) { h.Since, h.Verified = ago(8*day), 0 }, nil},
		{"never verified", all, func(h *Held) { h.Verified = 0 }, []string{"it was never verified, and began 30 days ago; max_age.verify is 8 days"}},
		{"all that is held is younger than the last verify", all, func(h *Held) { h.Since, h.Verified = ago(day), ago(20*day) }, nil},
		{"all three", all, func(h *Held) { *h = Held{Since: ago(30 * day)} }, []string{
			"it has no snapshot, and began 30 days ago; max_age.snapshot is 2 days",
			"it has no byte of the stream, and began 30 days ago; max_age.stored is 10 min",
			"it was never verified, and began 30 days ago; max_age.verify is 8 days",
		}},
		{"a clock that was set back", all, func(h *Held) { h.Snapshot, h.Stored = ago(-day), ago(-day) }, nil},
	} {
		t.Run(row.name, func(t *testing.T) {
			held := well
			row.change(&held)
			var got []string
			for _, reason := range row.limits.Judge(held, noon) {
				got = append(got, reason.What)
				require.NotEmpty(t, reason.Hint)
			}
			require.Equal(t, row.want, got)
		})
	}
}

func TestOfACatalog(t *testing.T) {
	first := &archive.Timeline{TimelineInfo: archive.TimelineInfo{Began: 1000},
		Snapshots: []archive.Snapshot{{Time: 1000}, {Time: 5000}},
		Segments:  []archive.Segment{{Time0: 1000, Time1: 6000}},
		Events:    []archive.Event{{Kind: archive.EventVerified, Time: 5500}, {Kind: archive.EventOutage, Time: 9999}}}
	second := &archive.Timeline{TimelineInfo: archive.TimelineInfo{Began: 7000}, Snapshots: []archive.Snapshot{{Time: 7000}}}
	require.Equal(t, Held{}, Of(&archive.Catalog{}))
	require.Equal(t, Held{Since: 1000, Snapshot: 5000, Stored: 6000, Verified: 5500}, Of(&archive.Catalog{Timelines: []*archive.Timeline{first}}))
	require.Equal(t, Held{Since: 1000, Snapshot: 7000, Stored: 7000, Verified: 5500}, Of(&archive.Catalog{Timelines: []*archive.Timeline{first, second}}),
		"an RDB is all that the stream had brought")
}

// In whatever order things become known, the same is known in the end; and what is newer is never a
// reason.
func TestWith(t *testing.T) {
	times := rapid.Int64Range(0, stream.TimeOf(noon).Go().UnixMilli())
	held := rapid.Custom(func(t *rapid.T) Held {
		at := func(name string) stream.Time { return stream.Time(times.Draw(t, name)) }
		return Held{at("since"), at("snapshot"), at("stored"), at("verified"), at("booted")}
	})
	rapid.Check(t, func(t *rapid.T) {
		a, b, c := held.Draw(t, "a"), held.Draw(t, "b"), held.Draw(t, "c")
		require.Equal(t, a.With(b), b.With(a))
		require.Equal(t, a.With(b).With(c), a.With(b.With(c)))
		require.Equal(t, a, a.With(a))
		require.Equal(t, a, a.With(Held{}))
		limits := Limits{Snapshot: day, Stored: day, Verify: day}
		newer := a.With(Held{Snapshot: b.Snapshot, Stored: b.Stored, Verified: b.Verified})
		require.LessOrEqual(t, len(limits.Judge(newer, noon)), len(limits.Judge(a, noon)))
	})
}
