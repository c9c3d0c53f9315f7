package relay

import (
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
)

// Who says SYNC is told no id, and need not say anything: it gets the RDB and the stream.
func TestAnOldReplica(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nc, left, l := speak(t, Options{Archive: &archived{rdb: strings.NewReader("RDB"), bytes: 3, stream: [][]byte{[]byte("one"), []byte("two")}}})
		hear(t, nc, "SYNC\r\n", "$3\r\nRDBone")
		time.Sleep(2 * time.Hour) // fake time: the stream waits for the reader, but not for ever
		<-left
		require.Equal(t, Away, l.Replicas()[0].State)

		nc, _, l = speak(t, Options{Archive: &archived{rdb: strings.NewReader("RDB"), bytes: 3, stream: [][]byte{[]byte("one")}}})
		hear(t, nc, "SYNC\r\n", "$3\r\nRDBone")
		time.Sleep(2 * time.Hour)
		require.Equal(t, Online, l.Replicas()[0].State)
	})
}

// Who wants an RDB alone gets that, whatever version it is of, and can read it to its end while it says things
// that nobody waits for. It may come as often as it likes.
func TestAToolWantsAnRDB(t *testing.T) {
	rdb := strings.Repeat("R", 3*copyBlock+5)
	for sent, header := range map[string]string{
		"SYNC\r\n":                                fmt.Sprintf("$%d\r\n", len(rdb)),
		"PSYNC ? -1\r\n":                          fmt.Sprintf("+FULLRESYNC %s 100\r\n$%d\r\n", id, len(rdb)),
		"PSYNC " + string(id) + " 101\r\n":        fmt.Sprintf("+FULLRESYNC %s 100\r\n$%d\r\n", id, len(rdb)),
		"REPLCONF version 8.1.1\r\nPSYNC ? 0\r\n": fmt.Sprintf("+OK\r\n+FULLRESYNC %s 100\r\n$%d\r\n", id, len(rdb)),
	} {
		for range 2 * freeCopies {
			l := running(t, Options{Archive: &archived{rdb: strings.NewReader(rdb), bytes: int64(len(rdb)), version: 80, stream: [][]byte{[]byte("one")}}})
			nc := dial(t, l)
			hear(t, nc, "REPLCONF rdb-only 1\r\n", "+OK\r\n")
			hear(t, nc, sent, header+rdb[:10])
			_, err := io.WriteString(nc, strings.Repeat(ack(100), 100))
			require.NoError(t, err)
			rest, err := io.ReadAll(nc)
			require.NoError(t, err)
			require.Equal(t, rdb[10:], string(rest))
		}
	}
	l := running(t, Options{Archive: &archived{rdb: strings.NewReader("R"), bytes: 1, version: 80}})
	nc := dial(t, l)
	require.False(t, Replica{Address: "10.0.0.6:0"}.Listens(), "it is nobody to ask later")
	require.True(t, Replica{Address: "10.0.0.6:6379"}.Listens())
	hear(t, nc, "REPLCONF rdb-only 1\r\nREPLCONF rdb-only 0\r\nREPLCONF listening-port 1\r\n", "+OK\r\n+OK\r\n+OK\r\n")
	hear(t, nc, "SYNC\r\n", "-NOMASTERLINK Can't SYNC now: the snapshot is an RDB of version 80")
}

// Where what is served has an end, an RDB alone is something else, unless it stands there.
func TestAToolGetsNothingElseThanWhatIsServed(t *testing.T) {
	a := &archived{rdb: strings.NewReader("RDB"), bytes: 3, end: 103}
	l := running(t, Options{Archive: a})
	hear(t, dial(t, l), "REPLCONF rdb-only 1\r\nSYNC\r\n", "+OK\r\n-NOMASTERLINK Can't SYNC now: an RDB alone would be of offset 100, and 103 is served: use REPLICAOF, or restore --format rdb\r\n")
	a.end = 100
	hear(t, dial(t, l), "REPLCONF rdb-only 1\r\nSYNC\r\n", "+OK\r\n$3\r\nRDB")
}

// A replica has nothing to say but ACK: anything else ends its connection, and that alone.
func TestAReplicaThatTalks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, nonsense := range []string{"PING\r\n", "PSYNC ? -1\r\n", "REPLCONF capa eof\r\n", "*1\r\n$999999999\r\n", strings.Repeat("x", maxLine+1)} {
			nc, left, _ := speak(t, Options{Archive: &archived{stream: [][]byte{[]byte("one")}}})
			hear(t, nc, "PSYNC "+string(id)+" 101\r\n", "+CONTINUE "+string(id)+"\r\none")
			_, _ = io.WriteString(nc, nonsense) // it may have been left half-way
			<-left
		}
	})
}

// endless gives zeros, and never ends.
type endless struct{}

func (endless) Read(b []byte) (int, error) { return len(b), nil }

// Of those who get a copy at once none has to wait for another, be that one as slow as it likes.
func TestCopiesAreFair(t *testing.T) {
	const copies = maxCopies - 1
	l := running(t, Options{Archive: &archived{rdb: endless{}, bytes: 1 << 40}})
	start := func(listens int) net.Conn {
		nc := dial(t, l)
		require.NoError(t, nc.(*net.TCPConn).SetReadBuffer(copyBlock)) // or the sockets share, in megabytes
		_, err := fmt.Fprintf(nc, "REPLCONF listening-port %d\r\nPSYNC ? -1\r\n", listens)
		require.NoError(t, err)
		return nc
	}
	start(1) // it reads nothing
	var got [copies]atomic.Int64
	var enough atomic.Bool
	together := make(chan struct{})
	var g errgroup.Group
	for i := range copies {
		nc := start(2 + i)
		g.Go(func() error {
			<-together
			buf := make([]byte, copyBlock)
			for !enough.Load() {
				n, err := nc.Read(buf)
				if err != nil {
					return err
				}
				if got[i].Add(int64(n)) >= 64<<20 {
					enough.Store(true)
				}
			}
			return nil
		})
	}
	close(together)
	require.NoError(t, g.Wait())
	var all []int64
	for i := range got {
		all = append(all, got[i].Load())
	}
	slices.Sort(all)
	require.Greater(t, all[0], all[copies-1]/8, "the least that any got is no small part of the most: %v", all)
}
