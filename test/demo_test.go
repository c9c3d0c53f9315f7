package test

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/engine/enginetest"
	"github.com/offloader/offloader/test/blackbox"
)

// TestDemoBesideAServerOn6379 runs the demo while a server has the port that everybody knows, and
// while other programs are called redis-server: neither is asked anything.
func TestDemoBesideAServerOn6379(t *testing.T) {
	kind := enginetest.All(t)[0]
	look := onPort6379(t, kind)
	before := look()

	// What is called redis-server here is the system's, not the demo's.
	path, touched := t.TempDir(), filepath.Join(t.TempDir(), "touched")
	for _, name := range []string{"redis-server", "redis-cli", "valkey-server", "valkey-cli", "systemctl", "service"} {
		executable(t, filepath.Join(path, name), "echo $0 >>"+touched+"; exit 1")
	}
	d := startDemo(t, "ENGINE="+kind.String(), "PATH="+path+":"+os.Getenv("PATH"), "REDISCLI_AUTH=wrong", "OFFLOADER_PASSWORD=wrong")
	code := d.wait()
	out := d.stdout.String()
	require.Zero(t, code, "%s\n%s", out, d.stderr.String())
	for _, line := range []string{"\n$ offloader run --master 127.0.0.1:", "\n$ offloader restore --archive archive --before FLUSHALL --output restored\n", "\nNothing is missing: all "} {
		require.Contains(t, out, line)
	}
	back := regexp.MustCompile(`\nThe master is back after (\d+) s, by a plain restart, with every order that was confirmed, on the same timeline\.\n`).FindStringSubmatch(out)
	require.NotNil(t, back, out)
	seconds, err := strconv.Atoi(back[1])
	require.NoError(t, err)
	require.Less(t, seconds, 30)
	require.Regexp(t, `\n\$ kill -9 \d+\n`, out)
	require.Contains(t, out, "(1 rebirth)")
	require.NotContains(t, out, "\x1b", "colour is for terminals")
	require.Empty(t, d.stderr.String())
	d.leftNothing()

	require.NoFileExists(t, touched, "a program of the system was called")
	after := look()
	require.Equal(t, before.kept, after.kept)
	require.GreaterOrEqual(t, after.uptime, before.uptime, "it was restarted")
}

// TestDemoThatIsInterrupted ends it at several of its steps, as ^C and service managers do.
func TestDemoThatIsInterrupted(t *testing.T) {
	kind := enginetest.All(t)[0]
	for step, how := range map[string]syscall.Signal{"redis-server": syscall.SIGTERM, "offloader run": syscall.SIGINT, "DEBUG DIGEST": syscall.SIGHUP} {
		t.Run(how.String(), func(t *testing.T) {
			// A shell can't trap what it was started to ignore, as everything below nohup is.
			heard := make(chan os.Signal, 1)
			signal.Notify(heard, how)
			defer signal.Stop(heard)
			d := startDemo(t, "ENGINE="+kind.String())
			d.until(strings.Replace(step, "redis", strings.TrimRight(kind.String(), "0123456789."), 1))
			require.NoError(t, d.cmd.Process.Signal(how))
			require.Equal(t, 128+int(how), d.wait())
			d.leftNothing()
		})
	}
}

// TestDemoThatFails shows that it doesn't say what isn't true.
func TestDemoThatFails(t *testing.T) {
	kind := enginetest.All(t)[0]
	other := filepath.Join(t.TempDir(), "offloader")
	executable(t, other, `[ "$1" != restore ] || set -- restore --archive archive --latest --output restored
exec "`+blackbox.Binary(t)+`" "$@"`)
	dead := filepath.Join(t.TempDir(), "offloader")
	executable(t, dead, `echo "it has a headache" >&2; exit 1`)
	for name, one := range map[string]struct {
		says string
		env  []string
	}{
		"not built":      {"/nowhere/offloader is not there: run `make demo`", []string{"OFFLOADER_BIN=/nowhere/offloader"}},
		"no engine":      {"no such engine: redis1.0", []string{"ENGINE=redis1.0", "OFFLOADER_ENGINES="}},
		"a dead daemon":  {"the daemon ended\ndemo: the last that offloader.log said:\ndemo:   it has a headache", []string{"OFFLOADER_BIN=" + dead}},
		"not the moment": {"demo: the master had ", []string{"OFFLOADER_BIN=" + other}},
	} {
		t.Run(name, func(t *testing.T) {
			d := startDemo(t, append([]string{"ENGINE=" + kind.String()}, one.env...)...)
			require.Equal(t, 1, d.wait())
			require.Contains(t, d.stderr.String(), one.says)
			require.NotContains(t, d.stdout.String(), "Nothing is missing")
			d.leftNothing()
		})
	}
}

// demo is scripts/demo at work, with a folder of its own for temporary files.
type demo struct {
	t              *testing.T
	cmd            *exec.Cmd
	dir            string
	stdout, stderr *syncBuffer
	ended          chan struct{}
}

func startDemo(t *testing.T, env ...string) *demo {
	t.Helper()
	d := &demo{t: t, dir: t.TempDir(), stdout: &syncBuffer{}, stderr: &syncBuffer{}}
	d.cmd = exec.Command("../scripts/demo")
	d.cmd.Env = append(append(os.Environ(), "TMPDIR="+d.dir, "TERM=xterm"), env...)
	d.cmd.Stdout, d.cmd.Stderr = d.stdout, d.stderr
	d.ended = start(t, d.cmd, syscall.SIGTERM)
	return d
}

