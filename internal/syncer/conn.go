package syncer

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/offloader/offloader/internal/stream"
)

const (
	// smallBuffer is for lines. Reads that are larger go past it.
	smallBuffer = 16 << 10
	// maxLine is more than any line of a handshake has.
	maxLine = 8 << 10
	// maxReply bounds INFO and CONFIG GET, which come in some KiB.
	maxReply = 1 << 20
)

// conn is one connection to the master.
type conn struct {
	l      *Link
	nc     net.Conn
	in     *bufio.Reader // small: large reads go past it
	wire   *wire
	master Master

	full    *WaitError // why no stream can be taken, nil where it can
	unready error      // what PING was answered with, where INFO may tell more

	// What Down is told, and whether.
	attached atomic.Bool   // Continued or FullSync has returned: Durable speaks of this connection
	began    time.Time     // of the stream, zero before
	plain    bool          // plain SYNC: nothing may be acknowledged but 0
	mute     bool          // no ACK at all: the master doesn't know REPLCONF
	hush     atomic.Bool   // newlines in place of ACKs, see transfer.go
	loaded   chan struct{} // the RDB has come to its end; capacity 1
	got      atomic.Int64
}

// wire reads with a limit on silence.
type wire struct {
	nc       net.Conn
	patience time.Duration
	doubted  atomic.Bool // then it is inDoubt at most
}

func (w *wire) Read(p []byte) (int, error) {
	patience := w.patience
	if w.doubted.Load() {
		patience = min(patience, inDoubt)
	}
	if err := w.nc.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return 0, err
	}
	return w.nc.Read(p)
}

// doubt may come from anywhere. A read that has just looked may miss it: whoever doubts does so again.
func (w *wire) doubt() {
	w.doubted.Store(true)
	_ = w.nc.SetReadDeadline(time.Now().Add(inDoubt)) // of the read that waits; it fails where there is no connection any more
}

func newConn(l *Link, nc net.Conn) *conn {
	w := &wire{nc: nc, patience: l.o.ReplyTimeout}
	return &conn{l: l, nc: nc, wire: w, in: bufio.NewReaderSize(w, smallBuffer), master: Master{Addr: l.o.Address, OutputLimit: -1}, loaded: make(chan struct{}, 1)}
}

// run lives as long as the connection. Its goroutines have ended when it returns, and the Sink
// knows of it.
func (c *conn) run(ctx context.Context) error {
	g, alive := errgroup.WithContext(ctx) // alive ends with the first of them
	g.Go(func() error {
		<-alive.Done()
		return ignoreClosed(c.nc.Close()) // wakes a blocked read or write
	})
	g.Go(func() error {
		return c.talk(alive, func() { // an error always
			if !c.mute {
				g.Go(func() error { return c.acknowledge(alive) })
			}
		})
	})
	err := g.Wait()
	now := time.Now()
	if ctx.Err() != nil {
		err = context.Cause(ctx) // told to stop: what broke while stopping is no news
	}
	if !c.began.IsZero() && now.Sub(c.began) >= steady {
		c.l.tries = 0
	}
	c.l.change(func(s *Status) { s.Connected, s.Remote, c.l.conn = time.Time{}, "", nil })
	if c.attached.Load() {
		c.l.sink.Down(err)
	}
	return err
}

// talk is the conversation from AUTH to the end of the stream. attach starts the ACKs: it is
// called when the master has taken us for a replica.
func (c *conn) talk(ctx context.Context, attach func()) error {
	c.l.phase(Handshake, "", time.Time{})
	c.l.change(func(s *Status) {
		s.Connected, s.Remote, s.PlainSync, c.l.conn = time.Now(), c.nc.RemoteAddr().String(), false, c
	})
	if err := c.greet(); err != nil {
		return err
	}
	if err := c.rebirth(ctx); err != nil {
		return err
	}
	if c.full != nil {
		return c.full
	}
	if err := c.introduce(); err != nil {
		return err
	}
	c.l.change(func(s *Status) { s.Master, s.Rebirth = c.master, "" })
	r, err := c.l.sink.Resume(c.master)
	if err != nil {
		return err
	}
	v := c.master.Judge(r)
	if why, do := c.l.cut.explain(c.master); why != "" && do != "" && v.Do == "" && (v.Full || !v.Known) {
		if v.Why != "" {
			why = v.Why + "; " + why
		}
		v.Why, v.Do = why, do
	}
	if v.Full || c.l.expectFull {
		if v.Why == "" {
			v.Why = "the master didn't continue the last time, which INFO didn't foretell"
		}
		if err := c.l.allowFull(v, r.Ordered, time.Now()); err != nil {
			return err
		}
		if err := c.l.turn.must(); err != nil {
			return err
		}
	}
	answer, err := c.psync(r)
	if err != nil {
		return err
	}
	switch {
	case answer.unknown:
		return c.plainSync(attach)
	case answer.full:
		return c.fullSync(r, v, answer, attach)
	}
	return c.goOn(r, answer, attach)
}

