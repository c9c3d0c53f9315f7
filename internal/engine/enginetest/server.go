package enginetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

const (
	emptyBoot = 30 * time.Second // a server with nothing to load; generous for a busy machine
	fullBoot  = 5 * time.Minute  // one that loads a dataset
	lastWords = 40               // lines of its log that a failed test shows
)

// errPortTaken says that someone else was faster.
var errPortTaken = errors.New("the port is taken")

// A Server is a running engine. Its methods fail the test when something goes wrong, so they
// belong on the test's own goroutine; those that only tell (Addr, Port, Pid, Dir) go anywhere.
type Server struct {
	t    TB
	kind Kind
	dir  string
	port int
	args []string // the caller's, after ours
	log  string   // path of its output

	mu      sync.Mutex
	cmd     *exec.Cmd
	ended   chan struct{} // closed when the process is gone
	clients map[int]*redis.Client
}

// Start starts an engine with an empty dataset, no persistence and a folder of its own, and
// returns when it answers. args are options as on its command line, behind its configuration file if it
// has one, and win over ours.
func Start(t TB, kind Kind, args ...string) *Server {
	t.Helper()
	return start(t, kind, t.TempDir(), emptyBoot, args)
}

// StartIn starts an engine on a folder that is there already, and returns when it has loaded
// what it found. It takes dump.rdb by itself; an AOF needs "--appendonly", "yes".
func StartIn(t TB, kind Kind, dir string, args ...string) *Server {
	t.Helper()
	return start(t, kind, dir, fullBoot, args)
}

func start(t TB, kind Kind, dir string, patience time.Duration, args []string) *Server {
	t.Helper()
	// The log lies elsewhere: dir may be a restored folder, to be compared afterwards.
	s := &Server{t: t, kind: kind, dir: dir, args: args, log: filepath.Join(t.TempDir(), "log"), clients: map[int]*redis.Client{}}
	t.Cleanup(s.cleanup)
	for try := 1; ; try++ {
		s.port = FreePort(t)
		err := s.boot(patience, args)
		if err == nil {
			return s
		}
		s.end()
		if !errors.Is(err, errPortTaken) || try == 5 {
			t.Fatalf("start %s: %v\n%s", kind, err, s.tail())
		}
	}
}

// FreePort finds a loopback port that nobody listens on, and that the system won't give to an
// outgoing connection: it is below the range for those, so it is still free after a restart.
// Above it there is room for a cluster's bus (port + 10000).
func FreePort(t TB) int {
	t.Helper()
	for range 100 {
		port := 12000 + rand.IntN(20000)
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			continue
		}
		_ = l.Close()
		return port
	}
	t.Fatalf("no free port found in 100 tries")
	return 0
}

// boot starts the process and waits until it answers as itself and has loaded its data.
func (s *Server) boot(patience time.Duration, args []string) error {
	before := len(s.LogText())
	if err := s.launch(args); err != nil {
		return err
	}
	deadline := time.Now().Add(patience)
	for {
		pid, err := s.answer()
		if err == nil && (pid == 0 || pid == s.Pid()) {
			return nil
		}
		if err == nil {
			return fmt.Errorf("%w: process %d answers on %s", errPortTaken, pid, s.Addr())
		}
		select {
		case <-s.ended:
			if strings.Contains(s.LogText()[before:], "Address already in use") {
				return errPortTaken
			}
			return fmt.Errorf("it ended at once: %v", s.cmd.ProcessState)
		case <-time.After(10 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("no answer on %s within %v: %w", s.Addr(), patience, err)
		}
	}
}

// launch starts the process. The goroutine that does so stays on its thread until the process
// is gone, since the kernel's death signal (Pdeathsig) goes by the thread that started it.
func (s *Server) launch(args []string) error {
	log, err := os.OpenFile(s.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	options := []string{
		"--bind", "127.0.0.1", "--port", strconv.Itoa(s.port), "--dir", s.dir, "--daemonize", "no",
		"--save", "", "--appendonly", "no", "--repl-diskless-sync-delay", "0", "--enable-debug-command", "yes",
	}
	if len(args) > 0 && !strings.HasPrefix(args[0], "--") { // its file comes before all options
		options, args = append([]string{args[0]}, options...), args[1:]
	}
	cmd := exec.Command(s.kind.Tool("server"), slices.Concat(options, args)...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}

	started, ended := make(chan error, 1), make(chan struct{})
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(ended)
		defer func() { _ = log.Close() }()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // how it ended is in cmd.ProcessState
		}
	}()
	err = <-started
	s.mu.Lock()
	s.cmd, s.ended = cmd, ended
	s.mu.Unlock()
	if err != nil {
		return fmt.Errorf("%w: run scripts/engines", err)
	}
	return nil
}

// answer asks the server who it is. The pid is 0 where it won't tell us: it wants a password
// that we don't know, or serves nothing until its master is there.
func (s *Server) answer() (pid int, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	knock, err := net.Dial("tcp", s.Addr()) // the client would log each refusal
	if err != nil {
		return 0, err
	}
	_ = knock.Close()
	switch err := s.Client().Ping(ctx).Err(); {
	case err == nil, redis.HasErrorPrefix(err, "MASTERDOWN"):
	case redis.HasErrorPrefix(err, "NOAUTH"), redis.HasErrorPrefix(err, "WRONGPASS"), redis.HasErrorPrefix(err, "NOPERM"):
		return 0, nil
	default:
		return 0, err
	}
	info, err := s.Client().Info(ctx, "server").Result()
	if err != nil {
		return 0, nil
	}
	return strconv.Atoi(fields(info)["process_id"])
}

