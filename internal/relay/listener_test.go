package relay

import (
	"bufio"
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
	"go.uber.org/goleak"

	"github.com/offloader/offloader/internal/stream"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func describe() Info {
	return Info{MasterHost: "10.0.0.5", MasterPort: 6379, Up: true, Offset: 4711, ReplID: stream.ReplID(strings.Repeat("a", 40))}
}

// running is a Listener that ends with the test.
func running(t *testing.T, o Options) *Listener {
	t.Helper()
	l, err := Listen("127.0.0.1:0", o)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- l.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("Run ended with %v", err)
		}
	})
	return l
}

func dial(t *testing.T, l *Listener) net.Conn {
	t.Helper()
	nc, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", l.Port()))
	require.NoError(t, err)
	t.Cleanup(func() { _ = nc.Close() })
	require.NoError(t, nc.SetDeadline(time.Now().Add(20*time.Second)))
	return nc
}

// ask sends bytes, then QUIT, and returns all that comes before its +OK.
func ask(t *testing.T, l *Listener, sent string) string {
	t.Helper()
	nc := dial(t, l)
	_, err := io.WriteString(nc, sent+"QUIT\r\n")
	require.NoError(t, err)
	got, _ := io.ReadAll(nc) // a reset tells no more than an end
	return strings.TrimSuffix(string(got), "+OK\r\n")
}

func TestConversations(t *testing.T) {
	l := running(t, Options{Describe: describe})
	replid := strings.Repeat("a", 40)
	for _, c := range []struct{ name, sent, want string }{
		{"ping", "PING\r\n", "+PONG\r\n"},
		{"ping as an array", "*1\r\n$4\r\nping\r\n", "+PONG\r\n"},
		{"an echo", "*2\r\n$4\r\nPING\r\n$2\r\nhi\r\n", "$2\r\nhi\r\n"},
		{"newlines between", "\n\r\n\nPING\r\n", "+PONG\r\n"},
		{"role", "ROLE\r\n", "*5\r\n$5\r\nslave\r\n$8\r\n10.0.0.5\r\n:6379\r\n$9\r\nconnected\r\n:4711\r\n"},
		{"pitfall 1: FAILOVER picks us", "PSYNC " + replid + " 4712 FAILOVER\r\n",
			"-ERR this is an archive, it can't become a master: choose a replica with FAILOVER TO\r\n"},
		{"pitfall 2: whatever the third argument", "PSYNC " + replid + " 4712 x\r\n",
			"-ERR this is an archive, it can't become a master: choose a replica with FAILOVER TO\r\n"},
		{"pitfall 19: a replica is put off", "PSYNC ? -1\r\n", "-NOMASTERLINK Can't SYNC while this archive serves no replicas\r\n"},
		{"and an old one", "SYNC\r\n", "-NOMASTERLINK Can't SYNC while this archive serves no replicas\r\n"},
		{"a master's handshake, in one go", "PING\r\nREPLCONF listening-port 1\r\nREPLCONF capa eof capa psync2\r\nREPLCONF version 9.1.2\r\n", "+PONG\r\n+OK\r\n+OK\r\n+OK\r\n"},
		{"an ACK has no reply", "REPLCONF ACK 12\r\nPING\r\n", "+PONG\r\n"},
		{"manners", "AUTH a b\r\nSELECT 3\r\nCLIENT SETNAME x\r\nCLIENT ID\r\nCOMMAND\r\nCOMMAND COUNT\r\nCONFIG GET x\r\n", "+OK\r\n+OK\r\n+OK\r\n:0\r\n*0\r\n:0\r\n*0\r\n"},
		{"RESP3", "HELLO 3\r\n", "-NOPROTO unsupported protocol version\r\n"},
		{"a Sentinel that reconfigures", "MULTI\r\nSLAVEOF 10.0.0.6 6379\r\nCONFIG REWRITE\r\nCLIENT KILL TYPE normal\r\nEXEC\r\nPING\r\n",
			"+OK\r\n+QUEUED\r\n+QUEUED\r\n+QUEUED\r\n*3\r\n+OK\r\n+OK\r\n:0\r\n+PONG\r\n"},
		{"DISCARD", "MULTI\r\nPING\r\nDISCARD\r\nEXEC\r\n", "+OK\r\n+QUEUED\r\n+OK\r\n-ERR EXEC without MULTI\r\n"},
		{"no PSYNC in a MULTI", "MULTI\r\nPSYNC a 1 FAILOVER\r\nDISCARD\r\n", "+OK\r\n-ERR Command not allowed inside a transaction\r\n+OK\r\n"},
		{"subscribed", "SUBSCRIBE a b\r\nPING\r\nUNSUBSCRIBE\r\n", ""},
		{"data", "GET k\r\n", "-ERR unknown command 'GET': this is Offloader, an archive of its master. It serves no data here\r\n"},
		{"an ugly name", "*1\r\n$3\r\na\r\n\r\n", "-ERR unknown command 'A??': this is Offloader, an archive of its master. It serves no data here\r\n"},
		{"too few arguments", "PUBLISH x\r\n", "-ERR wrong number of arguments for 'publish' command\r\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := ask(t, l, c.sent)
			if c.name == "subscribed" {
				require.True(t, strings.HasPrefix(got, "*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n*3\r\n$9\r\nsubscribe\r\n$1\r\nb\r\n:2\r\n*2\r\n$4\r\npong\r\n$0\r\n\r\n*3\r\n$11\r\nunsubscribe\r\n"), got)
				return
			}
			require.Equal(t, c.want, got)
		})
	}
}

