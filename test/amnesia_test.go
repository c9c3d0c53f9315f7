package test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/engine/enginetest"
	"github.com/offloader/offloader/test/blackbox"
)

// TestAmnesia: a master that comes back without what it held is found out, what it has now is passed over, and
// what was archived before is kept. What somebody deleted on purpose is no such thing.
func TestAmnesia(t *testing.T) {
	t.Parallel()
	enginetest.Each(t, func(t *testing.T, kind enginetest.Kind) {
		t.Parallel()
		t.Run("empty", func(t *testing.T) { cameBackEmpty(t, kind) })
		t.Run("empty, and refilled", func(t *testing.T) { cameBackToBeRefilled(t, kind) })
		t.Run("with few", func(t *testing.T) { cameBackWithFew(t, kind) })
		t.Run("rewound, by a full sync", func(t *testing.T) { rewoundFully(t, kind) })
		t.Run("flushed on purpose", func(t *testing.T) { flushedOnPurpose(t, kind) })
		t.Run("a dump of all", func(t *testing.T) { killedBehindItsDump(t, kind) })
		t.Run("an AOF", func(t *testing.T) { cameBackWithAOF(t, kind) })
		t.Run("with the daemon", func(t *testing.T) { bothKilled(t, kind) })
	})
}

// knows waits until the daemon knows by INFO what the master holds.
func knows(t *testing.T, d *blackbox.Daemon, master *enginetest.Server) (keys int64) {
	t.Helper()
	d.Until("cache", "known", func(s blackbox.SourceStatus) bool {
		keys = keysIn(t, master)
		return s.Known != nil && s.Known.By == "info" && s.Known.Keys == keys
	})
	return keys
}

// atRest is the digest of what a server holds from here on: nothing expires any more, and nobody writes.
func atRest(t *testing.T, s *enginetest.Server) string {
	t.Helper()
	if s.Kind().AtLeast("valkey", 9, 0) {
		settle(t, s)
	}
	return lostMoment(t, s).digest
}

// asItWas is the digest of a restore in which nothing expires either.
func asItWas(r *blackbox.Restored, kind enginetest.Kind) string {
	return r.Boot(kind, "--replicaof", "127.0.0.1 1").Digest()
}

// keysIn is how many keys a server counts.
func keysIn(t *testing.T, s *enginetest.Server) (all int64) {
	t.Helper()
	for name, value := range s.Info("keyspace") {
		var n int64
		if _, err := fmt.Sscanf(value, "keys=%d,", &n); err == nil && strings.HasPrefix(name, "db") {
			all += n
		}
	}
	return all
}

// forget has a master lose what it holds: it is killed, and started again with nothing.
func forget(t *testing.T, master *enginetest.Server) {
	t.Helper()
	master.Kill()
	if err := os.Remove(filepath.Join(master.Dir(), "dump.rdb")); err != nil {
		require.ErrorIs(t, err, os.ErrNotExist)
	}
	master.Restart()
}

// saved has a master write its dump.rdb, when the child that sent it to us has ended.
func saved(t *testing.T, master *enginetest.Server) {
	t.Helper()
	require.Eventually(t, func() bool { return master.Client().Do(t.Context(), "SAVE").Err() == nil }, 20*time.Second, 10*time.Millisecond)
}

func suspected(t *testing.T, d *blackbox.Daemon) blackbox.Suspect {
	t.Helper()
	s := d.Until("cache", "suspect", func(s blackbox.SourceStatus) bool { return s.State == "streaming" && s.Suspect != nil })
	require.Equal(t, s.Timeline, s.Suspect.Timeline)
	return *s.Suspect
}

// trusted waits until a source streams again on a timeline that isn't suspect.
func trusted(t *testing.T, d *blackbox.Daemon, fullResyncs int64) {
	t.Helper()
	s := d.Until("cache", "streaming again", func(s blackbox.SourceStatus) bool { return s.State == "streaming" && s.FullResyncs == fullResyncs })
	require.Nil(t, s.Suspect)
	for _, one := range d.Timelines("cache") {
		require.False(t, one.Suspect, one.Name)
	}
}

