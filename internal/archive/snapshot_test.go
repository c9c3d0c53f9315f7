package archive_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/crypt"
	"github.com/offloader/offloader/internal/store"
	"github.com/offloader/offloader/internal/stream"
)

const folder = "cache/" + timeline

// disk is a store, and the folder that it is.
func disk(t *testing.T) (store.Store, string) {
	t.Helper()
	root := t.TempDir()
	s, err := store.OpenURL(t.Context(), root, store.Options{Write: true, Now: time.Now()})
	require.NoError(t, err)
	return s, root
}

func info(at stream.Offset) archive.TimelineInfo {
	return archive.TimelineInfo{Source: "cache", Timeline: timeline, ReplID: id, Offset: at, Began: begin, Spool: "s1", Reason: "first attach"}
}

// rdb is bytes of which some shrink and some don't. A snapshot's are not looked into here.
func rdb(size int) []byte {
	rng := rand.New(rand.NewPCG(1, 2))
	b := make([]byte, size)
	for i := range b {
		b[i] = byte(rng.Uint32() >> (i >> 16 & 7))
	}
	return b
}

func writeSnapshot(t *testing.T, s archive.Depot, i archive.SnapshotInfo, r io.Reader, to ...crypt.Recipient) (archive.SnapshotInfo, error) {
	t.Helper()
	enc, err := archive.NewEncoder(to...)
	require.NoError(t, err)
	return archive.WriteSnapshot(t.Context(), s, enc, "cache", timeline, i, r)
}

func load(t *testing.T, s archive.Files, identities ...crypt.Identity) *archive.Timeline {
	t.Helper()
	cat, err := archive.Load(t.Context(), s, "cache", identities...)
	require.NoError(t, err)
	require.Empty(t, cat.Problems)
	require.Len(t, cat.Timelines, 1)
	return cat.Timelines[0]
}

func readSnapshot(t *testing.T, s archive.Snapshot) ([]byte, error) {
	t.Helper()
	r, err := s.Open(t.Context())
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(r)
	require.NoError(t, r.Close())
	return b, err
}

func TestSnapshotComesBack(t *testing.T) {
	for _, size := range []int{0, 9, 200_000, 5 << 20} {
		s, root := disk(t)
		require.NoError(t, archive.WriteTimeline(t.Context(), s, info(100)))
		data := rdb(size)
		in := archive.SnapshotInfo{Offset: 100, Time: begin, Method: "full-sync", ReplID: id, DB: 3, RDBVersion: 12, Keys: map[string]int64{"0": 7}}
		wrote, err := writeSnapshot(t, s, in, bytes.NewReader(data))
		require.NoError(t, err)
		require.EqualValues(t, size, wrote.Bytes)

		got := load(t, s).Snapshots
		require.Len(t, got, 1)
		read, err := got[0].Info(t.Context())
		require.NoError(t, err)
		require.Equal(t, wrote, read)
		stored, err := os.Stat(filepath.Join(root, folder, got[0].Name))
		require.NoError(t, err)
		require.Equal(t, stored.Size(), wrote.StoredBytes)
		require.Equal(t, stored.Size(), got[0].Size)
		back, err := readSnapshot(t, got[0])
		require.NoError(t, err)
		require.True(t, bytes.Equal(data, back))
	}
}

// A daemon that was killed between the RDB and its sidecar does it again.
func TestSnapshotAfterAKill(t *testing.T) {
	s, root := disk(t)
	require.NoError(t, archive.WriteTimeline(t.Context(), s, info(100)))
	data := rdb(300_000)
	in := archive.SnapshotInfo{Offset: 100, Time: begin}
	first, err := writeSnapshot(t, s, in, bytes.NewReader(data))
	require.NoError(t, err)
	again, err := writeSnapshot(t, s, in, bytes.NewReader(data)) // both are there
	require.NoError(t, err)
	require.Equal(t, first, again)

	sidecar := filepath.Join(root, folder, archive.SnapshotName{Offset: 100, Time: begin}.Sidecar())
	require.NoError(t, os.Remove(sidecar))
	require.Empty(t, load(t, s).Snapshots, "without a sidecar there is none")
	again, err = writeSnapshot(t, s, in, bytes.NewReader(data))
	require.NoError(t, err)
	require.Equal(t, first, again)
	require.Len(t, load(t, s).Snapshots, 1)

	// What is there under that name is something else: nothing is made of it.
	require.NoError(t, os.Remove(sidecar))
	_, err = writeSnapshot(t, s, in, bytes.NewReader(data[1:]))
	var damage *archive.DamageError
	require.ErrorAs(t, err, &damage)
	require.Empty(t, load(t, s).Snapshots)
}

func TestSnapshotThatBreaksOffLeavesNothing(t *testing.T) {
	s, root := disk(t)
	broken := errors.New("the transfer broke off")
	_, err := writeSnapshot(t, s, archive.SnapshotInfo{Offset: 100, Time: begin}, io.MultiReader(bytes.NewReader(rdb(3<<20)), failing{broken}))
	require.ErrorIs(t, err, broken)
	left, err := os.ReadDir(filepath.Join(root, folder, "snapshots"))
	require.NoError(t, err)
	require.Empty(t, left)
}

// A disk that fails is not an archive that is damaged.
func TestUnreadableSnapshotIsNotDamaged(t *testing.T) {
	s, _ := disk(t)
	require.NoError(t, archive.WriteTimeline(t.Context(), s, info(100)))
	_, err := writeSnapshot(t, s, archive.SnapshotInfo{Offset: 100, Time: begin}, bytes.NewReader(rdb(3<<20)))
	require.NoError(t, err)
	broken := errors.New("input/output error")
	_, err = readSnapshot(t, load(t, failingFiles{s, broken}).Snapshots[0])
	var damage *archive.DamageError
	require.ErrorIs(t, err, broken)
	require.NotErrorAs(t, err, &damage)
}

