package source

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/offloader/offloader/internal/amnesia"
	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/resp"
	"github.com/offloader/offloader/internal/spool"
	"github.com/offloader/offloader/internal/stream"
	"github.com/offloader/offloader/internal/syncer"
)

// Suspicion is why a timeline is suspect: the master seems to have forgotten what it held. It lasts until the user
// releases it. What is archived of the timeline counts as little as what the master holds: readers pass it over, and
// retention keeps what was before.
type Suspicion struct {
	Timeline string        `json:"timeline"`
	Time     stream.Time   `json:"time"`
	Cause    string        `json:"cause"`
	Keys     archive.Sizes `json:"keys"`
	Before   string        `json:"before"`         // the timeline that was good, "" where it isn't known
	Hint     string        `json:"hint,omitempty"` // what to do; only in a status
}

// Suspect is why the newest timeline is suspect, nil where it isn't.
func (s *Source) Suspect() *Suspicion {
	m, _ := s.guard.get()
	return m.Suspicion
}

// A SuspectError says that nothing is taken of what the master holds now.
type SuspectError struct {
	Source string
	Suspicion
}

func (e *SuspectError) Error() string {
	return fmt.Sprintf("timeline %s of source %s is suspect, and passed over: %s", e.Timeline, e.Source, e.Cause)
}

// Hint says how to get what was good, or to say that all is well.
func (e *SuspectError) Hint() string {
	before := ""
	if e.Before != "" {
		before = fmt.Sprintf("`offloader restore --source %s --timeline %s --latest --output DIR` gives what was before it; ", e.Source, e.Before)
	}
	return before + fmt.Sprintf("`offloader release --source %s` says that what the master holds now is right", e.Source)
}

// past is what is archived before a timeline that begins now.
type past struct {
	timeline  string
	history   amnesia.History
	known     amnesia.Known
	suspicion *Suspicion
	spooled   *spool.Timeline // nil: it is in the stores alone
	last      time.Time       // when its last byte came
}

// past is what was archived before, nil for nothing, when the master has just said what it is.
func (s *Source) past() *past {
	t := s.before()
	s.mu.Lock()
	stored, asked := s.stored, s.asked
	s.mu.Unlock()
	switch {
	case t == nil && stored == nil:
		return nil
	case t == nil:
		p := *stored
		p.history.Seen = max(0, asked.Sub(p.last))
		return &p
	}
	info := t.Info()
	if s.guard.isUnsure() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if cat, err := s.united(ctx); cat != nil {
			s.lookForSuspicion(cat, info.Timeline)
		} else {
			s.log.Warn("whether the timeline before was suspect is not known: no store answers", "timeline", info.Timeline, "error", err)
		}
	}
	m, _ := s.guard.get()
	p := &past{timeline: info.Timeline, known: s.known(t), spooled: t}
	if m.Timeline == info.Timeline {
		p.suspicion, p.history.IDs = m.Suspicion, m.IDs
	}
	p.history.IDs, p.history.End, p.history.Seen = withID(p.history.IDs, t.ReplID()), t.Boundary().Offset, s.seen(t)
	p.history.RunID = cmp.Or(s.peers.get().Master.RunID, p.known.RunID)
	return p
}

// seen is how long before it last said what it is the master had last sent a byte.
func (s *Source) seen(t *spool.Timeline) time.Duration {
	s.mu.Lock()
	last, asked := s.lastByte, s.asked
	s.mu.Unlock()
	if last.IsZero() { // not since the start
		last = t.Boundary().Time.Go()
	}
	return max(0, asked.Sub(last))
}

// goesOn is what is known of a branch that continues it.
func (p *past) goesOn(info archive.TimelineInfo, m syncer.Master) memory {
	b := memory{Timeline: info.Timeline, From: info.Offset}
	if p != nil {
		b.Known, b.IDs = p.known, p.history.IDs
	}
	b.Known.Offset, b.IDs = info.Offset, withID(b.IDs, info.ReplID)
	if m.Keys != nil {
		b.Known = amnesia.Known{Keys: m.Keys, Offset: m.Offset, Time: info.Began, RunID: m.RunID}
	}
	return b
}

