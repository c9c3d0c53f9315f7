package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/config"
	"github.com/offloader/offloader/internal/engine/enginetest"
	"github.com/offloader/offloader/internal/rebirth"
)

// TestASourceThatMoves: the source's name leads to another address after the server was started again, as that of a
// pod does. The daemon finds it there, takes it for the source's, and has it reborn.
func TestASourceThatMoves(t *testing.T) {
	dns := serveNames(t)
	enginetest.Each(t, func(t *testing.T, kind enginetest.Kind) {
		t.Parallel()
		relay, dir, name := enginetest.FreePort(t), t.TempDir(), kind.String()+".pods.test"
		// It listens at 127.0.0.1 for the test. What it connects to sees the address that its name leads to.
		at := func(ip ...byte) []string {
			dns.lead(name, ip)
			return []string{"--bind", "127.0.0.1", net.IP(ip).String(), "--bind-source-addr", net.IP(ip).String()}
		}
		s := enginetest.Start(t, kind, append(at(127, 0, 0, 2), "--replicaof", fmt.Sprint("127.0.0.1 ", relay), "--replica-serve-stale-data", "no")...)
		web, file, spool := fmt.Sprint("127.0.0.1:", enginetest.FreePort(t)), filepath.Join(dir, "offloader.yaml"), filepath.Join(dir, "spool")
		require.NoError(t, os.WriteFile(file, fmt.Appendf(nil, `
sources: [{name: cache, address: "%s:%d", relay: {listen: "127.0.0.1:%d"}}]
spool: {path: %q, min_free: 1%%}
stores: [{type: disk, path: %q}]
http: {listen: %q}
`, name, s.Port(), relay, spool, filepath.Join(dir, "archive"), web), 0o600))
		runs(t, file)
		type status struct {
			State, Why string
			Durable    int64
			Rebirths   int
		}
		until := func(what string, ok func(status) bool) {
			t.Helper()
			var report struct{ Sources []status }
			require.Eventually(t, func() bool {
				answer, err := http.Get("http://" + web + "/api/v1/status")
				if err != nil {
					return false
				}
				defer func() { _ = answer.Body.Close() }()
				return json.NewDecoder(answer.Body).Decode(&report) == nil && ok(report.Sources[0])
			}, 30*time.Second, 50*time.Millisecond, "%s: %+v", what, &report)
		}
		until("it waits for a word", func(s status) bool { return strings.Contains(s.Why, "nothing is archived") })
		_, err := orderDaemon(t.Context(), spool, "cache", "promote/"+string(rebirth.Empty))
		require.NoError(t, err)
		until("it is archived", func(s status) bool { return s.State == "streaming" })
		s.Do("SET", "k", "v")
		end := s.Offset()
		until("all is durable", func(s status) bool { return s.Durable >= end })

		s.Kill()
		s.Restart(at(127, 0, 0, 3)...)
		until("it is reborn", func(s status) bool { return s.State == "streaming" && s.Rebirths == 1 })
		require.Equal(t, "v", s.Do("GET", "k"))
		s.Do("SET", "k", "w")
		end = s.Offset()
		until("it is archived where it is now", func(s status) bool { return s.Durable >= end })
		require.Equal(t, "0", s.Info("stats")["sync_full"])
	})
}

// runs runs a daemon in this process, whose names are resolved as the test wants, until the test ends.
func runs(t *testing.T, file string) {
	t.Helper()
	c, _, err := config.Load(file, func(string) (string, bool) { return "", false })
	require.NoError(t, err)
	d := &daemon{log: slog.New(slog.DiscardHandler), config: c, bound: func(int, int) {}}
	ctx, leave := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- d.run(ctx) }()
	t.Cleanup(func() {
		leave()
		require.NoError(t, <-ended)
	})
}

// nameServer is one on the loopback.
type nameServer struct {
	mu  sync.Mutex
	all map[string][]byte // the IPv4 address that each leads to
}

func (n *nameServer) lead(name string, ip []byte) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.all[name] = ip
}

// serveNames has all names resolved by such a server until the test ends.
func serveNames(t *testing.T) *nameServer {
	t.Helper()
	pc, err := new(net.ListenConfig).ListenPacket(t.Context(), "udp", "127.0.0.1:0")
	require.NoError(t, err)
	n, before := &nameServer{all: map[string][]byte{}}, net.DefaultResolver
	var serving sync.WaitGroup
	serving.Go(func() {
		for p := make([]byte, 1500); ; {
			size, from, err := pc.ReadFrom(p)
			if err != nil {
				return
			}
			_, _ = pc.WriteTo(n.answer(p[:size]), from) // who got none asks again
		}
	})
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", pc.LocalAddr().String())
	}}
	t.Cleanup(func() {
		net.DefaultResolver = before
		_ = pc.Close()
		serving.Wait()
	})
	return n
}

// answer is the answer to a question (RFC 1035, 4.1), which the Go resolver asks: one name, of type A or AAAA.
func (n *nameServer) answer(question []byte) []byte {
	const head, typeA = 12, 1
	var labels []string
	at := head
	for ; question[at] != 0; at += 1 + int(question[at]) {
		labels = append(labels, string(question[at+1:at+1+int(question[at])]))
	}
	of := binary.BigEndian.Uint16(question[at+1:])
	n.mu.Lock()
	ip, known := n.all[strings.ToLower(strings.Join(labels, "."))]
	n.mu.Unlock()
	const answered, noSuchName = 0x8580, 0x8583
	flags, answers := uint16(answered), uint16(0)
	switch {
	case !known:
		flags = noSuchName
	case of == typeA:
		answers = 1
	}
	a := append([]byte{}, question[:2]...)
	for _, field := range []uint16{flags, 1, answers, 0, 0} {
		a = binary.BigEndian.AppendUint16(a, field)
	}
	a = append(a, question[head:at+5]...)
	if answers > 0 {
		a = append(a, 0xc0, head, 0, typeA, 0, 1, 0, 0, 0, 0, 0, 4) // of that name, for no time
		a = append(a, ip...)
	}
	return a
}
