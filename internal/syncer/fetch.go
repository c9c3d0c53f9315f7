package syncer

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/offloader/offloader/internal/stream"
)

// Fetch takes a server's dataset, as it is at one offset, and nothing of the stream behind it: a
// connection of its own, for an RDB that the server forks for (redis, replication.c:
// SLAVE_FLAG_RDBONLY; from 7.0 on). take is told of which history and offset it is, and may refuse it.
// When Fetch returns nil, what take gave has it whole. The link to the same server, or to its master,
// goes on meanwhile and notices nothing; the budget of full resyncs is not touched, since somebody
// has asked for this one.
func Fetch(ctx context.Context, o Options, take func(m Master, id stream.ReplID, at stream.Offset, size int64) (Incoming, error)) (err error) {
	l := New(o, fetching{take})
	nc, err := l.connect(ctx)
	if err != nil {
		return err
	}
	closed := context.AfterFunc(ctx, func() { _ = nc.Close() }) // wakes a blocked read or write
	defer func() {
		if closed() {
			err = errors.Join(err, ignoreClosed(nc.Close()))
		} else if err != nil {
			err = context.Cause(ctx) // told to stop: what broke while stopping is no news
		}
	}()
	c := newConn(l, nc)
	if err := c.greet(); err != nil {
		return err
	}
	if err := c.introduce(); err != nil {
		return err
	}
	r, err := c.ask(stageReplconf, "REPLCONF", "rdb-only", "1")
	if err != nil {
		return err
	}
	if r.isError {
		return c.refused(stageReplconf, r.text)
	}
	a, err := c.psync(Resume{})
	switch {
	case err != nil:
		return err
	case !a.full:
		return fmt.Errorf("%s: it doesn't answer PSYNC with a full resync", o.Address)
	}
	return c.takeRDB(a.id, a.at)
}

// fetching is a Sink that wants an RDB and nothing else.
type fetching struct {
	take func(Master, stream.ReplID, stream.Offset, int64) (Incoming, error)
}

var errNoStream = errors.New("nothing was asked for but an RDB")

func (f fetching) Room() error                                   { return nil }
func (f fetching) Resume(Master) (Resume, error)                 { return Resume{}, nil }
func (f fetching) Continued(Master, Resume, stream.ReplID) error { return errNoStream }
func (f fetching) Receive([]byte, time.Time) error               { return errNoStream }
func (f fetching) Durable() stream.Offset                        { return 0 }
func (f fetching) Committed() <-chan struct{}                    { return nil }
func (f fetching) Down(error)                                    {}
func (f fetching) FullSync(m Master, id stream.ReplID, at stream.Offset, size int64) (Incoming, error) {
	return f.take(m, id, at, size)
}
