package syncer

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/offloader/offloader/internal/engine/enginetest"
	"github.com/offloader/offloader/internal/stream"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestWhatArrivesIsTheDataset(t *testing.T) {
	enginetest.Each(t, func(t *testing.T, kind enginetest.Kind) {
		for _, diskless := range []string{"yes", "no"} {
			t.Run("diskless "+diskless, func(t *testing.T) {
				master := enginetest.Start(t, kind, "--repl-diskless-sync", diskless)
				fill(master, 2000)
				master.Do("SET", "big", strings.Repeat("0123456789abcdef", 1<<20))
				master.DB(3).Set(context.Background(), "elsewhere", "1", 0)
				sink := newMemory()
				l, _ := up(t, Options{Address: master.Addr()}, sink)
				eventually(t, "the link streams", func() bool { return l.Status().Phase == Streaming })

				master.Do("FLUSHDB")
				fill(master, 500)
				master.DB(5).Set(context.Background(), "there", "2", 0)
				caught(t, master, sink)
				require.Equal(t, diskless == "yes", sink.sizes[0] == -1)
				require.Empty(t, enginetest.Diff(t, master, restored(t, kind, sink)))
				require.Equal(t, 1, fullSyncs(master))
				s := l.Status()
				require.Equal(t, "master", s.Master.Role)
				require.Equal(t, kind.Version(), s.Master.Version)
				require.Equal(t, kind.Valkey(), s.Master.Engine == "valkey")
				require.Equal(t, int64(len(sink.rdb)), s.Transfer.Bytes-lenOf(diskless == "yes", markLen))
			})
		}
	})
}

func lenOf(yes bool, n int64) int64 {
	if yes {
		return n
	}
	return 0
}

func TestALinkThatComesBackContinues(t *testing.T) {
	enginetest.Each(t, func(t *testing.T, kind enginetest.Kind) {
		master := enginetest.Start(t, kind)
		sink := newMemory()
		_, stop := up(t, Options{Address: master.Addr()}, sink)
		caught(t, master, sink)
		stop()
		fill(master, 100)
		up(t, Options{Address: master.Addr()}, sink)
		caught(t, master, sink)
		require.Equal(t, 1, fullSyncs(master))
		require.Equal(t, 1, partialSyncs(master))
		require.Empty(t, enginetest.Diff(t, master, restored(t, kind, sink)))
		require.Len(t, sink.downs, 1)
	})
}

func TestChainedSourceAndFailover(t *testing.T) {
	enginetest.Each(t, func(t *testing.T, kind enginetest.Kind) {
		master := enginetest.Start(t, kind)
		replica := enginetest.Start(t, kind, "--replicaof", fmt.Sprintf("127.0.0.1 %d", master.Port()))
		eventually(t, "the replica is in sync", func() bool { return replica.Info("replication")["master_link_status"] == "up" })
		fill(master, 100)
		sink := newMemory()
		l, _ := up(t, Options{Address: replica.Addr()}, sink)
		caught(t, master, sink)
		s := l.Status()
		require.Equal(t, "slave", s.Master.Role)
		require.Equal(t, master.Addr(), s.Master.Upstream)
		require.Equal(t, 1, fullSyncs(master), "the master itself is not touched")

		// Promoted, it goes on under a new id from where it stands.
		old := see(sink, func(m *memory) stream.ReplID { return m.id })
		replica.Do("REPLICAOF", "NO", "ONE")
		eventually(t, "the link continues under the new id", func() bool { return see(sink, func(m *memory) bool { return m.id != "" && m.id != old }) })
		replica.Do("SET", "after", "1")
		caught(t, replica, sink)
		require.Equal(t, 1, fullSyncs(replica))
		require.Empty(t, enginetest.Diff(t, replica, restored(t, kind, sink)))
	})
}

func TestRestartOfTheMaster(t *testing.T) {
	enginetest.Each(t, func(t *testing.T, kind enginetest.Kind) {
		t.Parallel() // it mostly waits
		t.Run("pitfall 20: a clean restart continues, since all was read to the end", func(t *testing.T) {
			master := enginetest.Start(t, kind, "--save", "3600 1")
			sink := newMemory()
			up(t, Options{Address: master.Addr()}, sink)
			caught(t, master, sink)
			fill(master, 50)
			begun := time.Now()
			master.Stop()
			require.Less(t, time.Since(begun), 8*time.Second, "pitfall 8: it needn't wait for our ACK")
			master.Restart("--save", "3600 1")
			eventually(t, "the link continues", func() bool { return partialSyncs(master) == 1 })
			caught(t, master, sink)
			require.Equal(t, 0, fullSyncs(master))
			require.Empty(t, enginetest.Diff(t, master, restored(t, kind, sink)))
		})
		t.Run("one that was killed begins anew", func(t *testing.T) {
			master := enginetest.Start(t, kind)
			fill(master, 50)
			sink := newMemory()
			l, _ := up(t, Options{Address: master.Addr()}, sink)
			caught(t, master, sink)
			old := sink.id
			master.Kill()
			refusedWith(t, l, KindUnreachable)
			require.Contains(t, l.Status().LastError, "nothing listens there")
			master.Restart()
			eventually(t, "a new history", func() bool {
				return see(sink, func(m *memory) bool { return m.id != "" && m.id != old })
			})
			require.Equal(t, int64(2), l.Status().FullResyncs)
			require.Empty(t, sink.discarded)
		})
	})
}

