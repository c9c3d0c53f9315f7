package test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/engine/enginetest"
	"github.com/offloader/offloader/test/blackbox"
)

// What a daemon archived, zstd and the engine restore without this program: by the very commands
// that docs/format.md gives.
func TestNoLockIn(t *testing.T) {
	t.Parallel()
	enginetest.Each(t, func(t *testing.T, kind enginetest.Kind) { noLockIn(t, kind, "") })
}

// The same of an archive that is encrypted, with age as the distribution has it. Its last part is
// plain: encryption was switched off again.
func TestNoLockInEncrypted(t *testing.T) {
	t.Parallel()
	noLockIn(t, enginetest.Any(t), filepath.Join(t.TempDir(), "key.txt"))
}

// noLockIn archives, and restores by hand. key names an identity file to make for what is encrypted.
func noLockIn(t *testing.T, kind enginetest.Kind, key string) {
	master := enginetest.Start(t, kind, "--repl-backlog-size", "64mb")
	nasty := "a\r\n*3\r\n$3\r\nSET\x00#TS:17\r\n\xff#OFFLOADER:time 5\r\n$EOF:"
	require.NoError(t, master.DB(7).Set(t.Context(), "in the snapshot", nasty, 0).Err())
	if kind.HasHashFieldTTL() {
		master.Do("HSET", "hash", "f", "v", "g", "w")
		master.Do("HPEXPIREAT", "hash", 4102444800000, "FIELDS", 1, "f")
	}
	config := smallSpool(master)
	if key != "" {
		config += encryption(t, key)
	}
	d := blackbox.StartWith(t, t.TempDir(), config)
	began := d.Streaming("cache")

	// Large segments, cut by compaction in the middle of a load, in databases other than 0.
	for i := range 60 {
		db := master.DB(i % 9)
		tx := db.TxPipeline()
		tx.Set(t.Context(), fmt.Sprint("tx:", i), nasty, 0)
		tx.RPush(t.Context(), nasty, fmt.Sprint(i))
		tx.Set(t.Context(), fmt.Sprint("large:", i), noise(t, 100_000), 0)
		_, err := tx.Exec(t.Context())
		require.NoError(t, err)
	}
	// Small ones, which end when the daemon leaves. The last two begin in database 5.
	for i := range 3 {
		d.Durable("cache", master.Offset())
		d.Stop()
		if i == 2 {
			d.Rewrite(smallSpool(master)) // encryption is switched off again
		}
		require.NoError(t, master.DB(5).Set(t.Context(), fmt.Sprint("small:", i), nasty, 0).Err())
		d.Restart()
	}
	require.NoError(t, master.DB(5).PExpireAt(t.Context(), "small:0", time.UnixMilli(4102444800000)).Err())
	d.Durable("cache", master.Offset())
	d.Stop()
	timeline, all := segments(t, blackbox.ArchiveAt(t, d.Dir), "cache")
	require.Equal(t, began.Timeline, timeline)
	require.GreaterOrEqual(t, len(all), 5, "compacted ones and small ones: %v", all)
	require.Equal(t, key != "", strings.HasSuffix(all[0].Name, ".age"))
	last := decompressed(t, filepath.Join(d.Dir, "cache", timeline, all[len(all)-1].Name), key)
	require.Contains(t, string(last), "#OFFLOADER:db 5\r\n#OFFLOADER:inserted ")

	out := filepath.Join(t.TempDir(), "restored")
	script := exec.Command("sh", "-c", byHand(t, filepath.Join(d.Dir, "cache", timeline), out, key))
	script.Env = []string{"PATH=/usr/local/bin:/usr/bin:/bin"} // and nothing of ours
	said, err := script.CombinedOutput()
	require.NoError(t, err, "%s", said)
	require.Empty(t, string(said))
	restored := enginetest.StartIn(t, kind, out, "--appendonly", "yes")
	require.NotContains(t, restored.LogText(), "CRITICAL")
	require.Empty(t, enginetest.Diff(t, master, restored))
	require.Equal(t, master.Digest(), restored.Digest())

	// Each segment is an AOF that replays alone: a file each, as the page says too.
	apart := filepath.Join(t.TempDir(), "apart")
	dir := filepath.Join(apart, "appendonlydir")
	require.NoError(t, os.MkdirAll(dir, 0o750))
	manifest := "file base.rdb seq 1 type b\n"
	rdb, err := os.ReadFile(filepath.Join(out, "appendonlydir", "base.rdb"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "base.rdb"), rdb, 0o600))
	for i, s := range all {
		name := fmt.Sprintf("%d.aof", i)
		manifest += fmt.Sprintf("file %s seq %d type i\n", name, i+1)
		text := decompressed(t, filepath.Join(d.Dir, "cache", timeline, s.Name), key)
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), text, 0o600))
		said, err := exec.Command(kind.Tool("check-aof"), filepath.Join(dir, name)).CombinedOutput()
		require.NoError(t, err, "%s", said)
	}
	require.NoError(t, os.WriteFile(filepath.Join(dir, "appendonly.aof.manifest"), []byte(manifest), 0o600))
	each := enginetest.StartIn(t, kind, apart, "--appendonly", "yes")
	require.NotContains(t, each.LogText(), "CRITICAL")
	require.Equal(t, master.Digest(), each.Digest())
}

// byHand is the commands of docs/format.md's last chapter, with other first lines.
func byHand(t *testing.T, timeline, out, key string) string {
	t.Helper()
	doc, err := os.ReadFile("../docs/format.md")
	require.NoError(t, err)
	block := regexp.MustCompile("(?s)```sh\n(timeline=.*?)```").FindSubmatch(doc)
	require.NotNil(t, block, "the page has the commands")
	lines := strings.SplitN(string(block[1]), "\n", 4)
	require.True(t, strings.HasPrefix(lines[1], "out=") && strings.HasPrefix(lines[2], "key="))
	return "timeline=" + timeline + "\nout=" + out + "\nkey=" + key + "\n" + lines[3]
}

// encryption is the configuration's part that encrypts to a new key, whose secret half goes to a file.
func encryption(t *testing.T, file string) string {
	t.Helper()
	said, err := exec.Command("age-keygen", "-o", file).CombinedOutput()
	require.NoError(t, err, "%s", said)
	public, err := exec.Command("age-keygen", "-y", file).Output()
	require.NoError(t, err)
	return fmt.Sprintf("encryption: {recipients: [%s]}\n", strings.TrimSpace(string(public)))
}
