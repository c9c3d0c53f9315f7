package main

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/offloader/offloader/internal/config"
	"github.com/offloader/offloader/internal/httpapi"
	"github.com/offloader/offloader/internal/rebirth"
	"github.com/offloader/offloader/internal/relay"
	"github.com/offloader/offloader/internal/schedule"
	"github.com/offloader/offloader/internal/source"
	"github.com/offloader/offloader/internal/spool"
	"github.com/offloader/offloader/internal/stale"
	"github.com/offloader/offloader/internal/stream"
	"github.com/offloader/offloader/internal/syncer"
)

// fleet is the sources that are archived. Each is kept running by itself: one that fails, hangs
// or is replaced disturbs no other.
type fleet struct {
	log     *slog.Logger
	metrics *httpapi.Metrics
	options source.Options  // of all of them; Name, Link and Metrics are each one's own
	turns   *schedule.Limit // of full syncs: links', snapshots', exports'

	applying sync.Mutex // held while keepers are started and stopped
	mu       sync.Mutex
	keepers  []*keeper // in the order of the configuration
	from     string    // the replica that snapshots are taken of, "" for the masters
	maxAge   stale.Limits
	engines  map[string]string // programs for scratch engines, by product
}

// want is a source as the configuration has it.
type want struct {
	config.Source
	tls   *tls.Config
	relay *tls.Config       // how replicas are spoken to, nil for plain connections
	files [sha256.Size]byte // of what the TLS files hold: certificates are renewed under one name
}

// wants makes ready what sources need, so that what is wrong is told before anything begins.
func wants(sources []config.Source) ([]want, error) {
	var list []want
	for _, s := range sources {
		w := want{Source: s}
		var err error
		if w.tls, err = connection(s); err != nil {
			return nil, err
		}
		var files []string
		if s.TLS != nil {
			files = []string{s.TLS.CAFile, s.TLS.CertFile, s.TLS.KeyFile}
		}
		if s.Relay != nil && s.Relay.TLS != nil {
			if w.relay, err = s.Relay.TLS.Config(); err != nil {
				return nil, fmt.Errorf("relay of source %s: %w", s.Name, err)
			}
			files = append(files, s.Relay.TLS.CAFile, s.Relay.TLS.CertFile, s.Relay.TLS.KeyFile)
		}
		if w.files, err = sumOf(files...); err != nil {
			return nil, fmt.Errorf("source %s: %w", s.Name, err)
		}
		list = append(list, w)
	}
	return list, nil
}

func sumOf(files ...string) (sum [sha256.Size]byte, err error) {
	h := sha256.New()
	for _, file := range files {
		if file == "" {
			continue
		}
		text, err := os.ReadFile(file) // connection has found it to be of a certificate's size
		if err != nil {
			return sum, err
		}
		_, _ = fmt.Fprintf(h, "%d ", len(text)) // a hash takes everything
		_, _ = h.Write(text)
	}
	return [sha256.Size]byte(h.Sum(nil)), nil
}

// same tells whether a source can go on as it is.
func (w want) same(o want) bool {
	a, b := w.Source, o.Source
	if (a.TLS == nil) != (b.TLS == nil) || a.TLS != nil && *a.TLS != *b.TLS || w.files != o.files {
		return false
	}
	if !a.Relay.Same(b.Relay) {
		return false
	}
	a.TLS, b.TLS, a.Relay, b.Relay = nil, nil, nil, nil
	return a == b
}

// link is how to reach the master.
func (w want) link() syncer.Options {
	o := syncer.Options{
		Address: w.Address, Username: w.Username, TLS: w.tls,
		Password: func() (string, error) { return string(w.Password), nil },
	}
	if host, port, err := net.SplitHostPort(w.Announce); err == nil {
		o.Announce.Host = host
		o.Announce.Port, _ = strconv.Atoi(port) // config has checked it
	}
	return o
}

// run keeps the sources that were applied, and returns when ctx has ended and all have drained.
func (f *fleet) run(ctx context.Context) error {
	<-ctx.Done()
	f.applying.Lock() // no more are started from here on
	defer f.applying.Unlock()
	for _, k := range f.all() {
		<-k.ended
	}
	return nil
}

// apply makes the fleet what is wanted, until ctx ends: it stops what is gone or changed, waits
// until that has drained, and starts what is new or changed.
func (f *fleet) apply(ctx context.Context, wanted []want) {
	f.applying.Lock()
	defer f.applying.Unlock()
	if ctx.Err() != nil {
		return
	}
	stay := map[string]*keeper{}
	var leave []*keeper
	for _, k := range f.all() {
		i := slices.IndexFunc(wanted, func(w want) bool { return w.Name == k.want.Name })
		if i >= 0 && wanted[i].same(k.want) {
			stay[k.want.Name] = k
			continue
		}
		f.log.Info("a source is stopped", "source", k.want.Name, "gone", i < 0)
		k.stop()
		leave = append(leave, k)
	}
	for _, k := range leave {
		<-k.ended
		if !slices.ContainsFunc(wanted, func(w want) bool { return w.Name == k.want.Name }) {
			f.metrics.Forget(k.want.Name)
		}
	}
	var list []*keeper
	for _, w := range wanted {
		k := stay[w.Name]
		if k == nil && ctx.Err() == nil {
			k = f.keep(ctx, w)
		}
		if k != nil {
			list = append(list, k)
		}
	}
	f.mu.Lock()
	f.keepers = list
	f.mu.Unlock()
}

