package relay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/offloader/offloader/internal/stream"
)

const (
	// patience is how long a replica may neither take nor say anything. Engines give their own as long
	// (repl-timeout) and say something each second, also while they load.
	patience = time.Minute
	// copyBlock is how much of an RDB is sent at once: those who get one take turns.
	copyBlock = 128 << 10
)

// asReplica is what a peer has told of itself with REPLCONF.
type asReplica struct {
	port    string
	ip      string
	version string
}

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

// replicate answers a PSYNC, and serves the replica until one of the two leaves. What it returns is a
// reply to be given in place of that, nil where all was said.
func (p *peer) replicate(ctx context.Context, c command) []byte {
	at, err := strconv.ParseInt(c[2], 10, 64)
	if err != nil {
		return reply("-ERR value is not an integer or out of range")
	}
	address, book := p.listensAt(), p.l.book
	if later := book.attach(address, p.replica.version, time.Now()); later != nil {
		return p.putOff(address, later)
	}
	defer func() { book.leave(address, time.Now()) }()
	p.l.o.Heard(address, -1)
	if later := p.l.o.Admit(ctx, address); later != nil {
		return p.putOff(address, later)
	}

	if id, err := stream.ParseReplID(c[1]); err == nil && at > 0 {
		s, err := p.l.o.Archive.Continue(ctx, id, stream.Offset(at-1))
		switch {
		case err == nil:
			p.leaving = true
			p.l.o.Logger.Info("a replica goes on where it was", "replica", address, "offset", at-1, "replid", s.ReplID())
			if !p.say(reply("+CONTINUE " + string(s.ReplID()))) {
				_ = s.Close()
				return nil
			}
			p.send(ctx, address, s, nil)
			_ = s.Close()
			return nil
		case !errors.Is(err, ErrFork):
			return p.putOff(address, err)
		}
	}
	if later := book.beginCopy(address, time.Now()); later != nil {
		return p.putOff(address, later)
	}
	copied := sync.OnceFunc(book.endCopy)
	defer copied()
	full, err := p.l.o.Archive.Copy(ctx)
	if err != nil {
		return p.putOff(address, err)
	}
	if why := loads(p.replica.version, full.RDBVersion); why != "" {
		_ = full.close()
		return p.putOff(address, errors.New(why))
	}
	p.leaving = true
	book.gets(address, full.Bytes, time.Now())
	p.l.o.Logger.Info("a replica gets a full copy", "replica", address, "offset", full.Offset, "bytes", full.Bytes, "replid", full.Stream.ReplID())
	if p.say(fmt.Appendf(nil, "+FULLRESYNC %s %d\r\n$%d\r\n", full.Stream.ReplID(), full.Offset, full.Bytes)) {
		p.send(ctx, address, full.Stream, func() error {
			defer copied()
			return p.sendRDB(full)
		})
	}
	_ = full.close()
	return nil
}

// putOff says "later" in the one way that replicas understand: with their next try, a second from now,
// they ask for the same (pitfall 19).
func (p *peer) putOff(address string, err error) []byte {
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
			p.seen()
		}
		p.l.book.streams(address, first == nil, time.Now())
		return p.sendStream(alive, s)
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

// sendRDB sends the RDB as it is. Nobody says anything meanwhile, so what is taken is the sign of life. The
// last block is kept back until it is known that all was as archived: without it nothing is loaded.
func (p *peer) sendRDB(full *Copy) error {
	block, kept := make([]byte, copyBlock), make([]byte, 0, copyBlock)
	for left := full.Bytes; ; {
		n, err := io.ReadFull(full.RDB, block)
		if left -= int64(n); left < 0 {
			return fmt.Errorf("the snapshot is longer than the %d bytes that were promised", full.Bytes)
		}
		end := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
		switch {
		case end && left > 0:
			return fmt.Errorf("the snapshot is %d bytes shorter than the %d that were promised", left, full.Bytes)
		case err != nil && !end:
			return fmt.Errorf("read the snapshot: %w", err)
		}
		if _, err := p.nc.Write(kept); err != nil {
			return err
		}
		p.seen()
		if end {
			_, err := p.nc.Write(block[:n])
			return err
		}
		block, kept = kept[:copyBlock], block
	}
}

// sendStream sends what is archived and nothing else: a replica counts each byte, also a newline that is
// meant to keep the connection alive (pitfall 5). So where there is nothing to send it hears nothing,
// leaves after its repl-timeout, and goes on where it was.
func (p *peer) sendStream(ctx context.Context, s Stream) error {
	for {
		b, err := s.Next(ctx)
		if err != nil {
			return err
		}
		if err := p.nc.SetWriteDeadline(time.Now().Add(patience)); err != nil {
			return err
		}
		if _, err := p.nc.Write(b); err != nil {
			return err
		}
	}
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
			p.l.o.Heard(address, stream.Offset(at))
		}
	}
}

// seen takes note that a replica lives: it said something, or took something.
func (p *peer) seen() {
	if p.sending.Load() {
		_ = p.nc.SetDeadline(time.Now().Add(patience)) // what fails is the next read or write
	}
}

// Read reads from the connection, for p.in.
func (p *peer) Read(b []byte) (int, error) {
	n, err := p.nc.Read(b)
	if n > 0 {
		p.seen()
	}
	return n, err
}
