// Package heartbeat calls a URL for as long as all is well.
//
// Who is called misses the calls, and raises the alarm: that is what notices a daemon, a host or a
// network that is gone, which can raise none. So nothing is called while something is wrong. All well,
// there is a call a minute; after trouble the first comes within a second. A call that fails is logged
// once, shown in the status and made again a minute later. It harms nothing else.
//
// The URL may be a secret: whoever knows it can keep the alarm silent. So it is in no log, no error and
// no status; only the host is.
package heartbeat

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/offloader/offloader/internal/stream"
)

const (
	// every is the time between two calls.
	every = time.Minute
	// look is how often it is asked whether all is well again.
	look = time.Second
	// patience is what a call may take.
	patience = 10 * time.Second
)

// Status is how the calls go.
type Status struct {
	Host  string      `json:"host"`  // who is called
	Last  stream.Time `json:"last"`  // when a call was last taken, null: none was
	Error string      `json:"error"` // of the last call, "" when it was taken
}

// Beat is one URL that is called. A nil Beat calls nobody.
type Beat struct {
	url    string
	client *http.Client
	log    *slog.Logger

	mu    sync.Mutex
	state Status
}

// New makes a Beat of a URL, nil of "". Run makes it live.
func New(address string, log *slog.Logger) *Beat {
	if address == "" {
		return nil
	}
	host := ""
	if u, err := url.Parse(address); err == nil {
		host = u.Host
	}
	return &Beat{url: address, log: log.With("heartbeat", host), state: Status{Host: host}, client: &http.Client{
		Timeout: patience,
		// A connection that is used once a minute isn't worth keeping.
		Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true},
		// Elsewhere nobody has been told that we call, nor is the URL their business.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// Status is how the calls go, nil where nobody is called.
func (b *Beat) Status() *Status {
	if b == nil {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.state
	return &s
}

// Run calls while wrong has nothing to say, until ctx ends.
func (b *Beat) Run(ctx context.Context, wrong func() []string) {
	if b == nil {
		return
	}
	tick := time.NewTicker(look)
	defer tick.Stop()
	for called := (time.Time{}); ; {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			if now.Sub(called) < every || len(wrong()) > 0 {
				continue
			}
			called = now
			b.note(ctx, b.call(ctx), time.Now())
		}
	}
}

// call makes one call.
func (b *Beat) call(ctx context.Context) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, b.url, http.NoBody)
	if err != nil {
		return errors.New("that is no URL") // err has it
	}
	r.Header.Set("User-Agent", "offloader")
	answer, err := b.client.Do(r)
	if err != nil {
		var told *url.Error
		if errors.As(err, &told) { // it has the URL too
			err = told.Err
		}
		return err
	}
	if err := answer.Body.Close(); err != nil {
		return err
	}
	switch answer.StatusCode / 100 {
	case 2:
		return nil
	case 3:
		return fmt.Errorf("it answers %s, and redirects are not followed: give the URL that it leads to", answer.Status)
	}
	return fmt.Errorf("it answers %s", answer.Status)
}

// note keeps how a call went, and logs a change of it.
func (b *Beat) note(ctx context.Context, err error, now time.Time) {
	if ctx.Err() != nil {
		return
	}
	b.mu.Lock()
	was := b.state.Error
	if b.state.Error = ""; err != nil {
		b.state.Error = err.Error()
	} else {
		b.state.Last = stream.TimeOf(now)
	}
	b.mu.Unlock()
	switch {
	case err != nil && was == "":
		b.log.Warn("all is well, and the heartbeat can't say so", "error", err)
	case err == nil && was != "":
		b.log.Info("the heartbeat is taken again")
	}
}
