package syncer

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/offloader/offloader/internal/rdbwalk"
	"github.com/offloader/offloader/internal/stream"
)

const (
	// markLen is that of the mark behind a diskless RDB (redis, server.h: CONFIG_RUN_ID_SIZE).
	markLen = 40
	// rdbBuffer is a read of the RDB.
	rdbBuffer = 256 << 10
	// inDoubt is how long a master has to say more where an RDB of unknown structure may have
	// ended (it is silent then until we acknowledge, which we don't), and where it seems to be gone.
	inDoubt = time.Second
	// soonAfter is how long after an RDB an end of the connection is put down to the transfer: the
	// output buffer that overflowed while it lasted is only then written to us.
	soonAfter = 5 * time.Second
)

// fullSync is the life after +FULLRESYNC.
func (c *conn) fullSync(r Resume, v Verdict, a answer, attach func()) error {
	c.l.turn.begin() // one that was not foreseen counts too, where there is room
	c.l.spend(time.Now())
	switch {
	case v.Known && v.Why == "":
		v.Why = "not known: by what INFO says it could have continued"
	case v.Why == "":
		v.Why = "not known: INFO, which could tell, is not permitted"
	}
	args := []any{"master", c.master.Addr, "offset", int64(a.at), "replid", string(a.id), "why", v.Why}
	c.l.expectFull = r.ID != "" && !v.Full // until one continues: this may be a loop
	if r.ID != "" {
		if v.Do != "" {
			args = append(args, "hint", v.Do)
		}
		c.l.log.Warn("the master can't continue what is held: a full resync begins", args...)
	} else {
		c.l.log.Info("a full resync begins", args...)
	}
	return c.transfer(a.id, a.at, attach)
}

// plainSync is for masters that don't know PSYNC. They tell neither id nor offset.
func (c *conn) plainSync(attach func()) error {
	const why = "the master doesn't know PSYNC, so each connection begins with a full resync"
	c.l.change(func(s *Status) { s.PlainSync = true })
	if err := c.l.allowFull(Verdict{Full: true, Why: why}, false, time.Now()); err != nil {
		return err
	}
	if err := c.l.turn.must(); err != nil {
		return err
	}
	var id [20]byte
	_, _ = rand.Read(id[:]) // never fails (Go 1.24)
	c.plain = true
	c.l.spend(time.Now())
	c.l.log.Warn("plain SYNC: "+why+". Offsets count from 0 under an id of our own, WAIT doesn't count us, nothing can be resumed",
		"master", c.master.Addr, "hint", "let the source's user run PSYNC; a master renames or lacks it")
	if err := c.send(stageSync, "SYNC"); err != nil {
		return err
	}
	return c.transfer(stream.ReplID(hex.EncodeToString(id[:])), 0, attach)
}

// transfer takes in the RDB, then the stream from the offset at.
func (c *conn) transfer(id stream.ReplID, at stream.Offset, attach func()) error {
	c.l.phase(Saving, "", time.Time{})
	c.l.cut = cut{at: at, id: id}
	attach()
	if c.l.syncFailed = c.takeRDB(id, at); c.l.syncFailed != nil {
		return c.l.syncFailed
	}
	c.l.turn.end()
	c.l.reborn = ""
	err := c.receive()
	// From now on it is a matter of the backlog whether the master can continue.
	c.l.cut.sawTheEnd = true
	c.l.cut.happened = KindOf(err) == KindClosed && time.Since(c.began) < soonAfter
	return err
}

// takeRDB takes in the RDB. When it returns nil, a timeline has begun.
func (c *conn) takeRDB(id stream.ReplID, at stream.Offset) error {
	size, mark, err := c.header()
	if err != nil {
		c.l.cut.happened = KindOf(err) == KindSave
		return err
	}
	c.received(at)
	in, err := c.l.sink.FullSync(c.master, id, at, size)
	if err != nil {
		return fmt.Errorf("take in an RDB at offset %d: %w", at, err)
	}
	c.attached.Store(true)
	if err := c.rdb(in, size, mark); err != nil {
		c.l.cut.happened = KindOf(err) == KindClosed
		in.Discard(err)
		return err
	}
	return nil
}

