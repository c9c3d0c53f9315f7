package spool

import (
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/stream"
)

// Whoever looks while timelines begin sees none of them without what was said at its beginning.
func TestATimelineIsNeverSeenWithoutItsEvents(t *testing.T) {
	dir := t.TempDir()
	_, src, closeAll := open(t, dir, Options{})
	event := archive.Event{Kind: archive.EventSuspect, Offset: 100, Time: 5, Cause: "test", Keys: &archive.Sizes{Before: 7}}
	var begun atomic.Bool
	looked := make(chan error, 1)
	go func() {
		looked <- func() error {
			for done := false; !done; {
				done = begun.Load() // and then once more
				all, err := View(dir, "cache")
				if err != nil {
					return err
				}
				for _, one := range all {
					if !one.Suspect() {
						return fmt.Errorf("timeline %s isn't suspect", one.Timeline)
					}
				}
			}
			return nil
		}()
	}()
	at := stream.Cursor{Offset: 100, Time: 5}
	for n := range 20 {
		info := archive.TimelineInfo{Format: 1, Source: "cache", Timeline: fmt.Sprintf("20260102T030405.%03dZ-01234567", n), ReplID: testID, Offset: 100}
		if n%2 == 0 {
			_, err := src.Branch(info, at, nil, event)
			require.NoError(t, err)
			continue
		}
		in, err := src.Receive(info, 3)
		require.NoError(t, err)
		_, err = in.Write([]byte("RDB"))
		require.NoError(t, err)
		_, err = in.Whole(archive.SnapshotInfo{Offset: 100, Time: 5, Bytes: 3}, at, nil, event)
		require.NoError(t, err)
	}
	begun.Store(true)
	require.NoError(t, <-looked)
	closeAll()

	_, src, closeAll = open(t, dir, Options{})
	defer closeAll()
	require.Len(t, src.Timelines(), 20)
	for _, one := range src.Timelines() {
		events, err := one.Events()
		require.NoError(t, err)
		require.Equal(t, []archive.Event{event}, events)
	}
}
