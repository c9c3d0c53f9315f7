package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/offloader/offloader/internal/amnesia"
	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/resp"
	"github.com/offloader/offloader/internal/spool"
	"github.com/offloader/offloader/internal/stream"
	"github.com/offloader/offloader/internal/syncer"
)

// resumePoint is where a timeline that the spool doesn't hold can be continued as a branch.
type resumePoint struct {
	timeline string
	id       stream.ReplID
	at       stream.Cursor
}

// branchPoint is a branch that was asked of the master.
type branchPoint struct {
	resumePoint
	reason string
	lost   stream.Range // the parent's bytes that the branch leaves out
}

// outage is a time of which nothing is known: the link was down, and what was written meanwhile
// has not all arrived.
type outage struct {
	from     stream.Time
	at       stream.Offset // where the stream stood
	cause    string
	until    stream.Offset // the master's offset when the link was up again; 0: not known
	waitFrom time.Time     // after a full sync: when the stream could begin
	missed   bool          // some of what was missed has arrived, before a restart
}

// event is what becomes of the outage in the archive.
func (o *outage) event(to stream.Offset, over stream.Time) archive.Event {
	return archive.Event{Kind: archive.EventOutage, Offset: o.at, Time: over, From: o.from, To: to, Cause: o.cause}
}

// shortRead is a read that did not empty a full socket buffer, less than the smallest that the
// link reads into: with INFO not permitted, the first one tells that the link has caught up.
const shortRead = 16 << 10

// over tells whether bytes up to end, n of them in the last read, have caught up.
func (o *outage) over(end stream.Offset, n int, now time.Time) bool {
	switch {
	case o.until > 0:
		return end >= o.until
	case !o.waitFrom.IsZero() && now.Sub(o.waitFrom) > 3*time.Second:
		return true
	}
	return n < shortRead
}

// resumed prepares for the first connection after a start.
func (s *Source) resumed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cur == nil {
		return
	}
	_, alive := s.cur.Received()
	s.outage = &outage{from: alive, at: s.cur.Boundary().Offset, cause: "offloader was not running"}
	open, ok, err := s.cur.Outage()
	if err != nil {
		s.log.Error("could not read of an outage that was not over", "error", err)
	}
	if ok {
		s.outage.from, s.outage.at = min(open.From, alive), open.Offset
		s.outage.cause = open.Cause + "; then " + s.outage.cause
		s.outage.missed = s.cur.Boundary().Offset > open.Offset
	}
	s.log.Info("the spool holds a timeline to go on with", "timeline", s.cur.Info().Timeline, "offset", s.cur.Boundary().Offset, "replid", s.cur.ReplID())
}

// caughtUp ends an outage, and notes it when bytes were missed during it. now is when the last of them came: a restore
// to that moment has them, so it belongs to what is known.
func (s *Source) caughtUp(cur *spool.Timeline, missed bool, now time.Time) {
	s.mu.Lock()
	out := s.outage
	s.outage = nil
	s.mu.Unlock()
	if out == nil {
		return
	}
	if !out.waitFrom.IsZero() && now.Sub(out.waitFrom) > 3*time.Second {
		missed = false // the first bytes after a full sync came so late that nothing was waiting
	}
	_, last := cur.Received()
	at := max(stream.TimeOf(now), last)
	event := out.event(cur.Boundary().Offset, at)
	missed = missed || out.missed
	var err error
	if missed {
		err = cur.AddEvent(event)
	}
	if err == nil {
		err = cur.ClearOutage()
	}
	if err == nil && !missed {
		return
	}
	if err != nil {
		s.log.Error("could not note an outage of the link", "error", err)
		s.mu.Lock()
		s.outage = out // with the next bytes it is tried again
		s.mu.Unlock()
		return
	}
	s.mu.Lock()
	s.since = at
	s.mu.Unlock()
	s.log.Info("the link has caught up", "missed", int64(event.To-out.at), "since", out.from, "cause", out.cause)
}

