package blackbox

import (
	"io"
	"net"
	"sync"
)

// A Proxy stands between a daemon and its master, and is all that can go wrong between them. Its
// methods may be called from any goroutine.
type Proxy struct {
	listener net.Listener
	wg       sync.WaitGroup

	mu       sync.Mutex
	upstream string
	down     bool
	gate     chan struct{} // closed while bytes may pass
	conns    map[net.Conn]bool
	lost     map[net.Conn]bool // those of Lose
	ended    chan struct{}
	cutAfter int64 // bytes from upstream on each new connection; -1: never
	flipAt   int64 // which byte from upstream, counted from 0, on the next connection; -1: none
}

// NewProxy starts one that lets everything pass.
func NewProxy(t TB, upstream string) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("%v", err)
	}
	p := &Proxy{listener: l, upstream: upstream, conns: map[net.Conn]bool{}, lost: map[net.Conn]bool{}, ended: make(chan struct{}), cutAfter: -1, flipAt: -1, gate: make(chan struct{})}
	close(p.gate)
	p.wg.Go(p.accept)
	t.Cleanup(p.close)
	return p
}

// Addr is where to connect to.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// To leads to another server from now on: what is connected is cut.
func (p *Proxy) To(upstream string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.upstream = upstream
	p.cut()
}

// Cut ends all connections, and each new one at once, until Mend.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down = true
	p.cut()
}

// Stall holds all bytes back, in both directions, and no connection ends, until Mend.
func (p *Proxy) Stall() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.gate:
		p.gate = make(chan struct{})
	default: // it is stalled
	}
}

// Lose lets nothing more pass on the connections that there are, and tells neither side of their ends, as when a host has
// lost its power. New ones are as before.
func (p *Proxy) Lose() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		p.lost[c] = true
	}
}

// Mend ends what Cut, Stall and CutAfter began.
func (p *Proxy) Mend() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down, p.cutAfter = false, -1
	select {
	case <-p.gate:
	default:
		close(p.gate)
	}
}

// CutAfter ends each new connection after n bytes from the server, until Mend.
func (p *Proxy) CutAfter(n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cutAfter = n
}

// FlipAt turns over one bit of byte n, from 0, that the server sends on the next connection.
func (p *Proxy) FlipAt(n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.flipAt = n
}

// cut is called with mu held.
func (p *Proxy) cut() {
	for c := range p.conns {
		_ = c.Close()
	}
	clear(p.conns)
}

func (p *Proxy) close() {
	close(p.ended)
	_ = p.listener.Close()
	p.Cut()
	p.Mend() // lets those go on that wait at the gate, to find their connections closed
	p.Cut()
	p.wg.Wait()
}

func (p *Proxy) accept() {
	for {
		near, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.mu.Lock()
		upstream, down, cutAfter, flipAt := p.upstream, p.down, p.cutAfter, p.flipAt
		if !down {
			p.flipAt = -1
		}
		p.mu.Unlock()
		far, err := net.Dial("tcp", upstream)
		if err != nil || down {
			_ = near.Close()
			if err == nil {
				_ = far.Close()
			}
			continue
		}
		if !p.keep(upstream, near, far) {
			continue
		}
		p.wg.Go(func() { p.pass(far, near, -1, -1) })
		p.wg.Go(func() { p.pass(near, far, cutAfter, flipAt) })
	}
}

// keep remembers a pair of connections, unless they were to be cut meanwhile.
func (p *Proxy) keep(upstream string, pair ...net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range pair {
		p.conns[c] = true
	}
	if p.down || p.upstream != upstream {
		for _, c := range pair {
			delete(p.conns, c)
			_ = c.Close()
		}
		return false
	}
	return true
}

// pass carries bytes until either end closes, and then closes both.
func (p *Proxy) pass(to, from net.Conn, cutAfter, flipAt int64) {
	defer func() { _, _ = to.Close(), from.Close() }()
	buf, passed := make([]byte, 64<<10), int64(0)
	for {
		n, err := from.Read(buf)
		out := buf[:n]
		if i := flipAt - passed; flipAt >= 0 && 0 <= i && i < int64(n) {
			out[i] ^= 0x10
		}
		if cutAfter >= 0 && passed+int64(n) >= cutAfter {
			out, err = out[:cutAfter-passed], io.EOF
		}
		passed += int64(len(out))
		p.mu.Lock()
		gate, lost := p.gate, p.lost[from]
		p.mu.Unlock()
		if lost {
			<-p.ended
			return
		}
		<-gate
		if _, werr := to.Write(out); werr != nil || err != nil {
			return
		}
	}
}
