// Package engine runs a scratch engine: a redis-server or valkey-server of our own, which replicates
// from a relay and is asked what it holds then. Whatever else there is to say about an archive, that an engine
// has loaded it and holds what its master held is the proof.
//
// It is private: it listens on a socket in a folder that only we may enter, which is taken away as soon as we
// are connected, so that nothing is left of it, however it ends. It stores nothing, loads the RDB as it
// comes in, without a file, and its password, which opens the relay, stands on no command line. Nothing outlives
// us: the kernel ends it with us.
//
// Its memory is that of the whole dataset, which is what this program avoids everywhere else. So it is asked first
// whether there is Room, the process can't take more than that, and if memory runs out all the same it is the
// one that goes: nothing else on the host is to suffer from a proof. A maxmemory would not do: a replica ignores
// it, or evicts keys, and then holds something else.
//
// A replica does not expire keys by itself, and a master that does says so in its stream. So at an offset
// the two hold the same keys, also those whose time has passed, and can be compared by number.
package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
	"golang.org/x/sys/unix"

	"github.com/offloader/offloader/internal/stream"
)

const (
	startFor  = 30 * time.Second // to answer; generous for a busy machine
	lookEvery = 20 * time.Millisecond
	// stallFor is how long nothing may change while it loads and replays: one command on a huge value takes minutes.
	stallFor = 10 * time.Minute

	socket = "engine.sock"
	// databases are more than a master has, mostly: a SELECT of one that isn't there fails.
	databases = 1024
	// largest is beyond any value that a master took.
	largest = "64gb"
)

// Options say what an engine has to have.
type Options struct {
	Databases int   // at least so many
	Memory    int64 // as much may it take; 0: as much as there is
	Saves     bool  // it is going to be told to Save
}

// Engine is one that runs.
type Engine struct {
	Binary
	process *os.Process
	said    *journal
	ended   chan struct{} // closed when the process is gone
	state   atomic.Pointer[os.ProcessState]
	client  *redis.Client
	conn    *redis.Conn
	release func() bool // of ctx's end
}

// Start starts an engine with an empty dataset, and returns when it answers. It ends with ctx, and Close
// has to follow.
func Start(ctx context.Context, b Binary, o Options) (e *Engine, err error) {
	dir, err := os.MkdirTemp("", "offloader-engine-") // 0700
	if err != nil {
		return nil, fmt.Errorf("make a folder for a scratch engine: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	e = &Engine{Binary: b, said: &journal{}, ended: make(chan struct{})}
	if err := e.launch(dir, o); err != nil {
		return nil, err
	}
	e.release = context.AfterFunc(ctx, e.kill)
	line, err := e.connect(ctx, dir)
	if err != nil {
		e.Close()
		return nil, err
	}
	e.client = client(line)
	e.conn = e.client.Conn()
	return e, nil
}

// launch starts the process. The goroutine that does so stays on its thread until the process is gone, since
// the kernel's death signal goes by the thread that started it (prctl(2): PR_SET_PDEATHSIG).
func (e *Engine) launch(dir string, o Options) error {
	cmd := exec.Command(e.Path, "-") // the configuration comes on its standard input
	cmd.Dir, cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = dir, environment(), strings.NewReader(settings(o, e.Binary)), e.said, e.said
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true} // a Ctrl-C is ours to act upon
	started := make(chan error, 1)
	go func() { // Close waits for it
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(e.ended)
		if err := cmd.Start(); err != nil {
			started <- err
			return
		}
		e.process = cmd.Process
		started <- bound(cmd.Process.Pid, o.Memory)
		_ = cmd.Wait() // how it ended is in its state
		e.state.Store(cmd.ProcessState)
	}()
	if err := <-started; err != nil {
		e.kill()
		<-e.ended
		return fmt.Errorf("start %s: %w", e.Path, err)
	}
	return nil
}

// settings are a configuration file. What follows from a limit of the engine's own would be a difference that the
// archive has nothing to do with, so there are none.
func settings(o Options, b Binary) string {
	all := []string{
		"port 0", "unixsocket " + socket, "unixsocketperm 700", "protected-mode yes", "daemonize no", "supervised no",
		`save ""`, "appendonly no", "repl-diskless-load on-empty-db", "maxmemory 0", "replica-read-only yes",
		"databases " + strconv.Itoa(max(databases, o.Databases)),
		"proto-max-bulk-len " + largest, "client-query-buffer-limit " + largest,
		"crash-log-enabled no", "crash-memcheck-enabled no", // it takes minutes to look at what it could not get
	}
	if o.Saves && !strings.HasPrefix(b.Version, "6.") { // where, is told when it is to: engines from 7.0 on want to have been asked
		all = append(all, "enable-protected-configs yes")
	}
	return strings.Join(all, "\n") + "\n"
}

// environment is what a child needs of ours: no secrets, and no socket of systemd's.
func environment() (env []string) {
	env = []string{} // nil would be all of it
	for _, name := range []string{"PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH", "LANG", "TZ"} {
		if value, set := os.LookupEnv(name); set {
			env = append(env, name+"="+value)
		}
	}
	return env
}

// bound keeps a process from taking more memory than it may, and has the kernel choose it before others when
// memory runs out (proc(5): oom_score_adj).
func bound(pid int, memory int64) error {
	if memory > 0 {
		var has unix.Rlimit
		err := unix.Prlimit(pid, unix.RLIMIT_AS, nil, &has)
		if most := uint64(memory); err == nil && most < has.Max {
			err = unix.Prlimit(pid, unix.RLIMIT_AS, &unix.Rlimit{Cur: most, Max: most}, nil)
		}
		if err != nil {
			return fmt.Errorf("limit its memory: %w", err)
		}
	}
	if err := unix.Prlimit(pid, unix.RLIMIT_CORE, &unix.Rlimit{}, nil); err != nil {
		return fmt.Errorf("keep it from dumping core: %w", err)
	}
	// Where that isn't allowed, the limit is still there.
	_ = os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid), []byte("1000"), 0)
	return nil
}

