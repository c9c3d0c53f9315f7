package keyspace

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/engine/enginetest"
	"github.com/offloader/offloader/internal/rdbwalk"
	"github.com/offloader/offloader/internal/resp"
	"github.com/offloader/offloader/internal/stream"
)

// sure are commands after which it is known whether the keys are there; perhaps is what has to be
// added to make doubt. K is a key, D a database, T a time before or after the one at which the
// test asks what has expired. Half of them fail: the types of the keys are what came before.
var (
	sure = []string{
		"SET K v", "SET K v PXAT T", "SET K 1", "SET K v KEEPTTL", "SETNX K v", "GETSET K v", "APPEND K v", "INCR K", "INCRBYFLOAT K 1.5",
		"SETRANGE K 3 x", "SETBIT K 7 1", "MSET K v K v", "MSETNX K v K v", "GETDEL K", "GETEX K PXAT T", "GETEX K PERSIST", "PFADD K a", "PFMERGE K K",
		"DEL K K", "UNLINK K", "PEXPIREAT K T", "PEXPIREAT K T NX", "EXPIRE K -1", "PEXPIREAT K 1", "PERSIST K", "RENAME K K", "RENAMENX K K",
		"COPY K K", "COPY K K REPLACE", "COPY K K DB D REPLACE", "MOVE K D", "SWAPDB D D", "SELECT D", "SELECT D", "SELECT D",
		"RPUSH K a b", "LPUSHX K a", "LINSERT K BEFORE a b", "LSET K 0 a", "SADD K a b c", "ZADD K 1 a 2 b", "ZINCRBY K 1 a",
		"GEOADD K 1 1 a", "HSET K a 1 b 2", "HSETNX K c 1", "HINCRBY K a 1", "HINCRBYFLOAT K a 1", "XADD K * f v", "XDEL K 0-1", "XTRIM K MAXLEN 0",
		"XGROUP CREATE K g $ MKSTREAM", "XREADGROUP GROUP g c STREAMS K >", "XSETID K 9999999999999-1",
		"EVAL redis.call('SET',KEYS[1],'v','PX',1000000);redis.call('RENAME',KEYS[1],KEYS[2]) 2 K K",
	}
	perhapsEmpty = []string{
		"LPOP K", "LMOVE K K LEFT RIGHT", "BITOP NOT K K", "RPOP K 2", "LREM K 0 a", "LTRIM K 1 0", "RPOPLPUSH K K", "LMPOP 2 K K LEFT", "BLPOP K K 0.001", "SREM K a b c", "SPOP K 2", "SMOVE K K a",
		"ZREM K a", "ZPOPMIN K 2", "ZREMRANGEBYSCORE K 0 5", "HDEL K a b c", "SUNIONSTORE K K K", "SINTERSTORE K K K", "SDIFFSTORE K K K",
		"ZUNIONSTORE K 2 K K", "ZINTERSTORE K 2 K K", "ZRANGESTORE K K 0 -1", "GEOSEARCHSTORE K K FROMLONLAT 1 1 BYRADIUS 10 m", "SORT K ALPHA STORE K", "BITOP AND K K K",
	}
	rare = []string{"FLUSHDB", "FLUSHALL", "FLUSHDB ASYNC"}
)

// A real master does random things, and writes what it had in between and what it did then into
// its AOF: the base is the snapshot, and the rest what it replicates. The tally of both is what
// the master itself counts in the end.
func TestTallyIsWhatTheMasterCounts(t *testing.T) {
	enginetest.Each(t, func(t *testing.T, kind enginetest.Kind) {
		s := enginetest.Start(t, kind, "--auto-aof-rewrite-percentage", "0", "--appendfsync", "no")
		exact := 0
		for seed := range uint64(8) {
			s.Do("FLUSHALL")
			doubtful := seed%2 == 1
			now := time.Now().Add(time.Hour)
			random := rand.New(rand.NewPCG(seed, 1))
			work(t, s, kind, random, now, doubtful)
			s.Do("CONFIG", "SET", "appendonly", "yes")
			require.Eventually(t, func() bool {
				info := s.Info("persistence")
				return info["aof_rewrite_in_progress"] == "0" && info["aof_rewrite_scheduled"] == "0"
			}, 30*time.Second, 5*time.Millisecond)
			work(t, s, kind, random, now, doubtful)
			got := tallyOf(t, s, now)
			keys, expired := count(t, s, now)
			s.Do("CONFIG", "SET", "appendonly", "no")
			what := fmt.Sprintf("seed %d: %+v, the master has %d and %d", seed, got, keys, expired)
			switch {
			case got.Exact:
				exact++
				require.Equal(t, []int64{keys, expired}, []int64{got.Keys, got.Expired}, what)
			default:
				require.True(t, doubtful, what)
				require.NotEmpty(t, got.Reason, what)
				require.LessOrEqual(t, keys, got.Keys, what)
				require.GreaterOrEqual(t, keys, got.Keys-got.Unsure, what)
			}
		}
		require.GreaterOrEqual(t, exact, 4)
	})
}

