package blackbox

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/offloader/offloader/internal/engine/enginetest"
)

const (
	patience  = 30 * time.Second // for a daemon to get anywhere; generous for a busy machine
	pollEvery = 10 * time.Millisecond
	lastWords = 60 // lines of its log that a failed test shows
)

// A Source is a master to archive, as the configuration has it.
type Source struct {
	Name, Address      string
	Username, Password string
}

// A Daemon is `offloader run`, with the archive that it writes. Its methods fail the test when
// something goes wrong.
type Daemon struct {
	Archive
	Dir string // its archive, with the spool in .spool

	args   []string
	client *http.Client
	url    string // of its API, "" without a configuration
	config string // path, "" without one
	log    string

	mu    sync.Mutex
	cmd   *exec.Cmd
	ended chan struct{} // closed when the process is gone
}

// Start starts a daemon with a configuration. Below dir are its configuration, its archive and
// its spool; where a daemon was before, another goes on.
func Start(t TB, dir string, sources ...Source) *Daemon {
	t.Helper()
	d := newDaemon(t, dir)
	d.config = filepath.Join(dir, "offloader.yaml")
	d.url = "http://127.0.0.1:" + strconv.Itoa(enginetest.FreePort(t))
	d.Configure(sources...)
	d.args = []string{"run", "--config", d.config}
	d.where = []string{"--config", d.config}
	d.Restart()
	return d
}

// StartBare starts a daemon without a configuration, as the first of its users do: one master,
// source main.
func StartBare(t TB, dir, master string, args ...string) *Daemon {
	t.Helper()
	d := newDaemon(t, dir)
	d.args = slices.Concat([]string{"run", "--master", master, "--archive", d.Dir}, args)
	d.Restart()
	return d
}

func newDaemon(t TB, dir string) *Daemon {
	archive := filepath.Join(dir, "archive")
	d := &Daemon{Archive: ArchiveAt(t, archive), Dir: archive, log: filepath.Join(t.TempDir(), "log"), client: &http.Client{Timeout: 10 * time.Second}}
	t.Cleanup(d.cleanup)
	return d
}

// Configure writes the configuration. A daemon that runs reads it at Reload.
func (d *Daemon) Configure(sources ...Source) {
	d.t.Helper()
	var y strings.Builder
	fmt.Fprintf(&y, "sources:\n")
	for _, s := range sources {
		fmt.Fprintf(&y, "  - name: %q\n    address: %q\n", s.Name, s.Address)
		if s.Username != "" {
			fmt.Fprintf(&y, "    username: %q\n", s.Username)
		}
		if s.Password != "" {
			fmt.Fprintf(&y, "    password: %q\n", s.Password)
		}
	}
	fmt.Fprintf(&y, "spool: {path: %q, max_size: 4GiB}\n", filepath.Join(d.Dir, ".spool"))
	fmt.Fprintf(&y, "stores:\n  - {type: disk, path: %q}\n", d.Dir)
	fmt.Fprintf(&y, "http: {listen: %q}\n", strings.TrimPrefix(d.url, "http://"))
	if err := os.WriteFile(d.config, []byte(y.String()), 0o600); err != nil {
		d.t.Fatalf("%v", err)
	}
}

// Restart starts the daemon again, after killing it if it still runs, and returns when it
// answers.
func (d *Daemon) Restart() {
	d.t.Helper()
	d.Kill()
	log, err := os.OpenFile(d.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		d.t.Fatalf("%v", err)
	}
	cmd := exec.Command(Binary(d.t), d.args...)
	cmd.Env = append(os.Environ(), d.env...)
	cmd.Stdout, cmd.Stderr = log, log
	waited, ended := launch(d.t, cmd), make(chan struct{})
	go func() {
		defer close(ended)
		if err := <-waited; err != nil {
			fmt.Fprintln(log, "the daemon ended:", err)
		}
		_ = log.Close()
	}()
	d.mu.Lock()
	d.cmd, d.ended = cmd, ended
	d.mu.Unlock()
	for deadline := time.Now().Add(patience); ; time.Sleep(pollEvery) {
		if _, err = d.ask(); err == nil {
			return
		}
		select {
		case <-ended:
			d.t.Fatalf("the daemon ended at once: %v\n%s", cmd.ProcessState, d.tail())
		default:
		}
		if time.Now().After(deadline) {
			d.t.Fatalf("the daemon didn't answer within %v: %v\n%s", patience, err, d.tail())
		}
	}
}

// ask gets the status: from the port of its configuration, or by the command that finds its
// socket.
func (d *Daemon) ask() (s Status, err error) {
	var body []byte
	if d.url == "" {
		r := d.Run("status", "--json")
		if r.Code != 0 {
			return s, fmt.Errorf("%s", r)
		}
		body = []byte(r.Stdout)
	} else {
		answer, err := d.client.Get(d.url + "/api/v1/status")
		if err != nil {
			return s, err
		}
		body, err = io.ReadAll(answer.Body)
		_ = answer.Body.Close()
		if err != nil {
			return s, err
		}
	}
	err = json.Unmarshal(body, &s)
	return s, err
}

