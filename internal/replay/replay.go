// Package replay is the one way out of the archive: a point goes in, and what comes out are the
// bytes of the dataset at exactly that point, as a snapshot's RDB and the stream that follows it.
//
// Run lists what there is, has package plan choose, finds the exact boundary by reading where
// names alone don't say it (a time inside a segment, a command, whether an offset is a boundary),
// and hands a Replay to whoever restores, counts or serves. The archive lives meanwhile: segments
// are joined and old files go. So a file that vanished, or a hole, is believed only after
// listing and planning once more.
//
// Every file that is read is read to its end, also one that is left in the middle, since the
// checksum that tells damage stands there. A damaged file is set aside, said so, and the same point is
// reached by others, if there are any: another store's, those that it was joined from, an older
// snapshot and the log. So is one that a store doesn't give and another one has. Else it is a *DamagedError, which names the file and the nearest points that
// don't need it.
package replay

import (
	"context"
	"errors"
	"io"
	"io/fs"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/plan"
	"github.com/offloader/offloader/internal/stream"
)

// Replay is a plan whose point was found.
type Replay struct {
	*plan.Plan
	Info  archive.SnapshotInfo // of the snapshot
	Match *Match               // the command found, nil unless the point is before one
	Aside []error              // why files were set aside on the way here; Notes tell of them

	aim  *plan.Aim
	load func(context.Context) (*archive.Catalog, error)
}

// listings is how often the archive is listed because a file has vanished, before that is believed.
// Each time the file was there a moment before: under load, segments and chunks come and go within
// tenths of a second.
const listings = 10

// damages is how many files are set aside at most: each costs another reading.
const damages = 20

// Start is the snapshot's boundary: where the stream begins.
func (r *Replay) Start() stream.Cursor {
	return stream.Cursor{Offset: r.From.Offset, DB: r.Info.DB, Time: r.From.Time}
}

// Run lists, plans, finds the point and calls use with what to read. It does all of that once more
// if names don't lead to the point, or a file that use needed was gone or damaged: then use must begin
// anew. load lists what there is of the source; it opens the spool before it lists stores.
func Run(ctx context.Context, load func(context.Context) (*archive.Catalog, error), req plan.Request, use func(context.Context, *Replay) error) error {
	var aside []setAside
	sound := func(ctx context.Context) (*archive.Catalog, error) {
		cat, err := load(ctx)
		if err != nil {
			return nil, err
		}
		for _, d := range aside {
			cat = d.without(cat)
		}
		return cat, nil
	}
	told := func(ctx context.Context, r *Replay) error {
		for _, d := range aside {
			r.Aside = append(r.Aside, d.why)
			r.Notes = append(r.Notes, d.why.Error()+"; the same was read from elsewhere")
		}
		return use(ctx, r)
	}
	for listed := 1; ; listed++ {
		tries, err := once(ctx, sound, req, told)
		var damage *DamagedError
		var unread *unreadError
		switch {
		case errors.As(err, &damage) && damage.Way.Same && len(aside) < damages && ctx.Err() == nil:
			aside, listed = append(aside, setAside{damage.Damage, damage, damage.aside}), 0
		case errors.As(err, &unread) && len(aside) < damages && ctx.Err() == nil:
			aside, listed = append(aside, setAside{unread.error, unread.error, unread.aside}), 0
		case listed < tries && ctx.Err() == nil:
		case len(aside) > 0 && errors.As(err, new(*plan.UnreachableError)):
			return aside[len(aside)-1].err // what took its place is gone meanwhile
		default:
			return err
		}
	}
}

// setAside is a file that is done without.
type setAside struct {
	why, err error // what to say of it, and what to return where nothing takes its place
	without  func(*archive.Catalog) *archive.Catalog
}

// once says how often one should try before its error is to be believed.
func once(ctx context.Context, load func(context.Context) (*archive.Catalog, error), req plan.Request, use func(context.Context, *Replay) error) (tries int, err error) {
	cat, err := load(ctx)
	if err != nil {
		return 1, err
	}
	aim, err := plan.Choose(cat, req)
	if err != nil {
		var unreachable *plan.UnreachableError
		if errors.As(err, &unreachable) {
			return 2, err
		}
		return 1, err
	}
	tries = listings
	r, err := find(ctx, cat, aim)
	if err == nil {
		r.load, tries = load, 2 // a Stream has looked elsewhere itself
		err = use(ctx, r)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return tries, err
	}
	return 1, err
}

// find looks for the exact boundary and completes the plan.
func find(ctx context.Context, cat *archive.Catalog, aim *plan.Aim) (*Replay, error) {
	at, match, err := locate(ctx, aim)
	if err != nil {
		return nil, elsewhere(ctx, cat, aim, aside(aim, err))
	}
	if other := parentHeld(ctx, cat, aim, at); other != nil {
		return find(ctx, cat, other)
	}
	p, err := aim.Plan(at.Offset, at.Time)
	if err != nil {
		return nil, err
	}
	r := &Replay{Plan: p, Match: match, aim: aim}
	if r.Info, err = p.Snapshot.Info(ctx); err != nil {
		return nil, r.DamagedSnapshot(err)
	}
	return r, nil
}

// parentHeld is another aim for a time at which the chosen branch had not begun, while its parent
// had already gone on: what the parent wrote then was lost later, but it is what was true. It is
// nil where that isn't so.
func parentHeld(ctx context.Context, cat *archive.Catalog, aim *plan.Aim, at stream.Cursor) *plan.Aim {
	req := aim.Request
	if req.Point.Kind != plan.ByTime || req.Timeline != "" {
		return nil
	}
	next := aim.LeftOut(at.Offset)
	if next == nil {
		return nil
	}
	var first stream.Time
	err := walk(ctx, *next, func(m mark) error {
		first = m.time
		return errEnough
	})
	if err != nil || first == 0 || first > req.Point.Time {
		return nil // what can't be read there isn't needed here
	}
	req.NotIn = append(req.NotIn[:len(req.NotIn):len(req.NotIn)], aim.Timeline.TimelineInfo.Timeline)
	other, err := plan.Choose(cat, req)
	if err != nil {
		return nil
	}
	other.Notes = append(other.Notes, "timeline "+aim.Timeline.TimelineInfo.Timeline+" went on without what was written here at that time: --timeline "+
		aim.Timeline.TimelineInfo.Timeline+" gives its state")
	return other
}

// RDB opens the snapshot. Its last Read fails if it is not what was written.
func (r *Replay) RDB(ctx context.Context) (io.ReadCloser, error) {
	f, err := r.Snapshot.Open(ctx)
	if err != nil {
		return nil, r.DamagedSnapshot(err)
	}
	return &rdb{f, r}, nil
}

type rdb struct {
	io.ReadCloser
	r *Replay
}

func (f *rdb) Read(p []byte) (int, error) {
	n, err := f.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		err = f.r.DamagedSnapshot(err)
	}
	return n, err
}
