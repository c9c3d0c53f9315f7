package relay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/offloader/offloader/internal/stream"
)

const (
	// patience is how long a replica may neither take nor say anything. Engines give their own as long
	// (repl-timeout) and say something each second, also while they load.
	patience = time.Minute
	// opening is how long the archive may take until a replica has an answer: a segment that a slow store
	// gives is read to its end before.
	opening = 10 * time.Minute
)

// asReplica is what a peer has told of itself with REPLCONF.
type asReplica struct {
	port    string // "": it doesn't listen, so it is a tool that wants the data for itself
	ip      string
	version string
	rdbOnly bool // it wants an RDB and nothing behind it
	own     bool // we have found that it is the source's own engine
	old     bool // it has said SYNC: it is told no id, and acknowledges nothing
}

// loads tells whether the peer is a server, which loads what it gets.
func (r asReplica) loads() bool { return r.port != "" && !r.rdbOnly }

// replconf takes what a replica tells of itself. What would change what it gets is refused: we send an
// RDB and the stream, on one connection.
func (p *peer) replconf(c command) []byte {
	if len(c)%2 == 0 {
		return reply("-ERR syntax error")
	}
	for i := 1; i+1 < len(c); i += 2 {
		switch c.arg(i) {
		case "ACK", "GETACK":
			return nil // never replied to
		case "LISTENING-PORT":
			if n, err := strconv.ParseUint(c[i+1], 10, 16); err == nil {
				p.replica.port = strconv.FormatUint(n, 10)
			}
		case "IP-ADDRESS":
			if len(c[i+1]) < 46 { // as in the engines: replication.c, replconfCommand
				p.replica.ip = printable(c[i+1 : i+2])
			}
		case "VERSION":
			p.replica.version = printable(c[i+1 : i+2])
		case "RDB-ONLY":
			p.replica.rdbOnly = c[i+1] == "1"
		case "CAPA":
		default:
			if p.l.o.Archive != nil {
				return reply("-ERR Unrecognized REPLCONF option: " + printable(c[i:i+1]))
			}
		}
	}
	return reply("+OK")
}

// listensAt is where the replica can be reached, as far as it has told.
func (p *peer) listensAt() string {
	host, _, err := net.SplitHostPort(p.nc.RemoteAddr().String())
	if err != nil {
		host = p.nc.RemoteAddr().String()
	}
	if p.replica.ip != "" {
		host = p.replica.ip
	}
	if p.replica.port == "" {
		return net.JoinHostPort(host, "0")
	}
	return net.JoinHostPort(host, p.replica.port)
}

// replicate answers a PSYNC or a SYNC, and serves the replica until one of the two leaves. What it returns
// is a reply to be given in place of that, nil where all was said.
func (p *peer) replicate(ctx context.Context, c command) []byte {
	p.replica.old = c.name() == "SYNC"
	at := int64(-1)
	if !p.replica.old {
		var err error
		if at, err = strconv.ParseInt(c[2], 10, 64); err != nil {
			return reply("-ERR value is not an integer or out of range")
		}
	}
	address, book := p.listensAt(), p.l.book
	// What is opened with it is read to the connection's end.
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if err := p.awaited(ctx, cancel, func() error {
		p.replica.own = p.l.o.Own(ctx, address)
		return nil
	}); err != nil {
		return p.putOff(address, err)
	}
	var later *LaterError
	if p.came, later = book.attach(address, p.replica.version, p.replica.own, time.Now()); later != nil {
		return p.putOff(address, later)
	}
	p.attached.Store(true)
	defer func() {
		p.attached.Store(false)
		book.leave(address, time.Now())
	}()
	p.l.o.Heard(address, p.replica.own, -1)
	if no := p.unfed(ctx, cancel, address); no != nil {
		return no
	}
	if at <= 0 || p.replica.rdbOnly {
		return p.fullSync(ctx, cancel, address)
	}
	id, err := stream.ParseReplID(c[1])
	if err != nil {
		return p.fullSync(ctx, cancel, address)
	}
	var s Stream
	err = p.awaited(ctx, cancel, func() (err error) {
		s, err = p.l.o.Archive.Continue(ctx, id, stream.Offset(at-1))
		return err
	})
	switch {
	case errors.Is(err, ErrFork):
		return p.fullSync(ctx, cancel, address)
	case err != nil:
		return p.putOff(address, err)
	}
	p.leaving = true
	p.l.o.Logger.Info("a replica goes on where it was", "replica", address, "offset", at-1, "replid", s.ReplID())
	if p.say(reply("+CONTINUE " + string(s.ReplID()))) {
		p.send(ctx, address, s, nil)
	}
	_ = s.Close()
	return nil
}

// unfed is what the source's own engine is told where it is to get nothing now, nil where it is, and for others. Why it isn't, who
// says so tells.
func (p *peer) unfed(ctx context.Context, cancel context.CancelCauseFunc, address string) []byte {
	if !p.replica.own {
		return nil
	}
	err := p.awaited(ctx, cancel, func() error {
		if later := p.l.o.Admit(ctx, address); later != nil {
			return later
		}
		return nil
	})
	if err != nil {
		return p.later(address, err)
	}
	return nil
}

