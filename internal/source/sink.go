package source

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/rdbwalk"
	"github.com/offloader/offloader/internal/spool"
	"github.com/offloader/offloader/internal/stream"
	"github.com/offloader/offloader/internal/syncer"
)

// Source is the link's Sink: what arrives goes to the spool.
var _ syncer.Sink = (*Source)(nil)

// Room fails while the spool is full. Nothing is acknowledged meanwhile: the link is down.
func (s *Source) Room() error {
	err := s.o.Spool.Room()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.roomErr = err
	return err
}

// Continued goes on with the timeline, or with a branch of it if that was asked for.
func (s *Source) Continued(m syncer.Master, r syncer.Resume, id stream.ReplID) error {
	s.mu.Lock()
	cur, branch := s.cur, s.branch
	s.branch = nil
	s.mu.Unlock()
	now := time.Now()
	if branch != nil {
		return s.beginBranch(m, *branch, id, now)
	}
	if cur == nil {
		return fmt.Errorf("the master continues at offset %d, which was not asked for", r.Offset)
	}
	if at := cur.Boundary().Offset; at != r.Offset {
		return fmt.Errorf("the master continues at offset %d, the spool ends at %d", r.Offset, at)
	}
	if id != cur.ReplID() {
		s.guard.change(cur.Info().Timeline, func(m *memory) { m.IDs = withID(m.IDs, id) })
		s.log.Info("the master goes on under a new replication id", "was", cur.ReplID(), "is", id, "offset", r.Offset)
	}
	s.mu.Lock()
	if s.outage != nil && m.Permitted {
		s.outage.until = m.Offset
	}
	s.lastByte = now
	out := s.outage
	s.mu.Unlock()
	s.streams(m)
	if m.Permitted && m.Offset == r.Offset {
		s.caughtUp(cur, false, now) // nothing was missed
	} else if out != nil {
		if err := cur.SetOutage(out.event(0, 0)); err != nil {
			return err
		}
	}
	cause := ""
	if m.Reborn {
		cause = archive.CauseRebirth
	}
	return cur.SetReplID(id, cause, now)
}

// FullSync takes an RDB, with which a new timeline begins.
func (s *Source) FullSync(m syncer.Master, id stream.ReplID, at stream.Offset, size int64) (syncer.Incoming, error) {
	now := time.Now()
	info := archive.TimelineInfo{
		Format: archive.FormatVersion, Source: s.o.Name, ReplID: id, Offset: at, Began: stream.TimeOf(now),
		Spool: s.o.Spool.ID(), Reason: s.reason(m, s.before()), Engine: m.Engine, Version: m.Version,
	}
	info.Timeline = s.freeName(info.Began, id)
	in, err := s.src.Receive(info, size)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	branch := s.branch
	s.cur, s.branch = nil, nil // nothing is acknowledged until the RDB is durable
	s.mu.Unlock()
	s.log.Info("full sync: a new timeline begins when the RDB is whole", "timeline", info.Timeline, "offset", at, "reason", info.Reason)
	return &incoming{s: s, in: in, info: info, master: m, began: now, branch: branch}, nil
}

// before is the newest timeline of the spool, which a full sync leaves behind.
func (s *Source) before() *spool.Timeline {
	if all := s.src.Timelines(); len(all) > 0 {
		return all[len(all)-1]
	}
	return nil
}

// reason says why a full sync came, for people.
func (s *Source) reason(m syncer.Master, before *spool.Timeline) string {
	s.mu.Lock()
	lost, noLost := s.lost, s.noLost
	s.mu.Unlock()
	var r syncer.Resume
	switch {
	case m.Reborn:
		return archive.CauseRebirth + ": somebody has said that the master starts with what it holds"
	case s.restored(m):
		return fmt.Sprintf("the master was restored to an earlier state, at offset %d of the history %s", m.SecondOffset-1, m.ReplID2.Short())
	case before != nil:
		r = syncer.Resume{ID: before.ReplID(), Offset: before.Boundary().Offset}
	case lost != nil:
		r = syncer.Resume{ID: lost.id, Offset: lost.at.Offset}
	case noLost != nil:
		return "the spool was lost, and to go on where the store ends takes an identity: " + noLost.Error()
	default:
		return "first contact"
	}
	if v := m.Judge(r); v.Full {
		return v.Why
	}
	return fmt.Sprintf("the master did not continue %s behind offset %d", r.ID.Short(), r.Offset)
}

