package spool

import (
	"errors"
	"fmt"
	"time"

	"github.com/offloader/offloader/internal/stream"
)

// commit is the group commit. It lives as long as the timeline is open and is the only one who
// calls fsync on the stream: what is appended while one fsync runs is covered by the next.
func (t *Timeline) commit() {
	defer close(t.done)
	for {
		select {
		case <-t.dirty:
			t.commitOnce()
		case <-t.stop:
			t.commitOnce()
			return
		}
	}
}

// commitOnce makes durable what is appended now.
func (t *Timeline) commitOnce() {
	t.syncing.Lock()
	defer t.syncing.Unlock()
	t.mu.Lock()
	if t.failed != nil || t.file == nil {
		t.mu.Unlock()
		return
	}
	older, file, boundary := t.retired, t.file, t.boundary
	t.retired = nil
	t.mu.Unlock()

	var err error
	for i, r := range older {
		if err = seal(r); err != nil {
			for _, r := range older[i+1:] {
				_ = r.file.Close()
			}
			break
		}
	}
	if err == nil {
		start := time.Now()
		err = file.Sync()
		if t.spool.opts.OnSync != nil {
			t.spool.opts.OnSync(time.Since(start))
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case err != nil:
		if t.failed == nil {
			t.failed = fmt.Errorf("make the stream durable in the spool: %w", err)
		}
	case boundary.Offset > t.durable.Offset:
		t.durable = boundary
	default:
		return
	}
	t.news.tell() // a failure is news too
}

// seal fsyncs a chunk that got its last byte, marks it whole and closes it.
func seal(r retired) error {
	err := r.file.Sync()
	if err == nil {
		end := stream.Piece{At: r.end.Offset, Time: r.end.Time, First: -1}
		trailer := record{Piece: end, boundary: r.end.Offset, db: r.end.DB, sealed: true}
		_, err = r.file.Write(trailer.appendHead(nil))
	}
	return errors.Join(err, r.file.Close())
}