func TestCutLinks(t *testing.T) {
	enginetest.Each(t, func(t *testing.T, kind enginetest.Kind) {
		t.Parallel() // it mostly waits
		t.Run("in the middle of the RDB", func(t *testing.T) {
			master := enginetest.Start(t, kind)
			fill(master, 20000)
			addr := newProxy(t, master.Addr(), func(n int) func([]byte) ([]byte, error) {
				if n > 0 {
					return straight
				}
				return after("$EOF:", func(at int64, p []byte) ([]byte, error) {
					if at > 50_000 {
						return nil, io.EOF
					}
					return p, nil
				})
			})
			sink := newMemory()
			l, _ := up(t, Options{Address: addr}, sink)
			caught(t, master, sink)
			require.Len(t, sink.discarded, 1)
			require.Len(t, sink.downs, 1)
			require.Equal(t, int64(1), l.Status().Errors[KindClosed])
			require.Empty(t, enginetest.Diff(t, master, restored(t, kind, sink)))
		})
		t.Run("pitfall 11: in the middle of a command", func(t *testing.T) {
			master := enginetest.Start(t, kind)
			cutAt := func(n int) func([]byte) ([]byte, error) {
				if n == 4 {
					return straight
				}
				passed := 0
				return after("+CONTINUE", func(_ int64, p []byte) ([]byte, error) {
					if passed += len(p); passed > 3000+n*1117 {
						return p[:len(p)-n*7-3], io.EOF
					}
					return p, nil
				})
			}
			addr := newProxy(t, master.Addr(), cutAt)
			sink := newMemory()
			_, stop := up(t, Options{Address: master.Addr()}, sink) // begins without the proxy
			caught(t, master, sink)
			stop()
			up(t, Options{Address: addr}, sink)
			for range 20 {
				fill(master, 100)
				master.Do("SET", "binary", "*3\r\n$3\r\nSET\r\n\x00\n#TS:1\r\n")
			}
			caught(t, master, sink)
			require.Equal(t, 1, fullSyncs(master))
			require.Greater(t, partialSyncs(master), 2)
			require.Empty(t, enginetest.Diff(t, master, restored(t, kind, sink)))
		})
	})
}

func TestSilence(t *testing.T) {
	master := enginetest.Start(t, enginetest.Any(t), "--repl-ping-replica-period", "3600")
	sink := newMemory()
	l, _ := up(t, Options{Address: master.Addr(), ReadTimeout: 300 * time.Millisecond}, sink)
	caught(t, master, sink)
	before := fullSyncs(master) // on a busy machine the fork alone may be silent for longer
	eventually(t, "it comes back and continues", func() bool { return l.Status().PartialResyncs > 1 })
	s := refusedWith(t, l, KindTimeout)
	require.Contains(t, s.LastError, "the master is silent")
	require.Equal(t, before, fullSyncs(master))
}

// What was doubted of one connection is nothing against the next; of the one that is there, a second of silence ends it.
func TestDoubt(t *testing.T) {
	master := enginetest.Start(t, enginetest.Any(t), "--repl-ping-replica-period", "3600")
	l, _ := up(t, Options{Address: master.Addr()}, newMemory())
	streamsAnew := func(after time.Time) (connected time.Time) {
		eventually(t, "the link streams", func() bool {
			s := l.Status()
			connected = s.Connected
			return s.Phase == Streaming && connected.After(after)
		})
		return connected
	}
	one := streamsAnew(time.Time{})
	master.Do("CLIENT", "KILL", "TYPE", "replica")
	another := streamsAnew(one)
	isDoubted := func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.conn.wire.doubted.Load()
	}
	l.Doubt(one)
	require.False(t, isDoubted())
	l.Doubt(another)
	streamsAnew(another)
	require.EqualValues(t, 1, l.Status().Errors[KindTimeout])
}

