package test

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/engine/enginetest"
	"github.com/offloader/offloader/internal/store/s3test"
	"github.com/offloader/offloader/test/blackbox"
)

// found is what check found under a name: "level message → hint" each.
func found(t *testing.T, r blackbox.Result, name string) string {
	t.Helper()
	var report struct {
		Checks []struct{ Name, Level, Message, Hint string }
	}
	require.NoError(t, json.Unmarshal([]byte(r.Stdout), &report), "%s", r)
	var lines []string
	for _, f := range report.Checks {
		if f.Name == name {
			lines = append(lines, f.Level+" "+f.Message+" → "+f.Hint)
		}
	}
	return strings.Join(lines, "\n")
}

// What the daemon will send things to is tried before it does: where exports go, the replica that snapshots
// are taken of, who is called while all is well, the right to delete. Nothing is left there, and nobody called.
func TestCheckTriesAllPlaces(t *testing.T) {
	t.Parallel()
	kind := enginetest.Any(t)
	master, stranger := enginetest.Start(t, kind, "--repl-diskless-sync-delay", "0"), enginetest.Start(t, kind)
	host, port, err := net.SplitHostPort(master.Addr())
	require.NoError(t, err)
	replica := enginetest.Start(t, kind, "--replicaof", host+" "+port)
	require.Eventually(t, func() bool { return replica.Info("replication")["master_link_status"] == "up" }, 20*time.Second, 20*time.Millisecond)
	watcher := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("a heartbeat was sent") }))
	defer watcher.Close()
	denied := s3test.Fault{Status: http.StatusForbidden, Code: "AccessDenied"}
	s3test.Each(t, func(t *testing.T, service s3test.Kind) {
		s := startService(t, service)
		dir := t.TempDir()
		file := filepath.Join(dir, "c.yaml")
		check := func(changes ...string) blackbox.Result {
			yaml := fmt.Sprintf(`
sources: [{name: cache, address: %q}]
spool: {path: %s/spool, min_free: 1%%}
stores: [%s]
snapshots: {method: replica, address: %q}
exports:
  - {schedule: "@daily", to: "%s/exports/{source}-{time}.rdb"}
  - {schedule: "@daily", to: "s3://%s/exports/{source}/{time}.rdb?endpoint=%s&region=%s&path-style=true"}
retention: {window: 7d}
heartbeat: {url: "%s/secret-token"}
http: {listen: "127.0.0.1:0"}
`, master.Addr(), dir, s.store(t), replica.Addr(), dir, s.bucket, s.proxy.Endpoint(), s3test.Region, watcher.URL)
			yaml = strings.NewReplacer(changes...).Replace(yaml)
			require.NoError(t, os.WriteFile(file, []byte(yaml), 0o600))
			r := blackbox.Run(t, "AWS_ACCESS_KEY_ID="+s3test.AccessKey, "AWS_SECRET_ACCESS_KEY="+s3test.SecretKey, "check", "--config", file, "--json")
			require.NotContains(t, r.String(), "secret-token")
			return r
		}
		r := check()
		require.Zero(t, r.Code, "%s", r)
		require.Contains(t, found(t, r, "store"), "can be listed, read and written, and lets us delete")
		require.Contains(t, found(t, r, "replica"), "ok "+replica.Addr()+" is a replica with the source's data")
		require.Contains(t, found(t, r, "export"), "ok "+dir+"/exports (to be made) can be written")
		require.Contains(t, found(t, r, "export"), "ok s3://"+s.bucket+"/exports/cache")
		require.Contains(t, found(t, r, "heartbeat"), "ok "+strings.TrimPrefix(watcher.URL, "http://")+" takes a connection; that is all that was tried")
		require.Empty(t, s.Versions(s.bucket), "nothing is left")
		require.NoDirExists(t, filepath.Join(dir, "exports"))

		// Without the right to delete an archiver works, and retention isn't its job.
		mend := harm(func(r *http.Request) bool { return r.Method == http.MethodDelete }, denied)(t, s)
		r = check()
		require.Zero(t, r.Code, "%s", r)
		require.Contains(t, found(t, r, "store"), "retention is not this archiver's job there")
		require.Contains(t, found(t, r, "store"), `take "retention" of that store out of the configuration`)
		r = check("retention:", "#")
		require.Contains(t, found(t, r, "store"), "it doesn't let us delete, so small files that compaction has replaced stay there")

		mend()
		mend = harm(func(r *http.Request) bool {
			return r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/exports/")
		}, denied)(t, s)
		require.NoError(t, os.WriteFile(filepath.Join(dir, "taken"), nil, 0o600))
		r = check(dir+"/exports/", dir+"/taken/", replica.Addr(), stranger.Addr(), watcher.URL, "http://127.0.0.1:1")
		require.Equal(t, 1, r.Code, "%s", r)
		require.Contains(t, found(t, r, "export"), "fail "+dir+"/taken can't be used")
		require.Contains(t, found(t, r, "export"), "fail s3://"+s.bucket+"/exports/cache")
		require.Contains(t, found(t, r, "export"), "grant what it takes: s3:PutObject")
		require.Contains(t, found(t, r, "store"), "can be listed, read and written")
		require.Contains(t, found(t, r, "replica"), "fail "+stranger.Addr()+" has replication id")
		require.Contains(t, found(t, r, "heartbeat"), "fail 127.0.0.1:1 can't be reached")
		mend()
		r = check(replica.Addr(), "127.0.0.1:1", "secret_access_key_file", "object_lock: {mode: governance, retain: 1h}, secret_access_key_file")
		require.Equal(t, 1, r.Code, "%s", r)
		require.Contains(t, found(t, r, "replica"), "connection refused")
		require.Contains(t, found(t, r, "store"), "Object Lock is off for the bucket")
		require.Empty(t, s.Versions(s.bucket))
	})
}