// connect waits until it listens. A socket's path may have 107 bytes only, so it is named by the open folder.
func (e *Engine) connect(ctx context.Context, dir string) (net.Conn, error) {
	folder, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer folder.Close()
	path := fmt.Sprintf("/proc/self/fd/%d/%s", folder.Fd(), socket)
	patience := time.NewTimer(startFor)
	defer patience.Stop()
	for {
		line, err := new(net.Dialer).DialContext(ctx, "unix", path)
		if err == nil {
			return line, nil
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-e.ended:
			return nil, e.failed("it ended at once", nil)
		case <-patience.C:
			return nil, e.failed(fmt.Sprintf("it didn't listen within %v", startFor), err)
		case <-time.After(lookEvery):
		}
	}
}

// client speaks on a connection, and says only what it is told to. It waits for as long as the engine lives:
// that is ended with the context.
func client(line net.Conn) *redis.Client {
	var used atomic.Bool
	return redis.NewClient(&redis.Options{
		Addr: socket, Protocol: 2, DisableIdentity: true, PoolSize: 1, MaxRetries: -1, DialerRetries: 1,
		Dialer: func(context.Context, string, string) (net.Conn, error) {
			if used.Swap(true) {
				return nil, io.ErrUnexpectedEOF
			}
			return line, nil
		},
		ReadTimeout: -1, WriteTimeout: -1,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	})
}

// Follow makes it a replica of a server, and returns when it has all up to an offset, and nothing more.
func (e *Engine) Follow(ctx context.Context, address, password string, to stream.Offset) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	for _, words := range [][]any{{"CONFIG", "SET", "masterauth", password}, {"REPLICAOF", host, port}} {
		if err := e.conn.Do(ctx, words...).Err(); err != nil {
			return e.lost(ctx, "it didn't become a replica", err)
		}
	}
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	last, since := "", time.Now()
	for {
		info, err := e.info(ctx, "replication", "persistence")
		if err != nil {
			return e.lost(ctx, "it didn't answer", err)
		}
		at, err := strconv.ParseInt(info["slave_repl_offset"], 10, 64)
		switch {
		case err != nil || info["master_link_status"] != "up": // until then its offset is one of its own
		case stream.Offset(at) > to:
			return e.failed(fmt.Sprintf("it is at offset %d, and was to have no more than %d", at, to), nil)
		case stream.Offset(at) == to:
			return nil
		}
		if now := info["slave_repl_offset"] + " " + info["loading_loaded_bytes"] + " " + info["master_sync_read_bytes"]; now != last {
			last, since = now, time.Now()
		} else if time.Since(since) > stallFor {
			return e.failed(fmt.Sprintf("it came to offset %s of %d, and no further for %v", info["slave_repl_offset"], to, stallFor), nil)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-look.C:
		}
	}
}

