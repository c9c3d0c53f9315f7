package archive

import (
	"slices"
	"strings"

	"github.com/offloader/offloader/internal/stream"
)

// Kinds of events that retention obeys, or writes.
const (
	EventSuspect = "suspect" // the master came back empty, shrunken or rewound
	EventRelease = "release" // the user has looked at it, and at what was lost
	EventPin     = "pin"     // the point at Offset stays restorable; From is its time, At the one that was asked for
	EventUnpin   = "unpin"   // it need not any more
	EventPruned  = "pruned"  // of [Offset,To) retention may have let go whatever isn't there
)

// CauseRebirth is that of a replid event where the master had come back as our replica, and was promoted. The
// reason of a timeline that began so begins with it.
const CauseRebirth = "rebirth"

// Start is what is known of how a source's server was last started.
type Start int

// What it can be.
const (
	StartUnseen Start = iota // it has run since before it was archived, or what came back had what it was to have
	StartReborn              // through the relay
	StartForgot              // without: it came back with less than it had held
)

// LastStart tells how the source's server was last started.
func (c *Catalog) LastStart() Start {
	if len(c.Timelines) == 0 {
		return StartUnseen
	}
	newest := c.Timelines[len(c.Timelines)-1]
	for _, e := range slices.Backward(newest.Events) {
		switch {
		case e.Kind == EventSuspect && e.Damage == nil:
			return StartForgot
		case e.Kind == EventReplID && e.Cause == CauseRebirth:
			return StartReborn
		case e.Kind == EventReplID:
			return StartUnseen
		}
	}
	if strings.HasPrefix(newest.Reason, CauseRebirth) {
		return StartReborn
	}
	return StartUnseen
}

// Sizes are how many keys a master was last known to hold, and how many it came back with; -1 where that
// isn't known.
type Sizes struct {
	Before int64 `json:"before"`
	Now    int64 `json:"now"`
}

// Suspect tells whether the timeline waits for a look of the user's.
func (t *Timeline) Suspect() bool {
	suspect := stream.Time(-1)
	for _, e := range t.Events {
		if e.Kind == EventSuspect {
			suspect = max(suspect, e.Time)
		}
	}
	return suspect > t.released()
}

// LastGood is the last-born of timelines that isn't suspect, and holds anything; nil where there is none.
func LastGood(all []*Timeline) *Timeline {
	for _, t := range slices.Backward(all) {
		if !t.Suspect() && len(t.Snapshots)+len(t.Segments) > 0 {
			return t
		}
	}
	return nil
}

// Lost are the writes that a failover left out, and that the user has not released yet.
func (t *Timeline) Lost() []Event {
	released := t.released()
	return slices.DeleteFunc(slices.Clone(t.Events), func(e Event) bool { return e.Kind != EventLost || e.Time <= released })
}

// released is when the user last looked, -1 if never.
func (t *Timeline) released() stream.Time {
	released := stream.Time(-1)
	for _, e := range t.Events {
		if e.Kind == EventRelease {
			released = max(released, e.Time)
		}
	}
	return released
}

// Pins are the points that are pinned, by offset. At each the event that came last decides; of two
// in one millisecond the pin, which can be taken away once more.
func (t *Timeline) Pins() []Event {
	var pins []Event
	for i := 0; i < len(t.Events); {
		at := t.Events[i].Offset
		var last *Event
		for ; i < len(t.Events) && t.Events[i].Offset == at; i++ {
			e := &t.Events[i]
			if e.Kind == EventUnpin || e.Kind == EventPin {
				if last == nil || e.Time > last.Time || e.Time == last.Time && e.Kind == EventPin {
					last = e
				}
			}
		}
		if last != nil && last.Kind == EventPin {
			pins = append(pins, *last)
		}
	}
	return pins
}

// Pruned is the offset below which what isn't there was let go by retention, -1 where retention
// has let go nothing. It can be the timeline's first: then it is the parent that went.
func (t *Timeline) Pruned() stream.Offset {
	pruned := stream.Offset(-1)
	for _, e := range t.Events {
		if e.Kind == EventPruned {
			pruned = max(pruned, e.To)
		}
	}
	return pruned
}

// ByName tells whether an event's name says enough for a catalog: there may be one of that kind for each day, and
// what is in it is read by who needs it (ReadEvent).
func ByName(kind string) bool {
	return kind == EventVerified || kind == EventCounted || kind == EventBooted
}

// Verified is the last event that says that all that was there was as it had been written; false:
// there is none.
func (c *Catalog) Verified() (last Event, ok bool) { return c.last(EventVerified) }

// Booted is the last event that says that an engine held what the master did; false: there is none.
func (c *Catalog) Booted() (last Event, ok bool) { return c.last(EventBooted) }

func (c *Catalog) last(kind string) (last Event, ok bool) {
	for _, t := range c.Timelines {
		for _, e := range t.Events {
			if e.Kind == kind && e.Time >= last.Time {
				last, ok = e, true
			}
		}
	}
	return last, ok
}
