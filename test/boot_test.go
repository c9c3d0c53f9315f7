package test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/engine/enginetest"
	"github.com/offloader/offloader/test/blackbox"
)

// booted is what `offloader verify --boot --json` prints, as far as tests look at it.
type booted struct {
	Offset  int64            `json:"offset"`
	By      string           `json:"counted_by"`
	Counted map[string]int64 `json:"counted"`
	Keys    map[string]int64 `json:"keys"`
	Engine  string           `json:"engine"`
	To      *blackbox.Place  `json:"to"`
	Notes   []string         `json:"notes"`
}

// program is an engine's server under the name that it has on people's machines, and the PATH that finds it
// and no other.
func program(t *testing.T, kind enginetest.Kind, before ...string) (path string) {
	t.Helper()
	name := "redis-server"
	if kind.Valkey() {
		name = "valkey-server"
	}
	dir := t.TempDir()
	script := fmt.Sprintf("#!/bin/sh\n%s\nexec '%s' \"$@\"\n", strings.Join(before, "\n"), kind.Tool("server"))
	require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(script), 0o700))
	return "PATH=" + dir
}

// boot runs verify --boot, which leaves no folder behind, however it ends.
func boot(t *testing.T, a blackbox.Archive, path string, code int, args ...string) (b booted, said string) {
	t.Helper()
	tmp := t.TempDir()
	r := a.WithEnv(path, "TMPDIR="+tmp).Run(append([]string{"verify", "--boot", "--json"}, args...)...)
	require.Equal(t, code, r.Code, "%s", r)
	left, err := os.ReadDir(tmp)
	require.NoError(t, err)
	require.Empty(t, left)
	if r.Stdout != "" {
		require.NoError(t, json.Unmarshal([]byte(r.Stdout), &b), "%s", r)
	}
	return b, r.Stderr
}

// ready is what check says of whether persistence may go.
func ready(t *testing.T, d *blackbox.Daemon) (level, message, hint string) {
	t.Helper()
	var report struct {
		Checks []struct{ Name, Level, Message, Hint string } `json:"checks"`
	}
	r := d.Run("check", "--json")
	require.NoError(t, json.Unmarshal([]byte(r.Stdout), &report), "%s", r)
	for _, f := range report.Checks {
		if f.Name == "ready" {
			return f.Level, f.Message, f.Hint
		}
	}
	return "", "", ""
}

// keyspace is how many keys a master holds, by database.
func keyspace(s *enginetest.Server) map[string]int64 {
	keys := map[string]int64{}
	for name, value := range s.Info("keyspace") {
		var n int64
		if _, err := fmt.Sscanf(value, "keys=%d,", &n); err == nil {
			keys[strings.TrimPrefix(name, "db")] = n
		}
	}
	return keys
}

// copyOf is a copy of an archive, without the spool.
func copyOf(t *testing.T, dir string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "archive")
	out, err := exec.Command("cp", "-r", dir, to).CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.NoError(t, os.RemoveAll(filepath.Join(to, ".spool")))
	return to
}

func elsewhere(t *testing.T, dir string) blackbox.Archive {
	t.Helper()
	return blackbox.ArchiveAt(t, copyOf(t, dir))
}

