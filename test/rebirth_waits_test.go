package test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/offloader/offloader/internal/engine/enginetest"
	"github.com/offloader/offloader/internal/store/s3test"
	"github.com/offloader/offloader/test/blackbox"
)

// TestRebirthWithoutRights: a user who may not ask the server what it is, or may not promote it. Its stream, which
// is our own, is not taken for a master's; what it lacks is said; a word that comes to nothing doesn't stay.
func TestRebirthWithoutRights(t *testing.T) {
	t.Parallel()
	m := newMortal(t, nth(t, 0))
	working(t, m.Server, 300)
	good := m.still(t)
	m.d.Until("cache", "it is known what it holds", func(s blackbox.SourceStatus) bool { return s.Known != nil && s.Known.Keys > 50 })
	m.Do("ACL", "SETUSER", "offloader", "-info", "-replicaof", "-role")
	m.Do("ACL", "SAVE")
	require.Contains(t, found(t, m.d.Run("check", "--json"), "rebirth"), "fail user offloader may not do there what a rebirth takes, so it would not come back by itself: INFO (NOPERM")
	m.Kill()
	m.Restart()
	require.Contains(t, m.waits("not be asked for INFO").Hint, "+info +role +replicaof")
	m.Do("ACL", "SETUSER", "offloader", "+info")
	m.waits("not be asked for ROLE")
	m.Do("ACL", "SETUSER", "offloader", "+role")
	m.d.Until("cache", "it says what it lacks", func(s blackbox.SourceStatus) bool {
		return strings.Contains(s.Hint, "ACL SETUSER offloader +replicaof")
	})
	for _, word := range []string{"--latest", "--empty"} {
		require.Contains(t, m.d.Run("promote", word).Stderr, "ACL SETUSER offloader +replicaof", "a word doesn't help")
	}
	m.Do("ACL", "SETUSER", "offloader", "+replicaof")
	m.Do("ACL", "SAVE")
	m.reborn(1)
	require.Equal(t, good, m.Digest())

	// Suspect, and --latest can't be done: then release counts, and nothing of the other word.
	m.Kill()
	m.Restart("--replicaof", "no one")
	m.Do("SET", "after", "the loss")
	m.d.Until("cache", "it is suspect", func(s blackbox.SourceStatus) bool { return s.Suspect != nil && s.State == "streaming" })
	bad := m.still(t)
	m.Do("ACL", "SETUSER", "offloader", "-replicaof")
	m.Do("ACL", "SAVE")
	m.Kill()
	m.Restart()
	m.waits("suspect")
	r := m.d.Run("promote", "--latest")
	require.Equal(t, 1, r.Code, r)
	require.Contains(t, r.Stderr, "+replicaof")
	m.waits("suspect")
	m.d.Do("release", "--source", "cache")
	m.Do("ACL", "SETUSER", "offloader", "+replicaof")
	m.reborn(2)
	require.Equal(t, bad, m.Digest())
}

// TestRebirthWithAWrongPassword: the server can't get into the relay, where another replica is attached. It is told what is
// wrong, and not that the other one should be it.
func TestRebirthWithAWrongPassword(t *testing.T) {
	t.Parallel()
	m := newMortal(t, nth(t, 1))
	other := m.replicaOf(t, m.port, "--masteruser", "replica", "--masterauth", "of the relay")
	m.Do("SET", "k", "kept")
	digest := m.still(t)
	same(t, m.Server, other)
	m.Kill()
	m.Restart("--masterauth", "of another")
	require.Contains(t, m.waits("can't get in: a wrong password came from 127.0.0.1, or none").Hint, "set masteruser and masterauth")
	m.Do("CONFIG", "SET", "masterauth", "of the relay")
	m.reborn(1)
	require.Equal(t, digest, m.Digest())
}