func TestInfoIsThatOfAReplicaThatIsNeverElected(t *testing.T) {
	l := running(t, Options{Describe: describe})
	for _, sections := range []string{"", " replication", " ALL", " default", " server replication"} {
		got := ask(t, l, "INFO"+sections+"\r\n")
		for _, line := range []string{"role:slave", "master_host:10.0.0.5", "master_port:6379", "master_link_status:up", "slave_repl_offset:4711",
			"slave_priority:0", "replica_announced:0", "master_replid:" + strings.Repeat("a", 40)} {
			require.Contains(t, got, "\r\n"+line+"\r\n", sections)
		}
		require.Equal(t, sections != " replication", strings.Contains(got, "run_id:"))
	}
	require.Equal(t, "$0\r\n\r\n", ask(t, l, "INFO keyspace\r\n"))
	down := running(t, Options{Describe: func() Info { return Info{DownSince: time.Now().Add(-time.Hour)} }})
	require.Contains(t, ask(t, down, "INFO\r\n"), "\r\nmaster_link_down_since_seconds:3600\r\n")
}

func TestPublishReachesThoseWhoSubscribed(t *testing.T) {
	l := running(t, Options{})
	var listeners []*bufio.Reader
	for range 3 {
		nc := dial(t, l)
		_, err := io.WriteString(nc, "SUBSCRIBE __sentinel__:hello\r\n")
		require.NoError(t, err)
		in := bufio.NewReader(nc)
		for range 6 {
			_, err := in.ReadString('\n')
			require.NoError(t, err)
		}
		listeners = append(listeners, in)
	}
	require.Equal(t, ":3\r\n", ask(t, l, "PUBLISH __sentinel__:hello me\r\n"))
	for _, in := range listeners {
		b := make([]byte, len("*3\r\n$7\r\nmessage\r\n$18\r\n__sentinel__:hello\r\n$2\r\nme\r\n"))
		_, err := io.ReadFull(in, b)
		require.NoError(t, err)
		require.Equal(t, "*3\r\n$7\r\nmessage\r\n$18\r\n__sentinel__:hello\r\n$2\r\nme\r\n", string(b))
	}
	require.Equal(t, ":0\r\n", ask(t, l, "PUBLISH elsewhere me\r\n"))
}

// Whoever talks nonsense is told so and left; nobody takes more than a little memory.
func TestNonsense(t *testing.T) {
	l := running(t, Options{})
	for name, sent := range map[string]string{
		"too many arguments":        "*1000000\r\n",
		"a length that is none":     "*x\r\n",
		"a huge argument":           "*1\r\n$1000000000\r\n",
		"a negative argument":       "*1\r\n$-1\r\n",
		"no argument":               "*1\r\nPING\r\n",
		"a line without end":        strings.Repeat("x", 100_000),
		"inline, too many words":    strings.Repeat("x ", 100) + "\r\n",
		"many arguments, too large": "*5\r\n" + strings.Repeat("$1000\r\n"+strings.Repeat("x", 1000)+"\r\n", 5),
	} {
		t.Run(name, func(t *testing.T) {
			got := ask(t, l, sent)
			require.Truef(t, strings.HasPrefix(got, "-ERR Protocol error") || got == "", "%q", got) // "": reset before it was read
			require.NotContains(t, got, "+PONG")
		})
	}
	require.Contains(t, ask(t, l, "MULTI\r\n"+strings.Repeat("PING\r\n", maxQueued+1)+"DISCARD\r\n"), "-ERR too many commands in a transaction")
	require.Equal(t, "+PONG\r\n", ask(t, l, "PING\r\n"), "others are not disturbed")
}