// Kind is the engine that it is.
func (s *Server) Kind() Kind { return s.kind }

// Addr is where it listens, host and port.
func (s *Server) Addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port)) }

// Port is where it listens on the loopback.
func (s *Server) Port() int { return s.port }

// Pid is the engine's own process.
func (s *Server) Pid() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cmd.Process.Pid
}

// Dir is its working folder: dump.rdb and the AOF are there.
func (s *Server) Dir() string { return s.dir }

// LogText is all that it has said, restarts included.
func (s *Server) LogText() string {
	text, _ := os.ReadFile(s.log) // none yet: it has said nothing
	return string(text)
}

// Kill ends it as a power cut would (SIGKILL) and returns when it is gone.
func (s *Server) Kill() { s.end() }

// Stop asks it to end (SIGTERM), as a service manager does, and returns when it is gone. It
// saves if it was told to, and waits for lagging replicas, up to its shutdown-timeout.
func (s *Server) Stop() {
	s.t.Helper()
	s.dropClients()
	_ = s.cmd.Process.Signal(syscall.SIGTERM) // an error says that it is gone already
	select {
	case <-s.ended:
	case <-time.After(30 * time.Second):
		s.end()
		s.t.Fatalf("%s on %s didn't end within 30 s of SIGTERM\n%s", s.kind, s.Addr(), s.tail())
	}
}

// Restart starts it again on the same port and folder, after killing it if it still runs. It
// gets the options it was started with, and then args, which win.
func (s *Server) Restart(args ...string) {
	s.t.Helper()
	s.end()
	args = slices.Concat(s.args, args)
	for try := 1; ; try++ {
		err := s.boot(fullBoot, args)
		if err == nil {
			return
		}
		s.end()
		if !errors.Is(err, errPortTaken) || try == 5 {
			s.t.Fatalf("restart %s on %s: %v\n%s", s.kind, s.Addr(), err, s.tail())
		}
		time.Sleep(200 * time.Millisecond) // whoever has the port is another test's, and short-lived
	}
}

// Client is a connection pool to database 0. It sends nothing by itself that the server would
// count as an error. Kill, Stop and Restart close it: ask again afterwards.
func (s *Server) Client() *redis.Client { return s.DB(0) }

// DB is a connection pool to database n, otherwise like Client.
func (s *Server) DB(n int) *redis.Client {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.clients[n] == nil {
		s.clients[n] = redis.NewClient(&redis.Options{
			Addr:                     s.Addr(),
			DB:                       n,
			Password:                 s.password(),
			Protocol:                 2,
			DisableIdentity:          true,
			MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
			DialerRetries:            1,
			MaxRetries:               -1, // a command that failed is the test's business
			ReadTimeout:              fullBoot,
			ContextTimeoutEnabled:    true,
		})
	}
	return s.clients[n]
}

// password is what the caller's options demand of clients.
func (s *Server) password() string {
	if i := slices.Index(s.args, "--requirepass"); i >= 0 && i+1 < len(s.args) {
		return s.args[i+1]
	}
	return ""
}

// Do sends one command to database 0 and returns its reply, nil for a null. An error reply
// fails the test: where one is expected, use Client.
func (s *Server) Do(args ...any) any {
	s.t.Helper()
	reply, err := s.Client().Do(context.Background(), args...).Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		s.t.Fatalf("%s on %s: %.200s: %v", s.kind, s.Addr(), fmt.Sprint(args...), err)
	}
	return reply
}

// Digest stands for the whole dataset (DEBUG DIGEST), whatever engine holds it. It doesn't see
// when keys expire, nor groups of a stream: Diff does.
func (s *Server) Digest() string {
	s.t.Helper()
	return fmt.Sprint(s.Do("DEBUG", "DIGEST"))
}

// Offset is how much stream it has produced, or received as a replica (master_repl_offset).
func (s *Server) Offset() int64 {
	s.t.Helper()
	text := s.Info("replication")["master_repl_offset"]
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		s.t.Fatalf("%s on %s: master_repl_offset is %q", s.kind, s.Addr(), text)
	}
	return n
}

// Info is the fields of one section of INFO.
func (s *Server) Info(section string) map[string]string {
	s.t.Helper()
	return fields(fmt.Sprint(s.Do("INFO", section)))
}

func fields(info string) map[string]string {
	m := map[string]string{}
	for line := range strings.Lines(info) {
		if name, value, ok := strings.Cut(strings.TrimRight(line, "\r\n"), ":"); ok {
			m[name] = value
		}
	}
	return m
}

// end kills the process, if it still runs, and waits for it.
func (s *Server) end() {
	s.dropClients()
	if s.cmd == nil || s.cmd.Process == nil {
		return
	}
	_ = s.cmd.Process.Kill() // an error says that it is gone already
	<-s.ended
}

func (s *Server) dropClients() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.clients {
		_ = c.Close()
	}
	clear(s.clients)
}

func (s *Server) cleanup() {
	s.end()
	if s.t.Failed() {
		s.t.Logf("%s on %s:\n%s", s.kind, s.Addr(), s.tail())
	}
}

// tail is the end of the log, for a failed test.
func (s *Server) tail() string {
	text, err := os.ReadFile(s.log)
	if err != nil {
		return "no log: " + err.Error()
	}
	lines := bytes.SplitAfter(text, []byte("\n"))
	return "the last of its log:\n" + string(bytes.Join(lines[max(0, len(lines)-lastWords):], nil))
}