// Resume says what to ask the master for: the stream behind the last boundary, or, where that
// master is known to have lost our tail, behind a boundary that it shares.
func (s *Source) Resume(m syncer.Master) (syncer.Resume, error) {
	r, err := s.resume(m)
	// What it holds then is archived when the full sync is whole; if it dies before, a rebirth would go back without a word.
	full := err == nil && m.Judge(r).Full
	if full {
		r.Ordered = s.restored(m)
	}
	s.peers.change(func(c *company) {
		was := c.Beyond
		if c.Beyond = nil; full && m.Role == "master" && (m.ReplID != r.ID || m.Offset > r.Offset) {
			c.Beyond = &place{ReplID: m.ReplID, Offset: m.Offset, RunID: m.RunID, Fewest: was.fewest(m)}
		}
	})
	s.peers.save()
	return r, err
}

// fewest is how many keys a server had when it had fewest, of what it told: what it has by the time that a full sync of it
// begins may have been written since it came back without any.
func (p *place) fewest(m syncer.Master) int64 {
	now := amnesia.Known{Keys: m.Keys}.Total()
	if m.Loading {
		now = -1
	}
	if p == nil || p.RunID != m.RunID || p.Fewest < 0 {
		return now
	}
	if now < 0 {
		return p.Fewest
	}
	return min(now, p.Fewest)
}

func (s *Source) resume(m syncer.Master) (syncer.Resume, error) {
	s.mu.Lock()
	cur, lost, revive := s.cur, s.lost, s.revive
	s.branch, s.asked = nil, time.Now()
	s.mu.Unlock()
	switch {
	case revive != nil && m.Reborn:
		s.askBranch(revived(*revive))
		return syncer.Resume{ID: revive.id, Offset: revive.at.Offset}, nil
	case revive != nil:
		s.log.Warn("another master has come, which we have not promoted: the archive goes on with the newest timeline after all")
		s.Stay()
	}
	if cur == nil {
		if lost == nil {
			return syncer.Resume{}, nil
		}
		reason := "the spool held nothing; the store ends here"
		if m.Reborn { // else the master has what came behind it, and sends it again
			reason += ": what may have been written behind it is lost"
		}
		s.askBranch(branchPoint{resumePoint: *lost, reason: reason})
		return syncer.Resume{ID: lost.id, Offset: lost.at.Offset}, nil
	}
	at, err := cur.Cut()
	if err != nil {
		s.log.Error("could not cut the spool back to the last boundary", "error", err)
	}
	r := syncer.Resume{ID: cur.ReplID(), Offset: at.Offset}
	if err := s.goesBack(m, r); err != nil {
		return r, err
	}
	if m.Permitted && m.ReplID != r.ID && m.SecondOffset > 0 && m.SecondOffset-1 < at.Offset && s.shares(m, cur) {
		// A failover that left out our tail. What both have ends at SecondOffset-1 (redis,
		// replication.c: shiftReplicationId).
		shared, err := s.boundaryBefore(cur, m.SecondOffset-1)
		if err != nil {
			s.log.Warn("the master lost our tail, and the boundary before it can't be found: a full sync follows", "error", err, "hint", syncer.Hint(err))
			return r, nil
		}
		s.askBranch(branchPoint{
			resumePoint: resumePoint{timeline: cur.Info().Timeline, id: m.ReplID2, at: shared},
			reason:      fmt.Sprintf("%s the %d bytes from offset %d on", s.whoLost(m, cur), at.Offset-shared.Offset, shared.Offset),
			lost:        stream.Range{From: shared.Offset, To: at.Offset},
		})
		r = syncer.Resume{ID: m.ReplID2, Offset: shared.Offset}
	}
	return r, nil
}

// goesBack fails while the very process that was archived as a master follows somebody who gives it an earlier state of the
// same history: it is being restored (restore --to). What it holds on the way is nobody's data, and a full sync of it would
// be one for nothing: when it is a master again the archive goes on with a branch.
func (s *Source) goesBack(m syncer.Master, r syncer.Resume) error {
	was := s.peers.get().Master
	if m.Role != "slave" || was.Role != "master" || m.RunID == "" || m.RunID != was.RunID {
		return nil
	}
	if m.ReplID == r.ID && m.Offset >= r.Offset || !s.isOurs(m.ReplID) || s.isEngine(m.Upstream) {
		return nil
	}
	return &syncer.WaitError{For: "until the master is restored", Err: &goesBackError{m, r.Offset}}
}

