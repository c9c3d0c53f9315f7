package retention

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/plan"
	"github.com/offloader/offloader/internal/stream"
)

// A simulated year: what a daemon writes goes into a store and into a catalog from which nothing
// is ever deleted. What can be restored by that, and is promised, must be there in the store
// whenever a prune ends, and wherever it was killed. That it can be is said by package plan.
type year struct {
	t      *rapid.T
	now    stream.Time
	end    stream.Offset // of what is written
	policy Policy
	all    *archive.Catalog // that there ever was
	pruned *memory
	cur    *line
	lines  []*line
	heard  stream.Time // the last byte of log, or, until there is log, the last snapshot
	log    bool        // there is some
	exempt map[string]bool
}

func (y *year) begin(o stream.Offset, parent *line) {
	l := newLine(y.t, y.pruned, y.now, o, "s", parent)
	l.all = y.all
	l.also(archive.Timeline{})
	if y.cur != nil {
		y.cur.say("ended", y.end, y.now)
	}
	y.cur, y.end = l, o
	y.lines = append(y.lines, l)
	y.now += minute
}

func (y *year) snapshot() {
	y.cur.snapshot(y.end, y.now)
	if !y.log {
		y.heard = y.now
	}
}

// write adds the log of some hours: small segments, of which some are compacted, and sometimes
// one of them is missing.
func (y *year) write(d stream.Time) {
	n := rapid.IntRange(1, 3).Draw(y.t, "segments")
	from, began := y.end, y.now
	for range n {
		to, over := y.end+10, y.now+d/stream.Time(n)
		if rapid.IntRange(0, 40).Draw(y.t, "hole") != 0 {
			y.cur.segment(y.end, to, y.now, over-1)
			y.heard, y.log = over-1, true
		}
		y.end, y.now = to, over
	}
	if rapid.IntRange(0, 3).Draw(y.t, "compacted") == 0 {
		y.cur.segment(from, y.end, began, y.now-1)
		y.heard, y.log = y.now-1, true
	}
}

func (y *year) step() {
	y.now += minute
	switch rapid.SampledFrom([]string{"log", "log", "log", "log", "snapshot", "snapshot", "outage", "branch", "failover", "resync", "suspect", "release", "pin", "unpin"}).Draw(y.t, "step") {
	case "log":
		y.write(stream.Time(rapid.IntRange(1, 20).Draw(y.t, "hours")) * hour)
	case "snapshot":
		y.snapshot()
	case "outage":
		from := y.now
		y.now += stream.Time(rapid.IntRange(1, 300).Draw(y.t, "hours")) * hour
		y.cur.event(archive.Event{Kind: archive.EventOutage, Offset: y.end, From: from, Time: y.now})
	case "branch":
		y.begin(y.end, y.cur)
	case "failover":
		o := max(y.cur.info.Offset, y.end-stream.Offset(rapid.IntRange(0, 25).Draw(y.t, "lost")))
		// No failover goes back by more than the window, which is what the manual says of it.
		held := y.reach(y.pruned, y.cur.name(), plan.Point{Kind: plan.ByOffset, Offset: o}) != ""
		if parent := y.cur; o < y.end && held {
			y.cur.event(archive.Event{Kind: archive.EventLost, Offset: o, To: y.end, Time: y.now})
			y.begin(o, parent)
		}
	case "resync", "suspect":
		suspect := rapid.IntRange(0, 3).Draw(y.t, "suspect") == 0
		y.begin(stream.Offset(rapid.IntRange(0, 1000).Draw(y.t, "offset"))*10, nil)
		y.snapshot()
		if suspect {
			y.cur.say("suspect", y.end, y.now)
		}
	case "release":
		for _, t := range y.all.Timelines {
			if t.Suspect() || len(t.Lost()) > 0 {
				y.of(t).say("release", t.End(), y.now)
			}
		}
	case "pin":
		l := rapid.SampledFrom(y.lines).Draw(y.t, "timeline")
		t := load(y.t, y.pruned).Timeline(l.name())
		if t == nil || t.End() == t.Offset {
			return
		}
		o := stream.Offset(rapid.Int64Range(int64(t.Offset), int64(t.End())).Draw(y.t, "offset"))
		if y.reach(y.pruned, t.Timeline, plan.Point{Kind: plan.ByOffset, Offset: o}) != "" {
			l.say("pin", o, y.now)
		}
	case "unpin":
		for _, t := range load(y.t, y.pruned).Timelines {
			for _, pin := range t.Pins() {
				y.of(t).say("unpin", pin.Offset, y.now)
			}
		}
	}
}

func (y *year) of(t *archive.Timeline) *line {
	i := slices.IndexFunc(y.lines, func(l *line) bool { return l.name() == t.Timeline })
	l := *y.lines[i]
	if load(y.t, y.pruned).Timeline(t.Timeline) == nil {
		l.m = nil // nobody can say anything to it any more
	}
	return &l
}

