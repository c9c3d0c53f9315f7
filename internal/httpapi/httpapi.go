// Package httpapi is how the daemon is seen from outside.
//
//	/metrics         Prometheus text; docs/metrics.md has every name (metrics.go)
//	/healthz         200 while the daemon works: no source's Run has ended in an error (health.go)
//	/readyz          200 while every source streams, nothing lags and nothing is too old, else why not,
//	                 a line each
//	/api/v1/status   what `offloader status --json` prints
//
// and, on the socket alone, POST /api/v1/sources/NAME/snapshot (snapshot.go), …/count (count.go), …/rdb (rdb.go)
// and …/promote/WHAT (promote.go).
//
// It shows what sources say of themselves at the moment somebody asks, and keeps nothing but two
// histograms and an hour of samples, from which it tells how fast things grow (growth.go). It is
// served on a TCP port for machines and on a socket in the spool, where `offloader status` finds
// the daemon without knowing its port (socket.go). What a network can reach is read-only, and all is
// bounded: methods, sizes, times, connections.
package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/offloader/offloader/internal/export"
	"github.com/offloader/offloader/internal/heartbeat"
	"github.com/offloader/offloader/internal/relay"
	"github.com/offloader/offloader/internal/source"
	"github.com/offloader/offloader/internal/stale"
	"github.com/offloader/offloader/internal/stream"
)

const (
	maxConns   = 64       // at once, on one listener
	maxHeader  = 16 << 10 // bytes
	headerTime = 5 * time.Second
	answerTime = 30 * time.Second
	idleTime   = time.Minute
	// closeTime is how long requests at work get when the daemon ends.
	closeTime = time.Second
)

// Report is what is known of the daemon and all its sources.
type Report struct {
	Version string   `json:"version"`
	Sources []Source `json:"sources"`
	Jobs    []Job    `json:"jobs"`

	Heartbeat *heartbeat.Status `json:"heartbeat"` // null where nobody is called

	FailedReload *FailedReload `json:"failed_reload"` // null while the configuration in force is the one that was read last
}

// FailedReload is a configuration that was found wrong, so that the one before stays in force.
type FailedReload struct {
	Time   stream.Time `json:"time"`
	Errors []string    `json:"errors"`
}

// Job is something that is done by the clock.
type Job struct {
	Name        string      `json:"name"`
	Schedule    string      `json:"schedule"`
	Next        stream.Time `json:"next"`    // when it begins next
	Running     stream.Time `json:"running"` // since when it runs, null while it doesn't
	Last        stream.Time `json:"last"`    // when the last run that has ended began, null: none did since the start
	TookSeconds float64     `json:"took_seconds"`
	Error       string      `json:"error"`        // of the last run, "" when it went well
	LastSuccess stream.Time `json:"last_success"` // when the last run ended that went well, null: none did since the start
}

// Source is what is known of one source.
type Source struct {
	source.Status
	// Ended says why the source is not being archived at all: its Run ended in this error, and will
	// be tried again. "" while it runs.
	Ended string `json:"ended,omitempty"`

	Relay    *Relay          `json:"relay,omitempty"`    // where its replicas attach, nil: nowhere
	Replicas []relay.Replica `json:"replicas,omitempty"` // that are attached there, or were
	Rebirth  *Rebirth        `json:"rebirth,omitempty"`  // nil: it can't be told what one would take
}

// Rebirth is what it would take to bring the source back now, if it died.
type Rebirth struct {
	Seconds  float64 `json:"predicted_seconds"`
	Snapshot int64   `json:"snapshot_bytes"` // of the RDB that it would get
	Log      int64   `json:"log_bytes"`      // of the stream behind that
	Measured bool    `json:"measured"`       // the rates are those of a replica; else they are a guess
	Replayed bool    `json:"replayed"`       // a scratch engine replays the stream before, so nobody reads what is old
}

// Relay is a source's relay.
type Relay struct {
	Listen string `json:"listen"`
	Error  string `json:"error,omitempty"` // why it is not open
}

// A Disk is a file system that can become full.
type Disk struct {
	Store   string                                // the store's name, "" for the spool
	Space   func() (free, total int64, err error) // in bytes
	MinFree func(total int64) int64               // with less free than that it counts as full
}

// Options say what to show.
type Options struct {
	Build   Build
	Sources func(now time.Time) []Source // in the order of the configuration
	Spool   interface {
		Used() int64    // bytes of stream
		MaxSize() int64 // bytes that it may hold
	}
	Disks   []Disk
	Metrics *Metrics
	Jobs    func() []Job // nil: there are none
	// MaxAge limits how old things may become; nil: the newest byte stored alone is limited.
	MaxAge    func() stale.Limits
	Heartbeat func() *heartbeat.Status // nil: there is none
	// FailedReload is the last reload, if it failed; nil: none ever does.
	FailedReload func() *FailedReload
	// Snapshot takes one of a source, and returns when every store has it; nil: it can't be asked for.
	Snapshot func(ctx context.Context, source string) (Snapshot, error)
	// Count has a source's master counted, and notes it in the archive; nil: it can't be asked for.
	Count func(ctx context.Context, source string) (Counted, error)
	// RDB gives use the dataset of a source as it is now, and returns what use does; nil: it can't
	// be asked for.
	RDB func(ctx context.Context, source string, use func(export.Point, io.Reader) error) error
	// Promote has a source that waits for its rebirth start from nothing ("empty") or from what there is
	// ("latest"), and when it has tells what that was, for people; nil: it can't be asked for.
	Promote func(ctx context.Context, source, what string) (string, error)
	Logger  *slog.Logger     // nil: silent
	Now     func() time.Time // nil: time.Now
}