// header reads what stands before the RDB: "$<length>", or "$EOF:<mark>" where the master sends
// it as it is made. size is -1 then.
func (c *conn) header() (size int64, mark []byte, err error) {
	line, err := c.readAfterKeepalives(stageRDB)
	if err != nil {
		if KindOf(err) == KindClosed {
			return 0, nil, noRDB(c.master.Addr)
		}
		return 0, nil, err
	}
	rest, isMark := bytes.CutPrefix(line, []byte("$EOF:"))
	switch {
	case len(line) > 0 && line[0] == '-':
		return 0, nil, c.refused(stageRDB, string(line[1:]))
	case isMark && len(rest) == markLen:
		return -1, bytes.Clone(rest), nil
	case !isMark && len(line) > 1 && line[0] == '$':
		if size, err := strconv.ParseInt(string(line[1:]), 10, 64); err == nil && size > 0 {
			return size, nil, nil
		}
	}
	return 0, nil, foreign(c.master.Addr, stageRDB, line)
}

// rdb hands over the RDB, and walks it as it passes. When it returns nil, in has it whole.
func (c *conn) rdb(in Incoming, size int64, mark []byte) error {
	began := time.Now()
	c.l.live.rdb.Store(0)
	c.l.phase(Receiving, "", time.Time{})
	c.l.change(func(s *Status) { s.Transfer = Transfer{Began: began, Total: size} })
	defer c.l.change(func(s *Status) { s.Transfer.Ended = time.Now() })

	from := io.Reader(c.in)
	if size >= 0 {
		from = io.LimitReader(from, size)
	}
	t := &tap{from: from, to: in, keep: len(mark), live: &c.l.live, buf: make([]byte, rdbBuffer+markLen)}
	w := rdbwalk.NewWalker(t)
	for w.Next() {
		continue // passing through is all that is wanted
	}
	// Where the structure isn't known, silence is what tells the end: an ACK could make the stream
	// begin behind the mark before we have seen it.
	c.hush.Store(w.Err() != nil && mark != nil)
	err := w.Finish(mark, func(may bool) {
		c.wire.patience = c.readTimeout()
		if may {
			c.wire.patience = min(inDoubt, c.wire.patience)
		}
	})
	if err != nil {
		return c.broken(t, err)
	}
	c.hush.Store(false)
	rest, err := t.end(w.Summary().Length)
	if err != nil {
		return fmt.Errorf("take in the RDB: %w", err)
	}
	c.loaded <- struct{}{}
	if err := in.Whole(*w.Summary()); err != nil {
		return fmt.Errorf("make the RDB durable: %w", err)
	}
	if len(rest) > 0 { // the stream's first bytes came along with the mark
		c.in = bufio.NewReaderSize(io.MultiReader(bytes.NewReader(rest), c.in), smallBuffer)
	}
	c.l.said = ""
	c.l.log.Info("the RDB is whole", "master", c.master.Addr, "bytes", w.Summary().Length, "keys", w.Summary().Keys,
		"took", time.Since(began).Round(time.Millisecond), "unchecked", w.Summary().Unchecked)
	return nil
}

// broken says why an RDB didn't become whole.
func (c *conn) broken(t *tap, err error) error {
	if t.failed != nil {
		return fmt.Errorf("take in the RDB: %w", t.failed)
	}
	return unsound(c.master.Addr, err)
}

// tap is where the RDB passes: what the walker reads goes to the Incoming as well, but one read
// later. The walker reads on only where the RDB goes on, so what it got before is RDB; what it got
// last may have the mark in it, and the stream behind.
type tap struct {
	from io.Reader
	to   io.Writer
	keep int // bytes at the end that may be the mark
	live *live

	buf    []byte
	n      int   // bytes in buf, not handed over
	out    int64 // bytes handed over
	failed error // of to
}

func (t *tap) Read(p []byte) (int, error) {
	if err := t.pass(t.n - t.keep); err != nil {
		return 0, err
	}
	n, err := t.from.Read(t.buf[t.n : t.n+min(len(p), len(t.buf)-t.n)])
	copy(p, t.buf[t.n:t.n+n])
	t.n += n
	t.live.rdb.Add(int64(n))
	return n, err
}

// pass hands over the first n bytes.
func (t *tap) pass(n int) error {
	if n <= 0 || t.failed != nil {
		return t.failed
	}
	if _, t.failed = t.to.Write(t.buf[:n]); t.failed != nil {
		return t.failed
	}
	t.out += int64(n)
	t.n = copy(t.buf, t.buf[n:t.n])
	return nil
}

// end hands over the rest of an RDB of that length, and returns what came behind it and the mark.
func (t *tap) end(length int64) ([]byte, error) {
	n := length - t.out
	if n < 0 || n+int64(t.keep) > int64(t.n) {
		return nil, fmt.Errorf("an RDB of %d bytes ends outside of the %d to %d at hand", length, t.out, t.out+int64(t.n))
	}
	if err := t.pass(int(n)); err != nil {
		return nil, err
	}
	return t.buf[t.keep:t.n], nil
}
