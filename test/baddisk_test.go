package test

import (
	"crypto/rand"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/engine/enginetest"
	"github.com/offloader/offloader/test/blackbox"
)

func onDisk(master *enginetest.Server, spool, store, minFree string) string {
	return fmt.Sprintf(`
sources: [{name: cache, address: %q}]
spool: {path: %s, max_size: 64MiB, min_free: %s}
stores: [{type: disk, path: %s}]
`, master.Addr(), spool, minFree, store)
}

// noise is a value that doesn't compress.
func noise(t *testing.T, n int) []byte {
	t.Helper()
	value := make([]byte, n)
	_, err := rand.Read(value)
	require.NoError(t, err)
	return value
}

// Where a disk is full nothing is lost: the daemon takes no more than it can keep, says why, and
// goes on when there is room.
func TestBadInputFullDisk(t *testing.T) {
	t.Parallel()
	kind := enginetest.Any(t)
	t.Run("min_free", func(t *testing.T) {
		master := enginetest.Start(t, kind)
		dir := t.TempDir()
		d := blackbox.StartWith(t, dir, onDisk(master, "$DIR/spool", "$DIR/archive", "99.9%"))
		s := d.Until("cache", "waiting", func(s blackbox.SourceStatus) bool { return s.State == "waiting" && s.Error != "" })
		require.Contains(t, s.Error, "spool.min_free")
		require.Contains(t, s.Hint, "free some space")
		require.Equal(t, "0", master.Info("stats")["sync_full"], "the master is left alone")
		check := d.Run("check")
		require.Equal(t, 1, check.Code, "%s", check)
		require.Contains(t, check.Stdout, "min_free")
		d.Rewrite(onDisk(master, "$DIR/spool", "$DIR/archive", "0%"))
		d.Stop()
		d.Restart()
		d.Streaming("cache")
	})
	t.Run("the spool's disk", func(t *testing.T) {
		disk := smallDisk(t, "24m")
		if disk == "" {
			return
		}
		master := enginetest.Start(t, kind, "--repl-backlog-size", "64mb")
		d := blackbox.StartWith(t, t.TempDir(), onDisk(master, disk+"/spool", "$DIR/archive", "5%"))
		d.Streaming("cache")
		master.Do("SET", "before", "1")
		require.EqualValues(t, 1, master.Do("WAIT", 1, 10_000))
		filler := fillDisk(t, disk)
		for i := range 50 { // the first may still fit into what is allocated
			master.Do("SET", fmt.Sprint("noise:", i), noise(t, 100_000))
			if master.Do("WAIT", 1, 1000).(int64) == 0 {
				break
			}
		}
		s := d.Until("cache", "waiting", func(s blackbox.SourceStatus) bool { return s.State == "waiting" && strings.Contains(s.Error, "full") })
		require.Contains(t, s.Hint, "free some space")
		require.EqualValues(t, 0, master.Do("WAIT", 1, 300))
		require.NoError(t, os.Remove(filler))
		d.Streaming("cache")
		require.EqualValues(t, 1, master.Do("WAIT", 1, 30_000))
		require.Equal(t, "1", master.Info("stats")["sync_full"])
		require.Equal(t, master.Digest(), d.Restore("--latest").Boot(kind).Digest())
	})
	t.Run("a full sync that doesn't fit", func(t *testing.T) {
		disk := smallDisk(t, "24m")
		if disk == "" {
			return
		}
		master := enginetest.Start(t, kind)
		for i := range 300 {
			master.Do("SET", fmt.Sprint("noise:", i), noise(t, 100_000))
		}
		d := blackbox.StartWith(t, t.TempDir(), onDisk(master, disk+"/spool", "$DIR/archive", "5%"))
		s := d.Until("cache", "refused", func(s blackbox.SourceStatus) bool { return strings.Contains(s.Error, "free") })
		require.Contains(t, s.Error, "spool")
		require.Zero(t, s.Durable)
		require.EqualValues(t, 0, master.Do("WAIT", 1, 300))
		require.Equal(t, 3, d.Run("restore", "--latest", "--dry-run").Code)
		out, err := exec.Command("mount", "-o", "remount,size=200m", disk).CombinedOutput()
		require.NoError(t, err, "%s", out)
		d.Streaming("cache")
		require.EqualValues(t, 1, master.Do("WAIT", 1, 30_000))
		require.Equal(t, master.Digest(), d.Restore("--latest").Boot(kind).Digest())
	})
	t.Run("the disk of a restore", func(t *testing.T) {
		disk := smallDisk(t, "2m")
		if disk == "" {
			return
		}
		master := enginetest.Start(t, kind)
		for i := range 50 {
			master.Do("SET", fmt.Sprint("noise:", i), noise(t, 100_000))
		}
		d := blackbox.Start(t, t.TempDir(), blackbox.Source{Name: "cache", Address: master.Addr()})
		d.Streaming("cache")
		r := d.Run("restore", "--latest", "--output", disk+"/out")
		require.Equal(t, 1, r.Code, "%s", r)
		require.Contains(t, r.Stderr, disk+"/out")
		require.Contains(t, r.Stderr, "free")
		require.Empty(t, files(t, disk))
		require.NoDirExists(t, disk+"/out")
	})
}

