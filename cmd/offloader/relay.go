package main

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/feed"
	"github.com/offloader/offloader/internal/httpapi"
	"github.com/offloader/offloader/internal/relay"
	"github.com/offloader/offloader/internal/stream"
)

// toldFor is how long after it has left a replica is in the status: for as long it may come back, and may have become the master.
const toldFor = time.Hour

// serveReplicas keeps the source's relay open until ctx ends, whatever becomes of the source meanwhile. A
// port that can't be opened is tried again: it may be another process's, or an address that is about to
// come.
func (k *keeper) serveReplicas(ctx context.Context) {
	from := feed.New(feed.Options{
		Source: k.want.Name, Live: live{k}, Logger: k.log,
		Load: func(ctx context.Context) (*archive.Catalog, error) { return k.current().Catalog(ctx) },
	})
	k.clearFresh()
	var predicting sync.WaitGroup
	defer predicting.Wait()
	predicting.Go(func() { k.predict(ctx, from) })
	o := relay.Options{
		Describe: func() relay.Info { return k.current().Describe() },
		Archive:  from,
		Own:      k.atSource,
		Admit:    k.admit,
		Heard:    k.heard,
		Instead:  func(ctx context.Context, c *relay.Copy) *relay.Copy { return k.whole(ctx, from, c) },
		Login:    relay.Login{Username: k.want.Relay.Username, Password: string(k.want.Relay.Password)},
		TLS:      k.want.relay,
		Logger:   k.log,
	}
	for pause := retryFirst; ; pause = min(2*pause, retryLongest) {
		l, err := relay.Listen(k.want.Relay.Listen, o)
		k.setRelay(l, err)
		if err == nil {
			k.log.Info("replicas can attach", "relay", l.Addr())
			err = l.Run(ctx)
			k.setRelay(nil, err)
			pause = retryFirst
		}
		if ctx.Err() != nil {
			return
		}
		k.log.Error("the relay is not open, and is tried again", "relay", k.want.Relay.Listen, "error", err, "in", pause)
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// relays counts those that are wanted.
func relays(wanted []want) (n int) {
	for _, w := range wanted {
		if w.Relay != nil {
			n++
		}
	}
	return n
}

func (k *keeper) setRelay(l *relay.Listener, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.relay, k.shut = l, err
}

// listener is the relay's, nil while none is open.
func (k *keeper) listener() *relay.Listener {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.relay
}

// followers are the relay's replicas, those that are away too, but for the source's own server: where that has gone from
// one address, it is not another one.
func (k *keeper) followers() []relay.Replica {
	return slices.DeleteFunc(k.replicas(), func(r relay.Replica) bool { return r.Own })
}

// replicas are the relay's, those that are away too; none while it isn't open.
func (k *keeper) replicas() []relay.Replica {
	if l := k.listener(); l != nil {
		return l.Replicas()
	}
	return nil
}

// relayStatus is nil where there is to be no relay.
func (k *keeper) relayStatus(now time.Time) (*httpapi.Relay, []relay.Replica, *httpapi.Rebirth) {
	if k.want.Relay == nil {
		return nil, nil, nil
	}
	k.mu.Lock()
	l, shut, prediction := k.relay, k.shut, k.prediction()
	k.mu.Unlock()
	r := &httpapi.Relay{Listen: k.want.Relay.Listen}
	if shut != nil {
		r.Error = shut.Error()
	}
	if l == nil {
		return r, nil, prediction
	}
	return r, slices.DeleteFunc(l.Replicas(), func(r relay.Replica) bool { return gone(r, now) }), prediction
}

// gone tells whether a replica is told of no more: a tool has got what it wanted, and another one has left long ago.
func gone(r relay.Replica, now time.Time) bool {
	return r.State == relay.Away && (!r.Listens() || now.Sub(r.Since.Go()) > toldFor)
}

// live is what a keeper's source writes, for a feed.
type live struct{ k *keeper }

func (l live) Head() (feed.Head, bool) {
	src := l.k.current()
	timeline, h, ok := src.Head()
	return feed.Head{Timeline: timeline, ReplID: h.ReplID, Spooled: h.Trimmed, Durable: h.Durable, Snapshot: src.Taken()}, ok
}

func (l live) News() <-chan struct{} { return l.k.current().News() }

func (l live) Tail(timeline string, behind stream.Offset) (feed.Tail, error) {
	return l.k.current().Tail(timeline, behind)
}
