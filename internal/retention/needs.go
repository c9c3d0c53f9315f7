package retention

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/stream"
)

// needs collects what has to stay, and why.
type needs struct {
	cat *archive.Catalog
	of  map[*archive.Timeline]*need
}

// need is what has to stay of one timeline. There may be several reasons for a file.
type need struct {
	log       []reason
	snapshots map[archive.SnapshotName][]string
	link      bool // what stays leads through it, perhaps without a byte of its own
}

// reason keeps the bytes of a range.
type reason struct {
	stream.Range
	why string
}

// forever is the end of a range that takes whatever comes later.
const forever = stream.Offset(math.MaxInt64)

func newNeeds(cat *archive.Catalog) *needs {
	n := &needs{cat, map[*archive.Timeline]*need{}}
	for _, t := range cat.Timelines {
		n.of[t] = &need{snapshots: map[archive.SnapshotName][]string{}}
	}
	return n
}

func (n *need) empty() bool { return len(n.log) == 0 && len(n.snapshots) == 0 && !n.link }

// holdsLog says why bytes of r stay, nothing if none has to.
func (n *need) holdsLog(r stream.Range) (whys []string) {
	for _, l := range n.log {
		if l.From < r.To && r.From < l.To && !slices.Contains(whys, l.why) {
			whys = append(whys, l.why)
		}
	}
	return whys
}

// touches tells whether anything that stays lies in what an event is about.
func (n *need) touches(e archive.Event) bool {
	to := max(e.Offset, e.To)
	for s := range n.snapshots {
		if e.Offset <= s.Offset && s.Offset <= to {
			return true
		}
	}
	return slices.ContainsFunc(n.log, func(l reason) bool { return l.From <= to && e.Offset <= l.To })
}

// whole is the offset from which on all of the timeline stays, its end where nothing does.
func (n *need) whole(t *archive.Timeline) stream.Offset {
	from := t.End()
	for _, l := range n.log {
		if l.To == forever {
			from = min(from, l.From)
		}
	}
	return from
}

func (n *needs) keepSnapshot(t *archive.Timeline, s archive.Snapshot, why string) {
	name := archive.SnapshotName{Offset: s.Offset, Time: s.Time}
	if have := n.of[t].snapshots[name]; !slices.Contains(have, why) {
		n.of[t].snapshots[name] = append(have, why)
	}
}

// chain is t with its parents as far as they are there, the root first, each up to where the next
// leaves it; t itself is open.
func (n *needs) chain(t *archive.Timeline) []archive.Part {
	var parts []archive.Part
	to := forever
	for range len(n.cat.Timelines) { // a circle would be damage
		parts = append(parts, archive.Part{Timeline: t, Range: stream.Range{From: t.Offset, To: to}})
		if t.Parent == nil {
			break
		}
		to = min(to, t.Parent.Offset)
		if t = n.cat.Timeline(t.Parent.Timeline); t == nil {
			break
		}
	}
	slices.Reverse(parts)
	return parts
}

// since keeps what leads to the offsets of a chain from `from` to `to`: the newest snapshot before
// them that will do, and from there on the log and all snapshots. Where there is no snapshot, it
// keeps all before them: one may still come from another store.
func (n *needs) since(parts []archive.Part, r stream.Range, why string, will func(archive.Part, archive.Snapshot) bool) {
	first, from := 0, parts[0].From
search:
	for i, p := range slices.Backward(parts) {
		for _, s := range slices.Backward(p.Timeline.Snapshots) {
			if p.From <= s.Offset && s.Offset <= min(p.To, r.From) && (will == nil || will(p, s)) {
				first, from = i, s.Offset
				break search
			}
		}
	}
	for _, p := range parts[first:] {
		begin, end := max(p.From, from), min(p.To, r.To)
		if begin > end {
			break
		}
		need := n.of[p.Timeline]
		need.link = true
		if begin < end {
			need.log = append(need.log, reason{stream.Range{From: begin, To: end}, why})
		}
		for _, s := range p.Timeline.Snapshots {
			if begin <= s.Offset && s.Offset <= end {
				n.keepSnapshot(p.Timeline, s, why)
			}
		}
	}
}

