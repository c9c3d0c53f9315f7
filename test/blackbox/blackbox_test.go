package blackbox_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/engine/enginetest"
	"github.com/offloader/offloader/test/blackbox"
)

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "offloader-")
	if err == nil {
		err = blackbox.Build(dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// What a first user does: attach, write, restore, boot. With a configuration and without one.
func TestADaemonFromItsStartToARestore(t *testing.T) {
	kind := enginetest.Any(t)
	master := enginetest.Start(t, kind)
	master.Do("SET", "before", "1")
	configured := blackbox.Start(t, t.TempDir(), blackbox.Source{Name: "cache", Address: master.Addr()})
	bare := blackbox.StartBare(t, t.TempDir(), master.Addr())
	for name, d := range map[string]*blackbox.Daemon{"cache": configured, "main": bare} {
		d.Streaming(name)
		now, peak := d.RSS()
		require.Positive(t, now)
		require.GreaterOrEqual(t, peak, now)
	}
	master.Do("SET", "after", "2")
	require.EqualValues(t, 2, master.Do("WAIT", 2, 10_000))
	want := master.Digest()
	for name, d := range map[string]*blackbox.Daemon{"cache": configured, "main": bare} {
		require.Equal(t, want, d.Restore("--latest").Boot(kind).Digest(), "a daemon runs")
		require.Len(t, d.Timelines(name), 1)
		require.Len(t, d.Log("--key", "after"), 1)
		d.Kill()
		require.Equal(t, want, d.Restore("--latest").Boot(kind).Digest(), "it was killed")
		d.Restart()
		d.Streaming(name)
		d.Stop()
		require.Equal(t, want, d.Restore("--latest").Boot(kind).Digest(), "it has left")
	}
}

// Connections can be cut, held up, damaged and led elsewhere.
func TestProxy(t *testing.T) {
	kind := enginetest.Any(t)
	a, b := enginetest.Start(t, kind), enginetest.Start(t, kind)
	a.Do("SET", "who", "a")
	b.Do("SET", "who", "b")
	p := blackbox.NewProxy(t, a.Addr())
	who := func() string {
		out, err := runCLI(kind, p.Addr(), "GET", "who")
		if err != nil {
			return "nobody"
		}
		return out
	}
	require.Equal(t, "a\n", who())
	p.To(b.Addr())
	require.Equal(t, "b\n", who())
	p.Cut()
	require.Equal(t, "nobody", who())
	p.Mend()
	require.Equal(t, "b\n", who())
	p.FlipAt(4) // "$1\r\nb": the value
	require.Equal(t, "r\n", who())
	require.Equal(t, "b\n", who(), "one connection only")
	p.CutAfter(3)
	require.Equal(t, "nobody", who())
	p.Mend()
	p.Stall()
	answered := make(chan string)
	go func() { answered <- who() }()
	select {
	case got := <-answered:
		t.Fatalf("a stalled connection answered %q", got)
	case <-t.Context().Done():
	default:
	}
	p.Mend()
	require.Equal(t, "b\n", <-answered)
}

func runCLI(kind enginetest.Kind, addr string, args ...string) (string, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "", err
	}
	out, err := exec.Command(kind.Tool("cli"), append([]string{"-h", host, "-p", port}, args...)...).Output()
	return string(out), err
}
