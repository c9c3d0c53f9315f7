package test

import (
	"encoding/json"
	"fmt"
	"net/http"
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

// A verify by schedule that finds damage is told wherever somebody looks, until one finds none: by the
// status, the metrics, /readyz, and the exit code of who verifies by hand.
func TestAJobFindsDamage(t *testing.T) {
	t.Parallel() // it waits for the clock
	const patience = 30 * time.Second
	master := enginetest.Start(t, enginetest.Any(t))
	d := blackbox.StartWith(t, t.TempDir(), fmt.Sprintf(`
sources: [{name: cache, address: %q}]
spool: {path: $DIR/archive/.spool, min_free: 1%%}
stores: [{type: disk, path: $DIR/archive}]
verify: {schedule: "@every 1s"}
`, master.Addr()))
	d.Streaming("cache")
	seen := func(want map[string]float64) bool {
		all := series(t, d.Get("/metrics"))
		for name, v := range want {
			if got, there := all[name]; !there || got != v {
				return false
			}
		}
		return true
	}
	store := fmt.Sprintf("{source=%q,store=%q}", "cache", d.Dir)
	findings, failing := "offloader_store_verify_findings"+store, fmt.Sprintf("offloader_job_failing{job=%q}", "verify "+d.Dir)
	sound := map[string]float64{findings: 0, failing: 0}
	require.Eventually(t, func() bool { return seen(sound) }, patience, 50*time.Millisecond, "verified: %s", d.Get("/metrics"))
	code, body := get(t, d, "/readyz")
	require.Equal(t, http.StatusOK, code, body)

	flip := func(b []byte) []byte { b[len(b)/2] ^= 1; return b }
	snapshot := filepath.Join(d.Dir, "cache", "*", "snapshots", "*.rdb.zst")
	name := damage(t, snapshot, flip)
	require.Eventually(t, func() bool { return seen(map[string]float64{findings: 1, failing: 1}) }, patience, 50*time.Millisecond, "the damage is found")
	code, body = get(t, d, "/readyz")
	require.Equal(t, http.StatusServiceUnavailable, code)
	require.Contains(t, body, "verify "+d.Dir+": ")
	status := d.Do("status")
	require.Contains(t, status, "1 finding at the verify of ")
	require.Contains(t, status, "`offloader verify` tells them, and what they cost")
	require.Contains(t, d.LogText(), filepath.Base(name))
	require.Equal(t, 4, d.Run("verify").Code)

	damage(t, snapshot, flip) // it is as it was
	require.Eventually(t, func() bool { return seen(sound) }, patience, 50*time.Millisecond, "all is well again")
	require.Eventually(t, func() bool { code, body = get(t, d, "/readyz"); return code == http.StatusOK }, patience, 50*time.Millisecond)
	require.NotContains(t, d.Do("status"), "finding")
}
