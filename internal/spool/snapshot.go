package spool

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/durable"
	"github.com/offloader/offloader/internal/resp"
	"github.com/offloader/offloader/internal/stream"
)

// A timeline's snapshots lie beside its stream until every store has them: the one that it began
// with as snapshot.rdb, those that were taken later as <offset>-<time>.rdb, each with a .json that is
// written before it appears. What was not whole when its owner died is removed at the next start.
const (
	takingFile = "taking.rdb"
	rdbSuffix  = ".rdb"
)

// Snapshot is one that a store may not have yet.
type Snapshot struct {
	archive.SnapshotInfo
	Path  string // of the RDB
	First bool   // the timeline began with it
}

// Snapshots are those that the spool still has, by offset.
func (t *Timeline) Snapshots() ([]Snapshot, error) { return pendingSnapshots(t.folder()) }

func pendingSnapshots(dir string) ([]Snapshot, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // the stores have all of the timeline
	}
	if err != nil {
		return nil, err
	}
	var all []Snapshot
	for _, e := range entries {
		base, ok := strings.CutSuffix(e.Name(), rdbSuffix)
		if !ok || e.Name() == takingFile || e.Name() == incomingFile {
			continue
		}
		info, err := readSnapshotInfo(filepath.Join(dir, base+".json"))
		if errors.Is(err, fs.ErrNotExist) {
			continue // not whole, or gone meanwhile
		}
		if err != nil {
			return nil, err
		}
		all = append(all, Snapshot{SnapshotInfo: info, Path: filepath.Join(dir, e.Name()), First: e.Name() == snapshotFile})
	}
	slices.SortFunc(all, func(a, b Snapshot) int { return int(a.Offset - b.Offset) })
	return all, nil
}

// DropSnapshot lets one go: every store has it, or can have it from another one.
func (t *Timeline) DropSnapshot(s Snapshot) error {
	return errors.Join(remove(s.Path), remove(strings.TrimSuffix(s.Path, rdbSuffix)+".json"))
}

// Taking is the RDB of a snapshot on its way in, of a timeline that goes on.
type Taking struct {
	t    *Timeline
	file *rdbFile
}

// TakeSnapshot takes an RDB, size bytes or -1. Nothing is left of it until it is Whole.
func (t *Timeline) TakeSnapshot(size int64) (*Taking, error) {
	if err := t.spool.fileSystem(max(size, syncEvery)); err != nil {
		return nil, err
	}
	path := filepath.Join(t.folder(), takingFile)
	if err := remove(path); err != nil { // an earlier one, broken off
		return nil, fmt.Errorf("take a snapshot: %w", err)
	}
	f, err := newRDBFile(t.spool, path)
	if err != nil {
		return nil, fmt.Errorf("take a snapshot: %w", err)
	}
	return &Taking{t, f}, nil
}

// Write takes the RDB's next bytes.
func (k *Taking) Write(p []byte) (int, error) { return k.file.Write(p) }

// Size is how many bytes were written.
func (k *Taking) Size() int64 { return k.file.written }

// Whole makes the snapshot exist, durably.
func (k *Taking) Whole(info archive.SnapshotInfo) error {
	if err := k.file.end(); err != nil {
		return fmt.Errorf("make a snapshot durable: %w", err)
	}
	k.t.syncing.Lock() // the folder keeps its name, and stays
	defer k.t.syncing.Unlock()
	if k.t.isClosed() {
		return errClosed
	}
	base := filepath.Join(k.t.folder(), fmt.Sprintf("%020d-%013d", info.Offset, info.Time))
	if err := writeJSON(base+".json", info); err != nil {
		return fmt.Errorf("make a snapshot durable: %w", err)
	}
	if err := durable.Rename(filepath.Join(k.t.folder(), takingFile), base+rdbSuffix); err != nil {
		return fmt.Errorf("make a snapshot durable: %w", err)
	}
	return nil
}

// Discard forgets it.
func (k *Taking) Discard() error {
	return errors.Join(k.file.end(), remove(filepath.Join(k.t.folder(), takingFile)))
}

// CursorAt is what is selected at an offset that the spool still holds, and the replication id of the
// byte before it. It fails where that is no boundary.
func (t *Timeline) CursorAt(at stream.Offset) (c stream.Cursor, id stream.ReplID, err error) {
	from := t.Trimmed()
	if at < from || at > t.Boundary().Offset {
		return c, id, fmt.Errorf("the spool doesn't hold offset %d", at)
	}
	t.mu.Lock()
	for _, chunk := range t.chunks { // the last one that begins before it: its header has the rest
		if chunk.from < at {
			from = chunk.from
		}
	}
	t.mu.Unlock()
	r, err := t.Reader(stream.Range{From: from, To: at})
	if err != nil {
		return c, id, err
	}
	id = r.ReplID()
	defer func() { err = errors.Join(err, r.Close()) }()
	f := resp.NewFramer(r.cur.head.at)
	c.Time = r.cur.head.at.Time
	for f.Offset() < at {
		p, err := r.Next()
		if err != nil {
			return c, id, err
		}
		c.Time = p.Time
		for data := p.Data; len(data) > 0; {
			n, _, _, err := f.Feed(data)
			if err != nil {
				return c, id, err
			}
			data = data[n:]
		}
	}
	if b := f.Boundary(); b.Offset != at {
		return c, id, fmt.Errorf("offset %d is inside a command or transaction that begins at %d", at, b.Offset)
	}
	c.Offset, c.DB = at, f.DB()
	return c, id, nil
}
