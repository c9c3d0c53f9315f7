package source

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/offloader/offloader/internal/amnesia"
	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/durable"
	"github.com/offloader/offloader/internal/rdbwalk"
	"github.com/offloader/offloader/internal/resp"
	"github.com/offloader/offloader/internal/spool"
	"github.com/offloader/offloader/internal/stream"
	"github.com/offloader/offloader/internal/syncer"
)

const (
	// guardFile keeps in the spool what the master is known to hold, so that a daemon that is restarted together
	// with its master knows it. It is a cache: without it the newest snapshot tells.
	guardFile  = "keyspace.json"
	watchEvery = time.Second
	// A look that failed is made again after a while: it costs nothing but exactness.
	lookAgain = 10 * time.Second
	// saveEvery is how often what has changed a little is kept; what has changed by a tenth is kept at once.
	saveEvery = time.Minute
	// maxIDs bounds how many replication ids of a timeline are remembered.
	maxIDs = 64
)

// guard is what the master is known to hold, of the newest timeline.
type guard struct {
	path string // of guardFile
	log  *slog.Logger

	mu     sync.Mutex
	memory memory
	weak   string // why INFO doesn't tell, "" where it does
	unsure bool   // guardFile was lost: only the stores know whether the timeline is suspect

	saving sync.Mutex // held while guardFile is written
	saved  time.Time
	kept   memory // what it has
	told   bool   // that it can't be written: it is tried each second
}

// memory is what guardFile holds.
type memory struct {
	Timeline  string          `json:"timeline"`
	Known     amnesia.Known   `json:"known"`
	From      stream.Offset   `json:"from"` // a boundary at or before Known.Offset, from where on the stream is searched for what empties it
	IDs       []stream.ReplID `json:"ids"`  // the timeline's, the last one last
	Suspicion *Suspicion      `json:"suspicion,omitempty"`
}

// open reads what an earlier daemon has left of the timeline t, the newest; nil for none.
func (g *guard) open(t *spool.Timeline) {
	if t == nil {
		return
	}
	var m memory
	b, err := os.ReadFile(g.path)
	if err == nil {
		err = json.Unmarshal(b, &m)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		g.log.Warn("what the master was known to hold can't be read: the newest snapshot tells", "file", g.path, "error", err)
	}
	info := t.Info()
	lost := err != nil || m.Timeline != info.Timeline
	if lost { // it died between the timeline's beginning and our note of it
		m = memory{Timeline: info.Timeline, IDs: []stream.ReplID{info.ReplID}}
		if m.Suspicion, err = suspicionOf(t); err != nil {
			g.log.Error("whether the timeline is suspect can't be read", "timeline", info.Timeline, "error", err)
		}
	}
	m.IDs = withID(m.IDs, t.ReplID())
	g.saving.Lock()
	g.kept = m
	g.saving.Unlock()
	g.mu.Lock()
	g.memory, g.unsure = m, lost && m.Suspicion == nil
	g.mu.Unlock()
}

// begin forgets what was known: a timeline has begun.
func (g *guard) begin(m memory) {
	g.mu.Lock()
	g.memory, g.unsure = m, false
	g.mu.Unlock()
	g.save(time.Now())
}

// change changes what is known of a timeline, if it is the newest, and keeps it where that is worth it.
func (g *guard) change(timeline string, f func(*memory)) {
	g.mu.Lock()
	if g.memory.Timeline == timeline {
		f(&g.memory)
	}
	g.mu.Unlock()
	g.save(time.Now())
}

// renamed takes note of a timeline's new name.
func (g *guard) renamed(was, is string) {
	g.change(was, func(m *memory) {
		m.Timeline = is
		if m.Suspicion != nil {
			sus := *m.Suspicion
			sus.Timeline = is
			m.Suspicion = &sus
		}
	})
}

