package syncer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/engine/enginetest"
	"github.com/offloader/offloader/internal/rdbwalk"
	"github.com/offloader/offloader/internal/resp"
	"github.com/offloader/offloader/internal/stream"
)

// memory is a Sink that holds everything in memory, and calls a boundary durable as soon as it
// has it, unless it is held back.
type memory struct {
	mu        sync.Mutex
	id        stream.ReplID
	base      stream.Offset // of the RDB
	rdb       []byte
	summary   rdbwalk.Summary
	stream    []byte // behind base
	framer    *resp.Framer
	durable   stream.Offset
	held      bool // nothing becomes durable
	beyond    stream.Offset
	discarded []error
	downs     []error
	asked     []Resume
	continued []stream.ReplID // ids that +CONTINUE brought
	wholes    int
	sizes     []int64
	begins    func() // called when an RDB begins to arrive
	whole     func() // called while Whole runs
	committed chan struct{}
}

func newMemory() *memory { return &memory{committed: make(chan struct{}, 1)} }

func (m *memory) Room() error { return nil }

func (m *memory) Resume(Master) (Resume, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := Resume{}
	if m.id != "" {
		// What is behind the last boundary is asked for again.
		at := m.framer.Boundary()
		m.stream = m.stream[:at.Offset-m.base]
		m.framer = resp.NewFramer(at)
		r = Resume{ID: m.id, Offset: at.Offset}
	}
	m.asked = append(m.asked, r)
	return r, nil
}

func (m *memory) Continued(_ Master, _ Resume, id stream.ReplID) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.id = id
	m.continued = append(m.continued, id)
	return nil
}

func (m *memory) FullSync(_ Master, id stream.ReplID, at stream.Offset, size int64) (Incoming, error) {
	if m.begins != nil {
		m.begins()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.id, m.durable, m.stream = "", 0, nil
	m.sizes = append(m.sizes, size)
	return &incoming{m: m, id: id, at: at}, nil
}

type incoming struct {
	bytes.Buffer
	m  *memory
	id stream.ReplID
	at stream.Offset
}

func (i *incoming) Whole(s rdbwalk.Summary) error {
	if i.m.whole != nil {
		i.m.whole()
	}
	i.m.mu.Lock()
	defer i.m.mu.Unlock()
	i.m.id, i.m.base, i.m.rdb, i.m.summary = i.id, i.at, i.Bytes(), s
	i.m.framer = resp.NewFramer(stream.Cursor{Offset: i.at, DB: max(0, s.ReplDB)})
	i.m.wholes++
	i.m.commit()
	return nil
}

func (i *incoming) Discard(cause error) {
	i.m.mu.Lock()
	defer i.m.mu.Unlock()
	i.m.discarded = append(i.m.discarded, cause)
}

func (m *memory) Receive(p []byte, _ time.Time) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.stream = append(m.stream, p...)
	for len(p) > 0 {
		n, _, _, err := m.framer.Feed(p)
		if err != nil {
			return err
		}
		p = p[n:]
	}
	m.commit()
	return nil
}

func (m *memory) commit() {
	if at := m.framer.Boundary().Offset + m.beyond; !m.held && at > m.durable {
		m.durable = at
		select {
		case m.committed <- struct{}{}:
		default:
		}
	}
}

func (m *memory) hold(held bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.held = held
	m.commit()
}

func (m *memory) Durable() stream.Offset {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.durable
}

func (m *memory) Committed() <-chan struct{} { return m.committed }

func (m *memory) Down(cause error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.downs = append(m.downs, cause)
}

// see looks at the memory under its lock.
func see[T any](m *memory, f func(*memory) T) T {
	m.mu.Lock()
	defer m.mu.Unlock()
	return f(m)
}

// up starts a link and ends it with the test. stop ends it before.
func up(t *testing.T, o Options, sink Sink) (*Link, func()) {
	t.Helper()
	l := New(o, sink)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- l.Run(ctx) }()
	var once sync.Once
	stop := func() {
		once.Do(func() {
			cancel()
			if err := <-ended; !errors.Is(err, context.Canceled) {
				t.Errorf("Run ended with %v", err)
			}
		})
	}
	t.Cleanup(stop)
	return l, stop
}

// eventually waits for what a real engine does in its own time.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !f(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// caught waits until the sink has all that the master produced.
func caught(t *testing.T, s *enginetest.Server, m *memory) {
	t.Helper()
	eventually(t, "the sink has what the master has", func() bool {
		return see(m, func(m *memory) bool { return m.id != "" }) && m.Durable() == stream.Offset(s.Offset())
	})
}

// refusedWith waits for a failure of that kind.
func refusedWith(t *testing.T, l *Link, kind Kind) Status {
	t.Helper()
	var s Status
	eventually(t, fmt.Sprintf("a failure of kind %s", kind), func() bool { s = l.Status(); return s.Errors[kind] > 0 })
	return s
}

func fullSyncs(s *enginetest.Server) int { return stat(s, "sync_full") }

func partialSyncs(s *enginetest.Server) int { return stat(s, "sync_partial_ok") }

func stat(s *enginetest.Server, name string) int {
	n, _ := strconv.Atoi(s.Info("stats")[name])
	return n
}

// restored is an engine with what the sink has: it loads the RDB, and is fed the stream.
func restored(t *testing.T, kind enginetest.Kind, m *memory) *enginetest.Server {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "dump.rdb"), m.rdb, 0o600))
	s := enginetest.StartIn(t, kind, dir)
	nc, err := newDialer().Dial("tcp", s.Addr())
	require.NoError(t, err)
	defer func() { _ = nc.Close() }()
	go func() { _, _ = io.Copy(io.Discard, nc) }()
	_, err = nc.Write(append(see(m, func(m *memory) []byte { return bytes.Clone(m.stream) }), "*3\r\n$3\r\nSET\r\n$7\r\nthe-end\r\n$1\r\n1\r\n"...))
	require.NoError(t, err)
	eventually(t, "the stream is applied", func() bool {
		return strings.Contains(fmt.Sprint(s.Info("keyspace")), "db") && exists(s)
	})
	return s
}

// exists tells whether the last command of the stream has been applied, and takes it away.
func exists(s *enginetest.Server) bool {
	for db := range 16 {
		if n, err := s.DB(db).Del(context.Background(), "the-end").Result(); err == nil && n == 1 {
			return true
		}
	}
	return false
}

// fill writes n keys of every plain kind.
func fill(s *enginetest.Server, n int) {
	s.Do("EVAL", `for i=1,tonumber(ARGV[1]) do
		redis.call('SET','s'..i,'value '..i)
		redis.call('RPUSH','l'..i%10,i)
		redis.call('HSET','h'..i%10,i,string.rep('x',i%200))
		redis.call('ZADD','z'..i%10,i,i) end`, 0, n)
}
