// Package fresh makes an RDB of a moment that no snapshot is of: a scratch engine replays the snapshot before it and
// the stream behind that, and saves.
//
// It is for who must not see the way there. An engine that gets a snapshot and a stream answers reads while it applies
// the stream, with what was true then; one that gets an RDB of the end answers with an error until it has all.
//
// What it takes is what a scratch engine takes: the program, and the memory of the dataset. Whoever asks has to get on
// without where these aren't there.
package fresh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/engine"
	"github.com/offloader/offloader/internal/feed"
	"github.com/offloader/offloader/internal/rdbwalk"
	"github.com/offloader/offloader/internal/relay"
	"github.com/offloader/offloader/internal/stream"
)

// Options say of what, and with what.
type Options struct {
	Source  string
	Load    func(context.Context) (*archive.Catalog, error)
	Engines map[string]string // programs that a configuration names, by product
	Dir     string            // a folder on the disk that the RDB goes to
	Logger  *slog.Logger
}

// File is an RDB. It has no name any more: when it is closed, nothing is left of it.
type File struct {
	*os.File
	Version int   // of the format, that of the snapshot that it was made from
	Bytes   int64 // of it
}

// RDB makes one of a timeline at a boundary.
func RDB(ctx context.Context, o Options, timeline string, at stream.Offset) (*File, error) {
	from := feed.Fixed(feed.Options{Source: o.Source, Load: o.Load, Logger: o.Logger}, timeline, at)
	begins, used, err := look(ctx, from)
	if err != nil {
		return nil, err
	}
	cat, err := o.Load(ctx)
	if err != nil {
		return nil, err
	}
	product := ""
	if t := cat.Timeline(timeline); t != nil {
		product = t.Engine
	}
	program, err := engine.Find(ctx, product, begins.RDBVersion, o.Engines)
	if err != nil {
		return nil, err
	}
	most, err := engine.Room(used + int64(at-begins.Offset))
	if err != nil {
		return nil, err
	}
	// It is the engine's own: one that is ended while it saves leaves what it has written under a name of its choice.
	dir, err := os.MkdirTemp(o.Dir, "fresh-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }() // where that fails it is in nobody's way
	e, err := engine.Start(ctx, program, engine.Options{Memory: most, Saves: true})
	if err != nil {
		return nil, err
	}
	defer e.Close()
	// What it writes has to be what the master reads. That is found out before anybody waits for it.
	empty, err := save(ctx, e, dir, begins.RDBVersion)
	if err == nil {
		err = empty.Close()
	}
	if err != nil {
		return nil, err
	}
	if err := replay(ctx, e, from, o.Logger, at); err != nil {
		return nil, err
	}
	f, err := save(ctx, e, dir, begins.RDBVersion)
	if err != nil {
		return nil, err
	}
	if woes := e.Complaints(); len(woes) > 0 {
		return nil, errors.Join(e.Fail("it could not do all that the master did: "+woes[0]), f.Close())
	}
	return f, nil
}

// look finds out what the replay begins with, and how much memory the master took for it.
func look(ctx context.Context, from relay.Archive) (c *relay.Copy, used int64, err error) {
	if c, err = from.Copy(ctx); err != nil {
		return nil, 0, err
	}
	w := rdbwalk.NewWalker(c.RDB)
	for w.Next() && w.Summary().Keys == 0 && w.Summary().UsedMem == 0 {
	}
	if used = w.Summary().UsedMem; used == 0 { // it doesn't say
		used = 3 * c.Bytes
	}
	return c, used, errors.Join(c.RDB.Close(), c.Stream.Close())
}

// replay has the engine replicate from a relay of its own, up to a boundary.
func replay(ctx context.Context, e *engine.Engine, from relay.Archive, log *slog.Logger, to stream.Offset) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	return relay.Private(ctx, &once{from, cancel}, log, func(ctx context.Context, address, password string) error {
		return e.Follow(ctx, address, password, to)
	})
}

// once is an archive that is given up with the first thing that goes wrong: there is another way.
type once struct {
	relay.Archive
	fail context.CancelCauseFunc
}

func (o *once) Copy(ctx context.Context) (*relay.Copy, error) {
	c, err := o.Archive.Copy(ctx)
	if err != nil {
		o.fail(err)
		return nil, err
	}
	c.Stream = &onceStream{c.Stream, o}
	return c, nil
}

// Continue is asked for first, by an engine that takes its own past for a part of ours.
func (o *once) Continue(ctx context.Context, id stream.ReplID, behind stream.Offset) (relay.Stream, error) {
	s, err := o.Archive.Continue(ctx, id, behind)
	if err != nil {
		if !errors.Is(err, relay.ErrFork) {
			o.fail(err)
		}
		return nil, err
	}
	return &onceStream{s, o}, nil
}

type onceStream struct {
	relay.Stream
	o *once
}

func (s *onceStream) Next(ctx context.Context) ([]byte, error) {
	b, err := s.Stream.Next(ctx)
	if err != nil && !errors.Is(err, io.EOF) && ctx.Err() == nil {
		s.o.fail(err)
	}
	return b, err
}

// save has the engine save, and takes the file.
func save(ctx context.Context, e *engine.Engine, dir string, version int) (*File, error) {
	const name = "fresh.rdb"
	if err := e.Save(ctx, dir, name); err != nil {
		return nil, err
	}
	f, err := os.Open(filepath.Join(dir, name))
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	var begins [9]byte
	if err == nil {
		_, err = f.ReadAt(begins[:], 0)
	}
	if err == nil {
		var has int
		if _, err = fmt.Sscanf(string(begins[len(begins)-3:]), "%d", &has); err == nil && has != version {
			err = fmt.Errorf("%s writes RDBs of version %d, and the master's is %d", e.Binary, has, version)
		}
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &File{File: f, Version: version, Bytes: info.Size()}, nil
}

var _ io.ReadCloser = (*File)(nil)