// TestBoot: an engine that replays the archive holds as many keys as the master had, while that is written to and
// keys expire, with a daemon and without. Before that, check says that it isn't proved.
func TestBoot(t *testing.T) {
	t.Parallel()
	enginetest.Each(t, func(t *testing.T, kind enginetest.Kind) {
		t.Parallel()
		master, path := enginetest.Start(t, kind), program(t, kind)
		master.Do("SET", "in the snapshot", "1")
		w := working(t, master, 300)
		d := blackbox.Start(t, t.TempDir(), blackbox.Source{Name: "cache", Address: master.Addr()})
		d.Streaming("cache")
		require.NoError(t, w.Run(t.Context(), 300))
		d.Until("cache", "some of it is in the store", func(s blackbox.SourceStatus) bool { return s.Stores[0].Stored > 0 })
		level, message, hint := ready(t, d)
		require.Equal(t, "warn", level)
		require.Contains(t, message, "not ready to switch the master's persistence off")

		alone, _ := boot(t, elsewhere(t, d.Dir), path, 0) // there is no daemon to ask, and no count yet
		require.Equal(t, "snapshot", alone.By)
		require.Contains(t, strings.Join(alone.Notes, " "), "the snapshot alone was proved")
		level, _, _ = ready(t, d)
		require.Equal(t, "warn", level, "that was no proof of the log")

		stop := load(t, master, 2)
		words := strings.Fields(hint)
		require.Equal(t, "offloader", words[0], "what check says to do is done")
		r := d.WithEnv(path).Run(append(words[1:3:3], "--source", "cache", "--json")...)
		require.Equal(t, 0, r.Code, "%s", r)
		stop()
		level, message, _ = ready(t, d)
		require.Equal(t, "ok", level)
		require.Contains(t, message, "ready to switch the master's persistence off")

		acknowledged(t, master, 1)
		still, _ := boot(t, d.Archive, path, 0)
		require.Equal(t, "master", still.By)
		require.Equal(t, keyspace(master), still.Keys)
		require.Contains(t, still.Engine, kind.Version())
		master.Do("FLUSHALL")
		master.Do("SET", "a", "1")
		acknowledged(t, master, 1)
		d.Stop()
		again, _ := boot(t, d.Archive, path, 0)
		require.Equal(t, still.Offset, again.Offset, "the last count, since there is no daemon")
		further, _ := boot(t, d.Archive, path, 0, "--latest")
		require.Equal(t, still.Offset, further.Offset)
		require.Greater(t, further.To.Offset, still.Offset)
		require.Len(t, d.Archive.Timelines("cache"), 1)
	})
}

// wounded stores a snapshot's RDB anew with a key missing, such that all sums are right.
func wounded(t *testing.T, kind enginetest.Kind, timeline, key string) {
	t.Helper()
	file := oneOf(t, filepath.Join(timeline, "snapshots", "*.rdb.zst"))
	sidecar := strings.TrimSuffix(file, ".rdb.zst") + ".json"
	stored, err := os.ReadFile(file)
	require.NoError(t, err)
	dec, err := zstd.NewReader(nil)
	require.NoError(t, err)
	defer dec.Close()
	rdb, err := dec.DecodeAll(stored, nil)
	require.NoError(t, err)
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "dump.rdb"), rdb, 0o600))
	s := enginetest.StartIn(t, kind, dir)
	require.EqualValues(t, 1, s.Do("DEL", key))
	s.Do("SAVE")
	rdb, err = os.ReadFile(filepath.Join(dir, "dump.rdb"))
	require.NoError(t, err)
	enc, err := zstd.NewWriter(nil)
	require.NoError(t, err)
	stored = enc.EncodeAll(rdb, nil)
	require.NoError(t, os.WriteFile(file, stored, 0o600))

	var info archive.SnapshotInfo
	text, err := os.ReadFile(sidecar)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(text, &info))
	sum := func(b []byte) string { s := sha256.Sum256(b); return hex.EncodeToString(s[:]) }
	info.Bytes, info.SHA256, info.StoredBytes, info.StoredSHA256 = int64(len(rdb)), sum(rdb), int64(len(stored)), sum(stored)
	info.Keys = keyspace(s)
	text, err = json.Marshal(info)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(sidecar, text, 0o600))
}

func oneOf(t *testing.T, pattern string) string {
	t.Helper()
	found, err := filepath.Glob(pattern)
	require.NoError(t, err)
	require.Len(t, found, 1)
	return found[0]
}

