package archive

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"

	"github.com/offloader/offloader/internal/crypt"
)

// Sources are the names of the sources that an archive holds, sorted. Folders that can't be a
// source's are passed over: a spool, a folder of lost files.
func Sources(ctx context.Context, files Files) ([]string, error) {
	dirs, err := files.Dirs(ctx, "")
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(dirs, func(name string) bool { return CheckSource(name) != nil || name == "lost+found" }), nil
}

// Load makes the catalog of a source from one listing, one timeline.json for each timeline and
// the events. What is wrong with one timeline is put among the Problems and leaves the others
// alone. Identities are for who opens what is encrypted: the catalog itself needs none.
func Load(ctx context.Context, files Files, source string, identities ...crypt.Identity) (*Catalog, error) {
	if err := CheckSource(source); err != nil {
		return nil, err
	}
	entries, err := files.List(ctx, source)
	if err != nil {
		return nil, err
	}
	c := &Catalog{Source: source}
	var all []*loader
	var names []string
	for len(entries) > 0 {
		timeline, _, ok := strings.Cut(strings.TrimPrefix(entries[0].Name, source+"/"), "/")
		prefix := source + "/" + timeline + "/"
		n := 0
		for n < len(entries) && strings.HasPrefix(entries[n].Name, prefix) {
			n++
		}
		if _, _, err := ParseTimelineName(timeline); !ok || err != nil {
			entries = entries[max(n, 1):]
			continue
		}
		l := newLoader(files, source, timeline, entries[:n])
		l.identities = identities
		all, names = append(all, l), append(names, l.small()...)
		entries = entries[n:]
	}
	small := readAhead(ctx, files, names)
	for _, l := range all {
		if err := l.load(ctx, small); err == nil {
			c.Timelines = append(c.Timelines, l.t)
		} else if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		} else {
			l.problems = append(l.problems, err)
		}
		c.Problems = append(c.Problems, l.problems...)
	}
	slices.SortFunc(c.Timelines, byBirth)
	return c, nil
}

func byBirth(a, b *Timeline) int { return cmp.Compare(a.Timeline, b.Timeline) }

// LoadTimeline makes one timeline of a source, from a listing of its own.
func LoadTimeline(ctx context.Context, files Files, source, timeline string) (*Timeline, error) {
	entries, err := files.List(ctx, inTimeline(source, timeline, ""))
	if err != nil {
		return nil, err
	}
	l := newLoader(files, source, timeline, entries)
	if err := l.load(ctx, readAhead(ctx, files, l.small())); err != nil {
		return nil, err
	}
	return l.t, nil
}

// loader makes one timeline of its files.
type loader struct {
	files      Files
	identities []crypt.Identity
	source     string
	timeline   string
	entries    []Entry
	t          *Timeline
	prefix     string
	problems   []error
}

func newLoader(files Files, source, timeline string, entries []Entry) *loader {
	return &loader{files: files, source: source, timeline: timeline, entries: entries, t: &Timeline{}, prefix: inTimeline(source, timeline, "") + "/"}
}

// small are the JSON files without which there is no catalog.
func (l *loader) small() []string {
	names := []string{l.prefix + timelineFile}
	for _, e := range l.entries {
		n, err := ParseEventName(strings.TrimPrefix(e.Name, l.prefix))
		if err == nil && !ByName(n.Kind) {
			names = append(names, e.Name)
		}
	}
	return names
}

