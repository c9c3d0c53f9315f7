package verify

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"time"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/engine"
	"github.com/offloader/offloader/internal/plan"
	"github.com/offloader/offloader/internal/rdbwalk"
	"github.com/offloader/offloader/internal/replay"
	"github.com/offloader/offloader/internal/stream"
)

// BootOptions say what an engine is to load, and which engine.
type BootOptions struct {
	Source string
	Load   func(context.Context) (*archive.Catalog, error)
	// Event reads an event of which a catalog has only the name.
	Event func(ctx context.Context, timeline string, name archive.EventName) (archive.Event, error)
	// Point is to be reached too, behind the last count before it; nil: the last count there is.
	Point    *plan.Point
	Timeline string            // "": chosen by the point
	Engines  map[string]string // programs that a configuration names, by product
	Logger   *slog.Logger
	// Progress is told how many bytes of how many an engine got, nil for nobody.
	Progress func(done, total int64)
}

// Who counted the keys that an engine is to hold.
const (
	ByMaster   = "master"   // INFO, at that offset
	BySnapshot = "snapshot" // ourselves, when its RDB came in: of the log it proves nothing
)

// Booted is what came of it. Its JSON is that of `offloader verify --boot --json`.
type Booted struct {
	Source   string           `json:"source"`
	Timeline string           `json:"timeline"`
	Offset   stream.Offset    `json:"offset"` // where it was counted
	Time     stream.Time      `json:"time"`
	By       string           `json:"counted_by"`
	Counted  map[string]int64 `json:"counted"` // keys by database, those that have any
	Keys     map[string]int64 `json:"keys"`    // of the engine
	Snapshot stream.Offset    `json:"snapshot"`
	Bytes    int64            `json:"bytes"` // of RDB and stream, that it replayed
	To       *plan.Place      `json:"to"`    // that it came to then, null where nothing more was asked for
	Engine   string           `json:"engine"`
	Program  string           `json:"program"`
	Began    stream.Time      `json:"began"`
	Seconds  float64          `json:"seconds"`
	Notes    []string         `json:"notes"`
}

// Event is what is noted in the archive of a success, at a moment.
func (b *Booted) Event(now stream.Time) archive.Event {
	return archive.Event{Kind: archive.EventBooted, Offset: b.Offset, From: b.Began, Time: now, Counts: b.Counted, Note: b.Engine}
}

// A CountError says that an engine holds something else than it is to hold: the archive is damaged.
type CountError struct {
	Booted *Booted
	What   string
}

func (e *CountError) Error() string {
	return fmt.Sprintf("the archive is damaged: at offset %d of timeline %s %s", e.Booted.Offset, e.Booted.Timeline, e.What)
}

// Hint says what to do about it.
func (e *CountError) Hint() string {
	return "keep the master's own persistence on. `offloader verify` reads every file, and may name the one; a script that keeps writes from replicas (redis.set_repl) makes such a difference too"
}

// Boot has an engine replay the archive up to an offset at which it is known how many keys there were, and counts
// them. The error is a *CountError where they differ; the Booted then says how.
func Boot(ctx context.Context, o BootOptions) (*Booted, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	began := time.Now()
	b := &boot{o: &o, Booted: Booted{Source: o.Source, Began: stream.TimeOf(began), Notes: []string{}}}
	err := b.run(ctx)
	b.Seconds = time.Since(began).Seconds()
	return &b.Booted, err
}

// boot is one at work.
type boot struct {
	Booted
	o     *BootOptions
	total int64 // of bytes that the engine is going to get
	used  int64 // what the master took for the dataset when it wrote the snapshot
}