// freeName is a timeline's name that neither spool nor store has, and that sorts behind all that
// they have: also when this host's clock was set back since the last one.
func (s *Source) freeName(began stream.Time, id stream.ReplID) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	known := slices.Collect(maps.Keys(s.names))
	for _, t := range s.src.Timelines() {
		known = append(known, t.Info().Timeline)
	}
	for _, name := range known {
		if at, _, err := archive.ParseTimelineName(name); err == nil && at >= began {
			began = at + 1
		}
	}
	for ; ; began++ {
		if name := archive.TimelineName(began, id); !s.names[name] && !s.src.Has(name) {
			return name
		}
	}
}

// incoming is the RDB of a full sync on its way to the spool.
type incoming struct {
	s    *Source
	in   *spool.Incoming
	info archive.TimelineInfo

	master syncer.Master
	began  time.Time
	branch *branchPoint // that was asked for, nil for none: the master could not give it, and lacks as much
}

func (i *incoming) Write(p []byte) (int, error) { return i.in.Write(p) }

// Whole begins the timeline: from here on bytes are acknowledged.
func (i *incoming) Whole(sum rdbwalk.Summary) error {
	now := time.Now()
	at := stream.Cursor{Offset: i.info.Offset, DB: max(0, sum.ReplDB), Time: stream.TimeOf(i.began)}
	info := snapshotInfo(sum, i.info.ReplID, at, i.info.Engine, i.in.Size())
	info.Method = "full-sync"
	s, before := i.s, i.s.before()
	keys := keysOf(sum, i.master)
	if b := s.peers.get().Beyond; b != nil && b.RunID == i.master.RunID && b.Fewest >= 0 {
		keys = min(keys, b.Fewest)
	}
	suspicion := s.judge(s.past(), newborn{m: i.master, id: i.info.ReplID, at: at.Offset, keys: keys, full: true}, now)
	t, err := i.in.Whole(info, at, s.loses(before, i.branch, now), suspicion.event(at.Offset)...)
	if err != nil {
		return err
	}
	s.begun(memory{Timeline: i.info.Timeline, Known: countOf(info, i.master), From: at.Offset, IDs: []stream.ReplID{i.info.ReplID}}, suspicion)
	if before != nil {
		s.succeeded(before, t)
	}
	s.mu.Lock()
	s.cur, s.lost, s.revive, s.outage, s.lastByte = t, nil, nil, nil, now
	s.since, s.broken, s.snapshot = at.Time, "", &Moment{Offset: at.Offset, Time: at.Time}
	if now.Sub(i.began) >= time.Second {
		// What was written while the RDB came arrives only now, all at once.
		s.outage = &outage{from: at.Time, at: at.Offset, cause: "full sync", waitFrom: now}
	}
	out := s.outage
	s.mu.Unlock()
	s.streams(i.master)
	if out != nil {
		if err := t.SetOutage(out.event(0, 0)); err != nil {
			s.log.Error("could not note that the stream has to catch up with the full sync", "error", err)
		}
	}
	s.log.Info("the timeline has begun", "timeline", i.info.Timeline, "offset", at.Offset, "keys", sum.Keys, "bytes", info.Bytes, "unchecked", info.Unchecked)
	return nil
}

