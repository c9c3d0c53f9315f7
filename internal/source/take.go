package source

import (
	"context"
	"errors"
	"fmt"
	"slices"
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

// A NotStreamingError says that nothing arrives of the source just now: what is taken of it has to fall
// into a timeline that goes on.
type NotStreamingError struct {
	Source string
	Why    string // "" where that isn't known
	hint   string
}

func (e *NotStreamingError) Error() string {
	text := fmt.Sprintf("source %s is not streaming, and what is taken of it has to fall into a timeline that goes on", e.Source)
	if e.Why != "" {
		text += ": " + e.Why
	}
	return text
}

// Hint says what to do about it, "" where that isn't known.
func (e *NotStreamingError) Hint() string { return e.hint }

// errStopped ends what waits for something of a source that is no longer archived.
var errStopped = errors.New("the source was stopped")

// errThere ends a transfer: nothing was written since the last snapshot, which does as well.
var errThere = errors.New("there is a snapshot at this offset already")

// Taken is a snapshot that was taken.
type Taken struct {
	Moment
	Timeline string
	of       *spool.Timeline
}

// TakeSnapshot takes one now, or when it is its turn among the full syncs that run at once, and
// returns when it is durable in the spool; the stores get it from there (Stored). from is how to reach
// the replica; nil stands for the master.
func (s *Source) TakeSnapshot(ctx context.Context, from *syncer.Options) (Taken, error) {
	if !s.taking.TryLock() {
		return Taken{}, ErrBusy
	}
	defer s.taking.Unlock()
	give, err := s.turn(ctx)
	if err != nil {
		return Taken{}, err
	}
	defer give()
	cur, o, err := s.beside(from)
	if err != nil { // it was hours, perhaps, since the turn was waited for
		return Taken{}, err
	}
	method := MethodMaster
	if from != nil {
		method = MethodReplica
	}
	ctx, cancel := context.WithCancel(ctx)
	k := &taking{s: s, ctx: ctx, cur: cur, method: method}
	err = syncer.Fetch(ctx, o, k.begin)
	cancel()
	if k.placed != nil {
		<-k.placed
	}
	if err != nil && !errors.Is(err, errThere) {
		if k.placed != nil {
			s.ledger.uncut(cur, k.at)
		}
		return Taken{}, fmt.Errorf("take a snapshot of source %s: %w", s.o.Name, err)
	}
	return Taken{Moment: k.moment, Timeline: cur.Info().Timeline, of: cur}, nil
}

// beside gives the timeline that goes on, and how to reach for a connection beside the link whoever
// sends an RDB of it: the master, or the replica that from leads to.
func (s *Source) beside(from *syncer.Options) (*spool.Timeline, syncer.Options, error) {
	s.mu.Lock()
	cur, link, port := s.cur, s.link, s.port
	s.mu.Unlock()
	if cur == nil || link == nil || link.Status().Phase != syncer.Streaming {
		st := s.Status(time.Now())
		return nil, syncer.Options{}, &NotStreamingError{s.o.Name, st.Error, st.Hint}
	}
	o := s.o.Link
	if from != nil {
		o = *from
	}
	o.Logger, o.BudgetPath, o.Acked = s.log, "", nil
	o.Listen = func(string) (int, error) { return port, nil } // the link's: somebody answers there
	return cur, o, nil
}

// isOf makes sure that a server is in the history that goes on.
func isOf(cur *spool.Timeline, m syncer.Master, id stream.ReplID) error {
	if ours := cur.ReplID(); id != ours {
		return fmt.Errorf("%s has replication id %s, the timeline that goes on has %s: it is no master or replica of this source", m.Addr, id.Short(), ours.Short())
	}
	return nil
}

// turn waits for a place among the full syncs that run at once, until ctx or the source ends; not
// where there is nothing to take.
func (s *Source) turn(ctx context.Context) (give func(), err error) {
	if _, _, err := s.beside(nil); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-s.over:
			cancel(errStopped)
		case <-ctx.Done():
		}
	}()
	defer func() { cancel(nil); <-watched }()
	if give, err = s.o.Link.Turns.Take(ctx); err != nil {
		return nil, fmt.Errorf("wait for the turn of a full sync beside the link of source %s: %w", s.o.Name, err)
	}
	return give, nil
}

// Stored waits until every store has a snapshot that was taken.
func (s *Source) Stored(ctx context.Context, taken Taken) error {
	for {
		if !slices.Contains(s.src.Timelines(), taken.of) {
			return nil // the spool lets a timeline go when the stores have all of it
		}
		if !slices.ContainsFunc(s.ledger.of(taken.of), func(e entry) bool { return !e.taken[taken.Offset] }) {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-s.over:
			return fmt.Errorf("source %s was stopped; the snapshot is in the spool, and gets to the stores later", s.o.Name)
		case <-time.After(shipEvery):
		}
	}
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
	rdb    *spool.Taking
	moment Moment

	placed chan struct{} // closed when it is known what stands at the offset; nil: nothing has come
	cursor stream.Cursor
	err    error // why nothing can
}

// begin makes sure that the RDB can be of the timeline that goes on, and has nothing compacted across
// its offset from here on.
func (k *taking) begin(m syncer.Master, id stream.ReplID, at stream.Offset, size int64) (syncer.Incoming, error) {
	if err := isOf(k.cur, m, id); err != nil {
		return nil, err
	}
	k.s.mu.Lock()
	last := k.s.snapshot
	k.s.mu.Unlock()
	if last != nil && last.Offset == at {
		k.moment = *last
		return nil, errThere
	}
	if at < k.cur.Trimmed() {
		return nil, fmt.Errorf("%s is at offset %d, which the spool has let go of: it lags too far behind", m.Addr, at)
	}
	if err := k.s.ledger.hold(k.cur, at); err != nil {
		return nil, fmt.Errorf("%s lags behind: %w; try again", m.Addr, err)
	}
	k.master, k.id, k.at, k.placed = m, id, at, make(chan struct{})
	go func() { // TakeSnapshot waits for it
		defer close(k.placed)
		k.cursor, k.err = k.place()
	}()
	rdb, err := k.cur.TakeSnapshot(size)
	if err != nil {
		return nil, err
	}
	k.rdb = rdb
	return k, nil
}

// place waits until the stream has come to the RDB's offset, under the id that the RDB is of: after
// a failover other bytes may stand there. Then the log is cut.
func (k *taking) place() (stream.Cursor, error) {
	cursor, err := k.s.reached(k.ctx, k.cur, k.id, k.at)
	if err == nil {
		k.s.ledger.confirm(k.cur, k.at)
	}
	return cursor, err
}

func (k *taking) Write(p []byte) (int, error) { return k.rdb.Write(p) }

// Whole makes the snapshot exist, once it is known where. Its time is that of the last byte before
// it, as every moment's.
func (k *taking) Whole(sum rdbwalk.Summary) error {
	select {
	case <-k.placed:
	case <-time.After(catchUpFor):
		return fmt.Errorf("the stream didn't come to offset %d within %v", k.at, catchUpFor)
	}
	if k.err != nil {
		return k.err
	}
	info := snapshotInfo(sum, k.id, k.cursor, k.master.Engine, k.rdb.Size())
	info.Method = k.method
	if err := k.rdb.Whole(info); err != nil {
		return err
	}
	k.moment = Moment{Offset: k.at, Time: info.Time}
	k.s.guard.counted(k.cur.Info().Timeline, info)
	k.s.mu.Lock()
	if k.s.cur == k.cur {
		k.s.snapshot = &k.moment
	}
	k.s.mu.Unlock()
	k.s.lookIfBroken()
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