// Build is what the program was made of.
type Build struct{ Version, Go, Commit string }

// Server answers requests.
type Server struct {
	o       Options
	growing *growing
	handler http.Handler
}

// New makes a server; Run makes it live.
func New(o Options) *Server {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	s := &Server{o: o, growing: newGrowing(o.Disks)}
	mux := http.NewServeMux()
	mux.Handle("/metrics", s.metrics())
	mux.HandleFunc("/healthz", s.healthz)
	mux.HandleFunc("/readyz", s.readyz)
	mux.HandleFunc("/api/v1/status", s.status)
	all := http.NewServeMux()
	all.Handle("/", readOnly(mux))
	all.HandleFunc("POST /api/v1/sources/{source}/snapshot", s.snapshot)
	all.HandleFunc("POST /api/v1/sources/{source}/count", s.count)
	all.HandleFunc("POST /api/v1/sources/{source}/rdb", s.rdb)
	all.HandleFunc("POST /api/v1/sources/{source}/promote/{what}", s.promote)
	s.handler = all
	return s
}

// Handler answers requests: what Run serves.
func (s *Server) Handler() http.Handler { return s.handler }

// Run serves on the listeners until ctx ends, and closes them.
func (s *Server) Run(ctx context.Context, listeners ...net.Listener) error {
	web := &http.Server{
		Handler:           s.handler,
		ReadHeaderTimeout: headerTime, ReadTimeout: headerTime, WriteTimeout: answerTime, IdleTimeout: idleTime,
		MaxHeaderBytes: maxHeader,
		ErrorLog:       slog.NewLogLogger(s.o.Logger.Handler(), slog.LevelDebug), // what clients do wrong
	}
	g, alive := errgroup.WithContext(ctx)
	for _, l := range listeners {
		g.Go(func() error {
			if err := web.Serve(limit(l, maxConns)); !errors.Is(err, http.ErrServerClosed) {
				return err
			}
			return nil
		})
	}
	g.Go(func() error {
		<-alive.Done()
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTime)
		defer cancel()
		if web.Shutdown(last) != nil {
			return web.Close()
		}
		return nil
	})
	g.Go(func() error { s.sample(alive); return nil })
	if err := g.Wait(); ctx.Err() == nil {
		return err
	}
	return nil
}

// sample looks at what grows, until ctx ends. Scrapes may be rare or absent; the rates don't depend
// on them.
func (s *Server) sample(ctx context.Context) {
	every := time.NewTicker(sampleEvery)
	defer every.Stop()
	for {
		now := s.o.Now()
		s.growing.look(s.o.Sources(now), s.o.Spool.Used(), s.o.Spool.MaxSize(), now)
		select {
		case <-ctx.Done():
			return
		case <-every.C:
		}
	}
}

// jobs are those of the daemon.
func (s *Server) jobs() []Job {
	if s.o.Jobs == nil {
		return []Job{}
	}
	return s.o.Jobs()
}

// heartbeat is how its calls go, nil where nobody is called.
func (s *Server) heartbeat() *heartbeat.Status {
	if s.o.Heartbeat == nil {
		return nil
	}
	return s.o.Heartbeat()
}

// failedReload is the last reload, nil where it didn't fail.
func (s *Server) failedReload() *FailedReload {
	if s.o.FailedReload == nil {
		return nil
	}
	return s.o.FailedReload()
}

// status is /api/v1/status.
func (s *Server) status(w http.ResponseWriter, _ *http.Request) {
	report := Report{Version: s.o.Build.Version, Sources: s.o.Sources(s.o.Now())}
	if report.Sources == nil {
		report.Sources = []Source{}
	}
	report.Jobs = s.jobs()
	report.Heartbeat, report.FailedReload = s.heartbeat(), s.failedReload()
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	if err := e.Encode(report); err != nil {
		s.o.Logger.Debug("an answer could not be sent", "error", err)
	}
}

// readOnly refuses what could only be meant to change something.
func readOnly(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "this can only be read: GET or HEAD", http.StatusMethodNotAllowed)
			return
		}
		w.Header().Set("X-Content-Type-Options", "nosniff")
		h.ServeHTTP(w, r)
	})
}

// answer is a few lines of text.
func answer(w http.ResponseWriter, code int, lines ...string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	_, _ = w.Write([]byte(strings.Join(lines, "\n") + "\n")) // whoever asked has left
}

// limited is a listener with at most as many connections at once as it has slots.
type limited struct {
	net.Listener
	slots  chan struct{}
	closed chan struct{}
	close  func() error
}

func limit(l net.Listener, n int) net.Listener {
	closed := make(chan struct{})
	return &limited{l, make(chan struct{}, n), closed, sync.OnceValue(func() error { close(closed); return l.Close() })}
}

// Accept waits for a slot.
func (l *limited) Accept() (net.Conn, error) {
	select {
	case l.slots <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.slots
		return nil, err
	}
	return &slotted{Conn: c, slots: l.slots}, nil
}

// Close ends Accept too where it waits for a slot.
func (l *limited) Close() error { return l.close() }

// slotted gives its slot back when it is closed. Only the server closes it.
type slotted struct {
	net.Conn
	slots chan struct{}
	gave  atomic.Bool
}

func (c *slotted) Close() error {
	if !c.gave.Swap(true) {
		<-c.slots
	}
	return c.Conn.Close()
}