// What is archived already tells whether the link will go on: it says so of the master that it came from,
// and not of another one.
func TestCheckKnowsTheMaster(t *testing.T) {
	t.Parallel()
	kind := enginetest.Any(t)
	master, other := enginetest.Start(t, kind), enginetest.Start(t, kind)
	config := func(address string) string {
		return fmt.Sprintf("sources: [{name: cache, address: %q}]\nspool: {path: $DIR/archive/.spool, min_free: 1%%}\nstores: [{type: disk, path: $DIR/archive}]\n", address)
	}
	d := blackbox.StartWith(t, t.TempDir(), config(master.Addr()))
	d.Streaming("cache")
	master.Do("SET", "key", "value")
	acknowledged(t, master, 1)
	require.Empty(t, found(t, d.Run("check", "--json"), "archive"), "the daemon itself tells")
	d.Kill()

	master.Do("SET", "key", "another")
	r := d.Run("check", "--json")
	require.Zero(t, r.Code, "%s", r)
	require.Contains(t, found(t, r, "archive"), "the link goes on there, with no full sync")
	d.Rewrite(config(other.Addr()))
	r = d.Run("check", "--json")
	require.Zero(t, r.Code, "%s", r)
	require.Contains(t, found(t, r, "archive"), "warn it doesn't know replication id ")
	require.Contains(t, found(t, r, "archive"), `Another one wants a source of its own`)

	d.Rewrite(config(master.Addr()))
	d.Restart()
	d.Streaming("cache")
	require.Zero(t, d.Source("cache").FullResyncs, "it was true")

	// So it is of a master that was started anew, with its RDB and without.
	for _, empty := range []bool{false, true} {
		acknowledged(t, master, 1)
		d.Kill()
		master.Do("SAVE")
		master.Kill()
		if empty {
			require.NoError(t, os.Remove(filepath.Join(master.Dir(), "dump.rdb")))
		}
		master.Restart()
		r = d.Run("check", "--json")
		require.Zero(t, r.Code, "%s", r)
		d.Restart()
		d.Streaming("cache")
		if empty {
			require.Contains(t, found(t, r, "archive"), "warn it doesn't know replication id ")
			require.EqualValues(t, 1, d.Source("cache").FullResyncs)
		} else {
			require.Contains(t, found(t, r, "archive"), "the link goes on there, with no full sync")
			require.Zero(t, d.Source("cache").FullResyncs)
		}
	}
}
