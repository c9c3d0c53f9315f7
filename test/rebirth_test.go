package test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/engine/enginetest"
	"github.com/offloader/offloader/test/blackbox"
	"github.com/offloader/offloader/test/workload"
)

// mortal is a server without persistence that can only start as a replica of the relay, as its unit's drop-in
// has it, and the daemon that makes it the master.
type mortal struct {
	*enginetest.Server
	d    *blackbox.Daemon
	acl  string // file with its users, as its replicas have them
	dir  string // of the daemon's
	port int    // of the relay
}

func newMortal(t *testing.T, kind enginetest.Kind, args ...string) *mortal {
	t.Helper()
	return newMortalOn(t, kind, inFolder, "", args...)
}

const inFolder = "{type: disk, path: $DIR/archive}"

// newMortalOn is newMortal with another store, and more for its relay.
func newMortalOn(t *testing.T, kind enginetest.Kind, store, relay string, args ...string) *mortal {
	t.Helper()
	m := &mortal{port: enginetest.FreePort(t), dir: t.TempDir()}
	// As the drop-in for the unit has it.
	product := "redis"
	if kind.Valkey() {
		product = "valkey"
	}
	dropIn, err := os.ReadFile("../configs/" + product + "-rebirth.conf")
	require.NoError(t, err)
	_, options, ok := strings.Cut(string(dropIn), "--daemonize no ")
	require.True(t, ok)
	options, _, _ = strings.Cut(options, "\n")
	require.Contains(t, options, " 127.0.0.1 6390 ")
	args = append(args, strings.Fields(strings.Replace(options, "6390", strconv.Itoa(m.port), 1))...)
	// And as it is set: a user with the least rights for the daemon, and one that the relay knows.
	acl, err := os.ReadFile("../configs/offloader.acl")
	require.NoError(t, err)
	users := filepath.Join(t.TempDir(), "users.acl")
	text := strings.Replace(string(acl), "PASSWORD", "secret", 1) + "user default on nopass ~* &* +@all\n"
	require.NoError(t, os.WriteFile(users, []byte(text), 0o600))
	m.acl = users
	args = append(args, "--aclfile", users, "--masteruser", "replica", "--masterauth", "of the relay")
	m.Server = enginetest.Start(t, kind, args...)
	m.d = blackbox.StartWith(t, m.dir, fmt.Sprintf(`
sources: [{name: cache, address: %q, username: offloader, password: secret, relay: {listen: "127.0.0.1:%d", username: replica, password: "of the relay"%s}}]
spool: {path: $DIR/spool, max_size: 64MiB, min_free: 1%%}
stores: [%s]
engine: {redis: $DIR/engine, valkey: $DIR/engine}
`, m.Addr(), m.port, relay, store))
	m.waits("nothing is archived")
	require.True(t, strings.HasPrefix(fmt.Sprint(m.error("GET", "k")), "MASTERDOWN"), "before there is data clients get an error")
	m.d.Do("promote", "--empty")
	m.d.Streaming("cache")
	return m
}

// error is what a command is refused with.
func (m *mortal) error(args ...any) error { return m.Client().Do(context.Background(), args...).Err() }

// waits waits until the source waits for its rebirth, and says that it does for that reason.
func (m *mortal) waits(why string) blackbox.SourceStatus {
	return m.d.Until("cache", "it waits for its rebirth: "+why, func(s blackbox.SourceStatus) bool {
		return s.State == "waiting" && strings.Contains(s.Why, "rebirth") && strings.Contains(s.Why, why)
	})
}

// reborn waits until it is the master again, for the nth time that this daemon sees.
func (m *mortal) reborn(n int64) blackbox.SourceStatus {
	return m.d.Until("cache", "it is reborn", func(s blackbox.SourceStatus) bool { return s.Rebirths >= n && s.State == "streaming" })
}

// kept is what its daemon would know, after a restart, of others.
func (m *mortal) kept() string {
	text, _ := os.ReadFile(filepath.Join(m.dir, "spool", "cache", "peers.json")) // none: nobody
	return string(text)
}

// still has nothing expire for an hour, and gives the digest of what is durable then.
func (m *mortal) still(t *testing.T) string {
	t.Helper()
	const stay = `
		for _, key in ipairs(redis.call('keys', '*')) do
			if redis.call('pttl', key) >= 0 then redis.call('pexpire', key, 3600000) end
			if string.sub(key, 1, #ARGV[1]) == ARGV[1] then redis.call('del', key) end
		end
		return redis.call('dbsize') - #redis.call('keys', '*')`
	for db := range 16 {
		require.Eventually(t, func() bool {
			expired, err := m.DB(db).Eval(t.Context(), stay, nil, workload.Brief).Int()
			return err == nil && expired == 0 // those that are not deleted yet are in the digest
		}, 20*time.Second, 20*time.Millisecond)
	}
	m.d.Durable("cache", m.Offset())
	return m.Digest()
}

