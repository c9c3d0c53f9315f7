package retention

import (
	"slices"

	"github.com/offloader/offloader/internal/archive"
)

// Held says of a timeline, whatever the policy, why it, or its tail, is exempt until the user has
// released it, "" where it isn't; and which of its snapshots a pin needs.
type Held struct {
	Exempt string
	Pinned []archive.SnapshotName
}

// Holds looks a catalog through, timeline by timeline.
func Holds(cat *archive.Catalog) []Held {
	exempt := exempt(cat)
	n := newNeeds(cat)
	n.pins()
	all := make([]Held, len(cat.Timelines))
	for i, t := range cat.Timelines {
		all[i].Exempt = exempt[t]
		if lost := t.Lost(); all[i].Exempt == "" && len(lost) > 0 {
			all[i].Exempt = whyLost(lost[0])
		}
		for name := range n.of[t].snapshots {
			all[i].Pinned = append(all[i].Pinned, name)
		}
		slices.SortFunc(all[i].Pinned, func(a, b archive.SnapshotName) int { return int(a.Offset - b.Offset) })
	}
	return all
}
