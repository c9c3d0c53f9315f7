package verify

import (
	"cmp"
	"errors"
	"slices"
	"strings"

	"github.com/offloader/offloader/internal/archive"
)

// kind is what a file of a timeline is, by its name.
type kind int

const (
	stranger kind = iota // none of the archive's: readers pass over it
	timelineJSON
	event
	rdb
	sidecar
	segment
)

// kindOf tells a file by its name within the timeline. One that stands where the archive's files
// stand and ends as they do, and has no name of theirs, is err.
func kindOf(name string) (kind, error) {
	folder, _, _ := strings.Cut(name, "/")
	var err error
	switch {
	case name == "timeline.json":
		return timelineJSON, nil
	case folder == "log":
		if _, err = archive.ParseSegmentName(name); err == nil {
			return segment, nil
		}
	case folder == "events":
		if _, err = archive.ParseEventName(name); err == nil {
			return event, nil
		}
	case folder == "snapshots":
		var side bool
		if _, side, err = archive.ParseSnapshotName(name); err == nil {
			if side {
				return sidecar, nil
			}
			return rdb, nil
		}
	}
	if plain := strings.TrimSuffix(name, ".age"); strings.HasSuffix(plain, ".zst") || strings.HasSuffix(plain, ".json") {
		return stranger, err
	}
	return stranger, nil
}

// listing finds what names alone tell: files that are no archive's, snapshots without a sidecar.
func (j *judge) listing() {
	strangers := 0
	sidecars := map[string]bool{}
	for _, e := range j.files {
		timeline, name, _ := strings.Cut(e.Name, "/")
		k, err := kindOf(name)
		var bad *archive.NameError
		switch {
		case errors.As(err, &bad):
			j.find(timeline, j.Name+"/"+e.Name, "its name is none of the archive's: "+bad.What, "what was in it is missing, if it was the archive's", nil)
		case k == stranger:
			strangers++
		case k == sidecar:
			sidecars[snapshotOf(e.Name)] = true
		}
	}
	if strangers > 0 {
		j.notef("source %s: files that are not the archive's were passed over: %d", j.Name, strangers)
	}
	for _, e := range j.files {
		timeline, name, _ := strings.Cut(e.Name, "/")
		t := j.cat.Timeline(timeline)
		k, err := kindOf(name)
		if err != nil || t == nil {
			continue
		}
		switch {
		case k != rdb || sidecars[snapshotOf(e.Name)]:
		case begins(t, name):
			j.halfSnapshot(t, name, "its sidecar is missing")
		default:
			j.notef("%s/%s has no sidecar: it is being stored, or a crash has left it", j.Name, e.Name)
		}
	}
}

// snapshotOf is what the names of a snapshot's two files have in common.
func snapshotOf(name string) string {
	slash := strings.LastIndexByte(name, '/')
	base, _, _ := strings.Cut(name[slash+1:], ".")
	return name[:slash+1] + base
}

// begins tells whether it is the snapshot that the timeline begins with, and the log behind it is
// there: that is stored only after the whole snapshot, and let go before it.
func begins(t *archive.Timeline, name string) bool {
	n, _, err := archive.ParseSnapshotName(name)
	return err == nil && t.Parent == nil && n.Offset == t.Offset &&
		slices.ContainsFunc(t.Segments, func(s archive.Segment) bool { return s.Holds(n.Offset) })
}

// halfSnapshot finds one of which a file is missing: the catalog doesn't have it.
func (j *judge) halfSnapshot(t *archive.Timeline, name, what string) {
	n, _, err := archive.ParseSnapshotName(name)
	if err != nil {
		return // impossible: its kind was told by that
	}
	lost := j.lost(t, func(t *archive.Timeline) {
		t.Snapshots = append(t.Snapshots, archive.Snapshot{Offset: n.Offset, Time: n.Time})
		slices.SortFunc(t.Snapshots, func(a, b archive.Snapshot) int { return cmp.Compare(a.Offset, b.Offset) })
	}, nil)
	j.find(t.Timeline, j.path(t, name), what, costsNothing, lost)
}
