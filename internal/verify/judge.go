package verify

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/stream"
)

// judge finds what is wrong with a source as its last listing shows it, from what its files told.
type judge struct {
	*source
	findings []Finding
	notes    []string
}

func (j *judge) all(ctx context.Context) error {
	j.problems()
	j.listing()
	for _, t := range j.timelines() {
		j.birth(t)
		j.contents(t)
		if err := j.agreement(ctx, t); err != nil {
			return err
		}
		j.sequence(t)
		j.cuts(t)
		j.continuity(t)
	}
	return nil
}

// find adds a finding. What it costs is worked out from what a timeline leads to with it and
// without it; where that says nothing, cost does.
func (j *judge) find(timeline, file, what, cost string, lost []Lost) {
	f := Finding{Source: j.Name, Timeline: timeline, File: file, What: what, Cost: cost, Lost: lost}
	if f.Lost == nil {
		f.Lost = []Lost{}
	}
	if len(lost) > 0 {
		var spans []string
		for _, l := range lost {
			spans = append(spans, l.String())
		}
		f.Cost = "can't be restored: " + strings.Join(spans, "; ")
	}
	j.findings = append(j.findings, f)
}

func (j *judge) notef(format string, args ...any) {
	j.notes = append(j.notes, fmt.Sprintf(format, args...))
}

const (
	costsNothing = "nothing: every moment can be restored without it"
	costsAll     = "nothing of this timeline can be restored"

	noSnapshot = "there is no snapshot from which its log could be replayed"
)

// problems are what kept the catalog from being whole.
func (j *judge) problems() {
	for _, err := range j.cat.Problems {
		var damage *archive.DamageError
		if !errors.As(err, &damage) {
			j.unread = append(j.unread, err)
			continue
		}
		name := strings.TrimPrefix(damage.Name, j.Name+"/")
		if !j.wanted(name) {
			continue
		}
		timeline, rest, _ := strings.Cut(name, "/")
		t := j.cat.Timeline(timeline)
		switch k, _ := kindOf(rest); {
		case k == event:
			j.find(timeline, damage.Name, whatOf(damage), "no bytes, but what it said is not known", nil)
		case k == rdb && t != nil:
			j.halfSnapshot(t, rest, whatOf(damage))
		default:
			j.find(timeline, damage.Name, whatOf(damage), costsAll, nil)
		}
	}
}

// birth holds timeline.json against the folders that it is in, and against the parent.
func (j *judge) birth(t *archive.Timeline) {
	file := j.path(t, "timeline.json")
	if t.Source != j.Name {
		j.notef("%s: it was written for source %q", file, t.Source) // whoever moves a folder may do so
	}
	if _, short, err := archive.ParseTimelineName(t.Timeline); err == nil && short != t.ReplID.Short() {
		j.find(t.Timeline, file, fmt.Sprintf("its replication id %s is not that of its name", t.ReplID), "nothing can be continued under that id", nil)
	}
	if _, err := j.cat.Chain(t); err != nil {
		var damage *archive.DamageError
		if errors.As(err, &damage) && damage.Name == file { // that of a parent is told there
			j.find(t.Timeline, file, whatOf(damage), costsAll, nil)
		}
	}
}

// contents tells what was wrong in files that were read.
func (j *judge) contents(t *archive.Timeline) {
	tell := func(name string, without func(*archive.Timeline)) {
		r := j.done[t.Timeline+"/"+name]
		if r == nil {
			return // unread, or gone
		}
		if r.note != "" {
			j.notef("%s: %s", r.file, r.note)
		}
		if r.wrong != "" {
			j.find(t.Timeline, r.file, r.wrong, costsNothing, j.lost(t, nil, without))
		}
	}
	for _, e := range t.Events {
		if archive.ByName(e.Kind) {
			tell(e.Name(), func(*archive.Timeline) {})
		}
	}
	for _, s := range t.Snapshots {
		tell(s.Name, withoutSnapshot(s.Name))
	}
	for _, s := range t.Segments {
		tell(s.Name, withoutSegments(s.Name))
	}
}