func (l *loader) load(ctx context.Context, small ahead) error {
	source, timeline := l.source, l.timeline
	info, err := ReadTimeline(ctx, small, source, timeline)
	if errors.Is(err, fs.ErrNotExist) {
		err = &DamageError{Name: l.prefix + timelineFile, What: "it is missing"}
	}
	if err != nil {
		return err
	}
	l.t.TimelineInfo = info
	sidecars := map[SnapshotName]bool{}
	rdbs := map[SnapshotName][]Snapshot{}
	for _, e := range l.entries {
		name := strings.TrimPrefix(e.Name, l.prefix)
		switch {
		case strings.HasPrefix(name, logDir):
			if n, err := ParseSegmentName(name); err == nil {
				l.t.Segments = append(l.t.Segments, l.segment(n, e))
			}
		case strings.HasPrefix(name, snapshotDir):
			n, sidecar, err := ParseSnapshotName(name)
			if err != nil {
				continue // temporary, or not ours
			}
			if sidecar {
				sidecars[n] = true
			} else {
				s := l.snapshot(source, timeline, n, e)
				n.Encrypted = false // what remains tells one snapshot from another
				rdbs[n] = append(rdbs[n], s)
			}
		case strings.HasPrefix(name, eventDir):
			n, err := ParseEventName(name)
			if err != nil {
				continue // temporary, or not ours
			}
			if err := l.event(ctx, small, n); err != nil {
				return err
			}
		}
	}
	for n, stored := range rdbs {
		if sidecars[n] { // without it, it is one that is still being stored
			l.t.Snapshots = append(l.t.Snapshots, described(ctx, stored))
		}
	}
	l.t.sort()
	for _, e := range l.entries {
		n, sidecar, err := ParseSnapshotName(strings.TrimPrefix(e.Name, l.prefix))
		if err == nil && sidecar && len(rdbs[n]) == 0 {
			if err := l.lost(ctx, source, timeline, n); err != nil {
				return err
			}
		}
	}
	return nil
}

// lost looks whether a snapshot whose sidecar was listed, and its RDB not, has lost that: it was
// stored before. Either may have come or gone while the listing was made.
func (l *loader) lost(ctx context.Context, source, timeline string, n SnapshotName) error {
	described, err := l.exists(ctx, inTimeline(source, timeline, n.Sidecar()))
	if err != nil || !described {
		return err
	}
	rdb := inTimeline(source, timeline, n.RDB())
	for _, n.Encrypted = range []bool{false, true} {
		stored, err := l.exists(ctx, inTimeline(source, timeline, n.RDB()))
		if err != nil || stored {
			return err
		}
	}
	l.problems = append(l.problems, &DamageError{Name: rdb, What: "it is missing, and its .json says that it was stored"})
	return nil
}