func cameBackEmpty(t *testing.T, kind enginetest.Kind) {
	master, d, _ := attached(t, kind)
	master.Do("CONFIG", "SET", "repl-ping-replica-period", 3600)
	before := atRest(t, master)
	d.Do("snapshot") // the last of what is good can be exported
	keys := knows(t, d, master)
	forget(t, master)
	why := suspected(t, d)
	require.Contains(t, why.Cause, "came back empty")
	require.Equal(t, blackbox.Sizes{Before: keys, Now: 0}, why.Keys)
	master.Do("SET", "life", "goes on")
	acknowledged(t, master, 1)

	all := d.Timelines("cache")
	require.Len(t, all, 2)
	good, bad := all[0], all[1]
	require.False(t, good.Suspect)
	require.NotNil(t, good.Ended)
	require.Contains(t, good.Exempt, "which is suspect")
	require.True(t, bad.Suspect)
	require.Equal(t, why.Cause, bad.Why)
	require.Equal(t, why.Keys, *bad.Keys)
	require.Equal(t, good.Name, why.Before)
	require.Equal(t, good.Name, bad.Before)

	latest := d.Restore("--latest")
	require.Equal(t, good.Name, latest.Timeline)
	require.Equal(t, before, asItWas(latest, kind))
	require.Contains(t, d.Do("restore", "--latest", "--dry-run"), bad.Name+" is suspect and was passed over")

	// It says so, everywhere, and what to do. The command that it names does it.
	for _, text := range []string{d.Do("status"), d.Do("list")} {
		require.Contains(t, text, "SUSPECT")
		require.Contains(t, text, why.Cause)
		require.Contains(t, text, fmt.Sprintf("%s keys before, 0 keys now", comma(keys)))
		require.Contains(t, text, "offloader release --config ")
		_, way, ok := strings.Cut(text, "what was there before: offloader ")
		require.True(t, ok, text)
		way, _, _ = strings.Cut(way, " --output DIR\n")
		require.Equal(t, good.Name, timelineOf(t, blackbox.Run(t, append(strings.Fields(way), "--dry-run", "--json")...)))
	}
	require.Contains(t, d.Get("/readyz"), "cache: timeline "+bad.Name+" is suspect: "+why.Cause)
	metrics := d.Get("/metrics")
	for _, line := range []string{`offloader_source_suspect{source="cache"} 1`, `offloader_suspect_keys{source="cache"} 0`, fmt.Sprintf(`offloader_suspect_before_keys{source="cache"} %d`, keys)} {
		require.Contains(t, metrics, line+"\n")
	}
	require.Contains(t, d.LogText(), "THE NEW TIMELINE IS SUSPECT")
	r := d.Run("export", "--to", filepath.Join(t.TempDir(), "dump.rdb"))
	require.Equal(t, 1, r.Code, "%s", r)
	require.Contains(t, r.Stderr, "is suspect, and passed over: the master came back empty")
	byClock := exportsByClock(t, d, master)
	require.Eventually(t, func() bool {
		return regexp.MustCompile(`(?m)^export of cache to .* is suspect, and passed over: the master came back empty`).MatchString(d.Get("/readyz"))
	}, 20*time.Second, 50*time.Millisecond)
	require.Empty(t, byClock())
	boot := t.TempDir()
	r = d.Run("export", "--latest", "--to", filepath.Join(boot, "dump.rdb"))
	require.Equal(t, 0, r.Code, "%s", r)
	require.Contains(t, r.Stderr, bad.Name+" is suspect and was passed over")
	require.Equal(t, before, enginetest.StartIn(t, kind, boot, "--replicaof", "127.0.0.1 1").Digest())

	// The user's word, which a daemon that is started later has, too.
	d.Do("release")
	d.Until("cache", "released", func(s blackbox.SourceStatus) bool { return s.Suspect == nil })
	require.Equal(t, bad.Name, d.Restore("--latest").Timeline)
	require.Eventually(t, func() bool { return len(byClock()) > 0 }, 20*time.Second, 50*time.Millisecond)
	d.Kill()
	d.Restart()
	require.Nil(t, d.Streaming("cache").Suspect)
	exported(t, d)
}