// pastIn is what a catalog holds before a timeline that begins now: its newest timeline of which there is a count.
func pastIn(ctx context.Context, cat *archive.Catalog) *past {
	for i, t := range slices.Backward(cat.Timelines) {
		info, ok := countIn(ctx, cat, t)
		if !ok {
			continue
		}
		p := &past{timeline: t.Timeline, known: knownOf(info), history: amnesia.History{IDs: []stream.ReplID{t.ReplID}, End: t.End()}}
		for _, e := range t.Events {
			if e.Kind == archive.EventReplID && e.Damage == nil {
				p.history.IDs = withID(p.history.IDs, e.ReplID)
			}
		}
		p.history.IDs = withID(p.history.IDs, t.ReplIDAt(t.End()))
		last := info.Time
		for _, seg := range t.Segments {
			last = max(last, seg.Time1)
		}
		p.last = last.Go()
		if t.Suspect() {
			p.suspicion = suspicionIn(cat.Timelines[:i], t)
		}
		return p
	}
	return nil
}

// suspicionIn is what the events of a timeline say, before are those that were born before it.
func suspicionIn(before []*archive.Timeline, t *archive.Timeline) *Suspicion {
	s := &Suspicion{Timeline: t.Timeline, Keys: archive.Sizes{Before: -1, Now: -1}}
	for _, e := range t.Events {
		if e.Kind == archive.EventSuspect && e.Time >= s.Time {
			s.Time, s.Cause = e.Time, e.Cause
			if e.Keys != nil {
				s.Keys = *e.Keys
			}
		}
	}
	if good := archive.LastGood(before); good != nil {
		s.Before = good.Timeline
	}
	return s
}

// suspicionOf is what the spool says of a timeline that it holds, nil where that isn't suspect. Once every store has
// the event, the spool has it no more.
func suspicionOf(t *spool.Timeline) (*Suspicion, error) {
	events, err := t.Events()
	one := &archive.Timeline{TimelineInfo: t.Info(), Events: events}
	if err != nil || !one.Suspect() {
		return nil, err
	}
	return suspicionIn(nil, one), nil
}

// newborn is a timeline that is about to begin.
type newborn struct {
	m    syncer.Master
	id   stream.ReplID
	at   stream.Offset
	keys int64 // that the master comes back with, before it gets new ones; -1 where that isn't known
	full bool  // it begins with an RDB; else it continues what was before
}

// judge tells why a timeline that begins now is suspect, nil if it isn't.
func (s *Source) judge(p *past, n newborn, now time.Time) *Suspicion {
	empty := n.full && n.keys == 0
	if p == nil || n.m.Reborn && !empty { // what it holds is what we gave it
		return nil
	}
	sus := &Suspicion{Time: stream.TimeOf(now), Before: p.timeline, Keys: archive.Sizes{Before: p.known.Total(), Now: n.keys}}
	if p.suspicion != nil { // what it was to hold is what the good one held, or more
		sus.Before, sus.Keys.Before = p.suspicion.Before, max(sus.Keys.Before, p.suspicion.Keys.Before)
	}
	if to, rewound := p.history.Rewound(n.m, n.id, n.at); !n.m.Reborn && rewound && s.wrote(p, to) {
		sus.Cause = fmt.Sprintf("the master came back as it was at offset %d: it was started with an older dataset, without what was written up to offset %d", to, p.history.End)
		return sus
	}
	forgot := n.full && amnesia.Forgot(sus.Keys.Before, n.keys, s.o.SuspectBelow) && (p.suspicion != nil || !s.sameServer(p, n))
	held := humanize.Comma(sus.Keys.Before) + " keys"
	if sus.Keys.Before == p.known.Total() {
		held += " at " + p.known.Time.String()
	} else {
		held += " in timeline " + sus.Before
	}
	switch {
	case n.m.Reborn && sus.Keys.Before == 0: // as it was
		return nil
	case n.m.Reborn: // one wrong word must not cost the good
		sus.Cause = "it was started from nothing, by `promote --empty`"
		if sus.Keys.Before > 0 {
			sus.Cause += ": it held " + held
		}
	case forgot && n.keys == 0:
		sus.Cause = "the master came back empty: it held " + held
	case forgot:
		sus.Cause = fmt.Sprintf("the master came back with %s keys: it held %s, and less than %g%% of that is suspect", humanize.Comma(n.keys), held, s.o.SuspectBelow)
	case p.suspicion != nil && !s.recovered(p, n):
		sus.Cause = fmt.Sprintf("it came after timeline %s, which is suspect: %s", p.timeline, rootCause(p.suspicion.Cause))
	default:
		return nil
	}
	return sus
}