// Get gets a page of its API.
func (d *Daemon) Get(path string) string {
	d.t.Helper()
	answer, err := d.client.Get(d.url + path)
	if err != nil {
		d.t.Fatalf("%v", err)
	}
	body, err := io.ReadAll(answer.Body)
	_ = answer.Body.Close()
	if err != nil {
		d.t.Fatalf("%v", err)
	}
	return string(body)
}

// Status is what it does now.
func (d *Daemon) Status() Status {
	d.t.Helper()
	s, err := d.ask()
	if err != nil {
		d.t.Fatalf("ask the daemon for its status: %v\n%s", err, d.tail())
	}
	return s
}

// Source is what it does now with one source.
func (d *Daemon) Source(name string) SourceStatus {
	d.t.Helper()
	status := d.Status()
	for _, s := range status.Sources {
		if s.Name == name {
			return s
		}
	}
	d.t.Fatalf("the status has no source %q: %+v", name, status)
	return SourceStatus{}
}

// Until waits until a source is as it should be.
func (d *Daemon) Until(source, what string, ok func(SourceStatus) bool) SourceStatus {
	d.t.Helper()
	pause := pollEvery
	for deadline := time.Now().Add(patience); ; time.Sleep(pause) {
		s := d.Source(source)
		if ok(s) {
			return s
		}
		pause = min(pause*5/4, 5*pollEvery) // what takes long need not be seen to the millisecond, and asking costs both sides
		if time.Now().After(deadline) {
			d.t.Fatalf("source %s is not %s after %v: %+v", source, what, patience, s)
		}
	}
}

// Streaming waits until a source is archived live.
func (d *Daemon) Streaming(source string) SourceStatus {
	d.t.Helper()
	return d.Until(source, "streaming", func(s SourceStatus) bool { return s.State == "streaming" && s.Timeline != "" })
}

// Durable waits until an offset is.
func (d *Daemon) Durable(source string, offset int64) SourceStatus {
	d.t.Helper()
	return d.Until(source, fmt.Sprintf("durable up to %d", offset), func(s SourceStatus) bool { return s.Durable >= offset })
}

// Pid is the daemon's process.
func (d *Daemon) Pid() int { return d.cmd.Process.Pid }

// RSS is the memory that it has now, and the most it ever had, in bytes.
func (d *Daemon) RSS() (now, peak int64) {
	d.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", d.Pid()))
	if err != nil {
		d.t.Fatalf("%v", err)
	}
	for line := range strings.Lines(string(text)) {
		var kib int64
		if n, _ := fmt.Sscanf(line, "VmRSS: %d kB", &kib); n == 1 {
			now = kib << 10
		}
		if n, _ := fmt.Sscanf(line, "VmHWM: %d kB", &kib); n == 1 {
			peak = kib << 10
		}
	}
	return now, peak
}

// Kill ends it as a power cut would (SIGKILL), and returns when it is gone. It may be called from
// any goroutine.
func (d *Daemon) Kill() {
	d.mu.Lock()
	cmd, ended := d.cmd, d.ended
	d.mu.Unlock()
	if cmd != nil {
		_ = cmd.Process.Kill() // an error says that it is gone already
		<-ended
	}
}

// Stop asks it to leave (SIGTERM), and returns when it has, which must be in seconds and with
// exit code 0.
func (d *Daemon) Stop() {
	d.t.Helper()
	d.Signal(syscall.SIGTERM)
	select {
	case <-d.ended:
	case <-time.After(patience):
		d.t.Fatalf("the daemon didn't leave within %v of SIGTERM\n%s", patience, d.tail())
	}
	if code := d.cmd.ProcessState.ExitCode(); code != 0 {
		d.t.Fatalf("the daemon left with exit code %d\n%s", code, d.tail())
	}
}

// Reload lets it read its configuration again (SIGHUP).
func (d *Daemon) Reload() {
	d.t.Helper()
	d.Signal(syscall.SIGHUP)
}

// Signal sends a signal.
func (d *Daemon) Signal(s os.Signal) {
	d.t.Helper()
	if err := d.cmd.Process.Signal(s); err != nil {
		d.t.Fatalf("send %v to the daemon: %v\n%s", s, err, d.tail())
	}
}

// LogText is all that it has said, restarts included.
func (d *Daemon) LogText() string {
	text, _ := os.ReadFile(d.log) // none yet: it has said nothing
	return string(text)
}

func (d *Daemon) cleanup() {
	d.Kill()
	d.client.CloseIdleConnections()
	trouble := crash(d.LogText())
	switch {
	case trouble != "":
		d.t.Fatalf("%q in the daemon's log:\n%s", trouble, d.LogText())
	case d.t.Failed():
		d.t.Logf("the daemon: %s", d.tail())
	}
}

// tail is the end of the log, for a failed test.
func (d *Daemon) tail() string {
	lines := bytes.SplitAfter([]byte(d.LogText()), []byte("\n"))
	return "the last of its log:\n" + string(bytes.Join(lines[max(0, len(lines)-lastWords):], nil))
}
