package source

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/rdbwalk"
	"github.com/offloader/offloader/internal/spool"
	"github.com/offloader/offloader/internal/stream"
	"github.com/offloader/offloader/internal/syncer"
)

// Ways to take a snapshot of a timeline that goes on: a second connection asks for an RDB alone, which
// falls inside the timeline, since master and replicas count the same offsets.
const (
	MethodMaster  = "master"  // the master forks for it
	MethodReplica = "replica" // a replica of the master does, and the master notices nothing
)

// catchUpFor is how long the stream may take to reach the offset of an RDB that has arrived.
const catchUpFor = time.Minute

// ErrBusy says that a snapshot of the source is being taken already.
var ErrBusy = errors.New("a snapshot of this source is being taken already")

// TakeSnapshot takes one now, and returns when it is durable in the spool; the stores get it from
// there (Stored). from is how to reach the replica; nil stands for the master.
func (s *Source) TakeSnapshot(ctx context.Context, from *syncer.Options) (Moment, error) {
	if !s.taking.TryLock() {
		return Moment{}, ErrBusy
	}
	defer s.taking.Unlock()
	s.mu.Lock()
	cur, link, port := s.cur, s.link, s.port
	s.mu.Unlock()
	if cur == nil || link == nil || link.Status().Phase != syncer.Streaming {
		return Moment{}, fmt.Errorf("source %s is not streaming: a snapshot has to fall into a timeline that goes on", s.o.Name)
	}
	o, method := s.o.Link, MethodMaster
	if from != nil {
		o, method = *from, MethodReplica
	}
	o.Logger, o.BudgetPath, o.Acked = s.log, "", nil
	o.Listen = func(string) (int, error) { return port, nil } // the link's: somebody answers there
	k := &taking{s: s, ctx: ctx, cur: cur, method: method}
	err := syncer.Fetch(ctx, o, k.begin)
	if err != nil {
		if k.cut {
			s.ledger.uncut(cur, k.at)
		}
		return Moment{}, fmt.Errorf("take a snapshot of source %s: %w", s.o.Name, err)
	}
	return k.moment, nil
}

// Stored waits until every store has the snapshot at an offset of the newest timeline.
func (s *Source) Stored(ctx context.Context, at stream.Offset) error {
	s.mu.Lock()
	cur := s.cur
	s.mu.Unlock()
	for cur != nil {
		all := true
		for _, e := range s.ledger.of(cur) {
			all = all && e.taken[at]
		}
		if all {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(shipEvery):
		}
	}
	return errors.New("the timeline has ended")
}

// taking is a snapshot on its way in.
type taking struct {
	s      *Source
	ctx    context.Context //nolint:containedctx // of the call that it serves
	cur    *spool.Timeline
	method string

	master syncer.Master
	id     stream.ReplID
	at     stream.Offset
	cut    bool // the log will be cut at it
	rdb    *spool.Taking
	moment Moment
}

// begin makes sure that the RDB will be of the timeline that goes on.
func (k *taking) begin(m syncer.Master, id stream.ReplID, at stream.Offset, size int64) (syncer.Incoming, error) {
	if id != k.cur.ReplID() {
		return nil, fmt.Errorf("%s has replication id %s, the timeline that goes on has %s: it is no master or replica of this source", m.Addr, id.Short(), k.cur.ReplID().Short())
	}
	if at < k.cur.Trimmed() {
		return nil, fmt.Errorf("%s is at offset %d, which the spool has let go of: it lags too far behind", m.Addr, at)
	}
	if err := k.s.ledger.cut(k.cur, at); err != nil {
		return nil, fmt.Errorf("%s lags behind: %w; try again", m.Addr, err)
	}
	k.master, k.id, k.at, k.cut = m, id, at, true
	rdb, err := k.cur.TakeSnapshot(size)
	if err != nil {
		return nil, err
	}
	k.rdb = rdb
	return k, nil
}

func (k *taking) Write(p []byte) (int, error) { return k.rdb.Write(p) }

// Whole waits until the stream has come to the RDB's offset, and makes the snapshot exist. Its time
// is when that was: no byte before the offset is younger.
func (k *taking) Whole(sum rdbwalk.Summary) error {
	ctx, cancel := context.WithTimeoutCause(k.ctx, catchUpFor, fmt.Errorf("the stream didn't come to offset %d within %v", k.at, catchUpFor))
	defer cancel()
	for k.cur.Durable().Offset < k.at {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(10 * time.Millisecond):
		}
	}
	cursor, err := k.cur.CursorAt(k.at)
	if err != nil {
		return err
	}
	info := snapshotInfo(sum, k.id, cursor, k.master.Engine, k.rdb.Size())
	info.Method, info.Time = k.method, max(cursor.Time, stream.TimeOf(time.Now()))
	if err := k.rdb.Whole(info); err != nil {
		return err
	}
	k.moment = Moment{Offset: k.at, Time: info.Time}
	k.s.mu.Lock()
	if k.s.cur == k.cur {
		k.s.snapshot = &k.moment
	}
	k.s.mu.Unlock()
	k.s.log.Info("a snapshot was taken", "from", k.master.Addr, "method", k.method, "offset", k.at, "keys", sum.Keys, "bytes", info.Bytes, "unchecked", info.Unchecked)
	return nil
}

// Discard forgets it.
func (k *taking) Discard(cause error) {
	if err := k.rdb.Discard(); err != nil {
		k.s.log.Error("could not remove an RDB that did not arrive whole", "error", err)
	}
	k.s.log.Error("a snapshot could not be taken", "from", k.master.Addr, "error", cause)
}

// snapshotInfo is what the walk of an RDB says of it, as its sidecar has it.
func snapshotInfo(sum rdbwalk.Summary, id stream.ReplID, at stream.Cursor, engine string, size int64) archive.SnapshotInfo {
	info := archive.SnapshotInfo{
		Offset: at.Offset, Time: at.Time, ReplID: id, DB: at.DB,
		RDBVersion: sum.Version, Engine: engine, Bytes: size, Unchecked: sum.Unchecked,
		Keys: map[string]int64{}, Expires: map[string]int64{},
	}
	for _, db := range sum.DBs {
		n := fmt.Sprint(db.DB)
		info.Keys[n] = db.Keys
		if db.Expires > 0 {
			info.Expires[n] = db.Expires
		}
	}
	return info
}
