package test

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
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

// longLog archives a master whose log takes a second to replay, however fast that begins.
func longLog(t *testing.T, kind enginetest.Kind) (*blackbox.Daemon, moment) {
	t.Helper()
	master := enginetest.Start(t, kind, "--client-output-buffer-limit", "replica 0 0 0")
	d := blackbox.Start(t, t.TempDir(), blackbox.Source{Name: "cache", Address: master.Addr()})
	d.Streaming("cache")
	value := strings.Repeat("v", 1<<20)
	for i := range 200 {
		master.Do("SET", "{k}"+strconv.Itoa(i%5), value)
		master.Do("SET", "{k}step:"+strconv.Itoa(i), i, "EX", 1000)
	}
	m := note(t, master, 1)
	d.Stop()
	master.Kill()
	return d, m
}

// restoring is a restore at work.
func restoring(t *testing.T, d *blackbox.Daemon, args ...string) (*exec.Cmd, *strings.Builder) {
	t.Helper()
	cmd := exec.Command(blackbox.Binary(t), append([]string{"restore", "--archive", d.Dir, "--source", "cache"}, args...)...)
	said := &strings.Builder{}
	cmd.Stderr = said
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	return cmd, said
}

// A restore by REPLICAOF that is killed, or told to stop, goes on where it was when it is said again, with a partial resync,
// and what it changed of the server's settings is put back in the end.
func TestInterruptedRestoreTo(t *testing.T) {
	t.Parallel()
	enginetest.Each(t, func(t *testing.T, kind enginetest.Kind) {
		t.Parallel()
		d, m := longLog(t, kind)
		s := enginetest.Start(t, kind)
		before := settings(t, s)
		args := append(m.byOffset(), "--to", redisURL(s))
		cmd, said := restoring(t, d, args...)
		require.Eventually(t, func() bool { return s.Do("EXISTS", "{k}step:20") == int64(1) }, 20*time.Second, time.Millisecond)
		require.NoError(t, cmd.Process.Signal(syscall.SIGINT))
		require.Error(t, cmd.Wait())
		require.Equal(t, 1, cmd.ProcessState.ExitCode())
		require.Contains(t, said.String(), "say the same again, and it goes on from there")
		require.Equal(t, "slave", s.Info("replication")["role"])
		require.Equal(t, before, settings(t, s))

		cmd, _ = restoring(t, d, args...)
		require.Eventually(t, func() bool { return !maps.Equal(before, settings(t, s)) }, 20*time.Second, time.Millisecond)
		require.NoError(t, cmd.Process.Kill())
		require.Error(t, cmd.Wait())
		require.NotEqual(t, before, settings(t, s))

		into(t, blackbox.ArchiveAt(t, d.Dir), "replicaof", args...)
		require.Equal(t, m.digest, s.Digest())
		require.Equal(t, before, settings(t, s))
		require.Equal(t, 1, strings.Count(s.LogText(), "Full resync from "), "what it had stayed")
	})
}

// One by commands leaves a mark, and begins anew. So does one whose server died in the middle.
func TestInterruptedCommands(t *testing.T) {
	t.Parallel()
	kind := nth(t, 2)
	d, m := longLog(t, kind)
	nodes := startCluster(t, kind)
	args := append(m.byOffset(), "--to", redisURL(nodes[0]))
	home := nodes[0]
	for _, n := range nodes {
		if n.Client().Exists(t.Context(), "{k}").Err() == nil {
			home = n
		}
	}
	cmd, _ := restoring(t, d, args...)
	require.Eventually(t, func() bool { return home.Do("EXISTS", "{k}step:20") == int64(1) }, 20*time.Second, time.Millisecond)
	require.NoError(t, cmd.Process.Kill())
	require.Error(t, cmd.Wait())

	cmd, said := restoring(t, d, args...)
	require.Eventually(t, func() bool { return home.Do("EXISTS", "{k}step:20") == int64(0) }, 20*time.Second, time.Millisecond, "it is begun anew")
	require.Eventually(t, func() bool { return home.Do("EXISTS", "{k}step:20") == int64(1) }, 20*time.Second, time.Millisecond)
	require.NoError(t, cmd.Process.Signal(syscall.SIGINT))
	require.Error(t, cmd.Wait())
	require.Contains(t, said.String(), "say the same again, and it is removed and begun anew")

	report := into(t, blackbox.ArchiveAt(t, d.Dir), "commands", args...)
	require.EqualValues(t, len(m.expiries), *report.Keys)
	clusterHolds(t, m, nodes)

	home.Do("CLIENT", "PAUSE", 60_000, "WRITE")
	cmd, said = restoring(t, d, append(args, "--conflict", "replace")...)
	require.Eventually(t, func() bool { return strings.Contains(fmt.Sprint(home.Do("CLIENT", "LIST")), "cmd=flushall") }, 20*time.Second, 10*time.Millisecond)
	home.Kill()
	require.Error(t, cmd.Wait())
	require.Equal(t, 1, cmd.ProcessState.ExitCode(), said.String())
}

