package mirror_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/mirror"
	"github.com/offloader/offloader/internal/store"
)

// An event that can't be read is told, and not spread: the other store may get it whole from elsewhere.
func TestADamagedEventStaysAlone(t *testing.T) {
	here, there := t.TempDir(), t.TempDir()
	from, err := store.OpenDisk(t.Context(), here, store.Options{Write: true})
	require.NoError(t, err)
	to, err := store.OpenDisk(t.Context(), there, store.Options{Write: true})
	require.NoError(t, err)
	info := archive.TimelineInfo{Source: "cache", Timeline: "20261123T183152.123Z-1a2b3c4d", ReplID: "1a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d"}
	require.NoError(t, archive.WriteTimeline(t.Context(), from, info))
	whole, torn := archive.Event{Kind: archive.EventEnded, Offset: 1, Time: 1_763_924_400_000}, archive.Event{Kind: archive.EventSuspect, Offset: 1, Time: 1_763_924_400_000}
	for _, e := range []archive.Event{whole, torn} {
		require.NoError(t, archive.WriteEvent(t.Context(), from, "cache", info.Timeline, e))
	}
	require.NoError(t, os.Truncate(filepath.Join(here, info.Path(torn.Name())), 3))

	err = (&mirror.Copier{From: from, To: to}).Source(t.Context(), "cache")
	require.ErrorContains(t, err, torn.Name()+" is damaged")
	require.FileExists(t, filepath.Join(there, info.Path(whole.Name())))
	require.NoFileExists(t, filepath.Join(there, info.Path(torn.Name())))
}
