package restore

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/plan"
	"github.com/offloader/offloader/internal/replay"
	"github.com/offloader/offloader/internal/store"
)

// BenchmarkRestore restores an AOF directory from an archive on disk, and copies and fsyncs the same
// files for comparison. The bound is a ratio of 1.3, on two cores that nobody else works on; where
// somebody does, the seconds of CPU that each takes say more.
func BenchmarkRestore(b *testing.B) {
	const size = 256 << 20
	for _, c := range []struct {
		name     string
		rdb, log int
	}{{"half", size / 2, size / 2}, {"rdb", size, 0}, {"log", 0, size}} {
		b.Run(c.name, func(b *testing.B) { benchmarkRestore(b, c.rdb, c.log) })
	}
}

func benchmarkRestore(b *testing.B, rdb, log int) {
	root := b.TempDir()
	files, err := store.OpenDisk(b.Context(), root, store.Options{})
	require.NoError(b, err)
	fillArchive(b, files, rdb, log, 32<<20)
	load := func(ctx context.Context) (*archive.Catalog, error) { return archive.Load(ctx, files, "bench") }

	var restored, copied, restoredCPU, copiedCPU time.Duration
	var bytes int64
	for i := 0; b.Loop(); i++ {
		out := filepath.Join(root, fmt.Sprintf(".out%d", i))
		start, cpu := time.Now(), cpuTime(b)
		err := replay.Run(b.Context(), load, plan.Request{}, func(ctx context.Context, r *replay.Replay) error {
			report, err := To(ctx, r, Options{Output: out, Now: 1})
			if err == nil {
				bytes = report.Bytes
			}
			return err
		})
		require.NoError(b, err)
		restored, restoredCPU = restored+time.Since(start), restoredCPU+cpuTime(b)-cpu

		start, cpu = time.Now(), cpuTime(b)
		copyAll(b, filepath.Join(out, folderName), out+".copy")
		copied, copiedCPU = copied+time.Since(start), copiedCPU+cpuTime(b)-cpu
		require.NoError(b, os.RemoveAll(out))
		require.NoError(b, os.RemoveAll(out+".copy"))
	}
	b.SetBytes(bytes)
	all := float64(bytes) * float64(b.N) / 1e9
	b.ReportMetric(restored.Seconds()/copied.Seconds(), "ratio-to-copy")
	b.ReportMetric(all*1e3/copied.Seconds(), "copy-MB/s")
	b.ReportMetric(restoredCPU.Seconds()/all, "cpu-s/GB")
	b.ReportMetric(copiedCPU.Seconds()/all, "copy-cpu-s/GB")
}

// cpuTime is what this process has used, for itself and in the kernel.
func cpuTime(b *testing.B) time.Duration {
	var u unix.Rusage
	require.NoError(b, unix.Getrusage(unix.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func copyAll(b *testing.B, from, to string) {
	require.NoError(b, os.Mkdir(to, 0o755))
	entries, err := os.ReadDir(from)
	require.NoError(b, err)
	for _, e := range entries {
		in, err := os.Open(filepath.Join(from, e.Name()))
		require.NoError(b, err)
		out, err := os.Create(filepath.Join(to, e.Name()))
		require.NoError(b, err)
		// Through memory, as cp does where it can't share blocks.
		_, err = io.CopyBuffer(struct{ io.Writer }{out}, struct{ io.Reader }{in}, make([]byte, 1<<20))
		require.NoError(b, err)
		require.NoError(b, out.Sync())
		require.NoError(b, out.Close())
		require.NoError(b, in.Close())
	}
}
