package archive_test

import (
	"fmt"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/stream"
)

// Names are the catalog: what a listing gives is enough to say what can be restored.
func ExampleCatalog_Windows() {
	t := &archive.Timeline{TimelineInfo: archive.TimelineInfo{Source: "cache", Timeline: timeline, Offset: 100}}
	for _, name := range []string{
		"log/00000000000000000100-00000000000000000250-1763924400000-1763924460000-e9c6d914c4b8d9ca.aof.zst",
		"log/00000000000000000250-00000000000000000300-1763924460001-1763924520000-00c6d914c4b8d9ca.aof.zst",
		"log/00000000000000000900-00000000000000001000-1763924600000-1763924660000-11c6d914c4b8d9ca.aof.zst",
	} {
		n, err := archive.ParseSegmentName(name)
		if err != nil {
			fmt.Println(err)
			return
		}
		t.Segments = append(t.Segments, archive.Segment{Range: n.Range, Time0: n.Time0, Time1: n.Time1, Sum: n.Sum, Name: name})
	}
	for _, at := range []archive.SnapshotName{{Offset: 100, Time: 1763924400000}, {Offset: 900, Time: 1763924600000}} {
		t.Snapshots = append(t.Snapshots, archive.Snapshot{Offset: at.Offset, Time: at.Time, Name: at.RDB()})
	}

	c := &archive.Catalog{Source: "cache", Timelines: []*archive.Timeline{t}}
	windows, err := c.Windows(t)
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, w := range windows {
		fmt.Println(stream.Range{From: w.From.Offset, To: w.To.Offset}, "from", w.From.Time, "to", w.To.Time)
	}
	// Output:
	// [100,300) from 2025-11-23T19:00:00.000Z to 2025-11-23T19:02:00.000Z
	// [900,1000) from 2025-11-23T19:03:20.000Z to 2025-11-23T19:04:20.000Z
}
