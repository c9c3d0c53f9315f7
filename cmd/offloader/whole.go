package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/durable"
	"github.com/offloader/offloader/internal/engine"
	"github.com/offloader/offloader/internal/feed"
	"github.com/offloader/offloader/internal/fresh"
	"github.com/offloader/offloader/internal/relay"
)

const (
	// unseen is how much of a stream is applied before anybody is answered: an engine reads so much at once (redis,
	// server.h: PROTO_IOBUF_LEN).
	unseen = 16 << 10
	// prepares is how long the source's server may be kept waiting so that its clients see nothing that is old.
	prepares = 5 * time.Minute
)

// whole gives the source's own server an RDB of where it is to be, in place of a snapshot and the stream behind it:
// while it applied that, its clients would read what was true earlier, or nothing where a key came later. Where there
// is no engine to make it with, or that would take too long, it gets what there is.
func (k *keeper) whole(ctx context.Context, from *feed.Feed, c *relay.Copy) *relay.Copy {
	end, err := k.current().End(ctx)
	behind := int64(end.Offset - c.Offset)
	if err != nil || behind <= unseen {
		return c
	}
	k.replaying.Store(true)
	defer k.replaying.Store(false)
	began := time.Now()
	full, err := func() (*relay.Copy, error) {
		k.able.Store(true) // or it is found out that it isn't
		k.mu.Lock()
		p := k.prediction()
		k.mu.Unlock()
		if p != nil && p.Log > unseen && !p.Replayed {
			return nil, fmt.Errorf("to replay it before would take too long: %v at most", prepares/2)
		}
		bounded, cancel := context.WithTimeoutCause(ctx, prepares, fmt.Errorf("it was not there after %v", prepares))
		defer cancel()
		if err := k.spool.Room(); err != nil { // the RDB would lie there
			return nil, err
		}
		if err := k.spool.Fits(c.Bytes + behind); err != nil {
			return nil, fmt.Errorf("an RDB of %s or more has no room there: %w", humanize.IBytes(uint64(c.Bytes)), err)
		}
		dir := k.freshDir()
		if err := durable.MkdirAll(dir); err != nil {
			return nil, err
		}
		rdb, err := fresh.RDB(bounded, fresh.Options{
			Source: k.want.Name, Engines: k.engines(), Dir: dir, Logger: k.log,
			Load: func(ctx context.Context) (*archive.Catalog, error) { return k.current().Catalog(ctx) },
		}, end.Timeline, end.Offset)
		if err != nil {
			return nil, err
		}
		s, err := from.Continue(ctx, end.ReplID, end.Offset)
		if err != nil {
			return nil, errors.Join(err, rdb.Close())
		}
		return &relay.Copy{Offset: end.Offset, RDBVersion: rdb.Version, Bytes: rdb.Bytes, RDB: rdb, Stream: s}, nil
	}()
	if err != nil {
		if ctx.Err() == nil {
			k.able.Store(false)
			k.log.Warn("the source gets a snapshot and the stream behind it: until it has applied that, reads are answered as of where it is", "bytes", behind, "error", err)
		}
		return c
	}
	k.log.Info("a scratch engine has replayed what is behind the snapshot, for the source", "offset", end.Offset, "bytes", behind, "took", time.Since(began).Round(time.Millisecond))
	if err := errors.Join(c.RDB.Close(), c.Stream.Close()); err != nil {
		k.log.Debug("could not close what is not needed", "error", err)
	}
	return full
}

// canReplay finds out whether there is an engine to do so, for what is predicted. It isn't known before the master has said what
// it is.
func (k *keeper) canReplay(ctx context.Context) (known bool) {
	m := k.current().Link().Master
	if m.Engine == "" {
		return false
	}
	_, err := engine.FindLike(ctx, m.Engine, m.Version, k.engines())
	k.able.Store(err == nil)
	return true
}

// freshDir is where scratch engines save. What an earlier daemon may have left there goes when the relay opens.
func (k *keeper) freshDir() string { return filepath.Join(k.spool.Dir(), k.want.Name, ".fresh") }

func (k *keeper) clearFresh() {
	if err := os.RemoveAll(k.freshDir()); err != nil {
		k.log.Error("could not remove what an earlier daemon has left", "folder", k.freshDir(), "error", err)
	}
}
