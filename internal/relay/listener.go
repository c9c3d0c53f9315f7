// Package relay is where others reach us as a server of the source's replication group, at two
// ports of the same manners.
//
// The announced port is the one that the master is told. A master shows each replica's address to
// Sentinels, to operators, and to its own FAILOVER command, which hands the mastership to a replica by
// connecting there. So something has to answer, as a replica that is alive, up to date and never
// to be elected: priority 0 for Sentinel, a firm no to FAILOVER's PSYNC. If nothing answered, a
// FAILOVER would leave the master read-only, waiting for us for ever. It serves no data, and whoever
// connects can learn no more than that a master is archived.
//
// The relay's own port has an Archive behind it: replicas attach there with REPLICAOF, as to a replica
// of their master. A PSYNC is answered with the master's own ids and offsets (replicate.go), so that they
// can move between master and relay. They get what is durable and nothing that we invented: where we have
// nothing to say, they hear nothing.
//
// Connections, sizes and times are bounded. Each replica has a goroutine that writes to it and one that
// listens, and shares nothing with the others: one that hangs is left after a while.
package relay

import (
	"bufio"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/offloader/offloader/internal/stream"
)

const (
	maxConns = 128
	// idle is how long a connection may say nothing. Sentinels ping each second.
	idle = 5 * time.Minute
	// resolving is how long a name may take to be found.
	resolving = 2 * time.Second
	// stall is how long a peer may take to accept a reply.
	stall = 5 * time.Second
)

// Info is what a Listener says of the source and the link to it.
type Info struct {
	MasterHost string
	MasterPort int
	Up         bool      // the link streams
	Syncing    bool      // an RDB arrives
	LastIO     time.Time // when the last byte came, zero if never
	DownSince  time.Time // when the link broke; zero while it is up
	Offset     stream.Offset
	ReplID     stream.ReplID
}

// Options of a Listener.
type Options struct {
	Describe func() Info  // asked at each INFO and ROLE
	Archive  Archive      // what replicas are served from; nil: they are put off
	Login    Login        // of those who connect
	TLS      *tls.Config  // nil for plain connections
	Logger   *slog.Logger // nil: silent
	// Own tells whether a replica is the source's own engine, which finds a place where no other does; nil: none is.
	Own func(ctx context.Context, address string) bool
	// Admit says no to the source's own engine while it is to get nothing; nil: it never is.
	Admit func(ctx context.Context, address string) *LaterError
	// Instead may have another copy for it than the one that was opened, which it closes then; nil: never.
	Instead func(ctx context.Context, c *Copy) *Copy
	// Heard is told of each replica that comes, with -1, and of each acknowledgement; nil: nobody is.
	Heard func(address string, own bool, acked stream.Offset)
	// Hello is told what Sentinels say; nil: nobody is.
	Hello func(Hello)
}

// Listener answers on one port.
type Listener struct {
	o     Options
	ln    net.Listener
	runID string
	began time.Time
	book  *book

	refusals refusals

	mu    sync.Mutex
	peers map[*peer]struct{}
}

// Listen opens the port of addr, host:port; port 0 takes a free one. Run serves it and closes it.
func Listen(addr string, o Options) (*Listener, error) {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("open a port for replicas and masters: %w", err)
	}
	return newListener(ln, o), nil
}

func newListener(ln net.Listener, o Options) *Listener {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Describe == nil {
		o.Describe = func() Info { return Info{} }
	}
	if o.Own == nil {
		o.Own = func(context.Context, string) bool { return false }
	}
	if o.Admit == nil {
		o.Admit = func(context.Context, string) *LaterError { return nil }
	}
	if o.Heard == nil {
		o.Heard = func(string, bool, stream.Offset) {}
	}
	if o.Hello == nil {
		o.Hello = func(Hello) {}
	}
	var id [20]byte
	_, _ = rand.Read(id[:]) // never fails (Go 1.24)
	return &Listener{o: o, ln: ln, runID: hex.EncodeToString(id[:]), began: time.Now(), book: newBook(), peers: map[*peer]struct{}{}}
}

// Port is the one that is open.
func (l *Listener) Port() int {
	if a, ok := l.ln.Addr().(*net.TCPAddr); ok {
		return a.Port
	}
	return 0
}

// Replicas are those that are attached, and those that were, by address.
func (l *Listener) Replicas() []Replica { return l.book.list(time.Now()) }

// Rates are how fast replicas took what they got.
func (l *Listener) Rates() Rates { return l.book.measured() }

// Addr is where it listens.
func (l *Listener) Addr() string { return l.ln.Addr().String() }

// Here tells whether a host, an IP or a name, is the one that we listen on. A name is resolved anew each time.
func Here(ctx context.Context, host string) bool {
	ctx, cancel := context.WithTimeout(ctx, resolving)
	defer cancel()
	hosts, err := net.DefaultResolver.LookupHost(ctx, host)
	mine, errMine := net.InterfaceAddrs()
	return err == nil && errMine == nil && slices.ContainsFunc(hosts, func(host string) bool {
		ip := net.ParseIP(host)
		return ip.IsLoopback() || slices.ContainsFunc(mine, func(a net.Addr) bool {
			n, ok := a.(*net.IPNet)
			return ok && n.IP.Equal(ip)
		})
	})
}

// Run serves until ctx ends, and returns its cause when the port is closed and all connections
// have ended.
func (l *Listener) Run(ctx context.Context) error {
	g, alive := errgroup.WithContext(ctx)
	g.Go(func() error {
		<-alive.Done()
		return l.close()
	})
	g.Go(func() error { return l.accept(alive, g) })
	if err := g.Wait(); ctx.Err() == nil {
		return err
	}
	return context.Cause(ctx)
}