// What clients write to a master that has forgotten all is no part of what it held: neither what comes before its full
// sync begins, nor what it has by the time of the next one.
func cameBackToBeRefilled(t *testing.T, kind enginetest.Kind) {
	master := enginetest.Start(t, kind, "--repl-diskless-sync-delay", "2")
	fill := func(name string) {
		master.Do("EVAL", "for i = 1, 400 do redis.call('set', ARGV[1] .. i, i) end", 0, name)
	}
	fill("good:")
	d := blackbox.Start(t, t.TempDir(), blackbox.Source{Name: "cache", Address: master.Addr()})
	good := d.Streaming("cache").Timeline
	before := master.Digest()
	keys := knows(t, d, master)
	forget(t, master)
	require.Eventually(t, func() bool { return strings.Contains(master.Info("replication")["slave0"], "state=wait_bgsave") }, 20*time.Second, 10*time.Millisecond)
	fill("anew:")
	why := suspected(t, d)
	require.Contains(t, why.Cause, "came back empty")
	require.Equal(t, blackbox.Sizes{Before: keys, Now: 0}, why.Keys)
	require.Equal(t, keys, keysIn(t, master))

	master.Do("DEBUG", "CHANGE-REPL-ID")
	master.Do("CLIENT", "KILL", "TYPE", "replica")
	d.Until("cache", "a third timeline", func(s blackbox.SourceStatus) bool { return s.State == "streaming" && s.FullResyncs == 3 })
	require.Contains(t, suspected(t, d).Cause, "it came after timeline "+why.Timeline+", which is suspect: the master came back empty")
	latest := d.Restore("--latest")
	require.Equal(t, good, latest.Timeline)
	require.Equal(t, before, latest.Boot(kind).Digest())
}

// exportsByClock has a daemon export each second, and tells what is there.
func exportsByClock(t *testing.T, d *blackbox.Daemon, master *enginetest.Server) (there func() []string) {
	t.Helper()
	dir := t.TempDir()
	d.Rewrite(fmt.Sprintf(`
sources: [{name: cache, address: %q}]
spool: {path: $DIR/archive/.spool, max_size: 4GiB}
stores: [{type: disk, path: $DIR/archive}]
exports: [{schedule: "@every 1s", to: %q}]`, master.Addr(), dir+"/{time}.rdb"))
	d.Reload()
	return func() []string {
		there, err := filepath.Glob(dir + "/*Z.rdb")
		require.NoError(t, err)
		return there
	}
}

func timelineOf(t *testing.T, r blackbox.Result) string {
	t.Helper()
	require.Equal(t, 0, r.Code, "%s", r)
	_, name, ok := strings.Cut(r.Stdout, `"timeline": "`)
	require.True(t, ok, "%s", r)
	name, _, _ = strings.Cut(name, `"`)
	return name
}

// comma writes a number as people read it.
func comma(n int64) string {
	text := fmt.Sprint(n)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}

