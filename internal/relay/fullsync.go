package relay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

// copyBlock is how much of an RDB is read and sent at once. Each copy has a goroutine of its own: those who get
// one share processor, disk and network as equals, and nobody waits for one that is slow.
const copyBlock = 128 << 10

// fullSync gives a peer an RDB, and the stream behind it, unless it wants none. What it returns is a reply to
// be given in place of that, nil where all was said.
func (p *peer) fullSync(ctx context.Context, cancel context.CancelCauseFunc, address string) []byte {
	book := p.l.book
	if later := book.beginCopy(address, time.Now()); later != nil {
		return p.putOff(address, later)
	}
	copied := sync.OnceFunc(book.endCopy)
	defer copied()
	var full *Copy
	err := p.awaited(ctx, cancel, func() (err error) {
		if full, err = p.l.o.Archive.Copy(ctx); err == nil && p.replica.own && p.l.o.Instead != nil {
			full = p.l.o.Instead(ctx, full)
		}
		return err
	})
	if err != nil {
		return p.putOff(address, err)
	}
	if no := p.unfed(ctx, cancel, address); no != nil { // minutes may have passed since it was asked
		_ = full.close()
		return no
	}
	if err := p.replica.cant(full); err != nil {
		_ = full.close()
		return p.putOff(address, err)
	}
	p.leaving = true
	book.gets(address, p.came, full.Bytes, p.replica.loads(), time.Now())
	p.l.o.Logger.Info("a replica gets a full copy", "replica", address, "offset", full.Offset, "bytes", full.Bytes, "replid", full.Stream.ReplID())
	// The size is known, so the end needs no mark, behind which the stream would have to wait (pitfall 31).
	header := fmt.Sprintf("$%d\r\n", full.Bytes)
	if !p.replica.old {
		header = fmt.Sprintf("+FULLRESYNC %s %d\r\n", full.Stream.ReplID(), full.Offset) + header
	}
	if p.say([]byte(header)) {
		p.send(ctx, address, full.Stream, func() error {
			defer copied()
			return p.sendRDB(address, full)
		})
	}
	_ = full.close()
	return nil
}

// cant says why a copy is not for this peer, nil where it is.
func (r asReplica) cant(full *Copy) error {
	switch {
	case r.rdbOnly && full.End > full.Offset:
		return fmt.Errorf("an RDB alone would be of offset %d, and %d is served: use REPLICAOF, or restore --format rdb", full.Offset, full.End)
	case r.loads():
		if why := loads(r.version, full.RDBVersion); why != "" {
			return &versionError{why}
		}
	}
	return nil
}

// sendRDB sends the RDB as it is. Nobody says anything meanwhile, so what is taken is the sign of life. The
// last block is kept back until it is known that all was as archived: without it nothing is loaded.
func (p *peer) sendRDB(address string, full *Copy) error {
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
		if err := p.give(address, kept); err != nil {
			return err
		}
		p.seen()
		if end {
			return p.give(address, block[:n])
		}
		block, kept = kept[:copyBlock], block
	}
}

// sayNoMore ends our half of the connection. The peer has what it wanted and hangs up; if we did, and it had
// just said something, what it has not read yet could be lost.
func (p *peer) sayNoMore() error {
	half, ok := p.nc.(interface{ CloseWrite() error })
	if !ok {
		return io.EOF
	}
	p.sending.Store(false) // from here on it has only so much time
	return errors.Join(p.nc.SetDeadline(time.Now().Add(stall)), half.CloseWrite())
}