// Whatever is wrong with the archive, or with the engine, a boot says so, and is never green.
func TestBootFindsWounds(t *testing.T) {
	t.Parallel()
	enginetest.Each(t, func(t *testing.T, kind enginetest.Kind) {
		t.Parallel()
		master, path := enginetest.Start(t, kind), program(t, kind)
		for i := range 20 {
			master.Do("SET", fmt.Sprint("in the snapshot:", i), i)
		}
		d := blackbox.Start(t, t.TempDir(), blackbox.Source{Name: "cache", Address: master.Addr()})
		began := d.Streaming("cache")
		for i := range 20 {
			master.Do("SET", fmt.Sprint("in the log:", i), i)
		}
		acknowledged(t, master, 1)
		boot(t, d.Archive, path, 0)
		d.Stop()
		timeline := func(dir string) string { return filepath.Join(dir, "cache", began.Timeline) }
		good, _ := boot(t, elsewhere(t, d.Dir), path, 0)
		require.Equal(t, "master", good.By, "what is in the store is enough, elsewhere and later")

		dir := copyOf(t, d.Dir)
		wounded(t, kind, timeline(dir), "in the snapshot:7")
		require.Equal(t, 0, blackbox.ArchiveAt(t, dir).Run("verify").Code, "each file is as it was written")
		bad, said := boot(t, blackbox.ArchiveAt(t, dir), path, 4)
		require.Equal(t, map[string]int64{"0": 39}, bad.Keys)
		require.Equal(t, map[string]int64{"0": 40}, bad.Counted)
		require.Contains(t, said, "holds 39 keys in database 0, and the master had 40")
		require.Contains(t, said, "keep the master's own persistence on")

		dir = copyOf(t, d.Dir)
		require.NoError(t, os.Remove(oneOf(t, filepath.Join(timeline(dir), "log", "*.aof.zst"))))
		_, said = boot(t, blackbox.ArchiveAt(t, dir), path, 3)
		require.Contains(t, said, "it is after the last offset held")

		dir = copyOf(t, d.Dir)
		damage(t, filepath.Join(timeline(dir), "log", "*.aof.zst"), wounds["a bit that flipped"])
		boot(t, blackbox.ArchiveAt(t, dir), path, 4)
		dir = copyOf(t, d.Dir)
		damage(t, filepath.Join(timeline(dir), "snapshots", "*.rdb.zst"), wounds["a bit that flipped"])
		boot(t, blackbox.ArchiveAt(t, dir), path, 4)

		_, said = boot(t, elsewhere(t, d.Dir), "PATH="+t.TempDir(), 1)
		require.Contains(t, said, "-server is looked for in PATH, and where a configuration says")
		_, said = boot(t, elsewhere(t, d.Dir), program(t, kind, `[ "$1" != - ] || exit 7`), 1)
		require.Contains(t, said, "it ended at once (exit status 7)")
		_, said = boot(t, elsewhere(t, d.Dir), program(t, kind, `[ "$1" != - ] || ulimit -v 20000`), 1)
		require.Contains(t, said, "a scratch engine, "+good.Engine)
		for _, other := range enginetest.All(t) {
			if other.Valkey() == kind.Valkey() && other.String() < kind.String() {
				_, said = boot(t, elsewhere(t, d.Dir), program(t, other), 1)
				require.Contains(t, said, other.Version()+", and an RDB of version ")
				require.Contains(t, said, " or newer")
			}
		}

		dir = copyOf(t, d.Dir) // by its counts, the dataset has grown beyond all machines
		damage(t, filepath.Join(timeline(dir), "events", "*-counted.json"), func(b []byte) []byte {
			return bytes.ReplaceAll(b, []byte(`"0": 40`), []byte(`"0": 4000000000`))
		})
		_, said = boot(t, blackbox.ArchiveAt(t, dir), path, 1)
		require.Contains(t, said, "are free here for this process and its children")
	})
}

// What is encrypted is opened with an identity, or not booted.
func TestBootEncrypted(t *testing.T) {
	t.Parallel()
	kind := enginetest.Any(t)
	master, path, key := enginetest.Start(t, kind), program(t, kind), filepath.Join(t.TempDir(), "key")
	master.Do("SET", "a", "1")
	d := blackbox.StartWith(t, t.TempDir(), encryption(t, key)+fmt.Sprintf(`
sources: [{name: cache, address: %q}]
spool: {path: $DIR/spool, min_free: 1%%}
stores: [{type: disk, path: $DIR/archive}]
`, master.Addr()))
	d.Streaming("cache")
	master.Do("SET", "b", "2")
	acknowledged(t, master, 1)
	boot(t, d.Archive, path, 0, "--identity", key) // the master is counted
	d.Stop()
	with, _ := boot(t, elsewhere(t, d.Dir), path, 0, "--identity", key)
	require.Equal(t, "master", with.By)
	require.Equal(t, map[string]int64{"0": 2}, with.Keys)
	_, said := boot(t, elsewhere(t, d.Dir), path, 2)
	require.Contains(t, said, "--identity")
}