// goOn is the life after +CONTINUE.
func (c *conn) goOn(r Resume, a answer, attach func()) error {
	id := a.id
	if id == "" {
		id = r.ID
	}
	c.received(r.Offset)
	if err := c.l.sink.Continued(c.master, r, id); err != nil {
		return fmt.Errorf("go on at offset %d: %w", r.Offset, err)
	}
	c.attached.Store(true)
	c.l.turn.end()
	c.l.expectFull, c.l.cut, c.l.said, c.l.reborn = false, cut{}, "", ""
	c.l.change(func(s *Status) {
		s.PartialResyncs++
		if c.master.Reborn {
			s.Rebirths++
		}
	})
	c.l.log.Info("link is up: the master continues", "master", c.master.Addr, "offset", int64(r.Offset), "replid", string(id),
		"new_id", id != r.ID, "role", c.master.Role)
	attach()
	return c.receive()
}

// received sets the offset of the last byte received, where a stream begins.
func (c *conn) received(at stream.Offset) {
	c.got.Store(int64(at))
	c.l.live.received.Store(int64(at))
}

// send writes one command as an array of bulk strings.
func (c *conn) send(stage string, args ...string) error {
	b := fmt.Appendf(nil, "*%d\r\n", len(args))
	for _, a := range args {
		b = fmt.Appendf(b, "$%d\r\n%s\r\n", len(a), a)
	}
	if err := c.write(b); err != nil {
		// A master that has no place for us says so, closes, and may be gone before we write.
		if _, told := c.in.Peek(1); told == nil {
			return nil // the reply tells
		} else if isAlert(told) {
			err = told
		}
		return lost(c.master.Addr, stage, err)
	}
	return nil
}

func (c *conn) write(b []byte) error {
	if err := c.nc.SetWriteDeadline(time.Now().Add(c.l.o.WriteTimeout)); err != nil {
		return err
	}
	_, err := c.nc.Write(b)
	return err
}

// reply is what a master answered: text of a line or bulk, or the elements of an array of them.
type reply struct {
	isError bool // text is without the '-'
	text    string
	array   []string
}

// ask sends one command and waits for its reply. An error reply is no error here. Never is a
// second command sent before: a master refuses PSYNC with replies pending (pitfall 9).
func (c *conn) ask(stage string, args ...string) (reply, error) {
	if err := c.send(stage, args...); err != nil {
		return reply{}, err
	}
	return c.readReply(stage)
}

// readReply reads a reply as RESP2 has them, no deeper than an array of strings and numbers.
func (c *conn) readReply(stage string) (r reply, err error) {
	line, err := c.readLine(stage)
	if err != nil {
		return r, err
	}
	if len(line) == 0 {
		return r, foreign(c.master.Addr, stage, line)
	}
	switch rest := string(line[1:]); line[0] {
	case '+', ':':
		return reply{text: rest}, nil
	case '-':
		return reply{isError: true, text: rest}, nil
	case '$':
		r.text, err = c.readBulk(stage, rest)
		return r, err
	case '*':
		n, err := strconv.Atoi(rest)
		if err != nil || n > 1024 {
			return r, foreign(c.master.Addr, stage, line)
		}
		for range n {
			line, err := c.readLine(stage)
			if err != nil {
				return r, err
			}
			if len(line) > 0 && line[0] == ':' {
				r.array = append(r.array, string(line[1:]))
				continue
			}
			if len(line) == 0 || line[0] != '$' {
				return r, foreign(c.master.Addr, stage, line)
			}
			text, err := c.readBulk(stage, string(line[1:]))
			if err != nil {
				return r, err
			}
			r.array = append(r.array, text)
		}
		return r, nil
	}
	return r, foreign(c.master.Addr, stage, line)
}

// readBulk reads the body of a bulk string whose length is size; a null is empty.
func (c *conn) readBulk(stage, size string) (string, error) {
	n, err := strconv.Atoi(size)
	if err != nil || n < -1 || n > maxReply {
		return "", foreign(c.master.Addr, stage, []byte("$"+size))
	}
	if n < 0 {
		return "", nil
	}
	b := make([]byte, n+2)
	if _, err := io.ReadFull(c.in, b); err != nil {
		return "", lost(c.master.Addr, stage, err)
	}
	return string(b[:n]), nil
}

// readLine reads a line without its end. It is valid until the next read.
func (c *conn) readLine(stage string) ([]byte, error) {
	line, err := c.in.ReadSlice('\n')
	switch {
	case err == nil && len(line) <= maxLine:
		return bytes.TrimRight(line, "\r\n"), nil
	case len(line) > maxLine:
		return nil, foreign(c.master.Addr, stage, line)
	case len(line) > 0 && bytes.IndexByte([]byte("+-:$*"), line[0]) < 0:
		return nil, foreign(c.master.Addr, stage, line) // it says more with these bytes than with its EOF
	}
	return nil, lost(c.master.Addr, stage, err)
}

// readAfterKeepalives reads a line behind the newlines that a master sends once a second while
// it waits for the fork: before +FULLRESYNC and before the RDB's header (pitfall 10).
func (c *conn) readAfterKeepalives(stage string) ([]byte, error) {
	for {
		b, err := c.in.ReadByte()
		if err != nil {
			return nil, lost(c.master.Addr, stage, err)
		}
		if b == '\n' {
			continue
		}
		if err := c.in.UnreadByte(); err != nil {
			return nil, err
		}
		return c.readLine(stage)
	}
}
