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

// Incoming is an RDB on its way in, the beginning of a timeline that does not exist yet.
type Incoming struct {
	source  *Source
	info    archive.TimelineInfo
	dir     string
	file    *durable.File
	written int64
	ended   bool

	flush   chan struct{} // capacity 1: some more should be fsynced
	flushed chan error    // the flusher's last word
}

// Receive takes an RDB that begins a timeline, size bytes or -1. The timelines of before stay.
func (s *Source) Receive(info archive.TimelineInfo, size int64) (*Incoming, error) {
	if err := s.spool.fileSystem(max(size, syncEvery)); err != nil {
		return nil, err
	}
	in := &Incoming{source: s, info: info, dir: filepath.Join(s.dir, info.Timeline),
		flush: make(chan struct{}, 1), flushed: make(chan error, 1)}
	if err := durable.MkdirAll(in.dir); err != nil {
		return nil, fmt.Errorf("receive an RDB: %w", err)
	}
	f, err := durable.CreateAppend(filepath.Join(in.dir, incomingFile))
	if err != nil {
		return nil, fmt.Errorf("receive an RDB: %w", err)
	}
	in.file = f
	go func() {
		var err error
		for range in.flush {
			err = errors.Join(err, f.Sync())
		}
		in.flushed <- errors.Join(err, f.Sync())
	}()
	return in, nil
}

// Write takes the RDB's next bytes.
func (in *Incoming) Write(p []byte) (int, error) {
	n, err := in.file.Write(p)
	before := in.written
	in.written += int64(n)
	if err != nil {
		return n, fmt.Errorf("receive an RDB: %w", err)
	}
	if before/syncEvery != in.written/syncEvery {
		signal(in.flush)
		if err := in.source.spool.fileSystem(syncEvery); err != nil {
			return n, err
		}
	}
	return n, nil
}

// Size is how many bytes were written.
func (in *Incoming) Size() int64 { return in.written }

// Whole makes the RDB durable, and with it the timeline, which begins at cursor at.
func (in *Incoming) Whole(snapshot archive.SnapshotInfo, at stream.Cursor) (*Timeline, error) {
	if err := in.end(); err != nil {
		return nil, fmt.Errorf("make the RDB durable: %w", err)
	}
	if err := durable.Rename(filepath.Join(in.dir, incomingFile), filepath.Join(in.dir, snapshotFile)); err != nil {
		return nil, fmt.Errorf("make the RDB durable: %w", err)
	}
	if err := writeJSON(filepath.Join(in.dir, snapshotInfoFile), snapshot); err != nil {
		return nil, fmt.Errorf("make the RDB durable: %w", err)
	}
	return in.source.begin(in.dir, in.info, at)
}

// Discard forgets an RDB that did not arrive whole, or could not be made durable.
func (in *Incoming) Discard() error {
	err := in.end()
	return errors.Join(err, durable.RemoveAll(in.dir))
}

// end waits for the flusher and closes the file, once.
func (in *Incoming) end() error {
	if in.ended {
		return nil
	}
	in.ended = true
	close(in.flush)
	return errors.Join(<-in.flushed, in.file.Close())
}
