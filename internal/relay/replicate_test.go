package relay

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/stream"
)

var id = stream.ReplID(strings.Repeat("a", 40))

// archived is an Archive of one snapshot at offset 100 and a stream behind it.
type archived struct {
	rdb     io.Reader
	bytes   int64
	version int
	stream  [][]byte // what Next gives; then it waits
	err     error    // of all
	takes   time.Duration
	end     stream.Offset // of a Copy
}

// wait is what a store takes its time for.
func (a *archived) wait(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(a.takes):
		return nil
	}
}

func (a *archived) Continue(ctx context.Context, asked stream.ReplID, behind stream.Offset) (Stream, error) {
	if err := a.wait(ctx); err != nil {
		return nil, err
	}
	switch {
	case a.err != nil:
		return nil, a.err
	case asked != id || behind != 100:
		return nil, ErrFork
	}
	return &given{left: a.stream}, nil
}

func (a *archived) Copy(ctx context.Context) (*Copy, error) {
	if err := a.wait(ctx); err != nil {
		return nil, err
	}
	if a.err != nil {
		return nil, a.err
	}
	return &Copy{Offset: 100, RDBVersion: a.version, Bytes: a.bytes, RDB: io.NopCloser(a.rdb), Stream: &given{left: a.stream}, End: a.end}, nil
}

type given struct{ left [][]byte }

func (*given) ReplID() stream.ReplID { return id }
func (*given) Close() error          { return nil }
func (g *given) Next(ctx context.Context) ([]byte, error) {
	if len(g.left) == 0 {
		<-ctx.Done()
		return nil, context.Cause(ctx)
	}
	b := g.left[0]
	if g.left = g.left[1:]; b == nil {
		return nil, io.EOF
	}
	return b, nil
}

// speak lets a peer that serves an archive talk over a pipe, in a bubble of synctest. ended is closed when it
// has left.
func speak(t *testing.T, o Options) (net.Conn, <-chan struct{}, *Listener) {
	t.Helper()
	ours, theirs := net.Pipe()
	o.Logger, o.Describe = discard, describe
	l := newListener(nowhere{}, o)
	p := newPeer(l, ours)
	ended := make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(func() { cancel(); _ = theirs.Close(); <-ended })
	go func() { defer close(ended); p.serve(ctx) }()
	return theirs, ended, l
}

// hear sends something, and reads as many bytes as are wanted.
func hear(t *testing.T, nc net.Conn, send, want string) {
	t.Helper()
	_, err := io.WriteString(nc, send)
	require.NoError(t, err)
	got := make([]byte, len(want))
	_, err = io.ReadFull(nc, got)
	require.NoError(t, err)
	require.Equal(t, want, string(got))
}

func ack(at int) string {
	return fmt.Sprintf("*3\r\n$8\r\nREPLCONF\r\n$3\r\nACK\r\n$%d\r\n%d\r\n", len(fmt.Sprint(at)), at)
}

// Pitfall 31: the size is told, so the stream may follow at once.
func TestAFullSyncAndAPartialOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rdb := strings.Repeat("R", 3*copyBlock+5)
		a := &archived{rdb: strings.NewReader(rdb), bytes: int64(len(rdb)), version: 11, stream: [][]byte{[]byte("one"), []byte("two")}}
		nc, _, l := speak(t, Options{Archive: a})
		hear(t, nc, "REPLCONF listening-port 7000 ip-address 10.1.1.1\r\n", "+OK\r\n")
		hear(t, nc, "REPLCONF capa eof capa psync2 version 9.1.2\r\n", "+OK\r\n")
		hear(t, nc, "PSYNC ? -1\r\n", fmt.Sprintf("+FULLRESYNC %s 100\r\n$%d\r\n%sonetwo", id, len(rdb), rdb))
		_, err := io.WriteString(nc, "\n"+ack(106))
		require.NoError(t, err)
		synctest.Wait()
		known := l.Replicas()
		require.Len(t, known, 1)
		require.Equal(t, "10.1.1.1:7000", known[0].Address)
		require.Equal(t, "online", known[0].State)
		require.EqualValues(t, 106, known[0].Offset)
		require.Equal(t, "9.1.2", known[0].Version)
		require.EqualValues(t, 1, known[0].FullSyncs)
		require.EqualValues(t, len(rdb)+6, known[0].SentBytes)
		info := l.info(command{"INFO", "replication"})
		require.Contains(t, info, "\r\nrole:slave\r\n")
		require.Contains(t, info, "\r\nconnected_slaves:1\r\nslave0:ip=10.1.1.1,port=7000,state=online,offset=106,lag=0\r\n")

		other, left, _ := speak(t, Options{Archive: &archived{stream: [][]byte{[]byte("one"), nil}}})
		hear(t, other, "PSYNC "+strings.ToUpper(string(id))+" 101\r\n", "+CONTINUE "+string(id)+"\r\none")
		<-left // another id took over: it has to ask again
	})
}

