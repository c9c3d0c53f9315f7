package test

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
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

// The master itself goes back, while it is archived: to the snapshot, to before a mistake, to a moment from before its id
// changed, once while no daemon runs. Each time the archive goes on with what it has now, as a branch there: what came since is kept, and said to be
// lost, nothing is suspect, and nobody has a full sync but where no branch is possible. That one doesn't wait for the budget, which is used up.
func TestRestoreToTheMaster(t *testing.T) {
	t.Parallel()
	enginetest.Each(t, func(t *testing.T, kind enginetest.Kind) {
		t.Parallel()
		dir := t.TempDir()
		budget := filepath.Join(dir, "archive", ".spool", "cache", "budget.json")
		require.NoError(t, os.MkdirAll(filepath.Dir(budget), 0o700))
		now := time.Now()
		spent, err := json.Marshal(map[string]any{"spent": 3, "since": now, "last": now.Add(-10 * time.Minute)})
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(budget, spent, 0o600))
		h := newHomeIn(t, dir, kind)
		snapshot := h.d.Until("cache", "begun", func(s blackbox.SourceStatus) bool { return s.LastSnapshot != nil }).LastSnapshot.Offset
		empty := h.master.Digest()
		fill(t, h.master, "good")
		acknowledged(t, h.master, 1)
		h.goesBack(t, snapshot, empty)

		fill(t, h.master, "again")
		good := note(t, h.master, 1)
		h.master.Do("FLUSHALL")
		h.master.Do("SET", "after", "it")
		acknowledged(t, h.master, 1)
		h.goesBack(t, good.offset, good.digest, "--before", "FLUSHALL")

		h.master.Do("SET", "k", 1)
		first := note(t, h.master, 1)
		h.master.Do("SET", "k", 2)
		h.master.Do("REPLICAOF", "127.0.0.1", "1")
		h.master.Do("REPLICAOF", "NO", "ONE")
		h.d.Until("cache", "it goes on under another id", func(s blackbox.SourceStatus) bool {
			return s.State == "streaming" && s.ReplID == h.master.Info("replication")["master_replid"]
		})
		h.master.Do("SET", "k", 3)
		acknowledged(t, h.master, 1)
		h.goesBack(t, first.offset, first.digest)

		// To before the last of these branches: there can be none from there, and a full sync follows.
		into(t, h.d.Archive, "replicaof", "--offset", strconv.FormatInt(snapshot, 10), "--to", redisURL(h.master), "--conflict", "replace")
		s := h.d.Until("cache", "goes on with what the master has now", func(s blackbox.SourceStatus) bool {
			return s.State == "streaming" && s.ReplID == h.master.Info("replication")["master_replid"]
		})
		require.Nil(t, s.Suspect)
		require.Equal(t, "2", h.master.Info("stats")["sync_full"])
		lines := h.d.Timelines("cache")
		require.Contains(t, lines[len(lines)-1].Reason, "the master was restored to an earlier state")
		require.Equal(t, h.master.Digest(), restoredDigest(t, h.d.Archive, kind))

		// Nor can there be one from a history that the newest timeline never had. No daemon runs that would see it done, and it has
		// far fewer keys then, as it was told to.
		h.master.Do("EVAL", "for i = 1, 10000 do redis.call('set', 'more:' .. i, i) end", 0)
		h.d.Until("cache", "it is known how much the master holds", func(s blackbox.SourceStatus) bool { return s.Known != nil && s.Known.Keys == 10_000 })
		h.d.Kill()
		into(t, h.d.Archive, "replicaof", "--timeline", lines[0].Name, "--latest", "--to", redisURL(h.master), "--conflict", "replace")
		h.d.Restart()
		s = h.d.Until("cache", "goes on with what the master has now", func(s blackbox.SourceStatus) bool {
			return s.State == "streaming" && s.ReplID == h.master.Info("replication")["master_replid"]
		})
		require.Nil(t, s.Suspect)
		require.Equal(t, "3", h.master.Info("stats")["sync_full"])
		lines = h.d.Timelines("cache")
		require.Contains(t, lines[len(lines)-1].Reason, "the master was restored to an earlier state")
		require.Equal(t, h.master.Digest(), restoredDigest(t, h.d.Archive, kind))
	})
}