// Ended in the middle, in whatever way, it leaves neither a process nor a folder.
func TestBootEndsWhole(t *testing.T) {
	t.Parallel()
	kind := enginetest.Any(t)
	master, pidFile := enginetest.Start(t, kind), filepath.Join(t.TempDir(), "pid")
	path := program(t, kind, fmt.Sprintf(`[ "$1" != - ] || echo $$ > '%s'`, pidFile))
	master.Do("DEBUG", "POPULATE", 1_000_000)
	d := blackbox.Start(t, t.TempDir(), blackbox.Source{Name: "cache", Address: master.Addr()})
	d.Streaming("cache")
	acknowledged(t, master, 1)
	d.Stop()
	for name, signal := range map[string]syscall.Signal{"killed": syscall.SIGKILL, "asked to": syscall.SIGTERM, "by Ctrl-C": syscall.SIGINT} {
		t.Run(name, func(t *testing.T) {
			require.NoError(t, os.RemoveAll(pidFile))
			tmp := t.TempDir()
			cmd := exec.Command(blackbox.Binary(t), "verify", "--boot", "--archive", d.Dir)
			cmd.Env = append(os.Environ(), path, "TMPDIR="+tmp)
			cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
			require.NoError(t, cmd.Start())
			var engine int
			require.Eventually(t, func() bool { // it runs, and its folder is gone
				text, _ := os.ReadFile(pidFile)
				left, err := os.ReadDir(tmp)
				_, scanned := fmt.Sscan(string(text), &engine)
				return err == nil && len(left) == 0 && scanned == nil
			}, 30*time.Second, time.Millisecond)
			require.NoError(t, cmd.Process.Signal(signal))
			require.Error(t, cmd.Wait(), "it was not done")
			require.Eventually(t, func() bool {
				stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", engine))
				return err != nil || strings.Contains(string(stat), ") Z ") // nobody reaps it in a container
			}, 10*time.Second, 10*time.Millisecond)
			left, err := os.ReadDir(tmp)
			require.NoError(t, err)
			require.Empty(t, left)
		})
	}
}

// By schedule the daemon boots what it archives, and says how that went.
func TestBootBySchedule(t *testing.T) {
	t.Parallel() // it waits for the clock
	kind := enginetest.Any(t)
	master, path, dir := enginetest.Start(t, kind), program(t, kind), t.TempDir()
	master.Do("SET", "a", "1")
	found := oneOf(t, filepath.Join(strings.TrimPrefix(path, "PATH="), "*-server"))
	d := blackbox.StartWith(t, dir, fmt.Sprintf(`
sources: [{name: cache, address: %q}]
spool: {path: $DIR/spool, min_free: 1%%}
stores: [{type: disk, path: $DIR/archive}]
verify: {schedule: "@every 1m", boot: true}
engine: {redis: %q, valkey: %q}
`, master.Addr(), found, found))
	d.Streaming("cache")
	d.Stop()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "spool", ".jobs.json"), []byte(`{"boot cache": "2026-01-01T00:00:00Z"}`), 0o600)) // it was missed
	d.Restart()
	require.Eventually(t, func() bool {
		return strings.Contains(d.Get("/metrics"), `offloader_boot_findings{source="cache"} 0`)
	}, time.Minute, 100*time.Millisecond)
	require.Regexp(t, `offloader_store_booted_timestamp_seconds\{source="cache",store="[^"]+"\} [1-9]`, d.Get("/metrics"))
	require.Regexp(t, `, booted [0-9:]+`, d.Do("status"))
	require.Eventually(t, func() bool { level, _, _ := ready(t, d); return level == "ok" }, 10*time.Second, 200*time.Millisecond)
}
