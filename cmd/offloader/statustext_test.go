package main

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/heartbeat"
	"github.com/offloader/offloader/internal/httpapi"
	"github.com/offloader/offloader/internal/relay"
	"github.com/offloader/offloader/internal/source"
	"github.com/offloader/offloader/internal/stale"
	"github.com/offloader/offloader/internal/stream"
)

// What the status says of a store's age, of its last verify, and of the heartbeat.
func TestStatusTellsOfAges(t *testing.T) {
	now := time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)
	at := func(ago time.Duration) stream.Time { return stream.TimeOf(now.Add(-ago)) }
	text := func(rows ...[]cell) string {
		var b strings.Builder
		for _, row := range rows {
			for _, c := range row {
				b.WriteString(c.text + " ")
			}
		}
		return b.String()
	}
	store := source.StoreStatus{Name: "/srv", Held: stale.Held{Since: at(time.Hour)}}
	told := func() string {
		return text(new(app).details(httpapi.Source{Status: source.Status{Stores: []source.StoreStatus{store}}}, now)...)
	}
	require.Contains(t, told(), "no snapshot yet, not verified yet")
	store.Held.Snapshot, store.Held.Verified = at(time.Minute), at(48*time.Hour)
	require.Contains(t, told(), "newest snapshot 11:59:00, verified 2026-01-29 12:00:00")
	store.LastVerify = &source.Verify{Time: at(0), Findings: 3}
	require.Contains(t, told(), "verified 2026-01-29 12:00:00  3 findings at the verify of 12:00:00  → `offloader verify` tells them")
	store.LastVerify = &source.Verify{Time: at(0), Error: "connection refused"}
	require.Contains(t, told(), "not verified at 12:00:00: connection refused")
	store.LastVerify, store.Held = &source.Verify{Time: at(0)}, stale.Held{}
	require.NotContains(t, told(), "verified", "it isn't known yet")

	store.Held.Since, store.Held.Booted = at(time.Hour), at(time.Minute)
	require.Contains(t, told(), "not verified yet, booted 11:59:00")
	boot := func(v source.Verify) string {
		return text(new(app).details(httpapi.Source{Status: source.Status{LastBoot: &v}}, now)...)
	}
	require.NotContains(t, boot(source.Verify{Time: at(0)}), "boot")
	require.Contains(t, boot(source.Verify{Time: at(0), Findings: 1}), "a scratch engine held another number of keys than the master, at 12:00:00  → `offloader verify --boot` tells more")
	require.Contains(t, boot(source.Verify{Time: at(0), Error: "there is no redis"}), "no scratch engine could be booted at 12:00:00: there is no redis")

	beat := heartbeat.Status{Host: "hc.example.com"}
	require.Contains(t, text(heartbeatRow(beat, now)), "heartbeat to hc.example.com each minute while all is well none was taken since the start")
	beat.Last = at(time.Minute)
	require.Contains(t, text(heartbeatRow(beat, now)), "last 11:59:00")
	beat.Error = "it answers 404 Not Found"
	require.Contains(t, text(heartbeatRow(beat, now)), "failed: it answers 404 Not Found")
}

// A source that waits is told what ends that; its own server among the relay's replicas is no other one.
func TestStatusOfASourceThatWaits(t *testing.T) {
	now := time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)
	s := httpapi.Source{Status: source.Status{Master: "10.0.0.5:6379", State: "waiting", Why: "for its rebirth: nothing is archived of it", Hint: "say it"}}
	s.Replicas = []relay.Replica{{Address: "10.0.0.5:6379", State: relay.Away, Since: stream.TimeOf(now), Own: true, PutOff: "later"},
		{Address: "10.0.0.6:6379", State: relay.Online, Since: stream.TimeOf(now)}, {Address: "10.0.0.7:6379", State: relay.Away, Since: stream.TimeOf(now), PutOff: "it is too old"}}
	told := func() (lines []string) {
		for _, row := range new(app).details(s, now) {
			line := ""
			for _, c := range row {
				line += c.text + "|"
			}
			lines = append(lines, line)
		}
		return lines
	}
	require.Equal(t, []string{"link|waiting for its rebirth: nothing is archived of it|", "|→ say it|"}, told()[1:3])
	require.Contains(t, told(), "replica|10.0.0.5:6379, the source itself, away since 12:00:00|")
	require.Contains(t, told(), "replica|10.0.0.6:6379 online since 12:00:00|")
	require.Contains(t, told(), "replica|10.0.0.7:6379 away since 12:00:00, put off: it is too old|")
	s.State = "syncing"
	require.NotContains(t, told(), "|→ say it|", "it is over")
}