// Discard forgets the RDB. The timeline of before is the newest again, when the connection has
// ended (Down): until then an offset of it would be taken for one of this master's history.
func (i *incoming) Discard(cause error) {
	if err := i.in.Discard(); err != nil {
		i.s.log.Error("could not remove an RDB that did not arrive whole", "error", err)
	}
	if errors.Is(cause, net.ErrClosed) { // by ourselves: we are to leave
		i.s.log.Info("the full sync was broken off")
		return
	}
	i.s.log.Error("the full sync failed", "error", cause)
}

// Receive spools stream bytes.
func (s *Source) Receive(p []byte, now time.Time) error {
	s.mu.Lock()
	cur, out := s.cur, s.outage
	s.lastByte = now
	s.mu.Unlock()
	if cur == nil {
		return errors.New("the master sent stream bytes before a snapshot")
	}
	if err := cur.Append(p, now); err != nil {
		return err
	}
	if s.o.Spool.Crowded() {
		for _, sh := range s.shippers {
			if !s.failing(sh.n) { // who waits after an error goes on waiting
				signal(sh.hurry)
			}
		}
	}
	at := cur.Boundary().Offset
	s.waits.received(at, now)
	if out != nil && out.over(at, len(p), now) {
		s.caughtUp(cur, true, now)
	}
	return nil
}

// Durable is the offset that may be acknowledged.
func (s *Source) Durable() stream.Offset {
	s.mu.Lock()
	cur := s.cur
	s.mu.Unlock()
	if cur == nil {
		return 0
	}
	at := cur.Durable().Offset
	if s.o.AckStore {
		at = min(at, s.ledger.stored(cur))
	}
	return at
}

// Committed is signalled when Durable has risen.
func (s *Source) Committed() <-chan struct{} {
	if s.o.AckStore {
		return s.risen
	}
	return s.src.Committed()
}

// Down takes note that nothing more comes, and from when on.
func (s *Source) Down(cause error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	from := time.Now()
	s.downAt = from
	if s.cur == nil {
		s.cur = s.before()
	}
	if s.cur == nil {
		return
	}
	if s.outage != nil {
		s.outage.missed = s.cur.Boundary().Offset > s.outage.at
		return
	}
	if syncer.KindOf(cause) == syncer.KindTimeout {
		from = s.lastByte // it was silent since, and perhaps cut off
	}
	// Until then there was nothing more to say: the moments since the last byte are known too.
	if err := s.cur.Alive(from); err != nil {
		s.log.Debug("could not note until when the link was alive", "error", err)
	}
	at := s.cur.Boundary()
	s.outage = &outage{from: max(stream.TimeOf(from), at.Time), at: at.Offset, cause: causeOf(cause)} // the clock may have been stepped back
}

// causeOf is an error for an event: what happened, and no more.
func causeOf(err error) string {
	if err == nil {
		return "the link ended"
	}
	return err.Error()
}

// ackWaits measures how long bytes wait for their acknowledgement: it samples one receipt at a
// time.
type ackWaits struct {
	mu     sync.Mutex
	target stream.Offset
	since  time.Time
}

func (a *ackWaits) received(end stream.Offset, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.since.IsZero() && end > a.target {
		a.target, a.since = end, now
	}
}

// oldest is since when something has been waiting, if anything is. Between two samples that isn't
// known; it can't be later than the last receipt.
func (a *ackWaits) oldest(lastReceipt time.Time, durable stream.Offset) time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.since.IsZero() || a.target <= durable { // durable, though the link ended before the ACK
		return lastReceipt
	}
	return a.since
}

// acked is told of each acknowledgement that was sent.
func (s *Source) acked(at stream.Offset) {
	s.waits.mu.Lock()
	since, hit := s.waits.since, !s.waits.since.IsZero() && at >= s.waits.target
	if hit {
		s.waits.since = time.Time{}
	}
	s.waits.mu.Unlock()
	if hit && s.o.Metrics != nil {
		s.o.Metrics.Acked(s.o.Name, time.Since(since))
	}
}
