package mirror

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/store"
	"github.com/offloader/offloader/internal/stream"
)

const (
	source   = "cache"
	timeline = "20260102T030405.000Z-01234567"
	id       = stream.ReplID("0123456789abcdef0123456789abcdef01234567")
	began    = stream.Time(1_767_323_045_000)
	command  = "*1\r\n$4\r\nPING\r\n" // 14 bytes
)

func disk(t require.TestingT, dir string) *store.Disk {
	d, err := store.OpenDisk(context.Background(), dir, store.Options{Write: true})
	require.NoError(t, err)
	return d
}

// write makes an archive of one timeline: two snapshots, an event, and segments of the ranges, in commands.
func write(t require.TestingT, d *store.Disk, ranges ...stream.Range) {
	ctx := context.Background()
	require.NoError(t, archive.WriteTimeline(ctx, d, archive.TimelineInfo{Source: source, Timeline: timeline, ReplID: id, Began: began, Spool: "s", Reason: "test"}))
	enc, err := archive.NewEncoder()
	require.NoError(t, err)
	for _, at := range []stream.Offset{0, 7 * 14} {
		info := archive.SnapshotInfo{Offset: at, Time: began + stream.Time(at), Method: "full-sync", ReplID: id}
		_, err = archive.WriteSnapshot(ctx, d, enc, source, timeline, info, strings.NewReader("REDIS0011\xff\x00\x00\x00\x00\x00\x00\x00\x00"))
		require.NoError(t, err)
	}
	require.NoError(t, archive.WriteEvent(ctx, d, source, timeline, archive.Event{Kind: archive.EventEnded, Offset: 14, Time: began, Cause: "test"}))
	for _, r := range ranges {
		f, err := os.CreateTemp("", "segment")
		require.NoError(t, err)
		w, err := archive.NewSegmentWriter(f, enc, archive.SegmentHead{Source: source, Timeline: timeline, ReplID: id, From: stream.Cursor{Offset: r.From * 14}})
		require.NoError(t, err)
		for n := r.From; n < r.To; n++ {
			require.NoError(t, w.Write(stream.Piece{At: n * 14, Time: began + stream.Time(n), Data: []byte(command)}))
		}
		name, err := w.Close()
		require.NoError(t, err)
		_, err = f.Seek(0, io.SeekStart)
		require.NoError(t, err)
		err = d.Put(ctx, source+"/"+timeline+"/"+name.String(), f)
		require.True(t, err == nil || errors.Is(err, os.ErrExist), "%v", err)
		require.NoError(t, errors.Join(f.Close(), os.Remove(f.Name())))
	}
}

// Whatever segments the two stores have, and wherever a copy is cut off: in the end the other one
// has all that either has, and a file that it held is untouched.
func TestCopyingBringsTheOtherUp(t *testing.T) {
	ranges := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) stream.Range {
		from := rapid.IntRange(0, 30).Draw(t, "from")
		return stream.Range{From: stream.Offset(from), To: stream.Offset(from + rapid.IntRange(1, 10).Draw(t, "length"))}
	}), 0, 6)
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp("", "mirror")
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
		from, to := disk(t, filepath.Join(dir, "from")), disk(t, filepath.Join(dir, "to"))
		here, there := ranges.Draw(t, "here"), ranges.Draw(t, "there")
		write(t, from, here...)
		if rapid.Bool().Draw(t, "known there") {
			write(t, to, there...)
		} else {
			there = nil
		}
		for i := range rapid.IntRange(0, 3).Draw(t, "cuts") {
			c := Copier{From: from, To: &cut{to, i + 1}}
			_ = c.Source(t.Context(), source)
			if there == nil { // so what is there is the beginning of what is here
				require.Subset(t, gaps(t, from), gaps(t, to))
			}
		}
		c := Copier{From: from, To: to}
		require.NoError(t, c.Source(t.Context(), source))

		cat, err := archive.Load(t.Context(), to, source)
		require.NoError(t, err)
		require.Empty(t, cat.Problems)
		one := cat.Timelines[0]
		require.Len(t, one.Snapshots, 2)
		require.Len(t, one.Events, 1)
		for n := range stream.Offset(45) {
			r := stream.Range{From: n * 14, To: n*14 + 14}
			held := func(all []stream.Range) bool {
				for _, h := range all {
					if h.From <= n && n < h.To {
						return true
					}
				}
				return false
			}
			require.Equal(t, held(here) || held(there), len(archive.Missing(one.Segments, r)) == 0, "command %d", n)
		}
		again := Copier{From: from, To: to}
		require.NoError(t, again.Source(t.Context(), source))
		require.Zero(t, again.Done(), "there is nothing left to copy")
	})
}

// gaps are where something is missing of the timeline, if there is one.
func gaps(t require.TestingT, d *store.Disk) (where []stream.Range) {
	cat, err := archive.Load(context.Background(), d, source)
	require.NoError(t, err)
	for _, one := range cat.Timelines {
		missing, err := cat.Gaps(one)
		require.NoError(t, err)
		for _, g := range missing {
			where = append(where, stream.Range{From: g.From.Offset, To: g.To.Offset})
		}
	}
	return where
}

// cut is a store that fails at its nth file.
type cut struct {
	*store.Disk
	left int
}

var errCut = errors.New("the line was cut")

func (c *cut) Put(ctx context.Context, name string, r io.Reader) error {
	if c.left--; c.left < 0 {
		return errCut
	}
	return c.Disk.Put(ctx, name, r)
}

