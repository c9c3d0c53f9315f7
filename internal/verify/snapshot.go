package verify

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/rdbwalk"
	"github.com/offloader/offloader/internal/stream"
)

// snapshot reads one to its end. Its reader checks the sums and sizes of the sidecar; here the RDB
// is walked, for its structure, its own CRC64, and to hold its counts against the sidecar's.
func (s *source) snapshot(ctx context.Context, t *archive.Timeline, snap archive.Snapshot) (*read, error) {
	info, err := snap.Info(ctx)
	if err != nil {
		return damaged(err)
	}
	file := s.path(t, snap.Name)
	r := &read{file: file, from: &stream.Cursor{Offset: info.Offset, DB: info.DB}}
	if s.isSealed(snap.Encrypted) {
		return s.storedSnapshot(ctx, file, info)
	}
	rdb, err := snap.Open(ctx)
	if err != nil {
		return damaged(err)
	}
	seen, err := walkRDB(&ctxReader{ctx, rdb})
	err = errors.Join(err, rdb.Close())
	var format *rdbwalk.FormatError
	var sum *rdbwalk.ChecksumError
	var damage *archive.DamageError
	switch {
	case err == nil:
		r.wrong = wrongSidecar(t, info, seen)
	case errors.As(err, &damage): // it may be a file that ends too early, as a cut RDB does
		return damaged(err)
	case errors.As(err, &format), errors.As(err, &sum), errors.Is(err, io.ErrUnexpectedEOF):
		r.wrong = "it is as it was stored, and yet no sound RDB: " + err.Error()
	default:
		return damaged(err)
	}
	if seen.Unchecked != "" {
		r.note = "its structure was not checked: " + seen.Unchecked
	}
	return r, nil
}

// walkRDB walks an RDB to its end, and reads it to its end in any case: damage of the file, which
// shows there, is the cause of all else.
func walkRDB(rdb io.Reader) (*rdbwalk.Summary, error) {
	w := rdbwalk.NewWalker(rdb)
	for w.Next() { // it counts
	}
	err := w.Finish(nil, nil)
	if err != nil {
		if _, behind := io.Copy(io.Discard, rdb); behind != nil {
			err = behind
		}
	}
	return w.Summary(), err
}

// wrongSidecar says what a sidecar says of the timeline and the RDB that isn't so.
func wrongSidecar(t *archive.Timeline, info archive.SnapshotInfo, seen *rdbwalk.Summary) string {
	// Where the id changes, either is right.
	if id := t.ReplIDAt(info.Offset); info.ReplID != id && info.ReplID != t.ReplIDAt(info.Offset-1) {
		return fmt.Sprintf("its sidecar has the replication id %s, and the timeline has %s there", info.ReplID, id)
	}
	if info.RDBVersion != seen.Version {
		return fmt.Sprintf("its sidecar says RDB version %d, the file says %d", info.RDBVersion, seen.Version)
	}
	if seen.Unchecked != "" || info.Unchecked != "" {
		return "" // counts may be short
	}
	keys, expires := map[string]int64{}, map[string]int64{}
	for _, db := range seen.DBs {
		keys[strconv.Itoa(db.DB)] = db.Keys
		expires[strconv.Itoa(db.DB)] = db.Expires
	}
	if what := differ("keys", info.Keys, keys); what != "" {
		return what
	}
	return differ("keys with an expiry", info.Expires, expires)
}

func differ(what string, said, counted map[string]int64) string {
	for _, db := range slices.Sorted(maps.Keys(counted)) {
		if n := counted[db]; said[db] != n {
			return fmt.Sprintf("its sidecar says that database %s has %d %s, there are %d", db, said[db], what, n)
		}
	}
	for _, db := range slices.Sorted(maps.Keys(said)) {
		if n := said[db]; counted[db] != n {
			return fmt.Sprintf("its sidecar says that database %s has %d %s, there are none", db, n, what)
		}
	}
	return ""
}

// ctxReader ends with its context.
type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

func (c *ctxReader) Read(p []byte) (int, error) {
	if c.ctx.Err() != nil {
		return 0, context.Cause(c.ctx)
	}
	return c.r.Read(p)
}
