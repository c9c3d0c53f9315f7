package syncer

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
	"github.com/offloader/offloader/internal/resp"
	"github.com/offloader/offloader/internal/stream"
)

// still is a sink that stands at one offset.
func still(id stream.ReplID, at stream.Offset) *memory {
	m := newMemory()
	m.id, m.base, m.durable = id, at, at
	m.framer = resp.NewFramer(stream.Cursor{Offset: at})
	return m
}

// script is the master's side of a pipe: it answers each command with the next reply.
type script struct {
	t  *testing.T
	nc net.Conn
	in *bufio.Reader
}

// command reads one command as an array of bulk strings.
func (s script) command() string {
	var n, size int
	if _, err := fmt.Fscanf(s.in, "*%d\r\n", &n); err != nil {
		return ""
	}
	var words []string
	for range n {
		if _, err := fmt.Fscanf(s.in, "$%d\r\n", &size); err != nil {
			return ""
		}
		b := make([]byte, size+2)
		if _, err := io.ReadFull(s.in, b); err != nil {
			return ""
		}
		words = append(words, string(b[:size]))
	}
	return strings.Join(words, " ")
}

// answer expects a command that begins with want, and replies.
func (s script) answer(want, reply string) {
	if got := s.command(); got != want && !strings.HasPrefix(got, want+" ") || strings.HasPrefix(want, "REPLCONF") && got != want {
		s.t.Errorf("got %q, want %q", got, want)
	}
	if n := s.in.Buffered(); n != 0 {
		s.t.Errorf("pitfall 9: %d bytes were sent before the reply to %q", n, want)
	}
	s.say(reply)
}

func (s script) say(reply string) {
	if _, err := io.WriteString(s.nc, reply); err != nil {
		s.t.Errorf("%v", err)
	}
}

// greet answers up to PSYNC, whose reply is the last argument.
func (s script) greet(psync string) {
	s.answer("PING", "+PONG\r\n")
	s.answer("INFO server", "-NOPERM no\r\n")
	s.answer("INFO replication", "-NOPERM no\r\n")
	s.answer("CONFIG GET", "-NOPERM no\r\n")
	s.answer("CONFIG GET", "-NOPERM no\r\n")
	s.answer("REPLCONF capa eof capa psync2", "+OK\r\n") // pitfall 28: no other
	s.answer("REPLCONF version 9.1.0", "-ERR Unrecognized REPLCONF option: version\r\n")
	s.answer("PSYNC", psync)
}

// piped is a link whose dials end in a pipe, and the other end of the first of them.
func piped(t *testing.T, o Options, sink Sink) (*Link, script) {
	ours, masters := net.Pipe()
	l := New(o, sink)
	given := false
	l.dial = func(ctx context.Context, _ string) (net.Conn, error) {
		if !given {
			given = true
			return ours, nil
		}
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return l, script{t, masters, bufio.NewReader(masters)}
}

// A diskless master starts the stream at an ACK that comes after its child's end (redis,
// replication.c: repl_start_cmd_stream_on_ack). One early ACK, then silence: WAIT stays 0.
func TestPitfall4AQuietLinkAcknowledgesEverySecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // a fake clock: the ten seconds cost none
		l, master := piped(t, Options{}, still(idA, 4711))
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- l.Run(ctx) }()
		master.greet("+CONTINUE\r\n")

		start := time.Now()
		for n := range 10 {
			got, at := master.command(), time.Since(start)
			if want := time.Duration(n) * time.Second; got != "REPLCONF ACK 4711 FACK 4711" || at != want {
				t.Errorf("ACK %d: %q after %v, want 4711 after %v", n, got, at, want)
			}
		}
		cancel()
		if err := <-ended; err != context.Canceled {
			t.Errorf("Run ended with %v", err)
		}
	})
}