// reach says to what a point leads, "" if it can't be restored.
func (y *year) reach(m *memory, timeline string, p plan.Point) string {
	return reach(load(y.t, m), timeline, p, y.now)
}

// inside is said of a point that has to be looked for. The same may be known by names alone, once
// less is held.
const inside = "inside a segment"

func reach(cat *archive.Catalog, timeline string, p plan.Point, now stream.Time) string {
	if timeline != "" && cat.Timeline(timeline) == nil {
		return ""
	}
	aim, err := plan.Choose(cat, plan.Request{Point: p, Timeline: timeline, Now: now + day})
	if err != nil {
		return ""
	}
	at := aim.At
	if _, err := aim.Plan(at.Offset, at.Time); err != nil {
		return ""
	}
	if len(aim.Search) > 0 {
		return inside
	}
	return fmt.Sprintf("%s %d", aim.Timeline.Timeline, at.Offset)
}

// promised are the points that must be restorable, by timeline: those of them that ever were.
func (y *year) promised() map[string]bool {
	cat := y.all
	points := map[string]bool{}
	add := func(timeline string, p plan.Point, why string) {
		if got := reach(cat, timeline, p, y.now); got != "" {
			points[fmt.Sprintf("%s|%d|%d|%d|%s|%s", timeline, p.Kind, p.Time, p.Offset, got, why)] = true
		}
	}
	from := min(y.now, y.heard) - stream.Time(y.policy.Window.Milliseconds())
	var snapshots []placed
	for i, t := range cat.Timelines {
		for _, s := range t.Segments {
			for _, at := range []stream.Time{s.Time0, (s.Time0 + s.Time1) / 2, s.Time1} {
				if at >= from {
					add(t.Timeline, plan.Point{Kind: plan.ByTime, Time: at}, "window")
				}
			}
		}
		if lastHeard(t) >= from {
			add(t.Timeline, plan.Point{Kind: plan.ByTime, Time: from}, "the window's begin")
		}
		for _, lost := range t.Lost() {
			for o := lost.Offset; o <= t.End(); o += 5 {
				add(t.Timeline, plan.Point{Kind: plan.ByOffset, Offset: o}, "lost")
			}
		}
		if t.Suspect() {
			y.exempt[t.Timeline] = true
			if i > 0 {
				y.exempt[cat.Timelines[i-1].Timeline] = true
			}
		} else {
			for _, s := range t.Snapshots {
				snapshots = append(snapshots, placed{s, t})
			}
		}
	}
	for _, t := range load(y.t, y.pruned).Timelines {
		for _, pin := range t.Pins() {
			add(t.Timeline, plan.Point{Kind: plan.ByOffset, Offset: pin.Offset}, "pin")
		}
	}
	slices.SortStableFunc(snapshots, func(a, b placed) int { return int(a.Time - b.Time) })
	last := map[string]placed{}
	for i, s := range snapshots {
		if i >= len(snapshots)-max(1, y.policy.Minimum) {
			add(s.timeline.Timeline, plan.Point{Kind: plan.ByOffset, Offset: s.Offset}, "minimum")
		}
		if s.Time < from {
			for _, layout := range []string{"h 2006-01-02 15", "d 2006-01-02", "m 2006-01"} {
				last[s.Time.Go().Format(layout)] = s
			}
			day := s.Time.Go()
			last["w "+day.AddDate(0, 0, -(int(day.Weekday())+6)%7).Format("2006-01-02")] = s // by its Monday
		}
	}
	for kind, n := range map[string]int{"h ": y.policy.Hourly, "d ": y.policy.Daily, "w ": y.policy.Weekly, "m ": y.policy.Monthly} {
		periods := slices.Sorted(maps.Keys(last))
		periods = slices.DeleteFunc(periods, func(p string) bool { return !strings.HasPrefix(p, kind) })
		for _, p := range periods[max(0, len(periods)-n):] {
			s := last[p]
			add(s.timeline.Timeline, plan.Point{Kind: plan.ByOffset, Offset: s.Offset}, p)
		}
	}
	if aim, err := plan.Choose(cat, plan.Request{}); err == nil {
		add(aim.Timeline.Timeline, plan.Point{Kind: plan.ByOffset, Offset: aim.At.Offset}, "latest")
	}
	return points
}

