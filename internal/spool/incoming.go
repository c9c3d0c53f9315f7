package spool

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/durable"
	"github.com/offloader/offloader/internal/stream"
)

// syncEvery is after how many bytes of an RDB it is fsynced: without, its write-back makes the
// stream's fsyncs wait for tenths of a second.
const syncEvery = 8 << 20

// rdbFile is an RDB that is being written, and fsynced beside that.
type rdbFile struct {
	spool   *Spool
	file    *durable.File
	written int64
	ended   bool

	flush   chan struct{} // capacity 1: some more should be fsynced
	flushed chan error    // the flusher's last word
}

func newRDBFile(s *Spool, path string) (*rdbFile, error) {
	f, err := durable.CreateAppend(path)
	if err != nil {
		return nil, err
	}
	r := &rdbFile{spool: s, file: f, flush: make(chan struct{}, 1), flushed: make(chan error, 1)}
	go func() { // end waits for it
		var err error
		for range r.flush {
			err = errors.Join(err, f.Sync())
		}
		r.flushed <- errors.Join(err, f.Sync())
	}()
	return r, nil
}

// Write takes the RDB's next bytes.
func (r *rdbFile) Write(p []byte) (int, error) {
	n, err := r.file.Write(p)
	before := r.written
	r.written += int64(n)
	if err != nil {
		return n, fmt.Errorf("receive an RDB: %w", err)
	}
	if before/syncEvery != r.written/syncEvery {
		signal(r.flush)
		if err := r.spool.fileSystem(syncEvery); err != nil {
			return n, err
		}
	}
	return n, nil
}

// end makes all of it durable, waits for the flusher and closes the file, once.
func (r *rdbFile) end() error {
	if r.ended {
		return nil
	}
	r.ended = true
	close(r.flush)
	return errors.Join(<-r.flushed, r.file.Close())
}

// Incoming is an RDB on its way in, the beginning of a timeline that does not exist yet.
type Incoming struct {
	source *Source
	info   archive.TimelineInfo
	dir    string
	file   *rdbFile
}

// Receive takes an RDB that begins a timeline, size bytes or -1. The timelines of before stay.
func (s *Source) Receive(info archive.TimelineInfo, size int64) (*Incoming, error) {
	if err := s.spool.fileSystem(max(size, syncEvery)); err != nil {
		return nil, err
	}
	dir := filepath.Join(s.dir, info.Timeline)
	if err := durable.MkdirAll(dir); err != nil {
		return nil, fmt.Errorf("receive an RDB: %w", err)
	}
	f, err := newRDBFile(s.spool, filepath.Join(dir, incomingFile))
	if err != nil {
		return nil, fmt.Errorf("receive an RDB: %w", err)
	}
	return &Incoming{source: s, info: info, dir: dir, file: f}, nil
}

// Write takes the RDB's next bytes.
func (in *Incoming) Write(p []byte) (int, error) { return in.file.Write(p) }

// Size is how many bytes were written.
func (in *Incoming) Size() int64 { return in.file.written }

// Whole makes the RDB durable, and with it the timeline, which begins at cursor at. It is never seen
// without the events, nor without what the timeline before lost, nil for nothing.
func (in *Incoming) Whole(snapshot archive.SnapshotInfo, at stream.Cursor, lost *archive.Event, events ...archive.Event) (*Timeline, error) {
	if err := in.file.end(); err != nil {
		return nil, fmt.Errorf("make the RDB durable: %w", err)
	}
	if err := durable.Rename(filepath.Join(in.dir, incomingFile), filepath.Join(in.dir, snapshotFile)); err != nil {
		return nil, fmt.Errorf("make the RDB durable: %w", err)
	}
	if err := writeJSON(filepath.Join(in.dir, snapshotInfoFile), snapshot); err != nil {
		return nil, fmt.Errorf("make the RDB durable: %w", err)
	}
	return in.source.begin(in.dir, in.info, at, lost, events)
}

// Discard forgets an RDB that did not arrive whole, or could not be made durable.
func (in *Incoming) Discard() error {
	err := in.file.end()
	return errors.Join(err, durable.RemoveAll(in.dir))
}
