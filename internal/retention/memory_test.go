package retention

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/stream"
)

// memory is a store that holds names, and of JSON files what is in them: a catalog is made of no
// more.
type memory struct {
	files   map[string][]byte
	deleted []string                // in order
	refuse  func(name string) error // before each deletion, nil for never
}

func newMemory() *memory { return &memory{files: map[string][]byte{}} }

func (m *memory) List(_ context.Context, dir string) ([]archive.Entry, error) {
	var entries []archive.Entry
	for name, b := range m.files {
		if strings.HasPrefix(name, dir+"/") {
			entries = append(entries, archive.Entry{Name: name, Size: int64(len(b))})
		}
	}
	slices.SortFunc(entries, func(a, b archive.Entry) int { return strings.Compare(a.Name, b.Name) })
	return entries, nil
}

func (m *memory) Dirs(context.Context, string) ([]string, error) { return nil, nil }

func (m *memory) Open(_ context.Context, name string) (io.ReadCloser, error) {
	b, ok := m.files[name]
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return io.NopCloser(bytes.NewReader(b)), nil
}

func (m *memory) Put(_ context.Context, name string, r io.Reader) error {
	if _, taken := m.files[name]; taken {
		return fs.ErrExist
	}
	b, err := io.ReadAll(r)
	m.files[name] = b
	return err
}

func (m *memory) Delete(_ context.Context, name string) error {
	if m.refuse != nil {
		if err := m.refuse(name); err != nil {
			return err
		}
	}
	delete(m.files, name)
	m.deleted = append(m.deleted, name)
	return nil
}

func (m *memory) Kept(_ context.Context, name string) error {
	if m.refuse != nil {
		return m.refuse(name)
	}
	return nil
}

const (
	minute = stream.Time(60_000)
	hour   = 60 * minute
	day    = 24 * hour
	// epoch is when the tests' histories begin: 2026-01-01, a Thursday.
	epoch = stream.Time(1_767_225_600_000)
)

// at is d days into the history.
func at(d float64) stream.Time { return epoch + stream.Time(d*float64(day)) }

// line is a timeline that a test writes: its methods add a file to the store.
type line struct {
	t    require.TestingT
	m    *memory
	info archive.TimelineInfo
	all  *archive.Catalog // gets all of it too, where there is one
}

func newLine(t require.TestingT, m *memory, began stream.Time, offset stream.Offset, spool string, parent *line) *line {
	l := &line{t: t, m: m}
	id := stream.ReplID(fmt.Sprintf("%040x", int64(began)))
	l.info = archive.TimelineInfo{Source: "cache", Timeline: archive.TimelineName(began, id), ReplID: id, Offset: offset, Began: began, Spool: spool, Reason: "a test"}
	if parent != nil {
		l.info.Parent = &archive.Parent{Timeline: parent.name(), Offset: offset}
	}
	require.NoError(t, archive.WriteTimeline(context.Background(), m, l.info))
	return l
}

func (l *line) name() string { return l.info.Timeline }

func (l *line) file(name string) { l.m.files["cache/"+l.name()+"/"+name] = []byte("x") }

func (l *line) also(t archive.Timeline) *line {
	if t.TimelineInfo = l.info; l.all != nil {
		l.all.Add(&t)
	}
	return l
}

func (l *line) snapshot(o stream.Offset, at stream.Time) *line {
	n := archive.SnapshotName{Offset: o, Time: at}
	l.file(n.RDB())
	l.file(n.Sidecar())
	open := func(context.Context) (io.ReadCloser, error) { return nil, io.EOF }
	return l.also(archive.Timeline{Snapshots: []archive.Snapshot{{Offset: o, Time: at, Name: n.RDB(), Open: open}}})
}

func (l *line) segment(from, to stream.Offset, time0, time1 stream.Time) *line {
	n := archive.SegmentName{Range: stream.Range{From: from, To: to}, Time0: time0, Time1: time1}
	l.file(n.String())
	return l.also(archive.Timeline{Segments: []archive.Segment{{Range: n.Range, Time0: time0, Time1: time1, Name: n.String()}}})
}

func (l *line) event(e archive.Event) *line {
	if l.m != nil {
		require.NoError(l.t, archive.WriteEvent(context.Background(), l.m, "cache", l.name(), e))
	}
	return l.also(archive.Timeline{Events: []archive.Event{e}})
}

func load(t require.TestingT, m *memory) *archive.Catalog {
	cat, err := archive.Load(context.Background(), m, "cache")
	require.NoError(t, err)
	require.Empty(t, cat.Problems)
	return cat
}
