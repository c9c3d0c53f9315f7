package test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/engine/enginetest"
	"github.com/offloader/offloader/internal/store/s3test"
	"github.com/offloader/offloader/test/blackbox"
)

// exported exports into a new folder, as dump.rdb, which must succeed.
func exported(t *testing.T, d *blackbox.Daemon, args ...string) (r blackbox.Export, dir string) {
	t.Helper()
	dir = t.TempDir()
	to := filepath.Join(dir, "dump.rdb")
	require.NoError(t, json.Unmarshal([]byte(d.Do(slices.Concat([]string{"export", "--json", "--to", to}, args)...)), &r))
	require.Equal(t, to, r.To)
	info, err := os.Stat(to)
	require.NoError(t, err)
	require.Equal(t, info.Size(), r.Bytes)
	return r, dir
}

// An export of now, under load, is what a restore of the same offset is. Engines boot from it as
// from a dump.rdb of their own.
func TestExport(t *testing.T) {
	t.Parallel()
	enginetest.Each(t, func(t *testing.T, kind enginetest.Kind) {
		t.Parallel()
		master := enginetest.Start(t, kind)
		fill(t, master, "before")
		d := blackbox.StartWith(t, t.TempDir(), smallSpool(master))
		began := d.Streaming("cache")
		stop := load(t, master, 2)
		now, dir := exported(t, d)
		stop()
		require.Equal(t, "cache", now.Source)
		require.Equal(t, began.Timeline, now.Timeline)
		acknowledged(t, master, 1)
		restored := d.Restore("--offset", fmt.Sprint(now.Offset))
		require.Equal(t, restored.Boot(kind).Digest(), enginetest.StartIn(t, kind, dir).Digest())
		require.Positive(t, *now.Keys)
		require.EqualValues(t, 1, d.Source("cache").FullResyncs)
		require.Equal(t, "streaming", d.Source("cache").State)
	})
}

// Of an archive that its daemon can't read, an export of now needs no identity. One at a snapshot's
// offset does; at others there is none, and the nearest are named.
func TestExportOfAnEncryptedArchive(t *testing.T) {
	t.Parallel()
	kind := enginetest.Any(t)
	key := filepath.Join(t.TempDir(), "key.txt")
	master := enginetest.Start(t, kind)
	fill(t, master, "before")
	d := blackbox.StartWith(t, t.TempDir(), smallSpool(master)+encryption(t, key))
	began := d.Streaming("cache")
	master.Do("SET", "later", "1")
	acknowledged(t, master, 1)
	digest := master.Digest()
	now, dir := exported(t, d)
	require.Equal(t, digest, enginetest.StartIn(t, kind, dir).Digest())
	master.Do("SET", "later", "2")
	acknowledged(t, master, 1)
	digest = master.Digest()
	var taken struct{ Offset int64 }
	require.NoError(t, json.Unmarshal([]byte(d.Do("snapshot", "--json")), &taken))
	fill(t, master, "after")
	acknowledged(t, master, 1)
	at := fmt.Sprint(taken.Offset)
	snapshot, dir := exported(t, d, "--offset", at, "--identity", key)
	require.Equal(t, taken.Offset, snapshot.Offset)
	require.Equal(t, digest, enginetest.StartIn(t, kind, dir).Digest())

	to := filepath.Join(t.TempDir(), "dump.rdb")
	r := d.Run("export", "--offset", at, "--to", to)
	require.Equal(t, 2, r.Code, "%s", r)
	r = d.Run("export", "--offset", fmt.Sprint(now.Offset), "--to", to, "--identity", key)
	require.Equal(t, 3, r.Code, "%s", r)
	require.Contains(t, r.Stderr, fmt.Sprintf("the nearest snapshots are at offset %d (", began.LastSnapshot.Offset))
	require.Contains(t, r.Stderr, fmt.Sprintf(") and offset %d (", taken.Offset))
	require.NoFileExists(t, to)

	// What is there is not touched, whatever is to be exported.
	before, err := os.ReadFile(snapshot.To)
	require.NoError(t, err)
	for _, args := range [][]string{{}, {"--offset", at, "--identity", key}} {
		r := d.Run(slices.Concat([]string{"export", "--to", snapshot.To}, args)...)
		require.Equal(t, 1, r.Code, "%s", r)
		require.Contains(t, r.Stderr, "exists, and nothing is ever overwritten")
	}
	after, err := os.ReadFile(snapshot.To)
	require.NoError(t, err)
	require.Equal(t, before, after)
	require.Equal(t, []string{snapshot.To}, files(t, dir))

	// That the log leads to it from another snapshot makes no export.
	damage(t, filepath.Join(d.Dir, "cache", "*", "snapshots", fmt.Sprintf("%020d-*.age", taken.Offset)), func(b []byte) []byte {
		b[len(b)/2] ^= 1
		return b
	})
	r = d.Run("export", "--offset", at, "--to", to, "--identity", key)
	require.Equal(t, 4, r.Code, "%s", r)
	require.NoFileExists(t, to)
}

