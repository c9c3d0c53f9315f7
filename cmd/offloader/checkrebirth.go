package main

import (
	"context"
	"net"
	"slices"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/check"
	"github.com/offloader/offloader/internal/config"
	"github.com/offloader/offloader/internal/engine"
	"github.com/offloader/offloader/internal/rebirth"
)

// besideAtMost is how many of a master's replicas check asks, all at once.
const besideAtMost = 16

// rebirthOf tells whether a source that has a relay would come back through it.
func rebirthOf(ctx context.Context, s config.Source, c *config.Config, m asked, cats []*archive.Catalog) []check.Finding {
	if s.Relay == nil || m.facts == nil { // what keeps it from being asked is said
		return nil
	}
	back, err := m.master.AskComeback(ctx, m.facts)
	if err != nil {
		return []check.Finding{failed("rebirth", err)}
	}
	product, version := m.facts.Product()
	_, unable := engine.FindLike(ctx, product, version, engines(c))
	if unable == nil {
		_, unable = engine.Room(m.facts.Dataset())
	}
	through := check.Through{
		Listen: s.Relay.Listen, Login: s.Relay.Username, Password: string(s.Relay.Password), Start: lastStart(cats), Replay: unable,
	}
	through.Beside, through.More = want{Source: s, tls: m.master.TLS}.beside(ctx)
	return check.AdviseRebirth(back, s.Username, through)
}

// beside asks the replicas that follow the master itself what they are, but for what listens nowhere.
func (w want) beside(ctx context.Context) (all []rebirth.Server, more int) {
	replicas := slices.DeleteFunc(w.askAll(ctx, []string{w.Address})[0].master.Replicas, func(address string) bool {
		_, port, err := net.SplitHostPort(address)
		return err != nil || port == "0" || address == w.Announce // that is our own daemon
	})
	slices.Sort(replicas)
	more = max(0, len(replicas)-besideAtMost)
	replicas = replicas[:len(replicas)-more]
	for i, a := range w.askAll(ctx, replicas) {
		all = append(all, a.server(replicas[i]))
	}
	return all, more
}

// lastStart tells how a source's server was last started. It takes all stores to know which timeline is the last: one
// that lags ends with another.
func lastStart(cats []*archive.Catalog) archive.Start {
	var all archive.Catalog
	for _, c := range cats {
		for _, t := range c.Timelines {
			all.Add(t)
		}
	}
	return all.LastStart()
}
