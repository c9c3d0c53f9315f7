package blackbox

import (
	"bufio"
	"bytes"
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"slices"
	"sync"
	"syscall"
	"time"
)

// A Serving is a running `offloader serve`.
type Serving struct {
	Source   string `json:"source"`
	Timeline string `json:"timeline"`
	Offset   int64  `json:"offset"`
	ReplID   string `json:"replid"`
	Listen   string `json:"listen"`

	t     TB
	cmd   *exec.Cmd
	ended <-chan error
	log   *output
}

// Serve serves the archive until the test ends, or Stop. args say at which point.
func (a Archive) Serve(args ...string) *Serving {
	a.t.Helper()
	all := slices.Concat(a.env, []string{"serve", "--json"}, args, a.where)
	s := &Serving{t: a.t, log: &output{}}
	env := os.Environ()
	for len(all) > 0 && isAssignment(all[0]) {
		env, all = append(env, all[0]), all[1:]
	}
	s.cmd = exec.Command(Binary(a.t), all...)
	s.cmd.Env, s.cmd.Stderr = env, s.log
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		a.t.Fatalf("%v", err)
	}
	s.ended = launch(a.t, s.cmd)
	a.t.Cleanup(func() {
		s.Stop()
		if trouble := crash(s.log.String()); trouble != "" {
			a.t.Fatalf("%s in offloader serve\n%s", trouble, s.log)
		}
	})
	if err := json.NewDecoder(bufio.NewReader(out)).Decode(s); err != nil {
		a.t.Fatalf("serve said nothing: %v\n%s", err, s.log)
	}
	return s
}

// At is where it listens, as REPLICAOF takes it: host and port.
func (s *Serving) At() (host, port string) {
	s.t.Helper()
	host, port, err := net.SplitHostPort(s.Listen)
	if err != nil {
		s.t.Fatalf("serve listens at %q: %v", s.Listen, err)
	}
	return host, port
}

// LogText is what it has said so far.
func (s *Serving) LogText() string { return s.log.String() }

// Stop ends it as Ctrl-C does: it has to leave by itself, and say that all went well.
func (s *Serving) Stop() {
	s.t.Helper()
	if s.ended == nil {
		return
	}
	_ = s.cmd.Process.Signal(syscall.SIGINT) // an error says that it is gone
	select {
	case err := <-s.ended:
		s.ended = nil
		if err != nil {
			s.t.Fatalf("serve ended with %v\n%s", err, s.log)
		}
	case <-time.After(patience):
		_ = s.cmd.Process.Kill() // an error says that it is gone
		err := <-s.ended
		s.ended = nil
		s.t.Fatalf("serve didn't end within %v: %v\n%s", patience, err, s.log)
	}
}

// output keeps what a process says.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}