// save keeps what is known, if it differs enough from what was kept.
func (g *guard) save(now time.Time) {
	g.saving.Lock()
	defer g.saving.Unlock()
	m, _ := g.get()
	if g.path == "" || !m.differs(g.kept, now.Sub(g.saved)) {
		return
	}
	b, err := json.MarshalIndent(m, "", "  ")
	if err == nil {
		err = durable.WriteFile(g.path, append(b, '\n'))
	}
	switch {
	case err == nil:
		g.kept, g.saved = m, now
	case !g.told:
		g.log.Error("what the master is known to hold won't survive a restart until this can be written", "error", err)
	}
	g.told = err != nil
}

// differs tells whether m is worth keeping in place of what was kept some time ago.
func (m memory) differs(kept memory, after time.Duration) bool {
	was, is := kept.Known.Total(), m.Known.Total()
	switch {
	case m.Timeline != kept.Timeline, !slices.Equal(m.IDs, kept.IDs), m.Suspicion != kept.Suspicion, m.Known.RunID != kept.Known.RunID:
		return true
	case was == is: // what is searched for what emptied it shall not grow
		return m.From != kept.From && after >= saveEvery
	}
	return was <= 0 || is == 0 || max(was-is, is-was) > was/10 || after >= saveEvery
}

// get is what is known now.
func (g *guard) get() (m memory, weak string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.memory, g.weak
}

// sure takes note that the stores have told whether the timeline is suspect.
func (g *guard) sure() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.unsure = false
}

func (g *guard) isUnsure() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.unsure
}

func (g *guard) weaken(why string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.weak = why
}

// counted takes note of an RDB that was counted at an offset, unless INFO has told of a later one.
func (g *guard) counted(timeline string, info archive.SnapshotInfo) {
	if info.Unchecked != "" {
		return
	}
	g.change(timeline, func(m *memory) {
		if m.Known.Keys == nil || m.Known.Offset < info.Offset {
			m.Known, m.From = knownOf(info), info.Offset
		}
	})
}

// countOf is what is known of a dataset that came whole: by count, or else by what the master told of itself.
func countOf(info archive.SnapshotInfo, m syncer.Master) amnesia.Known {
	k := knownOf(info)
	if info.Unchecked != "" {
		k.Keys = m.Keys
	}
	return k
}

// knownOf is what the sidecar of a snapshot says.
func knownOf(info archive.SnapshotInfo) amnesia.Known {
	k := amnesia.Known{Keys: map[int]int64{}, Offset: info.Offset, Time: info.Time}
	for name, n := range info.Keys {
		if db, err := strconv.Atoi(name); err == nil {
			k.Keys[db] = n
		}
	}
	return k
}

func withID(ids []stream.ReplID, id stream.ReplID) []stream.ReplID {
	ids = append(slices.DeleteFunc(slices.Clone(ids), func(o stream.ReplID) bool { return o == id }), id)
	return ids[max(0, len(ids)-maxIDs):]
}

// look is what the master has said, and counts when the link has outlived it: a server that is about to be emptied
// by its own master still answers under the old id.
type look struct {
	timeline  string
	connected time.Time // the link's connection
	from      stream.Offset
	known     amnesia.Known
	replicas  []string
}

// watch asks the master every second how much it holds, for as long as its link streams.
func (s *Source) watch(ctx context.Context) error {
	w := syncer.NewWatch(s.o.Link)
	defer w.Close()
	every := time.NewTicker(watchEvery)
	defer every.Stop()
	var last *look
	var next, beside time.Time // beside the link's connection that was made at beside it isn't asked before next
	for {
		var now time.Time
		select {
		case <-ctx.Done():
			return ctx.Err()
		case now = <-every.C:
		}
		st := s.link.Status()
		s.mu.Lock()
		cur := s.cur
		s.mu.Unlock()
		if st.Phase != syncer.Streaming || cur == nil {
			last = nil
			w.Close()
			continue
		}
		if last != nil && last.connected.Equal(st.Connected) {
			s.guard.change(last.timeline, func(m *memory) { m.Known, m.From = last.known, last.from })
			s.peers.change(func(c *company) { c.Replicas = last.replicas })
			s.peers.save()
		}
		if !st.Connected.Equal(beside) { // the server may be another process by now, which is asked at once
			w.Close()
			beside, next = st.Connected, time.Time{}
		}
		if last = nil; now.Before(next) {
			continue
		}
		var why string
		if last, why = s.lookAtMaster(ctx, w, cur, st); why != "" {
			next = now.Add(lookAgain)
		}
		s.guard.weaken(why)
	}
}

