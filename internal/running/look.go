package running

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/offloader/offloader/internal/feed"
)

// look finds out what the server is, and whether it may be written to.
func (t *target) look(ctx context.Context) error {
	var err error
	if t.about, err = ask(ctx, t.client); errors.Is(err, errOffloader) {
		return t.errorf("name the server that is to hold the data; from a relay it gets them by REPLICAOF", "%v", err)
	} else if err != nil {
		return t.failed("it doesn't tell what it is", err)
	}
	if t.about.loading() {
		return t.errorf("wait until it has loaded", "it is loading a dataset")
	}
	timeline, to := t.r.Timeline.TimelineInfo.Timeline, t.r.To.Offset
	t.archive = feed.Fixed(feed.Options{Source: t.r.Source, Load: t.o.Load, Logger: t.o.Logger}, timeline, to)
	if t.nodes, err = t.openNodes(ctx); err != nil {
		return err
	}
	return t.settle(ctx)
}

// settle says no where something would be lost that nobody gave up.
func (t *target) settle(ctx context.Context) error {
	keys, libraries := int64(0), int64(0)
	for _, n := range t.nodes.all {
		k, l := n.about.held()
		keys, libraries = keys+k, max(libraries, l)
		found, err := n.findMark(ctx)
		if err != nil {
			return t.failed("look for what an earlier restore left", err)
		}
		if found != "" {
			t.left = found
		}
	}
	t.libraries = libraries
	switch {
	case keys+libraries == 0, t.o.Conflict == Replace, t.left == markWhole, t.resumes(ctx):
		return nil
	case t.left == markBeside:
		return t.errorf("--conflict replace makes it hold the archive's keys alone; or delete what doesn't belong there, and the key "+markKey,
			"an interrupted restore has put keys beside its own, and which are whose isn't known any more")
	case t.o.Conflict == Skip:
		return nil
	}
	holds := fmt.Sprintf("%d keys", keys)
	if keys == 0 {
		holds = fmt.Sprintf("%d libraries of functions", libraries)
	}
	return t.errorf("--conflict replace replaces all that it holds; --conflict skip leaves what it has as it is, and adds the rest", "it holds %s", holds)
}

// resumes says that the server, as a replica whose master is gone, has the beginning of what it is to
// get: it needs the rest, and loses nothing.
func (t *target) resumes(ctx context.Context) bool {
	f := t.about
	if !f.replica() || f.linked() || f.replid() == "" || f.offset() < 0 || f.offset() > t.r.To.Offset {
		return false
	}
	s, err := t.archive.Continue(ctx, f.replid(), f.offset())
	return err == nil && s.Close() == nil
}

// unfit is why the server can't become a replica of ours, "" if it can as far as is known.
func (t *target) unfit() string {
	f := t.about
	switch {
	case f.cluster():
		return "it is in cluster mode, where REPLICAOF is refused"
	case t.o.Conflict == Skip:
		return "a replica's dataset is replaced as a whole, and --conflict skip keeps what is there"
	case !f.loads(t.r.Info.RDBVersion):
		return fmt.Sprintf("the snapshot is an RDB of version %d, which %s can't load", t.r.Info.RDBVersion, f.engine())
	case t.server.TLS != nil:
		return "it speaks TLS, and a replica would have to trust a certificate of ours"
	}
	return ""
}

// free makes a server that is a replica a master, so that it takes commands.
func (t *target) free(ctx context.Context) error {
	if !t.about.replica() || t.about.cluster() {
		return nil
	}
	if t.about.linked() && t.o.Conflict != Replace {
		return t.errorf("name its master, or say --conflict replace", "it is a replica of %s, and takes no commands", t.about.master())
	}
	t.wasReplica()
	return t.failed("REPLICAOF NO ONE", t.client.Do(ctx, "REPLICAOF", "NO", "ONE").Err())
}

// wasReplica notes that the server won't be what it was.
func (t *target) wasReplica() {
	if t.about.replica() && t.about.linked() {
		t.report.Notes = append(t.report.Notes, "it was a replica of "+t.about.master()+" before, and now is none")
	}
}

// has tells whether the server has so many databases: what is written into one that it hasn't would go to another.
func (t *target) has(ctx context.Context, databases int) error {
	if databases <= 1 || t.about.cluster() {
		return nil
	}
	conn := t.client.Conn()
	err := conn.Select(ctx, databases-1).Err()
	if isReply(err) && !redis.HasErrorPrefix(err, "NOPERM") && strings.Contains(err.Error(), "index") {
		err = t.errorf(fmt.Sprintf("set its databases to %d or more, and start it again", databases), "it has less than the %d databases that the data needs", databases)
	} else if isReply(err) {
		err = nil
	} else if err == nil {
		err = conn.Select(ctx, 0).Err() // others get this connection
	}
	return t.failed("", errors.Join(err, conn.Close()))
}

// The mark is a key that a server has while it gets commands. It says that what is there was put there by a
// restore which is not complete: expiries are not in their places.
const (
	markKey    = "offloader:restore"
	markWhole  = "unfinished: all that is here is from a restore"
	markBeside = "unfinished: a restore has put keys beside those that were here"
)

// findMark looks for it in all databases that hold something: SWAPDB takes it along.
func (n *node) findMark(ctx context.Context) (string, error) {
	for _, db := range n.about.databases() {
		if err := n.use(ctx, db); err != nil {
			return "", err
		}
		mark, err := n.conn.Get(ctx, markKey).Result()
		switch {
		case errors.Is(err, redis.Nil), redis.HasErrorPrefix(err, "WRONGTYPE"), redis.HasErrorPrefix(err, "MOVED"), redis.HasErrorPrefix(err, "MASTERDOWN"), redis.HasErrorPrefix(err, "NOPERM"):
		case err != nil:
			return "", err
		case mark == markWhole, mark == markBeside:
			return mark, nil
		}
	}
	return "", nil
}
