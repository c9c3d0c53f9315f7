package running

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/offloader/offloader/internal/relay"
	"github.com/offloader/offloader/internal/replay"
	"github.com/offloader/offloader/internal/stream"
)

const (
	// poll is how often the server is asked how far it is.
	poll = 20 * time.Millisecond
	// reaching is how long it may take to come to our relay. It tries once a second.
	reaching = 10 * time.Second
	// silence is how long it may not answer us.
	silence = 10 * time.Second
	// maxCopies is how many full copies it gets: one that can't load what it gets asks for ever.
	maxCopies = 3
	// tidying is how long its settings may take to be put back.
	tidying = 10 * time.Second
)

// replicate makes the server a replica of the archive until it stands at the point, and then a master. Where that
// can't be done, and nothing has happened yet, it says why and that is no error.
func (t *target) replicate(ctx context.Context) (instead string, err error) {
	if err := t.has(ctx, t.count.Databases()); err != nil {
		return "", err
	}
	s := newServed(t.archive, t.r.Info.Bytes)
	login, undo, instead := t.prepare(ctx)
	defer func() {
		late, cancel := context.WithTimeout(context.WithoutCancel(ctx), tidying)
		defer cancel()
		if undone := undo(late); err == nil || isReply(undone) { // else the server is gone, and the next attempt puts them back
			err = errors.Join(err, undone)
		}
	}()
	if instead != "" {
		return instead, nil
	}
	id, err := t.archive.ID(ctx)
	if err != nil {
		return "", err
	}
	l, err := relay.Listen(net.JoinHostPort(t.local.String(), "0"), relay.Options{
		Archive: s, Login: login, Logger: t.o.Logger,
		Describe: func() relay.Info { return relay.Info{Offset: t.r.To.Offset, ReplID: id} },
	})
	if err != nil {
		return "", err
	}
	g, alive := errgroup.WithContext(ctx)
	serving, done := context.WithCancel(alive)
	g.Go(func() error {
		if err := l.Run(serving); serving.Err() == nil {
			return err
		}
		return nil
	})
	g.Go(func() error {
		select {
		case <-s.due:
		case <-serving.Done():
			select {
			case <-s.due:
			default:
				return nil // it goes another way
			}
		}
		return t.counts(alive, s)
	})
	g.Go(func() (err error) {
		defer done()
		if instead, err = t.follow(alive, s, l.Addr(), id); err == nil && instead == "" {
			s.isDue() // also where there was no log to ask for
		}
		return err
	})
	err = g.Wait()
	done()
	if err != nil && t.begun {
		err = t.interrupted(ctx, err, "the server is left a replica of what is gone, with a part of the data: say the same again, and it goes on from there; REPLICAOF NO ONE makes it a master of what it has")
	}
	if err == nil && instead == "" {
		t.report.Format, t.report.Bytes = byReplica, t.total
	}
	return instead, err
}

// counts looks through the log and lets it pass, then counts the snapshot.
func (t *target) counts(ctx context.Context, s *served) error {
	pieces, sound := t.r.Stream(ctx), 0
	for {
		p, err := pieces.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return errors.Join(err, pieces.Close())
		}
		_ = t.count.Piece(p) // it has remembered why
		if err := t.allows(ctx, s, pieces, &sound); err != nil {
			return errors.Join(err, pieces.Close())
		}
	}
	if err := t.allows(ctx, s, pieces, &sound); err != nil {
		return errors.Join(err, pieces.Close())
	}
	s.allow(math.MaxInt64) // also where a replica asks for what comes behind the end
	if err := pieces.Close(); err != nil {
		return err
	}
	if len(t.r.Info.Expires) == 0 && t.r.Info.Keys != nil {
		return nil // how many keys there are is asked of the server, and the snapshot has none that could have expired
	}
	return t.count.Base(ctx)
}

// allows lets the relay give the segments that were looked through meanwhile, which it needn't read to their ends once more.
func (t *target) allows(ctx context.Context, s *served, pieces *replay.Stream, sound *int) error {
	steps := pieces.Sound()
	if len(steps) == *sound {
		return nil
	}
	if err := t.has(ctx, t.count.Databases()); err != nil {
		return err
	}
	for _, step := range steps[*sound:] {
		t.archive.Sound(step.Timeline, step.Segment)
		s.allow(step.Range.To)
	}
	*sound = len(steps)
	return nil
}

// follow tells the server whom to follow, and watches it until it has all.
func (t *target) follow(ctx context.Context, s *served, address string, id stream.ReplID) (instead string, err error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return "", err
	}
	if err := t.client.Do(ctx, "REPLICAOF", host, port).Err(); isReply(err) {
		return fmt.Sprintf("it refuses REPLICAOF (%v)", err), nil
	} else if err != nil {
		return "", t.failed("REPLICAOF", err)
	}
	t.begun = true
	err = t.arrive(ctx, s, net.JoinHostPort(host, port), id)
	if errors.Is(err, errNotReached) {
		if err := t.client.Do(ctx, "REPLICAOF", "NO", "ONE").Err(); err != nil {
			return "", t.failed("REPLICAOF NO ONE", err)
		}
		t.begun = false
		return fmt.Sprintf("it did not come to %s within %v; can it reach this host?", address, reaching), nil
	}
	if err == nil {
		err = t.promote(ctx, id)
	}
	if err == nil {
		t.wasReplica()
	}
	return "", err
}

var errNotReached = errors.New("the server did not come")

// arrive returns when the server has all up to the point, and how many keys that is.
func (t *target) arrive(ctx context.Context, s *served, address string, id stream.ReplID) error {
	began, answered := time.Now(), time.Now()
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
		f, err := ask(ctx, t.client)
		switch {
		case err != nil && (isReply(err) || time.Since(answered) > silence):
			return t.failed("it no longer answers", err)
		case err != nil:
			continue
		case !f.replica() || f.master() != address:
			return t.errorf("did it start anew, or does a Sentinel look after it?", "it is no longer a replica of this restore")
		case f.linked() && f.replid() == id && f.offset() == t.r.To.Offset:
			t.shows(t.total)
			t.keys, _ = f.held()
			return nil
		case !s.asked.Load() && time.Since(began) > reaching:
			return errNotReached
		case s.copies.Load() > maxCopies:
			err := errors.Join(s.failure(), t.errorf("see the server's log", "it was given the snapshot %d times, and could not load it", maxCopies))
			return err
		case s.failure() != nil && !f.linked():
			return s.failure()
		}
		answered = time.Now()
		done := s.rdb.Load()
		if f.linked() && f.replid() == id {
			done = t.r.Info.Bytes + max(0, int64(f.offset()-t.r.From.Offset))
		}
		t.shows(done)
	}
}

// promote makes the server a master, and makes sure that it became one at the point.
func (t *target) promote(ctx context.Context, id stream.ReplID) error {
	if err := t.client.Do(ctx, "REPLICAOF", "NO", "ONE").Err(); err != nil {
		return t.failed("REPLICAOF NO ONE", err)
	}
	f, err := ask(ctx, t.client)
	if err != nil {
		return t.failed("ask it where it stands", err)
	}
	// It goes on under an id of its own, and knows ours up to the next byte (replication.c: shiftReplicationId).
	if was, from := f.info["master_replid2"], f.info["second_repl_offset"]; f.replica() || was != string(id) || from != fmt.Sprint(t.r.To.Offset+1) {
		return t.errorf("", "it was promoted, and is a %s that left %s at offset %s, not at %d", f.info["role"], was, from, t.r.To.Offset+1)
	}
	return nil
}