// agreement finds segments that hold the same range, and not the same bytes.
func (j *judge) agreement(ctx context.Context, t *archive.Timeline) error {
	first := map[stream.Range]archive.Segment{}
	told := map[[2]string]bool{}
	for _, seg := range t.Segments {
		r := j.done[t.Timeline+"/"+seg.Name]
		if r == nil || r.wrong != "" {
			continue
		}
		ranges := make([]stream.Range, 0, len(r.sums))
		for shared := range r.sums {
			ranges = append(ranges, shared)
		}
		slices.SortFunc(ranges, func(a, b stream.Range) int { return cmp.Compare(a.From, b.From) })
		for _, shared := range ranges {
			other, held := first[shared]
			if !held {
				first[shared] = seg
				continue
			}
			pair := [2]string{other.Name, seg.Name}
			if j.done[t.Timeline+"/"+other.Name].sums[shared] == r.sums[shared] || told[pair] {
				continue
			}
			told[pair] = true
			at, err := difference(ctx, other, seg, shared)
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			where := fmt.Sprintf("in %s", shared)
			if err == nil {
				where = fmt.Sprintf("at offset %d", at)
			}
			j.find(t.Timeline, j.path(t, seg.Name), fmt.Sprintf("it and %s, each with a right checksum, hold different bytes %s", other.Name, where),
				costsNothing, j.lost(t, nil, withoutSegments(other.Name, seg.Name)))
		}
	}
	return nil
}

// sequence finds segments and snapshots that don't fit to what comes before them: another database
// is selected, or times fall.
func (j *judge) sequence(t *archive.Timeline) {
	type claim struct {
		db   int
		name string
	}
	selected := map[stream.Offset]claim{}
	check := func(name string, at *stream.Cursor, without func(*archive.Timeline)) {
		if at == nil {
			return
		}
		before, ok := selected[at.Offset]
		if !ok {
			selected[at.Offset] = claim{at.DB, name}
		} else if before.db != at.DB {
			j.find(t.Timeline, j.path(t, name), fmt.Sprintf("database %d is selected at offset %d by it, and %d by %s", at.DB, at.Offset, before.db, before.name),
				costsNothing, j.lost(t, nil, without))
		}
	}
	for _, s := range t.Segments {
		if r := j.done[t.Timeline+"/"+s.Name]; r != nil && r.wrong == "" {
			check(s.Name, r.to, withoutSegments(s.Name))
			check(s.Name, r.from, withoutSegments(s.Name))
		}
		if s.From < t.Offset {
			j.find(t.Timeline, j.path(t, s.Name), fmt.Sprintf("it begins before its timeline, at %d", t.Offset), costsNothing, nil)
		}
	}
	for _, s := range t.Snapshots {
		if r := j.done[t.Timeline+"/"+s.Name]; r != nil && r.wrong == "" {
			check(s.Name, r.from, withoutSnapshot(s.Name))
		}
	}
	j.times(t)
}

// times finds segments that begin earlier than one before them ends.
func (j *judge) times(t *archive.Timeline) {
	ended := slices.Clone(t.Segments)
	slices.SortStableFunc(ended, func(a, b archive.Segment) int { return cmp.Compare(a.To, b.To) })
	var latest archive.Segment // of those that end before the one that is looked at
	for _, s := range t.Segments {
		for len(ended) > 0 && ended[0].To <= s.From {
			if ended[0].Time1 >= latest.Time1 {
				latest = ended[0]
			}
			ended = ended[1:]
		}
		if s.Time0 < latest.Time1 {
			j.find(t.Timeline, j.path(t, s.Name), fmt.Sprintf("it begins at %s, and %s before it ends at %s: times must not fall", s.Time0, latest.Name, latest.Time1),
				"no bytes, but a restore to a time in there may end at another moment", nil)
		}
	}
}

