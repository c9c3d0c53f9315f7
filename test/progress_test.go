package test

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/offloader/offloader/internal/engine/enginetest"
	"github.com/offloader/offloader/test/blackbox"
)

// terminal is a pseudo terminal of 100 columns: what is written to the one is shown by the other.
func terminal(t *testing.T) (program, screen *os.File) {
	t.Helper()
	screen, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	require.NoError(t, err)
	t.Cleanup(func() { _ = screen.Close() }) // the test may have
	require.NoError(t, unix.IoctlSetPointerInt(int(screen.Fd()), unix.TIOCSPTLCK, 0))
	n, err := unix.IoctlGetInt(int(screen.Fd()), unix.TIOCGPTN)
	require.NoError(t, err)
	require.NoError(t, unix.IoctlSetWinsize(int(screen.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 25, Col: 100}))
	program, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	require.NoError(t, err)
	return program, screen
}

// TestProgressOfARestoreIntoAServer: on a terminal a bar says how far it is, how fast, and how long it will take still, and is
// gone at the end. Elsewhere there is none.
func TestProgressOfARestoreIntoAServer(t *testing.T) {
	t.Parallel()
	master := enginetest.Start(t, enginetest.Any(t))
	value := make([]byte, 256<<10)
	for i := range 60 {
		_, _ = rand.Read(value) // never fails (Go 1.24)
		master.Do("SET", fmt.Sprint("large:", i), value)
	}
	d := blackbox.Start(t, t.TempDir(), blackbox.Source{Name: "cache", Address: master.Addr()})
	d.Streaming("cache")
	master.Do("SET", "k", "v")
	acknowledged(t, master, 1)
	s := enginetest.Start(t, master.Kind(), "--key-load-delay", "10000") // µs: or it would be done before there is anything to see
	into := []string{"restore", "--latest", "--archive", d.Dir, "--to", redisURL(s), "--json", "--conflict", "replace"}
	program, screen := terminal(t)
	var stdout, shown bytes.Buffer
	cmd := exec.Command(blackbox.Binary(t), into...)
	cmd.Env = append(os.Environ(), "TERM=xterm")
	cmd.Stdout, cmd.Stderr = &stdout, program
	drawn := make(chan struct{})
	go func() {
		defer close(drawn)
		_, _ = io.Copy(&shown, screen) // it ends with EIO, once nobody has the other side
	}()
	ended := start(t, cmd, syscall.SIGKILL)
	require.NoError(t, program.Close())
	<-ended
	<-drawn
	require.Zero(t, cmd.ProcessState.ExitCode(), "%s", &shown)
	require.Contains(t, stdout.String(), `"format": "replicaof"`)
	require.Equal(t, master.Digest(), s.Digest())
	require.Regexp(t, `\rrestoring cache +\d+% \|█+ *\| +\([\d.]+/15 MiB, [\d.]+ [KM]iB/s\) \[\d+s:\d+s\]`, shown.String())
	require.Regexp(t, `\r *\r$`, shown.String(), "the bar is taken away")

	r := blackbox.Run(t, into...)
	require.Zero(t, r.Code, "%s", r)
	require.Empty(t, r.Stderr, "a pipe gets no bar")
}