// Dumps that are older than the archive don't say of which history they are. How many keys they hold is what
// counts, by the share that the configuration has.
func cameBackWithFew(t *testing.T, kind enginetest.Kind) {
	master := enginetest.Start(t, kind)
	grow := func(keys int) {
		for i := range keys {
			master.Do("SET", fmt.Sprint("key:", i), i)
		}
	}
	dump, dumps := filepath.Join(master.Dir(), "dump.rdb"), map[int][]byte{}
	for _, keys := range []int{10, 30} {
		grow(keys)
		saved(t, master)
		file, err := os.ReadFile(dump)
		require.NoError(t, err)
		dumps[keys] = file
	}
	d := blackbox.StartWith(t, t.TempDir(), fmt.Sprintf(`
sources: [{name: cache, address: %q}]
stores: [{type: disk, path: $DIR/archive}]
spool: {path: $DIR/archive/.spool}
amnesia: {suspect_below: 20%%}`, master.Addr()))
	d.Streaming("cache")
	comeBackWith := func(keys int) (before string) {
		grow(100)
		knows(t, d, master)
		before = master.Digest()
		master.Kill()
		require.NoError(t, os.WriteFile(dump, dumps[keys], 0o600))
		master.Restart()
		return before
	}
	comeBackWith(30)
	trusted(t, d, 2)
	good := comeBackWith(10)
	why := suspected(t, d)
	require.Contains(t, why.Cause, "the master came back with 10 keys: it held 100 keys at ")
	require.Contains(t, why.Cause, "less than 20% of that is suspect")
	require.Equal(t, blackbox.Sizes{Before: 100, Now: 10}, why.Keys)
	for _, text := range []string{d.Do("status"), d.Do("list")} {
		require.Contains(t, text, "100 keys before, 10 keys now")
	}
	require.Equal(t, good, d.Restore("--latest").Boot(kind).Digest())
}

// prunedToTheSecond applies a retention that keeps a second, when the last second has bytes of its own. The daemon
// has left by then.
func prunedToTheSecond(t *testing.T, d *blackbox.Daemon, master *enginetest.Server) (said string) {
	t.Helper()
	d.Rewrite(fmt.Sprintf(`
sources: [{name: cache, address: %q}]
stores: [{type: disk, path: "$DIR/archive"}]
spool: {path: "$DIR/archive/.spool"}
retention: {window: 1s}`, master.Addr()))
	d.WaitFor(1100 * time.Millisecond)
	master.Do("SET", "young", "1")
	acknowledged(t, master, 1)
	d.Stop() // the store gets all
	return d.Do("prune")
}

// The old dump is of a moment that the master's backlog no longer reaches back to.
func rewoundFully(t *testing.T, kind enginetest.Kind) {
	master := enginetest.Start(t, kind, "--repl-backlog-size", "16kb")
	w := working(t, master, 300)
	proxy := blackbox.NewProxy(t, master.Addr())
	d := blackbox.Start(t, t.TempDir(), blackbox.Source{Name: "cache", Address: proxy.Addr()})
	d.Streaming("cache")
	require.NoError(t, w.Run(t.Context(), 300))
	saved(t, master)
	for range 50 {
		master.Do("INCR", "lost")
	}
	lost := atRest(t, master)
	keys := knows(t, d, master)
	proxy.Cut()
	master.Kill()
	master.Restart()
	for i := range 100 {
		master.Do("SET", fmt.Sprint("after:", i), strings.Repeat("x", 1000))
	}
	proxy.Mend()
	why := suspected(t, d)
	require.Contains(t, why.Cause, "started with an older dataset")
	require.Equal(t, keys, why.Keys.Before)
	require.Greater(t, why.Keys.Now, keys/2, "it isn't the number of keys")
	require.EqualValues(t, 2, d.Source("cache").FullResyncs)
	require.Equal(t, lost, asItWas(d.Restore("--latest"), kind))

	// It is started again, with all that it has: what is suspect stays so.
	saved(t, master)
	master.Kill()
	master.Restart()
	d.Until("cache", "streaming again", func(s blackbox.SourceStatus) bool {
		return s.State == "streaming" && s.ReplID == master.Info("replication")["master_replid"]
	})
	require.NotNil(t, d.Source("cache").Suspect)
	require.Equal(t, d.Timelines("cache")[0].Name, d.Aim("--latest").Timeline)

	// Retention lets nothing of what was before it go until somebody has looked.
	require.Contains(t, prunedToTheSecond(t, d, master), "deleted: 0 files")
	require.Equal(t, lost, asItWas(d.Restore("--latest"), kind))
	d.Do("release")
	require.Contains(t, d.Do("prune", "--dry-run"), "nothing is left of the timeline")
}

