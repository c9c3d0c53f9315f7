package test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/engine/enginetest"
	"github.com/offloader/offloader/internal/store/s3test"
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
	return newMortalOn(t, kind, "{type: disk, path: $DIR/archive}", args...)
}

// newMortalOn is newMortal with another store.
func newMortalOn(t *testing.T, kind enginetest.Kind, store string, args ...string) *mortal {
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
sources: [{name: cache, address: %q, username: offloader, password: secret, relay: {listen: "127.0.0.1:%d", username: replica, password: "of the relay"}}]
spool: {path: $DIR/spool, max_size: 64MiB, min_free: 1%%}
stores: [%s]
`, m.Addr(), m.port, store))
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
// functions, in all databases; nobody has a full resync, and the timeline goes on.
func TestRebirth(t *testing.T) {
	t.Parallel()
	enginetest.Each(t, func(t *testing.T, kind enginetest.Kind) {
		t.Parallel()
		m := newMortal(t, kind)
		for n := range int64(3) {
			working(t, m.Server, 400) // its clients die with the server
			m.DB(3).Set(t.Context(), "in three", n, 0)
			m.Do("SET", "soon", "1", "PXAT", time.Now().Add(time.Hour).UnixMilli())
			digest := m.still(t)
			at := m.Do("PEXPIRETIME", "soon")
			functions := m.Do("FUNCTION", "LIST")
			m.Kill()
			m.Restart()
			s := m.reborn(n + 1)
			require.Equal(t, digest, m.Digest())
			if n == 2 {
				s = m.d.Until("cache", "what a rebirth would take", func(s blackbox.SourceStatus) bool { return s.Rebirth != nil })
				require.Greater(t, s.Rebirth.Seconds, 1.0, "what it takes to connect, at least")
				require.Regexp(t, `ok +rebirth +if it dies and is started again`, m.d.Run("check").Stdout)
			}
			require.Equal(t, at, m.Do("PEXPIRETIME", "soon"))
			require.ElementsMatch(t, functions, m.Do("FUNCTION", "LIST"))
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

// rounds is how often something is killed.
func rounds(t *testing.T) int64 {
	t.Helper()
	return int64(count(t, "deaths", 20, 5))
}

// TestRebirthUnderLoad: killed at any instant while clients write, again and again. What WAIT had confirmed is
// there, and what is there is what was archived at the boundary of the promotion.
func TestRebirthUnderLoad(t *testing.T) {
	t.Parallel()
	enginetest.Each(t, func(t *testing.T, kind enginetest.Kind) {
		t.Parallel()
		m := newMortal(t, kind)
		confirmed := 0 // keys n:1 to n:confirmed
		for n := range rounds(t) {
			var writers sync.WaitGroup
			died := make(chan struct{})
			writers.Go(func() { // each write is confirmed before the next
				for i := confirmed + 1; ; i++ {
					conn := m.Client().Conn()
					err := conn.Set(context.Background(), fmt.Sprint("n:", i), i, 0).Err()
					var acks int64
					if err == nil {
						acks, err = conn.Wait(context.Background(), 1, 10*time.Second).Result()
					}
					_ = conn.Close()
					if err != nil || acks < 1 {
						return
					}
					confirmed = i
				}
			})
			writers.Go(func() { // large transactions, in the middle of which it dies
				for i := 0; ; i++ {
					pipe := m.Client().TxPipeline()
					for k := range 200 {
						pipe.Set(context.Background(), fmt.Sprint("tx:", k), fmt.Sprint(n, "/", i, strings.Repeat("x", 500)), 0)
					}
					if _, err := pipe.Exec(context.Background()); err != nil {
						return
					}
				}
			})
			writers.Go(func() { <-died })
			time.Sleep(time.Duration(50+rand.IntN(250)) * time.Millisecond)
			m.Kill()
			close(died)
			writers.Wait()
			m.Restart()
			m.reborn(n + 1)
			if confirmed > 0 {
				require.Equal(t, strconv.Itoa(confirmed), m.Do("GET", fmt.Sprint("n:", confirmed)))
			}
			var all []string
			for k := range 200 {
				all = append(all, fmt.Sprint("tx:", k))
			}
			values, err := m.Client().MGet(t.Context(), all...).Result()
			require.NoError(t, err)
			for _, v := range values {
				require.Equal(t, values[0], v, "a transaction is there whole, or not at all")
			}
			require.Equal(t, "0", m.Info("stats")["sync_full"])
			if n%5 == 4 {
				at := m.d.Durable("cache", m.Offset()).Durable
				require.Equal(t, m.Digest(), m.d.Restore("--offset", strconv.FormatInt(at, 10)).Boot(kind).Digest())
			}
		}
		require.Positive(t, confirmed)
		for i := 1; i <= confirmed; i++ {
			require.EqualValues(t, 1, m.Do("EXISTS", fmt.Sprint("n:", i)), "n:%d was confirmed", i)
		}
		require.Len(t, m.d.Timelines("cache"), 1)
		require.EqualValues(t, 1, m.d.Source("cache").FullResyncs)
	})
}

// TestRebirthInterrupted: the daemon is killed at random instants of a rebirth, and the server dies a second
// time in the middle of it.
func TestRebirthInterrupted(t *testing.T) {
	t.Parallel()
	enginetest.Each(t, func(t *testing.T, kind enginetest.Kind) {
		t.Parallel()
		m := newMortal(t, kind)
		working(t, m.Server, 300)
		m.Do("SET", "big", strings.Repeat("x", 20<<20))
		digest := m.still(t)
		for n := range rounds(t) {
			m.Kill()
			restarted := make(chan struct{})
			go func() { defer close(restarted); m.Restart() }()
			time.Sleep(time.Duration(rand.IntN(1500)) * time.Millisecond)
			m.d.Kill()
			<-restarted
			if n%4 == 3 {
				m.Kill()
				m.Restart()
			}
			m.d.Restart()
			m.d.Until("cache", "it is the master again", func(s blackbox.SourceStatus) bool { return s.State == "streaming" })
			require.Equal(t, "master", m.Info("replication")["role"])
			require.Equal(t, "0", m.Info("stats")["sync_full"])
			require.Equal(t, digest, m.Digest(), "round %d", n)
		}
		m.Do("SET", "after", "all")
		acknowledged(t, m.Server, 1)
		require.Len(t, m.d.Timelines("cache"), 1)
	})
}

// TestRebirthFromTheStores: the spool is lost with the master. The source is reborn from what the stores have,
// goes on as a branch there, and that is said.
func TestRebirthFromTheStores(t *testing.T) {
	t.Parallel()
	enginetest.Each(t, func(t *testing.T, kind enginetest.Kind) {
		t.Parallel()
		m := newMortal(t, kind)
		working(t, m.Server, 300)
		digest := m.still(t)
		end := m.Offset()
		m.d.Until("cache", "all is stored", func(s blackbox.SourceStatus) bool { return s.Stores[0].Stored >= end })
		m.d.Kill()
		m.Kill()
		require.NoError(t, os.RemoveAll(filepath.Join(m.dir, "spool")))
		m.d.Restart()
		m.Restart()
		s := m.reborn(1)
		require.Equal(t, digest, m.Digest())
		require.EqualValues(t, 0, s.FullResyncs)
		require.Equal(t, "0", m.Info("stats")["sync_full"])
		lines := m.d.Timelines("cache")
		require.Len(t, lines, 2)
		require.Equal(t, lines[0].Name, lines[1].Parent.Timeline)
		require.Contains(t, lines[1].Reason, "the spool held nothing")
		m.Do("SET", "after", "all")
		acknowledged(t, m.Server, 1)
		require.Equal(t, m.still(t), m.d.Restore("--latest").Boot(kind).Digest())
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

// TestRebirthWaitsForAStore: what is archived can't be known while the store is away: nothing is promoted, and
// when it is back it goes on by itself. So it is where the store dies in the middle.
func TestRebirthWaitsForAStore(t *testing.T) {
	t.Parallel()
	kind := enginetest.Any(t)
	for _, lost := range []bool{false, true} {
		t.Run(fmt.Sprintf("spool lost: %v", lost), func(t *testing.T) {
			service := s3test.Start(t, s3test.VersityGW)
			m := newMortalOn(t, kind, onS3(t, service.Endpoint(), service.Bucket(s3test.Plain)))
			m.Do("SET", "k", strings.Repeat("v", 3<<20))
			digest := m.still(t)
			end := m.Offset()
			m.d.Until("cache", "all is stored", func(s blackbox.SourceStatus) bool { return s.Stores[0].Stored >= end })
			m.Kill()
			if lost {
				m.d.Kill()
				require.NoError(t, os.RemoveAll(filepath.Join(m.dir, "spool")))
				m.d.Restart()
			}
			service.Kill()
			m.Restart()
			m.d.Until("cache", "it waits for the store", func(s blackbox.SourceStatus) bool {
				return s.State == "waiting" && (strings.Contains(s.Why, "not known") || strings.Contains(s.Why, "a store"))
			})
			require.Equal(t, "slave", m.Info("replication")["role"])
			require.Error(t, m.error("SET", "k", "v"))
			service.Restart()
			m.reborn(1)
			require.Equal(t, digest, m.Digest())
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
