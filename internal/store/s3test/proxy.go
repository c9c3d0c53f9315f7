package s3test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync"
	"time"

	"github.com/offloader/offloader/internal/engine/enginetest"
)

// Fault is what a proxy does to a request. The zero Fault is none.
type Fault struct {
	Status int    // answered in the server's stead, which never sees the request
	Code   string // S3's name for it
	Lose   bool   // the server does as it is told, and its answer is lost
	CutUp  int64  // the connection breaks after so many bytes of the request's body
	Cut    int64  // the connection breaks after so many bytes of the answer's body
	Flip   bool   // a bit of the answer's body is turned over
	Rate   int64  // the request's body arrives at so many bytes a second
	Before func() // called first
}

// Proxy stands before a server and does harm.
type Proxy struct {
	web   *httptest.Server
	mu    sync.Mutex
	fault func(r *http.Request) Fault
	watch func(r *http.Request, status int)
}

// NewProxy puts one before a server.
func NewProxy(t enginetest.TB, server *Server) *Proxy {
	p := &Proxy{watch: func(*http.Request, int) {}}
	p.Mend()
	to, err := url.Parse(server.Endpoint())
	if err != nil {
		t.Fatalf("%v", err)
	}
	p.web = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { p.serve(w, r, to) }))
	t.Cleanup(p.web.Close)
	return p
}

// Endpoint is the proxy's URL.
func (p *Proxy) Endpoint() string { return p.web.URL }

// Harm says what is done to each request from now on.
func (p *Proxy) Harm(fault func(r *http.Request) Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fault = fault
}

// Mend ends all harm.
func (p *Proxy) Mend() { p.Harm(func(*http.Request) Fault { return Fault{} }) }

// Watch has somebody told of each answer that the server gives from now on.
func (p *Proxy) Watch(answered func(r *http.Request, status int)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.watch = answered
}

var errHarm = errors.New("harm is done here")

func (p *Proxy) serve(w http.ResponseWriter, r *http.Request, to *url.URL) {
	p.mu.Lock()
	fault, watch := p.fault(r), p.watch
	p.mu.Unlock()
	if fault.Before != nil {
		fault.Before()
	}
	if fault.CutUp > 0 {
		_, _ = io.CopyN(io.Discard, r.Body, fault.CutUp)
		panic(http.ErrAbortHandler)
	}
	if fault.Status != 0 {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/xml")
		w.WriteHeader(fault.Status)
		if r.Method != http.MethodHead {
			_, _ = fmt.Fprintf(w, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>%s</Code><Message>so the proxy says</Message></Error>", fault.Code)
		}
		return
	}
	if fault.Rate > 0 {
		r.Body = &trickle{r.Body, r.Context(), fault.Rate}
	}
	(&httputil.ReverseProxy{
		// The host that was signed stays.
		Rewrite: func(pr *httputil.ProxyRequest) { pr.Out.URL.Scheme, pr.Out.URL.Host = to.Scheme, to.Host },
		ModifyResponse: func(a *http.Response) error {
			watch(r, a.StatusCode)
			if fault.Lose {
				_, _ = io.Copy(io.Discard, a.Body)
				return errHarm
			}
			if fault.Flip {
				body, err := io.ReadAll(a.Body)
				if err != nil || len(body) == 0 {
					return errHarm
				}
				body[len(body)/2] ^= 1
				a.Body = io.NopCloser(bytes.NewReader(body))
			}
			if fault.Cut > 0 {
				a.Body = struct {
					io.Reader
					io.Closer
				}{io.MultiReader(io.LimitReader(a.Body, fault.Cut), broken{}), a.Body}
			}
			return nil
		},
		ErrorHandler:  func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
		ErrorLog:      slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
		FlushInterval: -1,
	}).ServeHTTP(w, r)
}

// trickle is a body that comes slowly.
type trickle struct {
	io.ReadCloser
	ctx  context.Context // the request's: whoever sends may give up
	rate int64
}

func (t *trickle) Read(p []byte) (int, error) {
	const ticks = 20 // a second
	n, err := t.ReadCloser.Read(p[:min(int64(len(p)), max(1, t.rate/ticks))])
	select {
	case <-time.After(time.Duration(n) * time.Second / time.Duration(t.rate)):
	case <-t.ctx.Done():
		return n, context.Cause(t.ctx)
	}
	return n, err
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errHarm }