// Nobody says anything while an RDB goes out, and who loads one says something and takes nothing. Who does
// neither is left.
func TestAReplicaThatHangsIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := func() *archived {
			return &archived{rdb: strings.NewReader(strings.Repeat("R", 10)), bytes: 10, stream: [][]byte{[]byte("one"), []byte("two")}}
		}
		silent, left, _ := speak(t, Options{Archive: a()})
		hear(t, silent, "PSYNC ? -1\r\n", "+FULLRESYNC")
		time.Sleep(patience + time.Second) // fake time
		<-left

		loads, left, l := speak(t, Options{Archive: a()})
		hear(t, loads, "PSYNC ? -1\r\n", fmt.Sprintf("+FULLRESYNC %s 100\r\n$10\r\nRRRRRRRRRR", id))
		for range 300 {
			time.Sleep(time.Second)
			_, err := io.WriteString(loads, "\n")
			require.NoError(t, err)
		}
		hear(t, loads, ack(100), "onetwo")
		synctest.Wait()
		require.EqualValues(t, 100, l.Replicas()[0].Offset)

		// It takes all and says nothing.
		time.Sleep(patience + time.Second)
		<-left
		require.Equal(t, "away", l.Replicas()[0].State)
	})
}

// Pitfall 5: a replica counts each byte of the stream, also a newline that is meant as a sign of life. So it
// hears nothing where nothing was archived, however long that takes.
func TestPitfall5NothingIsInventedInAStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nc, _, _ := speak(t, Options{Archive: &archived{stream: [][]byte{[]byte("one")}}})
		hear(t, nc, "PSYNC "+string(id)+" 101\r\n", "+CONTINUE "+string(id)+"\r\none")
		heard := make(chan int, 1)
		go func() {
			n, _ := nc.Read(make([]byte, 10))
			heard <- n
		}()
		for range 3600 {
			time.Sleep(time.Second) // fake time
			_, err := io.WriteString(nc, ack(103))
			require.NoError(t, err)
		}
		require.Empty(t, heard)
		require.NoError(t, nc.Close())
		require.Zero(t, <-heard)
	})
}

// Pitfall 10, from the other side: while a store takes its time, newlines before the answer keep a replica
// from going, and it counts none of them. It ends in an answer.
func TestPitfall10NewlinesWhileAStoreTakesItsTime(t *testing.T) {
	for sent, answer := range map[string]string{
		"PSYNC " + string(id) + " 101\r\n": "+CONTINUE " + string(id) + "\r\none",
		"PSYNC ? -1\r\n":                   fmt.Sprintf("+FULLRESYNC %s 100\r\n$3\r\nRDBone", id),
		"SYNC\r\n":                         "$3\r\nRDBone",
	} {
		slow := func(takes time.Duration) *archived {
			return &archived{rdb: strings.NewReader("RDB"), bytes: 3, stream: [][]byte{[]byte("one")}, takes: takes}
		}
		synctest.Test(t, func(t *testing.T) {
			nc, _, _ := speak(t, Options{Archive: slow(5*time.Minute + time.Millisecond)})
			hear(t, nc, sent, strings.Repeat("\n", 300)+answer)

			nc, _, l := speak(t, Options{Archive: slow(24 * time.Hour)})
			hear(t, nc, sent, strings.Repeat("\n", int(opening/time.Second)-1)+"-NOMASTERLINK Can't SYNC now: the archive could not be opened within 10m0s\r\n")
			hear(t, nc, "PING\r\n", "+PONG\r\n")
			require.Zero(t, l.book.copying)

			nc, left, l := speak(t, Options{Archive: slow(24 * time.Hour)})
			began := time.Now()
			hear(t, nc, sent, "\n")
			require.NoError(t, nc.Close())
			<-left // nothing is read for who isn't there
			require.Less(t, time.Since(began), 3*time.Second)
			require.Zero(t, l.book.copying)
		})
	}
}

