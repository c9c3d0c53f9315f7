package retention

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/plan"
	"github.com/offloader/offloader/internal/stream"
)

// days writes a snapshot at noon and a segment before and behind it on each of the days from first
// to last; a day is a thousand offsets.
func (l *line) days(first, last int) *line {
	for d := first; d <= last; d++ {
		o := stream.Offset(d) * 1000
		l.segment(o, o+500, at(float64(d)), at(float64(d)+0.5)-1)
		l.snapshot(o+500, at(float64(d)+0.5))
		l.segment(o+500, o+1000, at(float64(d)+0.5), at(float64(d)+1)-1)
	}
	return l
}

// left says what a store holds, short: per timeline, snapshots and ranges of the log that touch.
func left(t require.TestingT, m *memory) string {
	var out []string
	for _, tl := range load(t, m).Timelines {
		var s []string
		for _, snap := range tl.Snapshots {
			s = append(s, snap.Offset.String())
		}
		var log []stream.Range
		for _, seg := range tl.Segments {
			if n := len(log); n > 0 && seg.From <= log[n-1].To {
				log[n-1].To = max(log[n-1].To, seg.To)
				continue
			}
			log = append(log, seg.Range)
		}
		out = append(out, fmt.Sprintf("%s %v", strings.Join(s, " "), log))
	}
	return strings.Join(out, " | ")
}

func (l *line) say(kind string, o stream.Offset, at stream.Time) *line {
	return l.event(archive.Event{Kind: kind, Offset: o, Time: at})
}

const week = 7 * 24 * time.Hour

