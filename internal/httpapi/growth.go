package httpapi

import (
	"math"
	"sync"
	"time"

	"github.com/offloader/offloader/internal/stream"
)

const (
	sampleEvery = time.Minute
	samples     = 60 // an hour of them
)

// sample is a number at an instant.
type sample struct {
	at time.Time
	v  float64
}

// growth is how fast a number grew over the last hour, or since the first look.
type growth struct{ kept []sample } // oldest first, at least sampleEvery apart

// perSecond looks at the number as it is now. It is 0 until so much time has passed since the first
// look.
func (g *growth) perSecond(now sample, atLeast time.Duration) float64 {
	if n := len(g.kept); n == 0 || now.at.Sub(g.kept[n-1].at) >= sampleEvery {
		if n == samples {
			g.kept = append(g.kept[:0], g.kept[1:]...)
		}
		g.kept = append(g.kept, now)
	}
	first := g.kept[0]
	if d := now.at.Sub(first.at); d >= atLeast {
		return (now.v - first.v) / d.Seconds()
	}
	return 0
}

// flow is how many bytes a source's stream brings. Its offsets begin elsewhere with each timeline.
type flow struct {
	growth
	timeline string
	last     stream.Offset
	total    float64
}

// perSecond looks at the source as it is now.
func (f *flow) perSecond(s Source, now time.Time) float64 {
	if s.Timeline == f.timeline {
		f.total += float64(max(0, s.Received-f.last)) // a link that broke begins again at the boundary before
	}
	f.timeline, f.last = s.Timeline, s.Received
	return f.growth.perSecond(sample{now, f.total}, time.Second)
}

// growing is everything whose growth is shown.
type growing struct {
	disks []Disk

	mu    sync.Mutex
	flows map[string]*flow // by source
	spool growth
	taken []growth // of disks: bytes that are not free
}

func newGrowing(disks []Disk) *growing {
	return &growing{disks: disks, flows: map[string]*flow{}, taken: make([]growth, len(disks))}
}

// outlook is what growth means.
type outlook struct {
	streamPerDay map[string]float64 // bytes, by source
	spoolFull    float64            // seconds until the spool is; +Inf while it doesn't grow
	disks        []diskOutlook      // as Options.Disks
}

// diskOutlook is how long a disk lasts.
type diskOutlook struct {
	known bool    // the system told
	free  float64 // bytes
	full  float64 // seconds until it counts as full; +Inf while it doesn't grow
}

// look takes what is there now, and tells what will be if it goes on as it did for the last hour.
// used and most are the spool's bytes.
func (g *growing) look(sources []Source, used, most int64, now time.Time) outlook {
	g.mu.Lock()
	defer g.mu.Unlock()
	o := outlook{streamPerDay: map[string]float64{}, disks: make([]diskOutlook, len(g.disks))}
	flows := make(map[string]*flow, len(sources))
	for _, s := range sources {
		f := g.flows[s.Name]
		if f == nil {
			f = &flow{timeline: s.Timeline, last: s.Received}
		}
		flows[s.Name] = f
		o.streamPerDay[s.Name] = f.perSecond(s, now) * (24 * time.Hour).Seconds()
	}
	g.flows = flows // without those that are gone
	o.spoolFull = until(float64(most-used), g.spool.perSecond(sample{now, float64(used)}, sampleEvery))
	for i, d := range g.disks {
		free, total, err := d.Space()
		if err != nil {
			continue
		}
		rate := g.taken[i].perSecond(sample{now, -float64(free)}, sampleEvery)
		o.disks[i] = diskOutlook{true, float64(free), until(float64(free-d.MinFree(total)), rate)}
		if d.Store == "" {
			o.spoolFull = min(o.spoolFull, o.disks[i].full)
		}
	}
	return o
}

// until is how many seconds so many bytes last.
func until(bytes, perSecond float64) float64 {
	switch {
	case bytes <= 0:
		return 0
	case perSecond <= 0:
		return math.Inf(1)
	}
	return bytes / perSecond
}
