package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/spf13/cobra"

	"github.com/offloader/offloader/internal/config"
	"github.com/offloader/offloader/internal/feed"
	"github.com/offloader/offloader/internal/plan"
	"github.com/offloader/offloader/internal/relay"
	"github.com/offloader/offloader/internal/replay"
	"github.com/offloader/offloader/internal/stream"
)

// serveFlags are what is served, and where.
type serveFlags struct {
	pointFlags
	listen, username, passwordFile string
	certFile, keyFile              string
}

func (a *app) serveCommand() *cobra.Command {
	var f serveFlags
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Serve the archive at a point to whoever says REPLICAOF, until Ctrl-C",
		Long: `Serve a source as it was at one point, as the master of any number of replicas: a server that is
told REPLICAOF gets a snapshot and the stream up to the point, and with REPLICAOF NO ONE goes on from
there by itself. What it held before is gone then, also where it had more. The point is a time, an
offset, just before a command, or the latest there is; no daemon is needed, and one may be at work.

TIME is RFC 3339, "2006-01-02 15:04:05[.000]" in local time, Unix seconds or milliseconds,
"5m ago", "yesterday 14:00" or "now". What it was taken for is printed.

Beyond this host it takes a password, from OFFLOADER_RELAY_PASSWORD or --password-file; replicas
have it as their masterauth.

Exit codes: 0 told to leave; 1 failed; 2 wrong usage or configuration; 3 the point can't be restored,
the nearest that can are named; 4 the archive is damaged where it is needed.`,
		Example: "  offloader serve --before FLUSHALL\n" +
			"  offloader serve --archive /srv/archive --source main --latest --listen 127.0.0.1:6390\n" +
			"  redis-cli -p 6380 REPLICAOF 127.0.0.1 6390",
		Args: noArgs,
	}
	f.add(a, cmd)
	flags := cmd.Flags()
	flags.StringVar(&f.listen, "listen", "127.0.0.1:0", "the `HOST:PORT` to serve at; port 0 is a free one")
	flags.StringVar(&f.username, "username", "", "the user that replicas have to be (their masteruser)")
	flags.StringVar(&f.passwordFile, "password-file", "", "`FILE` with the password that replicas have to give\n(default OFFLOADER_RELAY_PASSWORD, or none)")
	flags.StringVar(&f.certFile, "cert-file", "", "`FILE` with the certificate to speak TLS with, in PEM form")
	flags.StringVar(&f.keyFile, "key-file", "", "`FILE` with its key")
	a.identityFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return a.serve(cmd.Context(), f, cmd.Flags().Changed, time.Now())
	}
	return cmd
}

// served is what is told of a relay that is ready.
type served struct {
	Source   string        `json:"source"`
	Timeline string        `json:"timeline"`
	Offset   stream.Offset `json:"offset"`
	Time     stream.Time   `json:"time"`
	ReplID   stream.ReplID `json:"replid"`
	Listen   string        `json:"listen"`
	Notes    []string      `json:"notes,omitempty"`
}

func (a *app) serve(ctx context.Context, f serveFlags, given func(string) bool, now time.Time) error {
	point, err := f.point(given, now)
	if err != nil {
		return err
	}
	login, err := a.relayLogin(f)
	if err != nil {
		return err
	}
	secured, err := f.tls()
	if err != nil {
		return err
	}
	o, err := a.openArchive(ctx)
	if err != nil {
		return err
	}
	source, err := o.pick(ctx, f.source)
	if err != nil {
		return err
	}
	if point.Kind == plan.ByTime {
		a.term.say("offloader: %q was taken for %s", f.at, clock(point.Time.Go()))
	}
	var found *replay.Replay
	request := plan.Request{Point: point, Timeline: f.timeline, Now: stream.TimeOf(now)}
	err = replay.Run(ctx, o.load(source), request, func(ctx context.Context, r *replay.Replay) error {
		found = r
		return opens(ctx, r)
	})
	if err != nil {
		return err
	}
	log, err := newLogger("text", "info", a.term.err)
	if err != nil {
		return err
	}
	timeline, to := found.Timeline.TimelineInfo.Timeline, found.To
	archive := feed.Fixed(feed.Options{Source: source, Load: o.load(source), Logger: log}, timeline, to.Offset)
	id, err := archive.ID(ctx)
	if err != nil {
		return err
	}
	l, err := relay.Listen(f.listen, relay.Options{
		Archive: archive, Login: login, TLS: secured, Logger: log,
		Describe: func() relay.Info { return relay.Info{Offset: to.Offset, ReplID: id} },
	})
	if err != nil {
		return &hintedError{err, "give --listen an address of this host, and a port that is free"}
	}
	if err := a.printServed(served{source, timeline, to.Offset, to.Time, id, l.Addr(), found.Notes}, login); err != nil {
		return err
	}
	if err := l.Run(ctx); ctx.Err() == nil {
		return err
	}
	return nil
}

