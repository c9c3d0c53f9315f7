package source

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"slices"
	"strconv"
	"time"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/relay"
	"github.com/offloader/offloader/internal/spool"
	"github.com/offloader/offloader/internal/stream"
	"github.com/offloader/offloader/internal/syncer"
)

// End is where what is archived ends: what a source is reborn to.
type End struct {
	Timeline string // "": nothing is archived
	ReplID   stream.ReplID
	Offset   stream.Offset // the last durable boundary
	Suspect  string        // why the newest timeline is suspect; "": it is not
	Left     string        // where the master had gone on from it, to what isn't archived, when it was there last; "": nowhere
}

// endFor is how long what the stores said of a timeline counts: who waits for a rebirth asks each second.
const endFor = 5 * time.Second

// End looks where the archive ends: the spool's newest timeline, or, where the spool holds nothing, where
// the stores end. It fails where a store that may know more doesn't answer.
func (s *Source) End(ctx context.Context) (End, error) {
	s.mu.Lock()
	noAnswer, noLost, opened, last, lastAt := s.noAnswer, s.noLost, s.src != nil, s.ending, s.endAt
	s.mu.Unlock()
	if err := errors.Join(noAnswer, noLost); err != nil {
		return End{}, err
	}
	timeline, h, ok := s.Head()
	switch {
	case !opened:
		return End{}, errors.New("the spool is not open yet")
	case !ok:
		return End{}, nil
	}
	e := End{Timeline: timeline, ReplID: h.ReplID, Offset: h.Durable}
	if beyond := s.peers.get().Beyond; beyond != nil && !(beyond.ReplID == h.ReplID && beyond.Offset <= h.Durable) { // or it died when that had just come
		e.Left = fmt.Sprintf("offset %d of the history %s", beyond.Offset, beyond.ReplID.Short())
	}
	if last.Timeline == timeline && time.Since(lastAt) < endFor {
		e.Suspect = last.Suspect
		return e, nil
	}
	cat, err := s.Catalog(ctx)
	if err != nil {
		return End{}, err
	}
	if t := cat.Timeline(timeline); t != nil && t.Suspect() {
		e.Suspect = why(t)
	}
	s.mu.Lock()
	s.ending, s.endAt = e, time.Now()
	s.mu.Unlock()
	return e, nil
}

// why is the reason that the newest suspect event gives.
func why(t *archive.Timeline) (cause string) {
	for _, e := range t.Events {
		if e.Kind == archive.EventSuspect && e.Damage == nil {
			cause = e.Cause
		}
	}
	return cause
}

// Revive has what is archived end where the newest timeline does that is not suspect: that is what
// replicas are given from here on, and a master that has it begins a branch there.
func (s *Source) Revive(ctx context.Context) error {
	cat, err := s.Catalog(ctx)
	if err != nil {
		return err
	}
	end, err := s.storeEnd(ctx, cat, func(t *archive.Timeline) bool { return !t.Suspect() })
	if err != nil {
		return err
	}
	if end == nil {
		return errors.New("there is no timeline that is not suspect and can be restored")
	}
	s.log.Warn("going back to before what is suspect, as was said", "timeline", end.timeline, "offset", end.at.Offset)
	s.goBack(end)
	return nil
}

// Stay takes that back: what is archived ends with the newest timeline again.
func (s *Source) Stay() { s.goBack(nil) }

func (s *Source) goBack(to *resumePoint) {
	s.mu.Lock()
	was, src := s.revive, s.src
	s.revive = to
	s.mu.Unlock()
	if was != to && src != nil {
		src.Stir() // replicas that get the other stream have to ask anew
	}
}

// Hurry ends a pause of the link: the source has shown that it is there.
func (s *Source) Hurry() {
	s.mu.Lock()
	link := s.link
	s.mu.Unlock()
	if link != nil {
		link.Hurry()
	}
}

// Doubt has the link make sure that the server is still there that its connection of that time leads to.
func (s *Source) Doubt(connected time.Time) {
	s.mu.Lock()
	link := s.link
	s.mu.Unlock()
	if link != nil {
		link.Doubt(connected)
	}
}

// Ends tells whether an offset is the last durable boundary.
func (s *Source) Ends(at stream.Offset) bool {
	_, h, ok := s.Head()
	return ok && h.Durable == at
}

// Link is what the link is doing.
func (s *Source) Link() (st syncer.Status) {
	s.mu.Lock()
	link := s.link
	s.mu.Unlock()
	if link != nil {
		st = link.Status()
	}
	return st
}

// Replicas are those that may have become the master: who followed it when it was last asked, and whom it followed
// itself, if it did; and who follows the relay, or has been there not long ago. All as they announce themselves.
func (s *Source) Replicas() []string {
	s.meet(time.Now())
	known, master := s.peers.get(), s.Link().Master
	all := slices.Concat(known.Replicas, slices.DeleteFunc(slices.Clone(master.Replicas), s.isUs))
	if master.Role == "slave" && master.Upstream != "" {
		all = append(all, master.Upstream)
	}
	for _, f := range known.Followers {
		all = append(all, f.Address)
	}
	return all
}

// Sentinels are those who watch us as one of the master's replicas, or did.
func (s *Source) Sentinels() []Sentinel { return s.peers.get().Sentinels }

// meet takes note of who follows the relay.
func (s *Source) meet(now time.Time) {
	book := s.o.Followers()
	s.peers.change(func(c *company) { c.meet(book, now) })
}

// hear takes note of what a Sentinel says.
func (s *Source) hear(h relay.Hello) {
	s.peers.change(func(c *company) { c.hear(h, time.Now()) })
}

// streams takes note of whom the stream comes from: what that one holds is archived, or is on its way.
func (s *Source) streams(m syncer.Master) {
	s.peers.change(func(c *company) { c.Master, c.Beyond = process{m.RunID, m.Role}, nil })
	s.peers.save()
}

// keepPeers keeps who else may be the master, and forgets who is gone.
func (s *Source) keepPeers(now time.Time) {
	s.meet(now)
	if st := s.Link(); st.Phase == syncer.Streaming {
		s.peers.change(func(c *company) { c.forget(st.Connected, now) })
	}
	s.peers.save()
}

// isUs tells whether a replica of the master is this daemon: by the port that it was told, which no other replica
// has unless it is a configured one.
func (s *Source) isUs(address string) bool {
	host, port, err := net.SplitHostPort(address)
	if a := s.o.Link.Announce; a.Port > 0 {
		return err == nil && host == a.Host && port == strconv.Itoa(a.Port)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return err == nil && port == strconv.Itoa(s.port)
}

// standsIn is the head of what no spool holds: the stores give all of it, and it grows no more.
func standsIn(p *resumePoint) (timeline string, h spool.Head, ok bool) {
	return p.timeline, spool.Head{Trimmed: math.MaxInt64, Durable: p.at.Offset, ReplID: p.id}, true
}

// revived is the branch to ask for where an operator has had the archive go back.
func revived(p resumePoint) branchPoint {
	return branchPoint{resumePoint: p, reason: fmt.Sprintf("promote --latest: what came after %s is suspect", p.timeline)}
}
