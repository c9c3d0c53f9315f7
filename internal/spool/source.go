package spool

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/durable"
	"github.com/offloader/offloader/internal/resp"
	"github.com/offloader/offloader/internal/stream"
)

const (
	timelineFile     = "timeline.json"
	snapshotFile     = "snapshot.rdb"
	snapshotInfoFile = "snapshot.json"
	incomingFile     = "incoming.rdb"
)

// Source is what the spool holds of one source.
type Source struct {
	spool *Spool
	dir   string

	news *news

	mu   sync.Mutex
	open []*Timeline // in order of birth
}

// Source opens what the spool holds of the source called name, cut back to the last boundaries.
// Of timelines that had not begun when the last owner ended, nothing is left.
func (s *Spool) Source(name string) (*Source, error) {
	src := &Source{spool: s, dir: filepath.Join(s.dir, name), news: newNews()}
	if err := durable.MkdirAll(src.dir); err != nil {
		return nil, fmt.Errorf("make the spool of source %s: %w", name, err)
	}
	dirs, err := timelineDirs(src.dir)
	if err != nil {
		return nil, err
	}
	for _, dir := range dirs {
		_, err := os.Stat(filepath.Join(dir, timelineFile))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			if err := durable.RemoveAll(dir); err != nil {
				return nil, errors.Join(fmt.Errorf("remove a timeline that never began: %w", err), src.Close())
			}
			continue
		case err != nil:
			return nil, errors.Join(err, src.Close())
		}
		t, err := s.recover(dir, src.news)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("recover %s: %w", dir, err), src.Close())
		}
		src.open = append(src.open, t)
	}
	return src, nil
}

// timelineDirs are the folders of timelines below dir, in order of birth.
func timelineDirs(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var dirs []string
	for _, e := range entries {
		if e.IsDir() && !strings.HasPrefix(e.Name(), ".") {
			dirs = append(dirs, filepath.Join(dir, e.Name()))
		}
	}
	slices.Sort(dirs)
	return dirs, nil
}

// Dir is the source's folder in the spool.
func (s *Source) Dir() string { return s.dir }

// Timelines are those that the spool still holds, in order of birth. The last one is written.
func (s *Source) Timelines() []*Timeline {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.open)
}

// Committed is signalled when bytes of a timeline became durable. It is for one who waits: the link.
func (s *Source) Committed() <-chan struct{} { return s.news.link }

// News is closed when next something became durable, or a timeline began, goes on under another id or
// was closed. Who asks for it before looking at a Head misses nothing.
func (s *Source) News() <-chan struct{} { return s.news.wait() }

// Stir has those who wait for News look anew: what they go by has changed elsewhere.
func (s *Source) Stir() { s.news.tell() }

// Has tells whether the spool holds, or is receiving, a timeline of that name.
func (s *Source) Has(name string) bool {
	_, err := os.Stat(filepath.Join(s.dir, name))
	return err == nil
}

// Branch begins a timeline that continues another at a boundary. It needs no snapshot of its own. It is
// never seen without the events, nor without what the timeline before lost, nil for nothing.
func (s *Source) Branch(info archive.TimelineInfo, at stream.Cursor, lost *archive.Event, events ...archive.Event) (*Timeline, error) {
	dir := filepath.Join(s.dir, info.Timeline)
	if err := durable.MkdirAll(dir); err != nil {
		return nil, fmt.Errorf("begin timeline %s: %w", info.Timeline, err)
	}
	return s.begin(dir, info, at, lost, events)
}

// begin makes a timeline exist, with nothing behind at yet. timeline.json comes last.
func (s *Source) begin(dir string, info archive.TimelineInfo, at stream.Cursor, lost *archive.Event, events []archive.Event) (*Timeline, error) {
	if lost != nil {
		if err := writeJSON(filepath.Join(dir, lostFile), lost); err != nil {
			return nil, fmt.Errorf("begin timeline %s: %w", info.Timeline, err)
		}
	}
	for _, e := range events {
		if err := keepEvent(dir, e); err != nil {
			return nil, fmt.Errorf("begin timeline %s: %w", info.Timeline, err)
		}
	}
	head := chunkHead{at: at, replID: info.ReplID}
	if err := durable.WriteFile(chunkPath(dir, at.Offset), head.encode()); err != nil {
		return nil, fmt.Errorf("begin timeline %s: %w", info.Timeline, err)
	}
	if err := writeJSON(filepath.Join(dir, timelineFile), info); err != nil {
		return nil, fmt.Errorf("begin timeline %s: %w", info.Timeline, err)
	}
	t, err := s.spool.recover(dir, s.news)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("begin timeline %s: %w", info.Timeline, err), removeTimeline(dir))
	}
	s.mu.Lock()
	s.open = append(s.open, t)
	s.mu.Unlock()
	s.news.tell()
	return t, nil
}

