package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/offloader/offloader/internal/engine/enginetest"
	"github.com/offloader/offloader/internal/httpapi"
)

// patience is how long anything may take before the run is given up.
const patience = 10 * time.Minute

// daemon is a running `offloader run`.
type daemon struct {
	b       *bench
	dir     string // config, log, spool and archive
	store   string // as the configuration has it
	http    int
	cmd     *exec.Cmd
	started time.Time
	ended   bool
	program string // of a server for scratch engines, "": those in PATH
}

// target is a source: its name, and the ports of its master on the loopback and of its relay, 0 for none.
type target struct {
	name  string
	port  int
	relay int
}

// archive starts a daemon on masters. It is killed when the run ends, if it wasn't stopped.
func (b *bench) archive(targets ...target) *daemon {
	return b.archiveTo("{type: disk, path: $DIR/archive}", targets...)
}

// archiveTo starts one that has another store. $DIR is the daemon's folder.
func (b *bench) archiveTo(store string, targets ...target) *daemon {
	d := &daemon{b: b, dir: b.folder("daemon"), http: enginetest.FreePort(b)}
	d.store = strings.ReplaceAll(store, "$DIR", d.dir)
	b.check(os.MkdirAll(d.dir, 0o750), "make a folder")
	d.configure(targets...)
	log, err := os.Create(d.path("log"))
	b.check(err, "make a log")
	d.cmd = exec.Command(b.binary, "run", "--config", d.path("offloader.yaml"))
	d.cmd.Stdout, d.cmd.Stderr = log, log
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	d.started = time.Now()
	b.check(d.cmd.Start(), "start offloader")
	b.check(log.Close(), "close a log")
	b.Cleanup(func() { d.kill() })
	return d
}

// archiveOne starts a daemon on one master and returns when it is in step.
func (b *bench) archiveOne(master *enginetest.Server) *daemon {
	d := b.archive(target{name: "main", port: master.Port()})
	d.inStep(master)
	return d
}

// relaying starts a daemon on one master, with a relay, and returns when it is in step and all is stored.
func (b *bench) relaying(master *enginetest.Server) (d *daemon, port int) {
	port = enginetest.FreePort(b)
	d = b.archive(target{"main", master.Port(), port})
	d.inStep(master)
	d.stored(0)
	return d, port
}

// configure writes the configuration. A running daemon takes it at reload.
func (d *daemon) configure(targets ...target) {
	var text strings.Builder
	fmt.Fprintf(&text, "spool: {path: %s, max_size: 20GiB, min_free: 1%%}\nstores: [%s]\nhttp: {listen: \"127.0.0.1:%d\"}\nsources:\n",
		d.path("spool"), d.store, d.http)
	for _, t := range targets {
		relay := ""
		if t.relay > 0 {
			relay = fmt.Sprintf(", relay: {listen: \"127.0.0.1:%d\"}", t.relay)
		}
		fmt.Fprintf(&text, "  - {name: %s, address: \"127.0.0.1:%d\"%s}\n", t.name, t.port, relay)
	}
	if d.program != "" {
		fmt.Fprintf(&text, "engine: {redis: %q, valkey: %q}\n", d.program, d.program)
	}
	d.b.check(os.WriteFile(d.path("offloader.yaml"), []byte(text.String()), 0o600), "write a configuration")
}

func (d *daemon) reload() {
	d.b.check(d.cmd.Process.Signal(syscall.SIGHUP), "tell offloader to reload")
}

func (d *daemon) path(name string) string { return filepath.Join(d.dir, name) }

func (d *daemon) pid() int { return d.cmd.Process.Pid }

// status asks the daemon; it is empty while nobody answers.
func (d *daemon) status() (r httpapi.Report) {
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Get(fmt.Sprintf("http://127.0.0.1:%d/api/v1/status", d.http))
	if err != nil {
		return r
	}
	defer response.Body.Close()
	_ = json.NewDecoder(response.Body).Decode(&r) // half an answer is none
	return r
}

// source is what the status says of one.
func (d *daemon) source(name string) httpapi.Source {
	for _, s := range d.status().Sources {
		if s.Name == name {
			return s
		}
	}
	return httpapi.Source{}
}

// until waits for the daemon. It looks seldom, since looking costs what is being measured.
func (d *daemon) until(what string, ok func() bool) {
	d.b.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			d.b.Fatalf("offloader: no %s within %v\n%s", what, patience, d.log())
		}
	}
}

// inStep waits until all that the master has said is durable.
func (d *daemon) inStep(master *enginetest.Server) {
	d.b.Helper()
	at := master.Offset()
	d.until("step with its master", func() bool {
		s := d.source("main")
		return s.State == "streaming" && s.LastSnapshot != nil && int64(s.Durable) >= at
	})
}

// stored waits until the store lacks no more than rest bytes of the stream, nor the snapshot.
func (d *daemon) stored(rest int64) {
	d.b.Helper()
	d.until("stored stream", func() bool {
		found, err := filepath.Glob(d.path("archive/main/*/snapshots/*.json"))
		s := d.source("main")
		return err == nil && len(found) > 0 && len(s.Stores) == 1 && s.Stores[0].LagBytes <= rest
	})
}

// stop tells the daemon to leave, as a service manager does: it drains and seals. All the CPU
// seconds that it has used come back.
func (d *daemon) stop() (cpu float64) {
	d.b.check(d.cmd.Process.Signal(syscall.SIGTERM), "tell offloader to leave")
	err := d.cmd.Wait()
	d.ended = true
	d.b.check(err, "offloader didn't leave cleanly\n%s\n", d.log())
	return (d.cmd.ProcessState.UserTime() + d.cmd.ProcessState.SystemTime()).Seconds()
}

// remove forgets what the daemon has stored.
func (d *daemon) remove() {
	d.kill()
	d.b.check(os.RemoveAll(d.dir), "remove an archive")
}

func (d *daemon) kill() {
	if !d.ended {
		_ = d.cmd.Process.Kill()
		_ = d.cmd.Wait()
		d.ended = true
	}
}

// log is the end of what it said.
func (d *daemon) log() string {
	text, err := os.ReadFile(d.path("log"))
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-4096):])
}