// recovered tells whether a master whose timeline was suspect for the number of its keys has them back: it was started
// again with them. What the same process has by now was written since.
func (s *Source) recovered(p *past, n newborn) bool {
	was := p.suspicion.Keys
	return n.full && n.keys >= 0 && n.m.RunID != p.history.RunID && amnesia.Forgot(was.Before, was.Now, s.o.SuspectBelow) && !amnesia.Forgot(was.Before, n.keys, s.o.SuspectBelow)
}

// rootCause is the cause that a chain of suspect timelines began with.
func rootCause(cause string) string {
	const link = "which is suspect: "
	if i := strings.LastIndex(cause, link); i >= 0 {
		return cause[i+len(link):]
	}
	return cause
}

// sameServer tells whether the server goes on with the history that is held, or is the very process that was
// counted and never left its own, unless to go back to what is archived of it, however long ago: what it lost since, it was told to lose.
func (s *Source) sameServer(p *past, n newborn) bool {
	ids := p.history.IDs
	if len(ids) > 0 && n.id == ids[len(ids)-1] {
		return true
	}
	if n.m.RunID == "" || n.m.RunID != p.known.RunID || n.m.Role != "master" {
		return false
	}
	return n.m.ReplID2 == "" || slices.Contains(ids, n.m.ReplID2) || s.isOurs(n.m.ReplID2)
}

// wrote tells whether data was changed behind an offset. What can't be read may have.
func (s *Source) wrote(p *past, behind stream.Offset) bool {
	if p.spooled == nil || behind < p.spooled.Trimmed() {
		return true // it is so much that the spool has let go of some
	}
	found := errors.New("found")
	shared, err := s.boundaryBefore(p.spooled, behind)
	if err == nil {
		var r archive.PieceReader
		if r, err = p.spooled.Reader(stream.Range{From: shared.Offset, To: p.history.End}); err == nil {
			err = eachCommand(r, shared.Offset, func(c *resp.Command) error {
				if changesData(c) {
					return found
				}
				return nil
			})
		}
	}
	if err != nil && !errors.Is(err, found) {
		s.log.Warn("what the master has lost can't be read in the spool", "timeline", p.timeline, "offset", behind, "error", err)
	}
	return err != nil
}

// event is what becomes of it in the archive, at the timeline's beginning.
func (sus *Suspicion) event(at stream.Offset) []archive.Event {
	if sus == nil {
		return nil
	}
	sizes := sus.Keys
	return []archive.Event{{Kind: archive.EventSuspect, Offset: at, Time: sus.Time, Cause: sus.Cause, Keys: &sizes}}
}

// begun takes note of a timeline that has begun, and of what is known of it.
func (s *Source) begun(m memory, sus *Suspicion) {
	if sus != nil {
		sus.Timeline = m.Timeline
		m.Suspicion = sus
		e := &SuspectError{Source: s.o.Name, Suspicion: *sus}
		s.log.Error("THE NEW TIMELINE IS SUSPECT: what was archived before is kept", "timeline", sus.Timeline, "cause", sus.Cause,
			"keys_before", sus.Keys.Before, "keys", sus.Keys.Now, "before", sus.Before, "hint", e.Hint())
	}
	s.guard.begin(m)
}

// releaseEvery is how often the stores are asked whether somebody has looked at what is suspect.
const releaseEvery = 5 * time.Second

// awaitRelease waits for the user's word, as long as the newest timeline is suspect.
func (s *Source) awaitRelease(ctx context.Context) error {
	every := time.NewTicker(releaseEvery)
	defer every.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-every.C:
		}
		if sus := s.Suspect(); sus != nil && s.released(ctx, sus) {
			s.release(sus.Timeline)
		}
	}
}

// release forgets the suspicion of a timeline.
func (s *Source) release(timeline string) {
	was := false
	s.guard.change(timeline, func(m *memory) { was, m.Suspicion = m.Suspicion != nil, nil })
	if was {
		s.log.Info("the timeline was released: it is suspect no more", "timeline", timeline)
	}
}

// released tells whether a store has the user's word.
func (s *Source) released(ctx context.Context, sus *Suspicion) bool {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	dir := path.Join(s.o.Name, sus.Timeline)
	for _, sh := range s.shippers {
		entries, err := sh.store.List(ctx, path.Join(dir, "events"))
		if err != nil {
			s.log.Debug("a store doesn't tell whether a timeline was released", "store", sh.store.String(), "error", err)
			continue
		}
		for _, e := range entries {
			n, err := archive.ParseEventName(strings.TrimPrefix(e.Name, dir+"/"))
			if err == nil && n.Kind == archive.EventRelease && n.Time >= sus.Time {
				return true
			}
		}
	}
	return false
}