// work does 400 random commands, on few keys, so that they meet.
func work(t *testing.T, s *enginetest.Server, kind enginetest.Kind, random *rand.Rand, now time.Time, doubtful bool) {
	t.Helper()
	all := sure
	if doubtful {
		all = append(all[:len(all):len(all)], perhapsEmpty...)
	}
	if kind.HasHashFieldTTL() {
		all = append(all[:len(all):len(all)], "HPEXPIREAT K T FIELDS 1 a", "HPERSIST K FIELDS 1 a")
	}
	ctx := context.Background()
	conn := s.Client().Conn()
	defer func() { require.NoError(t, conn.Close()) }()
	pipe := conn.Pipeline()
	for range 400 {
		words := strings.Fields(all[random.IntN(len(all))])
		if random.IntN(150) == 0 {
			words = strings.Fields(rare[random.IntN(len(rare))])
		}
		args := make([]any, len(words))
		for i, w := range words {
			switch w {
			case "K":
				w = fmt.Sprintf("key:%d", random.IntN(10))
			case "D":
				w = fmt.Sprint(random.IntN(3))
			case "T":
				w = fmt.Sprint(now.UnixMilli() + random.Int64N(1_000_000) - 500_000)
			}
			args[i] = w
		}
		pipe.Do(ctx, args...)
	}
	pipe.Do(ctx, "SELECT", 0)      // the connection goes back to its pool
	replies, err := pipe.Exec(ctx) // err is that of the first command that failed
	require.Len(t, replies, 401)
	require.NotErrorIs(t, err, io.EOF)
}

// tallyOf reads the master's AOF.
func tallyOf(t *testing.T, s *enginetest.Server, now time.Time) Result {
	t.Helper()
	read := func(pattern string) []byte {
		names, err := filepath.Glob(filepath.Join(s.Dir(), "appendonlydir", pattern))
		require.NoError(t, err)
		require.NotEmpty(t, names)
		newest, at := names[0], time.Time{}
		for _, name := range names {
			info, err := os.Stat(name)
			require.NoError(t, err)
			if info.ModTime().After(at) {
				newest, at = name, info.ModTime()
			}
		}
		data, err := os.ReadFile(newest)
		require.NoError(t, err)
		return data
	}
	tally := NewTally(stream.TimeOf(now))
	err := resp.NewCommands(stream.Cursor{}).Each(stream.Piece{Data: read("*.incr.aof")}, func(c *resp.Command) error {
		tally.Add(c)
		return nil
	})
	require.NoError(t, err)
	w := rdbwalk.NewWalker(bytes.NewReader(read("*.base.rdb")))
	for w.Next() {
		r := w.Record()
		tally.Record(r.DB, r.Key, r.ExpireAt)
	}
	require.NoError(t, w.Err())
	return tally.Result()
}

// count asks the master for its keys, and which of them will have expired at now.
func count(t *testing.T, s *enginetest.Server, now time.Time) (keys, expired int64) {
	t.Helper()
	ctx := context.Background()
	for db := range 3 {
		names, err := s.DB(db).Keys(ctx, "*").Result()
		require.NoError(t, err)
		keys += int64(len(names))
		for _, name := range names {
			at, err := s.DB(db).Do(ctx, "PEXPIRETIME", name).Int64()
			require.NoError(t, err)
			require.NotEqual(t, int64(-2), at)
			if at > 0 && at <= now.UnixMilli() {
				expired++
			}
		}
	}
	return keys, expired
}
