package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/offloader/offloader/internal/config"
	"github.com/offloader/offloader/internal/export"
	"github.com/offloader/offloader/internal/httpapi"
	"github.com/offloader/offloader/internal/source"
	"github.com/offloader/offloader/internal/syncer"
)

func (a *app) snapshotCommand() *cobra.Command {
	name := ""
	cmd := &cobra.Command{
		Use:   "snapshot",
		Short: "Have the running daemon take a snapshot now",
		Long: `Have the running daemon take a snapshot of a source now, and wait until every store has it.
Restores of later points start from there and have less of the log to replay.

The master forks for it once, or a replica of it does where the configuration says
snapshots: {method: replica}. The link and its timeline go on meanwhile. The daemon is asked
by the socket in its spool.

Exit codes: 0 every store has it; 1 failed; 2 wrong usage or configuration.`,
		Example: "  offloader snapshot\n  offloader snapshot --source cache --json",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			spool, name, err := a.daemonOf(cmd.Context(), name)
			if err != nil {
				return err
			}
			return a.takeSnapshot(cmd.Context(), spool, name)
		},
	}
	a.sourceFlag(cmd, &name)
	return cmd
}

// daemonOf is the spool of the daemon to be asked about a source, and that source: the only one, where none is named.
func (a *app) daemonOf(ctx context.Context, name string) (spool, source string, err error) {
	spool, _, err = a.whereDaemonIs()
	if err != nil {
		return "", "", err
	}
	if spool == "" {
		spool = config.DefaultSpool
	}
	if name == "" {
		name, err = onlySource(ctx, spool)
	}
	return spool, name, err
}

// onlySource is the name of the daemon's source, where it has one.
func onlySource(ctx context.Context, spool string) (string, error) {
	text, err := askDaemon(ctx, spool, "")
	if err != nil {
		return "", err
	}
	var report httpapi.Report
	if err := json.Unmarshal(text, &report); err != nil {
		return "", fmt.Errorf("what answers there is no offloader: %w", err)
	}
	var names []string
	for _, s := range report.Sources {
		names = append(names, s.Name)
	}
	if len(names) != 1 {
		return "", usagef("say --source "+strings.Join(names, " or --source "), "there are %d sources", len(names))
	}
	return names[0], nil
}

func (a *app) takeSnapshot(ctx context.Context, spool, source string) error {
	a.term.say("taking a snapshot of %s; the stores get it then", source)
	waits := a.tellWaiting(ctx, spool, source)
	body, err := orderDaemon(ctx, spool, source, "snapshot")
	waits()
	if err != nil {
		return err
	}
	var taken httpapi.Snapshot
	if err := json.Unmarshal(body, &taken); err != nil {
		return fmt.Errorf("what the daemon said is not understood: %w", err)
	}
	if a.json {
		return a.term.json(taken)
	}
	stores := "the store has it"
	if taken.Stores > 1 {
		stores = fmt.Sprintf("all %d stores have it", taken.Stores)
	}
	return a.term.print("%s: snapshot at %s, offset %d; %s, after %s", taken.Source, clock(taken.Time.Go()), taken.Offset, stores, span(toDuration(taken.Took)))
}

// tellWaiting tells, after some seconds, which stores keep somebody waiting, until it is told to end.
func (a *app) tellWaiting(ctx context.Context, spool, source string) (end func()) {
	ctx, cancel := context.WithCancel(ctx)
	told := make(chan struct{})
	go func() {
		defer close(told)
		select {
		case <-ctx.Done():
			return
		case <-time.After(5 * time.Second):
		}
		var report httpapi.Report
		text, err := askDaemon(ctx, spool, "")
		if err != nil || json.Unmarshal(text, &report) != nil {
			return // who waits for the daemon hears of it
		}
		for _, s := range report.Sources {
			for _, st := range s.Stores {
				if s.Name == source && st.Error != "" {
					a.term.say("waiting for %s: %s; what is taken is safe in the spool meanwhile", st.Name, st.Error)
				}
			}
		}
	}()
	return func() { cancel(); <-told }
}

// reach gives a source, and how to reach the replica of it that snapshots are taken of, nil for the
// master itself.
func (f *fleet) reach(name string) (*source.Source, *syncer.Options, error) {
	f.mu.Lock()
	replica := f.from
	f.mu.Unlock()
	for _, k := range f.all() {
		if k.want.Name != name {
			continue
		}
		src := k.current()
		if replica == "" {
			return src, nil, nil
		}
		o := k.want.link() // a replica has its master's users
		o.Address, o.Announce = replica, syncer.Announce{}
		return src, &o, nil
	}
	return nil, nil, httpapi.ErrNoSource
}

// snapshot takes one of a source, within the daemon: for the API, and by the clock.
func (f *fleet) snapshot(ctx context.Context, name string) (httpapi.Snapshot, error) {
	src, from, err := f.reach(name)
	if err != nil {
		return httpapi.Snapshot{}, err
	}
	began, method := time.Now(), source.MethodMaster
	if from != nil {
		method = source.MethodReplica
	}
	taken, err := src.TakeSnapshot(ctx, from)
	if err == nil {
		err = src.Stored(ctx, taken)
	}
	if err != nil {
		return httpapi.Snapshot{}, withHint(err)
	}
	return httpapi.Snapshot{Source: name, Timeline: taken.Timeline, Offset: taken.Offset, Time: taken.Time, Method: method, Stores: len(f.options.Stores), Took: time.Since(began).Seconds()}, nil
}

// dataset gives use what a source holds now: for the API, and for exports by the clock.
func (f *fleet) dataset(ctx context.Context, name string, use func(export.Point, io.Reader) error) error {
	src, from, err := f.reach(name)
	if err != nil {
		return err
	}
	err = src.Dataset(ctx, from, func(timeline string, at source.Moment, rdb io.Reader) error {
		return use(export.Point{Source: name, Timeline: timeline, Offset: at.Offset, Time: at.Time}, rdb)
	})
	return withHint(err)
}

// withHint has an error say what to do about it by itself, for where only its text goes.
func withHint(err error) error {
	if hint := syncer.Hint(err); hint != "" {
		return fmt.Errorf("%w (%s)", err, hint)
	}
	return err
}