// TestRebirthOfOneThatHoldsMore: its own dump.rdb has what no daemon was there to take. It is nobody's to throw away.
func TestRebirthOfOneThatHoldsMore(t *testing.T) {
	t.Parallel()
	enginetest.Each(t, func(t *testing.T, kind enginetest.Kind) {
		t.Parallel()
		m := newMortal(t, kind)
		m.Do("SET", "k", "v")
		m.d.Durable("cache", m.Offset())
		m.d.Kill()
		m.Do("SET", "ahead", "1")
		m.Do("SAVE")
		m.Kill()
		m.Restart()
		m.d.Restart()
		require.Contains(t, m.waits("only what is before").Hint, "promote --source cache --latest")
		require.Contains(t, fmt.Sprint(m.error("GET", "ahead")), "MASTERDOWN")
		m.d.Do("promote", "--latest")
		s := m.d.Streaming("cache")
		require.Nil(t, s.Suspect)
		require.Equal(t, "1", m.Do("GET", "ahead"))
		acknowledged(t, m.Server, 1)
		require.Equal(t, m.still(t), m.d.Restore("--latest").Boot(kind).Digest())
	})
}

// TestRebirthBehindAnotherAddress: it follows the relay by way of another address, and comes from another one than the
// source has. What it is is found out, and its stream is not asked for, which would be our own.
func TestRebirthBehindAnotherAddress(t *testing.T) {
	t.Parallel()
	kind := nth(t, 1)
	port := enginetest.FreePort(t)
	detour := blackbox.NewProxy(t, fmt.Sprintf("127.0.0.1:%d", port))
	s := enginetest.Start(t, kind, "--replicaof", strings.Replace(detour.Addr(), ":", " ", 1), "--replica-serve-stale-data", "no")
	proxy := blackbox.NewProxy(t, s.Addr())
	d := blackbox.StartWith(t, t.TempDir(), fmt.Sprintf(`
sources: [{name: cache, address: %q, relay: {listen: "127.0.0.1:%d"}}]
spool: {path: $DIR/spool, max_size: 64MiB, min_free: 1%%}
stores: [{type: disk, path: $DIR/archive}]
`, proxy.Addr(), port))
	m := &mortal{Server: s, d: d, port: port}
	require.Contains(t, m.waits("says there that it is "+s.Addr()).Hint, "replica-announce-port")
	_, at, _ := strings.Cut(proxy.Addr(), ":")
	s.Do("CONFIG", "SET", "replica-announce-port", at)
	m.waits("nothing is archived")
	d.Do("promote", "--empty")
	d.Streaming("cache")
	s.Do("SET", "k", "v")
	d.Durable("cache", s.Offset())
	require.NotContains(t, found(t, d.Run("check", "--json"), "rebirth"), "is not the source's address")

	s.Do("CONFIG", "SET", "replica-announce-port", 0)
	require.Contains(t, found(t, d.Run("check", "--json"), "rebirth"), "fail as a replica it would tell the relay that it is "+s.Addr()+", which is not the source's address")
	s.Kill()
	s.Restart()
	m.waits("says there that it is " + s.Addr())
	require.Contains(t, fmt.Sprint(m.error("SET", "k", "v")), "READONLY")
	s.Do("CONFIG", "SET", "replica-announce-port", at)
	s.Do("REPLICAOF", "127.0.0.1", port) // it comes anew
	m.reborn(1)
	require.Equal(t, "v", s.Do("GET", "k"))
}

