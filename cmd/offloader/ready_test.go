package main

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/check"
	"github.com/offloader/offloader/internal/stream"
)

func TestReady(t *testing.T) {
	now := time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)
	at := func(ago time.Duration) stream.Time { return stream.TimeOf(now.Add(-ago)) }
	booted := archive.Event{Kind: archive.EventBooted, Offset: 700, Time: at(time.Hour)}
	store := func(events ...archive.Event) *archive.Catalog {
		return &archive.Catalog{Source: "cache", Timelines: []*archive.Timeline{{Events: events}}}
	}
	a := &app{configFile: "/etc/my offloader.yaml"}
	require.Empty(t, a.proved(nil, "cache", now))
	require.Empty(t, a.proved([]*archive.Catalog{{Source: "cache"}}, "cache", now), "nothing is archived yet")

	only := func(cats ...*archive.Catalog) check.Finding {
		found := a.proved(cats, "cache", now)
		require.Len(t, found, 1)
		require.Equal(t, "ready", found[0].Name)
		return found[0]
	}
	never := only(store(), store(archive.Event{Kind: archive.EventVerified, Time: at(0)}, archive.Event{Kind: archive.EventCounted, Time: at(0)}))
	require.Equal(t, check.Warn, never.Level)
	require.Equal(t, `offloader verify --boot --config "/etc/my offloader.yaml" --source cache`, never.Hint)

	once := only(store(), store(booted, archive.Event{Kind: archive.EventBooted, Offset: 200, Time: at(48 * time.Hour)}))
	require.Equal(t, check.OK, once.Level)
	require.Contains(t, once.Message, "ready to switch the master's persistence off: at 11:00:00 a scratch engine had replayed the archive up to offset 700")

	doubt := only(store(booted, archive.Event{Kind: archive.EventSuspect, Time: at(0)}))
	require.Equal(t, check.Warn, doubt.Level)
	require.Contains(t, doubt.Hint, "offloader release")
}
