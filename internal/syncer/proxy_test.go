package syncer

import (
	"bytes"
	"io"
	"net"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

func newDialer() *net.Dialer { return new(net.Dialer) }

// newProxy stands between the link and a real engine. What the master sends on connection n, from
// 0, passes through filters(n), which returns the bytes to pass on; an error cuts the connection
// behind them.
func newProxy(t *testing.T, upstream string, filters func(n int) func(p []byte) ([]byte, error)) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var wg sync.WaitGroup
	var mu sync.Mutex
	conns := map[net.Conn]bool{}
	keep := func(c net.Conn) {
		mu.Lock()
		defer mu.Unlock()
		conns[c] = true
	}
	wg.Go(func() {
		for n := 0; ; n++ {
			near, err := ln.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", upstream)
			if err != nil {
				_ = near.Close()
				continue
			}
			keep(near)
			keep(far)
			pass := filters(n)
			wg.Go(func() {
				_, _ = io.Copy(far, near)
				_ = far.Close()
			})
			wg.Go(func() {
				defer func() { _, _ = near.Close(), far.Close() }()
				buf := make([]byte, 32<<10)
				for {
					k, err := far.Read(buf)
					out, cut := pass(buf[:k])
					if _, werr := near.Write(out); werr != nil || err != nil || cut != nil {
						return
					}
				}
			})
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		mu.Lock()
		for c := range conns {
			_ = c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return ln.Addr().String()
}

// straight passes everything.
func straight(p []byte) ([]byte, error) { return p, nil }

// after calls f with the bytes behind the first that contain what, and where they begin there.
func after(what string, f func(behind int64, p []byte) ([]byte, error)) func(p []byte) ([]byte, error) {
	var seen []byte
	behind := int64(-1)
	return func(p []byte) ([]byte, error) {
		if behind < 0 {
			seen = append(seen, p...)
			i := bytes.Index(seen, []byte(what))
			if i < 0 {
				return p, nil
			}
			skip := i + len(what) - (len(seen) - len(p))
			behind = 0
			head := bytes.Clone(p[:max(0, skip)])
			out, err := f(0, p[max(0, skip):])
			behind += int64(len(p) - max(0, skip))
			return append(head, out...), err
		}
		at := behind
		behind += int64(len(p))
		return f(at, p)
	}
}

// recorder passes everything and keeps it.
type recorder struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (r *recorder) pass(p []byte) ([]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.b.Write(p)
	return p, nil
}

func (r *recorder) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.b.String()
}