// What isn't as it was archived is not loaded: its last block is never sent.
func TestASnapshotThatIsNotWhole(t *testing.T) {
	wrong := errors.New("its checksum is wrong")
	for name, a := range map[string]*archived{
		"damaged":   {rdb: io.MultiReader(strings.NewReader(strings.Repeat("R", copyBlock+10)), failing{wrong}), bytes: copyBlock + 10},
		"too short": {rdb: strings.NewReader(strings.Repeat("R", copyBlock+5)), bytes: copyBlock + 10},
		"too long":  {rdb: strings.NewReader(strings.Repeat("R", copyBlock+15)), bytes: copyBlock + 10},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				nc, _, _ := speak(t, Options{Archive: a})
				_, err := io.WriteString(nc, "PSYNC ? -1\r\n")
				require.NoError(t, err)
				got, err := io.ReadAll(nc)
				require.NoError(t, err)
				_, sent, _ := bytes.Cut(got, []byte("$131082\r\n"))
				require.Less(t, len(sent), copyBlock+1)
			})
		})
	}
}

type failing struct{ error }

func (f failing) Read([]byte) (int, error) { return 0, f.error }

// Only "-NOMASTERLINK" makes a replica wait and keep what it has (pitfall 19).
func TestReplicasArePutOff(t *testing.T) {
	for _, c := range []struct{ name, sent, want string }{
		{"nothing is archived", "PSYNC ? -1\r\n", "-NOMASTERLINK Can't SYNC now: nothing yet\r\n"},
		{"pitfall 19: nor with an id", "PSYNC " + string(id) + " 7\r\n", "-NOMASTERLINK Can't SYNC now: nothing yet\r\n"},
		{"nor with the old SYNC", "SYNC\r\n", "-NOMASTERLINK Can't SYNC now: nothing yet\r\n"},
		{"nor for a tool", "REPLCONF rdb-only 1\r\nPSYNC " + string(id) + " 101\r\n", "+OK\r\n-NOMASTERLINK Can't SYNC now: nothing yet\r\n"},
		{"half a PSYNC", "PSYNC ?\r\n", "-NOMASTERLINK Can't SYNC like that: replicas say PSYNC, an id and an offset\r\n"},
		{"pitfall 2: FAILOVER", "PSYNC " + string(id) + " 101 FAILOVER\r\n", "-ERR this is an archive, it can't become a master: choose a replica with FAILOVER TO\r\n"},
		{"pitfall 28: what changes the protocol", "REPLCONF rdb-filter-only functions\r\nREPLCONF rdb-channel 1\r\nREPLCONF capa dual-channel\r\n",
			"-ERR Unrecognized REPLCONF option: rdb-filter-only\r\n-ERR Unrecognized REPLCONF option: rdb-channel\r\n+OK\r\n"},
		{"half a REPLCONF", "REPLCONF capa\r\n", "-ERR syntax error\r\n"},
		{"no offset", "PSYNC ? x\r\n", "-ERR value is not an integer or out of range\r\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := running(t, Options{Archive: &archived{err: &LaterError{Why: "nothing yet"}}})
			require.Equal(t, c.want, ask(t, l, c.sent))
		})
	}
}

