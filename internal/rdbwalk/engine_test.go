package rdbwalk

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/offloader/offloader/internal/crc64"
	"github.com/offloader/offloader/internal/engine/enginetest"
	"github.com/offloader/offloader/internal/stream"
	goredis "github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

const later = 4102444800000 // 2100: nothing expires while a test runs

// populate fills an engine with every type in every encoding that it has.
func populate(t *testing.T, s *enginetest.Server) {
	t.Helper()
	ctx := context.Background()
	big := strings.Repeat("0123456789", 1000)
	hard := func(n int) string { return string(noise(uint64(n), n)) }
	_, err := s.Client().Pipelined(ctx, func(p goredis.Pipeliner) error {
		do := func(args ...any) { p.Do(ctx, args...) }
		for i, v := range []any{1, -1, 127, 128, 32767, -32768, 32768, 1 << 30, 1 << 40, "text", "", big, hard(100), hard(20000)} {
			do("SET", fmt.Sprint("string", i), v)
		}
		do("SET", "huge", hard(2<<20))
		do("SET", 123, "an int for a key")
		do("SET", -99999, "and another")
		do("SET", big, "a key that is packed")
		do("SET", strings.Repeat("k", 200000), "a key that is packed and cut")
		do("SET", hard(70000), "a key that is cut")
		do("SET", "\x00\r\n\xff", "binary")
		do("SETBIT", "bits", 100000, 1)
		do("PFADD", "hll", "a", "b", "c")
		do("GEOADD", "geo", 13.361389, 38.115556, "Palermo")
		for i := range 300 {
			do("RPUSH", "list", i, big[:i])
			do("SADD", "set", fmt.Sprint("member", i))
			do("SADD", "intset", i)
			do("ZADD", "zset", float64(i)/7, fmt.Sprint("member", i))
			do("HSET", "hash", fmt.Sprint("field", i), big[:i])
			do("XADD", "stream", fmt.Sprintf("%d-1", i+1), "field", i, "other", big[:i])
			do("SET", fmt.Sprint("expires", i), i, "PXAT", later+i)
		}
		do("RPUSH", "plain", hard(20000), hard(30000), big) // quicklist nodes of their own
		do("RPUSH", "small list", 1, "two")
		do("SADD", "small set", 1, "two")
		do("SADD", "small intset", 1, 100000, 1<<40)
		do("ZADD", "small zset", "-inf", "a", 1.5, "b", "+inf", "c")
		do("HSET", "small hash", "f", "v", "g", "w")
		do("XADD", "empty stream", "1-1", "f", "v")
		do("XDEL", "empty stream", "1-1")
		for g := range 3 {
			group := fmt.Sprint("group", g)
			do("XGROUP", "CREATE", "stream", group, 0)
			do("XREADGROUP", "GROUP", group, "alice", "COUNT", 50, "STREAMS", "stream", ">")
			do("XREADGROUP", "GROUP", group, "bob", "COUNT", 70, "STREAMS", "stream", ">")
			do("XGROUP", "CREATECONSUMER", "stream", group, "idle")
		}
		do("XACK", "stream", "group0", "3-1", "60-1")
		for _, key := range []string{"list", "set", "zset", "hash", "stream"} {
			do("PEXPIREAT", key, later)
		}
		for l := range 2 {
			do("FUNCTION", "LOAD", fmt.Sprintf("#!lua name=l%d\nredis.register_function('f%d', function() return '%s' end)", l, l, big))
		}
		if s.Kind().HasHashFieldTTL() {
			do("HSET", "small hash ttl", "f", "v", "g", "w")
			do("HPEXPIREAT", "small hash ttl", later, "FIELDS", 1, "f")
			for i := range 600 {
				do("HSET", "hash ttl", fmt.Sprint("field", i), i)
			}
			do("HPEXPIREAT", "hash ttl", later, "FIELDS", 2, "field1", "field7")
		}
		return nil
	})
	require.NoError(t, err)
	for _, db := range []int{3, 9, 15} {
		for i := range db {
			require.NoError(t, s.DB(db).Set(ctx, fmt.Sprint("key", i), i, 0).Err())
		}
	}
}

// held is what an engine says that it holds: expiry by database and key, 0 for none.
func held(t *testing.T, s *enginetest.Server) map[string]int64 {
	t.Helper()
	ctx, all := context.Background(), map[string]int64{}
	for db := range 16 {
		keys, err := s.DB(db).Keys(ctx, "*").Result()
		require.NoError(t, err)
		size, err := s.DB(db).DBSize(ctx).Result()
		require.NoError(t, err)
		require.EqualValues(t, size, len(keys))
		var at []*goredis.Cmd
		_, err = s.DB(db).Pipelined(ctx, func(p goredis.Pipeliner) error {
			for _, key := range keys {
				at = append(at, p.Do(ctx, "PEXPIRETIME", key))
			}
			return nil
		})
		require.True(t, err == nil || len(keys) == 0, "%v", err)
		for i, key := range keys {
			ms, err := at[i].Int64()
			require.NoError(t, err)
			all[fmt.Sprintf("%d %q", db, key[:min(len(key), MaxKey)])] = max(ms, 0)
		}
	}
	return all
}