// lookAtMaster asks once, or says why nothing can be learnt.
func (s *Source) lookAtMaster(ctx context.Context, w *syncer.Watch, cur *spool.Timeline, st syncer.Status) (*look, string) {
	if !st.Master.Permitted {
		return nil, "INFO is not permitted"
	}
	l := look{timeline: cur.Info().Timeline, connected: st.Connected, from: cur.Boundary().Offset} // before the master is asked
	m, err := w.Look(ctx)
	switch {
	case err != nil:
		return nil, "INFO can't be asked: " + err.Error()
	case !m.Permitted || m.Keys == nil:
		return nil, "INFO is not permitted"
	case m.ReplID != cur.ReplID():
		return nil, "what answers INFO has another replication id than the link"
	}
	l.known = amnesia.Known{Keys: m.Keys, Offset: m.Offset, Time: stream.TimeOf(time.Now()), RunID: m.RunID}
	l.replicas = slices.DeleteFunc(m.Replicas, s.isUs)
	slices.Sort(l.replicas)
	return &l, ""
}

// known is what t was last known to hold, with what its stream has emptied since.
func (s *Source) known(t *spool.Timeline) amnesia.Known {
	m, _ := s.guard.get()
	k, from := m.Known, m.From
	if m.Timeline != t.Info().Timeline || k.Keys == nil {
		info, ok := s.newestCount(t)
		if !ok {
			return amnesia.Known{}
		}
		k, from = knownOf(info), info.Offset
	}
	r := stream.Range{From: max(from, t.Trimmed()), To: t.Boundary().Offset}
	if r.Len() <= 0 {
		return k
	}
	reader, err := t.Reader(r)
	if err == nil {
		err = eachCommand(reader, r.From, func(c *resp.Command) error { k = k.After(c); return nil })
	}
	if err != nil {
		s.log.Warn("what the master emptied on purpose can't be read in the spool", "timeline", t.Info().Timeline, "range", r.String(), "error", err)
	}
	return k
}

// newestCount is the sidecar of the newest snapshot of t, or of what t continues: in the spool, or in the stores.
func (s *Source) newestCount(t *spool.Timeline) (info archive.SnapshotInfo, ok bool) {
	held, err := t.Snapshots()
	if err == nil && len(held) > 0 && held[len(held)-1].Unchecked == "" {
		return held[len(held)-1].SnapshotInfo, true
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cat, err := s.united(ctx)
	if cat == nil {
		s.log.Warn("how much the master held is not known: no store answers", "error", err)
		return info, false
	}
	stored := cat.Timeline(t.Info().Timeline)
	if stored == nil {
		return info, false
	}
	return countIn(ctx, cat, stored)
}

// countIn is newestCount of a catalog.
func countIn(ctx context.Context, cat *archive.Catalog, t *archive.Timeline) (info archive.SnapshotInfo, ok bool) {
	parts, _ := cat.Chain(t) // those that there are
	for _, p := range slices.Backward(parts) {
		for _, snap := range slices.Backward(p.Timeline.Snapshots) {
			if snap.Offset > p.To {
				continue // behind where the next one leaves it
			}
			if info, err := snap.Info(ctx); err == nil && info.Unchecked == "" {
				return info, true
			}
		}
	}
	return info, false
}

// keysOf are those of an RDB that came whole, as far as it could be counted; else what the master told of itself.
func keysOf(sum rdbwalk.Summary, m syncer.Master) int64 {
	if sum.Unchecked == "" {
		return sum.Keys
	}
	return amnesia.Known{Keys: m.Keys}.Total()
}