// What is damaged is not spread, and is told; the rest is copied.
func TestWhatIsDamagedIsNotSpread(t *testing.T) {
	for _, wound := range []string{"log/", "snapshots/"} {
		t.Run(wound, func(t *testing.T) {
			from, to := disk(t, filepath.Join(t.TempDir(), "from")), disk(t, filepath.Join(t.TempDir(), "to"))
			write(t, from, stream.Range{From: 0, To: 5}, stream.Range{From: 5, To: 9})
			all, err := from.List(t.Context(), source+"/"+timeline+"/"+strings.TrimSuffix(wound, "/"))
			require.NoError(t, err)
			var name string
			for _, e := range all {
				if strings.HasSuffix(e.Name, ".zst") {
					name = e.Name
				}
			}
			path := filepath.Join(from.String(), name)
			b, err := os.ReadFile(path)
			require.NoError(t, err)
			b[len(b)/2] ^= 1
			require.NoError(t, os.WriteFile(path, b, 0o600))

			c := Copier{From: from, To: to}
			err = c.Source(t.Context(), source)
			var damage *archive.DamageError
			require.ErrorAs(t, err, &damage)
			require.ErrorContains(t, err, "archive "+from.String()+": "+name+" is damaged: ")
			require.NotContains(t, err.Error(), to.String(), "it is not damaged there")
			_, err = to.Open(t.Context(), name)
			require.ErrorIs(t, err, os.ErrNotExist)
			require.Positive(t, c.Done().Files)
		})
	}
}

// hurt changes a file, and names it.
func hurt(t *testing.T, d *store.Disk, pattern string, how func([]byte) []byte) (name string) {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(d.String(), source, timeline, pattern))
	require.NoError(t, err)
	require.Len(t, found, 1)
	b, err := os.ReadFile(found[0])
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(found[0], how(b), 0o600))
	name, err = filepath.Rel(d.String(), found[0])
	require.NoError(t, err)
	return name
}

func flip(b []byte) []byte   { b[len(b)/2] ^= 1; return b }
func cutOff(b []byte) []byte { return b[:len(b)-1] }

// In the place of a damaged segment comes what it was joined from; where there is none of that, what follows it
// comes all the same.
func TestDamageInTheLogIsGoneRound(t *testing.T) {
	from, to := disk(t, filepath.Join(t.TempDir(), "from")), disk(t, filepath.Join(t.TempDir(), "to"))
	write(t, from, stream.Range{From: 0, To: 2}, stream.Range{From: 2, To: 5}, stream.Range{From: 0, To: 5}, stream.Range{From: 5, To: 6}, stream.Range{From: 6, To: 9})
	joined := hurt(t, from, "log/*0-*70-*", flip)
	lone := hurt(t, from, "log/*70-*84-*", flip)
	c := Copier{From: from, To: to}
	err := c.Source(t.Context(), source)
	require.ErrorContains(t, err, joined)
	require.ErrorContains(t, err, lone)

	cat, err := archive.Load(t.Context(), to, source)
	require.NoError(t, err)
	require.Equal(t, []stream.Range{{From: 70, To: 84}}, archive.Missing(cat.Timelines[0].Segments, stream.Range{From: 0, To: 126}))
	require.True(t, Has(cat, joined), "by what it was joined from")
	require.False(t, Has(cat, lone))
	require.True(t, Has(cat, source+"/"+timeline+"/timeline.json"))
	require.False(t, Has(cat, source+"/"+archive.TimelineName(began+1, id)+"/timeline.json"))

	other := disk(t, filepath.Join(t.TempDir(), "other")) // a third store has it
	write(t, other, stream.Range{From: 3, To: 8})
	c = Copier{From: other, To: to}
	require.NoError(t, c.Source(t.Context(), source))
	cat, err = archive.Load(t.Context(), to, source)
	require.NoError(t, err)
	require.True(t, Has(cat, lone))
}

// A file that both have, and that is shorter in one of them, is told as damage of that one, and stays as it is.
func TestSizesThatDiffer(t *testing.T) {
	for _, pattern := range []string{"log/*", "snapshots/*0-*.zst"} {
		for _, there := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s there %v", pattern, there), func(t *testing.T) {
				from, to := disk(t, filepath.Join(t.TempDir(), "from")), disk(t, filepath.Join(t.TempDir(), "to"))
				write(t, from, stream.Range{From: 0, To: 5})
				require.NoError(t, (&Copier{From: from, To: to}).Source(t.Context(), source))
				wounded := from
				if there {
					wounded = to
				}
				name := hurt(t, wounded, pattern, cutOff)
				before, err := wounded.List(t.Context(), source)
				require.NoError(t, err)

				c := &Copier{From: from, To: to}
				require.NoError(t, c.Source(t.Context(), source))
				require.Zero(t, c.Done())
				err = c.Compare(t.Context(), source)
				var damaged *DamagedError
				require.ErrorAs(t, err, &damaged)
				require.Equal(t, there, damaged.There)
				require.ErrorContains(t, err, "archive "+wounded.String()+": "+name+" is damaged: ")
				require.NotEmpty(t, damaged.Hint())
				after, err := wounded.List(t.Context(), source)
				require.NoError(t, err)
				require.Equal(t, before, after)
			})
		}
	}
}

// A timeline that the other store has from another spool is another one.
func TestAnotherTimelineOfThatName(t *testing.T) {
	from, to := disk(t, filepath.Join(t.TempDir(), "from")), disk(t, filepath.Join(t.TempDir(), "to"))
	write(t, from, stream.Range{From: 0, To: 5})
	require.NoError(t, archive.WriteTimeline(t.Context(), to, archive.TimelineInfo{Source: source, Timeline: timeline, ReplID: id, Began: began, Spool: "another", Reason: "test"}))
	c := Copier{From: from, To: to}
	require.ErrorContains(t, c.Source(t.Context(), source), fmt.Sprintf("timeline %s is another one in the other store", timeline))
	require.Zero(t, c.Done())
}