func TestWhatGoesAndWhatStays(t *testing.T) {
	root := func(t *testing.T, m *memory) *line {
		return newLine(t, m, at(0), 0, "s", nil).snapshot(0, at(0))
	}
	next := func(l *line, d float64, o stream.Offset, parent *line) *line {
		return newLine(l.t, l.m, at(d), o, "s", parent)
	}
	for _, c := range []struct {
		name   string
		policy Policy
		now    float64
		write  func(t *testing.T, m *memory)
		want   string
	}{
		{"the window, from the snapshot before it", Policy{Window: week}, 20, func(t *testing.T, m *memory) { root(t, m).days(0, 19) },
			"12500 13500 14500 15500 16500 17500 18500 19500 [[12500,20000)]"},
		{"all of it is young", Policy{Window: week}, 5, func(t *testing.T, m *memory) { root(t, m).days(0, 4) },
			"0 500 1500 2500 3500 4500 [[0,5000)]"},
		{"no window: the newest snapshot, and what came since", Policy{}, 20, func(t *testing.T, m *memory) { root(t, m).days(0, 19) },
			"19500 [[19500,20000)]"},
		{"only one snapshot", Policy{Window: week}, 40, func(t *testing.T, m *memory) {
			l := root(t, m)
			for d := range stream.Offset(40) {
				l.segment(d*10, d*10+10, at(float64(d)), at(float64(d)+1))
			}
		}, "0 [[0,400)]"},
		{"days and weeks beyond the window", Policy{Window: 2 * 24 * time.Hour, Daily: 3, Weekly: 3}, 30, func(t *testing.T, m *memory) { root(t, m).days(0, 29) },
			// Day 27 is a Wednesday. Its week's last before the window, and Sundays: days 24 and 17.
			"17500 24500 25500 26500 27500 28500 29500 [[27500,30000)]"},
		{"months", Policy{Monthly: 2}, 70, func(t *testing.T, m *memory) { root(t, m).days(0, 69) }, "58500 69500 [[69500,70000)]"},
		{"hours, of which some have none", Policy{Hourly: 3}, 20, func(t *testing.T, m *memory) { root(t, m).days(0, 19) },
			"17500 18500 19500 [[19500,20000)]"},
		{"a minimum", Policy{Minimum: 4}, 20, func(t *testing.T, m *memory) { root(t, m).days(0, 19) },
			"16500 17500 18500 19500 [[19500,20000)]"},
		{"the archive got nothing for a month", Policy{Window: week}, 50, func(t *testing.T, m *memory) { root(t, m).days(0, 19) },
			"12500 13500 14500 15500 16500 17500 18500 19500 [[12500,20000)]"},
		{"and goes on after a month", Policy{Window: week}, 52, func(t *testing.T, m *memory) {
			root(t, m).days(0, 19).event(archive.Event{Kind: archive.EventOutage, Offset: 20000, From: at(20), Time: at(50)}).days(50, 51)
		}, "14500 15500 16500 17500 18500 19500 50500 51500 [[14500,20000) [50000,52000)]"},
		{"a clock that went a year ahead", Policy{Window: week}, 400, func(t *testing.T, m *memory) {
			root(t, m).days(0, 19).event(archive.Event{Kind: archive.EventClock, Offset: 20000, From: at(20), Time: at(385)}).days(385, 385)
		}, "13500 14500 15500 16500 17500 18500 19500 385500 [[13500,20000) [385000,386000)]"},
		{"a clock that is behind", Policy{Window: week}, 10, func(t *testing.T, m *memory) { root(t, m).days(0, 19) },
			"2500 3500 4500 5500 6500 7500 8500 9500 10500 11500 12500 13500 14500 15500 16500 17500 18500 19500 [[2500,20000)]"},
		{"a pin", Policy{Window: week}, 30, func(t *testing.T, m *memory) { root(t, m).days(0, 29).say("pin", 5700, at(29)) },
			"5500 22500 23500 24500 25500 26500 27500 28500 29500 [[5500,6000) [22500,30000)]"},
		{"a pin at a snapshot needs no log", Policy{}, 30, func(t *testing.T, m *memory) { root(t, m).days(0, 29).say("pin", 5500, at(29)) },
			"5500 29500 [[29500,30000)]"},
		{"a pin that was taken away", Policy{}, 30, func(t *testing.T, m *memory) {
			root(t, m).days(0, 29).say("pin", 5700, at(27)).say("unpin", 5700, at(28)).say("unpin", 6700, at(28)).say("pin", 6700, at(28))
		}, "6500 29500 [[6500,7000) [29500,30000)]"},
		{"a timeline that ended before the window", Policy{Window: week, Monthly: 1}, 30, func(t *testing.T, m *memory) {
			l := root(t, m).days(0, 9).say("ended", 10000, at(10))
			next(l, 10, 10000, nil).snapshot(10000, at(10)).days(10, 29)
		}, "22500 23500 24500 25500 26500 27500 28500 29500 [[22500,30000)]"},
		{"one that ended within it", Policy{Window: week}, 12, func(t *testing.T, m *memory) {
			l := root(t, m).days(0, 9).say("ended", 10000, at(10))
			next(l, 10, 10000, nil).snapshot(10000, at(10)).days(10, 11)
		}, "4500 5500 6500 7500 8500 9500 [[4500,10000)] | 10000 10500 11500 [[10000,12000)]"},
		{"a branch needs its parent", Policy{}, 12, func(t *testing.T, m *memory) {
			l := root(t, m).days(0, 9).say("ended", 10000, at(10))
			next(l, 10, 8700, l).segment(8700, 9000, at(10), at(11))
		}, "8500 9500 [[8500,9000)] |  [[8700,9000)]"},
		{"and once it has a snapshot, doesn't", Policy{}, 12, func(t *testing.T, m *memory) {
			l := root(t, m).days(0, 9).say("ended", 10000, at(10))
			next(l, 10, 8700, l).segment(8700, 9000, at(10), at(11)).snapshot(9000, at(11)).segment(9000, 9100, at(11), at(12))
		}, "9000 [[9000,9100)]"},
		{"what a failover lost", Policy{}, 12, func(t *testing.T, m *memory) {
			l := root(t, m).days(0, 9).say("ended", 10000, at(10)).event(archive.Event{Kind: archive.EventLost, Offset: 8700, To: 10000, Time: at(10)})
			next(l, 10, 8700, l).segment(8700, 9000, at(10), at(11)).snapshot(9000, at(11)).segment(9000, 9100, at(11), at(12))
		}, "8500 9500 [[8500,10000)] | 9000 [[9000,9100)]"},
		{"and was released", Policy{}, 12, func(t *testing.T, m *memory) {
			l := root(t, m).days(0, 9).say("ended", 10000, at(10)).event(archive.Event{Kind: archive.EventLost, Offset: 8700, To: 10000, Time: at(10)}).say("release", 10000, at(11))
			next(l, 10, 8700, l).segment(8700, 9000, at(10), at(11)).snapshot(9000, at(11)).segment(9000, 9100, at(11), at(12))
		}, "9000 [[9000,9100)]"},
		{"suspect, and the one before", Policy{}, 30, func(t *testing.T, m *memory) {
			l := root(t, m).days(0, 1).say("ended", 2000, at(2))
			l = next(l, 2, 2000, nil).snapshot(2000, at(2)).days(2, 3).say("ended", 4000, at(4))
			l = next(l, 4, 0, nil).snapshot(0, at(4)).segment(0, 10, at(4), at(5)).say("suspect", 0, at(4)).say("ended", 10, at(5))
			next(l, 5, 0, nil).snapshot(0, at(5)).segment(0, 10, at(5), at(6)).snapshot(10, at(6)).segment(10, 20, at(6), at(7))
		}, "2000 2500 3500 [[2000,4000)] | 0 [[0,10)] | 10 [[10,20)]"},
		{"and released", Policy{}, 30, func(t *testing.T, m *memory) {
			l := root(t, m).days(0, 1).say("ended", 2000, at(2))
			l = next(l, 2, 0, nil).snapshot(0, at(2)).segment(0, 10, at(2), at(3)).say("suspect", 0, at(2)).say("release", 10, at(6)).say("ended", 10, at(3))
			next(l, 5, 0, nil).snapshot(0, at(5)).segment(0, 10, at(5), at(6))
		}, "0 [[0,10)]"},
		{"suspect ones crowd nothing out", Policy{Daily: 1}, 30, func(t *testing.T, m *memory) {
			l := root(t, m).days(0, 3).say("ended", 4000, at(4))
			l = next(l, 4, 4000, nil).snapshot(4000, at(4)).say("ended", 4000, at(4.1))
			l = next(l, 4.1, 0, nil).snapshot(0, at(4.1)).say("suspect", 0, at(4.1)).say("ended", 0, at(4.2))
			next(l, 4.2, 0, nil).snapshot(0, at(4.2)).segment(0, 10, at(4.2), at(4.3)).say("suspect", 0, at(4.2))
		}, "4000 [] | 0 [] | 0 [[0,10)]"},
		{"another daemon's, which stands still", Policy{}, 30, func(t *testing.T, m *memory) {
			newLine(t, m, at(0.1), 0, "other", nil).snapshot(0, at(0.1)).segment(0, 10, at(0.1), at(1)).snapshot(10, at(1)).segment(10, 20, at(1), at(2))
			next(root(t, m).say("ended", 0, at(1)), 1, 0, nil).snapshot(0, at(1)).days(1, 29)
		}, "10 [[10,20)] | 29500 [[29500,30000)]"},
		{"a snapshot that says less than what comes before it", Policy{Window: 24 * time.Hour}, 10, func(t *testing.T, m *memory) {
			root(t, m).segment(0, 10, at(1), at(8.9)).segment(10, 20, at(8.9), at(9.5)).snapshot(20, at(8.95)).segment(20, 30, at(9.6), at(10))
		}, "0 20 [[0,30)]"},
		{"half snapshots", Policy{Window: week}, 30, func(t *testing.T, m *memory) {
			l := root(t, m).days(0, 29)
			l.file(archive.SnapshotName{Offset: 77, Time: at(1)}.RDB())
			l.file(archive.SnapshotName{Offset: 30000, Time: at(29.9)}.RDB())
		}, "22500 23500 24500 25500 26500 27500 28500 29500 [[22500,30000)]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newMemory()
			c.write(t, m)
			r, err := Run(t.Context(), m, "cache", c.policy, at(c.now))
			require.NoError(t, err)
			require.Equal(t, c.want, left(t, m))
			require.Equal(t, len(r.Going), r.Deleted)
			for _, f := range r.Files {
				require.NotEmpty(t, f.Why, f.Name)
			}
			for _, tl := range load(t, m).Timelines {
				_, err := load(t, m).Windows(tl)
				require.NoError(t, err, "what goes is no damage")
			}
			again, err := Run(t.Context(), m, "cache", c.policy, at(c.now))
			require.NoError(t, err)
			require.Empty(t, again.Going, "a second run finds nothing")
			for name := range m.files {
				require.NotContains(t, name, "00077-", "half a snapshot")
			}
		})
	}
}