// check finds all that is promised in what is left.
func (y *year) check(points map[string]bool, what string) {
	left := load(y.t, y.pruned)
	for key := range points {
		f := strings.SplitN(key, "|", 6)
		var p plan.Point
		_, err := fmt.Sscan(f[1]+" "+f[2]+" "+f[3], &p.Kind, &p.Time, &p.Offset)
		require.NoError(y.t, err)
		if got := reach(left, f[0], p, y.now); got != f[4] && (got == "" || f[4] != inside) {
			y.t.Fatalf("%s: %s: the point %s of timeline %q led to %q and leads to %q", what, f[5], p, f[0], f[4], got)
		}
	}
	for _, t := range left.Timelines {
		_, err := left.Windows(t)
		require.NoError(y.t, err, what)
		for _, s := range t.Snapshots {
			require.NotEmpty(y.t, s.Name)
		}
	}
	for name := range y.pruned.files {
		if strings.Contains(name, "/snapshots/") && strings.HasSuffix(name, ".json") {
			require.NotNil(y.t, y.pruned.files[strings.TrimSuffix(name, ".json")+".rdb.zst"], "%s: half of %s is shown", what, name)
		}
	}
}

var errKilled = errors.New("killed")

// prune runs as often as it is killed, and once more.
func (y *year) prune() {
	clear(y.exempt)
	points := y.promised()
	before := maps.Clone(y.pruned.files)
	for range rapid.IntRange(0, 2).Draw(y.t, "kills") {
		n := rapid.IntRange(0, 30).Draw(y.t, "killed after")
		y.pruned.refuse = func(string) error {
			if n--; n < 0 {
				return errKilled
			}
			return nil
		}
		_, err := Run(y.t.Context(), y.pruned, "cache", y.policy, y.now)
		if err != nil {
			require.ErrorIs(y.t, err, errKilled)
		}
		y.pruned.refuse = nil
		y.check(points, "killed")
		y.now += 7
	}
	r, err := Run(y.t.Context(), y.pruned, "cache", y.policy, y.now)
	require.NoError(y.t, err)
	y.check(points, "pruned")
	for name := range before {
		if timeline := strings.Split(name, "/")[1]; y.exempt[timeline] && !strings.Contains(name, "/events/") {
			require.NotNil(y.t, y.pruned.files[name], "%s is suspect, or came before what is", name)
		}
	}
	d, err := look(y.t.Context(), y.pruned, "cache", y.policy, y.now)
	require.NoError(y.t, err)
	if len(d.Going) > 0 {
		for _, f := range r.Files {
			fmt.Println(f)
		}
		fmt.Println(r.From, d.From, r.Notes, y.policy, y.now)
	}
	require.Empty(y.t, d.Going, "a prune leaves nothing for the next")
}

func newYear(t *rapid.T) *year {
	y := &year{t: t, now: epoch, all: &archive.Catalog{Source: "cache"}, pruned: newMemory(), exempt: map[string]bool{}}
	few := rapid.IntRange(0, 4)
	y.policy = Policy{
		Window: time.Duration(rapid.IntRange(0, 200).Draw(t, "window")) * time.Hour,
		Hourly: few.Draw(t, "hourly"), Daily: few.Draw(t, "daily"), Weekly: few.Draw(t, "weekly"), Monthly: few.Draw(t, "monthly"), Minimum: few.Draw(t, "minimum"),
	}
	y.begin(0, nil)
	y.snapshot()
	return y
}

// Whatever a store keeps, a rehearsal changes nothing, and tells what the prune after it does.
func TestARehearsalIsTrue(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		y := newYear(t)
		for range rapid.IntRange(1, 100).Draw(t, "steps") {
			y.step()
		}
		why := rapid.SampledFrom([]error{locked{at(1000).Go()}, archive.ErrKept, fs.ErrPermission}).Draw(t, "why")
		each := rapid.Uint32Range(1, 9).Draw(t, "of so many files one is kept")
		y.pruned.refuse = func(name string) error {
			if crc32.ChecksumIEEE([]byte(name))%each == 0 {
				return why
			}
			return nil
		}
		before := maps.Clone(y.pruned.files)
		told, err := Rehearse(t.Context(), y.pruned, "cache", y.policy, y.now)
		require.NoError(t, err)
		require.Equal(t, before, y.pruned.files)
		did, err := Run(t.Context(), y.pruned, "cache", y.policy, y.now)
		require.NoError(t, err)
		for _, f := range told.Going {
			_, there := y.pruned.files[f.Name]
			require.Equal(t, !there, told.Gone(f), f.Name)
			require.Equal(t, did.Tried(f), told.Tried(f), f.Name)
		}
		require.Equal(t, []any{did.Deleted, did.Freed, did.Kept, did.Refused}, []any{told.Deleted, told.Freed, told.Kept, told.Refused})
	})
}

func TestAYear(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		y := newYear(t)
		lengths := []float64{10, 10, 20, 20, 20, 30, 30, 60, 60, 365}
		if raceEnabled {
			lengths = append(slices.Repeat([]float64{5, 10, 15}, 8), 365)
		}
		for end := at(rapid.SampledFrom(lengths).Draw(t, "days")); y.now < end; {
			for range rapid.IntRange(1, 20).Draw(t, "steps") {
				y.step()
			}
			y.prune()
		}
	})
}