// Who comes finds a place, of so many: that of the one who has been silent for longest. Neither those who know the password nor
// those who don't drive the others out.
func TestNoMoreConnectionsThanThereIsRoomFor(t *testing.T) {
	t.Run("of those who need no password", func(t *testing.T) {
		l := running(t, Options{})
		var held []net.Conn
		for range maxConns {
			nc, _ := answered(t, l, "PING\r\n")
			held = append(held, nc)
		}
		hear(t, held[0], "PING\r\n", "+PONG\r\n")
		_, _ = answered(t, l, "PING\r\n")
		got, _ := io.ReadAll(held[1])
		require.Empty(t, got, "it had been silent for longest")
		hear(t, held[0], "PING\r\n", "+PONG\r\n")
		l.mu.Lock()
		defer l.mu.Unlock()
		require.LessOrEqual(t, len(l.peers), maxConns)
	})
	t.Run("of others", func(t *testing.T) {
		l := running(t, Options{Login: Login{Password: "sesame"}})
		come := func(n int, say string) (all []net.Conn) {
			for range n {
				nc, _ := answered(t, l, say)
				all = append(all, nc)
			}
			return all
		}
		stay := func(all []net.Conn) {
			for _, nc := range all {
				hear(t, nc, "AUTH guess\r\n", "-WRONGPASS invalid username-password pair or user is disabled.\r\n")
			}
		}
		few := come(maxConns/4, "AUTH sesame\r\n")
		come(2*maxConns, "PING\r\n")
		stay(few)
		come(2*maxConns, "AUTH sesame\r\n")
		few = come(maxConns/4, "PING\r\n")
		come(2*maxConns, "AUTH sesame\r\n")
		stay(few)
	})
}

func TestSilentPeersAreLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for sent, stays := range map[string]bool{"PING\r\n": false, "PI": false, "SUBSCRIBE a\r\n": true} {
			ours, theirs := net.Pipe()
			p := newPeer(&Listener{o: Options{Describe: describe}, book: newBook(), peers: map[*peer]struct{}{}}, ours)
			gone := make(chan struct{})
			go func() { defer close(gone); p.serve(t.Context()) }()
			go func() { _, _ = io.Copy(io.Discard, theirs) }()
			_, err := io.WriteString(theirs, sent)
			require.NoError(t, err)
			time.Sleep(idle + time.Second) // fake time
			synctest.Wait()
			left := false
			select {
			case <-gone:
				left = true
			default:
			}
			require.Equal(t, stays, !left, sent)
			_ = theirs.Close()
			<-gone
		}
	})
}

func FuzzCommands(f *testing.F) {
	f.Add([]byte("*2\r\n$4\r\nPING\r\n$2\r\nhi\r\nINFO x\r\n\n\nMULTI\r\nPSYNC a b c\r\nEXEC\r\n"))
	f.Add([]byte("*0\r\n*-1\r\n$\r\n"))
	f.Add([]byte("PUBLISH __sentinel__:hello 10.0.0.7,26379,id,3,m,10.0.0.5,6379,3\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		hello := func(h Hello) {
			if !h.Valid() {
				t.Fatalf("%+v was taken for a Sentinel's", h)
			}
		}
		l := &Listener{o: Options{Describe: describe, Hello: hello}, ln: nowhere{}, peers: map[*peer]struct{}{}}
		l.o.Logger = discard
		p := &peer{l: l, nc: nobody{}, in: bufio.NewReaderSize(strings.NewReader(string(b)), maxLine)}
		for !p.leaving {
			c, err := readCommand(p.in)
			if err != nil {
				return
			}
			if len(c) == 0 || len(c) > maxArgs {
				t.Fatalf("a command of %d words", len(c))
			}
			answer := string(p.handle(context.Background(), c))
			if answer != "" && (!strings.HasSuffix(answer, "\r\n") || !strings.ContainsAny(answer[:1], "+-:$*")) {
				t.Fatalf("%q is answered %q", c, answer)
			}
			if c.name() == "PSYNC" && !strings.HasPrefix(answer, "-") && !strings.HasPrefix(answer, "+QUEUED") {
				t.Fatalf("%q is answered %q", c, answer)
			}
		}
	})
}