// Save has it write what it holds to a file in a folder: an RDB of where it is.
func (e *Engine) Save(ctx context.Context, dir, name string) error {
	for _, words := range [][]any{{"CONFIG", "SET", "dir", dir}, {"CONFIG", "SET", "dbfilename", name}, {"SAVE"}} {
		if err := e.conn.Do(ctx, words...).Err(); err != nil {
			return e.lost(ctx, "it didn't save", err)
		}
	}
	return nil
}

// Keys are how many it holds, by database. Those whose time has passed count: it is a replica, and waits for its
// master to delete them.
func (e *Engine) Keys(ctx context.Context) (map[string]int64, error) {
	info, err := e.info(ctx, "keyspace")
	if err != nil {
		return nil, e.lost(ctx, "it didn't answer", err)
	}
	keys := map[string]int64{}
	for name, value := range info {
		db, isDB := strings.CutPrefix(name, "db")
		text, counted := strings.CutPrefix(value, "keys=")
		text, _, _ = strings.Cut(text, ",")
		if n, err := strconv.ParseInt(text, 10, 64); isDB && counted && err == nil {
			keys[db] = n
		}
	}
	return keys, nil
}

// Complaints end it, and are what it said of commands of the stream that it could not carry out, the first few. While it runs,
// what it has said of the last ones may be on its way to us.
func (e *Engine) Complaints() []string {
	e.Close()
	return e.said.complaints()
}

// info is the fields of sections of INFO, which engines before 7.0 give one at a time.
func (e *Engine) info(ctx context.Context, sections ...string) (map[string]string, error) {
	m := map[string]string{}
	for _, section := range sections {
		text, err := e.conn.Info(ctx, section).Result()
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(text) {
			if name, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
				m[name] = value
			}
		}
	}
	return m, nil
}

// lost tells why a command failed: it was told to end, or has ended by itself.
func (e *Engine) lost(ctx context.Context, what string, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var said redis.Error
	if !errors.As(err, &said) { // the connection broke: it is about to be gone
		select {
		case <-e.ended:
			return e.failed("it ended", nil)
		case <-time.After(time.Second):
		}
	}
	return e.failed(what, err)
}

// failed is an error with what the engine said last.
func (e *Engine) failed(what string, err error) error {
	return &FailedError{Binary: e.Binary, What: what, Err: err, State: e.state.Load(), Log: e.said.last()}
}

// Fail is an error for what was noticed elsewhere, with what the engine said last. How it ended was not the reason.
func (e *Engine) Fail(what string) error {
	return &FailedError{Binary: e.Binary, What: what, Log: e.said.last()}
}

func (e *Engine) kill() {
	if e.process != nil {
		_ = e.process.Kill() // an error says that it is gone already
	}
}

// Close ends it, and returns when it is gone. It may be called more than once.
func (e *Engine) Close() {
	e.release()
	e.kill()
	<-e.ended
	if e.client != nil {
		_, _ = e.conn.Close(), e.client.Close() // nobody is there any more
	}
}

// A FailedError says what a scratch engine did that it should not do, and what it said last.
type FailedError struct {
	Binary Binary
	What   string
	Err    error            // may be nil
	State  *os.ProcessState // how it ended, nil while it runs
	Log    []string         // its last lines
}

func (e *FailedError) Error() string {
	text := fmt.Sprintf("a scratch engine, %s (%s), failed: %s", e.Binary, e.Binary.Path, e.What)
	if e.State != nil {
		text += " (" + e.State.String() + ")"
	}
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	for _, line := range e.Log {
		text += "\n  it said: " + line
	}
	return text
}

func (e *FailedError) Unwrap() error { return e.Err }

// Hint says what may be behind it.
func (e *FailedError) Hint() string {
	said := strings.ToLower(strings.Join(e.Log, " "))
	if strings.Contains(said, "out of memory") || strings.Contains(said, "failed allocating") {
		return "it may take what was free when it was started: do it on a host with more memory"
	}
	return "is it the master's version, with the modules that the master has? It has none, and takes no configuration"
}
