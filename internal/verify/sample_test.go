package verify

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/crc64"
	"github.com/offloader/offloader/internal/crypt"
	"github.com/offloader/offloader/internal/replay/replaytest"
	"github.com/offloader/offloader/internal/stream"
)

const (
	id    = stream.ReplID("1a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d")
	other = stream.ReplID("ffffffff5e6f708192a3b4c5d6e7f8091a2b3c4d")
	start = stream.Time(1_795_000_000_000)
	cache = "cache"
)

// memory is a store.
type memory struct {
	mu    sync.Mutex
	files map[string][]byte
	// open, if set, is asked before a file is opened.
	open func(name string) error
}

func newMemory() *memory { return &memory{files: map[string][]byte{}} }

func (m *memory) Put(_ context.Context, name string, r io.Reader) error {
	b, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, taken := m.files[name]; taken {
		return fs.ErrExist
	}
	m.files[name] = b
	return nil
}

func (m *memory) Open(_ context.Context, name string) (io.ReadCloser, error) {
	if m.open != nil {
		if err := m.open(name); err != nil {
			return nil, err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	b, ok := m.files[name]
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return io.NopCloser(bytes.NewReader(b)), nil
}

func (m *memory) List(_ context.Context, dir string) (entries []archive.Entry, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for name, b := range m.files {
		if strings.HasPrefix(name, dir+"/") {
			entries = append(entries, archive.Entry{Name: name, Size: int64(len(b))})
		}
	}
	slices.SortFunc(entries, func(a, b archive.Entry) int { return strings.Compare(a.Name, b.Name) })
	return entries, nil
}

func (m *memory) Dirs(_ context.Context, dir string) (names []string, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for name := range m.files {
		first, _, _ := strings.Cut(name, "/")
		names = append(names, first)
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

func (m *memory) clone() *memory { return &memory{files: maps.Clone(m.files)} }

// names are those of the files that hold all of parts, sorted.
func (m *memory) names(parts ...string) (names []string) {
	for name := range m.files {
		if !slices.ContainsFunc(parts, func(p string) bool { return !strings.Contains(name, p) }) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// one is the only one of them.
func (m *memory) one(t require.TestingT, parts ...string) string {
	names := m.names(parts...)
	require.Len(t, names, 1, "%v", parts)
	return names[0]
}

func (m *memory) edit(t require.TestingT, name, old, with string) {
	require.Contains(t, string(m.files[name]), old)
	m.files[name] = []byte(strings.Replace(string(m.files[name]), old, with, 1))
}

// maker writes an archive.
type maker struct {
	t   require.TestingT
	to  *memory
	enc *archive.Encoder
	log *replaytest.Log
}

func newMaker(t require.TestingT, from stream.Offset, db int, to ...crypt.Recipient) *maker {
	enc, err := archive.NewEncoder(to...)
	require.NoError(t, err)
	return &maker{t: t, to: newMemory(), enc: enc, log: replaytest.NewLog(from, db)}
}

func (m *maker) timeline(info archive.TimelineInfo) string {
	info.Source, info.Began = cache, start
	if info.ReplID == "" {
		info.ReplID = id
	}
	if info.Timeline == "" {
		info.Timeline = archive.TimelineName(info.Began, info.ReplID)
	}
	require.NoError(m.t, archive.WriteTimeline(context.Background(), m.to, info))
	return info.Timeline
}

// rdbOf is an RDB with so many keys in a database.
func rdbOf(db, keys int) []byte {
	b := []byte("REDIS0011")
	if keys > 0 {
		b = append(b, 0xfe, byte(db))
	}
	for i := range keys {
		key := fmt.Sprintf("key:%d", i)
		b = append(append(append(b, 0, byte(len(key))), key...), 1, 'v')
	}
	b = append(b, 0xff)
	return binary.LittleEndian.AppendUint64(b, crc64.Update(0, b))
}

func (m *maker) snapshot(timeline string, at stream.Cursor, keys int) {
	info := archive.SnapshotInfo{Offset: at.Offset, Time: at.Time, DB: at.DB, Method: "full-sync", ReplID: id, RDBVersion: 11}
	if keys > 0 {
		info.Keys = map[string]int64{"2": int64(keys)}
	}
	_, err := archive.WriteSnapshot(context.Background(), m.to, m.enc, cache, timeline, info, bytes.NewReader(rdbOf(2, keys)))
	require.NoError(m.t, err)
}

// segment stores a range of the log, and returns its name in the archive.
func (m *maker) segment(timeline string, r stream.Range) string {
	return m.segmentOf(m.log, timeline, r, archive.SegmentHead{Source: cache, Timeline: timeline, ReplID: id})
}

func (m *maker) segmentOf(l *replaytest.Log, timeline string, r stream.Range, head archive.SegmentHead) string {
	pieces, err := l.Segment(r, 1<<20).Open(context.Background())
	require.NoError(m.t, err)
	var b bytes.Buffer
	head.From = stream.Cursor{Offset: r.From, DB: pieces.DB()}
	w, err := archive.NewSegmentWriter(&b, m.enc, head)
	require.NoError(m.t, err)
	for {
		p, err := pieces.Next()
		if err == io.EOF {
			break
		}
		require.NoError(m.t, err)
		require.NoError(m.t, w.Write(p))
	}
	name, err := w.Close()
	require.NoError(m.t, err)
	require.Equal(m.t, r, name.Range)
	full := cache + "/" + timeline + "/" + name.String()
	require.NoError(m.t, m.to.Put(context.Background(), full, &b))
	return full
}

func (m *maker) event(timeline string, e archive.Event) {
	require.NoError(m.t, archive.WriteEvent(context.Background(), m.to, cache, timeline, e))
}
