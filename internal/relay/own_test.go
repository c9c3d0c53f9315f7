package relay

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/engine/enginetest"
	"github.com/offloader/offloader/internal/stream"
)

// empty is an RDB of nothing, that every engine loads.
const empty = "REDIS0009\xff\x00\x00\x00\x00\x00\x00\x00\x00"

// ownAt serves an RDB of nothing to the source's own engine, which is at an address that is yet to be told, and what there is
// to others.
func ownAt(t *testing.T, rdb io.Reader, bytes int64, login Login) (l *Listener, is func(address string)) {
	t.Helper()
	at := make(chan string, 1)
	at <- ""
	l = running(t, Options{
		Describe: describe, Login: login, Logger: discard, Archive: &archived{rdb: rdb, bytes: bytes},
		Own: func(_ context.Context, address string) bool {
			own := <-at
			at <- own
			return address == own
		},
		Instead: func(_ context.Context, c *Copy) *Copy {
			return &Copy{Offset: c.Offset, Bytes: int64(len(empty)), RDB: io.NopCloser(strings.NewReader(empty)), Stream: c.Stream}
		},
	})
	return l, func(address string) { <-at; at <- address }
}

// follows has a server follow the relay.
func follows(t *testing.T, s *enginetest.Server, l *Listener) {
	t.Helper()
	s.Do("REPLICAOF", "127.0.0.1", l.Port())
	eventually(t, "it is attached", func() bool { return s.Info("replication")["master_link_status"] == "up" })
}

// answered says something on a connection of its own, and hears a line.
func answered(t *testing.T, l *Listener, say string) (nc net.Conn, heard string) {
	t.Helper()
	nc = dial(t, l)
	_, err := io.WriteString(nc, say)
	require.NoError(t, err)
	heard, err = bufio.NewReaderSize(nc, 16).ReadString('\n')
	require.NoError(t, err)
	return nc, heard
}

// However many connections there are, of those who need no password or of those who know it, and however often they come
// back: a replica gets in, and stays.
func TestAReplicaFindsAPlaceAmongThoseWhoHaveThemAll(t *testing.T) {
	for _, login := range []Login{{}, {Password: "sesame"}} {
		t.Run("with the password "+login.Password, func(t *testing.T) {
			l := running(t, Options{Describe: describe, Login: login, Archive: &archived{rdb: strings.NewReader(empty), bytes: int64(len(empty))}})
			replica := enginetest.Start(t, enginetest.Any(t), "--masterauth", login.Password)
			stop, ended := make(chan struct{}), make(chan struct{})
			go func() {
				defer close(ended)
				conns, answer := make([]net.Conn, 3*maxConns), make([]byte, 64)
				for i := 0; ; i = (i + 1) % len(conns) {
					select {
					case <-stop:
						for _, nc := range conns {
							if nc != nil {
								_ = nc.Close()
							}
						}
						return
					default:
					}
					if conns[i] != nil {
						_, err := io.WriteString(conns[i], "PING\r\n")
						if err == nil {
							_ = conns[i].SetReadDeadline(time.Now().Add(time.Second))
							_, err = conns[i].Read(answer)
						}
						if err == nil {
							continue
						}
						_ = conns[i].Close()
						time.Sleep(time.Millisecond) // so many would take the processor, and that is another thing
					}
					conns[i], _ = net.Dial("tcp", l.Addr())
					if conns[i] != nil {
						_, _ = io.WriteString(conns[i], "AUTH sesame\r\n")
						_ = conns[i].SetReadDeadline(time.Now().Add(time.Second))
						_, _ = conns[i].Read(answer)
					}
				}
			}()
			defer func() { close(stop); <-ended }()
			eventually(t, "all places are taken", func() bool {
				l.mu.Lock()
				defer l.mu.Unlock()
				return len(l.peers) == maxConns
			})
			follows(t, replica, l)
			for range 2 * maxConns {
				_, _ = answered(t, l, "AUTH sesame\r\n")
			}
			require.Equal(t, Online, l.Replicas()[0].State)
			require.EqualValues(t, 1, l.Replicas()[0].FullSyncs)
			require.Equal(t, "up", replica.Info("replication")["master_link_status"])
		})
	}
}

// As many replicas as are served at once leave a place for the source's own engine, as many copies as run at once a turn, which
// it doesn't wait for.
func TestTheSourcesOwnEngineFindsAPlace(t *testing.T) {
	l, is := ownAt(t, endless{}, 1<<40, Login{})
	ask := func(port int) string {
		nc := dial(t, l)
		_, err := fmt.Fprintf(nc, "REPLCONF listening-port %d\r\nPSYNC ? -1\r\n", port)
		require.NoError(t, err)
		in := bufio.NewReaderSize(nc, 512)
		_, err = in.ReadString('\n')
		require.NoError(t, err)
		answer, err := in.ReadString('\n')
		require.NoError(t, err)
		return answer
	}
	for i := range maxCopies { // they read no more, and are not done within this test
		require.Contains(t, ask(1+i), "+FULLRESYNC")
	}
	require.Contains(t, ask(1+maxCopies), "as many full syncs are running as are served at once")
	one := enginetest.Start(t, enginetest.Any(t))
	is(one.Addr())
	follows(t, one, l)
	require.NotContains(t, one.LogText(), "Can't SYNC now", "at its first try")

	for i := range maxReplicas - maxCopies - 1 {
		_, heard := answered(t, l, fmt.Sprintf("PSYNC %s 101\r\n", id))
		require.Contains(t, heard, "+CONTINUE", i)
	}
	_, heard := answered(t, l, fmt.Sprintf("PSYNC %s 101\r\n", id))
	require.Contains(t, heard, "as many replicas are attached as are served at once")
	one.Do("REPLICAOF", "NO", "ONE")
	eventually(t, "it has left", func() bool { return own(l).State == Away })
	_, heard = answered(t, l, fmt.Sprintf("PSYNC %s 101\r\n", id))
	require.Contains(t, heard, "+CONTINUE", "another has its place")
	follows(t, one, l)
	require.NotContains(t, one.LogText(), "Can't SYNC now")
	require.Empty(t, own(l).PutOff)
}

