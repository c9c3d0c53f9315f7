package test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/engine/enginetest"
	"github.com/offloader/offloader/test/blackbox"
)

// What replication streams, RDBs and AOFs are known to trip programs over, each tried on the
// program as a whole. The numbers are those of the table in pitfalls_test.go, which has the rest.
func TestPitfalls(t *testing.T) {
	t.Parallel()
	enginetest.Each(t, func(t *testing.T, kind enginetest.Kind) {
		t.Parallel()
		t.Run("pitfall 3: hashes whose fields expire", func(t *testing.T) { fieldExpiry(t, kind) })
		t.Run("pitfall 4: a quiet master comes online", func(t *testing.T) { quietMaster(t, kind) })
		t.Run("pitfall 13: no SELECT after a resume", func(t *testing.T) { noSelect(t, kind) })
		t.Run("pitfall 14: a SELECT for every full sync of others", func(t *testing.T) { othersSync(t, kind) })
		t.Run("pitfall 15: the EOF mark in a value", func(t *testing.T) { markInValue(t, kind) })
		t.Run("pitfall 16: a type that two engines number alike", func(t *testing.T) { hashTypes(t, kind) })
		t.Run("pitfall 17: fields made persistent before they expired", func(t *testing.T) { persistedFields(t, kind) })
		t.Run("pitfall 20: a clean restart of the master", func(t *testing.T) { cleanRestart(t, kind) })
		t.Run("pitfall 21: a restart with an AOF", func(t *testing.T) { restartWithAOF(t, kind) })
		t.Run("pitfall 23: expiry, and names in lower case", func(t *testing.T) { expiryInLowerCase(t, kind) })
		t.Run("pitfall 29: transactions that aren't, and some that are", func(t *testing.T) { bareTransactions(t, kind) })
		t.Run("pitfall 30: an output buffer that is too small", func(t *testing.T) { smallBuffer(t, kind) })
	})
}

// archiving starts a daemon on a master, source cache.
func archiving(t *testing.T, master *enginetest.Server) *blackbox.Daemon {
	t.Helper()
	d := blackbox.Start(t, t.TempDir(), blackbox.Source{Name: "cache", Address: master.Addr()})
	d.Streaming("cache")
	return d
}

// sameRestored demands that the latest point is what the master holds, once all of it is durable.
func sameRestored(t *testing.T, d *blackbox.Daemon, master *enginetest.Server) {
	t.Helper()
	d.Durable("cache", master.Offset())
	restored := d.Restore("--latest").Boot(master.Kind())
	require.Empty(t, enginetest.Diff(t, master, restored))
	require.Equal(t, master.Digest(), restored.Digest())
}

// Without a version Valkey 9 makes an RDB that can't hold them, and fails for ever.
func fieldExpiry(t *testing.T, kind enginetest.Kind) {
	master := enginetest.Start(t, kind)
	master.Do("HSET", "plain", "f", "v")
	if kind.HasHashFieldTTL() {
		master.Do("HSET", "small", "f", "v", "g", "w")
		master.Do("HPEXPIREAT", "small", 4102444800000, "FIELDS", 1, "f")
		for i := range 1000 {
			master.Do("HSET", "large", i, strings.Repeat("v", 100))
		}
		master.Do("HPEXPIREAT", "large", 4102444800000, "FIELDS", 2, "1", "2")
	}
	d := archiving(t, master)
	require.Equal(t, "1", master.Info("stats")["sync_full"])
	sameRestored(t, d, master)
}

// Type 22 is a hash whose fields expire in Valkey's RDBs, and another one in those of Redis 7.4.
// Told apart by the magic, all of the RDB is walked: nothing is unchecked, each key is counted.
func hashTypes(t *testing.T, kind enginetest.Kind) {
	master := enginetest.Start(t, kind)
	for i := range 10 {
		key := fmt.Sprint("hash:", i)
		master.Do("HSET", key, "f", "v", "g", strings.Repeat("w", 100*i))
		if kind.HasHashFieldTTL() {
			master.Do("HPEXPIREAT", key, 4102444800000, "FIELDS", 1, "f")
		}
	}
	d := archiving(t, master)
	d.Stop()
	sidecars, err := filepath.Glob(filepath.Join(d.Dir, "cache", "*", "snapshots", "*.json"))
	require.NoError(t, err)
	require.Len(t, sidecars, 1)
	sidecar, err := os.ReadFile(sidecars[0])
	require.NoError(t, err)
	require.NotContains(t, string(sidecar), "unchecked")
	require.Regexp(t, `"keys": \{\s*"0": 10\s*\}`, string(sidecar))
}

