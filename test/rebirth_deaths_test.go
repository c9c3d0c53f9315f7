package test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/engine/enginetest"
	"github.com/offloader/offloader/test/blackbox"
)

// deaths is how often something is killed, on each engine.
const deaths = 20

// TestRebirthUnderLoad: killed at any instant while clients write, again and again. What WAIT had confirmed is
// there, and what is there is what the master had sent up to the boundary of its promotion: a replica that got
// the stream as it came, and never anything else, has the same digest at that very offset.
func TestRebirthUnderLoad(t *testing.T) {
	t.Parallel()
	enginetest.Each(t, func(t *testing.T, kind enginetest.Kind) {
		t.Parallel()
		m := newMortal(t, kind, "--repl-ping-replica-period", "3600") // what comes after a promotion is the clients' alone
		witness := enginetest.Start(t, kind, "--aclfile", m.acl, "--masteruser", "replica", "--masterauth", "of the relay",
			"--replicaof", fmt.Sprintf("127.0.0.1 %d", m.port))
		c := &crowd{mortal: m}
		promoted := int64(0)
		for n := range int64(deaths) {
			c.until(time.Duration(30+rand.IntN(100))*time.Millisecond, m.Kill)
			m.Restart()
			m.reborn(n + 1)
			promoted = number(t, m.Info("replication")["second_repl_offset"]) - 1
			same(t, m.Server, witness)
			require.Equal(t, promoted, m.Offset(), "the digests were of that offset")
			c.check(t)
			require.Equal(t, "0", m.Info("stats")["sync_full"])
		}
		require.Positive(t, c.confirmed)
		require.Equal(t, 1, strings.Count(witness.LogText(), "Full resync from"))
		require.Len(t, m.d.Timelines("cache"), 1)
		require.EqualValues(t, 1, m.d.Source("cache").FullResyncs)
		require.Equal(t, witness.Digest(), m.d.Restore("--offset", strconv.FormatInt(promoted, 10)).Boot(kind).Digest())
	})
}

// crowd are clients of a mortal.
type crowd struct {
	*mortal
	confirmed int // keys n:1 to n:confirmed are, by WAIT
	written   int // transactions that were
}

// many are the keys of a transaction.
const many = 200

// until has clients write for a while, and then kills under them.
func (c *crowd) until(span time.Duration, kill func()) {
	var writers sync.WaitGroup
	writers.Go(func() { // each write is confirmed before the next
		for i := c.confirmed + 1; ; i++ {
			conn := c.Client().Conn()
			err := conn.Set(context.Background(), fmt.Sprint("n:", i), i, 0).Err()
			var acks int64
			if err == nil {
				acks, err = conn.Wait(context.Background(), 1, 10*time.Second).Result()
			}
			_ = conn.Close()
			if err != nil || acks < 1 {
				return
			}
			c.confirmed = i
		}
	})
	writers.Go(func() { // large transactions, in the middle of which it dies
		for {
			c.written++
			pipe := c.Client().TxPipeline()
			for k := range many {
				pipe.Set(context.Background(), fmt.Sprint("tx:", k), fmt.Sprint(c.written, strings.Repeat("x", 100)), 0)
			}
			if _, err := pipe.Exec(context.Background()); err != nil {
				return
			}
		}
	})
	time.Sleep(span)
	kill()
	writers.Wait()
}

// check wants all that was confirmed, and transactions whole or not at all.
func (c *crowd) check(t *testing.T) {
	t.Helper()
	var confirmed, one []string
	for i := range c.confirmed {
		confirmed = append(confirmed, fmt.Sprint("n:", i+1))
	}
	if len(confirmed) > 0 {
		require.EqualValues(t, len(confirmed), c.Client().Exists(t.Context(), confirmed...).Val(), "keys that were confirmed")
	}
	for k := range many {
		one = append(one, fmt.Sprint("tx:", k))
	}
	values, err := c.Client().MGet(t.Context(), one...).Result()
	require.NoError(t, err)
	for _, v := range values {
		require.Equal(t, values[0], v, "a transaction is there whole, or not at all")
	}
}