// TestNoRebirthOfACluster: an engine in cluster mode follows nobody, so nobody is told how long that would take.
func TestNoRebirthOfACluster(t *testing.T) {
	t.Parallel()
	kind := nth(t, 1)
	single, shard := enginetest.Start(t, kind), enginetest.Start(t, kind, "--cluster-enabled", "yes")
	shard.Do("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
	d := blackbox.StartWith(t, t.TempDir(), fmt.Sprintf(`
sources:
  - {name: single, address: %q, relay: {listen: "127.0.0.1:%d"}}
  - {name: shard, address: %q, relay: {listen: "127.0.0.1:%d"}}
spool: {path: $DIR/spool, max_size: 64MiB, min_free: 1%%}
stores: [{type: disk, path: $DIR/archive}]
`, single.Addr(), enginetest.FreePort(t), shard.Addr(), enginetest.FreePort(t)))
	d.Streaming("shard")
	d.Until("single", "what a rebirth would take", func(s blackbox.SourceStatus) bool { return s.Rebirth != nil })
	require.Nil(t, d.Source("shard").Rebirth)
	require.NotContains(t, d.Get("/metrics"), `offloader_rebirth_predicted_seconds{source="shard"}`)
	require.Contains(t, found(t, d.Run("check", "--json"), "rebirth"), "fail it is in cluster mode")
}

// TestRebirthOfAChainedSource: a source that follows a master of its own is archived and left alone. Does it come back as
// our replica, that master is still there: nothing is promoted beside it.
func TestRebirthOfAChainedSource(t *testing.T) {
	t.Parallel()
	kind := enginetest.Any(t)
	above := enginetest.Start(t, kind)
	port := enginetest.FreePort(t)
	s := enginetest.Start(t, kind, "--replicaof", fmt.Sprintf("127.0.0.1 %d", above.Port()), "--replica-serve-stale-data", "no")
	d := blackbox.StartWith(t, t.TempDir(), fmt.Sprintf(`
sources: [{name: cache, address: %q, relay: {listen: "127.0.0.1:%d"}}]
spool: {path: $DIR/spool, max_size: 64MiB, min_free: 1%%}
stores: [{type: disk, path: $DIR/archive}]
`, s.Addr(), port))
	m := &mortal{Server: s, d: d, port: port}
	d.Streaming("cache")
	above.Do("SET", "k", "v")
	d.Durable("cache", above.Offset())
	require.Equal(t, "slave", s.Info("replication")["role"])

	m.Kill()
	m.Restart("--replicaof", fmt.Sprintf("127.0.0.1 %d", port))
	require.Contains(t, m.waits(above.Addr()+", which was of its replicas or has its name, is a master now").Hint, "promote --source cache --latest")
	above.Kill()
	m.reborn(1)
	require.Equal(t, "v", s.Do("GET", "k"))
}

// TestRebirthWaitsForAStore: what is archived can't be known while the store is away: nothing is promoted, and
// when it is back it goes on by itself.
func TestRebirthWaitsForAStore(t *testing.T) {
	t.Parallel()
	for i, lost := range []bool{false, true} {
		t.Run(fmt.Sprintf("spool lost: %v", lost), func(t *testing.T) {
			t.Parallel() // it waits most of the time
			service := s3test.Start(t, s3test.VersityGW)
			m := newMortalOn(t, nth(t, i), onS3(t, service.Endpoint(), service.Bucket(s3test.Plain)), "")
			m.Do("SET", "k", strings.Repeat("v", 3<<20))
			digest := m.still(t)
			stored(t, m.d, m.Offset())
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
			require.Contains(t, m.d.Run("promote", "--latest").Stderr, service.Endpoint(), "what has to answer before there is a word")
			service.Restart()
			m.reborn(1)
			require.Equal(t, digest, m.Digest())
		})
	}
}

// TestRebirthWhileItsStoreDies: the server has got some of what only the store has when that is killed. It is no
// master with a part of the data; when the store is back it gets the rest.
func TestRebirthWhileItsStoreDies(t *testing.T) {
	t.Parallel() // it waits most of the time
	service := s3test.Start(t, s3test.VersityGW)
	proxy := s3test.NewProxy(t, service)
	m := newMortalOn(t, nth(t, 2), onS3(t, proxy.Endpoint(), service.Bucket(s3test.Plain)), "")
	m.Do("SET", "first", noise(t, 3<<20))
	stored(t, m.d, m.Offset())
	m.Do("SET", "second", noise(t, 3<<20))
	digest := m.still(t)
	stored(t, m.d, m.Offset())
	m.d.Kill()
	m.Kill()
	require.NoError(t, os.RemoveAll(filepath.Join(m.dir, "spool")))
	_, all := segments(t, m.d.Archive, "cache")
	m.d.Restart()
	m.d.Until("cache", "it knows where the store ends", func(s blackbox.SourceStatus) bool { return strings.Contains(s.Error, "nothing listens there") })

	asked, killed := make(chan struct{}), make(chan struct{})
	var once sync.Once
	last := fmt.Sprintf("/log/%020d-", all[len(all)-1].From)
	proxy.Harm(func(r *http.Request) s3test.Fault {
		if r.Method != http.MethodGet || !strings.Contains(r.URL.Path, last) {
			return s3test.Fault{}
		}
		return s3test.Fault{Before: func() { once.Do(func() { close(asked) }); <-killed }}
	})
	m.Restart()
	<-asked
	require.Eventually(t, func() bool { return m.Client().Exists(t.Context(), "first").Val() == 1 }, patience, pollEvery)
	service.Kill()
	close(killed)
	proxy.Mend()
	m.waits("what is archived is not known: ")
	require.Contains(t, fmt.Sprint(m.error("SET", "k", "v")), "READONLY")
	service.Restart()
	m.reborn(1)
	require.Equal(t, digest, m.Digest())
	require.Equal(t, "0", m.Info("stats")["sync_full"])
}

// TestRebirthWithAFullSpool: the store is away and the spool full when the master dies. It comes back with all that was
// acknowledged, and writes; what it writes is archived when there is room again.
func TestRebirthWithAFullSpool(t *testing.T) {
	t.Parallel()
	m := newMortal(t, enginetest.Any(t), "--repl-backlog-size", "64mb")
	working(t, m.Server, 300)
	m.still(t)
	began := m.d.Streaming("cache")
	require.Eventually(t, func() bool {
		stored, _ := filepath.Glob(filepath.Join(m.d.Dir, "cache", began.Timeline, "snapshots", "*.json"))
		return len(stored) == 1
	}, 20*time.Second, 10*time.Millisecond, "the snapshot is stored")
	logs := filepath.Join(m.d.Dir, "cache", began.Timeline, "log")
	require.NoError(t, os.RemoveAll(logs))
	require.NoError(t, os.WriteFile(logs, nil, 0o600)) // not even root gets past it
	for n := 0; ; n++ {
		require.Less(t, n, 100, "the spool of 64 MiB takes 100 MB")
		m.Do("SET", "n", n)
		m.Do("SET", "value:"+strconv.Itoa(n), noise(t, 1_000_000))
		if m.Do("WAIT", 1, 2000).(int64) == 0 {
			break
		}
		m.Do("SET", "acknowledged", n)
	}
	full := func(s blackbox.SourceStatus) bool {
		return s.State == "waiting" && s.Why == "for room in the spool" && strings.Contains(s.Error, "is full")
	}
	durable := m.d.Until("cache", "waiting for room", full).Durable
	at := []string{"--offset", strconv.FormatInt(durable, 10)}

	m.Kill()
	m.Restart()
	require.Eventually(t, func() bool { return m.Info("replication")["role"] == "master" }, 30*time.Second, 10*time.Millisecond)
	m.d.Until("cache", "waiting for room again", full)
	require.Equal(t, m.d.Restore(at...).Boot(enginetest.Any(t)).Digest(), m.Digest())
	m.Do("SET", "after", "all")
	require.EqualValues(t, 0, m.Do("WAIT", 1, 100))

	require.NoError(t, os.Remove(logs))
	s := m.reborn(1)
	require.EqualValues(t, 1, s.FullResyncs)
	require.Equal(t, "0", m.Info("stats")["sync_full"])
	acknowledged(t, m.Server, 1)
	require.Len(t, m.d.Timelines("cache"), 1)
	require.Equal(t, m.still(t), m.d.Restore("--latest").Boot(enginetest.Any(t)).Digest())
}

// TestRebirthWaitsForADiskThatHangs: a file of the store doesn't open, as on a network file system whose server is gone. That
// is said in time, by name, and when it opens again the rebirth goes on by itself.
func TestRebirthWaitsForADiskThatHangs(t *testing.T) {
	t.Parallel()
	m := newMortal(t, enginetest.Any(t))
	m.Do("SET", "k", "v")
	digest := m.still(t)
	name := filepath.Join(m.d.Dir, "cache", m.d.Source("cache").Timeline, "timeline.json")
	var held *os.File
	require.Eventually(t, func() (ok bool) { // in the place of what the network would hold
		var err error
		held, err = os.OpenFile(name, os.O_RDWR, 0)
		return err == nil
	}, 20*time.Second, 10*time.Millisecond)
	defer func() { require.NoError(t, held.Close()) }()
	m.Kill()
	if !lease(t, held, unix.F_WRLCK) {
		return
	}
	m.Restart()
	s := m.waits("no answer")
	require.Contains(t, s.Why, "archive "+m.d.Dir)
	require.Equal(t, "slave", m.Info("replication")["role"])
	lease(t, held, unix.F_UNLCK)
	m.reborn(1)
	require.Equal(t, digest, m.Digest())
}

// lease keeps all others from opening a file, for the 45 s of /proc/sys/fs/lease-break-time at most, where the file system knows
// leases.
func lease(t *testing.T, f *os.File, how int) bool {
	t.Helper()
	_, err := unix.FcntlInt(f.Fd(), unix.F_SETLEASE, how)
	if err != nil {
		t.Logf("a file that doesn't open is only tried where there are leases: %v", err)
	}
	return err == nil
}

// TestRebirthBehindADeadConnection: the master's host loses its power, and nobody tells the daemon that its connection has
// ended. When the master comes to the relay that is proof enough.
func TestRebirthBehindADeadConnection(t *testing.T) {
	t.Parallel()
	kind := enginetest.Any(t)
	port, proxy := enginetest.FreePort(t), blackbox.NewProxy(t, "127.0.0.1:1")
	_, at, _ := strings.Cut(proxy.Addr(), ":")
	s := enginetest.Start(t, kind, "--replicaof", fmt.Sprintf("127.0.0.1 %d", port), "--replica-serve-stale-data", "no", "--replica-announce-port", at)
	proxy.To(s.Addr())
	d := blackbox.StartWith(t, t.TempDir(), fmt.Sprintf(`
sources: [{name: cache, address: %q, relay: {listen: "127.0.0.1:%d"}}]
spool: {path: $DIR/spool, max_size: 64MiB, min_free: 1%%}
stores: [{type: disk, path: $DIR/archive}]
`, proxy.Addr(), port))
	m := &mortal{Server: s, d: d, port: port}
	m.waits("nothing is archived")
	d.Do("promote", "--empty")
	d.Streaming("cache")
	working(t, s, 300)
	digest := m.still(t)
	proxy.Lose()
	m.Kill()
	require.Equal(t, "streaming", d.Source("cache").State)
	m.Restart()
	m.reborn(1)
	require.Equal(t, digest, m.Digest())
	require.Equal(t, "0", m.Info("stats")["sync_full"])
}

// TestRebirthOfOneThatRuns: somebody has a master that runs follow the relay. It has no more than is archived, and is the master
// again at once; nothing is lost, nobody has a full sync.
func TestRebirthOfOneThatRuns(t *testing.T) {
	t.Parallel()
	enginetest.Each(t, func(t *testing.T, kind enginetest.Kind) {
		t.Parallel()
		m := newMortal(t, kind)
		working(t, m.Server, 300)
		digest := m.still(t)
		for n := range int64(3) {
			m.Do("SET", "last", n) // it may be on its way to us
			m.Do("REPLICAOF", "127.0.0.1", m.port)
			m.reborn(n + 1)
			require.Equal(t, strconv.Itoa(int(n)), m.Do("GET", "last"))
		}
		m.Do("DEL", "last")
		acknowledged(t, m.Server, 1)
		require.Equal(t, digest, m.Digest())
		require.Equal(t, "1", m.Info("stats")["sync_full"], "the first")
		require.Len(t, m.d.Timelines("cache"), 1)
		require.Nil(t, m.d.Source("cache").Suspect)
	})
}