// A diskless master starts the stream at an ACK that comes after its child's end. The child is slow
// here, and nobody writes until it has ended.
func quietMaster(t *testing.T, kind enginetest.Kind) {
	master := enginetest.Start(t, kind, "--rdb-key-save-delay", "2000", "--repl-diskless-sync", "yes", "--repl-ping-replica-period", "3600")
	for i := range 300 {
		master.Do("SET", fmt.Sprint("key:", i), "v")
	}
	d := archiving(t, master)
	require.Eventually(t, func() bool {
		return strings.Contains(master.Info("replication")["slave0"], "state=online")
	}, patience, pollEvery)
	master.Do("SET", "after", "1")
	require.EqualValues(t, 1, master.Do("WAIT", 1, 10_000))
	sameRestored(t, d, master)
}

// The master takes for granted that a replica still has the database it had selected.
func noSelect(t *testing.T, kind enginetest.Kind) {
	master := enginetest.Start(t, kind)
	d := archiving(t, master)
	ctx := context.Background()
	for i, end := range []func(){d.Stop, d.Kill, d.Stop, d.Kill} {
		require.NoError(t, master.DB(5).Set(ctx, fmt.Sprint("before:", i), "1", 0).Err())
		d.Durable("cache", master.Offset())
		end()
		require.NoError(t, master.DB(5).Set(ctx, fmt.Sprint("while it is away:", i), "1", 0).Err())
		d.Restart()
		d.Streaming("cache")
		require.NoError(t, master.DB(5).Set(ctx, fmt.Sprint("after:", i), "1", 0).Err())
	}
	sameRestored(t, d, master)
	require.Equal(t, "1", master.Info("stats")["sync_full"])
	selects := d.Log("--command", "SELECT")
	require.LessOrEqual(t, len(selects), 1, "or this shows nothing: %v", selects)
	for _, entry := range d.Log("--key", "after:*") {
		require.Equal(t, 5, entry.DB)
	}
}

// Any full sync, also of another replica, puts a SELECT before the next write.
func othersSync(t *testing.T, kind enginetest.Kind) {
	master := enginetest.Start(t, kind)
	d := archiving(t, master)
	for i := range 3 {
		require.NoError(t, master.DB(4).Set(t.Context(), fmt.Sprint("before:", i), "1", 0).Err())
		out, err := exec.Command(kind.Tool("cli"), "-p", strconv.Itoa(master.Port()), "--rdb", filepath.Join(t.TempDir(), "x.rdb")).CombinedOutput()
		require.NoError(t, err, "%s", out)
		tx := master.DB(4).TxPipeline()
		tx.Set(t.Context(), fmt.Sprint("a:", i), "1", 0)
		tx.Incr(t.Context(), "counter")
		_, err = tx.Exec(t.Context())
		require.NoError(t, err)
	}
	sameRestored(t, d, master)
	for _, entry := range d.Log("--key", "counter") {
		require.Equal(t, 4, entry.DB, "also where the SELECT stands inside the MULTI")
	}
}

// The mark is the same for all full syncs of a server's run, so anyone can store it.
func markInValue(t *testing.T, kind enginetest.Kind) {
	master := enginetest.Start(t, kind, "--rdbcompression", "no")
	mark := eofMark(t, master)
	master.Do("SET", "trap", mark)
	master.Do("SET", "large trap", strings.Repeat("x", 300_000)+mark)
	master.Do("RPUSH", "list", mark, "behind it")
	require.Equal(t, mark, eofMark(t, master), "or this shows nothing")
	d := archiving(t, master)
	master.Do("SET", "in the stream", mark)
	sameRestored(t, d, master)
}

