package test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/engine/enginetest"
	"github.com/offloader/offloader/test/blackbox"
)

// smallSpool is a configuration whose spool is so small that segments are compacted every 2 MB.
func smallSpool(master *enginetest.Server) string {
	return fmt.Sprintf(`
sources: [{name: cache, address: %q}]
spool: {path: $DIR/spool, max_size: 16MiB, min_free: 1%%}
stores: [{type: disk, path: $DIR/archive}]
`, master.Addr())
}

// The daemon is killed again and again while clients write. Each time it goes on where it was,
// and in the end the archive has what the master sent: no hole, no byte twice, and no full sync
// but the first.
func TestKill9(t *testing.T) {
	t.Parallel()
	kills := count(t, "kills on each engine", 50, 8)
	enginetest.Each(t, func(t *testing.T, kind enginetest.Kind) { kill9(t, kind, kills, "") })
}

// The same for an archive that is encrypted, by a daemon that can't read what it has stored.
func TestKill9Encrypted(t *testing.T) {
	t.Parallel()
	kill9(t, enginetest.Any(t), count(t, "kills", 50, 4), filepath.Join(t.TempDir(), "key.txt"))
}

// kill9 kills that often. key names an identity file to make, for what is encrypted then.
func kill9(t *testing.T, kind enginetest.Kind, kills int, key string) {
	master := enginetest.Start(t, kind, "--repl-backlog-size", "512mb")
	master.Do("SET", "before", "1")
	config, identity := smallSpool(master), []string(nil)
	if key != "" {
		config += encryption(t, key)
		identity = []string{"--identity", key}
	}
	d := blackbox.StartWith(t, t.TempDir(), config)
	began := d.Streaming("cache")
	truth := newRecord(t, master, began.ReplID, began.LastSnapshot.Offset)

	stop := load(t, master, 3)
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	for range kills {
		// From "it has hardly begun" to "it works": without waiting for it to stream.
		d.WaitFor(time.Duration(random.Int64N(int64(1500 * time.Millisecond))))
		d.Kill()
		d.Restart()
	}
	d.Streaming("cache")
	d.Until("cache", "it has enough for several compacted segments", func(s blackbox.SourceStatus) bool { return s.Received > 5<<20 })
	stop()
	master.Do("SET", "after", "2")
	require.EqualValues(t, 1, master.Do("WAIT", 1, 30_000))
	want, end := master.Digest(), master.Offset()
	d.Durable("cache", end)
	require.Equal(t, "1", master.Info("stats")["sync_full"])
	d.Stop()

	// The store alone has all of it: the spool lies elsewhere, and is not looked at.
	timeline, all := segments(t, blackbox.ArchiveAt(t, d.Dir), "cache")
	from, stored := storedStream(t, filepath.Join(d.Dir, "cache", timeline), all, key)
	require.Equal(t, began.LastSnapshot.Offset, from, "the stream goes on where the snapshot ends")
	requireSameStream(t, truth.upTo(t, from+int64(len(stored))), stored, from)
	require.GreaterOrEqual(t, from+int64(len(stored)), end, "all is stored")
	for _, s := range all {
		require.Equal(t, key != "", strings.HasSuffix(s.Name, ".age"), s.Name)
	}
	require.Greater(t, len(all), 1, "segments were joined, and not all into one")
	t.Logf("%d bytes in %d segments", len(stored), len(all))
	blackbox.ArchiveAt(t, d.Dir).Do(append([]string{"verify"}, identity...)...)

	restored := d.Restore(append(identity, "--latest")...)
	require.GreaterOrEqual(t, restored.Offset, end)
	require.Equal(t, want, restored.Boot(kind).Digest())
}

// load writes to a master with that many clients until stop is called: small and large values,
// binary ones, transactions, several databases, and WAIT now and then.
func load(t *testing.T, master *enginetest.Server, clients int) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for n := range clients {
		db := master.DB(n * 3) // Server's methods belong on this goroutine
		wg.Go(func() {
			if err := writeUntil(ctx, db, uint64(n)); err != nil && ctx.Err() == nil {
				t.Errorf("client %d: %v", n, err)
			}
		})
	}
	stop = func() {
		cancel()
		wg.Wait()
	}
	t.Cleanup(stop)
	return stop
}

// writeUntil is one client of load.
func writeUntil(ctx context.Context, db *redis.Client, seed uint64) error {
	random := rand.New(rand.NewPCG(seed, seed))
	nasty := "\x00\r\n*3\r\n$3\r\nSET\r\n#TS:17\r\n\xff"
	for i := 0; ctx.Err() == nil; i++ {
		key := fmt.Sprintf("key:%d", random.IntN(1000))
		var err error
		switch p := random.IntN(100); {
		case p < 60:
			err = db.Set(ctx, key, strings.Repeat(nasty, random.IntN(20)), 0).Err()
		case p < 75:
			err = db.Incr(ctx, "counter").Err()
		case p < 85:
			_, err = db.TxPipelined(ctx, func(tx redis.Pipeliner) error {
				tx.Incr(ctx, "counter")
				tx.RPush(ctx, "list", nasty, key)
				tx.LTrim(ctx, "list", -100, -1)
				return nil
			})
		case p < 90:
			err = db.Del(ctx, key).Err()
		case p < 97:
			_, err = db.Pipelined(ctx, func(pipe redis.Pipeliner) error {
				for j := range 20 {
					pipe.HSet(ctx, "hash", fmt.Sprint(j), nasty+fmt.Sprint(i))
				}
				return nil
			})
		case p < 98:
			err = db.Set(ctx, "large", strings.Repeat(nasty, 3000), 0).Err()
		default:
			err = db.Do(ctx, "WAIT", 1, 20).Err()
		}
		if err != nil {
			return err
		}
	}
	return nil
}