// wait gives its exit code.
func (d *demo) wait() int {
	d.t.Helper()
	select {
	case <-d.ended:
	case <-time.After(3 * time.Minute):
		d.t.Fatalf("the demo doesn't end:\n%s%s", d.stdout, d.stderr)
	}
	return d.cmd.ProcessState.ExitCode()
}

// until waits for a command that it shows.
func (d *demo) until(shown string) {
	d.t.Helper()
	require.Eventually(d.t, func() bool {
		for line := range strings.Lines(d.stdout.String()) {
			if strings.HasPrefix(line, "$ ") && strings.Contains(line, shown) {
				return true
			}
		}
		return false
	}, 2*time.Minute, 10*time.Millisecond, "no %q in %s", shown, d.stdout)
}

// leftNothing looks for processes that work in its folder or name it, and for files.
func (d *demo) leftNothing() {
	d.t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*")
	require.NoError(d.t, err)
	for _, process := range all {
		cwd, _ := os.Readlink(process + "/cwd") // gone, or another user's
		args, _ := os.ReadFile(process + "/cmdline")
		if strings.Contains(cwd, d.dir) || bytes.Contains(args, []byte(d.dir)) {
			d.t.Errorf("still there: %s in %s", bytes.ReplaceAll(args, []byte{0}, []byte{' '}), cwd)
		}
	}
	left, err := os.ReadDir(d.dir)
	require.NoError(d.t, err)
	require.Empty(d.t, left)
}

// bystander is what is seen of the server on 6379.
type bystander struct {
	kept   map[string]string // stays as it is
	uptime int
}

// onPort6379 puts a server there, or finds one: then it is somebody's, and only looked at.
func onPort6379(t *testing.T, kind enginetest.Kind) (look func() bystander) {
	t.Helper()
	ours := false
	if l, err := net.Listen("tcp", "127.0.0.1:6379"); err == nil {
		require.NoError(t, l.Close())
		ours = true
		cmd := exec.Command(kind.Tool("server"), "--bind", "127.0.0.1", "--port", "6379", "--dir", t.TempDir(), "--save", "", "--enable-debug-command", "yes")
		ended := start(t, cmd, syscall.SIGKILL)
		t.Cleanup(func() { _ = cmd.Process.Kill(); <-ended }) // an error says that it is gone
	} else {
		require.ErrorIs(t, err, syscall.EADDRINUSE)
		t.Logf("somebody's server has port 6379: it is looked at, and left alone")
	}
	client := redis.NewClient(&redis.Options{
		Addr: "127.0.0.1:6379", PoolSize: 1, Protocol: 2, DisableIdentity: true, MaxRetries: -1, ConnMaxIdleTime: -1,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	})
	t.Cleanup(func() { _ = client.Close() })
	if ours {
		require.Eventually(t, func() bool { return client.Ping(t.Context()).Err() == nil }, 30*time.Second, 20*time.Millisecond)
		for i := range 100 {
			require.NoError(t, client.Set(t.Context(), fmt.Sprint("mine:", i), i, 0).Err())
		}
	}
	return func() bystander {
		seen := bystander{kept: map[string]string{}}
		info, err := client.Info(t.Context(), "everything").Result()
		if err != nil { // not a server that tells: that it listens is all that can be known
			knock, err := net.Dial("tcp", "127.0.0.1:6379")
			if err == nil {
				_ = knock.Close()
			}
			seen.kept["listens"] = fmt.Sprint(err == nil)
			return seen
		}
		fields := map[string]string{}
		for line := range strings.Lines(info) {
			name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
			fields[name] = value
		}
		seen.uptime, err = strconv.Atoi(fields["uptime_in_seconds"])
		require.NoError(t, err)
		for _, name := range []string{"run_id", "role", "master_replid"} {
			seen.kept[name] = fields[name]
		}
		if ours { // then each connection and each command can be told
			seen.kept["connections"] = fields["total_connections_received"]
			seen.kept["keys"] = fields["db0"]
			for name, value := range fields {
				if strings.HasPrefix(name, "cmdstat_") && name != "cmdstat_info" && name != "cmdstat_debug" {
					seen.kept[name] = value
				}
			}
			seen.kept["digest"] = client.Do(t.Context(), "DEBUG", "DIGEST").String()
		}
		return seen
	}
}

// executable writes a shell script.
func executable(t *testing.T, path, text string) {
	t.Helper()
	require.NoError(t, os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o755))
}

// start starts a process, and gives what is closed when it has ended. It gets a signal when this one
// dies: the goroutine that starts it stays on its thread, because the kernel looks at that (Pdeathsig).
func start(t *testing.T, cmd *exec.Cmd, atDeath syscall.Signal) chan struct{} {
	t.Helper()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: atDeath}
	started, ended := make(chan error, 1), make(chan struct{})
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(ended)
		err := cmd.Start()
		started <- err
		var exit *exec.ExitError
		if err == nil {
			if err := cmd.Wait(); err != nil && !errors.As(err, &exit) {
				t.Errorf("%s: %v", cmd.Path, err)
			}
		}
	}()
	require.NoError(t, <-started)
	t.Cleanup(func() {
		_ = cmd.Process.Signal(atDeath) // an error says that it is gone
		<-ended
	})
	return ended
}

// syncBuffer can be read while a process writes.
type syncBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}
