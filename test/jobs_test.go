package test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/engine/enginetest"
	"github.com/offloader/offloader/test/blackbox"
)

// By the clock the daemon takes snapshots, from a replica here, and verifies the archive. What was due
// while it was down is made up for at its start, and the status tells of each job.
func TestJobs(t *testing.T) {
	t.Parallel() // it waits for the clock, half a minute at most
	const patience = time.Minute
	kind := enginetest.Any(t)
	master, replica := enginetest.Start(t, kind), enginetest.Start(t, kind)
	replica.Do("REPLICAOF", "127.0.0.1", master.Port())
	config := func(address string) string {
		return fmt.Sprintf(`
sources: [{name: cache, address: %q}]
spool: {path: $DIR/spool, min_free: 1%%}
stores: [{type: disk, path: $DIR/archive}]
snapshots: {schedule: "@every 1m", method: replica, address: %q}
verify: {schedule: "@every 1m"}
retention: {window: 7d}
`, master.Addr(), address)
	}
	dir := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(dir, "spool"), 0o750))
	store := filepath.Join(dir, "archive")
	d := blackbox.StartWith(t, dir, config(replica.Addr()))
	d.Streaming("cache")
	d.Stop()
	master.Do("SET", "a", "1") // so that the snapshot isn't at the offset of the first one, whenever it is taken
	require.EqualValues(t, 1, master.Do("WAIT", 1, 20_000))
	missed := fmt.Sprintf(`{"snapshot of cache": "2026-01-01T00:00:00Z", "verify %s": "2026-01-01T00:00:00Z"}`, store)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "spool", ".jobs.json"), []byte(missed), 0o600))
	d.Restart()
	d.Streaming("cache")
	forks := master.Info("stats")["total_forks"]

	jobs := func() (all []blackbox.Job) {
		var status struct {
			Jobs []blackbox.Job `json:"jobs"`
		}
		require.NoError(t, json.Unmarshal([]byte(d.Do("status", "--json")), &status))
		return status.Jobs
	}
	require.Eventually(t, func() bool {
		all := jobs()
		return len(all) == 3 && !slices.ContainsFunc(all, func(j blackbox.Job) bool {
			return j.Error != "" || j.Next == nil || j.Last == nil && j.Schedule != "@hourly"
		})
	}, patience, 100*time.Millisecond, "the jobs have run")
	require.Eventually(t, func() bool { return len(d.Timelines("cache")[0].Snapshots) >= 2 }, patience, 100*time.Millisecond)
	one := d.Timelines("cache")[0]
	require.Equal(t, "replica", one.Snapshots[1].Method)
	require.Equal(t, forks, master.Info("stats")["total_forks"], "the master didn't fork for them")
	require.True(t, slices.ContainsFunc(one.Events, func(e blackbox.Event) bool { return e.Kind == "verified" }))
	status := d.Do("status")
	require.Contains(t, status, "snapshot of cache")
	require.Regexp(t, `newest snapshot [0-9: -]+, verified `, status)
	require.Regexp(t, `offloader_store_verified_timestamp_seconds\{source="cache",store="[^"]+"\} [1-9]`, d.Get("/metrics"))
	require.Regexp(t, `offloader_job_last_success_timestamp_seconds\{job="snapshot of cache"\} [1-9]`, d.Get("/metrics"))
}
