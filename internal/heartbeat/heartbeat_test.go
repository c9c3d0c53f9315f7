package heartbeat

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const secret = "6f1c0ffe"

// journal is a log that can be read while it is written.
type journal struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.b.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.b.String()
}

// answers stands for whoever is called.
type answers func() (*http.Response, error)

func (a answers) RoundTrip(*http.Request) (*http.Response, error) { return a() }

// Called once a minute while all is well, not while it isn't, at once when it is again, and no more
// often when the calls fail, which is told once.
func TestWhenItIsCalled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log journal
		var calls, broken, failing atomic.Int64
		b := New("https://hc.example.com/"+secret, slog.New(slog.NewTextHandler(&log, nil)))
		b.client.Transport = answers(func() (*http.Response, error) {
			calls.Add(1)
			if failing.Load() > 0 {
				return nil, errors.New("connection refused")
			}
			return &http.Response{StatusCode: http.StatusOK, Status: "200 OK", Body: io.NopCloser(strings.NewReader("OK"))}, nil
		})
		wrong := func() []string { return make([]string, broken.Load()) }
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); b.Run(ctx, wrong) }()
		after := func(d time.Duration, want int64) {
			t.Helper()
			time.Sleep(d)
			synctest.Wait()
			require.Equal(t, want, calls.Swap(0))
		}
		broken.Store(1)
		after(10*time.Minute, 0)
		require.Zero(t, b.Status().Last)
		broken.Store(0)
		after(2*time.Second, 1)
		after(10*time.Minute, 10)
		require.WithinDuration(t, time.Now(), b.Status().Last.Go(), time.Minute)
		require.Empty(t, log.String())

		failing.Store(1)
		after(10*time.Minute, 10)
		require.Equal(t, "connection refused", b.Status().Error)
		require.Equal(t, 1, strings.Count(log.String(), "connection refused"), "%s", &log)
		failing.Store(0)
		after(time.Minute, 1)
		require.Empty(t, b.Status().Error)
		require.Contains(t, log.String(), "taken again")
		require.NotContains(t, log.String(), secret)
		cancel()
		<-ended
	})
}

// Whatever answers, or doesn't, nothing tells the URL, and nobody else is called.
func TestWhoAnswers(t *testing.T) {
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("a redirect was followed") }))
	defer elsewhere.Close()
	stop := make(chan struct{})
	for name, row := range map[string]struct {
		answer http.HandlerFunc
		want   string
	}{
		"well":     {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }, ""},
		"redirect": {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, elsewhere.URL, http.StatusFound) }, "it answers 302 Found, and redirects are not followed: give the URL that it leads to"},
		"unknown":  {http.NotFound, "it answers 404 Not Found"},
		"hangs":    {func(http.ResponseWriter, *http.Request) { <-stop }, "Client.Timeout exceeded"},
		"hangs up": {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			var got atomic.Pointer[http.Request]
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { got.Store(r); row.answer(w, r) }))
			b := New(server.URL+"/"+secret, slog.New(slog.DiscardHandler))
			b.client.Timeout = 200 * time.Millisecond
			err := b.call(t.Context())
			if name == "hangs" {
				close(stop)
			}
			server.Close()
			require.Equal(t, "/"+secret, got.Load().URL.Path)
			require.Equal(t, http.MethodGet, got.Load().Method)
			if row.want == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, row.want)
			require.NotContains(t, err.Error(), secret)
			err = b.call(t.Context())
			require.ErrorContains(t, err, "refused")
			require.NotContains(t, err.Error(), secret)
		})
	}
	var nobody *Beat
	require.Equal(t, nobody, New("", nil))
	require.Nil(t, nobody.Status())
	nobody.Run(t.Context(), nil)
}