// eofMark asks for a full sync, and is what its RDB will end in.
func eofMark(t *testing.T, master *enginetest.Server) string {
	t.Helper()
	conn, err := net.Dial("tcp", master.Addr())
	require.NoError(t, err)
	defer conn.Close()
	in := bufio.NewReader(conn)
	for _, ask := range []string{"REPLCONF capa eof capa psync2", "REPLCONF version 9.9.9", "PSYNC ? -1"} {
		_, err = io.WriteString(conn, ask+"\r\n")
		require.NoError(t, err)
		_, err = in.ReadString('\n') // the version is an error for Redis
		require.NoError(t, err)
	}
	for {
		line, err := in.ReadString('\n')
		require.NoError(t, err)
		if mark, ok := strings.CutPrefix(strings.TrimSpace(line), "$EOF:"); ok {
			_, err = io.CopyN(io.Discard, in, 9) // the child has begun
			require.NoError(t, err)
			return mark
		}
	}
}

// Redis asks its own clock whether a field has expired, also when it replays, so a field that was
// made persistent in time is lost in a late replay. That can't be mended, but it is told.
func persistedFields(t *testing.T, kind enginetest.Kind) {
	if !kind.HasHashFieldTTL() {
		limits, err := os.ReadFile("../docs/limits.md")
		require.NoError(t, err)
		require.Contains(t, string(limits), "HPERSIST", "told in writing too")
		return
	}
	master := enginetest.Start(t, kind)
	d := archiving(t, master)
	master.Do("HSET", "hash", "f", "v", "g", "w")
	master.Do("HPEXPIRE", "hash", 700, "FIELDS", 1, "f")
	master.Do("HPERSIST", "hash", "FIELDS", 1, "f")
	d.Durable("cache", master.Offset())
	d.WaitFor(time.Second) // the expiry that is no more would have passed
	require.EqualValues(t, 2, master.Do("HLEN", "hash"))
	restored := d.Restore("--latest")
	server := restored.Boot(kind)
	if kind.Valkey() {
		require.Empty(t, restored.Notes)
		require.Equal(t, master.Digest(), server.Digest())
		return
	}
	require.Len(t, restored.Notes, 1)
	require.Contains(t, restored.Notes[0], "HPERSIST")
	require.Len(t, d.Log("--command", "HPERSIST"), 1)
	require.Contains(t, d.Do("restore", "--latest", "--output", filepath.Join(t.TempDir(), "again")), "HPERSIST")
}

// The master's last words are in the stream: who has read them to the end can go on, under a new
// replication id.
func cleanRestart(t *testing.T, kind enginetest.Kind) {
	master := enginetest.Start(t, kind, "--save", "3600 1")
	master.Do("SET", "before", "1")
	d := archiving(t, master)
	was := d.Source("cache").ReplID
	for i := range 3 {
		master.Do("SET", fmt.Sprint("key:", i), "1")
		master.Stop()
		master.Restart()
		is := d.Until("cache", "streaming under a new id", func(s blackbox.SourceStatus) bool { return s.State == "streaming" && s.ReplID != was })
		was = is.ReplID
	}
	master.Do("SET", "after", "1")
	sameRestored(t, d, master)
	require.Len(t, d.Timelines("cache"), 1, "no full sync")
	require.EqualValues(t, 1, d.Source("cache").FullResyncs)
}

// With an AOF the ids are lost and offsets begin near 0 again: a new timeline, and nothing else.
func restartWithAOF(t *testing.T, kind enginetest.Kind) {
	master := enginetest.Start(t, kind, "--appendonly", "yes")
	for i := range 100 {
		master.Do("SET", fmt.Sprint("key:", i), "1")
	}
	d := archiving(t, master)
	for i := range 100 {
		master.Do("SET", fmt.Sprint("more:", i), "1")
	}
	before, at := master.Digest(), master.Offset()
	d.Durable("cache", at)
	first := d.Source("cache").Timeline
	master.Stop()
	master.Restart()
	d.Until("cache", "on a new timeline", func(s blackbox.SourceStatus) bool {
		return s.State == "streaming" && s.Timeline != "" && s.Timeline != first
	})
	master.Do("SET", "after", "1")
	sameRestored(t, d, master)
	all := d.Timelines("cache")
	require.Len(t, all, 2)
	require.NotNil(t, all[0].Ended)
	require.Nil(t, all[1].Parent)
	require.NotEqual(t, "first contact", all[1].Reason)
	require.Equal(t, before, d.Restore("--timeline", first, "--offset", strconv.FormatInt(at, 10)).Boot(kind).Digest())
}

