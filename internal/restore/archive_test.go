package restore

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/crc64"
	"github.com/offloader/offloader/internal/plan"
	"github.com/offloader/offloader/internal/replay"
	"github.com/offloader/offloader/internal/store"
	"github.com/offloader/offloader/internal/stream"
)

// An archive on disk of which a byte is another, or the end is missing: the restore says which file
// it is, and writes nothing.
func TestFlippedAndCutFiles(t *testing.T) {
	root := t.TempDir()
	d, err := store.OpenDisk(t.Context(), root, store.Options{})
	require.NoError(t, err)
	fillArchive(t, d, 5000, 5000, 2000)
	var files []string
	require.NoError(t, filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if strings.HasSuffix(path, ".zst") {
			files = append(files, path)
		}
		return err
	}))
	require.GreaterOrEqual(t, len(files), 3)
	for _, file := range files {
		whole, err := os.ReadFile(file)
		require.NoError(t, err)
		for i := range 8 {
			at := len(whole) * i / 8
			for wound, b := range map[string][]byte{
				"flip": append(append(whole[:at:at], whole[at]^4), whole[at+1:]...), "cut": whole[:at], "more": append(whole[:len(whole):len(whole)], whole[:at+1]...),
			} {
				require.NoError(t, os.WriteFile(file, b, 0o600))
				out := filepath.Join(t.TempDir(), "out")
				err = restoreAll(t, d, out)
				var damage *archive.DamageError
				require.ErrorAs(t, err, &damage, "%s at %d of %s", wound, at, file)
				require.True(t, strings.HasSuffix(file, strings.TrimPrefix(damage.Name, "bench/")), "%s is blamed for %s", damage.Name, file)
				require.Empty(t, entries(t, filepath.Dir(out)))
			}
		}
		require.NoError(t, os.WriteFile(file, whole, 0o600))
	}
	require.NoError(t, restoreAll(t, d, filepath.Join(t.TempDir(), "out")))

	require.NoError(t, os.Remove(files[0]))
	var unreachable *plan.UnreachableError
	require.True(t, errors.As(restoreAll(t, d, filepath.Join(t.TempDir(), "out")), &unreachable))
}

// Keys are counted the same whether the RDB has to be walked for it or not.
func TestKeysOfASnapshotAlone(t *testing.T) {
	d, err := store.OpenDisk(t.Context(), t.TempDir(), store.Options{})
	require.NoError(t, err)
	fillArchive(t, d, 5000, 0, 2000)
	cat, err := archive.Load(t.Context(), d, "bench")
	require.NoError(t, err)
	snapshot := &cat.Timelines[0].Snapshots[0]
	told := snapshot.Info
	for _, walked := range []bool{false, true} {
		snapshot.Info = func(ctx context.Context) (archive.SnapshotInfo, error) {
			info, err := told(ctx)
			if walked {
				info.Keys = nil
			}
			return info, err
		}
		report, err := run(t.Context(), cat, plan.Request{}, Options{Output: filepath.Join(t.TempDir(), "out"), Now: 1})
		require.NoError(t, err)
		require.EqualValues(t, 43, *report.Keys)
		require.Zero(t, *report.Expired)
		require.Empty(t, report.KeysNote)
	}
}

func restoreAll(t *testing.T, d *store.Disk, out string) error {
	load := func(ctx context.Context) (*archive.Catalog, error) { return archive.Load(ctx, d, "bench") }
	return replay.Run(t.Context(), load, plan.Request{}, func(ctx context.Context, r *replay.Replay) error {
		_, err := To(ctx, r, Options{Output: out})
		return err
	})
}

// fillArchive stores a snapshot of rdb bytes and a log of so many, in files of segment bytes: values
// of 100 bytes, of which half is text and half random.
func fillArchive(b testing.TB, d *store.Disk, rdb, log, segment int) {
	id := stream.ReplID(strings.Repeat("ab", 20))
	name := archive.TimelineName(1_700_000_000_000, id)
	info := archive.TimelineInfo{Format: archive.FormatVersion, Source: "bench", Timeline: name, ReplID: id, Began: 1_700_000_000_000, Engine: "redis"}
	require.NoError(b, archive.WriteTimeline(b.Context(), d, info))
	enc, err := archive.NewEncoder()
	require.NoError(b, err)
	r := rand.New(rand.NewPCG(1, 2))
	pr, pw := io.Pipe()
	go func() { pw.CloseWithError(writeRDB(pw, rdb, r)) }()
	_, err = archive.WriteSnapshot(b.Context(), d, enc, "bench", name,
		archive.SnapshotInfo{Time: 1_700_000_000_000, RDBVersion: 11, Keys: map[string]int64{"0": int64(rdb+118) / 119}}, pr)
	require.NoError(b, err)

	for from, at := stream.Offset(0), stream.Time(1_700_000_000_000); from < stream.Offset(log); {
		tmp := filepath.Join(b.TempDir(), "segment")
		f, err := os.Create(tmp)
		require.NoError(b, err)
		w, err := archive.NewSegmentWriter(f, enc, archive.SegmentHead{Source: "bench", Timeline: name, ReplID: id, From: stream.Cursor{Offset: from}})
		require.NoError(b, err)
		var piece []byte
		for n := 0; n < min(log, segment); n += len(piece) {
			piece = piece[:0]
			for len(piece) < min(segment, 16<<10) {
				piece = fmt.Appendf(piece, "*3\r\n$3\r\nSET\r\n$16\r\nkey:%012d\r\n$100\r\n%s\r\n", r.IntN(1e6), value(r))
			}
			require.NoError(b, w.Write(stream.Piece{At: from + stream.Offset(n), Time: at, Data: piece}))
			at += 10
		}
		sealed, err := w.Close()
		require.NoError(b, err)
		_, err = f.Seek(0, io.SeekStart)
		require.NoError(b, err)
		require.NoError(b, d.Put(b.Context(), "bench/"+name+"/"+sealed.String(), f))
		require.NoError(b, f.Close())
		from = sealed.To
	}
}

func value(r *rand.Rand) string {
	const text = `{"session":"active","user":{"name":"somebody","roles":["reader"]},"hits":42}` + "                              "
	return text[:50] + fmt.Sprintf("%016x%016x%018x", r.Uint64(), r.Uint64(), r.Uint64())
}

// writeRDB writes string keys.
func writeRDB(w io.Writer, size int, r *rand.Rand) error {
	sum := uint64(0)
	out := bufio.NewWriterSize(writerFunc(func(p []byte) (int, error) {
		sum = crc64.Update(sum, p)
		return w.Write(p)
	}), 1<<20)
	_, err := out.WriteString("REDIS0011\xfe\x00")
	for n := 0; err == nil && n < size; n += 119 {
		_, err = fmt.Fprintf(out, "\x00\x10key:%012d\x40\x64%s", n/119, value(r))
	}
	if err == nil {
		err = out.WriteByte(0xff)
	}
	if err == nil {
		err = out.Flush()
	}
	if err == nil {
		err = binary.Write(w, binary.LittleEndian, sum)
	}
	return err
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