func (b *boot) run(ctx context.Context) error {
	point := plan.Point{Kind: plan.Latest}
	if b.o.Point != nil {
		point = *b.o.Point
	}
	end, err := b.find(ctx, point, b.o.Timeline, nil)
	if err != nil {
		return err
	}
	start, err := b.count(ctx, end)
	if err != nil {
		return err
	}
	e, err := b.engine(ctx, start)
	if err != nil {
		return err
	}
	defer e.Close()
	b.total = start.Info.Bytes + start.StreamBytes()
	if b.o.Point != nil {
		b.total += int64(end.To.Offset - start.To.Offset)
	}
	if err := b.replay(ctx, e, start); err != nil {
		return err
	}
	if b.Keys, err = e.Keys(ctx); err != nil {
		return err
	}
	if what := b.different(); what != "" {
		return &CountError{&b.Booted, what}
	}
	if b.o.Point != nil && end.To.Offset > b.Offset {
		if err := b.replay(ctx, e, end); err != nil {
			return err
		}
		b.To = &end.To
	}
	if woes := e.Complaints(); len(woes) > 0 {
		return e.Fail(fmt.Sprintf("it holds as many keys as it should, and could not do all that the master did: %s", woes[0]))
	}
	return nil
}

// find finds a point, exactly, and looks at what leads there.
func (b *boot) find(ctx context.Context, point plan.Point, timeline string, look func(context.Context, *replay.Replay) error) (found *replay.Replay, err error) {
	request := plan.Request{Point: point, Timeline: timeline, Now: stream.TimeOf(time.Now())}
	err = replay.Run(ctx, b.o.Load, request, func(ctx context.Context, r *replay.Replay) error {
		found = r
		if look == nil {
			return nil
		}
		return look(ctx, r)
	})
	if err == nil {
		for _, n := range found.Notes {
			if !slices.Contains(b.Notes, n) {
				b.Notes = append(b.Notes, n)
			}
		}
	}
	return found, err
}

// count finds the last offset at which the master was counted, up to end where a point was asked for, and what
// leads there. Where there is none, or retention has let go of the log that leads there, it is the offset of the
// snapshot. A count behind all that is held says that something is missing: no store has it before the log up to it.
func (b *boot) count(ctx context.Context, end *replay.Replay) (*replay.Replay, error) {
	cat, err := b.o.Load(ctx)
	if err != nil {
		return nil, err
	}
	timeline := end.Timeline.TimelineInfo.Timeline
	before := stream.Offset(math.MaxInt64)
	if b.o.Point != nil {
		before = end.To.Offset
	}
	t, e := lastCount(cat, timeline, before)
	if e != nil {
		start, err := b.find(ctx, plan.Point{Kind: plan.ByOffset, Offset: e.Offset}, timeline, b.measure)
		switch {
		case err == nil:
			if len(e.Counts) == 0 {
				read, err := b.o.Event(ctx, t.TimelineInfo.Timeline, archive.EventName{Offset: e.Offset, Time: e.Time, Kind: e.Kind})
				if err != nil {
					return nil, fmt.Errorf("read how many keys the master had at offset %d: %w", e.Offset, err)
				}
				e = &read
			}
			b.By, b.Counted = ByMaster, e.Counts
			b.at(start)
			return start, nil
		case !errors.As(err, new(*plan.UnreachableError)), e.Offset >= t.Pruned():
			return nil, err
		}
	}
	b.By, b.Counted = BySnapshot, end.Info.Keys
	if end.Info.Unchecked != "" {
		return nil, fmt.Errorf("there is nothing to compare with: no count of the master's up to offset %d, and the snapshot's keys were not counted (%s)", end.To.Offset, end.Info.Unchecked)
	}
	b.Notes = append(b.Notes, "the archive has no count of the master's that could be reached, so the snapshot alone was proved, and not the log. "+
		"A daemon notes one with each verify by schedule, and for a `offloader verify --boot` that can ask it")
	start, err := b.find(ctx, plan.Point{Kind: plan.ByOffset, Offset: end.From.Offset}, timeline, b.measure)
	if err == nil {
		b.at(start)
	}
	return start, err
}

