package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/offloader/offloader/internal/config"
	"github.com/offloader/offloader/internal/durable"
	"github.com/offloader/offloader/internal/heartbeat"
	"github.com/offloader/offloader/internal/httpapi"
	"github.com/offloader/offloader/internal/schedule"
	"github.com/offloader/offloader/internal/source"
	"github.com/offloader/offloader/internal/spool"
	"github.com/offloader/offloader/internal/store"
	"github.com/offloader/offloader/internal/stream"
)

// encoders are enough to keep two cores busy, and are shared by all sources: so many for each store.
const encoders = 2

// daemon is a list of things that run: the sources, the listeners, the words to systemd and to
// whoever watches, the reload.
type daemon struct {
	log    *slog.Logger
	config *config.Config
	load   func() (*config.Config, error) // reads the configuration again; nil: there is none
	hup    <-chan os.Signal
	bound  func(sources, relays int) // bounds the memory
	line   *liveLine                 // progress on a terminal; nil: it is logged

	failed atomic.Pointer[httpapi.FailedReload] // the last reload, nil where it didn't fail
}

// run works until ctx ends, and then drains.
func (d *daemon) run(ctx context.Context) (err error) {
	c, metrics := d.config, httpapi.NewMetrics()
	wanted, err := wants(c.Sources)
	if err != nil {
		return err
	}
	d.bound(len(wanted), relays(wanted))
	sp, err := spool.Open(c.Spool.Path, spool.Options{MaxSize: int64(c.Spool.MaxSize), MinFree: c.Spool.MinFree.Of, OnSync: metrics.Synced})
	if err != nil {
		return noSpool(err)
	}
	defer func() { err = errors.Join(err, sp.Close()) }()
	stores, disks, err := d.stores(ctx)
	if err != nil {
		return err
	}
	listeners, err := d.listen(ctx)
	if err != nil {
		return err
	}
	f := &fleet{log: d.log, metrics: metrics, turns: schedule.NewLimit(c.MaxFullSyncs, longestTurn), options: source.Options{Spool: sp, Stores: stores, AckStore: c.Ack == "store", Identity: c.Encryption.Identity, Logger: d.log,
		SuspectBelow: float64(c.Amnesia.SuspectBelow)}}
	work := newJobs(d.log, f, c.Stores, stores, c.Spool.Path)
	beat := heartbeat.New(string(c.Heartbeat.URL), d.log)
	web := httpapi.New(httpapi.Options{
		Build: httpapi.Build(build()), Sources: f.report, Spool: sp, Disks: disks, Metrics: metrics, Jobs: work.status, Snapshot: f.snapshot, Count: f.count, RDB: f.dataset, Promote: f.promote, Logger: d.log,
		MaxAge: f.limits, Heartbeat: beat.Status, FailedReload: d.failed.Load,
	})
	systemd := &notifier{log: d.log, sources: f.report}
	d.log.Info("offloader has started", "version", build().Version, "pid", os.Getpid(), "sources", len(wanted),
		"spool", c.Spool.Path, "stores", names(stores), "http", ports(listeners))

	g, alive := errgroup.WithContext(ctx)
	// These show how the sources drain, and end after them.
	rest, end := context.WithCancel(context.WithoutCancel(alive))
	f.apply(alive, wanted) // before anybody can ask: no sources would look as if all was well
	f.follow(c)
	work.apply(alive, c)
	g.Go(func() error { defer end(); return f.run(alive) })
	g.Go(func() error { return systemd.run(alive, rest) })
	g.Go(func() error { return showProgress(rest, d.line, d.log, f.report) })
	g.Go(func() error {
		if err := web.Run(rest, listeners...); err != nil {
			d.log.Error("metrics and status can't be served any more; archiving goes on", "error", err)
		}
		return nil
	})
	g.Go(func() error { beat.Run(alive, web.Unready); return nil })
	g.Go(func() error { return d.reload(alive, f, work, systemd) })
	err = g.Wait()
	work.end()
	d.log.Info("offloader has left")
	return err
}

// reload reads the configuration again at each SIGHUP. One that is wrong changes nothing.
func (d *daemon) reload(ctx context.Context, f *fleet, work *jobs, systemd *notifier) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-d.hup:
		}
		if d.load == nil {
			d.log.Warn("there is no configuration that could be read again: this daemon runs with --master")
			continue
		}
		systemd.reloading()
		c, err := d.load()
		var wanted []want
		if err == nil {
			wanted, err = wants(c.Sources)
		}
		if err != nil {
			failed := &httpapi.FailedReload{Time: stream.TimeOf(time.Now())}
			for _, one := range flatten(err) {
				d.log.Error("the configuration is wrong, the old one stays in force", "error", one)
				failed.Errors = append(failed.Errors, one.Error())
			}
			d.failed.Store(failed)
		} else {
			d.failed.Store(nil)
			d.log.Info("the configuration was read again")
			d.needsRestart(c)
			d.bound(len(wanted), relays(wanted))
			f.apply(ctx, wanted)
			f.follow(c)
			work.apply(ctx, c)
		}
		systemd.ready()
	}
}

