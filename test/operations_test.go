package test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/engine/enginetest"
	"github.com/offloader/offloader/test/blackbox"
)

// TestRunbook follows docs/operations.md as TestReadmeCommands does the README: each of its sh blocks is run in the trouble that
// it is for. What stands in console blocks decides something, and is run where it is to be decided.
func TestRunbook(t *testing.T) {
	t.Parallel() // it waits most of the time
	r := newReader(t, "../docs/operations.md")
	master, next := r.master, enginetest.Start(t, r.master.Kind())
	relay := enginetest.FreePort(t)
	// What the drop-in has, and the user, as the master's own file has it.
	acl, err := os.ReadFile("../configs/offloader.acl")
	require.NoError(t, err)
	options := append([]string{"--replicaof", "127.0.0.1", strconv.Itoa(relay), "--replica-serve-stale-data", "no", "--rdb-del-sync-files", "yes", "--user"}, strings.Fields(string(acl))[1:]...)
	r.replace = strings.NewReplacer(
		"-h 10.0.0.5", fmt.Sprintf("-h 127.0.0.1 -p %d", master.Port()), "-h 10.0.0.6", fmt.Sprintf("-h 127.0.0.1 -p %d", next.Port()),
		"127.0.0.1 6390", fmt.Sprintf("127.0.0.1 %d", relay), "/srv/", r.root+"/srv/")
	program, err := os.ReadFile(blackbox.Binary(t))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(r.root, "usr/bin/offloader"), program, 0o755))
	require.NoError(t, os.MkdirAll(filepath.Join(r.root, "etc/offloader"), 0o755))
	http := enginetest.FreePort(t)
	configure := func(address, more string) {
		require.NoError(t, os.WriteFile(filepath.Join(r.root, "etc/offloader/offloader.yaml"), fmt.Appendf(nil, `
sources: [{name: cache, address: %q, username: offloader, password: PASSWORD%s}]
spool: {path: %s/spool, min_free: 1%%}
stores: [{type: disk, path: %s/srv/archive}]
retention: {window: 7d}
http: {listen: "127.0.0.1:%d"}
`, address, more, r.root, r.root, http), 0o600))
		if r.daemon != nil {
			require.NoError(t, r.daemon.Process.Signal(syscall.SIGHUP))
		}
	}
	withRelay := fmt.Sprintf(`, relay: {listen: "127.0.0.1:%d"}`, relay)
	role := func(s *enginetest.Server) any { return s.Info("replication")["role"] }
	says := func(what string) {
		t.Helper()
		out := ""
		require.Eventually(t, func() bool {
			out = r.sh("offloader status")
			return strings.Contains(out, what)
		}, time.Minute, 50*time.Millisecond, "%s: %s", what, &out)
	}
	durable := func() string {
		t.Helper()
		acknowledged(t, master, 1)
		return master.Digest()
	}
	const user = "redis-cli -h 10.0.0.5 ACL SETUSER"
	var before string

	configure(master.Addr(), "")
	r.sh(r.block(user))
	r.background("offloader run")
	r.follow([]step{
		{"offloader status", func(block string) {
			r.streaming("")
			require.Regexp(t, `^cache: every moment from .* can be restored; 0 B not yet durable\n`, r.sh(block))
		}},
		{user, func(block string) { require.Equal(t, "OK\n", r.sh(block)) }},
		{"offloader check", func(block string) { require.NotContains(t, r.sh(block), "FAIL") }},
		{"printf 'SET offloader:hello", func(block string) { require.Equal(t, "OK\n1\n", r.sh(block)) }},
		{"offloader verify --source cache", func(block string) { r.sh(block) }},
		{"offloader verify --boot --source cache", func(block string) {
			require.Contains(t, r.sh(block), "as the master had then")
			out := r.sh("offloader check")
			require.Regexp(t, `ok +ready`, out)
			require.Regexp(t, `ok +persistence +RDB \(save 3600 1\): it may be switched off`, out)
		}},
		{"offloader restore --source cache --latest", func(block string) {
			require.Contains(t, r.sh(block), "  start it  ")
			restored := enginetest.StartIn(t, master.Kind(), filepath.Join(r.root, "srv/restored"), "--appendonly", "yes")
			require.Equal(t, durable(), restored.Digest())
			restored.Stop()
			require.NoError(t, os.RemoveAll(filepath.Join(r.root, "srv/restored")))
		}},
		{"redis-cli -h 10.0.0.5 CONFIG SET replica-serve-stale-data no", func(block string) {
			configure(master.Addr(), withRelay)
			says("relay ")
			require.Equal(t, "OK\n", r.sh(block))
		}},
		{"redis-cli -h 10.0.0.5 CONFIG SET save ''", func(block string) { require.True(t, strings.HasPrefix(r.sh(block), "OK\nOK\n")) }},
		{"offloader restore --source cache --latest", func(block string) {
			master.Do("SET", "user:17", "Ada")
			before = durable()
			master.Kill()
			says("waiting to connect again")
			r.sh(block)
			r.sh("rm -r /srv/restored")
			master.Restart(options...)
			require.Eventually(t, func() bool { return role(master) == "master" }, time.Minute, 50*time.Millisecond)
			require.Equal(t, before, master.Digest())
			says("(1 rebirth)")
			says("streaming")
		}},
		{"offloader log --source cache --command flushall", func(block string) {
			master.Do("FLUSHALL")
			durable()
			require.Contains(t, r.sh(block), "FLUSHALL")
		}},
		{"offloader restore --source cache --before FLUSHALL --dry-run", func(block string) {
			require.Contains(t, r.sh(block), "left out after it")
		}},
		{"offloader restore --source cache --before FLUSHALL --output", func(block string) {
			r.sh(block)
			restored := enginetest.StartIn(t, master.Kind(), filepath.Join(r.root, "srv/before"), "--appendonly", "yes")
			require.Equal(t, before, restored.Digest())
			restored.Stop()
		}},
		{"offloader prune --source cache --dry-run", func(block string) { r.sh(block) }},
		{"offloader restore --archive /srv/archive", func(block string) { r.sh(block) }},
		{"offloader check", func(block string) {
			out := r.sh(block)
			require.NotContains(t, out, "FAIL")
			require.Regexp(t, `ok +persistence +RDB and AOF are off: what outlives a crash`, out)
			require.Regexp(t, `ok +rebirth`, out)
		}},
		{"offloader copy", func(block string) {
			r.sh(block)
			require.DirExists(t, filepath.Join(r.root, "srv/another/cache"))
		}},
		{"offloader status", func(block string) {
			for i := range 20 {
				master.Do("SET", fmt.Sprint("k", i), "v")
			}
			before = durable()
			says("keys      20 ")
			master.Kill()
			master.Restart(options[3:]...) // the drop-in was forgotten
			says("SUSPECT")
			require.Contains(t, r.sh(block), "20 keys before, 0 keys now")
			master.Kill()
			master.Restart(options...)
			says("waiting for its rebirth: ")
			require.Regexp(t, `warn +state +.* waits for its rebirth`, r.sh("offloader check"))
			r.sh("offloader promote --source cache --latest")
			require.Eventually(t, func() bool { return role(master) == "master" }, time.Minute, 50*time.Millisecond)
			require.Equal(t, before, master.Digest())
			says("streaming")
		}},
		{"offloader snapshot --source cache", func(block string) { r.sh(block) }},
		{"redis-cli -h 10.0.0.6 CONFIG SET replica-serve-stale-data no", func(block string) {
			r.sh(strings.ReplaceAll(r.block(user), "10.0.0.5", "10.0.0.6"))
			require.Equal(t, "OK\nOK\n", r.sh(block))
			says(next.Addr() + " online")
		}},
		{"offloader status", func(block string) {
			same(t, master, next)
			require.Contains(t, r.sh(block), next.Addr()+" online")
			next.Do("REPLICAOF", "NO", "ONE")
			configure(next.Addr(), withRelay)
			says("master    " + next.Addr())
			r.streaming("")
			require.Equal(t, "0", next.Info("stats")["sync_full"])
			require.Equal(t, before, next.Digest())
		}},
		{"redis-cli -h 10.0.0.5 CONFIG SET appendonly yes", func(block string) {
			require.Contains(t, r.sh(block), "aof_enabled:1")
			r.stop(syscall.SIGTERM)
		}},
		{"redis-cli -h 10.0.0.5 ACL DELUSER", func(block string) {
			require.True(t, strings.HasPrefix(r.sh(block), "1\nOK\nOK\n"))
			require.NotContains(t, fmt.Sprint(master.Do("ACL", "LIST")), "offloader")
		}},
	})
}