// TestRebirth: what a master without persistence held is there again after a plain restart, keys, expiries,
// functions, in all databases, but for what has expired meanwhile; nobody has a full resync, and the timeline goes on.
func TestRebirth(t *testing.T) {
	t.Parallel()
	enginetest.Each(t, func(t *testing.T, kind enginetest.Kind) {
		t.Parallel()
		m := newMortal(t, kind)
		for n := range int64(3) {
			working(t, m.Server, 400) // its clients die with the server
			m.DB(3).Set(t.Context(), "in three", n, 0)
			m.Do("SET", "soon", "1", "PXAT", time.Now().Add(time.Hour).UnixMilli())
			m.Do("FUNCTION", "LOAD", fmt.Sprintf("#!lua name=of_%d\nredis.register_function('round_%d', function() return %d end)", n, n, n))
			digest := m.still(t)
			at := m.Do("PEXPIRETIME", "soon")
			functions := m.Do("FUNCTION", "LIST", "WITHCODE")
			require.NotEmpty(t, functions)
			if n == 1 { // those of the first rounds come from it in the last, and not from the stream any more
				m.d.Do("snapshot")
			}
			if n == 1 { // its time comes while the server is dead
				passes := time.Now().Add(time.Second)
				m.Do("SET", "passes", "1", "PXAT", passes.UnixMilli())
				m.d.Durable("cache", m.Offset())
				m.Kill()
				require.True(t, time.Now().Before(passes), "it was there when the server died, or this shows nothing")
				time.Sleep(time.Until(passes))
			}
			m.Kill()
			m.Restart()
			s := m.reborn(n + 1)
			require.Nil(t, m.Do("GET", "passes"))
			require.Equal(t, digest, m.Digest())
			if n == 2 {
				s = m.d.Until("cache", "what a rebirth would take", func(s blackbox.SourceStatus) bool { return s.Rebirth != nil })
				require.Greater(t, s.Rebirth.Seconds, 1.0, "what it takes to connect, at least")
				require.Regexp(t, `ok +rebirth +if it dies and is started again`, m.d.Run("check").Stdout)
			}
			require.Equal(t, at, m.Do("PEXPIRETIME", "soon"))
			require.ElementsMatch(t, functions, m.Do("FUNCTION", "LIST", "WITHCODE"))
			for round := range n + 1 {
				require.Equal(t, round, m.Do("FCALL", fmt.Sprint("round_", round), 0))
			}
			require.Equal(t, strconv.Itoa(int(n)), m.DB(3).Get(t.Context(), "in three").Val())
			require.Equal(t, "0", m.Info("stats")["sync_full"])
			require.EqualValues(t, 1, s.FullResyncs)
			require.Equal(t, m.Info("replication")["master_replid"], s.ReplID)
		}
		lines := m.d.Timelines("cache")
		require.Len(t, lines, 1)
		require.Len(t, slices.DeleteFunc(lines[0].Events, func(e blackbox.Event) bool { return e.Kind != "replid" }), 3)
		m.d.Do("verify")
		require.Equal(t, m.still(t), m.d.Restore("--latest").Boot(kind).Digest())
		require.Contains(t, m.d.Get("/metrics"), `offloader_rebirths_total{source="cache"} 3`)
	})
}

// TestRebirthNeverTwoMasters: the server comes back while another one, which was its replica, is the master, or
// has more. Nothing is promoted until somebody says so.
func TestRebirthNeverTwoMasters(t *testing.T) {
	t.Parallel()
	enginetest.Each(t, func(t *testing.T, kind enginetest.Kind) {
		t.Parallel()
		m := newMortal(t, kind, "--repl-ping-replica-period", "3600")
		other := enginetest.Start(t, kind, "--aclfile", m.acl, "--replicaof", fmt.Sprintf("127.0.0.1 %d", m.Port()))
		working(t, m.Server, 200)
		same(t, m.Server, other)
		digest := m.still(t)
		require.Eventually(t, func() bool { // the daemon that comes knows of the other by what this one has kept
			return strings.Contains(m.kept(), other.Addr())
		}, 20*time.Second, 20*time.Millisecond)
		require.Contains(t, m.d.Source("cache").Known.Replicas, other.Addr())

		m.d.Kill() // it sees nothing of what comes
		m.Do("SET", "ahead", "1")
		require.Eventually(t, func() bool { return other.Do("GET", "ahead") == "1" }, 10*time.Second, 10*time.Millisecond)
		m.Kill()
		m.Restart()
		m.d.Restart()
		s := m.waits("more than are durable here")
		require.Contains(t, s.Why, other.Addr())
		require.Contains(t, s.Hint, "promote --source cache --latest")

		other.Do("REPLICAOF", "NO", "ONE")
		m.waits("is a master now")
		require.Equal(t, "slave", m.Info("replication")["role"])
		require.Contains(t, fmt.Sprint(m.error("SET", "k", "v")), "READONLY")

		m.d.Do("promote", "--source", "cache", "--latest")
		m.reborn(1)
		require.Equal(t, digest, m.Digest())

		// One that is gone stands in nobody's way, nor one that follows and has no more.
		m.Kill()
		other.Kill()
		m.Restart()
		m.reborn(2)
		require.Equal(t, digest, m.Digest())
	})
}