// awaited has something opened that stores may take their time for. Meanwhile a replica gets a newline each
// second: before an answer they are a sign of life that it doesn't count (replication.c,
// slaveTryPartialResynchronization; pitfall 10). It ends with ctx, which is cancelled when that takes too
// long, or the replica has left.
func (p *peer) awaited(ctx context.Context, cancel context.CancelCauseFunc, open func() error) error {
	done := make(chan error, 1)
	go func() { done <- open() }()
	alive := time.NewTicker(time.Second)
	defer alive.Stop()
	for began := time.Now(); ; {
		select {
		case err := <-done:
			if err != nil && ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return err
		case <-alive.C:
			if time.Since(began) >= opening {
				cancel(&LaterError{Why: fmt.Sprintf("the archive could not be opened within %v", opening)})
			} else if !p.say([]byte("\n")) {
				cancel(net.ErrClosed)
			}
		}
	}
}

// putOff says "later", and has it known why.
func (p *peer) putOff(address string, err error) []byte {
	p.l.book.putOff(address, err)
	return p.later(address, err)
}

// later says so in the one way that replicas understand: with their next try, a second from now, they ask for
// the same (pitfall 19).
func (p *peer) later(address string, err error) []byte {
	if p.l.book.tell(address, err.Error(), time.Now()) {
		level := slog.LevelError
		if errors.As(err, new(*LaterError)) {
			level = slog.LevelWarn
		}
		p.l.o.Logger.Log(context.Background(), level, "a replica is put off", "replica", address, "version", p.replica.version, "error", err)
	}
	return reply("-NOMASTERLINK Can't SYNC now: " + printable(command{err.Error()}))
}

// send gives a replica what comes before the stream, nil for nothing, and the stream, until there is nothing
// more to give on this connection, or the replica leaves, or takes nothing.
func (p *peer) send(ctx context.Context, address string, s Stream, first func() error) {
	p.sending.Store(true)
	p.seen() // from here on patience counts
	g, alive := errgroup.WithContext(ctx)
	g.Go(func() error { return p.listenToReplica(address) })
	g.Go(func() error {
		if first != nil {
			if err := first(); err != nil {
				return err
			}
			if p.replica.rdbOnly {
				return p.sayNoMore()
			}
			p.seen()
		}
		p.l.book.streams(address, p.came, first == nil, time.Now())
		return p.sendStream(alive, address, s)
	})
	g.Go(func() error {
		<-alive.Done()
		p.hangUp() // wakes who reads or writes
		return nil
	})
	err := g.Wait()
	switch {
	case ctx.Err() != nil:
	case errors.Is(err, io.EOF):
		p.l.o.Logger.Info("a replica has left, or has to ask anew", "replica", address)
	default:
		p.l.o.Logger.Warn("a replica's connection has ended", "replica", address, "error", err)
	}
}

// sendStream sends what is archived and nothing else: a replica counts each byte, also a newline that is
// meant to keep the connection alive (pitfall 5). So where there is nothing to send it hears nothing,
// leaves after its repl-timeout, and goes on where it was.
func (p *peer) sendStream(ctx context.Context, address string, s Stream) error {
	for {
		b, err := s.Next(ctx)
		if err != nil {
			return err
		}
		if err := p.nc.SetWriteDeadline(time.Now().Add(patience)); err != nil {
			return err
		}
		if err := p.give(address, b); err != nil {
			return err
		}
	}
}

// give writes bytes to a replica, and counts them.
func (p *peer) give(address string, b []byte) error {
	n, err := p.nc.Write(b)
	p.l.book.sent(address, p.came, n, time.Now())
	return err
}

// listenToReplica takes acknowledgements. Anything else would want a reply, which there is no place for.
func (p *peer) listenToReplica(address string) error {
	for {
		c, err := readCommand(p.in)
		if err != nil {
			return err
		}
		if c.name() != "REPLCONF" || c.arg(1) != "ACK" || len(c) < 3 {
			return fmt.Errorf("the replica said %q, and nothing but REPLCONF ACK is expected", printable(c[:1]))
		}
		at, err := strconv.ParseInt(c[2], 10, 64)
		if err == nil && at >= 0 {
			p.l.book.acked(address, stream.Offset(at), time.Now())
			p.l.o.Heard(address, p.replica.own, stream.Offset(at))
		}
	}
}

// seen takes note that a replica lives: it said something, or took something. Who came with SYNC need not
// say anything.
func (p *peer) seen() {
	if !p.sending.Load() {
		return
	}
	_ = p.nc.SetDeadline(time.Now().Add(patience)) // what fails is the next read or write
	if p.replica.old {
		_ = p.nc.SetReadDeadline(time.Time{})
	}
}

// Read reads from the connection, for p.in.
func (p *peer) Read(b []byte) (int, error) {
	n, err := p.nc.Read(b)
	if n > 0 {
		now := time.Now()
		p.active.Store(now.UnixNano())
		if p.sending.Load() {
			p.l.book.heard(p.listensAt(), p.came, now)
		}
		p.seen()
	}
	return n, err
}
