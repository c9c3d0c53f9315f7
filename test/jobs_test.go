package test

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/engine/enginetest"
	"github.com/offloader/offloader/test/blackbox"
)

// By the clock the daemon takes snapshots, from a replica here, and verifies the archive; the status
// tells of each job, and a job that fails makes the daemon unready until it has succeeded.
func TestJobs(t *testing.T) {
	kind := enginetest.Any(t)
	master, replica := enginetest.Start(t, kind), enginetest.Start(t, kind)
	replica.Do("REPLICAOF", "127.0.0.1", master.Port())
	config := func(address string) string {
		return fmt.Sprintf(`
sources: [{name: cache, address: %q}]
spool: {path: $DIR/spool, min_free: 1%%}
stores: [{type: disk, path: $DIR/archive}]
snapshots: {schedule: "@every 1s", method: replica, address: %q}
verify: {schedule: "@every 1s"}
retention: {window: 7d}
`, master.Addr(), address)
	}
	d := blackbox.StartWith(t, t.TempDir(), config(replica.Addr()))
	d.Streaming("cache")
	master.Do("SET", "a", "1")
	require.EqualValues(t, 2, master.Do("WAIT", 2, 20_000))
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
	require.Eventually(t, func() bool { return len(d.Timelines("cache")[0].Snapshots) >= 3 }, patience, 100*time.Millisecond)
	one := d.Timelines("cache")[0]
	require.Equal(t, "replica", one.Snapshots[1].Method)
	require.Equal(t, forks, master.Info("stats")["total_forks"], "the master didn't fork for them")
	require.True(t, slices.ContainsFunc(one.Events, func(e blackbox.Event) bool { return e.Kind == "verified" }))
	require.Contains(t, d.Do("status"), "snapshot of cache")

	// A replica that is gone: told, until there is one again.
	replica.Kill()
	failed := func(j blackbox.Job) bool { return j.Name == "snapshot of cache" && j.Error != "" }
	require.Eventually(t, func() bool { return slices.ContainsFunc(jobs(), failed) }, patience, 100*time.Millisecond)
	require.Contains(t, d.Get("/readyz"), "snapshot of cache: ")
	require.Equal(t, "streaming", d.Source("cache").State)
	d.Rewrite(config(master.Addr()))
	d.Reload()
	require.Eventually(t, func() bool { return !slices.ContainsFunc(jobs(), failed) && d.Get("/readyz") == "ok\n" }, patience, 100*time.Millisecond)
}
