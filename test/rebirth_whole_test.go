package test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/durable"
	"github.com/offloader/offloader/internal/engine/enginetest"
	"github.com/offloader/offloader/test/blackbox"
)

// TestRebirthShowsNothingOld: clients that ask all the time get an error until the server has all, and never what was true
// earlier, or nothing: what lies behind the snapshot is replayed by a scratch engine before.
func TestRebirthShowsNothingOld(t *testing.T) {
	t.Parallel()
	enginetest.Each(t, func(t *testing.T, kind enginetest.Kind) {
		t.Parallel()
		m := newMortal(t, kind)
		m.replayedBy(t, kind)
		m.Do("SET", "counter", 0)
		for range 20 {
			pipe := m.DB(3).Pipeline()
			for i := range 1000 {
				pipe.Set(t.Context(), fmt.Sprint("k", i), strings.Repeat("v", 200), 0)
			}
			_, err := pipe.Exec(t.Context())
			require.NoError(t, err)
			m.Do("INCR", "counter")
		}
		digest := m.still(t)
		m.d.Until("cache", "the log counts in what a rebirth would take", func(s blackbox.SourceStatus) bool {
			return s.Rebirth != nil && s.Rebirth.Log > 4_000_000
		})
		m.Kill()
		m.Restart()
		refused := 0
		for answered := false; !answered; {
			switch value, err := m.Client().Get(context.Background(), "counter").Result(); {
			case errors.Is(err, redis.Nil):
				require.Fail(t, "a client was told that there is nothing")
			case err != nil:
				refused++
			default:
				require.Equal(t, "20", value)
				answered = true
			}
		}
		require.Positive(t, refused)
		m.reborn(1)
		require.Equal(t, digest, m.Digest())
		require.Equal(t, "0", m.Info("stats")["sync_full"])
		require.Contains(t, m.d.LogText(), "a scratch engine has replayed what is behind the snapshot")
		require.Len(t, m.d.Timelines("cache"), 1)
		left, err := os.ReadDir(filepath.Join(m.dir, "spool", "cache", ".fresh"))
		require.NoError(t, err)
		require.Empty(t, left)
	})
}

// TestRebirthWithoutAScratchEngine: what can't be replayed before is applied by the server itself.
func TestRebirthWithoutAScratchEngine(t *testing.T) {
	t.Parallel()
	kind := nth(t, 1)
	m := newMortal(t, kind)
	const old = "read what is old until it has applied the stream"
	require.Contains(t, m.d.Run("check").Stdout, old)
	m.replayedBy(t, kind, `case "$*" in *--version*) ;; *) echo "not today"; exit 1;; esac`)
	require.NotContains(t, m.d.Run("check").Stdout, old)
	m.Do("SET", "k", strings.Repeat("v", 100_000))
	digest := m.still(t)
	m.Kill()
	m.Restart()
	m.reborn(1)
	require.Equal(t, digest, m.Digest())
	require.Regexp(t, `the source gets a snapshot and the stream behind it.* bytes=100.*not today`, m.d.LogText())
}

// TestRebirthLeavesNothingHalfSaved: the server dies once more while the scratch engine saves for it. That one is ended, and
// what it had written so far doesn't stay beside the spool.
func TestRebirthLeavesNothingHalfSaved(t *testing.T) {
	t.Parallel()
	kind := nth(t, 2)
	m := newMortal(t, kind)
	settings := filepath.Join(t.TempDir(), "slow.conf")
	m.replayedBy(t, kind, `case "$*" in *--version*) ;; *) { cat; echo rdb-key-save-delay 200000; } >'`+settings+`'; exec <'`+settings+`';; esac`)
	for i := range 300 {
		m.Do("SET", fmt.Sprint(i), strings.Repeat("v", 1000))
	}
	m.still(t)
	m.Kill()
	m.Restart()
	fresh := filepath.Join(m.dir, "spool", "cache", ".fresh")
	require.Eventually(t, func() bool {
		half, err := filepath.Glob(filepath.Join(fresh, "*", "temp-*.rdb"))
		return err == nil && len(half) > 0
	}, 30*time.Second, time.Millisecond)
	m.Kill()
	require.Eventually(t, func() bool {
		left, err := os.ReadDir(fresh)
		return err == nil && len(left) == 0
	}, 20*time.Second, 20*time.Millisecond)
}

// TestRebirthIsCalledOff: another one becomes the master while the scratch engine replays for the server. That one gets
// nothing then: who follows it may have more.
func TestRebirthIsCalledOff(t *testing.T) {
	t.Parallel()
	kind := nth(t, 3)
	m := newMortal(t, kind)
	goOn := filepath.Join(t.TempDir(), "go on")
	m.replayedBy(t, kind, `case "$*" in *--version*) ;; *) until [ -e '`+goOn+`' ]; do sleep 0.05; done;; esac`)
	other := m.replicaOf(t, m.port, "--masteruser", "replica", "--masterauth", "of the relay")
	m.Do("SET", "k", strings.Repeat("v", 100_000))
	digest := m.still(t)
	same(t, m.Server, other)
	m.Kill()
	m.Restart()
	m.waits("a scratch engine replays what is behind the snapshot")
	other.Do("REPLICAOF", "NO", "ONE")
	m.waits(other.Addr() + ", which was of its replicas or has its name, is a master now")
	require.NoError(t, os.WriteFile(goOn, nil, 0o600))
	require.Eventually(t, func() bool {
		return strings.Contains(m.d.LogText(), "a scratch engine has replayed")
	}, 20*time.Second, 20*time.Millisecond)
	require.Eventually(t, func() bool { return strings.Contains(m.LogText(), "is a master now") }, 20*time.Second, 20*time.Millisecond)
	require.Contains(t, fmt.Sprint(m.error("GET", "k")), "MASTERDOWN")
	other.Do("REPLICAOF", "127.0.0.1", m.port)
	m.reborn(1)
	require.Equal(t, digest, m.Digest())
}

