package main

import (
	"context"
	"encoding/json"

	"github.com/offloader/offloader/internal/check"
	"github.com/offloader/offloader/internal/config"
	"github.com/offloader/offloader/internal/httpapi"
	"github.com/offloader/offloader/internal/relay"
)

// running is what the daemon at work on the spool says of its sources: nothing where there is none.
func (a *app) running(ctx context.Context, c *config.Config, runs bool) (r httpapi.Report) {
	if !runs {
		return r
	}
	answer, err := askDaemon(ctx, c.Spool.Path, c.HTTP.Listen)
	if err != nil || json.Unmarshal(answer, &r) != nil {
		return httpapi.Report{}
	}
	return r
}

// checkRelay looks at the relay of a source that has one.
func checkRelay(ctx context.Context, s config.Source, daemon httpapi.Report) []check.Finding {
	if s.Relay == nil {
		return nil
	}
	r := check.Relay{Listen: s.Relay.Listen, Loopback: config.Loopback(s.Relay.Listen), TLS: s.Relay.TLS != nil}
	for _, d := range daemon.Sources {
		if d.Name != s.Name || d.Relay == nil || d.Relay.Listen != s.Relay.Listen {
			continue
		}
		r.Running = &check.RunningRelay{Error: d.Relay.Error}
		for _, replica := range d.Replicas {
			if replica.State != relay.Away {
				r.Running.Attached++
			}
		}
	}
	return r.Check(ctx)
}