// needsRestart tells what a reload can't change.
func (d *daemon) needsRestart(c *config.Config) {
	for _, part := range []struct {
		name    string
		changed bool
	}{
		{"spool", c.Spool != d.config.Spool},
		{"stores", !reflect.DeepEqual(c.Stores, d.config.Stores)},
		{"http", c.HTTP != d.config.HTTP},
		{"ack", c.Ack != d.config.Ack},
		{"heartbeat", c.Heartbeat != d.config.Heartbeat},
		{"amnesia", c.Amnesia != d.config.Amnesia},
		{"max_full_syncs", c.MaxFullSyncs != d.config.MaxFullSyncs},
		{"encryption", !c.Encryption.Same(d.config.Encryption)},
	} {
		if part.changed {
			d.log.Warn("this part of the configuration changes with a restart only", "part", part.name)
		}
	}
}

// listen opens the socket in the spool and the configured port. The default port may be another
// daemon's: nobody has asked for it.
func (d *daemon) listen(ctx context.Context) ([]net.Listener, error) {
	own, err := httpapi.ListenIn(ctx, d.config.Spool.Path)
	if err != nil {
		return nil, err
	}
	port, err := new(net.ListenConfig).Listen(ctx, "tcp", d.config.HTTP.Listen)
	switch {
	case err == nil:
		return []net.Listener{own, port}, nil
	case errors.Is(err, syscall.EADDRINUSE) && d.config.HTTP.Listen == config.DefaultListen:
		d.log.Warn("the default port for metrics and health is in use: going on without", "listen", config.DefaultListen, "hint", "give http.listen in the configuration; `offloader status` works")
		return []net.Listener{own}, nil
	}
	way := "give http.listen an address of this host"
	if errors.Is(err, syscall.EADDRINUSE) {
		way = "another process has this port: give http.listen another one"
	}
	err = &startError{fmt.Errorf("open http.listen %s: %w", d.config.HTTP.Listen, errors.Unwrap(err)), way}
	return nil, errors.Join(err, own.Close())
}

// A startError says why the daemon can't begin its work.
type startError struct {
	err  error
	hint string
}

func (e *startError) Error() string { return e.err.Error() }
func (e *startError) Unwrap() error { return e.err }

// Hint says what to do.
func (e *startError) Hint() string { return e.hint }

// noSpool gives what kept the spool from being opened a way out, where it has none.
func noSpool(err error) error {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return &startError{err, fmt.Sprintf("let user %d write there, or say where else: spool.path in a configuration", os.Getuid())}
	case errors.Is(err, syscall.EROFS):
		return &startError{err, "the file system is mounted read-only: a daemon has to write its spool, so say where else: spool.path in a configuration"}
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return &startError{err, "make room on that disk, or say where else: spool.path in a configuration"}
	}
	return err
}

// stores opens all that the configuration names, and gives the disks that can become full.
func (d *daemon) stores(ctx context.Context) (stores []source.StoreOptions, disks []httpapi.Disk, err error) {
	keep := d.config.Spool.MinFree.Of
	at := func(path string) func() (int64, int64, error) {
		return func() (int64, int64, error) { return durable.Space(path) }
	}
	disks = []httpapi.Disk{{Space: at(d.config.Spool.Path), MinFree: keep}}
	for _, c := range d.config.Stores {
		if c.Type == config.TypeDisk {
			if c.Path, err = filepath.Abs(c.Path); err != nil { // its name, in status and metrics
				return nil, nil, err
			}
			disks = append(disks, httpapi.Disk{Store: c.Path, Space: at(c.Path), MinFree: keep})
		}
		st, err := openStore(ctx, c, store.Options{Write: true, MinFree: float64(d.config.Spool.MinFree) / 100, Now: time.Now(), Scratch: d.config.Spool.Path})
		if err != nil {
			return nil, nil, err
		}
		if disk, ok := st.(*store.Disk); ok {
			st = store.Bounded(disk)
		}
		enc, err := source.NewEncoders(encoders, d.config.Encryption.Recipients...)
		if err != nil {
			return nil, nil, err
		}
		taken, err := source.NewEncoders(1, d.config.Encryption.Recipients...)
		if err != nil {
			return nil, nil, err
		}
		stores = append(stores, source.StoreOptions{Store: st, Encoders: enc, Taken: taken, Interval: time.Duration(c.UploadInterval)})
	}
	return stores, disks, nil
}

// names are those of the stores, for the log.
func names(stores []source.StoreOptions) (all []string) {
	for _, s := range stores {
		all = append(all, s.Store.String())
	}
	return all
}

// ports are the addresses of TCP listeners, for the log.
func ports(listeners []net.Listener) string {
	for _, l := range listeners {
		if l.Addr().Network() == "tcp" {
			return l.Addr().String()
		}
	}
	return ""
}