// own is what is known of the source's own engine.
func own(l *Listener) (r Replica) {
	for _, r := range l.Replicas() {
		if r.Own {
			return r
		}
	}
	return r
}

// An engine that died while it loaded, again and again, is not kept waiting for long, nor is one that can't load what it
// gets served at each of its tries; and why it waits can be told.
func TestTheSourcesOwnEngineDoesNotWaitForLong(t *testing.T) {
	b, now := newBook(), time.Now()
	n, later := b.attach("a", "", true, now)
	require.Nil(t, later)
	for range 50 {
		require.Nil(t, b.beginCopy("a", now))
		b.gets("a", n, 1, true, now)
		b.endCopy()
		now = now.Add(ownWait)
	}
	b.gets("a", n, 1, true, now)
	later = b.beginCopy("a", now.Add(copyPause/2))
	require.ErrorContains(t, later, "could load none of them")
	b.putOff("a", later)
	require.Equal(t, "see its log", b.list(now)[0].Hint[:11])
	require.Contains(t, b.list(now)[0].PutOff, "could load none of them")
	b.acked("a", 1, now)
	require.Empty(t, b.list(now)[0].PutOff)
	require.Empty(t, b.list(now)[0].Hint)
}

// A replica shows that it is there by what it takes of a copy, by newlines while it loads, and by acknowledgements; not by what
// its connection takes of the stream.
func TestWhenAReplicaWasSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rdb := strings.Repeat("R", 3*copyBlock+5)
		nc, _, l := speak(t, Options{Archive: &archived{rdb: strings.NewReader(rdb), bytes: int64(len(rdb)), stream: [][]byte{[]byte("one"), []byte("two")}}})
		seen := func(state string, now bool) {
			t.Helper()
			synctest.Wait()
			r := l.Replicas()[0]
			require.Equal(t, state, r.State)
			require.Equal(t, now, r.Seen == stream.TimeOf(time.Now()))
			time.Sleep(time.Second)
		}
		take := func(n int) {
			_, err := io.ReadFull(nc, make([]byte, n))
			require.NoError(t, err)
		}
		hear(t, nc, "PSYNC ? -1\r\n", fmt.Sprintf("+FULLRESYNC %s 100\r\n$%d\r\n", id, len(rdb)))
		seen(Copying, false)
		take(2 * copyBlock)
		seen(Copying, true)
		take(copyBlock + 5)
		seen(Online, true)
		take(len("one"))
		seen(Online, false)
		hear(t, nc, "\n", "")
		seen(Online, true)
		hear(t, nc, ack(103), "")
		seen(Online, true)
	})
}

// Why one is put off is known also where it came to no place, is that of its last tries, and is forgotten with what it was
// told another time.
func TestWhyAReplicaIsPutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &archived{rdb: strings.NewReader("RDB"), bytes: 3, version: 80, takes: time.Minute}
		nc, _, l := speak(t, Options{Archive: a})
		hear(t, nc, "REPLCONF listening-port 7000 version 8.1.1\r\n", "+OK\r\n")
		go func() { _, _ = io.Copy(io.Discard, nc) }()
		_, err := io.WriteString(nc, "PSYNC ? -1\r\n")
		require.NoError(t, err)
		time.Sleep(2 * time.Minute)
		r := l.Replicas()[0]
		require.Equal(t, Away, r.State)
		require.Equal(t, "the snapshot is an RDB of version 80, which valkey 8.1.1 can't load", r.PutOff)
		require.Contains(t, r.Hint, "the version that the master had")
	})
	b, now := newBook(), time.Now()
	for i := range maxReplicas {
		comes(t, b, fmt.Sprint(i), now)
	}
	_, later := b.attach("late", "", false, now)
	b.putOff("late", later)
	require.True(t, b.tell("late", later.Error(), now), "the log has it")
	require.False(t, b.tell("late", later.Error(), now), "once")
	late := func() Replica { return b.list(now)[maxReplicas] }
	require.Contains(t, late().PutOff, "as many replicas are attached")
	b.leave("0", now)
	comes(t, b, "late", now.Add(time.Second))
	require.NotEmpty(t, late().PutOff, "it has not got anything yet")
	b.leave("late", now)
	comes(t, b, "late", now.Add(time.Hour))
	require.Empty(t, late().PutOff)
}