// opens tells by its first bytes whether the snapshot can be read, so that an identity that is missing is told
// to who starts this, and not to each replica that asks for a copy.
func opens(ctx context.Context, r *replay.Replay) error {
	rdb, err := r.RDB(ctx)
	if err != nil {
		return err
	}
	_, err = io.ReadFull(rdb, make([]byte, len("REDIS")))
	return errors.Join(err, rdb.Close())
}

// tls is nil where replicas connect in plain.
func (f serveFlags) tls() (*tls.Config, error) {
	if f.certFile == "" && f.keyFile == "" {
		return nil, nil
	}
	if f.certFile == "" || f.keyFile == "" {
		return nil, usagef("give both", "--cert-file and --key-file go together")
	}
	c, err := config.RelayTLS{CertFile: f.certFile, KeyFile: f.keyFile}.Config()
	if err != nil {
		return nil, usagef("", "%v", err)
	}
	return c, nil
}

// relayLogin is what replicas have to say.
func (a *app) relayLogin(f serveFlags) (relay.Login, error) {
	login := relay.Login{Username: f.username}
	if f.passwordFile != "" {
		password, warning, err := config.ReadPassword(f.passwordFile)
		if err != nil {
			return login, usagef("", "--password-file: %v", err)
		}
		if warning != "" {
			a.term.say("offloader: warning: %s", warning)
		}
		login.Password = string(password)
	} else if password, set := a.env("OFFLOADER_RELAY_PASSWORD"); set {
		login.Password = password
	}
	switch {
	case login.Password == "" && login.Username != "":
		return login, usagef("say it in OFFLOADER_RELAY_PASSWORD or --password-file", "there is a user, %s, and no password for it", login.Username)
	case login.Password == "" && !config.Loopback(f.listen):
		return login, usagef("say one in OFFLOADER_RELAY_PASSWORD or --password-file, or listen on 127.0.0.1",
			"--listen %s can be reached from other hosts, and there is no password: everybody there could copy the data", f.listen)
	}
	return login, nil
}

func (a *app) printServed(s served, login relay.Login) error {
	if a.json {
		return a.term.json(s)
	}
	for _, n := range s.Notes {
		a.term.say("offloader: note: %s", n)
	}
	host, port, err := net.SplitHostPort(s.Listen)
	if err != nil {
		return err
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = "THIS-HOST" // replicas know it by a name or address of theirs
	}
	lines := fmt.Sprintf("serving %s as of %s, offset %d, on %s\n\n", s.Source, clock(s.Time.Go()), s.Offset, s.Listen)
	if login.Password != "" {
		lines += "Let a server have the password:\n  CONFIG SET masterauth …\n"
	}
	if login.Username != "" {
		lines += "  CONFIG SET masteruser " + login.Username + "\n"
	}
	lines += fmt.Sprintf("Make a server a copy of it; what it holds is lost:\n  REPLICAOF %s %s\n", host, port)
	lines += fmt.Sprintf("When its INFO says slave_repl_offset:%d it has all, and goes on by itself with:\n  REPLICAOF NO ONE\n", s.Offset)
	_, err = fmt.Fprint(a.term.out, lines)
	return err
}