// Rename gives a timeline another name, while no store knows it yet: another spool had taken the
// one it had. Branches of it learn the name first: a crash between must not leave them with
// another spool's timeline for a parent.
func (s *Source) Rename(t *Timeline, name string) error {
	was := t.Info().Timeline
	for _, o := range s.Timelines() {
		if p := o.Info().Parent; p != nil && p.Timeline == was {
			if err := o.setParent(name); err != nil {
				return err
			}
		}
	}
	return t.rename(name)
}

// Drop closes and forgets a timeline that the stores have all of.
func (s *Source) Drop(t *Timeline) error {
	s.mu.Lock()
	s.open = slices.DeleteFunc(slices.Clone(s.open), func(o *Timeline) bool { return o == t })
	s.mu.Unlock()
	return errors.Join(t.Close(), removeTimeline(t.folder()))
}

// Close makes all durable and closes it.
func (s *Source) Close() error {
	var errs []error
	for _, t := range s.Timelines() {
		errs = append(errs, t.Close())
	}
	return errors.Join(errs...)
}

// recover opens a timeline: it finds the last boundary that is whole and goes on from there.
func (s *Spool) recover(dir string, news *news) (*Timeline, error) {
	info, err := readTimelineInfo(dir)
	if err != nil {
		return nil, err
	}
	state, err := walkChunks(dir)
	if err == nil {
		err = state.damage
	}
	if err != nil {
		return nil, err
	}
	t := &Timeline{
		spool: s, dir: dir, info: info,
		framer: resp.NewFramer(state.end), boundary: state.end, durable: state.end,
		last: state.alive, replID: state.replID,
		dirty: make(chan struct{}, 1), news: news,
		stop: make(chan struct{}), done: make(chan struct{}),
	}
	if err := remove(filepath.Join(dir, takingFile)); err != nil {
		return nil, err
	}
	if err := removeBehind(dir, state.end.Offset); err != nil { // behind a tear: Durable had not come that far
		return nil, err
	}
	// What was written but perhaps not fsynced by the last owner counts as durable from here on,
	// so it is made so first.
	for _, c := range state.unsealed {
		if err := sealOld(dir, c); err != nil {
			return nil, err
		}
	}
	for _, c := range state.chunks {
		if c.from <= state.end.Offset {
			t.chunks = append(t.chunks, c)
			s.used.Add(c.size)
		}
	}
	if err := t.turn(true); err != nil {
		for _, c := range t.chunks {
			s.used.Add(-c.size)
		}
		return nil, err
	}
	go t.commit()
	return t, nil
}

// sealOld makes a chunk of an earlier owner durable and marks it whole.
func sealOld(dir string, c unsealed) error {
	f, err := durable.OpenAppend(chunkPath(dir, c.from))
	if err != nil {
		return err
	}
	return seal(retired{file: f, end: c.end})
}

func readTimelineInfo(dir string) (info archive.TimelineInfo, err error) {
	b, err := os.ReadFile(filepath.Join(dir, timelineFile))
	if err != nil {
		return info, err
	}
	if err := json.Unmarshal(b, &info); err != nil {
		return info, fmt.Errorf("%s: %w", filepath.Join(dir, timelineFile), err)
	}
	info.Timeline = filepath.Base(dir) // a rename may have been cut short
	return info, nil
}

func readSnapshotInfo(path string) (info archive.SnapshotInfo, err error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return info, err
	}
	if err := json.Unmarshal(b, &info); err != nil {
		return info, fmt.Errorf("%s: %w", path, err)
	}
	return info, nil
}
