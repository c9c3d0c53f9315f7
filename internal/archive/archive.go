// Package archive is the archive's format, version 1 (docs/format.md): its names, its files, and
// what they add up to.
//
// A source's archive is a set of timelines. Each is an unbroken run of offsets: snapshots to
// start from, segments that hold every byte of the stream between them, events for what happened
// on the way. Names alone say what exists: a Catalog is made from a listing and a few small JSON
// files, and everything that reads an archive plans with it. Files are written once, whole, and
// never changed.
package archive

import (
	"context"
	"io"

	"github.com/offloader/offloader/internal/stream"
)

// FormatVersion is the archive format that this package writes.
const FormatVersion = 1

// TimelineInfo is timeline.json: where a timeline comes from. It is written once.
type TimelineInfo struct {
	Format   int           `json:"format"`
	Source   string        `json:"source"`
	Timeline string        `json:"timeline"`
	ReplID   stream.ReplID `json:"replid"` // the first; later ones are "replid" events
	Offset   stream.Offset `json:"offset"` // where the timeline begins
	Began    stream.Time   `json:"began"`
	Parent   *Parent       `json:"parent,omitempty"` // of a branch
	Spool    string        `json:"spool"`            // id of the spool that writes it, nobody else does
	Reason   string        `json:"reason"`           // why it began, for people
	Engine   string        `json:"engine,omitempty"` // "redis" or "valkey"
	Version  string        `json:"version,omitempty"`
}

// Parent is where a branch leaves the timeline that it continues.
type Parent struct {
	Timeline string        `json:"timeline"`
	Offset   stream.Offset `json:"offset"`
}

// Kinds of events. Each is a file of its own, written once.
const (
	EventReplID = "replid" // the master goes on under a new id from Offset on
	EventEnded  = "ended"  // the timeline got its last byte; Cause says why
	EventOutage = "outage" // the link was down: nothing is known of the moments between From and Time
	EventClock  = "clock"  // this host's clock was stepped from From to Time
	EventHole   = "hole"   // [Offset,To) is missing
	EventLost   = "lost"   // a failover left out [Offset,To) of this timeline: they were written, then lost

	// EventVerified says that all that the store had of the source, up to Offset of this timeline, was
	// read again between From and Time, and found right.
	EventVerified = "verified"
	// EventCounted says how many keys the master held at Offset, by its own word: Counts.
	EventCounted = "counted"
	// EventBooted says that an engine that replayed the archive up to Offset, between From and Time, held as
	// many keys as the master had counted there: Counts.
	EventBooted = "booted"
)

// Event is something that happened to a timeline after it began.
type Event struct {
	Kind   string        `json:"kind"`
	Offset stream.Offset `json:"offset"`
	Time   stream.Time   `json:"time"` // when it was over, for what lasts
	From   stream.Time   `json:"from,omitempty"`
	To     stream.Offset `json:"to,omitempty"`
	ReplID stream.ReplID `json:"replid,omitempty"`
	Cause  string        `json:"cause,omitempty"`

	Commands int64  `json:"commands,omitempty"` // lost: how many, 0 where they weren't counted
	Note     string `json:"note,omitempty"`

	At stream.Time `json:"at,omitempty"` // pin: the time that was asked for, if it was one

	Keys   *Sizes           `json:"keys,omitempty"`   // suspect: of the dataset
	Counts map[string]int64 `json:"counts,omitempty"` // keys by database, those that have any

	// Damage is why the file could not be read. Kind, Offset and Time are those of its name then,
	// and nothing else is known.
	Damage error `json:"-"`
}

// SnapshotInfo is a snapshot's sidecar.
type SnapshotInfo struct {
	Offset       stream.Offset    `json:"offset"`
	Time         stream.Time      `json:"time"`
	Method       string           `json:"method"` // "full-sync"; later "master", "replica", "merge"
	ReplID       stream.ReplID    `json:"replid"`
	DB           int              `json:"db"`          // selected in the stream at Offset
	RDBVersion   int              `json:"rdb_version"` // 80 and above: the file begins with VALKEY
	Engine       string           `json:"engine,omitempty"`
	Bytes        int64            `json:"bytes"` // of the RDB
	SHA256       string           `json:"sha256"`
	StoredBytes  int64            `json:"stored_bytes"`
	StoredSHA256 string           `json:"stored_sha256"`
	Keys         map[string]int64 `json:"keys"`                // per db
	Expires      map[string]int64 `json:"expires,omitempty"`   // keys with an expiry, per db
	Unchecked    string           `json:"unchecked,omitempty"` // why the RDB's structure was not checked
}

// Snapshot is one in the catalog.
type Snapshot struct {
	Offset stream.Offset
	Time   stream.Time
	Name   string // within the timeline, "" for one that is only in the spool
	Size   int64  // as stored

	Encrypted bool // Open takes an identity

	// Info reads the sidecar; Open gives the RDB's bytes, checked against the sidecar as they
	// pass: the reader's last Read fails with a DamageError if they differ.
	Info func(context.Context) (SnapshotInfo, error)
	Open func(context.Context) (io.ReadCloser, error)

	store  string     // that it is in, "" where it has no name
	others []Snapshot // by the same name in further stores, in their order
}

// Segment is a range of the stream in the catalog, or the part of it that is still spooled.
type Segment struct {
	stream.Range
	Time0, Time1 stream.Time // of the first and the last byte
	Sum          uint64      // CRC64 of the file as stored
	Name         string      // within the timeline, "" for the spool's part
	Size         int64       // as stored
	Encrypted    bool        // Open takes an identity

	// Open gives the range's bytes from the first on. What isn't as the name says ends in a
	// DamageError, at the latest in place of io.EOF.
	Open func(context.Context) (PieceReader, error)
	// EndDB gives the database selected behind the last byte, for who has no identity; ok tells whether
	// the file says it. It is nil of one that isn't encrypted.
	EndDB func(context.Context) (db int, ok bool, err error)

	store  string    // that it is in, "" where it has no name
	others []Segment // by the same name in further stores, in their order
}

// A PieceReader gives stream bytes in order. Next ends with io.EOF.
type PieceReader interface {
	Next() (stream.Piece, error)
	// DB is the database selected before the first byte. It is known once Next was called.
	DB() int
	Close() error
}

// A DamageError says that a file of the archive is not what it was when it was written.
type DamageError struct {
	Name string
	What string
	Err  error // may be nil
}

func (e *DamageError) Error() string {
	s := e.Name + " is damaged: " + e.What
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

func (e *DamageError) Unwrap() error { return e.Err }

// Timeline is one in the catalog.
type Timeline struct {
	TimelineInfo
	Events    []Event    // by offset, then time
	Snapshots []Snapshot // by offset
	Segments  []Segment  // by From, then larger first; they may overlap, and agree where they do
}

// Catalog is what exists of one source, timelines in order of birth.
type Catalog struct {
	Source    string
	Timelines []*Timeline
	Problems  []error // what could not be read, and is not among the timelines
}
