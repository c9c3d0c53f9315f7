package main

import (
	"errors"
	"log/slog"
	"path/filepath"
	"testing"
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