// With --conflict skip the server's own keys stay as they are, whatever the archive's commands do to keys of
// these names, and all others are the archive's.
func TestRestoreToSkips(t *testing.T) {
	t.Parallel()
	enginetest.Each(t, func(t *testing.T, kind enginetest.Kind) {
		t.Parallel()
		master := enginetest.Start(t, kind)
		for i := range 20 {
			master.Do("SET", "snap:"+strconv.Itoa(i), i, "EX", 1000+i)
		}
		d := blackbox.Start(t, t.TempDir(), blackbox.Source{Name: "cache", Address: master.Addr()})
		d.Streaming("cache")
		master.Do("INCR", "snap:3")
		master.Do("INCR", "snap:4")
		early := note(t, master, 1)
		master.Do("FLUSHALL")
		master.Do("MSET", "snap:3", "theirs", "new", "theirs", "mine", "theirs")
		master.Do("RPUSH", "list", "theirs")
		master.Do("DEL", "snap:3", "new")
		master.Do("SET", "new", "again", "PX", 2_000_000)
		last := note(t, master, 1)
		master.Do("SET", "other", "x")
		master.Do("RENAME", "other", "mine")
		beyond := note(t, master, 1)
		d.Stop()

		for _, m := range []moment{early, last} {
			s := enginetest.Start(t, kind)
			s.Do("SET", "snap:3", "ours")
			s.Do("SET", "mine", "ours", "EX", 500)
			s.Do("RPUSH", "list", "ours")
			s.Do("RPUSH", "list2", "ours")
			want := m.keys
			for key, state := range s.KeyState() {
				want[key] = state
			}
			report := into(t, d.Archive, "commands", append(m.byOffset(), "--to", redisURL(s), "--conflict", "skip")...)
			require.Equal(t, want, s.KeyState())
			require.Contains(t, strings.Join(report.Notes, "; "), "were left out for keys that the server had")

			// A command that depends on a key that stays can't be exact: that is found before anything is written.
			r := d.Run(append([]string{"restore", "--conflict", "skip", "--to", redisURL(s)}, beyond.byOffset()...)...)
			require.Equal(t, 1, r.Code, "%s", r)
			require.Contains(t, r.Stderr, "RENAME at offset")
			require.Contains(t, r.Stderr, "nothing was written")
			require.Equal(t, want, s.KeyState())
			s.Kill()
		}
	})
}

// The master itself goes back to before a mistake, while it is archived: the archive goes on with what it has now. That is a branch of
// its timeline, or, where the daemon came back to it in between, a timeline of its own.
func TestRestoreToTheMaster(t *testing.T) {
	t.Parallel()
	enginetest.Each(t, func(t *testing.T, kind enginetest.Kind) {
		t.Parallel()
		master := enginetest.Start(t, kind)
		d := blackbox.Start(t, t.TempDir(), blackbox.Source{Name: "cache", Address: master.Addr()})
		d.Streaming("cache")
		fill(t, master, "good")
		digest := master.Digest()
		master.Do("FLUSHALL")
		master.Do("SET", "after", "it")
		acknowledged(t, master, 1)
		into(t, d.Archive, "replicaof", "--before", "FLUSHALL", "--to", redisURL(master), "--conflict", "replace")
		require.Equal(t, digest, master.Digest())
		d.Until("cache", "goes on with what the master has now", func(s blackbox.SourceStatus) bool {
			return s.State == "streaming" && s.ReplID == master.Info("replication")["master_replid"]
		})
		acknowledged(t, master, 1)
		require.Equal(t, master.Digest(), restoredDigest(t, d.Archive, kind))
	})
}

