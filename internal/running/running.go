// Package running restores into a server that runs.
//
// There are two ways. By REPLICAOF (replicate.go) the server becomes, for a while, a replica of a relay that
// ends at the point, and is promoted there. That is what a replica does anyway, so it is exact and as fast as
// the engine loads. It takes a server that may be told REPLICAOF, can reach this host, and can load the
// snapshot's RDB; all that it held is replaced.
//
// Any other server, a cluster say, or a managed one, gets commands (commands.go): each record of the snapshot as a RESTORE, then
// the log's commands up to the point. A master expires keys by its own clock, and a command of the log may touch a
// key whose time has passed since. So while commands are sent, all expiries stand some 140,000 years later
// (expiry.go), and are put where they belong at the end. A command whose keys lie on several nodes of a cluster is split, or done
// beside its keys, in one slot (apart.go). The log is read once before anything is written: what can't be exact is refused
// then.
//
// Nothing that a server holds is lost unless told so: Conflict. An interrupted restore is gone on with, or begun anew,
// when the same is said again: a server that is a replica holds the beginning of what it is to get, which its id and offset
// say, and one that got commands holds a mark (mark.go).
package running

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"slices"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/feed"
	"github.com/offloader/offloader/internal/replay"
	"github.com/offloader/offloader/internal/restore"
	"github.com/offloader/offloader/internal/stream"
)

// Conflict says what becomes of the keys that a server holds already.
type Conflict string

// Conflicts.
const (
	Refuse  Conflict = ""        // a server that holds keys is left alone
	Skip    Conflict = "skip"    // keys that the server has stay as they are; those that it lacks are added
	Replace Conflict = "replace" // all that the server holds is replaced
)

// ParseConflict reads --conflict.
func ParseConflict(s string) (Conflict, error) {
	switch c := Conflict(s); c {
	case Skip, Replace:
		return c, nil
	}
	return "", fmt.Errorf("--conflict %q: say %s, to leave what the server has as it is and add the rest, or %s, to replace all that it holds", s, Skip, Replace)
}

// Formats are how a Report says which way was taken.
const (
	byReplica  restore.Format = "replicaof"
	byCommands restore.Format = "commands"
)

// Server is where to restore to.
type Server struct {
	Address  string // host:port
	Username string // "" for the default user
	Password string
	TLS      *tls.Config // nil for a plain connection
	Name     string      // how a report calls it: a URL without secrets
}

// Options say where to and how.
type Options struct {
	Server   Server
	Conflict Conflict

	Load     func(context.Context) (*archive.Catalog, error) // what is held of the source, for the relay
	Now      stream.Time                                     // against which keys are counted as expired
	Progress func(done, total int64)                         // bytes of snapshot and log that the server has; may be nil
	Logger   *slog.Logger                                    // nil: silent
}

// To makes a server hold the dataset at a replay's point. Errors that name a way out have a Hint.
func To(ctx context.Context, r *replay.Replay, o Options) (*restore.Report, error) {
	report, err := Describe(r, o.Server)
	if err != nil {
		return nil, err
	}
	t, err := open(ctx, r, o, report)
	if err != nil {
		return nil, err
	}
	defer t.shut()
	instead := t.unfit()
	if instead == "" {
		instead, err = t.replicate(ctx)
	}
	if err == nil && instead != "" {
		report.Notes = append(report.Notes, "it got commands, and was no replica: "+instead)
		err = t.command(ctx)
	}
	if err != nil {
		return nil, err
	}
	t.count.Tell(report)
	if t.keys >= 0 { // the server knows better
		report.Keys = &t.keys
		if report.KeysNote != "" {
			report.KeysNote = "of those that have expired the number may be off: " + report.KeysNote
		}
	}
	return report, nil
}

// Describe is the report of a restore that is not done. The server isn't asked.
func Describe(r *replay.Replay, s Server) (*restore.Report, error) {
	report, err := restore.Describe(r, restore.Options{})
	if err != nil {
		return nil, err
	}
	report.Output, report.Format = s.Name, ""
	report.Notes = slices.Clone(report.Notes)
	return report, nil
}

// target is the server of one restore, and what is known of it.
type target struct {
	r      *replay.Replay
	o      Options
	report *restore.Report
	count  *restore.Counter
	total  int64 // bytes of snapshot and log

	dial
	about   facts
	nodes   *nodes
	archive *feed.Feed

	left      string // the mark of an earlier restore
	libraries int64  // of functions that it has
	begun     bool   // something of it may have changed
	keys      int64  // that it has got; -1: not known
}

// open connects to the server, looks what it is and whether it may be written to.
func open(ctx context.Context, r *replay.Replay, o Options, report *restore.Report) (*target, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	t := &target{
		r: r, o: o, report: report, count: restore.NewCounter(r, o.Now), total: r.Info.Bytes + r.StreamBytes(),
		dial: dial{server: o.Server}, keys: -1,
	}
	err := t.connect(ctx)
	if err == nil {
		err = t.look(ctx)
	}
	if err != nil {
		t.shut()
		return nil, err
	}
	return t, nil
}

// shows tells how far it is.
func (t *target) shows(done int64) {
	if t.o.Progress != nil {
		t.o.Progress(min(done, t.total), t.total)
	}
}

// shut closes all connections.
func (t *target) shut() {
	t.nodes.close()
	t.close()
}
