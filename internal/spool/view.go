package spool

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/stream"
)

// View is what a spool holds of a source, for whoever reads beside its owner or after its owner
// died: as timelines of an archive, to be laid over what the stores hold. It takes no lock and
// changes nothing. What it names may be gone when it is opened, with fs.ErrNotExist: then a store
// has it by now. A spool or source that isn't there holds nothing.
func View(dir, source string) ([]*archive.Timeline, error) {
	dirs, err := timelineDirs(filepath.Join(dir, source))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look into the spool: %w", err)
	}
	var all []*archive.Timeline
	for _, d := range dirs {
		t, err := viewTimeline(d)
		var missing error
		for try := 0; err != nil && try < 10; try++ {
			if _, missing = os.Stat(filepath.Join(d, timelineFile)); missing != nil {
				break // it has not begun, or the stores have all of it
			}
			t, err = viewTimeline(d) // it was trimmed meanwhile
		}
		if errors.Is(missing, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("look into the spool: %w", err)
		}
		all = append(all, t)
	}
	return all, nil
}

// Sources are the names of the sources that a spool knows.
func Sources(dir string) ([]string, error) {
	dirs, err := timelineDirs(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	for i, d := range dirs {
		dirs[i] = filepath.Base(d)
	}
	return dirs, err
}

func viewTimeline(dir string) (*archive.Timeline, error) {
	info, err := readTimelineInfo(dir)
	if err != nil {
		return nil, err
	}
	t := &archive.Timeline{TimelineInfo: info}
	if t.Events, err = pendingEvents(dir); err != nil {
		return nil, err
	}
	if t.Snapshots, err = viewSnapshots(dir); err != nil {
		return nil, err
	}
	state, err := walkChunks(dir)
	if err != nil {
		return nil, err
	}
	if open, ok, err := readOutage(dir); err != nil {
		return nil, err
	} else if ok && state.end.Offset > open.Offset {
		open.To, open.Time = state.end.Offset, max(state.alive, state.end.Time) // so far
		t.Events = append(t.Events, open)
	}
	if state.end.Offset > state.begin.Offset {
		r := stream.Range{From: state.begin.Offset, To: state.end.Offset}
		chunks := state.chunks
		t.Segments = []archive.Segment{{
			Range: r, Time0: state.begin.Time, Time1: state.end.Time,
			Open: func(context.Context) (archive.PieceReader, error) { return openReader(dir, chunks, r) },
		}}
	}
	return t, nil
}

func viewSnapshots(dir string) ([]archive.Snapshot, error) {
	pending, err := pendingSnapshots(dir)
	if err != nil {
		return nil, err
	}
	var all []archive.Snapshot
	for _, p := range pending {
		all = append(all, archive.Snapshot{
			Offset: p.Offset, Time: p.Time, Size: p.Bytes,
			Info: func(context.Context) (archive.SnapshotInfo, error) { return p.SnapshotInfo, nil },
			Open: func(context.Context) (io.ReadCloser, error) { return os.Open(p.Path) },
		})
	}
	return all, nil
}

// Events are those that the stores may not have yet, with their names in the archive.
func (t *Timeline) Events() ([]archive.Event, error) { return pendingEvents(t.folder()) }

func pendingEvents(dir string) ([]archive.Event, error) {
	entries, err := os.ReadDir(filepath.Join(dir, "events"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var all []archive.Event
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") || !strings.HasSuffix(e.Name(), ".json") {
			continue
		}
		b, err := os.ReadFile(filepath.Join(dir, "events", e.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		var ev archive.Event
		if err := json.Unmarshal(b, &ev); err != nil {
			return nil, fmt.Errorf("event %s: %w", e.Name(), err)
		}
		all = append(all, ev)
	}
	return all, nil
}