// TestRebirthOfWhatWasNotArchived: started once without the option, the master took writes while its full resync had to wait, and
// was killed, with the daemon. Nothing of that is archived, so it doesn't go back to what is until somebody has decided.
func TestRebirthOfWhatWasNotArchived(t *testing.T) {
	t.Parallel()
	m := newMortal(t, enginetest.Any(t))
	m.Do("SET", "k", "archived")
	good := m.still(t)
	m.d.Kill()
	now := time.Now()
	spent, err := json.Marshal(map[string]any{"spent": 9, "since": now, "last": now})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(m.dir, "spool", "cache", "budget.json"), spent, 0o600))
	m.d.Restart()
	m.d.Streaming("cache")

	m.Kill()
	m.Restart("--replicaof", "no one") // as if the option had been forgotten
	m.Do("SET", "k", "not archived")
	m.d.Until("cache", "the full resync waits", func(s blackbox.SourceStatus) bool { return strings.Contains(s.Why, "with a full resync") })
	m.d.Kill()
	m.Kill()
	m.Restart()
	m.d.Restart()
	s := m.waits("of which nothing is archived")
	require.Contains(t, s.Hint, "promote --source cache --latest")
	require.Equal(t, "slave", m.Info("replication")["role"])
	m.d.Do("promote", "--latest")
	m.reborn(1)
	require.Equal(t, good, m.Digest())
	require.Equal(t, "0", m.Info("stats")["sync_full"])

	m.d.Kill() // and that was the end of it
	m.Kill()
	m.Restart()
	m.d.Restart()
	m.reborn(1)
	require.Equal(t, good, m.Digest())
}

// TestRebirthWithItsOwnFile: CONFIG REWRITE takes the line out of the server's own file once it is a master; the
// command line has it, so it is reborn all the same, twice.
func TestRebirthWithItsOwnFile(t *testing.T) {
	t.Parallel()
	enginetest.Each(t, func(t *testing.T, kind enginetest.Kind) {
		t.Parallel()
		conf := filepath.Join(t.TempDir(), "engine.conf")
		require.NoError(t, os.WriteFile(conf, []byte("# its own\n"), 0o600))
		m := newMortal(t, kind, conf)
		for n := range int64(2) {
			m.Do("SET", "round", n)
			digest := m.still(t)
			m.Do("CONFIG", "REWRITE")
			m.Kill()
			m.Restart()
			m.reborn(n + 1)
			require.Equal(t, digest, m.Digest())
		}
	})
}

// TestRebirthLocked: the relay has TLS, and the server has it for its replication, see TestRelayLocked for one that hasn't.
func TestRebirthLocked(t *testing.T) {
	t.Parallel() // it waits most of the time
	cert, key := selfSigned(t)
	for _, kind := range []enginetest.Kind{nth(t, 1), nth(t, 3)} {
		t.Run(kind.String(), func(t *testing.T) {
			t.Parallel()
			m := newMortalOn(t, kind, inFolder, fmt.Sprintf(", tls: {cert_file: %q, key_file: %q, ca_file: %q}", cert, key, cert),
				"--tls-replication", "yes", "--tls-cert-file", cert, "--tls-key-file", key, "--tls-ca-cert-file", cert)
			working(t, m.Server, 300)
			digest := m.still(t)
			m.Kill()
			m.Restart()
			s := m.reborn(1)
			require.Equal(t, digest, m.Digest())
			require.EqualValues(t, 1, s.FullResyncs)
			require.Equal(t, "0", m.Info("stats")["sync_full"])
			require.Regexp(t, `ok +rebirth +if it dies and is started again`, m.d.Run("check").Stdout)
		})
	}
}