// An export that is cut off leaves nothing that could be taken for one: when it is told to stop,
// when the daemon dies, when the master does.
func TestExportCutOff(t *testing.T) {
	t.Parallel()
	kind := enginetest.Any(t)
	for name, cut := range map[string]func(command *exec.Cmd, d *blackbox.Daemon, master *enginetest.Server){
		"Ctrl-C":     func(c *exec.Cmd, _ *blackbox.Daemon, _ *enginetest.Server) { _ = c.Process.Signal(syscall.SIGINT) },
		"the daemon": func(_ *exec.Cmd, d *blackbox.Daemon, _ *enginetest.Server) { d.Kill() },
		"the master": func(_ *exec.Cmd, _ *blackbox.Daemon, m *enginetest.Server) { m.Kill() },
	} {
		t.Run(name, func(t *testing.T) {
			master := enginetest.Start(t, kind)
			for i := range 2000 {
				master.Do("SET", fmt.Sprint("key:", i), strings.Repeat("x", 10_000))
			}
			home := t.TempDir()
			d := blackbox.StartWith(t, home, smallSpool(master))
			d.Streaming("cache")
			master.Do("CONFIG", "SET", "rdb-key-save-delay", 10_000) // 20 s for all of them
			dir := t.TempDir()
			command := exec.Command(blackbox.Binary(t), "export", "--config", filepath.Join(home, "offloader.yaml"), "--to", dir+"/dump.rdb")
			said := &syncBuffer{}
			command.Stdout, command.Stderr = said, said
			ended := start(t, command, syscall.SIGKILL)
			require.Eventually(t, func() bool { return len(files(t, dir)) == 1 }, 20*time.Second, 10*time.Millisecond, "it has begun: %s", said)
			cut(command, d, master)
			<-ended
			require.Equal(t, 1, command.ProcessState.ExitCode(), "%s", said)
			require.Empty(t, files(t, dir), "%s", said)
			if name == "the daemon" {
				require.Contains(t, said.String(), "the daemon has left before it was done")
			}
			if name == "Ctrl-C" {
				require.Eventually(t, func() bool { return master.Info("persistence")["rdb_bgsave_in_progress"] == "0" }, 20*time.Second, 10*time.Millisecond,
					"the master's child is gone as well")
			}
		})
	}
}

// A master that lets nobody attach is told as the link's trouble.
func TestExportOfARefusingMaster(t *testing.T) {
	t.Parallel()
	master := enginetest.Start(t, enginetest.Any(t))
	master.Do("ACL", "SETUSER", "weak", "on", ">pw", "+ping", "+replconf", "+info")
	d := blackbox.Start(t, t.TempDir(), blackbox.Source{Name: "cache", Address: master.Addr(), Username: "weak", Password: "pw"})
	d.Until("cache", "refused", func(s blackbox.SourceStatus) bool { return s.Error != "" })
	to := filepath.Join(t.TempDir(), "dump.rdb")
	r := d.Run("export", "--to", to)
	require.Equal(t, 1, r.Code, "%s", r)
	require.Contains(t, r.Stderr, "source cache is not streaming")
	require.Contains(t, r.Stderr, "the user lacks a right that a replica needs")
	require.Contains(t, r.Stderr, "ACL SETUSER weak")
	require.NoFileExists(t, to)
	r = d.Run("export", "--to", to, "--source", "cach")
	require.Equal(t, 2, r.Code, "%s", r)
	require.Contains(t, r.Stderr, `the daemon has no such source: "cach"`)
}