// TestRebirthWithRenamedCommands: a scratch engine, which has no configuration, can't do all that the master did. However late
// what it says of that is read, the server doesn't get what it has made of it.
func TestRebirthWithRenamedCommands(t *testing.T) {
	t.Parallel()
	kind := nth(t, 3)
	m := newMortal(t, kind, "--rename-command", "APPEND", "ADDTO")
	late := filepath.Join(t.TempDir(), "late")
	m.replayedBy(t, kind, `case "$*" in *--version*) ;; *)
		mkfifo '`+late+`'
		while read -r line; do sleep 0.05; echo "$line"; done <'`+late+`' &
		exec >'`+late+`' 2>&1;;
	esac`)
	m.Do("ADDTO", "k", strings.Repeat("v", 100_000))
	digest := m.still(t)
	m.Kill()
	m.Restart()
	m.reborn(1)
	require.Equal(t, digest, m.Digest())
	require.Contains(t, m.d.LogText(), "it could not do all that the master did")
}

// TestRebirthReplayedForADeadConnection: the server's host loses its power while a scratch engine replays for it, so that nobody
// says that its connection has ended. It comes back, gets what there is, and what the first connection is given late changes nothing.
func TestRebirthReplayedForADeadConnection(t *testing.T) {
	t.Parallel()
	kind := nth(t, 1)
	m := newMortal(t, kind)
	proxy, steps := blackbox.NewProxy(t, fmt.Sprintf("127.0.0.1:%d", m.port)), t.TempDir()
	m.replayedBy(t, kind, `case "$*" in *--version*) ;; *)
		n=first; mkdir '`+steps+`/first' || { n=second; mkdir '`+steps+`/second'; }
		until [ -e '`+steps+`'/$n/goes ]; do sleep 0.05; done
		[ $n = first ] || exit 1;;
	esac`)
	begins := func(n string) {
		require.Eventually(t, func() bool { _, err := os.Stat(filepath.Join(steps, n)); return err == nil }, 20*time.Second, time.Millisecond)
	}
	goes := func(n string) { require.NoError(t, os.WriteFile(filepath.Join(steps, n, "goes"), nil, 0o600)) }
	copies := func(n int) {
		require.Eventually(t, func() bool {
			return strings.Count(m.d.LogText(), `msg="a replica gets a full copy" source=cache replica=`+m.Addr()) == n
		}, 20*time.Second, 10*time.Millisecond)
	}
	m.Do("SET", "k", noise(t, 20<<20)) // what the kernel doesn't take for a server that is gone
	digest := m.still(t)
	m.Kill()
	m.Restart("--replicaof", strings.Replace(proxy.Addr(), ":", " ", 1))
	begins("first")
	proxy.Lose()
	m.Kill()
	m.Restart()
	begins("second")
	require.NoError(t, syscall.Kill(m.Pid(), syscall.SIGSTOP))
	goes("second")
	copies(1)
	goes("first")
	copies(2)
	require.NoError(t, syscall.Kill(m.Pid(), syscall.SIGCONT))
	m.reborn(1)
	require.Equal(t, digest, m.Digest())
}

// TestRebirthOnASmallDisk: what a scratch engine would save doesn't fit beside the spool. It isn't tried: meanwhile there would
// be no room for anybody's stream.
func TestRebirthOnASmallDisk(t *testing.T) {
	t.Parallel()
	disk := smallDisk(t, "64m")
	if disk == "" {
		return
	}
	kind := nth(t, 0)
	m := newMortal(t, kind)
	m.replayedBy(t, kind)
	m.d.Stop()
	spool := filepath.Join(m.dir, "spool")
	require.NoError(t, os.CopyFS(disk, os.DirFS(spool)))
	require.NoError(t, os.RemoveAll(spool))
	require.NoError(t, os.Symlink(disk, spool))
	m.d.Restart()
	for i := range 10 {
		m.Do("SET", i, noise(t, 1<<20))
	}
	m.still(t)
	m.d.Do("snapshot")
	m.Do("SET", "k", noise(t, 100_000))
	digest := m.still(t)
	free, _, err := durable.Space(disk)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(disk, "filler"), make([]byte, free-8<<20), 0o600))
	m.Kill()
	m.Restart()
	m.reborn(1)
	require.Equal(t, digest, m.Digest())
	require.Regexp(t, `the source gets a snapshot and the stream behind it.*an RDB of 10 MiB or more has no room there.*spool.min_free`, m.d.LogText())
}

// replayedBy gives the daemon an engine to replay with, whose program begins with these lines. Without, there is none,
// whatever the machine has.
func (m *mortal) replayedBy(t *testing.T, kind enginetest.Kind, before ...string) {
	t.Helper()
	found := oneOf(t, filepath.Join(strings.TrimPrefix(program(t, kind, before...), "PATH="), "*-server"))
	require.NoError(t, os.Symlink(found, filepath.Join(m.dir, "engine")))
}