// cuts tells of segments that go on over a snapshot's offset. They are as good as others, but nothing
// of them can go before all of it can; a daemon cuts them when it joins them.
func (j *judge) cuts(t *archive.Timeline) {
	for _, s := range t.Segments {
		i, _ := slices.BinarySearchFunc(t.Snapshots, s.From+1, func(snap archive.Snapshot, at stream.Offset) int { return cmp.Compare(snap.Offset, at) })
		if i < len(t.Snapshots) && t.Snapshots[i].Offset < s.To {
			j.notef("%s goes on over offset %d, which has a snapshot: the log is to be cut there", j.path(t, s.Name), t.Snapshots[i].Offset)
		}
	}
}

// continuity finds what is missing between the files, and tells what is missing for a reason.
func (j *judge) continuity(t *archive.Timeline) {
	gaps, err := j.cat.Gaps(t)
	if err != nil {
		return // birth has told, of this one or of a parent
	}
	var told []archive.Gap
	if t.Parent != nil {
		if parent := j.cat.Timeline(t.Parent.Timeline); parent != nil {
			told, _ = j.cat.Gaps(parent) // an error would have been that of t
		}
	}
	causes := map[string][]stream.Range{} // of what is missing for a reason
	for _, g := range gaps {
		if !g.Missing || slices.Contains(told, g) {
			continue // told of the parent
		}
		missing := stream.Range{From: g.From.Offset, To: g.To.Offset}
		if !g.Unexplained {
			causes[g.Cause] = append(causes[g.Cause], missing)
			continue
		}
		lost := j.lost(t, func(t *archive.Timeline) {
			t.Segments = append(t.Segments, archive.Segment{Range: missing, Time0: g.From.Time, Time1: g.To.Time})
			slices.SortStableFunc(t.Segments, func(a, b archive.Segment) int { return cmp.Or(cmp.Compare(a.From, b.From), cmp.Compare(b.To, a.To)) })
		}, nil)
		j.find(t.Timeline, j.path(t, "log"), fmt.Sprintf("offsets %d to %d are missing, and no event says why", missing.From, missing.To), costsNothing, lost)
	}
	for _, cause := range slices.Sorted(maps.Keys(causes)) {
		where := causes[cause]
		places := fmt.Sprintf("offsets %d to %d are missing", where[0].From, where[len(where)-1].To)
		if len(where) > 1 {
			places = fmt.Sprintf("between offsets %d and %d something is missing, in %d places", where[0].From, where[len(where)-1].To, len(where))
		}
		j.notef("%s: %s: %s", j.path(t, "log"), places, cause)
	}
	j.tail(t)
	windows, err := j.cat.Windows(t)
	if err == nil && len(windows) == 0 && len(t.Segments) > 0 && !slices.ContainsFunc(j.findings, func(f Finding) bool { return f.Timeline == t.Timeline }) {
		j.find(t.Timeline, j.path(t, "snapshots"), noSnapshot, costsAll, nil)
	}
}

// tail finds that the log ends earlier than it once did, by the events that say how far it was
// verified. Of the newest timeline, that is: others are let go from their ends.
func (j *judge) tail(t *archive.Timeline) {
	if t != j.cat.Timelines[len(j.cat.Timelines)-1] {
		return
	}
	end := t.End()
	for _, e := range slices.Backward(t.Events) { // by offset
		if e.Kind != archive.EventVerified || e.Offset <= end {
			continue
		}
		missing := stream.Range{From: end, To: e.Offset}
		lost := j.lost(t, func(t *archive.Timeline) {
			t.Segments = append(t.Segments, archive.Segment{Range: missing, Time0: e.Time, Time1: e.Time})
		}, nil)
		j.find(t.Timeline, j.path(t, "log"), fmt.Sprintf("it ends at offset %d, and at %s it was verified up to %d", end, e.Time, e.Offset), costsNothing, lost)
		return
	}
}