// By the clock the daemon exports to a folder and to a bucket, from a replica here; one that was
// missed while it was down is made up for. One that fails is told.
func TestExportsBySchedule(t *testing.T) {
	t.Parallel() // it waits for the clock, half a minute at most
	kind := enginetest.Any(t)
	server := s3test.Start(t, s3test.MinIO)
	bucket := server.Bucket(s3test.Plain)
	master, replica := enginetest.Start(t, kind), enginetest.Start(t, kind)
	replica.Do("REPLICAOF", "127.0.0.1", master.Port())
	fill(t, master, "exported")
	dir := t.TempDir()
	toFolder, toBucket, toNowhere := dir+"/exports/{source}-{time}.rdb", server.URL(bucket, "x/{source}-{time}.rdb"), dir+"/offloader.yaml/{time}"
	d := blackbox.StartWith(t, dir, fmt.Sprintf(`
sources: [{name: cache, address: %q}]
spool: {path: $DIR/spool, min_free: 1%%}
stores: [{type: disk, path: $DIR/archive}]
snapshots: {method: replica, address: %q}
exports:
  - {schedule: "@every 1m", to: %q}
  - {schedule: "@every 1m", to: %q}
  - {schedule: "@every 1m", to: %q}
`, master.Addr(), replica.Addr(), toFolder, toBucket, toNowhere), "AWS_ACCESS_KEY_ID="+s3test.AccessKey, "AWS_SECRET_ACCESS_KEY="+s3test.SecretKey)
	d.Streaming("cache")
	master.Do("SET", "last", "1") // a WAIT is for what its connection wrote
	require.EqualValues(t, 2, master.Do("WAIT", 2, 20_000), "the daemon and the replica are there")
	d.Stop()
	missed := map[string]string{}
	for _, to := range []string{toFolder, toBucket, toNowhere} {
		missed["export of cache to "+to] = "2026-01-01T00:00:00Z"
	}
	text, err := json.Marshal(missed)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "spool", ".jobs.json"), text, 0o600))
	d.Restart()
	forks := master.Info("stats")["total_forks"]
	var jobs map[string]blackbox.Job
	require.Eventually(t, func() bool {
		var status struct {
			Jobs []blackbox.Job `json:"jobs"`
		}
		require.NoError(t, json.Unmarshal([]byte(d.Do("status", "--json")), &status))
		jobs = map[string]blackbox.Job{}
		for _, j := range status.Jobs {
			if j.Last != nil {
				jobs[strings.TrimPrefix(j.Name, "export of cache to ")] = j
			}
		}
		return len(jobs) == 3
	}, time.Minute, 100*time.Millisecond)
	require.Empty(t, jobs[toFolder].Error)
	require.Empty(t, jobs[toBucket].Error)
	require.Contains(t, jobs[toNowhere].Error, "not a directory")
	require.Contains(t, d.Get("/readyz"), "export of cache to "+toNowhere+": export to ")
	require.Equal(t, forks, master.Info("stats")["total_forks"], "the master didn't fork for them")

	digest := master.Digest()
	found, err := filepath.Glob(dir + "/exports/cache-2*Z.rdb")
	require.NoError(t, err)
	require.NotEmpty(t, found)
	boot := t.TempDir()
	require.NoError(t, os.Rename(found[0], boot+"/dump.rdb"))
	require.Equal(t, digest, enginetest.StartIn(t, kind, boot).Digest())
	prefix := "x/cache-2"
	out, err := server.Client().ListObjectsV2(t.Context(), &s3.ListObjectsV2Input{Bucket: &bucket, Prefix: &prefix})
	require.NoError(t, err)
	require.NotEmpty(t, out.Contents)
	boot = t.TempDir()
	require.NoError(t, os.WriteFile(boot+"/dump.rdb", object(t, server, bucket, *out.Contents[0].Key), 0o600))
	require.Equal(t, digest, enginetest.StartIn(t, kind, boot).Digest())
}

// object is what a bucket holds under a key.
func object(t *testing.T, server *s3test.Server, bucket, key string) []byte {
	t.Helper()
	out, err := server.Client().GetObject(context.Background(), &s3.GetObjectInput{Bucket: &bucket, Key: &key})
	require.NoError(t, err)
	b, err := io.ReadAll(out.Body)
	require.NoError(t, err)
	return b
}