// Of a timeline that is gone nothing is left, and what stays says why something is missing.
func TestReadersAreToldWhatRetentionDid(t *testing.T) {
	m := newMemory()
	l := newLine(t, m, at(0), 0, "s", nil).snapshot(0, at(0)).days(0, 9).say("ended", 10000, at(10)).say("suspect", 0, at(0)).say("release", 0, at(1))
	b := newLine(t, m, at(10), 10000, "s", l).say(archive.EventVerified, 11000, at(11)).say(archive.EventVerified, 12000, at(12)).event(archive.Event{Kind: archive.EventOutage, Offset: 10000, From: at(10), Time: at(10.1)}).days(10, 29)
	_, err := Run(t.Context(), m, "cache", Policy{Window: week, Daily: 1, Monthly: 1}, at(30))
	require.NoError(t, err)
	for name := range m.files {
		require.NotContains(t, name, l.name())
		require.NotContains(t, name, "outage")
	}
	_, err = Run(t.Context(), m, "cache", Policy{Window: 2 * 24 * time.Hour, Weekly: 1}, at(30))
	require.NoError(t, err)
	cat := load(t, m)
	require.Equal(t, "27500 28500 29500 [[27500,30000)]", left(t, m))
	require.EqualValues(t, 27500, cat.Timelines[0].Pruned())
	require.Len(t, cat.Timelines[0].Events, 2, "of what retention did one says it all, and of what was verified")

	b.snapshot(12500, at(12.5)) // a copy that was put back by hand
	gaps, err := load(t, m).Gaps(cat.Timelines[0])
	require.NoError(t, err)
	_ = gaps
	cat = load(t, m)
	gaps, err = cat.Gaps(cat.Timelines[0])
	require.NoError(t, err)
	require.Len(t, gaps, 1)
	require.Equal(t, "retention has let it go", gaps[0].Cause)
	_, err = plan.Choose(cat, plan.Request{Point: plan.Point{Kind: plan.ByOffset, Offset: 13000}, Now: at(30)})
	require.ErrorContains(t, err, "offsets 12500 to 27500 were let go by retention")
}

