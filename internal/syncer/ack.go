package syncer

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/offloader/offloader/internal/stream"
)

// An AckError says that the Sink calls durable what can't be. It is a mistake in this program,
// and never sent: a master believes an ACK that is too high, and takes none back (pitfall 6).
type AckError struct {
	Durable, Acked, Received stream.Offset
}

func (e *AckError) Error() string {
	return fmt.Sprintf("refuse to acknowledge offset %d: %d was acknowledged before, %d was received", e.Durable, e.Acked, e.Received)
}

// acknowledge sends an ACK at once, then every second, and whenever more has become durable.
//
// A diskless master starts the stream at an ACK that comes after its child's end, and only then
// (redis, replication.c: repl_start_cmd_stream_on_ack), hence the steady beat, also while the RDB
// arrives and is made durable (pitfall 4), and quicker right after it. GETACK needs no answer of its own: it is part of the
// stream, so its commit is, and says that everything before it is durable as well.
//
// One ACK is on its way at a time; commits meanwhile join in the next.
func (c *conn) acknowledge(ctx context.Context) error {
	tick := time.NewTicker(ackEvery)
	defer tick.Stop()
	acked := stream.Offset(-1)
	line := make([]byte, 0, 128)
	for due, quick := true, 0; ; {
		at, err := c.durable(acked)
		if err != nil {
			return err
		}
		if due || at > acked {
			if c.hush.Load() {
				line = append(line[:0], '\n')
			} else {
				line = ackLine(line[:0], at)
			}
			if err := c.write(line); err != nil {
				if isTimeout(err) {
					return lost(c.master.Addr, "ACK", err)
				}
				// The master is gone. What it sent before is still to be read: the reader meets its
				// end, and ends the connection (pitfall 20).
				return nil
			}
			if !c.hush.Load() {
				acked = at
				c.l.live.acked.Store(int64(at))
				if c.l.o.Acked != nil {
					c.l.o.Acked(at)
				}
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			due = true
			if quick--; quick == 0 {
				tick.Reset(ackEvery)
			}
		case <-c.loaded:
			due, quick = true, quickAcks
			tick.Reset(ackQuickly)
		case <-c.l.sink.Committed():
			due = false
		}
	}
}

// durable is what may be acknowledged after acked.
func (c *conn) durable(acked stream.Offset) (stream.Offset, error) {
	if c.plain || !c.attached.Load() {
		return 0, nil // what the Sink holds is of another history
	}
	at := c.l.sink.Durable()
	if got := stream.Offset(c.got.Load()); at < acked || at > got { // got is read last: it only rises
		return 0, &AckError{Durable: at, Acked: acked, Received: got}
	}
	return at, nil
}

// ackLine appends REPLCONF ACK at FACK at. FACK is what WAITAOF counts; redis 7.0, which doesn't
// know it, passes over it.
func ackLine(b []byte, at stream.Offset) []byte {
	var digits [20]byte
	n := strconv.AppendInt(digits[:0], int64(at), 10)
	b = append(b, "*5\r\n$8\r\nREPLCONF\r\n$3\r\nACK\r\n$"...)
	b = bulk(b, n)
	b = append(b, "$4\r\nFACK\r\n$"...)
	return bulk(b, n)
}

func bulk(b, n []byte) []byte {
	b = strconv.AppendInt(b, int64(len(n)), 10)
	b = append(b, "\r\n"...)
	b = append(b, n...)
	return append(b, "\r\n"...)
}
