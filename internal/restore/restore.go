// Package restore writes what an engine boots from: an AOF directory, or one AOF file, that holds
// the dataset at a point.
//
// The folder is filled under another name and appears whole, or not at all (durable.Tree). The
// bytes come from a replay: the RDB of the snapshot becomes the base, the stream behind it becomes
// one incremental file, as it was received, with the annotations that engines write themselves.
// Nothing is filtered or rewritten, because engines load a replication stream as it is; what is
// added is a SELECT where the stream began in another database than 0, since an engine reads each
// file from database 0 on. An AOF, unlike an RDB, keeps keys whose expiry has passed since, which
// the stream may still PERSIST.
//
// Reading, writing and counting go on side by side (pipe.go), and files are synced while they
// grow, so that a restore takes about as long as a copy.
package restore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/dustin/go-humanize"

	"github.com/offloader/offloader/internal/durable"
	"github.com/offloader/offloader/internal/replay"
	"github.com/offloader/offloader/internal/stream"
)

// Format is what is written.
type Format string

// Formats.
const (
	AOF       Format = "aof"        // a folder of files with a manifest: Redis 7.0 and later, every Valkey
	AOFSingle Format = "aof-single" // one file: engines before 7.0
)

// ParseFormat reads --format.
func ParseFormat(s string) (Format, error) {
	switch f := Format(s); f {
	case AOF, AOFSingle:
		return f, nil
	case "rdb":
		return "", errors.New("--format rdb: not in this version")
	}
	return "", fmt.Errorf("--format %q: say %s, or %s for engines before 7.0", s, AOF, AOFSingle)
}

// Options say where to and how.
type Options struct {
	Output string   // a folder that is new or empty
	Format Format   // "" is AOF
	Keep   []string // folders of archives and spools: Output may not lie in one

	Now      stream.Time             // against which keys are counted as expired
	Progress func(done, total int64) // bytes written, called about once a MiB; may be nil
}

// Report is what a restore did. Its JSON is what users parse: fields are added, never renamed.
type Report struct {
	Source   string        `json:"source"`
	Timeline string        `json:"timeline"`
	Offset   stream.Offset `json:"offset"`
	Time     stream.Time   `json:"time"`     // of the last command before the point
	Snapshot stream.Offset `json:"snapshot"` // the one it starts from
	Segments int           `json:"segments"` // that were read
	Bytes    int64         `json:"bytes"`    // in the files written
	Keys     *int64        `json:"keys"`     // in the dataset restored, null if not counted
	Expired  *int64        `json:"expired"`  // of Keys, whose expiry has passed since the point
	Output   string        `json:"output"`
	Start    string        `json:"start"` // the command that starts a server on it
	Engine   string        `json:"-"`     // what that server has to be, as "redis 8.0 or newer"; "" where it isn't known

	Format       Format        `json:"format"`
	SnapshotTime stream.Time   `json:"snapshot_time"`
	KeysNote     string        `json:"keys_note,omitempty"` // why Keys and Expired may be off, "" if they aren't
	Before       *replay.Match `json:"before,omitempty"`    // the command that the point is before
	Notes        []string      `json:"notes,omitempty"`     // how the point was understood
}

// A SpaceError says that the file system of the output has no room.
type SpaceError struct {
	Path       string
	Need, Free int64 // bytes
}

func (e *SpaceError) Error() string {
	return fmt.Sprintf("%s needs %s, and its file system has %s free", e.Path, humanize.IBytes(uint64(e.Need)), humanize.IBytes(uint64(max(0, e.Free))))
}

// Hint says what to do.
func (e *SpaceError) Hint() string { return "make room, or name a folder on another file system" }

// An OutputError is a folder that can't be written to.
type OutputError struct {
	Path string
	Why  string
	Err  error // may be nil
}

func (e *OutputError) Error() string {
	s := fmt.Sprintf("can't restore to %s: %s", e.Path, e.Why)
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

func (e *OutputError) Unwrap() error { return e.Err }

// Hint says what to do.
func (e *OutputError) Hint() string {
	return "name another folder, new or empty, that this user may write"
}

// Describe is the report of a restore that is not done: --dry-run. Keys are not counted.
func Describe(r *replay.Replay, o Options) (*Report, error) {
	out, err := filepath.Abs(o.Output)
	if err != nil {
		return nil, err
	}
	if o.Output == "" {
		out = ""
	}
	if o.Format == "" {
		o.Format = AOF
	}
	report := &Report{
		Source: r.Source, Timeline: r.Timeline.TimelineInfo.Timeline, Offset: r.To.Offset, Time: r.To.Time,
		Snapshot: r.From.Offset, SnapshotTime: r.From.Time, Segments: len(r.Steps),
		Bytes: r.Info.Bytes + r.StreamBytes(), Output: out, Format: o.Format, Before: r.Match, Notes: slices.Clone(r.Notes),
		KeysNote: "not counted",
	}
	if why := r.Info.Unchecked; why != "" {
		report.Notes = append(report.Notes, "the snapshot's RDB is as it was received, but not checked: "+why+"; the engine that wrote it can load it")
	}
	return report, nil
}

// To writes the dataset at a replay's point. When it returns an error, there is nothing at
// Output that was not there before. Errors that name a way out have a Hint: *SpaceError,
// *OutputError, *durable.NotEmptyError, *replay.DamagedError.
func To(ctx context.Context, r *replay.Replay, o Options) (*Report, error) {
	report, err := Describe(r, o)
	if err != nil {
		return nil, err
	}
	if err := checkOutput(report.Output, o.Keep); err != nil {
		return nil, err
	}
	_, err = os.Lstat(report.Output)
	isNew := errors.Is(err, os.ErrNotExist)
	tree, err := durable.NewTree(report.Output)
	if err != nil {
		return nil, notWritable(report.Output, err)
	}
	if isNew { // the engine may run as somebody else
		err = os.Chmod(tree.Path(), dirMode)
	}
	if err == nil {
		err = checkSpace(report.Output, tree.Path(), report.Bytes)
	}
	w := &writer{r: r, dir: tree.Path(), progress: o.Progress, total: report.Bytes, count: NewCounter(r, o.Now)}
	if err == nil {
		err = w.write(ctx, report.Format)
	}
	if err != nil {
		return nil, errors.Join(notWritable(report.Output, err), tree.Discard())
	}
	if err := tree.Commit(); err != nil {
		return nil, notWritable(report.Output, err)
	}
	report.Bytes = w.done
	w.count.Tell(report)
	engine := cmp.Or(r.Timeline.Engine, r.Info.Engine, "redis")
	report.Engine = atLeast(engine, r.Timeline.Version, r.Info.RDBVersion)
	report.Start, err = startCommand(report, engine, w.count.databases)
	return report, err
}