// follow takes note of what else a configuration says of all sources.
func (f *fleet) follow(c *config.Config) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.from, f.maxAge, f.engines = c.Snapshots.Address, maxAge(c), engines(c)
}

func (f *fleet) scratch() map[string]string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.engines
}

// limits are how old things may become.
func (f *fleet) limits() stale.Limits {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.maxAge
}

func (f *fleet) all() []*keeper {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.keepers)
}

// relayAt is the source whose relay has a port, "" for none.
func (f *fleet) relayAt(port string) string {
	for _, k := range f.all() {
		if k.want.Relay == nil {
			continue
		}
		if _, p, err := net.SplitHostPort(k.want.Relay.Listen); err == nil && p == port {
			return k.want.Name
		}
	}
	return ""
}

// report is what all sources are doing.
func (f *fleet) report(now time.Time) []httpapi.Source {
	list := []httpapi.Source{}
	for _, k := range f.all() {
		list = append(list, k.status(now))
	}
	return list
}

const (
	retryFirst   = time.Second
	retryLongest = time.Minute
	// longestTurn is how long a full sync can keep others waiting: a master that sends a byte a minute is
	// not away, and would hold them up forever.
	longestTurn = 6 * time.Hour
)

// keeper keeps one source running.
type keeper struct {
	want  want
	log   *slog.Logger
	make  func() *source.Source
	stop  context.CancelFunc
	ended chan struct{}

	engines func() map[string]string // programs for scratch engines, by product
	relayAt func(port string) string // the source whose relay has a port, "" for none
	spool   *spool.Spool

	mu     sync.Mutex
	source *source.Source
	failed error     // of the last Run, nil while one runs
	again  time.Time // when the next begins

	relay *relay.Listener // nil while none is open
	shut  error           // why it isn't, though it should be
	asked time.Time       // when the source was last asked whether it is another server by now

	able      atomic.Bool // to replay: there is an engine, as far as is known
	replaying atomic.Bool // a scratch engine is, for the source's own server
	promoting sync.Mutex  // held while an operator's word is carried out

	order   rebirth.Order    // that word
	verdict rebirth.Verdict  // the last under that order
	size    *httpapi.Rebirth // what a rebirth would consist of; nil: not known
}

// keep starts a source, and starts it again when it ends in an error, until ctx ends.
func (f *fleet) keep(ctx context.Context, w want) *keeper {
	o := f.options
	o.Name, o.Link, o.Metrics = w.Name, w.link(), f.metrics.Acks(w.Name)
	o.Link.Turns = f.turns
	k := &keeper{want: w, log: f.log.With("source", w.Name), ended: make(chan struct{}), engines: f.scratch, relayAt: f.relayAt, spool: o.Spool}
	k.make = func() *source.Source { return source.New(o) }
	if w.Relay != nil {
		o.Link.Follower, o.Followers = k.follower, k.followers
	}
	k.source = k.make()
	ctx, k.stop = context.WithCancel(ctx)
	go func() { // apply and run wait for ended
		defer close(k.ended)
		defer k.stop()
		var relaying sync.WaitGroup
		if w.Relay != nil {
			relaying.Go(func() { k.serveReplicas(ctx) })
		}
		k.run(ctx)
		relaying.Wait()
	}()
	return k
}

// current is the source that runs, or is about to, or the last that did.
func (k *keeper) current() *source.Source {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.source
}

func (k *keeper) run(ctx context.Context) {
	pause := retryFirst
	for {
		began := time.Now()
		err := k.source.Run(ctx)
		if ctx.Err() != nil {
			if err != nil {
				k.log.Error("the source has stopped, not cleanly", "error", err)
			}
			return
		}
		if err == nil {
			err = errors.New("it ended by itself")
		}
		if time.Since(began) > retryLongest {
			pause = retryFirst
		}
		k.log.Error("archiving has ended, and is tried again", "error", err, "in", pause)
		k.mu.Lock()
		k.failed, k.again = err, time.Now().Add(pause)
		k.mu.Unlock()
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		pause = min(2*pause, retryLongest)
		k.mu.Lock()
		k.source, k.failed = k.make(), nil
		k.mu.Unlock()
	}
}

// status is what the source is doing, or why it isn't.
func (k *keeper) status(now time.Time) httpapi.Source {
	k.mu.Lock()
	src, failed, again := k.source, k.failed, k.again
	k.mu.Unlock()
	s := httpapi.Source{Status: src.Status(now)}
	s.Relay, s.Replicas, s.Rebirth = k.relayStatus(now)
	if s.Suspect != nil || src.Link().Master.Cluster { // it doesn't come back by itself, however long one waits
		s.Rebirth = nil
	}
	if failed != nil {
		s.Ended, s.State, s.Phase = failed.Error(), "waiting", syncer.Waiting
		s.Why, s.Until = "to try again", stream.TimeOf(again)
		s.Error, s.Hint = failed.Error(), syncer.Hint(failed)
	}
	return s
}