// A restore to the master that is broken off leaves it a replica with a part of its data. That isn't archived, and costs no
// full sync: the link waits, says so, and goes on when it was said again. So does that of a daemon that is started meanwhile.
func TestInterruptedRestoreToTheMaster(t *testing.T) {
	t.Parallel()
	kind := enginetest.Any(t)
	h := newHome(t, kind, "--client-output-buffer-limit", "replica 0 0 0")
	value := strings.Repeat("v", 1<<20)
	for i := range 200 {
		h.master.Do("SET", "k"+strconv.Itoa(i%5), value)
		h.master.Do("SET", "step:"+strconv.Itoa(i), i)
	}
	m := note(t, h.master, 1)
	h.master.Do("DEL", "step:20")
	acknowledged(t, h.master, 1)
	full := h.master.Info("stats")["sync_full"]
	cmd, _ := restoring(t, h.d, append(m.byOffset(), "--to", redisURL(h.master), "--conflict", "replace")...)
	require.Eventually(t, func() bool { return h.master.Do("EXISTS", "step:20") == int64(1) }, 20*time.Second, time.Millisecond)
	require.NoError(t, cmd.Process.Kill())
	require.Error(t, cmd.Wait())
	require.Equal(t, "slave", h.master.Info("replication")["role"])
	for range 2 {
		s := h.d.Until("cache", "waiting for the restore", func(s blackbox.SourceStatus) bool {
			return s.State == "waiting" && s.Why == "until the master is restored"
		})
		require.Contains(t, s.Error, "archived up to "+strconv.FormatInt(s.Durable, 10))
		require.Contains(t, s.Hint, "say the same again")
		require.Len(t, h.d.Timelines("cache"), 1)
		require.Equal(t, full, h.master.Info("stats")["sync_full"])
		h.d.Kill()
		h.d.Restart()
	}
	h.goesBack(t, m.offset, m.digest)
}

// home is a master that is archived, and restored.
type home struct {
	master *enginetest.Server
	d      *blackbox.Daemon
	kind   enginetest.Kind
}

func newHome(t *testing.T, kind enginetest.Kind, args ...string) *home {
	t.Helper()
	return newHomeIn(t, t.TempDir(), kind, args...)
}

func newHomeIn(t *testing.T, dir string, kind enginetest.Kind, args ...string) *home {
	t.Helper()
	master := enginetest.Start(t, kind, args...)
	d := blackbox.Start(t, dir, blackbox.Source{Name: "cache", Address: master.Addr()})
	d.Streaming("cache")
	return &home{master, d, kind}
}

// goesBack restores the master to an offset, where it had that digest.
func (h *home) goesBack(t *testing.T, to int64, digest string, point ...string) {
	t.Helper()
	if point == nil {
		point = []string{"--offset", strconv.FormatInt(to, 10)}
	}
	before, full := h.d.Timelines("cache"), h.master.Info("stats")["sync_full"]
	to = into(t, h.d.Archive, "replicaof", append(point, "--to", redisURL(h.master), "--conflict", "replace")...).Offset
	require.Equal(t, digest, h.master.Digest())
	h.d.Until("cache", "goes on with what the master has now", func(s blackbox.SourceStatus) bool {
		return s.State == "streaming" && s.ReplID == h.master.Info("replication")["master_replid"]
	})
	acknowledged(t, h.master, 1)
	require.Nil(t, h.d.Source("cache").Suspect)
	require.Equal(t, full, h.master.Info("stats")["sync_full"])
	require.Equal(t, h.master.Digest(), restoredDigest(t, h.d.Archive, h.kind))
	lines := h.d.Timelines("cache")
	require.Len(t, lines, len(before)+1)
	parent, branch := lines[len(lines)-2], lines[len(lines)-1]
	require.Equal(t, parent.Name, branch.Parent.Timeline)
	require.Equal(t, to, branch.Parent.Offset)
	require.Contains(t, branch.Reason, "the master was restored to an earlier state")
	require.True(t, slices.ContainsFunc(parent.Events, func(e blackbox.Event) bool { return e.Kind == "lost" && e.Offset == to }), "%+v", parent.Events)
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