// The keep-alives that a master sends while it waits come before +FULLRESYNC as well as before
// the RDB, and are no part of either.
func TestPitfall10Newlines(t *testing.T) {
	enginetest.Each(t, func(t *testing.T, kind enginetest.Kind) {
		t.Parallel() // it mostly waits
		master := enginetest.Start(t, kind, "--repl-diskless-sync-delay", "2")
		var seen recorder
		addr := newProxy(t, master.Addr(), func(int) func([]byte) ([]byte, error) { return seen.pass })
		sink := newMemory()
		l, stop := up(t, Options{Address: addr, ReplyTimeout: 300 * time.Millisecond}, sink)
		caught(t, master, sink)
		stop()
		require.Contains(t, seen.String(), "\n\n+FULLRESYNC")
		require.Empty(t, l.Status().LastError)
	})
}

func TestHistoriesThatEnd(t *testing.T) {
	enginetest.Each(t, func(t *testing.T, kind enginetest.Kind) {
		t.Parallel() // it mostly waits
		t.Run("pitfall 21: a restart with an AOF", func(t *testing.T) {
			master := enginetest.Start(t, kind, "--appendonly", "yes")
			fill(master, 50)
			sink := newMemory()
			l, _ := up(t, Options{Address: master.Addr()}, sink)
			caught(t, master, sink)
			fill(master, 50)
			caught(t, master, sink)
			old := see(sink, func(m *memory) stream.ReplID { return m.id })
			master.Restart("--appendonly", "yes")
			eventually(t, "a new history", func() bool {
				return see(sink, func(m *memory) bool { return m.id != "" && m.id != old })
			})
			caught(t, master, sink)
			require.Equal(t, int64(2), l.Status().FullResyncs)
			require.Empty(t, enginetest.Diff(t, master, restored(t, kind, sink)))
		})
		t.Run("pitfall 22: too long without a replica", func(t *testing.T) {
			master := enginetest.Start(t, kind, "--repl-backlog-ttl", "1")
			sink := newMemory()
			_, stop := up(t, Options{Address: master.Addr()}, sink)
			caught(t, master, sink)
			stop()
			eventually(t, "the backlog is freed", func() bool { return master.Info("replication")["repl_backlog_active"] == "0" })
			var said strings.Builder
			_, stop = up(t, Options{Address: master.Addr(), Logger: slog.New(slog.NewTextHandler(&said, nil))}, sink)
			eventually(t, "a full sync", func() bool { return fullSyncs(master) == 2 })
			caught(t, master, sink)
			stop()
			require.Contains(t, said.String(), "the master's history")
		})
	})
}

func TestWhatIsAnnounced(t *testing.T) {
	enginetest.Each(t, func(t *testing.T, kind enginetest.Kind) {
		master := enginetest.Start(t, kind)
		listened := []string{}
		o := Options{Address: master.Addr(), Listen: func(ip string) (int, error) { listened = append(listened, ip); return 4711, nil }}
		sink := newMemory()
		_, stop := up(t, o, sink)
		caught(t, master, sink)
		require.Contains(t, master.Info("replication")["slave0"], "ip=127.0.0.1,port=4711,")
		stop()
		require.Equal(t, []string{"127.0.0.1"}, listened)

		o.Announce = Announce{Host: "10.9.8.7", Port: 7777}
		_, stop = up(t, o, sink)
		eventually(t, "what is announced wins", func() bool {
			return strings.Contains(master.Info("replication")["slave0"], "ip=10.9.8.7,port=7777,")
		})
		stop()
	})
	// A port that isn't open is never announced.
	master := enginetest.Start(t, enginetest.Any(t))
	l, _ := up(t, Options{Address: master.Addr(), Listen: func(string) (int, error) { return 0, io.ErrClosedPipe }}, newMemory())
	require.Contains(t, refusedWith(t, l, KindLocal).LastError, "open the port to announce")
	require.Zero(t, fullSyncs(master))
}

func TestProgressOfATransfer(t *testing.T) {
	began := time.Unix(1000, 0)
	half := Transfer{Began: began, Bytes: 500, Total: 1000}
	require.InDelta(t, 50, half.Rate(began.Add(10*time.Second)), 0.001)
	require.Equal(t, 10*time.Second, half.Left(began.Add(10*time.Second)))
	half.Total = -1
	require.Equal(t, time.Duration(-1), half.Left(began.Add(10*time.Second)))
	half.Ended = began.Add(5 * time.Second)
	require.InDelta(t, 100, half.Rate(began.Add(time.Hour)), 0.001)
	require.Zero(t, Transfer{}.Rate(began))
}

func TestBackoffGrowsToItsBoundAndIsJittered(t *testing.T) {
	seen := map[time.Duration]bool{}
	for n := range 100 {
		d := backoff(n, 100*time.Millisecond, 30*time.Second)
		want := min(30*time.Second, 100*time.Millisecond<<min(n, 20))
		require.LessOrEqual(t, d, want)
		require.GreaterOrEqual(t, d, want/2)
		seen[d] = true
	}
	require.Greater(t, len(seen), 50)
}
