package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/config"
	"github.com/offloader/offloader/internal/schedule"
	"github.com/offloader/offloader/internal/source"
	"github.com/offloader/offloader/internal/store"
	"github.com/offloader/offloader/internal/verify"
)

// Each store is pruned by its own retention, in the order of the start, also when a configuration
// that is read again has them in another.
func TestJobsOfAConfiguration(t *testing.T) {
	hourly, err := schedule.Parse("@hourly")
	require.NoError(t, err)
	places := []config.Store{
		{Type: config.TypeDisk, Path: "/a", Retention: &config.Retention{Window: config.Duration(time.Hour)}},
		{Type: config.TypeDisk, Path: "/b"},
	}
	var stores []source.StoreOptions
	for range places {
		d, err := store.OpenDisk(t.Context(), t.TempDir(), store.Options{Write: true})
		require.NoError(t, err)
		stores = append(stores, source.StoreOptions{Store: d})
	}
	j := newJobs(slog.New(slog.DiscardHandler), &fleet{}, places, stores, t.TempDir())
	c := &config.Config{Sources: []config.Source{{Name: "cache"}}, Stores: []config.Store{places[1], places[0]}}
	names := func() (all []string) {
		for _, job := range j.of(c) {
			all = append(all, job.Name)
		}
		return all
	}
	a, b := stores[0].Store.String(), stores[1].Store.String()
	require.Equal(t, []string{"prune cache in " + a}, names())
	c.Retention = &config.Retention{Window: config.Duration(24 * time.Hour)}
	c.Snapshots.Schedule, c.Verify.Schedule = hourly, hourly
	to, err := config.ExportTo("/srv/{source}-{time}.rdb")
	require.NoError(t, err)
	c.Exports = []config.Export{{Schedule: hourly, To: to}}
	require.Equal(t, []string{"snapshot of cache", "export of cache to /srv/{source}-{time}.rdb", "prune cache in " + a, "prune cache in " + b, "verify " + a, "verify " + b}, names())

	// When a job began survives a restart.
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	j.began("verify "+a, at)
	j = newJobs(j.log, j.fleet, places, stores, filepath.Dir(j.file))
	for _, job := range j.of(c) {
		require.Equal(t, job.Name == "verify "+a, job.Last.Equal(at), job.Name)
	}
}

// Nobody has to prune: an hour after the start, and a few minutes at most, the daemon itself has let go of what
// each store's own retention doesn't keep.
func TestJobsPrune(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // its clock begins in the year 2000
		began := time.Now().UTC().Add(-20 * 24 * time.Hour)
		day := func(n int) string { return fmt.Sprintf("%013d", began.Add(time.Duration(n)*24*time.Hour).UnixMilli()) }
		timeline := began.Format("20060102T150405.000Z") + "-01234567"
		places := []config.Store{
			{Type: config.TypeDisk, Path: "/a", Retention: &config.Retention{Window: config.Duration(5 * 24 * time.Hour)}},
			{Type: config.TypeDisk, Path: "/b", Retention: &config.Retention{Window: config.Duration(time.Hour), Keep: config.Keep{Daily: 3}}},
			{Type: config.TypeDisk, Path: "/c"},
		}
		var stores []source.StoreOptions
		var dirs []string
		for range places {
			dir := t.TempDir()
			of := filepath.Join(dir, "cache", timeline)
			files := map[string]string{"timeline.json": fmt.Sprintf(`{"format": 1, "source": "cache", "timeline": %q, "replid": "0123456701234567012345670123456701234567",
				"offset": 0, "began": %q, "spool": "s", "reason": "first contact"}`, timeline, began.Format("2006-01-02T15:04:05.000Z"))}
			for n := range 20 { // a snapshot each day, and the log between
				at := fmt.Sprintf("snapshots/%020d-%s", n*100, day(n))
				files[at+".rdb.zst"], files[at+".json"] = "", fmt.Sprintf(`{"offset": %d, "time": %q}`, n*100, began.Add(time.Duration(n)*24*time.Hour).Format("2006-01-02T15:04:05.000Z"))
				files[fmt.Sprintf("log/%020d-%020d-%s-%s-0123456789abcdef.aof.zst", n*100, n*100+100, day(n), day(n+1))] = ""
			}
			for name, text := range files {
				require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(of, name)), 0o750))
				require.NoError(t, os.WriteFile(filepath.Join(of, name), []byte(text), 0o600))
			}
			d, err := store.OpenDisk(t.Context(), dir, store.Options{Write: true})
			require.NoError(t, err)
			stores, dirs = append(stores, source.StoreOptions{Store: d}), append(dirs, of)
		}
		held := func() (all [][]string) {
			for _, dir := range dirs {
				var offsets []string
				for _, pattern := range []string{"snapshots/*.rdb.zst", "log/*"} {
					found, err := filepath.Glob(filepath.Join(dir, pattern))
					require.NoError(t, err)
					begin, _, _ := strings.Cut(filepath.Base(found[0]), "-")
					offsets = append(offsets, fmt.Sprintf("%d from %s", len(found), strings.TrimLeft(begin, "0")))
				}
				all = append(all, offsets)
			}
			return all
		}
		whole := []string{"20 from ", "20 from "}
		j := newJobs(slog.New(slog.DiscardHandler), &fleet{log: slog.New(slog.DiscardHandler)}, places, stores, t.TempDir())
		j.apply(t.Context(), &config.Config{Sources: []config.Source{{Name: "cache"}}, Stores: places})
		defer j.end()
		time.Sleep(time.Hour - time.Second)
		synctest.Wait()
		require.Equal(t, [][]string{whole, whole, whole}, held(), "not yet")
		time.Sleep(jitter + time.Minute)
		synctest.Wait()
		require.Equal(t, [][]string{{"5 from 1500", "5 from 1500"}, {"3 from 1700", "1 from 1900"}, whole}, held())
		for _, s := range j.status() {
			require.Empty(t, s.Error)
			require.NotZero(t, s.LastSuccess, s.Name)
		}
	})
}

// What a verify of a store says of one source, among others.
func TestOutcomeOfAVerify(t *testing.T) {
	failed := errors.New("connection refused")
	r := &verify.Result{
		Sources:  []verify.Source{{Name: "well", Sound: true}, {Name: "hurt"}, {Name: "unread"}},
		Findings: []verify.Finding{{Source: "hurt"}, {Source: "hurt"}},
	}
	for name, want := range map[string]source.Verify{"well": {}, "hurt": {Findings: 2}, "unread": {Error: "connection refused"}, "not reached": {Error: "connection refused"}} {
		v, known := outcome(name, r, failed)
		require.True(t, known, name)
		require.NotZero(t, v.Time)
		v.Time = 0
		require.Equal(t, want, v, name)
	}
	_, known := outcome("not there", r, nil)
	require.False(t, known)
}
