package relay

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/engine/enginetest"
	"github.com/offloader/offloader/internal/rdbwalk"
	"github.com/offloader/offloader/internal/stream"
	"github.com/offloader/offloader/internal/syncer"
)

var discard = slog.New(slog.DiscardHandler)

// nowhere and nobody stand for a port and a connection that are not there.
type nowhere struct{ net.Listener }

func (nowhere) Addr() net.Addr { return &net.TCPAddr{Port: 1} }

type nobody struct{ net.Conn }

func (nobody) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (nobody) SetWriteDeadline(time.Time) error { return nil }
func (nobody) Write(p []byte) (int, error)      { return len(p), nil }
func (nobody) Close() error                     { return nil }

// sink takes everything and keeps only how far it came.
type sink struct {
	id        atomic.Value
	at        atomic.Int64
	committed chan struct{}
}

func (s *sink) Room() error { return nil }

func (s *sink) Resume(syncer.Master) (syncer.Resume, error) {
	id, _ := s.id.Load().(stream.ReplID)
	return syncer.Resume{ID: id, Offset: stream.Offset(s.at.Load())}, nil
}

func (s *sink) Continued(_ syncer.Master, _ syncer.Resume, id stream.ReplID) error {
	s.id.Store(id)
	return nil
}

func (s *sink) FullSync(_ syncer.Master, id stream.ReplID, at stream.Offset, _ int64) (syncer.Incoming, error) {
	s.id.Store(id)
	s.at.Store(int64(at))
	return nothing{}, nil
}

func (s *sink) Receive(p []byte, _ time.Time) error {
	s.at.Add(int64(len(p)))
	select {
	case s.committed <- struct{}{}:
	default:
	}
	return nil
}

func (s *sink) Durable() stream.Offset     { return stream.Offset(s.at.Load()) }
func (s *sink) Committed() <-chan struct{} { return s.committed }
func (s *sink) Down(error)                 {}

type nothing struct{ bytes.Buffer }

func (nothing) Write(p []byte) (int, error) { return len(p), nil }
func (nothing) Whole(rdbwalk.Summary) error { return nil }
func (nothing) Discard(error)               {}

// attach makes us a replica of master, as the daemon does.
func attach(t *testing.T, master *enginetest.Server, o Options) (*Listener, *syncer.Link) {
	t.Helper()
	var link *syncer.Link
	o.Describe = func() Info {
		s := link.Status()
		host, port, _ := net.SplitHostPort(s.Remote)
		n, _ := strconv.Atoi(port)
		return Info{MasterHost: host, MasterPort: n, Up: s.Phase == syncer.Streaming, Offset: s.Received}
	}
	l := running(t, o)
	s := &sink{committed: make(chan struct{}, 1)}
	link = syncer.New(syncer.Options{Address: master.Addr(), Listen: func(string) (int, error) { return l.Port(), nil }}, s)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- link.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-ended })
	eventually(t, "the link streams", func() bool {
		return strings.Contains(master.Info("replication")["slave0"], fmt.Sprintf("port=%d,state=online,offset=%d,", l.Port(), master.Offset()))
	})
	return l, link
}

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// We are the most tempting of all targets: a replica that never lags.
func TestPitfall1FailoverPicksUsAndTheMasterStaysWritable(t *testing.T) {
	enginetest.Each(t, func(t *testing.T, kind enginetest.Kind) {
		master := enginetest.Start(t, kind)
		_, link := attach(t, master, Options{})
		master.Do("FAILOVER")
		eventually(t, "it is refused", func() bool {
			return strings.Contains(master.LogText(), "Failover target rejected psync request")
		})
		master.Do("SET", "k", "v")
		require.Equal(t, "master", master.Info("replication")["role"])
		require.Equal(t, "no-failover", master.Info("replication")["master_failover_state"])
		eventually(t, "the link is back", func() bool { return link.Status().PartialResyncs == 1 })
		require.Equal(t, int64(1), link.Status().FullResyncs)
		eventually(t, "and counted", func() bool { return master.Do("WAIT", 1, 100) == int64(1) })
	})
}

func TestPitfall19AReplicaOfOursWaits(t *testing.T) {
	enginetest.Each(t, func(t *testing.T, kind enginetest.Kind) {
		l := running(t, Options{})
		replica := enginetest.Start(t, kind)
		replica.Do("SET", "k", "kept")
		replica.Do("REPLICAOF", "127.0.0.1", l.Port())
		eventually(t, "it asked twice", func() bool {
			return strings.Count(replica.LogText(), "Can't SYNC while this archive serves no replicas") >= 2
		})
		require.NotContains(t, replica.LogText(), "Retrying with SYNC")
		require.Equal(t, "kept", replica.Do("GET", "k"))
	})
}

// Sentinel must find us alive, and have nobody to elect when the master is gone.
func TestSentinelKnowsUsAndNeverElectsUs(t *testing.T) {
	enginetest.Each(t, func(t *testing.T, kind enginetest.Kind) {
		master := enginetest.Start(t, kind)
		heard := make(chan Hello, 100)
		l, _ := attach(t, master, Options{Hello: func(h Hello) { heard <- h }})
		sentinel := enginetest.Sentinel(t, kind, master.Port())
		text := sentinel.LogText

		eventually(t, "Sentinel finds us", func() bool { return strings.Contains(text(), fmt.Sprintf("+slave slave 127.0.0.1:%d", l.Port())) })
		eventually(t, "and talks to us on both connections", func() bool {
			l.mu.Lock()
			defer l.mu.Unlock()
			listening := false
			for p := range l.peers {
				listening = listening || p.subscribed("__sentinel__:hello")
			}
			return listening && len(l.peers) >= 2
		})
		require.Equal(t, Hello{Sentinel: sentinel.Addr(), Master: "m", Names: master.Addr()}, <-heard, "it says where it is, and who is the master")
		master.Kill()
		eventually(t, "there is nobody to elect", func() bool { return strings.Contains(text(), "-failover-abort-no-good-slave") })
		require.NotContains(t, text(), fmt.Sprintf("+sdown slave 127.0.0.1:%d", l.Port()))
		require.NotContains(t, text(), "+selected-slave")
	})
}