// Nothing of a new timeline is acknowledged before its snapshot is durable, and yet each second
// something is said: while the master saves, while the RDB arrives, while it is made durable.
func TestAckIsZeroUntilTheSnapshotIsDurable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := newMemory()
		sink.whole = func() { time.Sleep(3500 * time.Millisecond) } // fake time: an fsync that takes long
		l, master := piped(t, Options{}, sink)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- l.Run(ctx) }()
		master.greet("\n\n+FULLRESYNC " + string(idA) + " 1000\r\n")

		mark := strings.Repeat("m", markLen)
		rdb := tinyRDB(t)
		go func() {
			for _, part := range []string{"\n", "\n", "$EOF:" + mark + "\r\n", rdb[:5], rdb[5:], mark} {
				time.Sleep(1500 * time.Millisecond)
				master.say(part)
			}
		}()
		zeros, begun := 0, time.Now()
		for {
			got := master.command()
			if got == "REPLCONF ACK 1000 FACK 1000" {
				break
			}
			require.Equal(t, "REPLCONF ACK 0 FACK 0", got)
			zeros++
		}
		took := time.Since(begun)
		require.Equal(t, 6*1500*time.Millisecond+3500*time.Millisecond, took)
		require.GreaterOrEqual(t, zeros, int(took/time.Second))
		cancel()
		<-ended
	})
}

// Pitfall 6: a master believes an ACK that is too high, and never takes it back.
func TestPitfall6NothingBeyondWhatWasReceivedIsAcknowledged(t *testing.T) {
	master := enginetest.Start(t, enginetest.Any(t))
	sink := newMemory()
	sink.beyond = 1
	l, _ := up(t, Options{Address: master.Addr()}, sink)
	s := refusedWith(t, l, KindLocal)
	require.Contains(t, s.LastError, "refuse to acknowledge offset")
	require.Zero(t, s.Acked)
}

func TestWaitCountsWhatIsDurable(t *testing.T) {
	enginetest.Each(t, func(t *testing.T, kind enginetest.Kind) {
		master := enginetest.Start(t, kind)
		sink := newMemory()
		acks := make(chan stream.Offset, 1<<16)
		_, stop := up(t, Options{Address: master.Addr(), Acked: func(at stream.Offset) { acks <- at }}, sink)
		caught(t, master, sink)
		// One connection, since WAIT is about its own writes.
		conn := master.Client().Conn()
		defer func() { _ = conn.Close() }()
		do := func(args ...any) int64 {
			n, err := conn.Do(t.Context(), args...).Int64()
			require.NoError(t, err)
			return n
		}
		eventually(t, "it is counted", func() bool { do("INCR", "n"); return do("WAIT", 1, 1000) == 1 })

		begun := time.Now()
		for range 200 {
			do("INCR", "n")
			require.Equal(t, int64(1), do("WAIT", 1, 5000))
			if kind.HasWaitAOF() {
				do("INCR", "n")
				reply, err := conn.Do(t.Context(), "WAITAOF", 0, 1, 5000).Slice()
				require.NoError(t, err)
				require.Equal(t, int64(1), reply[1])
			}
		}
		require.Less(t, time.Since(begun), 10*time.Second, "GETACK and commits are answered at once, not by the second")

		sink.hold(true)
		do("INCR", "n")
		require.Zero(t, do("WAIT", 1, 1500), "an ACK means durable, whatever the second brings")
		sink.hold(false)
		require.Equal(t, int64(1), do("WAIT", 1, 5000))
		require.Contains(t, master.Info("replication")["slave0"], "state=online")

		stop()
		close(acks)
		last := stream.Offset(0)
		for at := range acks {
			require.GreaterOrEqual(t, at, last)
			last = at
		}
	})
}

func TestAckLineAllocatesNothing(t *testing.T) {
	b := make([]byte, 0, 128)
	require.Zero(t, testing.AllocsPerRun(100, func() { b = ackLine(b[:0], 1<<62) }))
	require.Equal(t, "*5\r\n$8\r\nREPLCONF\r\n$3\r\nACK\r\n$3\r\n123\r\n$4\r\nFACK\r\n$3\r\n123\r\n", string(ackLine(nil, 123)))
}
