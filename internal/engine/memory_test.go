package engine

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

const gib = 1 << 30

// host is a root with what the kernel says.
func host(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	}
	return root
}

func TestFree(t *testing.T) {
	meminfo := "MemTotal:       33554432 kB\nMemFree:         1048576 kB\nMemAvailable:   16777216 kB\n"
	for name, row := range map[string]struct {
		files map[string]string
		want  int64
	}{
		"a machine":               {map[string]string{"proc/meminfo": meminfo}, 16 * gib},
		"a group without a bound": {map[string]string{"proc/meminfo": meminfo, "proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/memory.max": "max\n"}, 16 * gib},
		"a group": {map[string]string{"proc/meminfo": meminfo, "proc/self/cgroup": "0::/a/b\n",
			"sys/fs/cgroup/a/b/memory.max": "4294967296\n", "sys/fs/cgroup/a/b/memory.current": "2147483648\n",
			"sys/fs/cgroup/a/b/memory.stat": "anon 1\nfile 1073741824\ninactive_file 1073741824\n"}, 3 * gib},
		"a group above": {map[string]string{"proc/meminfo": meminfo, "proc/self/cgroup": "1:name=systemd:/x\n0::/a/b\n",
			"sys/fs/cgroup/a/b/memory.max": "4294967296\n", "sys/fs/cgroup/a/memory.max": "1073741824", "sys/fs/cgroup/a/memory.current": "0"}, gib},
		"a container": {map[string]string{"proc/meminfo": meminfo, "proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "2147483648\n"}, 2 * gib},
		"a group that is full": {map[string]string{"proc/meminfo": meminfo, "proc/self/cgroup": "0::/a\n",
			"sys/fs/cgroup/a/memory.max": "1000", "sys/fs/cgroup/a/memory.current": "2000"}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := free(host(t, row.files))
			require.NoError(t, err)
			require.Equal(t, row.want, got)
		})
	}
	got, err := free(host(t, nil)) // ProcSubset=pid hides it
	require.NoError(t, err)
	require.Positive(t, got)
}

func TestRoom(t *testing.T) {
	most, err := Room(1)
	require.NoError(t, err)
	require.Greater(t, most, int64(spare))
	_, err = Room(most)
	var small *MemoryError
	require.ErrorAs(t, err, &small, "a quarter is to spare")
	require.Contains(t, small.Error(), "are free here")
	require.NotEmpty(t, small.Hint())
}

func TestJournal(t *testing.T) {
	j := &journal{}
	for _, part := range []string{"1:S 25 Nov 2026 22:02:43.613 # == CRIT", "ICAL == This replica is sending an error\n", "\n", "plain: words - as they are\n"} {
		n, err := j.Write([]byte(part))
		require.NoError(t, err)
		require.Equal(t, len(part), n)
	}
	require.Equal(t, []string{"== CRITICAL == This replica is sending an error"}, j.complaints())
	for range 1000 {
		_, _ = j.Write(make([]byte, 10_000))
		_, _ = j.Write([]byte("\n12:M 25 Nov 2026 22:02:43.613 * one of many\n"))
	}
	_, _ = j.Write([]byte("unfinished"))
	last := j.last()
	require.Equal(t, "unfinished", last[len(last)-1])
	require.Equal(t, "one of many", last[len(last)-2])
	require.LessOrEqual(t, len(last), lastLines+1)
	require.LessOrEqual(t, cap(j.part), 2*maxLine)
}