// at takes note of where it is counted.
func (b *boot) at(start *replay.Replay) {
	b.Timeline, b.Offset, b.Time, b.Snapshot = start.To.Timeline, start.To.Offset, start.To.Time, start.From.Offset
	if b.Counted == nil {
		b.Counted = map[string]int64{}
	}
}

// lastCount is the last event, of a timeline and of what it continues, that says how many keys the master had at
// an offset up to end.
func lastCount(cat *archive.Catalog, timeline string, end stream.Offset) (of *archive.Timeline, last *archive.Event) {
	t := cat.Timeline(timeline)
	if t == nil {
		return nil, nil
	}
	parts, _ := cat.Chain(t) // what is damaged in it is in nobody's way here
	for n, p := range parts {
		to := end
		if n < len(parts)-1 { // what it has behind that belongs to another history
			to = min(end, p.To)
		}
		for i, e := range p.Timeline.Events {
			if e.Kind == archive.EventCounted && e.Damage == nil && p.From <= e.Offset && e.Offset <= to && (last == nil || e.Offset >= last.Offset) {
				of, last = p.Timeline, &p.Timeline.Events[i]
			}
		}
	}
	return of, last
}

// engine starts one that can load what leads to start.
func (b *boot) engine(ctx context.Context, start *replay.Replay) (*engine.Engine, error) {
	of := start.Timeline.TimelineInfo
	product := of.Engine
	if product == "" {
		product = start.Info.Engine
	}
	program, err := engine.Find(ctx, product, start.Info.RDBVersion, b.o.Engines)
	if err != nil {
		return nil, err
	}
	b.Engine, b.Program = program.String(), program.Path
	if of.Version != "" && of.Version != program.Version {
		b.Notes = append(b.Notes, fmt.Sprintf("the master was %s %s when the timeline began, the scratch engine is %s", of.Engine, of.Version, program))
	}
	most, err := engine.Room(b.dataset(start.Info.Keys))
	if err != nil {
		return nil, err
	}
	o := engine.Options{Memory: most}
	for db := range b.Counted {
		var n int
		if _, err := fmt.Sscan(db, &n); err == nil {
			o.Databases = max(o.Databases, n+1)
		}
	}
	return engine.Start(ctx, program, o)
}

// measure finds out how much memory the master took for the dataset, which stands before the first key.
func (b *boot) measure(ctx context.Context, start *replay.Replay) error {
	rdb, err := start.RDB(ctx)
	if err != nil {
		return err
	}
	w := rdbwalk.NewWalker(rdb)
	for w.Next() && w.Summary().Keys == 0 && w.Summary().UsedMem == 0 {
	}
	if b.used = w.Summary().UsedMem; b.used == 0 { // it doesn't say
		b.used = 3 * start.Info.Bytes
	}
	err = w.Err()
	if errors.As(err, new(*rdbwalk.FormatError)) || errors.As(err, new(*rdbwalk.UnknownError)) {
		err = nil // that is for the engine to judge
	}
	return errors.Join(err, rdb.Close())
}

// dataset is how much memory it takes at the count: more than the snapshot, by as much as there are more keys.
func (b *boot) dataset(snapshot map[string]int64) int64 {
	if before, now := total(snapshot), total(b.Counted); before > 0 && now > before {
		return int64(float64(b.used) * float64(now) / float64(before))
	}
	return b.used
}

func total(keys map[string]int64) (n int64) {
	for _, k := range keys {
		n += k
	}
	return n
}

// different says what the engine holds that was counted otherwise, "" for nothing.
func (b *Booted) different() string {
	who := "the master had"
	if b.By == BySnapshot {
		who = "its snapshot was counted to have"
	}
	for _, keys := range []map[string]int64{b.Counted, b.Keys} {
		for _, db := range sorted(keys) {
			if b.Keys[db] != b.Counted[db] {
				return fmt.Sprintf("%s holds %d keys in database %s, and %s %d", b.Engine, b.Keys[db], db, who, b.Counted[db])
			}
		}
	}
	return ""
}