func (l *loader) exists(ctx context.Context, name string) (bool, error) {
	f, err := l.files.Open(ctx, name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, f.Close()
}

// event reads an event. One that is damaged is a problem, but what its name says has happened all
// the same; one that vanished was none.
func (l *loader) event(ctx context.Context, small ahead, n EventName) error {
	if ByName(n.Kind) {
		l.t.Events = append(l.t.Events, Event{Kind: n.Kind, Offset: n.Offset, Time: n.Time})
		return nil
	}
	e, err := ReadEvent(ctx, small, l.source, l.timeline, n)
	var damage *DamageError
	switch {
	case err == nil:
		l.t.Events = append(l.t.Events, e)
	case errors.As(err, &damage):
		l.t.Events = append(l.t.Events, Event{Kind: n.Kind, Offset: n.Offset, Time: n.Time, Damage: err})
		l.problems = append(l.problems, err)
	case errors.Is(err, fs.ErrNotExist):
	default:
		return err
	}
	return nil
}

func (l *loader) segment(n SegmentName, e Entry) Segment {
	files, identities := l.files, l.identities
	timeline := l.timeline
	s := Segment{store: nameOf(files), Range: n.Range, Time0: n.Time0, Time1: n.Time1, Sum: n.Sum, Name: n.String(), Size: e.Size, Encrypted: n.Encrypted,
		Open: func(ctx context.Context) (PieceReader, error) {
			src, err := files.Open(ctx, e.Name)
			if err != nil {
				return nil, err
			}
			r, err := NewSegmentReader(src, e.Name, n, identities...)
			if err != nil {
				return nil, err
			}
			r.timeline = timeline
			return r, nil
		}}
	if n.Encrypted {
		s.EndDB = func(ctx context.Context) (int, bool, error) { return endDB(ctx, files, e.Name, n.Sum) }
	}
	return s
}

// nameOf tells one store from another, as long as they have names.
func nameOf(files Files) string {
	if named, ok := files.(fmt.Stringer); ok {
		return named.String()
	}
	return ""
}

// endDB reads a segment's note, and the rest of the file for its sum.
func endDB(ctx context.Context, files Files, name string, sum uint64) (db int, ok bool, err error) {
	src, err := files.Open(ctx, name)
	if err != nil {
		return 0, false, err
	}
	stored := &sourceSum{r: src}
	note, noteErr := crypt.ReadNote(stored)
	_, err = io.Copy(io.Discard, stored)
	if err := errors.Join(err, src.Close()); err != nil {
		return 0, false, fmt.Errorf("read %s: %w", name, err)
	}
	switch {
	case stored.sum != sum:
		return 0, false, &DamageError{Name: name, What: fmt.Sprintf("its CRC64 is %016x, its name says %016x", stored.sum, sum)}
	case noteErr != nil:
		return 0, false, &DamageError{Name: name, What: "it is not encrypted as its name says", Err: noteErr}
	}
	db, ok = readDB(note)
	return db, ok, nil
}

// described is the one of a snapshot's files that its sidecar is of. Mostly there is one. A daemon that
// was killed between dataset and sidecar may find encryption switched on, or off, when it does it
// again, and then there is a plain and an encrypted one: their sizes tell.
func described(ctx context.Context, stored []Snapshot) Snapshot {
	if len(stored) > 1 {
		info, err := stored[0].Info(ctx)
		if err == nil && info.StoredBytes == stored[1].Size {
			return stored[1]
		}
	}
	return stored[0]
}

func (l *loader) snapshot(source, timeline string, n SnapshotName, e Entry) Snapshot {
	files, identities := l.files, l.identities
	info := func(ctx context.Context) (SnapshotInfo, error) {
		name := inTimeline(source, timeline, n.Sidecar())
		var info SnapshotInfo
		if err := getJSON(ctx, files.Open, name, &info); err != nil {
			return SnapshotInfo{}, err
		}
		if info.Offset != n.Offset || info.Time != n.Time || info.Bytes < 0 || info.StoredBytes < 0 {
			return SnapshotInfo{}, &DamageError{Name: name, What: "it doesn't say what its name says"}
		}
		return info, nil
	}
	return Snapshot{store: nameOf(files), Offset: n.Offset, Time: n.Time, Name: n.RDB(), Size: e.Size, Encrypted: n.Encrypted, Info: info,
		Open: func(ctx context.Context) (io.ReadCloser, error) {
			want, err := info(ctx)
			if err != nil {
				return nil, err
			}
			src, err := files.Open(ctx, e.Name)
			if err != nil {
				return nil, err
			}
			return newSnapshotReader(src, e.Name, n.Encrypted, want, identities...)
		}}
}

// sort brings what a timeline holds into the order that its fields promise.
func (t *Timeline) sort() {
	slices.SortStableFunc(t.Events, func(a, b Event) int {
		return cmp.Or(cmp.Compare(a.Offset, b.Offset), cmp.Compare(a.Time, b.Time))
	})
	slices.SortStableFunc(t.Snapshots, func(a, b Snapshot) int {
		return cmp.Or(cmp.Compare(a.Offset, b.Offset), cmp.Compare(a.Time, b.Time))
	})
	slices.SortStableFunc(t.Segments, func(a, b Segment) int {
		return cmp.Or(cmp.Compare(a.From, b.From), cmp.Compare(b.To, a.To))
	})
}

// Timeline is the one of that name, nil where there is none.
func (c *Catalog) Timeline(name string) *Timeline {
	i, ok := slices.BinarySearchFunc(c.Timelines, name, func(t *Timeline, name string) int { return cmp.Compare(t.Timeline, name) })
	if !ok {
		return nil
	}
	return c.Timelines[i]
}

// Add unites what a spool holds of a timeline, or another store, with what is known of it. What
// both have is taken from the store that was loaded first, as long as it isn't damaged there
// (WithoutSegment, WithoutSnapshot). t is left as it is.
func (c *Catalog) Add(t *Timeline) {
	have := c.Timeline(t.Timeline)
	if have == nil {
		have = &Timeline{TimelineInfo: t.TimelineInfo}
		c.Timelines = append(c.Timelines, have)
		slices.SortFunc(c.Timelines, byBirth)
	}
	events := map[EventName]int{}
	for i, e := range have.Events {
		events[EventName{e.Offset, e.Time, e.Kind}] = i
	}
	for _, e := range t.Events {
		switch i, known := events[EventName{e.Offset, e.Time, e.Kind}]; {
		case !known:
			have.Events = append(have.Events, e)
		case have.Events[i].Damage != nil: // here it may be whole
			have.Events[i] = e
		}
	}
	snapshots := map[SnapshotName]int{}
	for i, s := range have.Snapshots {
		snapshots[SnapshotName{Offset: s.Offset, Time: s.Time}] = i
	}
	for _, s := range t.Snapshots {
		if i, known := snapshots[SnapshotName{Offset: s.Offset, Time: s.Time}]; known {
			first := &have.Snapshots[i]
			first.others = append(first.others[:len(first.others):len(first.others)], s)
		} else {
			have.Snapshots = append(have.Snapshots, s)
		}
	}
	segments := map[string]int{}
	for i, s := range have.Segments {
		segments[s.Name] = i
	}
	for _, s := range t.Segments {
		if i, known := segments[s.Name]; known && s.Name != "" {
			first := &have.Segments[i]
			first.others = append(first.others[:len(first.others):len(first.others)], s)
		} else {
			have.Segments = append(have.Segments, s)
		}
	}
	have.sort()
}

// WithoutSegment is the catalog without the file of a segment, which was found damaged, say, in the store that
// gone is from. Where another store has one by that name, it stands in its place. Of a spool's part everything
// goes that the spool holds of that range.
func (c *Catalog) WithoutSegment(timeline string, gone Segment) *Catalog {
	return c.without(timeline, func(t *Timeline) {
		t.Segments = replaced(t.Segments, func(s Segment) (Segment, bool) {
			switch {
			case s.Name != gone.Name:
				return s, true
			case s.Name == "":
				return s, s.From >= gone.To || gone.From >= s.To
			case s.store != gone.store:
				s.others = slices.DeleteFunc(slices.Clone(s.others), func(o Segment) bool { return o.store == gone.store })
				return s, true
			case len(s.others) == 0:
				return s, false
			}
			next := s.others[0]
			next.others = s.others[1:]
			return next, true
		})
	})
}

// WithoutSnapshot is the same for a snapshot and its sidecar.
func (c *Catalog) WithoutSnapshot(timeline string, gone Snapshot) *Catalog {
	return c.without(timeline, func(t *Timeline) {
		t.Snapshots = replaced(t.Snapshots, func(s Snapshot) (Snapshot, bool) {
			switch {
			case s.Offset != gone.Offset || s.Time != gone.Time:
				return s, true
			case s.store != gone.store:
				s.others = slices.DeleteFunc(slices.Clone(s.others), func(o Snapshot) bool { return o.store == gone.store })
				return s, true
			case len(s.others) == 0:
				return s, false
			}
			next := s.others[0]
			next.others = s.others[1:]
			return next, true
		})
	})
}

func (c *Catalog) without(timeline string, change func(*Timeline)) *Catalog {
	rest := *c
	rest.Timelines = slices.Clone(c.Timelines)
	for i, t := range rest.Timelines {
		if t.Timeline == timeline {
			changed := *t
			change(&changed)
			changed.sort()
			rest.Timelines[i] = &changed
		}
	}
	return &rest
}

// replaced is a list of what judge puts in the place of each, if anything.
func replaced[T any](list []T, judge func(T) (T, bool)) []T {
	var rest []T
	for _, s := range list {
		if s, ok := judge(s); ok {
			rest = append(rest, s)
		}
	}
	return rest
}

// Elsewhere tells whether another store has a file by the segment's name.
func (s Segment) Elsewhere() bool { return len(s.others) > 0 }

// Elsewhere tells whether another store has a snapshot by that name.
func (s Snapshot) Elsewhere() bool { return len(s.others) > 0 }