// An expiry is a DEL or an UNLINK in the stream, an EXPIRE in the past too, and names come as the
// client wrote them.
func expiryInLowerCase(t *testing.T, kind enginetest.Kind) {
	master := enginetest.Start(t, kind, "--repl-ping-replica-period", "1", "--hz", "100")
	d := archiving(t, master)
	master.Do("set", "kept", "1")
	master.Do("set", "gone", "1", "px", "50")
	master.Do("sEt", "past", "1")
	require.Eventually(t, func() bool { return master.Do("exists", "gone").(int64) == 0 }, patience, pollEvery)
	master.Do("pexpire", "past", "-1")
	d.Durable("cache", master.Offset())
	for _, key := range []string{"gone", "past"} {
		entries := d.Log("--key", key)
		last := strings.ToUpper(entries[len(entries)-1].Command)
		require.True(t, strings.HasPrefix(last, "DEL ") || strings.HasPrefix(last, "UNLINK "), last)
	}
	want, at := master.Digest(), master.Offset()
	master.Do("fLuShAlL")
	d.Durable("cache", master.Offset())
	restored := d.Restore("--before", "FlushAll")
	require.GreaterOrEqual(t, restored.Offset, at) // a PING may have come
	require.Equal(t, want, restored.Boot(kind).Digest())
	require.EqualValues(t, 1, *restored.Keys)
	require.Eventually(t, func() bool { return len(d.Log("--command", "PING")) > 0 }, patience, 100*time.Millisecond, "lower case in all streams")
}

// A transaction of one write comes bare, single commands come as transactions. Every offset that
// the log names can be restored, and is what the master had there.
func bareTransactions(t *testing.T, kind enginetest.Kind) {
	master := enginetest.Start(t, kind)
	d := archiving(t, master)
	master.Do("SADD", "set", "a", "b", "c", "d", "e")
	master.Do("XADD", "stream", "1-0", "f", "v")
	master.Do("XADD", "stream", "2-0", "f", "v")
	master.Do("XGROUP", "CREATE", "stream", "group", "0")
	moments := map[int64]string{}
	note := func() { moments[master.Offset()] = master.Digest() }
	tx := master.Client().TxPipeline()
	tx.Incr(t.Context(), "alone")
	tx.Get(t.Context(), "alone")
	_, err := tx.Exec(t.Context())
	require.NoError(t, err)
	note()
	master.Do("SPOP", "set", 3)
	note()
	master.Do("XREADGROUP", "GROUP", "group", "consumer", "STREAMS", "stream", ">")
	note()
	master.Do("EVAL", "redis.call('incr', 'script')", 0)
	note()
	master.Do("EVAL", "redis.call('incr', 'script'); redis.call('incr', 'script')", 0)
	note()
	d.Durable("cache", master.Offset())
	require.Len(t, moments, 5)
	for at, want := range moments {
		require.Equal(t, want, d.Restore("--offset", strconv.FormatInt(at, 10)).Boot(kind).Digest())
	}
	for _, entry := range d.Log() {
		r := d.Run("restore", "--dry-run", "--offset", strconv.FormatInt(entry.Offset, 10))
		require.Equal(t, 0, r.Code, "%s", r)
	}
}

// A value that is larger than what the master holds back for a replica ends the link, and the next.
func smallBuffer(t *testing.T, kind enginetest.Kind) {
	master := enginetest.Start(t, kind, "--client-output-buffer-limit", "replica 1mb 1mb 60", "--repl-backlog-size", "1mb")
	master.Do("SET", "large", strings.Repeat("x", 8_000_000))
	r := blackbox.Run(t, "check", "--master", master.Addr(), "--archive", filepath.Join(t.TempDir(), "archive"))
	require.Equal(t, 0, r.Code, "it is a warning: %s", r)
	require.Regexp(t, `warn +buffer +client-output-buffer-limit ends a replica's link at`, r.Stdout)
	require.Contains(t, r.Stdout, "CONFIG SET client-output-buffer-limit", "a line to paste")
}