// Pitfall 18: an engine that gets an RDB that it can't load has emptied itself by then, and asks again.
func TestPitfall18RDBVersions(t *testing.T) {
	for _, c := range []struct {
		replica string
		rdb     int
		loads   bool
	}{
		{"", 10, true}, {"", 12, true}, {"", 80, false},
		{"8.1.1", 10, true}, {"8.1.1", 11, true}, {"8.1.1", 12, false}, {"8.1.1", 80, false},
		{"9.1.2", 11, true}, {"9.1.2", 12, false}, {"9.1.2", 80, true}, {"10.0.0", 80, true},
		{"nonsense", 10, true},
	} {
		require.Equal(t, c.loads, loads(c.replica, c.rdb) == "", "%+v", c)
	}
	l := running(t, Options{Archive: &archived{rdb: strings.NewReader("R"), bytes: 1, version: 80}})
	require.Contains(t, ask(t, l, "REPLCONF listening-port 1 version 8.1.1\r\nPSYNC ? -1\r\n"), "-NOMASTERLINK Can't SYNC now: the snapshot is an RDB of version 80, which valkey 8.1.1 can't load")
}

func TestLogin(t *testing.T) {
	for _, c := range []struct{ user, sent, want string }{
		{"", "PING\r\n", "-NOAUTH Authentication required.\r\n"},
		{"", "INFO\r\n", "-NOAUTH Authentication required.\r\n"},
		{"", "PSYNC ? -1\r\n", "-NOAUTH Authentication required.\r\n"},
		{"", "MULTI\r\n", "-NOAUTH Authentication required.\r\n"},
		{"", "REPLCONF ACK 1\r\nREPLCONF listening-port 1\r\n", "-NOAUTH Authentication required.\r\n"},
		{"", "AUTH wrong\r\nPING\r\n", "-WRONGPASS invalid username-password pair or user is disabled.\r\n-NOAUTH Authentication required.\r\n"},
		{"", "AUTH\r\n", "-ERR wrong number of arguments for 'auth' command\r\n"},
		{"", "AUTH pw\r\nPING\r\n", "+OK\r\n+PONG\r\n"},
		{"", "AUTH default pw\r\nPING\r\n", "+OK\r\n+PONG\r\n"},
		{"", "AUTH other pw\r\n", "-WRONGPASS invalid username-password pair or user is disabled.\r\n"},
		{"u", "AUTH pw\r\n", "-WRONGPASS invalid username-password pair or user is disabled.\r\n"},
		{"u", "AUTH u pw\r\nPING\r\n", "+OK\r\n+PONG\r\n"},
		{"u", "HELLO 2 AUTH u no\r\nPING\r\n", "-WRONGPASS invalid username-password pair or user is disabled.\r\n-NOAUTH Authentication required.\r\n"},
	} {
		l := running(t, Options{Login: Login{Username: c.user, Password: "pw"}, Archive: &archived{err: ErrFork}})
		require.Equal(t, c.want, ask(t, l, c.sent), c.sent)
	}
	l := running(t, Options{Login: Login{Password: "pw"}})
	got := ask(t, l, "HELLO\r\nHELLO 2 AUTH default pw\r\nPING\r\n")
	require.True(t, strings.HasPrefix(got, "-NOAUTH") && strings.HasSuffix(got, "+PONG\r\n"), got)
}

// Who has no password keeps nobody out who has.
func TestStrangersMakeRoom(t *testing.T) {
	l := running(t, Options{Login: Login{Password: "pw"}})
	for range 3 * maxConns {
		dial(t, l)
	}
	require.Equal(t, "+OK\r\n+PONG\r\n", ask(t, l, "AUTH pw\r\nPING\r\n"))
	l.mu.Lock()
	defer l.mu.Unlock()
	require.LessOrEqual(t, len(l.peers), maxConns)
}

func TestStrangersHaveLittleTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nc, left, _ := speak(t, Options{Login: Login{Password: "pw"}})
		go func() { _, _ = io.Copy(io.Discard, bufio.NewReader(nc)) }()
		for range 9 { // talking doesn't help
			_, err := io.WriteString(nc, "PING\r\n")
			require.NoError(t, err)
			time.Sleep(time.Second)
		}
		time.Sleep(2 * time.Second)
		<-left
	})
}
