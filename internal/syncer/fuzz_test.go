package syncer

import (
	"bytes"
	"context"
	"net"
	"strings"
	"testing"
	"time"
)

// canned is a connection to a master that says what it says, whatever it is asked.
type canned struct {
	net.Conn
	says *bytes.Reader
}

func (c canned) Read(p []byte) (int, error)       { return c.says.Read(p) }
func (c canned) Write(p []byte) (int, error)      { return len(p), nil }
func (c canned) Close() error                     { return nil }
func (c canned) LocalAddr() net.Addr              { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)} }
func (c canned) RemoteAddr() net.Addr             { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)} }
func (c canned) SetReadDeadline(time.Time) error  { return nil }
func (c canned) SetWriteDeadline(time.Time) error { return nil }

// Whatever a peer says, the connection ends in an error, and what is acknowledged is stream that
// was received behind an RDB that is sound.
func FuzzMaster(f *testing.F) {
	greeting := "+PONG\r\n-NOPERM x\r\n$21\r\nrole:slave\r\nx:1\r\ny:2\r\n\r\n*2\r\n$1\r\na\r\n$2\r\n60\r\n-ERR x\r\n+OK\r\n+OK\r\n"
	mark := strings.Repeat("m", markLen)
	rdb := seal("REDIS0010\xfe\x00\x00\x01k\x01v\xff")
	for _, rest := range []string{
		"\n\n+FULLRESYNC " + string(idA) + " 1000\r\n\n$EOF:" + mark + "\r\n" + rdb + mark + set1,
		"+FULLRESYNC " + string(idA) + " 1000\r\n$27\r\n" + rdb + set1,
		"+CONTINUE " + string(idB) + "\r\n" + set1, "+CONTINUE\r\n" + set1[:20],
		"-ERR unknown command 'PSYNC'\r\n$27\r\n" + rdb + set1, "-NOMASTERLINK x\r\n", "-LOADING x\r\n",
	} {
		f.Add([]byte(greeting+rest), false)
		f.Add([]byte(greeting+rest), true)
	}
	f.Fuzz(func(t *testing.T, says []byte, holds bool) {
		sink := newMemory()
		if holds {
			sink = still(idA, 500)
		}
		l := New(Options{Address: "fuzz:1"}, sink)
		l.dial = func(context.Context, string) (net.Conn, error) { return canned{says: bytes.NewReader(says)}, nil }
		err := l.attempt(t.Context())
		if err == nil || err.Error() == "" {
			t.Fatal("it ended without an error")
		}
		if len(err.Error()) > 1000 {
			t.Fatalf("an error of %d bytes", len(err.Error()))
		}
		if s := l.Status(); s.Acked > sink.Durable() || sink.wholes+len(sink.discarded) > 1 {
			t.Fatalf("acknowledged %d of %d, %d RDBs, %d discarded", s.Acked, sink.Durable(), sink.wholes, len(sink.discarded))
		}
	})
}