// close ends the port and all connections.
func (l *Listener) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	err := l.ln.Close()
	for p := range l.peers {
		p.hangUp()
	}
	return err
}

func (l *Listener) accept(ctx context.Context, g *errgroup.Group) error {
	for {
		nc, err := l.ln.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				_ = nc.Close() // it came too late to be promised anything
			}
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("port %d: %w", l.Port(), err)
		case err != nil: // no file descriptors, most likely: others may give some back
			l.o.Logger.Warn("a connection could not be accepted", "port", l.Port(), "error", err)
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
			continue
		}
		p := newPeer(l, nc)
		if !l.admit(ctx, p) {
			p.hangUp()
			continue
		}
		g.Go(func() error {
			p.serve(ctx)
			l.mu.Lock()
			defer l.mu.Unlock()
			delete(l.peers, p)
			return nil
		})
	}
}

// admit lets p in, and makes room for it, unless ctx has ended.
func (l *Listener) admit(ctx context.Context, p *peer) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if ctx.Err() != nil {
		return false
	}
	if len(l.peers) >= maxConns {
		quiet := l.quietest()
		quiet.hangUp()
		delete(l.peers, quiet)
	}
	l.peers[p] = struct{}{}
	return true
}

// quietest is who makes room for those who come later. Replicas are not asked to, and can't have all places. Those who have
// given the password and those who have not are two camps, of which the larger one gives way, so that neither keeps the other
// out; and in it the one who has been silent for longest: who is about to attach has just come, and stays.
func (l *Listener) quietest() *peer {
	var in, out []*peer
	for p := range l.peers {
		switch {
		case p.attached.Load():
		case p.admitted.Load():
			in = append(in, p)
		default:
			out = append(out, p)
		}
	}
	camp := out
	if len(in) > len(out) {
		camp = in
	}
	return slices.MinFunc(camp, func(a, b *peer) int { return cmp.Compare(a.active.Load(), b.active.Load()) })
}

// publish hands a message to all who subscribed to the channel, and counts them. Sentinels find
// each other that way, and take a channel on which they don't hear themselves for dead.
func (l *Listener) publish(channel, message string) int {
	l.mu.Lock()
	var to []*peer
	for p := range l.peers {
		if p.subscribed(channel) {
			to = append(to, p)
		}
	}
	l.mu.Unlock()
	for _, p := range to {
		p.say(array(bulk("message"), bulk(channel), bulk(message)))
	}
	return len(to)
}

// peer is one connection.
type peer struct {
	l     *Listener
	nc    net.Conn
	in    *bufio.Reader
	since time.Time

	admitted atomic.Bool  // it has given the password, or there is none
	attached atomic.Bool  // it is a replica, and in the book
	sending  atomic.Bool  // it gets the stream
	active   atomic.Int64 // when it last said something, or was told, in Unix nanoseconds

	// Only serve touches these.
	queued  []command // after MULTI
	inMulti bool
	leaving bool // after QUIT, or as a replica
	replica asReplica
	came    int // as a replica, for the nth time from its address

	mu       sync.Mutex // of channels
	channels map[string]bool
	writing  sync.Mutex
}

func newPeer(l *Listener, nc net.Conn) *peer {
	if l.o.TLS != nil {
		nc = tls.Server(nc, l.o.TLS)
	}
	p := &peer{l: l, nc: nc, since: time.Now()}
	p.in = bufio.NewReaderSize(p, maxLine)
	p.admitted.Store(!l.o.Login.needed())
	p.active.Store(p.since.UnixNano())
	return p
}

// serve answers until the peer leaves, is silent for too long, or talks nonsense.
func (p *peer) serve(ctx context.Context) {
	defer p.hangUp()
	if secured, ok := p.nc.(*tls.Conn); ok {
		if p.nc.SetDeadline(p.since.Add(handshake)) != nil || secured.HandshakeContext(ctx) != nil {
			return
		}
	}
	for !p.leaving {
		deadline := time.Now().Add(idle)
		switch {
		case !p.admitted.Load():
			deadline = p.since.Add(handshake)
		case p.subscribed(""):
			deadline = time.Time{} // it listens; the connection's keep-alives tell when it is gone
		}
		if p.nc.SetReadDeadline(deadline) != nil {
			return
		}
		c, err := readCommand(p.in)
		var nonsense *protocolError
		if errors.As(err, &nonsense) {
			p.say(reply("-ERR Protocol error: " + nonsense.what))
			return
		}
		if err != nil {
			return // it left, or we did
		}
		if answer := p.handle(ctx, c); answer != nil && !p.say(answer) {
			return
		}
	}
}

// say writes b whole. A peer that doesn't take it in time is left.
func (p *peer) say(b []byte) bool {
	p.writing.Lock()
	defer p.writing.Unlock()
	now := time.Now()
	p.active.Store(now.UnixNano())
	if p.nc.SetWriteDeadline(now.Add(stall)) != nil {
		return false
	}
	if _, err := p.nc.Write(b); err != nil {
		p.hangUp()
		return false
	}
	return true
}

// hangUp may be called more than once.
func (p *peer) hangUp() { _ = p.nc.Close() } // nothing was promised that could be lost

// subscribed tells whether the peer listens to the channel; "" is any.
func (p *peer) subscribed(channel string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.channels[channel] || channel == "" && len(p.channels) > 0
}
