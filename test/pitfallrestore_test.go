package test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/engine/enginetest"
	"github.com/offloader/offloader/test/blackbox"
)

// What engines make of a folder is unforgiving: see what a restore leaves, to the byte.
func TestPitfallsOfARestore(t *testing.T) {
	t.Parallel()
	enginetest.Each(t, func(t *testing.T, kind enginetest.Kind) {
		t.Parallel()
		master := enginetest.Start(t, kind)
		ctx := t.Context()
		require.NoError(t, master.DB(9).Set(ctx, "in the snapshot", "1", 0).Err())
		d := archiving(t, master)
		for i := range 10 { // the restores below begin in the middle of these, in database 9
			require.NoError(t, master.DB(9).Set(ctx, "key", strings.Repeat("#TS:1\r\n\n", i), 0).Err())
		}
		d.Durable("cache", master.Offset())

		t.Run("pitfall 24: never a folder that starts empty", func(t *testing.T) {
			out := d.Restore("--latest").Output
			manifest, err := os.ReadFile(filepath.Join(out, "appendonlydir", "appendonly.aof.manifest"))
			require.NoError(t, err)
			var named []string
			for line := range strings.Lines(string(manifest)) {
				require.True(t, strings.HasSuffix(line, "\n"), "a last line without an end is fatal")
				words := strings.Fields(line)
				require.Len(t, words, 6)
				require.FileExists(t, filepath.Join(out, "appendonlydir", words[1]))
				named = append(named, words[5])
			}
			require.Equal(t, []string{"b", "i"}, named)
			require.NoFileExists(t, filepath.Join(out, "dump.rdb"), "an engine with an AOF ignores it")
			killedRestores(t, d, master)
		})
		t.Run("pitfall 25: whole lines that engines take, and no blank one", func(t *testing.T) {
			out := d.Restore("--latest").Output
			for _, text := range logs(t, out) {
				require.NotEmpty(t, withoutAnnotations(t, text), "it is walked command by command, lines are below 1,024 bytes")
				require.True(t, bytes.HasSuffix(text, []byte("\r\n")), "no half line at the end")
			}
			for _, log := range aofs(t, out) {
				said, err := exec.Command(kind.Tool("check-aof"), log).CombinedOutput()
				require.NoError(t, err, "%s", said)
			}
		})
		t.Run("pitfall 26: the first command is a SELECT", func(t *testing.T) {
			// From a snapshot in database 9 on, with no SELECT of the master's behind it.
			d.Stop()
			require.NoError(t, master.DB(9).Set(ctx, "key", "last", 0).Err())
			d.Restart()
			d.Durable("cache", master.Offset())
			restored := d.Restore("--latest")
			for _, text := range logs(t, restored.Output) {
				for text[0] == '#' {
					_, text, _ = bytes.Cut(text, []byte("\n"))
				}
				require.Regexp(t, `(?i)^\*2\r\n\$6\r\nSELECT\r\n|^\*1\r\n\$4\r\nPING\r\n`, string(text))
			}
			require.Equal(t, master.Digest(), restored.Boot(kind).Digest())
		})
		t.Run("pitfall 27: no command fails at load", func(t *testing.T) {
			for _, format := range []string{"aof", "aof-single"} {
				server := d.Restore("--latest", "--format", format).Boot(kind) // looks for CRITICAL itself
				require.NotContains(t, server.LogText(), "== CRITICAL ==")
				require.NotContains(t, server.LogText(), "Bad file format")
				require.Equal(t, master.Digest(), server.Digest())
				server.Restart() // what the server added to the file is as good
				require.Equal(t, master.Digest(), server.Digest())
			}
		})
	})
}

// logs are the texts of a restored folder's incremental files.
func logs(t *testing.T, out string) (texts [][]byte) {
	t.Helper()
	for _, name := range aofs(t, out) {
		text, err := os.ReadFile(name)
		require.NoError(t, err)
		texts = append(texts, text)
	}
	require.NotEmpty(t, texts)
	return texts
}

func aofs(t *testing.T, out string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(out, "appendonlydir", "*.aof"))
	require.NoError(t, err)
	return names
}

// killedRestores ends restores at some instants: there is a whole folder or none, and the next
// restore to the same place is not in anybody's way.
func killedRestores(t *testing.T, d *blackbox.Daemon, master *enginetest.Server) {
	t.Helper()
	out := filepath.Join(t.TempDir(), "out")
	for after := time.Millisecond; ; after += after/4 + time.Millisecond {
		cmd := exec.Command(blackbox.Binary(t), "restore", "--archive", d.Dir, "--latest", "--output", out)
		require.NoError(t, cmd.Start())
		killed := time.AfterFunc(after, func() { _ = cmd.Process.Kill() })
		err := cmd.Wait()
		if _, missing := os.Stat(filepath.Join(out, "appendonlydir")); missing == nil {
			break // killed or not, it must be whole
		}
		require.False(t, killed.Stop(), "not killed, and nothing is there: %v", err)
	}
	server := enginetest.StartIn(t, master.Kind(), out, "--appendonly", "yes")
	require.Equal(t, master.Digest(), server.Digest())
	entries, err := os.ReadDir(filepath.Dir(out))
	require.NoError(t, err)
	require.Len(t, entries, 1, "what the killed ones left is gone")
}
