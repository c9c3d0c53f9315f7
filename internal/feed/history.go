package feed

import (
	"fmt"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/relay"
	"github.com/offloader/offloader/internal/stream"
)

// history is what the archive holds of a timeline and of what it continues.
type history struct {
	timeline string
	id       stream.ReplID // at its end
	suspect  bool
	parts    []archive.Part // the root first, each up to where the next leaves it
	ids      []idFrom       // by offset
	listed   Head           // from before it was looked for
}

// idFrom is a replication id, and where it took over from the one before.
type idFrom struct {
	id   stream.ReplID
	from stream.Offset
}

// placed is a snapshot, and the timeline that it lies in.
type placed struct {
	archive.Snapshot
	timeline string
}

func (s placed) without(c *archive.Catalog) *archive.Catalog {
	return c.WithoutSnapshot(s.timeline, s.Snapshot)
}

func newHistory(cat *archive.Catalog, head Head) (*history, error) {
	t := cat.Timeline(head.Timeline)
	if t == nil {
		return nil, &relay.LaterError{Why: fmt.Sprintf("timeline %s is not in the archive yet", head.Timeline)}
	}
	h := &history{timeline: head.Timeline, suspect: t.Suspect()}
	parts, err := cat.Chain(t)
	if err != nil && len(parts) == 0 {
		return nil, err // else what is behind the damage can be served all the same
	}
	for i, p := range parts {
		if p.From > head.Durable {
			break // a fixed point of a parent
		}
		if i == len(parts)-1 {
			p.To = head.Durable // the newest part is spooled, and the listing is older
		}
		p.To = min(p.To, head.Durable)
		h.parts = append(h.parts, p)
		h.takeOver(p.Timeline.ReplID, p.From)
		for _, e := range p.Timeline.Events {
			if e.Kind == archive.EventReplID && e.Damage == nil && p.From <= e.Offset && e.Offset <= p.To {
				h.takeOver(e.ReplID, e.Offset)
			}
		}
	}
	if len(h.parts) == 0 {
		return nil, &relay.LaterError{Why: fmt.Sprintf("timeline %s begins behind offset %d", head.Timeline, head.Durable)}
	}
	last := h.ids[len(h.ids)-1]
	if head.ReplID != "" && last.id != head.ReplID {
		// The event that says where can't be read. What came under the id before is shared at least up
		// to where that took over.
		h.takeOver(head.ReplID, last.from)
	}
	h.id = h.ids[len(h.ids)-1].id
	return h, nil
}

func (h *history) takeOver(id stream.ReplID, from stream.Offset) {
	if n := len(h.ids); n == 0 || h.ids[n-1].id != id {
		h.ids = append(h.ids, idFrom{id, from})
	}
}

// shared is the last offset that the history named by id has in common with this one, which ends at end.
// An id names all that leads to its bytes too: a replica that follows a new master at a lower offset has
// the new id.
func (h *history) shared(id stream.ReplID, end stream.Offset) (to stream.Offset, known bool) {
	for i, at := range h.ids {
		switch {
		case at.id != id:
		case i == len(h.ids)-1:
			return end, true
		default:
			to, known = h.ids[i+1].from, true
		}
	}
	return to, known
}

// holds tells whether all of r can be read from the archive. An empty range can.
func (h *history) holds(r stream.Range) bool {
	for at := r.From; at < r.To; {
		s := h.segment(at)
		if s == nil {
			return false
		}
		at = s.to
	}
	return true
}

// segmentAt is a segment that holds the byte behind some offset, up to where it is to be read.
type segmentAt struct {
	archive.Segment
	timeline string
	to       stream.Offset
}

func (s segmentAt) without(c *archive.Catalog) *archive.Catalog {
	return c.WithoutSegment(s.timeline, s.Segment)
}

// name is how the log and errors call it, and by what it is remembered.
func (s segmentAt) name() string { return s.timeline + "/" + s.Name }

// segment is the one that holds the byte behind at, the one that reaches furthest; nil where none does.
func (h *history) segment(at stream.Offset) *segmentAt {
	var best *segmentAt
	for _, p := range h.parts {
		if at < p.From || at >= p.To {
			continue
		}
		for _, s := range p.Timeline.Segments {
			if to := min(s.To, p.To); s.From <= at && at < to && (best == nil || to > best.to) {
				best = &segmentAt{s, p.Timeline.Timeline, to}
			}
		}
	}
	return best
}

// snapshot is the newest from which all is held up to an offset, where the spool goes on up to end. nil
// where there is none.
func (h *history) snapshot(to, end stream.Offset) *placed {
	for i := len(h.parts) - 1; i >= 0; i-- {
		p := h.parts[i]
		for n := len(p.Timeline.Snapshots) - 1; n >= 0; n-- {
			s := p.Timeline.Snapshots[n]
			if p.From <= s.Offset && s.Offset <= min(p.To, end) && h.holds(stream.Range{From: s.Offset, To: to}) {
				return &placed{s, p.Timeline.Timeline}
			}
		}
	}
	return nil
}