// TestRebirthInATransaction: the master dies when it has sent a part of a large transaction, of which nothing is there
// afterwards: it comes back as it was at the boundary before.
func TestRebirthInATransaction(t *testing.T) {
	t.Parallel()
	enginetest.Each(t, func(t *testing.T, kind enginetest.Kind) {
		t.Parallel()
		m := newMortal(t, kind, "--repl-ping-replica-period", "3600") // the transaction is all that is sent
		working(t, m.Server, 100)
		m.still(t)
		m.Do("SET", "before", "1") // in its database: no SELECT stands before the transaction
		digest, before := m.Digest(), m.Offset()
		m.d.Durable("cache", before)
		m.d.Signal(syscall.SIGSTOP) // it takes nothing, so that the master is left with most of it
		pipe := m.Client().TxPipeline()
		for k := range 2000 {
			pipe.Set(t.Context(), fmt.Sprint("tx:", k), strings.Repeat("x", 10_000), 0)
		}
		_, err := pipe.Exec(t.Context())
		require.NoError(t, err)
		end := m.Offset()
		for got := before; ; m.Do("PING") { // it writes what the kernel takes, and then answers
			require.NoError(t, syscall.Kill(m.Pid(), syscall.SIGSTOP))
			m.d.Signal(syscall.SIGCONT)
			got = m.d.Until("cache", "further", func(s blackbox.SourceStatus) bool { return s.Received > got }).Received
			if got > before+1<<20 {
				break
			}
			m.d.Signal(syscall.SIGSTOP)
			require.NoError(t, syscall.Kill(m.Pid(), syscall.SIGCONT))
		}
		m.Kill()
		s := m.d.Source("cache")
		require.Less(t, s.Received, end, "it died in the transaction")
		require.Equal(t, before, s.Durable)

		m.Restart()
		s = m.reborn(1)
		require.Equal(t, before, number(t, m.Info("replication")["second_repl_offset"])-1)
		require.Nil(t, m.Do("GET", "tx:0"))
		require.Equal(t, digest, m.Digest())
		require.Equal(t, "0", m.Info("stats")["sync_full"])
		require.EqualValues(t, 1, s.FullResyncs)
		require.Len(t, m.d.Timelines("cache"), 1)
		m.Do("SET", "after", "all")
		acknowledged(t, m.Server, 1)
	})
}

// TestRebirthInterrupted: the daemon is killed at random instants of rebirths, and the server dies a second
// time in the middle of some.
func TestRebirthInterrupted(t *testing.T) {
	t.Parallel()
	enginetest.Each(t, func(t *testing.T, kind enginetest.Kind) {
		t.Parallel()
		m := newMortal(t, kind)
		working(t, m.Server, 300)
		m.Do("SET", "big", strings.Repeat("x", 10<<20))
		digest := m.still(t)
		isMaster := func() bool { return m.Info("replication")["role"] == "master" }
		interrupted := 0
		length := time.Second // of a rebirth, however fast the machine and the engine: kills fall all over it, and a few behind its end
		for n := range deaths {
			restarted := make(chan struct{})
			go func() {
				defer close(restarted)
				if n == 0 || isMaster() { // else it is being reborn, and is interrupted once more
					m.Restart()
				}
			}()
			time.Sleep(rand.N(length))
			m.d.Kill()
			<-restarted
			if !isMaster() {
				interrupted++
				length = length * 11 / 10
			} else {
				length /= 2
			}
			if n%8 == 7 {
				m.Restart()
			}
			m.d.Restart()
			if n%4 == 3 {
				m.d.Until("cache", "it is the master again", func(s blackbox.SourceStatus) bool { return s.State == "streaming" })
				require.True(t, isMaster())
				require.Equal(t, "0", m.Info("stats")["sync_full"])
				require.Equal(t, digest, m.Digest(), "after kill %d", n)
			}
		}
		require.Greater(t, interrupted, deaths/4, "kills before it was the master, or this shows little")
		m.Do("SET", "after", "all")
		acknowledged(t, m.Server, 1)
		require.Len(t, m.d.Timelines("cache"), 1)
	})
}

// TestRebirthFromTheStores: the spool is lost with the master, and with it what no store had. The source is reborn
// as it was at the last boundary that is stored, goes on as a branch there, and that is said.
func TestRebirthFromTheStores(t *testing.T) {
	t.Parallel()
	enginetest.Each(t, func(t *testing.T, kind enginetest.Kind) {
		t.Parallel()
		m := newMortal(t, kind)
		working(t, m.Server, 300)
		digest := m.still(t)
		m.d.Stop() // the store gets what it lacks
		m.d.Restart()
		m.d.Streaming("cache")
		back := away(t, filepath.Join(m.dir, "archive"))
		m.Do("SET", "tail", "1")
		acknowledged(t, m.Server, 1)
		end := m.Offset()
		m.d.Kill()
		m.Kill()
		back()
		require.NoError(t, os.RemoveAll(filepath.Join(m.dir, "spool")))
		windows := m.d.Timelines("cache")[0].Windows
		stored := windows[len(windows)-1].To.Offset
		require.Less(t, stored, end)

		m.d.Restart()
		m.Restart()
		s := m.reborn(1)
		require.Equal(t, digest, m.Digest())
		require.EqualValues(t, 0, s.FullResyncs)
		require.Equal(t, "0", m.Info("stats")["sync_full"])
		require.Equal(t, stored, number(t, m.Info("replication")["second_repl_offset"])-1)
		lines := m.d.Timelines("cache")
		require.Len(t, lines, 2)
		require.Equal(t, lines[0].Name, lines[1].Parent.Timeline)
		require.Equal(t, stored, lines[1].Parent.Offset)
		const said = "the spool held nothing; the store ends here: what may have been written behind it is lost"
		require.Contains(t, lines[1].Reason, said)
		require.Contains(t, m.d.Do("list"), said)
		require.Contains(t, m.d.LogText(), fmt.Sprintf("offset=%d reason=%q", stored, said))
		m.Do("SET", "after", "all")
		acknowledged(t, m.Server, 1)
		require.Equal(t, m.still(t), m.d.Restore("--latest").Boot(kind).Digest())
	})
}
