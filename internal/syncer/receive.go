package syncer

import (
	"bytes"
	"fmt"
	"time"
)

// A read brings what has come since the last: little on a quiet link, so that it is durable
// soon; as much as fits under load, where a larger buffer is fewer calls and fewer fsyncs.
const (
	firstBuffer   = 32 << 10
	largestBuffer = 1 << 20
)

// receive hands stream bytes to the Sink until the connection ends, and that to its last byte.
func (c *conn) receive() error {
	c.began = time.Now()
	c.l.phase(Streaming, "", time.Time{})
	c.wire.patience = c.readTimeout()
	buf := make([]byte, firstBuffer)
	var load load
	for {
		n, err := c.in.Read(buf)
		if n > 0 {
			now := time.Now()
			// First, since the Sink may call them durable before Receive returns.
			c.l.live.received.Store(c.got.Add(int64(n)))
			c.l.live.receivedAt.Store(now.UnixNano())
			if err := c.l.sink.Receive(buf[:n], now); err != nil {
				return fmt.Errorf("take in the stream at offset %d: %w", c.got.Load()-int64(n), err)
			}
			if n == len(buf) && n < largestBuffer {
				buf = make([]byte, 2*n)
			}
			if heavy := load.heavy(buf[:n], now); heavy && n < len(buf) { // a full buffer says that there is more
				time.Sleep(c.l.breath())
			}
		}
		if err != nil {
			return lost(c.master.Addr, stageStream, err)
		}
	}
}

// A busy master writes some KB to each replica many thousand times a second. Taken one by one, each
// costs a wake-up, a read, a write to the spool, an fsync and an ACK, most of all that we cost, and
// the master an ACK to read. So under load the link takes a breath, in which more comes together. It
// never does while somebody waits: WAIT makes a GETACK. And it takes a short one where replicas of ours get
// what has come, which they shall not have much later than they would from the master.
const (
	breath     = 10 * time.Millisecond
	short      = time.Millisecond
	loadWindow = 10 * time.Millisecond
	heavyLoad  = 10 << 10    // bytes in a window, 1 MB/s: from there on, clients notice what we cost
	asksFor    = time.Second // after a GETACK others are likely
)

// breath is how long one is now.
func (l *Link) breath() time.Duration {
	if l.o.Followed != nil && l.o.Followed() {
		return short
	}
	return breath
}

// load knows how much came lately, and whether somebody waits for acknowledgements.
type load struct {
	began time.Time // of the window
	bytes int
	high  bool // in the window before
	asked time.Time
}

// heavy takes note of bytes that came now, and tells whether a breath is in order. A value that
// holds the word GETACK does no harm.
func (l *load) heavy(p []byte, now time.Time) bool {
	if bytes.Contains(p, []byte("GETACK")) {
		l.asked = now
	}
	l.bytes += len(p)
	if past := now.Sub(l.began); past >= loadWindow {
		// By rate: where processors are scarce, a window lasts longer than it should.
		l.high = float64(l.bytes)*float64(loadWindow) >= heavyLoad*float64(past)
		l.began, l.bytes = now, 0
	}
	return l.high && now.Sub(l.asked) >= asksFor
}
