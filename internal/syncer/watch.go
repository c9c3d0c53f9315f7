package syncer

import (
	"context"
	"errors"
	"net"
	"strings"
	"time"
)

// lookTimeout is how long a look waits for each answer.
const lookTimeout = 5 * time.Second

// Watch asks a server what it is, now and then, over a connection of its own beside the link. One
// goroutine uses it.
type Watch struct {
	o  Options
	nc net.Conn // nil while there is none
	c  *conn
}

// NewWatch makes a watch of the server that o leads to. It connects when it first looks.
func NewWatch(o Options) *Watch {
	o.Logger, o.Listen, o.BudgetPath, o.Acked = nil, nil, "", nil
	o.ReplyTimeout, o.WriteTimeout = lookTimeout, lookTimeout
	return &Watch{o: o}
}

// Look is what the server says of itself now. All of it comes in one reply, so its offset and its
// keys are of one moment. Where INFO is not permitted, Permitted is false. After an error the next
// look connects anew.
func (w *Watch) Look(ctx context.Context) (m Master, err error) {
	err = w.while(ctx, func() (err error) { m, err = w.ask(); return err })
	return m, err
}

// while asks something over the connection, and leaves that where it fails or ctx ends.
func (w *Watch) while(ctx context.Context, ask func() error) error {
	if w.nc == nil {
		if err := w.connect(ctx); err != nil {
			return err
		}
	}
	nc := w.nc
	interrupted := context.AfterFunc(ctx, func() { _ = nc.Close() }) // wakes a blocked read
	err := ask()
	if !interrupted() || err != nil {
		w.Close()
		return errors.Join(context.Cause(ctx), err)
	}
	return nil
}

func (w *Watch) connect(ctx context.Context) error {
	l := New(w.o, nil) // for its dialling: there is no stream that a Sink would take
	nc, err := l.connect(ctx)
	if err != nil {
		return err
	}
	w.nc, w.c = nc, newConn(l, nc)
	if err := w.c.auth(); err != nil {
		w.Close()
		return err
	}
	return nil
}

func (w *Watch) ask() (Master, error) {
	m := Master{Addr: w.o.Address, OutputLimit: -1}
	r, err := w.c.ask(stageInfo, "INFO", "server", "replication", "keyspace")
	if err == nil && r.isError && strings.HasPrefix(r.text, "ERR") {
		r, err = w.c.ask(stageInfo, "INFO") // before redis 7.0 it takes one section, or all
	}
	if err != nil || r.isError {
		return m, err
	}
	m.Permitted = true
	m.info(r.text)
	return m, nil
}

// Close hangs up. The next look connects anew.
func (w *Watch) Close() {
	if w.nc != nil {
		_ = w.nc.Close() // nothing was sent that could be lost
		w.nc, w.c = nil, nil
	}
}