// The FLUSHALL is younger than the last time that the master was asked.
func flushedOnPurpose(t *testing.T, kind enginetest.Kind) {
	master, d, _ := attached(t, kind)
	knows(t, d, master)
	master.Do("FLUSHALL")
	acknowledged(t, master, 1)
	forget(t, master)
	trusted(t, d, 2)
}

// It is killed, and what its dump lacks is nothing that was written.
func killedBehindItsDump(t *testing.T, kind enginetest.Kind) {
	master, d, _ := attached(t, kind)
	before := atRest(t, master)
	saved(t, master)
	acknowledged(t, master, 1) // a PUBLISH, which nothing is left of
	master.Kill()
	master.Restart()
	s := d.Until("cache", "streaming again", func(s blackbox.SourceStatus) bool {
		return s.State == "streaming" && s.ReplID == master.Info("replication")["master_replid"]
	})
	require.Nil(t, s.Suspect)
	all := d.Timelines("cache")
	require.Len(t, all, 2)
	require.False(t, all[1].Suspect)
	require.Equal(t, before, asItWas(d.Restore("--latest", "--timeline", all[0].Name), kind))
}

// A new id and another offset prove nothing.
func cameBackWithAOF(t *testing.T, kind enginetest.Kind) {
	master := enginetest.Start(t, kind, "--appendonly", "yes", "--appendfsync", "always")
	working(t, master, 300)
	d := blackbox.Start(t, t.TempDir(), blackbox.Source{Name: "cache", Address: master.Addr()})
	d.Streaming("cache")
	before := knows(t, d, master)
	was := d.Source("cache")
	master.Kill()
	master.Restart()
	trusted(t, d, 2)
	require.NotEqual(t, was.ReplID, d.Source("cache").ReplID)
	require.Greater(t, keysIn(t, master), before/2)
}

// A daemon that is started together with its master knows what that held.
func bothKilled(t *testing.T, kind enginetest.Kind) {
	master, d, _ := attached(t, kind)
	before := atRest(t, master)
	keys := knows(t, d, master)
	d.Kill()
	forget(t, master)
	d.Restart()
	why := suspected(t, d)
	require.Positive(t, why.Keys.Before)
	require.LessOrEqual(t, why.Keys.Before, keys*11/10)
	require.Equal(t, before, asItWas(d.Restore("--latest"), kind))
	first := d.Source("cache").Timeline

	// Nor does it forget that it is suspect, or take the next emptiness for a change for the better.
	d.Kill()
	d.Restart()
	require.NotNil(t, d.Streaming("cache").Suspect)
	forget(t, master)
	d.Until("cache", "a third timeline", func(s blackbox.SourceStatus) bool {
		return s.State == "streaming" && s.Timeline != "" && s.Timeline != first
	})
	again := suspected(t, d)
	require.Equal(t, why.Keys, again.Keys)
	require.Equal(t, why.Before, again.Before)
	require.Equal(t, why.Before, d.Aim("--latest").Timeline)
}

// Replicas of the relay keep what they have, until somebody says that the master is right.
func TestAmnesiaIsNotPassedOn(t *testing.T) {
	t.Parallel() // it waits most of the time
	kind := nth(t, 2)
	master := enginetest.Start(t, kind)
	working(t, master, 300)
	d, port := relaying(t, master.Addr(), "")
	replica := enginetest.Start(t, kind, "--replicaof", fmt.Sprintf("127.0.0.1 %d", port))
	same(t, master, replica)
	atRest(t, master)
	keys := keysIn(t, replica)
	knows(t, d, master)
	forget(t, master)
	why := suspected(t, d)
	master.Do("SET", "other", "1")
	require.Eventually(t, func() bool { return strings.Contains(replica.LogText(), "timeline "+why.Timeline+" is suspect") }, 20*time.Second, 10*time.Millisecond)
	require.Equal(t, keys, keysIn(t, replica))
	require.Equal(t, 1, strings.Count(replica.LogText(), "Full resync from"))
	d.Do("release")
	same(t, master, replica)
	require.Equal(t, "1", replica.Do("GET", "other"))
}