// TestRebirthOfWhatIsSuspect: started once without the option the master came back empty, and clients have written.
// Now it is started with it: nothing is promoted until somebody has decided.
func TestRebirthOfWhatIsSuspect(t *testing.T) {
	t.Parallel()
	enginetest.Each(t, func(t *testing.T, kind enginetest.Kind) {
		t.Parallel()
		for _, word := range []string{"promote", "release"} {
			t.Run(word, func(t *testing.T) {
				m := newMortal(t, kind)
				working(t, m.Server, 300)
				good := m.still(t)
				since := m.d.Source("cache").Since
				m.d.Until("cache", "what a rebirth would take", func(s blackbox.SourceStatus) bool { return s.Rebirth != nil })
				m.d.Until("cache", "it is known what it holds", func(s blackbox.SourceStatus) bool { return s.Known != nil && s.Known.Keys > 50 })
				m.Kill()
				m.Restart("--replicaof", "no one") // as if the option had been forgotten
				m.Do("SET", "after", "the loss")
				m.d.Until("cache", "it is suspect", func(s blackbox.SourceStatus) bool { return s.Suspect != nil && s.State == "streaming" })
				bad := m.still(t)
				m.Kill()
				m.Restart()
				s := m.waits("suspect")
				require.Contains(t, s.Hint, "release")
				require.Nil(t, s.Rebirth, "however long one waits")
				require.Equal(t, "slave", m.Info("replication")["role"])
				if word == "release" {
					m.d.Do("release", "--source", "cache")
					m.reborn(1)
					require.Equal(t, bad, m.Digest())
					return
				}
				m.d.Do("promote", "--latest")
				m.reborn(1)
				require.Equal(t, good, m.Digest())
				told := m.d.Until("cache", "it is known again since when", func(s blackbox.SourceStatus) bool { return s.Since != nil })
				require.Equal(t, since, told.Since, "not what the suspect timeline had")
				require.Nil(t, told.LastSnapshot)
				m.Do("SET", "after", "all")
				acknowledged(t, m.Server, 1)
				require.Nil(t, m.d.Source("cache").Suspect)
				require.Equal(t, m.still(t), m.d.Restore("--latest").Boot(kind).Digest())
				lines := m.d.Timelines("cache")
				require.Len(t, lines, 3)
				require.Equal(t, lines[0].Name, lines[2].Parent.Timeline)
				require.Equal(t, "0", m.Info("stats")["sync_full"])

				m.Kill()
				m.Restart()
				m.reborn(2)
				require.Equal(t, "all", m.Do("GET", "after"))
			})
		}
	})
}

// TestRebirthFromNothing: another server is the master, and somebody says the wrong word. What was given up is named,
// kept from retention, and given back.
func TestRebirthFromNothing(t *testing.T) {
	t.Parallel()
	kind := enginetest.Any(t)
	m := newMortal(t, kind)
	other := enginetest.Start(t, kind, "--aclfile", m.acl, "--replicaof", fmt.Sprintf("127.0.0.1 %d", m.Port()))
	working(t, m.Server, 200)
	same(t, m.Server, other)
	good := m.still(t)
	m.d.Until("cache", "it is known what it holds, and who follows it", func(s blackbox.SourceStatus) bool {
		return s.Known != nil && s.Known.Keys > 50 && slices.Contains(s.Known.Replicas, other.Addr())
	})
	other.Do("REPLICAOF", "NO", "ONE")
	m.Kill()
	m.Restart()
	m.waits("is a master now")
	was := m.d.Timelines("cache")[0].Name

	said := m.d.Do("promote", "--empty")
	require.Contains(t, said, "cache is the master again, with no data")
	require.Contains(t, said, "timeline "+was+", which goes to ")
	require.Contains(t, said, "offloader restore --source cache --timeline "+was)
	m.Do("SET", "after", "1")
	acknowledged(t, m.Server, 1)
	s := m.d.Source("cache")
	require.NotNil(t, s.Suspect)
	require.Contains(t, s.Suspect.Cause, "promote --empty")
	m.d.Durable("cache", m.Offset())
	require.Contains(t, m.d.Timelines("cache")[0].Exempt, "until release")
	require.Equal(t, good, m.d.Restore("--latest").Boot(kind).Digest())

	m.d.Do("release", "--source", "cache")
	m.d.Until("cache", "it is right", func(s blackbox.SourceStatus) bool { return s.Suspect == nil })
	require.Empty(t, m.d.Timelines("cache")[0].Exempt)
	require.Equal(t, m.still(t), m.d.Restore("--latest").Boot(kind).Digest())
}