// An archive that can't be written can be read: a backup on a medium that is mounted read-only.
func TestBadInputReadOnlyArchive(t *testing.T) {
	t.Parallel()
	s := tell(t)
	dir := readOnly(t, s.dir)
	a := blackbox.ArchiveAt(t, dir)
	require.Equal(t, s.digests["latest"], a.Restore("--latest").Boot(s.kind).Digest())
	require.Equal(t, s.digests["before FLUSHALL"], a.Restore("--before", "FLUSHALL").Boot(s.kind).Digest())
	require.Contains(t, a.Do("list"), s.timeline)
	require.Contains(t, a.Do("log"), "FLUSHALL")

	master := enginetest.Start(t, s.kind)
	for _, args := range [][]string{
		{"run", "--master", master.Addr(), "--archive", dir},
		{"run", "--config", configFile(t, onDisk(master, filepath.Join(dir, ".spool"), t.TempDir(), "1%"))},
	} {
		r := blackbox.Run(t, args...)
		require.Equal(t, 1, r.Code, "%s", r)
		require.Contains(t, r.Stderr, dir)
		require.Regexp(t, "read-only|permission denied", r.Stderr)
		require.Contains(t, r.Stderr, "hint: ", "what to do")
	}
	require.Equal(t, "0", master.Info("stats")["sync_full"])

	// With its spool elsewhere a daemon could not bring anything there, now. The link doesn't wait
	// for that.
	d := blackbox.StartWith(t, t.TempDir(), onDisk(master, "$DIR/spool", dir, "1%"))
	status := d.Until("cache", "behind", func(s blackbox.SourceStatus) bool {
		return s.State == "streaming" && s.Stores[0].Error != ""
	})
	require.Regexp(t, "read-only|permission denied", status.Stores[0].Error)
	require.NotEmpty(t, status.Stores[0].Hint)
	require.EqualValues(t, 1, master.Do("WAIT", 1, 10_000))
	require.NotNil(t, status.Suspect, "the archive has keys of this source, and this master has none")
	require.Equal(t, s.timeline, d.Aim("--latest").Timeline)
	require.Equal(t, master.Digest(), d.Restore("--latest", "--timeline", status.Timeline).Boot(s.kind).Digest())
	d.Stop()

	check := blackbox.Run(t, "check", "--master", master.Addr(), "--archive", dir)
	require.Equal(t, 1, check.Code, "%s", check)
	require.Regexp(t, "FAIL +store.*(read-only|permission denied)", check.Stdout)
}

// readOnly is a copy of a folder that this process can't write.
func readOnly(t *testing.T, dir string) string {
	t.Helper()
	disk := smallDisk(t, "64m")
	to := filepath.Join(disk, "archive")
	if disk == "" {
		to = filepath.Join(t.TempDir(), "archive")
	}
	out, err := exec.Command("cp", "-r", dir, to).CombinedOutput()
	require.NoError(t, err, "%s", out)
	if disk != "" {
		out, err = exec.Command("mount", "-o", "remount,ro", disk).CombinedOutput()
		require.NoError(t, err, "%s", out)
		return to
	}
	lock := func(mode fs.FileMode) {
		require.NoError(t, filepath.WalkDir(to, func(path string, e fs.DirEntry, err error) error {
			if err == nil && e.IsDir() {
				err = os.Chmod(path, mode)
			}
			return err
		}))
	}
	lock(0o500)
	t.Cleanup(func() { lock(0o700) })
	return to
}

// configFile writes a configuration that has a port of its own.
func configFile(t *testing.T, yaml string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "offloader.yaml")
	yaml += fmt.Sprintf("\nhttp: {listen: '127.0.0.1:%d'}\n", enginetest.FreePort(t))
	require.NoError(t, os.WriteFile(file, []byte(yaml), 0o600))
	return file
}