// restoredDigest is that of a restore of the latest there is.
func restoredDigest(t *testing.T, a blackbox.Archive, kind enginetest.Kind) string {
	t.Helper()
	s := enginetest.Start(t, kind)
	into(t, a, "replicaof", "--latest", "--to", redisURL(s))
	return s.Digest()
}

// An engine that can't load the snapshot's RDB gets its records one by one, as far as it knows their types.
func TestRestoreToAnotherEngine(t *testing.T) {
	t.Parallel()
	all := enginetest.All(t)
	from, to := all[len(all)-1], all[min(1, len(all)-1)]
	master, s := enginetest.Start(t, from), enginetest.Start(t, to)
	master.Do("SET", "s", strings.Repeat("text", 1000), "EX", 1000)
	master.Do("SADD", "set", "a", "b")
	master.Do("SADD", "numbers", 1, 2, 70_000)
	master.Do("HSET", "h", "f", "v")
	master.Do("ZADD", "z", 1.5, "a")
	master.Do("RPUSH", "l", "a", "b")
	master.Do("XADD", "x", "1-1", "f", "v")
	master.Do("XGROUP", "CREATE", "x", "g", "0")
	master.Do("FUNCTION", "LOAD", "#!lua name=l\nredis.register_function('f', function() return '"+strings.Repeat("x", 500)+"' end)")
	d := blackbox.Start(t, t.TempDir(), blackbox.Source{Name: "cache", Address: master.Addr()})
	d.Streaming("cache")
	master.Do("INCR", "n")
	m := note(t, master, 1)
	way := "commands"
	if from == to {
		way = "replicaof" // narrowed to one
	}
	into(t, d.Archive, way, append(m.byOffset(), "--to", redisURL(s))...)
	require.Empty(t, enginetest.Diff(t, master, s))
}

// A server with too few databases, one that is a replica, and one that speaks TLS.
func TestRestoreToOddServers(t *testing.T) {
	t.Parallel()
	kind := enginetest.Any(t)
	master := enginetest.Start(t, kind)
	key := filepath.Join(t.TempDir(), "key")
	d := blackbox.StartWith(t, t.TempDir(), smallSpool(master)+encryption(t, key))
	d.Streaming("cache")
	require.NoError(t, master.DB(7).Set(t.Context(), "k", "v", 0).Err())
	m := note(t, master, 1)
	d.Stop()

	small := enginetest.Start(t, kind, "--databases", "4")
	r := d.Run(append([]string{"restore", "--identity", key, "--to", redisURL(small)}, m.byOffset()...)...)
	require.Equal(t, 1, r.Code, "%s", r)
	require.Contains(t, r.Stderr, "it has less than the 8 databases that the data needs")
	require.Zero(t, small.Do("DBSIZE"))

	other := enginetest.Start(t, kind)
	replica := enginetest.Start(t, kind, "--replicaof", "127.0.0.1 "+strconv.Itoa(other.Port()))
	require.Eventually(t, func() bool { return replica.Info("replication")["master_link_status"] == "up" }, 30*time.Second, 10*time.Millisecond)
	report := into(t, d.Archive, "replicaof", append(m.byOffset(), "--identity", key, "--to", redisURL(replica))...)
	require.Contains(t, report.Notes, "it was a replica of "+other.Addr()+" before, and now is none")
	require.Equal(t, m.digest, replica.Digest())

	cert, certKey := selfSigned(t)
	port := enginetest.FreePort(t)
	secure := enginetest.Start(t, kind, "--tls-port", strconv.Itoa(port), "--tls-cert-file", cert, "--tls-key-file", certKey,
		"--tls-ca-cert-file", cert, "--tls-auth-clients", "no", "--requirepass", "right")
	password := filepath.Join(t.TempDir(), "password")
	require.NoError(t, os.WriteFile(password, []byte("right\n"), 0o600))
	to := append(m.byOffset(), "--identity", key, "--to", fmt.Sprintf("rediss://127.0.0.1:%d", port), "--password-file", password)
	r = d.Run(append([]string{"restore"}, to...)...)
	require.Equal(t, 1, r.Code, "%s", r)
	require.Contains(t, r.Stderr, "--ca-file")
	into(t, d.Archive, "commands", append(to, "--ca-file", cert)...)
	require.Equal(t, m.digest, secure.Digest())
}