// requireHeld walks an RDB and compares it with what the engine holds.
func requireHeld(t *testing.T, want map[string]int64, rdb []byte) (*Summary, map[string]int) {
	t.Helper()
	got, names := map[string]int64{}, map[string]int{}
	var raw bytes.Buffer
	w := NewWalker(bytes.NewReader(rdb), Opcodes(), Copy(func(*Record) io.Writer { return &raw }))
	for w.Next() {
		r := w.Record()
		names[r.TypeName()]++
		if r.IsKey() {
			got[fmt.Sprintf("%d %q", r.DB, r.Key)] = int64(r.ExpireAt)
		}
	}
	require.NoError(t, w.Err())
	require.NoError(t, w.Finish(nil, nil))
	require.True(t, bytes.Equal(raw.Bytes(), rdb[9:len(rdb)-9]), "copied records differ from the RDB")
	if len(got) != len(want) {
		t.Errorf("%d keys, want %d", len(got), len(want))
	}
	for key, at := range want {
		if have, ok := got[key]; !ok || have != at {
			t.Errorf("%.80s: %d (there: %v), want %d", key, have, ok, at)
		}
	}
	s := w.Summary()
	require.EqualValues(t, len(want), s.Keys)
	require.Empty(t, s.Unchecked)
	require.EqualValues(t, len(rdb), s.Length)
	total := int64(0)
	for _, c := range s.DBs {
		require.Equal(t, c.Keys, c.SizeHint)
		total += c.Keys
	}
	require.Equal(t, s.Keys, total)
	return s, names
}

// saved is the RDB that the engine saves now.
func saved(t *testing.T, s *enginetest.Server) []byte {
	t.Helper()
	s.Do("SAVE")
	rdb, err := os.ReadFile(filepath.Join(s.Dir(), "dump.rdb"))
	require.NoError(t, err)
	return rdb
}

// All encodings, under each setting that changes what an RDB holds.
func TestRDBsOfEngines(t *testing.T) {
	enginetest.Each(t, func(t *testing.T, kind enginetest.Kind) {
		t.Parallel()
		s := enginetest.Start(t, kind)
		populate(t, s)
		want := held(t, s)
		version := map[string]int{"redis7.0": 10, "redis8.0": 12, "valkey8.1": 11, "valkey9.1": 80}[kind.String()]

		for _, setting := range []string{"", "maxmemory-policy allkeys-lru", "maxmemory-policy allkeys-lfu", "rdbcompression no", "maxmemory-policy noeviction"} {
			if name, value, ok := strings.Cut(setting, " "); ok {
				s.Do("CONFIG", "SET", name, value)
			}
			rdb := saved(t, s)
			sum, names := requireHeld(t, want, rdb)
			require.Equal(t, CRCOK, sum.CRC)
			require.Equal(t, version, sum.Version)
			require.Equal(t, version == 80, sum.Valkey)
			require.Equal(t, kind.Version(), sum.EngineVersion)
			require.EqualValues(t, 2, sum.Functions)
			require.EqualValues(t, 305, sum.Expires)
			require.InDelta(t, time.Now().UnixMilli(), int64(sum.Created), 60000)
			require.Positive(t, sum.UsedMem)
			if setting == "" {
				t.Logf("%d bytes: %v", len(rdb), names)
				for _, name := range []string{"string", "set-intset", "list-quicklist-2", "hash", "set", "zset-2", "hash-listpack", "zset-listpack", "function", "aux", "selectdb", "resizedb"} {
					require.Contains(t, names, name)
				}
				require.True(t, names["stream-2"]+names["stream-3"] == 2)
				if kind.HasHashFieldTTL() {
					require.True(t, names["hash-metadata"] == 1 && names["hash-listpack-ex"] == 1 || names["hash-2"] == 2)
				}
				requireCheckAgrees(t, s, int(sum.Keys))
			}
		}
	})
}

// The engine's own tool comes to the same number of keys.
func requireCheckAgrees(t *testing.T, s *enginetest.Server, keys int) {
	t.Helper()
	out, err := exec.Command(s.Kind().Tool("check-rdb"), filepath.Join(s.Dir(), "dump.rdb")).CombinedOutput()
	require.NoError(t, err, "%s", out)
	found := regexp.MustCompile(`(\d+) keys read`).FindSubmatch(out)
	require.NotNil(t, found, "%s", out)
	require.Equal(t, strconv.Itoa(keys), string(found[1]))
}

