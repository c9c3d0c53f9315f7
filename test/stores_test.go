package test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/engine/enginetest"
	"github.com/offloader/offloader/test/blackbox"
)

// twoStores archives a master to two folders, with a spool that is full soon.
func twoStores(master *enginetest.Server, ack string) string {
	return fmt.Sprintf(`
sources: [{name: cache, address: %q}]
spool: {path: $DIR/spool, max_size: 16MiB, min_free: 1%%}
stores:
  - {type: disk, path: $DIR/archive}
  - {type: disk, path: $DIR/second}
ack: %s
`, master.Addr(), ack)
}

// away takes a store's folder away, and gives it back.
func away(t *testing.T, dir string) (back func()) {
	t.Helper()
	require.NoError(t, os.Rename(dir, dir+".away"))
	require.NoError(t, os.WriteFile(dir, nil, 0o600))
	return func() {
		require.NoError(t, os.Remove(dir))
		require.NoError(t, os.Rename(dir+".away", dir))
	}
}

// A store that is away, for longer than the spool can hold, is felt neither by the link nor by the
// other store; when it is back it gets what it lacks from there, and by itself restores every moment.
func TestAStoreThatIsAway(t *testing.T) {
	t.Parallel() // it waits most of the time
	kind := enginetest.Any(t)
	master := enginetest.Start(t, kind)
	dir := t.TempDir()
	d := blackbox.StartWith(t, dir, twoStores(master, "local"))
	began := d.Streaming("cache")
	d.Until("cache", "stored", func(s blackbox.SourceStatus) bool { return s.Stores[1].Stored >= began.Durable })
	early := note(t, master, 1)

	back := away(t, filepath.Join(dir, "second"))
	value := strings.Repeat("x", 10_000)
	for i := range 4000 { // 40 MB; the spool holds 16
		master.Do("SET", fmt.Sprint("key:", i%100), value+fmt.Sprint(i))
		if i%50 == 0 { // no faster than the other store can take it
			require.EqualValues(t, 1, master.Do("WAIT", 1, 10_000))
			d.Until("cache", "not full", func(s blackbox.SourceStatus) bool { return s.Spool.Bytes < 15<<20 })
		}
	}
	middle := note(t, master, 1)
	d.Until("cache", "told of", func(s blackbox.SourceStatus) bool { return s.Stores[1].Error != "" })
	s := d.Source("cache")
	require.Empty(t, s.Stores[0].Error)
	require.EqualValues(t, 1, s.FullResyncs)
	require.Zero(t, s.PartialResyncs, "the link was not put down")

	back()
	master.Do("SET", "late", "1")
	late := note(t, master, 1)
	d.Until("cache", "healed", func(s blackbox.SourceStatus) bool {
		return s.Stores[1].Error == "" && len(s.Stores[1].Holes) == 0 && s.Stores[1].Stored >= late.offset && s.Stores[0].Stored >= late.offset
	})
	require.Equal(t, "1", master.Info("stats")["sync_full"])
	d.Stop()
	for _, store := range []string{"archive", "second"} {
		alone := blackbox.ArchiveAt(t, filepath.Join(dir, store))
		for _, m := range []moment{early, middle, late} {
			m.equals(t, kind, alone.Restore(m.byOffset()...))
		}
	}

	// Both are read where the configuration names both, also when one is damaged or away.
	away(t, filepath.Join(dir, "archive"))
	r := d.Run("restore", "--latest", "--output", filepath.Join(dir, "out"))
	require.Zero(t, r.Code, "%s", r)
	require.Contains(t, r.Stderr, "archive: not a directory")
}

// With "ack: store" a WAIT means that every store has it: one that is away keeps it waiting, and what
// was acknowledged is there when the daemon's host, spool and all, is gone.
func TestAckStore(t *testing.T) {
	t.Parallel()
	enginetest.Each(t, func(t *testing.T, kind enginetest.Kind) {
		t.Parallel() // it waits most of the time
		master := enginetest.Start(t, kind)
		dir := t.TempDir()
		d := blackbox.StartWith(t, dir, twoStores(master, "store"))
		d.Streaming("cache")
		master.Do("SET", "in both", "1")
		require.EqualValues(t, 1, master.Do("WAIT", 1, 10_000))

		back := away(t, filepath.Join(dir, "second"))
		master.Do("SET", "in one", "1")
		require.EqualValues(t, 0, master.Do("WAIT", 1, 1500), "one store lacks it")
		require.Equal(t, "streaming", d.Source("cache").State, "the link stays up")
		back()
		require.EqualValues(t, 1, master.Do("WAIT", 1, 20_000))
		digest := master.Digest()

		d.Kill()
		require.NoError(t, os.RemoveAll(filepath.Join(dir, "spool")))
		for _, store := range []string{"archive", "second"} {
			restored := blackbox.ArchiveAt(t, filepath.Join(dir, store)).Restore("--latest")
			require.Equal(t, digest, restored.Boot(kind).Digest(), "what %s alone restores", store)
		}
	})
}