// restored tells whether the very process that was archived as a master is one again, with a history of its own that
// comes from one of ours: an operator has restored it to an earlier state (restore --to), and nothing of that is archived yet.
func (s *Source) restored(m syncer.Master) bool {
	was := s.peers.get().Master
	known, _ := s.guard.get()
	return m.Role == "master" && was.Role == "master" && m.RunID != "" && m.RunID == was.RunID &&
		m.ReplID2 != "" && !slices.Contains(known.IDs, m.ReplID) && s.isOurs(m.ReplID2)
}

// isOurs tells whether a history is that of a timeline of the source, be it an old one. What was found is kept: who waits
// for a restore asks each second.
func (s *Source) isOurs(id stream.ReplID) bool {
	known, _ := s.guard.get()
	s.mu.Lock()
	found := s.found == id
	s.mu.Unlock()
	if found || slices.Contains(known.IDs, id) {
		return true
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cat, err := s.united(ctx)
	if cat == nil {
		s.log.Warn("whether the master's history is an old one of ours isn't known: no store answers", "error", err)
		return false
	}
	has := func(t *archive.Timeline) bool {
		return t.ReplID == id || slices.ContainsFunc(t.Events, func(e archive.Event) bool { return e.Kind == archive.EventReplID && e.ReplID == id })
	}
	if !slices.ContainsFunc(cat.Timelines, has) {
		return false
	}
	s.mu.Lock()
	s.found = id
	s.mu.Unlock()
	return true
}

// isEngine tells whether a server says that it is one: who follows that was put back under its own master, for good, after
// it had been one itself for a while. The relay of a restore says that it is none, or nothing.
func (s *Source) isEngine(address string) bool {
	ctx, cancel := context.WithTimeout(context.Background(), upstreamIn)
	defer cancel()
	o := s.o.Link // a replica has its master's users
	o.Address, o.Announce, o.DialTimeout = address, syncer.Announce{}, upstreamIn
	w := syncer.NewWatch(o)
	defer w.Close()
	m, err := w.Look(ctx)
	return err == nil && m.Permitted && m.Name != "offloader"
}

// upstreamIn is how long the master of what was a master may take to say what it is.
const upstreamIn = 2 * time.Second

// A goesBackError says that a master is being restored to an earlier state.
type goesBackError struct {
	m  syncer.Master
	at stream.Offset // where what is archived of it ends
}

func (e *goesBackError) Error() string {
	return fmt.Sprintf("%s follows %s, and stands at offset %d of the history that is archived up to %d", e.m.Addr, e.m.Upstream, e.m.Offset, e.at)
}

// Hint says what to do where that was not the end of it.
func (e *goesBackError) Hint() string {
	return "it goes on by itself when that is done and it is a master again; where a `restore --to` was broken off, say the same again; where it is to follow that server for good, let our user ask that one, with +info, or restart the one that follows"
}

// shares tells whether the history that a new master comes from, up to where it left it, is that of t.
func (s *Source) shares(m syncer.Master, t *spool.Timeline) bool {
	if m.ReplID2 == t.ReplID() {
		return true
	}
	known, _ := s.guard.get()
	if !slices.Contains(known.IDs, m.ReplID2) {
		return false
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cat, err := s.united(ctx)
	if cat == nil {
		s.log.Warn("where the master left the history that is held isn't known: no store answers", "error", err)
		return false
	}
	stored, left := cat.Timeline(t.Info().Timeline), m.SecondOffset-1
	return stored != nil && (stored.ReplIDAt(left) == m.ReplID2 || stored.ReplIDAt(left-1) == m.ReplID2)
}

// whoLost tells a failover from a master that was started again, or restored.
func (s *Source) whoLost(m syncer.Master, t *spool.Timeline) string {
	switch {
	case m.RunID != "" && m.RunID == s.peers.get().Master.RunID:
		return "the master was restored to an earlier state: it does not have"
	case amnesia.CameBack(m, s.seen(t)):
		return "the master was started again with an older dataset: it does not have"
	}
	return "a failover: the new master never had"
}

func (s *Source) askBranch(b branchPoint) {
	s.mu.Lock()
	s.branch = &b
	s.mu.Unlock()
}

// boundaryBefore is the last boundary of t at or before an offset, found in what the spool or
// the store still holds.
func (s *Source) boundaryBefore(t *spool.Timeline, at stream.Offset) (stream.Cursor, error) {
	info := t.Info()
	if at < info.Offset {
		return stream.Cursor{}, fmt.Errorf("offset %d is before the timeline's beginning", at)
	}
	if at >= t.Trimmed() {
		r, err := t.Reader(stream.Range{From: t.Trimmed(), To: t.Boundary().Offset})
		if err != nil {
			return stream.Cursor{}, err
		}
		return lastBoundary(r, t.Trimmed(), at)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cat, err := s.load(ctx)
	if err != nil {
		return stream.Cursor{}, err
	}
	for _, stored := range cat.Timelines {
		if stored.Timeline != info.Timeline {
			continue
		}
		for _, seg := range stored.Segments {
			if seg.From <= at && at < seg.To {
				r, err := seg.Open(ctx)
				if err != nil {
					return stream.Cursor{}, err
				}
				return lastBoundary(r, seg.From, at)
			}
		}
	}
	return stream.Cursor{}, fmt.Errorf("offset %d is neither in the spool nor in the store", at)
}

// lastBoundary reads from a boundary on and gives the last one at or before an offset. It closes r.
func lastBoundary(r archive.PieceReader, from, at stream.Offset) (c stream.Cursor, err error) {
	defer func() { err = errors.Join(err, r.Close()) }()
	var f *resp.Framer
	for {
		p, err := r.Next()
		if f == nil {
			c = stream.Cursor{Offset: from, DB: r.DB()}
			f = resp.NewFramer(c)
		}
		if errors.Is(err, io.EOF) {
			return c, nil
		}
		if err != nil {
			return c, err
		}
		for data := p.Data; len(data) > 0; {
			var n int
			if p.Blank {
				n, _, _, err = f.Feed(data)
			} else {
				n, _, err = f.Next(data)
			}
			if err != nil {
				return c, err
			}
			data = data[n:]
			if b := f.Boundary(); b.Offset > at {
				return c, nil
			} else if b.Offset > c.Offset {
				c = stream.Cursor{Offset: b.Offset, DB: b.DB, Time: p.Time}
			}
		}
	}
}

// beginBranch makes the branch that the master has agreed to continue.
func (s *Source) beginBranch(m syncer.Master, b branchPoint, id stream.ReplID, now time.Time) error {
	parent := s.before()
	info := archive.TimelineInfo{
		Format: archive.FormatVersion, Source: s.o.Name, ReplID: id, Offset: b.at.Offset, Began: stream.TimeOf(now),
		Parent: &archive.Parent{Timeline: b.timeline, Offset: b.at.Offset},
		Spool:  s.o.Spool.ID(), Reason: b.reason, Engine: m.Engine, Version: m.Version,
	}
	if m.Reborn {
		info.Reason = archive.CauseRebirth + ": " + info.Reason
	}
	info.Timeline = s.freeName(info.Began, id)
	at := b.at
	if at.Time == 0 {
		at.Time = info.Began
	}
	p := s.past()
	suspicion := s.judge(p, newborn{m: m, at: at.Offset, keys: amnesia.Known{Keys: m.Keys}.Total()}, now)
	t, err := s.src.Branch(info, at, s.loses(parent, &b, now), suspicion.event(at.Offset)...)
	if err != nil {
		return err
	}
	s.begun(p.goesOn(info, m), suspicion)
	if parent != nil {
		s.succeeded(parent, t)
	}
	s.mu.Lock()
	s.cur, s.lost, s.revive = t, nil, nil
	from := at.Time
	if s.outage != nil {
		from = min(from, s.outage.from)
	}
	s.outage = &outage{from: from, at: at.Offset, cause: b.reason}
	if m.Permitted {
		s.outage.until = m.Offset
	}
	nothing, out := m.Permitted && m.Offset == at.Offset, *s.outage
	s.lastByte = now
	if parent == nil || parent.Info().Timeline != b.timeline || s.snapshot != nil && s.snapshot.Offset > at.Offset {
		s.since, s.snapshot = 0, nil // they are those of what the branch has nothing of
		signal(s.look)
	}
	s.mu.Unlock()
	s.streams(m)
	if nothing {
		s.caughtUp(t, false, now)
	} else if err := t.SetOutage(out.event(0, 0)); err != nil {
		return err
	}
	args := []any{"timeline", info.Timeline, "parent", b.timeline, "offset", at.Offset, "reason", b.reason}
	if b.lost.Len() > 0 {
		args = append(args, "lost", b.lost.Len())
	}
	s.log.Warn("a branch has begun", args...)
	return nil
}

// loses tells of writes of t that were archived, perhaps acknowledged, and that the branch which was asked for leaves
// out: which bytes, how many commands, and from when. nil is none.
func (s *Source) loses(t *spool.Timeline, b *branchPoint, now time.Time) *archive.Event {
	if t == nil || b == nil || b.timeline != t.Info().Timeline || b.lost.Len() == 0 {
		return nil
	}
	event := archive.Event{Kind: archive.EventLost, Offset: b.lost.From, To: b.lost.To, From: b.at.Time, Time: stream.TimeOf(now), Cause: b.reason}
	if b.lost.From >= t.Trimmed() { // else they are in the store, and `log` counts them
		r, err := t.Reader(b.lost)
		if err == nil {
			event.Commands, err = countCommands(r, b.lost.From)
		}
		if err != nil {
			s.log.Error("how many commands the master has lost can't be counted", "timeline", b.timeline, "range", b.lost.String(), "error", err)
		}
	}
	return &event
}

// succeeded notes in a timeline what it lost when the next one began, and that it has ended.
func (s *Source) succeeded(t, next *spool.Timeline) {
	lost, ok, err := next.Lost()
	if err == nil && ok {
		if err = t.AddEvent(lost); err == nil {
			err = next.ClearLost()
		}
	}
	if err != nil {
		s.log.Error("could not note what the master has lost", "timeline", t.Info().Timeline, "error", err)
	}
	s.end(t, causeOfEnd(next.Info()))
}

// countCommands counts the whole commands that r gives from a boundary on, of those that change data. It
// closes r.
func countCommands(r archive.PieceReader, from stream.Offset) (n int64, err error) {
	err = eachCommand(r, from, func(c *resp.Command) error {
		if changesData(c) {
			n++
		}
		return nil
	})
	return n, err
}

// changesData is false for commands that leave a dataset as it was.
func changesData(c *resp.Command) bool {
	return !slices.ContainsFunc([]string{"PING", "SELECT", "REPLCONF", "MULTI", "EXEC", "PUBLISH", "SPUBLISH"}, c.Is)
}

// eachCommand calls do for the whole commands that r gives from a boundary on, until it fails. It closes r.
func eachCommand(r archive.PieceReader, from stream.Offset, do func(*resp.Command) error) (err error) {
	defer func() { err = errors.Join(err, r.Close()) }()
	commands := resp.NewCommands(stream.Cursor{Offset: from, DB: r.DB()})
	for {
		p, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = commands.Each(p, do)
		}
		if err != nil {
			return err
		}
	}
}

// end notes that a timeline got its last byte.
func (s *Source) end(t *spool.Timeline, cause string) {
	at := t.Boundary()
	if open, ok, err := t.Outage(); err == nil && ok && at.Offset > open.Offset {
		open.To, open.Time = at.Offset, max(at.Time, 1) // it never caught up
		if err := t.AddEvent(open); err != nil {
			s.log.Error("could not note an outage of the link", "error", err)
		}
	}
	if err := t.AddEvent(archive.Event{Kind: archive.EventEnded, Offset: at.Offset, Time: max(at.Time, 1), Cause: cause}); err != nil {
		s.log.Error("could not note the end of a timeline", "timeline", t.Info().Timeline, "error", err)
	}
	s.mu.Lock()
	s.ended[t] = true
	s.mu.Unlock()
}