// The records of some keys, copied raw behind a head, are an RDB that the engine loads: what a
// merge and a filter by key build on.
func TestAnEngineLoadsCopiedRecords(t *testing.T) {
	enginetest.Each(t, func(t *testing.T, kind enginetest.Kind) {
		t.Parallel()
		s := enginetest.Start(t, kind, "--maxmemory-policy", "allkeys-lfu", "--rdbchecksum", "no")
		populate(t, s)
		want, rdb := held(t, s), saved(t, s)
		sum, _ := requireHeld(t, want, rdb)
		require.Equal(t, CRCAbsent, sum.CRC)

		some := bytes.NewBuffer(bytes.Clone(rdb[:9]))
		dropped := 0
		w := NewWalker(bytes.NewReader(rdb), Opcodes(), Copy(func(r *Record) io.Writer {
			if r.IsKey() && strings.HasPrefix(string(r.Key), "expires") {
				dropped++
				return nil
			}
			return some
		}))
		for w.Next() {
		}
		require.NoError(t, w.Err())
		require.Equal(t, 300, dropped)
		some.WriteByte(opEOF)
		out := binary.LittleEndian.AppendUint64(some.Bytes(), crc64.Update(0, some.Bytes()))

		dir := t.TempDir()
		require.NoError(t, os.WriteFile(filepath.Join(dir, "dump.rdb"), out, 0o600))
		copied := enginetest.StartIn(t, kind, dir)
		diff := enginetest.Diff(t, s, copied)
		require.Contains(t, diff, "and 280 more", "20 are named")
		for db := range 16 {
			for i := range 300 {
				require.NoError(t, s.DB(db).Del(context.Background(), fmt.Sprint("expires", i)).Err())
			}
		}
		require.Empty(t, enginetest.Diff(t, s, copied))
	})
}

// Clusters write slots between the keys.
func TestRDBsOfClusters(t *testing.T) {
	enginetest.Each(t, func(t *testing.T, kind enginetest.Kind) {
		t.Parallel() // it takes seconds until a cluster is one
		s := enginetest.Start(t, kind, "--cluster-enabled", "yes")
		s.Do("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
		require.Eventually(t, func() bool { return s.Client().Set(context.Background(), "k", "v", 0).Err() == nil }, 20*time.Second, 20*time.Millisecond)
		for i := range 500 {
			s.Do("SET", fmt.Sprint("key", i), i, "PXAT", later)
		}
		rdb := saved(t, s)
		w := NewWalker(bytes.NewReader(rdb), Opcodes())
		names := map[string]int{}
		for w.Next() {
			names[w.Record().TypeName()]++
		}
		require.NoError(t, w.Finish(nil, nil))
		t.Log(names)
		require.EqualValues(t, 501, w.Summary().Keys)
		require.EqualValues(t, 500, w.Summary().Expires)
		requireCheckAgrees(t, s, 501)
	})
}

// A diskless transfer as it comes from the master: the walk finds the end, and the mark is there.
func TestDisklessTransfer(t *testing.T) {
	enginetest.Each(t, func(t *testing.T, kind enginetest.Kind) {
		t.Parallel()
		s := enginetest.Start(t, kind)
		populate(t, s)
		require.NoError(t, s.DB(3).Set(context.Background(), "k", "v", 0).Err())
		want := held(t, s)

		conn, err := net.Dial("tcp", s.Addr())
		require.NoError(t, err)
		defer func() { _ = conn.Close() }()
		require.NoError(t, conn.SetDeadline(time.Now().Add(30*time.Second)))
		in := bufio.NewReader(conn)
		ask := func(line string) string {
			_, err := io.WriteString(conn, line+"\r\n")
			require.NoError(t, err)
			return answer(t, in)
		}
		require.Equal(t, "+OK", ask("REPLCONF capa eof capa psync2"))
		if kind.Valkey() {
			require.Equal(t, "+OK", ask("REPLCONF version 9.9.9"))
		}
		full := strings.Fields(ask("PSYNC ? -1"))
		require.Equal(t, "+FULLRESYNC", full[0])
		mark, ok := strings.CutPrefix(answer(t, in), "$EOF:")
		require.True(t, ok)

		var rdb bytes.Buffer
		w := NewWalker(io.TeeReader(in, &rdb))
		for w.Next() {
		}
		require.NoError(t, w.Err())
		require.NoError(t, w.Finish([]byte(mark), nil))
		sum, _ := requireHeld(t, want, rdb.Bytes()[:rdb.Len()-40])
		require.Equal(t, stream.ReplID(full[1]), sum.ReplID)
		require.Equal(t, full[2], sum.ReplOffset.String())
		require.GreaterOrEqual(t, sum.ReplDB, -1)
	})
}

// answer is the next line that isn't empty: a master sends newlines to say that it lives.
func answer(t *testing.T, in *bufio.Reader) string {
	t.Helper()
	for {
		line, err := in.ReadString('\n')
		require.NoError(t, err)
		if line = strings.TrimSpace(line); line != "" {
			return line
		}
	}
}

// A value of 64 MB passes through a window of 256 KiB.
func TestAHugeValueTakesNoMemory(t *testing.T) {
	s := enginetest.Start(t, enginetest.Any(t))
	s.Do("CONFIG", "SET", "rdbcompression", "no")
	s.Do("SETRANGE", "huge", 64<<20-1, "x")
	s.Do("SAVE")
	f, err := os.Open(filepath.Join(s.Dir(), "dump.rdb"))
	require.NoError(t, err)
	defer func() { _ = f.Close() }()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	w := NewWalker(f)
	for w.Next() {
	}
	require.NoError(t, w.Finish(nil, nil))
	runtime.ReadMemStats(&after)
	require.Greater(t, w.Summary().Length, int64(64<<20))
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(400<<10))
}