// locked is what a store says of a file under a lock.
type locked struct{ until time.Time }

func (l locked) Error() string                      { return "it is locked" }
func (l locked) Locked() (until time.Time, ok bool) { return l.until, true }

func TestWhatTheStoreRefuses(t *testing.T) {
	write := func() *memory {
		m := newMemory()
		l := newLine(t, m, at(0), 0, "s", nil).snapshot(0, at(0)).days(0, 3).say("ended", 4000, at(4))
		newLine(t, l.m, at(4), 0, "s", nil).snapshot(0, at(4)).segment(0, 10, at(4), at(5))
		return m
	}
	until := at(100).Go()

	t.Run("a lock", func(t *testing.T) {
		m := write()
		lock := archive.SnapshotName{Offset: 2500, Time: at(2.5)}
		m.refuse = func(name string) error {
			if strings.HasSuffix(name, lock.Sidecar()) {
				return fmt.Errorf("delete: %w", locked{until})
			}
			return nil
		}
		for range 2 {
			r, err := Run(t.Context(), m, "cache", Policy{}, at(30))
			require.NoError(t, err)
			require.Len(t, r.Kept, 1)
			require.Equal(t, until, r.Kept[0].Until)
			require.NoError(t, r.Refused)
			require.Equal(t, "2500 [] | 0 [[0,10)]", left(t, m), "the timeline stays, since a snapshot of it does")
		}
		m.refuse = nil
		_, err := Run(t.Context(), m, "cache", Policy{}, at(30))
		require.NoError(t, err)
		require.Equal(t, "0 [[0,10)]", left(t, m))
	})
	t.Run("no right to delete", func(t *testing.T) {
		m := write()
		m.refuse = func(name string) error { return &fs.PathError{Op: "remove", Path: name, Err: fs.ErrPermission} }
		r, err := Run(t.Context(), m, "cache", Policy{}, at(30))
		require.NoError(t, err)
		require.ErrorIs(t, r.Refused, fs.ErrPermission)
		require.Zero(t, r.Deleted)
		require.Len(t, r.Kept, enough)
	})
	t.Run("no right to delete the little that goes", func(t *testing.T) {
		l := newLine(t, newMemory(), at(0), 0, "s", nil).snapshot(0, at(0)).segment(0, 10, at(0), at(1)).say("ended", 10, at(1))
		m := newLine(t, l.m, at(4), 0, "s", nil).snapshot(0, at(4)).segment(0, 10, at(4), at(5)).m
		m.refuse = func(name string) error { return &fs.PathError{Op: "remove", Path: name, Err: fs.ErrPermission} }
		r, err := Run(t.Context(), m, "cache", Policy{}, at(30))
		require.NoError(t, err)
		require.ErrorIs(t, r.Refused, fs.ErrPermission)
		require.Less(t, len(r.Kept), len(r.Going), "what depends on a file that stays isn't tried")
	})
	t.Run("one that is held for other reasons", func(t *testing.T) {
		m := write()
		m.refuse = func(name string) error {
			if strings.HasSuffix(name, ".aof.zst") && strings.Contains(name, "/log/00000000000000003500-") {
				return fmt.Errorf("a legal hold: %w", archive.ErrKept)
			}
			return nil
		}
		r, err := Run(t.Context(), m, "cache", Policy{}, at(30))
		require.NoError(t, err)
		require.NoError(t, r.Refused)
		require.Len(t, r.Kept, 1)
		require.Equal(t, " [[3500,4000)] | 0 [[0,10)]", left(t, m))
	})
	t.Run("an error", func(t *testing.T) {
		m, broken := write(), errors.New("broken")
		m.refuse = func(string) error { return broken }
		_, err := Run(t.Context(), m, "cache", Policy{}, at(30))
		require.ErrorIs(t, err, broken)
	})
	t.Run("a pin that comes meanwhile", func(t *testing.T) {
		m := write()
		l := &line{t: t, m: m, info: load(t, m).Timelines[0].TimelineInfo}
		_, err := Run(t.Context(), &meanwhile{memory: m, list: 3, do: func() { l.say("pin", 1700, at(30)) }}, "cache", Policy{}, at(30))
		require.NoError(t, err)
		require.Equal(t, "1500 [[1500,2000)] | 0 [[0,10)]", left(t, m))
	})
	t.Run("something that can't be read", func(t *testing.T) {
		m := write()
		for name := range m.files {
			if strings.Contains(name, "ended") {
				m.files[name] = []byte("{")
			}
		}
		_, err := Run(t.Context(), m, "cache", Policy{}, at(30))
		var damage *archive.DamageError
		require.ErrorAs(t, err, &damage)
		require.ErrorContains(t, err, "retention deletes nothing of cache")
		require.Empty(t, m.deleted)
	})
	t.Run("a stranger's file", func(t *testing.T) {
		m := write()
		name := "cache/" + load(t, m).Timelines[0].Timeline + "/notes.txt"
		m.files[name] = []byte("mine")
		r, err := Run(t.Context(), m, "cache", Policy{}, at(30))
		require.NoError(t, err)
		require.Contains(t, m.files, name)
		require.Equal(t, " [] | 0 [[0,10)]", left(t, m))
		require.True(t, slices.ContainsFunc(r.Files, func(f File) bool { return f.Name == name && f.Kind == Stranger && !f.Goes }))
	})
}

// meanwhile does something before a listing.
type meanwhile struct {
	*memory
	list int
	do   func()
}

func (m *meanwhile) List(ctx context.Context, dir string) ([]archive.Entry, error) {
	if m.list--; m.list == 0 {
		m.do()
	}
	return m.memory.List(ctx, dir)
}
