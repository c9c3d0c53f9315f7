package enginetest

import (
	"bufio"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// One life of a server: it keeps what it was told to keep, on the same port, in a new process.
func TestServerSurvivesAKillWithItsPortAndFolder(t *testing.T) {
	Each(t, func(t *testing.T, kind Kind) {
		s := Start(t, kind, "--appendonly", "yes", "--appendfsync", "always")
		empty := s.Digest()
		s.Do("SET", "k", "v")
		full, pid, addr := s.Digest(), s.Pid(), s.Addr()
		require.NotEqual(t, empty, full)
		require.Equal(t, "master", s.Info("replication")["role"])

		s.Kill()
		requireGone(t, pid)
		s.Restart()
		require.NotEqual(t, pid, s.Pid())
		require.Equal(t, addr, s.Addr())
		require.Equal(t, full, s.Digest())

		s.Stop()
		requireGone(t, s.Pid())
		require.Contains(t, s.LogText(), "bye bye")

		again := StartIn(t, kind, s.Dir(), "--appendonly", "yes")
		require.Equal(t, full, again.Digest())
	})
}

// The pid is the engine's own, not a shell's: what a test kills, and whose memory it measures.
func TestPidIsTheEngines(t *testing.T) {
	Each(t, func(t *testing.T, kind Kind) {
		s := Start(t, kind)
		maps, err := os.ReadFile(filepath.Join("/proc", s.Info("server")["process_id"], "maps"))
		require.NoError(t, err)
		require.Contains(t, string(maps), "libc.so")
		// Every library is the engine's own. One of the machine's would make the engine another.
		for line := range strings.Lines(string(maps)) {
			if strings.Contains(line, ".so") {
				require.Contains(t, line, kind.dir)
			}
		}
	})
}

func TestOffsetsCountWhatAReplicaGets(t *testing.T) {
	Each(t, func(t *testing.T, kind Kind) {
		master := Start(t, kind, "--repl-ping-replica-period", "3600")
		replica := Start(t, kind, "--replicaof", "127.0.0.1 "+master.Info("server")["tcp_port"])
		awaitLink(t, replica)
		master.Do("SET", "k", "v")
		require.EqualValues(t, 1, master.Do("WAIT", 1, 5000))
		require.Positive(t, master.Offset())
		require.Equal(t, master.Offset(), replica.Offset())
		require.Empty(t, Diff(t, master, replica))
	})
}

// A digest says that two datasets differ; Diff says in which key. Each row is a difference, and
// the ones that DEBUG DIGEST doesn't see are the reason for Diff.
func TestDiffNamesTheKey(t *testing.T) {
	rows := []struct {
		name, key string
		write     []any
		needs     func(Kind) bool
	}{
		{"value", `db 0 "s"`, []any{"SET", "s", "other"}, nil},
		{"key", `db 0 "\x00new"`, []any{"SET", "\x00new", "v"}, nil},
		{"expiry", `db 0 "s"`, []any{"PEXPIREAT", "s", 4102444800000}, nil},
		{"element", `db 0 "z"`, []any{"ZADD", "z", 2, "a"}, nil},
		{"stream entry", `db 0 "x"`, []any{"XADD", "x", "2-0", "f", "v"}, nil},
		{"stream group", `db 0 "x"`, []any{"XGROUP", "CREATE", "x", "g2", "0"}, nil},
		{"pending", `db 0 "x"`, []any{"XREADGROUP", "GROUP", "g", "c", "STREAMS", "x", ">"}, nil},
		{"field's expiry", `db 0 "h"`, []any{"HPEXPIREAT", "h", 4102444800000, "FIELDS", 1, "f"}, Kind.HasHashFieldTTL},
		{"function", "function library l", []any{"FUNCTION", "LOAD", "#!lua name=l\nredis.register_function('f', function() return 1 end)"}, nil},
	}
	Each(t, func(t *testing.T, kind Kind) {
		a, b := Start(t, kind), Start(t, kind)
		for _, row := range rows {
			if row.needs != nil && !row.needs(kind) {
				continue
			}
			for _, s := range []*Server{a, b} {
				s.Do("FLUSHALL")
				s.Do("FUNCTION", "FLUSH")
				s.Do("SET", "s", "v")
				s.Do("ZADD", "z", 1, "a")
				s.Do("HSET", "h", "f", "v")
				s.Do("XADD", "x", "1-0", "f", "v")
				s.Do("XGROUP", "CREATE", "x", "g", "0")
				require.NoError(t, s.DB(3).Set(context.Background(), "s", "v", 0).Err())
			}
			require.Empty(t, Diff(t, a, b), row.name)
			b.Do(row.write...)
			require.Contains(t, Diff(t, a, b), row.key+"\n", row.name)
		}
	})
}

// The same content is no difference, however it is encoded and whatever engine holds it.
func TestDiffIgnoresEncodings(t *testing.T) {
	all := All(t)
	a, b := Start(t, all[0]), Start(t, all[len(all)-1], "--hash-max-listpack-entries", "0", "--zset-max-listpack-entries", "0")
	for _, s := range []*Server{a, b} {
		s.Do("HSET", "h", "f", "v", "g", "w")
		s.Do("ZADD", "z", 1, "a", 2.5, "b")
	}
	require.NotEqual(t, a.Do("OBJECT", "ENCODING", "h"), b.Do("OBJECT", "ENCODING", "h"))
	require.Empty(t, Diff(t, a, b))
	require.Equal(t, a.Digest(), b.Digest())
}

func TestServerWithAPasswordAnswers(t *testing.T) {
	s := Start(t, Any(t), "--requirepass", "secret")
	require.Equal(t, "PONG", s.Do("PING"))
}

func TestFailingToStartShowsTheLog(t *testing.T) {
	kind := Any(t)
	err := Main(func(t TB) { Start(t, kind, "--databases", "none") })
	require.ErrorContains(t, err, "argument couldn't be parsed into an integer")
	require.ErrorContains(t, err, kind.String())
}

// An engine that isn't there must not look like one that passed.
func TestMissingEngineFails(t *testing.T) {
	t.Setenv("OFFLOADER_ENGINES", t.TempDir())
	require.ErrorContains(t, Main(func(t TB) { All(t) }), "run scripts/engines")
	t.Setenv("ENGINES", "redis6.2")
	require.ErrorContains(t, Main(func(t TB) { All(t) }), `"redis6.2": there are redis7.0`)
	t.Setenv("ENGINES", ",")
	require.ErrorContains(t, Main(func(t TB) { All(t) }), "names no engine")
}

func TestVersionsCompare(t *testing.T) {
	redis := Kind{name: "redis8.0", version: "8.0.2"}
	valkey := Kind{name: "valkey8.1", version: "8.1.1"}
	require.True(t, redis.AtLeast("redis", 7, 4))
	require.True(t, redis.AtLeast("redis", 8, 0))
	require.False(t, redis.AtLeast("redis", 8, 1))
	require.False(t, redis.AtLeast("valkey", 7, 2))
	require.True(t, valkey.HasWaitAOF())
	require.False(t, valkey.HasHashFieldTTL())
	require.True(t, redis.HasHashFieldTTL())
	require.False(t, Kind{name: "redis7.0", version: "7.0.15"}.HasWaitAOF())
}

func TestToolsStart(t *testing.T) {
	Each(t, func(t *testing.T, kind Kind) {
		s := Start(t, kind)
		s.Do("SET", "k", "v")
		s.Do("SAVE")
		out, err := exec.Command(kind.Tool("check-rdb"), filepath.Join(s.Dir(), "dump.rdb")).CombinedOutput()
		require.NoError(t, err, "%s", out)
		require.Contains(t, string(out), "RDB looks OK")

		out, err = exec.Command(kind.Tool("cli"), "-p", s.Info("server")["tcp_port"], "GET", "k").Output()
		require.NoError(t, err)
		require.Equal(t, "v\n", string(out))

		aof := filepath.Join(t.TempDir(), "a.aof")
		require.NoError(t, os.WriteFile(aof, []byte("*1\r\n$4\r\nPING\r\n"), 0o600))
		out, err = exec.Command(kind.Tool("check-aof"), aof).CombinedOutput()
		require.NoError(t, err, "%s", out)
		require.Contains(t, string(out), "is valid")

		out, err = exec.Command(kind.Tool("benchmark"), "-p", s.Info("server")["tcp_port"], "-n", "10", "-t", "ping", "-q").CombinedOutput()
		require.NoError(t, err, "%s", out)
	})
}

// A test binary that is killed, by a timeout or by hand, runs no cleanup; its engines end all the
// same. The child below is this test in a second process.
func TestNoServerOutlivesAKilledTest(t *testing.T) {
	if os.Getenv("ENGINETEST_CHILD") != "" {
		s := Start(t, Any(t))
		_, err := os.Stdout.WriteString(s.Info("server")["process_id"] + "\n")
		require.NoError(t, err)
		select {} // until killed
	}
	child := exec.Command(os.Args[0], "-test.run=^TestNoServerOutlivesAKilledTest$")
	child.Env = append(os.Environ(), "ENGINETEST_CHILD=1", "TMPDIR="+t.TempDir())
	out, err := child.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, child.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	require.NoError(t, err, "the child's first line")
	require.NoError(t, syscall.Kill(pid, 0), "the server runs")
	require.NoError(t, child.Process.Kill())
	require.Error(t, child.Wait())
	requireGone(t, pid)
}

func requireGone(t *testing.T, pid int) {
	t.Helper()
	require.Eventually(t, func() bool {
		return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) || zombie(pid)
	}, 10*time.Second, 10*time.Millisecond, "process %d is still there", pid)
}

// zombie tells whether only the exit status is left of a process: an orphan whose new parent
// doesn't collect it, as in a container without an init.
func zombie(pid int) bool {
	stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	return err == nil && strings.Contains(string(stat), ") Z ")
}

// awaitLink waits until a replica has its master's dataset and stream.
func awaitLink(t *testing.T, replica *Server) {
	t.Helper()
	require.Eventually(t, func() bool { return replica.Info("replication")["master_link_status"] == "up" },
		20*time.Second, 20*time.Millisecond, "the replica's link")
}