// pins keeps what leads to the points that are pinned.
func (n *needs) pins() {
	for _, t := range n.cat.Timelines {
		for _, pin := range t.Pins() {
			why := fmt.Sprintf("pinned at offset %d", pin.Offset)
			if pin.Note != "" {
				why += " (" + pin.Note + ")"
			}
			n.since(n.chain(t), stream.Range{From: pin.Offset, To: pin.Offset}, why, nil)
		}
	}
}

// hold keeps what no policy may take: pinned points, what waits for a release, and the end of
// what a daemon may be writing.
func (n *needs) hold() {
	n.pins()
	for _, t := range n.cat.Timelines {
		for _, lost := range t.Lost() {
			n.since(n.chain(t), stream.Range{From: lost.Offset, To: forever}, whyLost(lost), nil)
		}
	}
	held := exempt(n.cat)
	for _, t := range n.cat.Timelines {
		if why := held[t]; why != "" {
			n.since(n.chain(t), stream.Range{From: t.Offset, To: forever}, why, nil)
		}
	}
	newest := map[string]*archive.Timeline{} // of each spool
	var last *archive.Timeline               // that can be trusted: what `restore --latest` takes
	for _, t := range n.cat.Timelines {
		newest[t.Spool] = t
		if !t.Suspect() && len(t.Snapshots)+len(t.Segments) > 0 && (last == nil || lastHeard(t) >= lastHeard(last)) {
			last = t
		}
	}
	for i, t := range n.cat.Timelines {
		ended := n.cat.Ended(t) != 0
		holds := len(t.Snapshots)+len(t.Segments) > 0
		if i == len(n.cat.Timelines)-1 || t == last || holds && !ended && newest[t.Spool] == t {
			n.since(n.chain(t), stream.Range{From: forever, To: forever}, "the newest snapshot and what came since", nil)
		}
	}
}

func whyLost(e archive.Event) string {
	return fmt.Sprintf("a failover lost what was written from offset %d on: until release", e.Offset)
}

// follow keeps what the policy says: its window, single snapshots beyond it, and the newest.
func (n *needs) follow(p Policy, from stream.Time) {
	byThen := func(p archive.Part, s archive.Snapshot) bool {
		if s.Time > from {
			return false
		}
		for _, log := range p.Timeline.Segments { // what comes before the snapshot may be younger than it says
			if log.To <= s.Offset && log.Time1 > from || log.Holds(s.Offset) && log.Time0 > from {
				return false
			}
		}
		return true
	}
	var all []placed
	for _, t := range n.cat.Timelines {
		if lastHeard(t) >= from {
			n.since(n.chain(t), stream.Range{From: forever, To: forever}, "in the window", byThen)
		}
		if t.Suspect() {
			continue // it stays anyway, and must not crowd out what was good
		}
		for _, s := range t.Snapshots {
			all = append(all, placed{s, t})
		}
	}
	slices.Reverse(all)
	slices.SortStableFunc(all, func(a, b placed) int { return cmp.Compare(b.Time, a.Time) })
	for _, s := range all[:min(len(all), max(1, p.Minimum))] {
		n.keepSnapshot(s.timeline, s.Snapshot, fmt.Sprintf("among the newest %d", max(1, p.Minimum)))
	}
	beyond := slices.DeleteFunc(all, func(s placed) bool { return s.Time >= from })
	for _, r := range p.rules() {
		r.choose(beyond, func(s placed, why string) { n.keepSnapshot(s.timeline, s.Snapshot, why) })
	}
}

// exempt are the timelines of which nothing goes until the user has looked at what happened, each
// with the reason: those that are suspect, and before each what was there before it, back to one
// that never was suspect. Where several daemons write, that is what the same one wrote before, too.
func exempt(cat *archive.Catalog) map[*archive.Timeline]string {
	all := map[*archive.Timeline]string{}
	for i, t := range cat.Timelines {
		if !t.Suspect() {
			continue
		}
		all[t] = "suspect: until release"
		for _, same := range []bool{false, true} {
			for _, before := range slices.Backward(cat.Timelines[:i]) {
				if same && before.Spool != t.Spool {
					continue
				}
				if all[before] == "" {
					all[before] = "came before " + t.Timeline + ", which is suspect: until release"
				}
				if !slices.ContainsFunc(before.Events, func(e archive.Event) bool { return e.Kind == archive.EventSuspect }) {
					break
				}
			}
		}
	}
	return all
}