// failingFiles breaks in the middle of each snapshot.
type failingFiles struct {
	archive.Files
	err error
}

func (f failingFiles) Open(ctx context.Context, name string) (io.ReadCloser, error) {
	r, err := f.Files.Open(ctx, name)
	if err != nil || !strings.HasSuffix(name, ".rdb.zst") {
		return r, err
	}
	return struct {
		io.Reader
		io.Closer
	}{io.MultiReader(io.LimitReader(r, 1<<20), failing{f.err}), r}, nil
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func TestWoundsOfSnapshots(t *testing.T) {
	data := rdb(400_000)
	name := archive.SnapshotName{Offset: 100, Time: begin}
	for _, c := range []struct {
		name, says string
		wound      func(t *testing.T, rdb, sidecar string)
	}{
		{"cut", "can't be decompressed", func(t *testing.T, rdb, _ string) { require.NoError(t, os.Truncate(rdb, 100_000)) }},
		{"empty", "the RDB has 0 bytes, the sidecar says 400000", func(t *testing.T, rdb, _ string) { require.NoError(t, os.Truncate(rdb, 0)) }},
		{"a flipped bit", "", func(t *testing.T, rdb, _ string) { change(t, rdb, func(b []byte) []byte { b[200_000] ^= 4; return b }) }},
		{"junk behind", "can't be decompressed", func(t *testing.T, rdb, _ string) {
			change(t, rdb, func(b []byte) []byte { return append(b, "junk"...) })
		}},
		{"a skippable frame behind", "it has", func(t *testing.T, rdb, _ string) {
			change(t, rdb, func(b []byte) []byte { return append(b, 0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0) })
		}},
		{"another RDB", "is longer", func(t *testing.T, rdb, _ string) {
			change(t, rdb, func(b []byte) []byte { return append(b, b...) })
		}},
		{"the last bit, which the RDB doesn't depend on", "CRC check failed", func(t *testing.T, rdb, _ string) {
			change(t, rdb, func(b []byte) []byte { b[len(b)-1] ^= 1; return b })
		}},
		{"a bit that zstd ignores", "SHA-256 is not", func(t *testing.T, rdb, _ string) {
			change(t, rdb, func(b []byte) []byte { b[4] ^= 1 << 4; return b }) // RFC 8878, 3.1.1.1.1: unused
		}},
		{"another sum", "SHA-256 is not", func(t *testing.T, _, sidecar string) {
			change(t, sidecar, func(b []byte) []byte {
				return bytes.Replace(b, []byte(`"stored_sha256": "`), []byte(`"stored_sha256": "0`), 1)
			})
		}},
		{"a sidecar that is no JSON", "not the JSON", func(t *testing.T, _, sidecar string) { require.NoError(t, os.Truncate(sidecar, 20)) }},
		{"another's sidecar", "what its name says", func(t *testing.T, _, sidecar string) {
			change(t, sidecar, func(b []byte) []byte { return bytes.Replace(b, []byte(`"offset": 100`), []byte(`"offset": 101`), 1) })
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, root := disk(t)
			require.NoError(t, archive.WriteTimeline(t.Context(), s, info(100)))
			_, err := writeSnapshot(t, s, archive.SnapshotInfo{Offset: 100, Time: begin}, bytes.NewReader(data))
			require.NoError(t, err)
			c.wound(t, filepath.Join(root, folder, name.RDB()), filepath.Join(root, folder, name.Sidecar()))
			got, err := readSnapshot(t, load(t, s).Snapshots[0])
			var damage *archive.DamageError
			require.ErrorAs(t, err, &damage)
			require.True(t, strings.HasPrefix(damage.Name, folder+"/snapshots/"), damage.Name)
			require.ErrorContains(t, err, c.says)
			require.LessOrEqual(t, len(got), 2*len(data))
		})
	}
}

func change(t *testing.T, path string, f func([]byte) []byte) {
	t.Helper()
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	changed := f(bytes.Clone(b))
	require.NotEqual(t, b, changed)
	require.NoError(t, os.WriteFile(path, changed, 0o600))
}

// timeline.json belongs to who wrote it first; the same again is no error.
func TestTimelinesAreWrittenOnce(t *testing.T) {
	s, _ := disk(t)
	require.NoError(t, archive.WriteTimeline(t.Context(), s, info(100)))
	require.NoError(t, archive.WriteTimeline(t.Context(), s, info(100)))
	other := info(100)
	other.Spool = "s2"
	require.ErrorIs(t, archive.WriteTimeline(t.Context(), s, other), fs.ErrExist)
	got, err := archive.ReadTimeline(t.Context(), s, "cache", timeline)
	require.NoError(t, err)
	want := info(100)
	want.Format = archive.FormatVersion
	require.Equal(t, want, got)

	e := archive.Event{Kind: archive.EventOutage, Offset: 100, Time: begin + 10, From: begin, Cause: "the link was down"}
	require.NoError(t, archive.WriteEvent(t.Context(), s, "cache", timeline, e))
	require.NoError(t, archive.WriteEvent(t.Context(), s, "cache", timeline, e))
	e.Cause = "something else"
	require.ErrorIs(t, archive.WriteEvent(t.Context(), s, "cache", timeline, e), fs.ErrExist)
	require.Error(t, archive.WriteEvent(t.Context(), s, "cache", timeline, archive.Event{Kind: "../x"}))

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = archive.Load(ctx, s, "cache")
	require.ErrorIs(t, err, context.Canceled)
}
