package heartbeat

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Whoever is called is reached, or it is said why not; nobody is called, and nothing tells the URL.
func TestReach(t *testing.T) {
	called := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("a call was made") })
	plain, secure := httptest.NewServer(called), httptest.NewUnstartedServer(called)
	secure.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError) // it complains of who hangs up
	secure.StartTLS()
	defer plain.Close()
	defer secure.Close()
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { require.NoError(t, silent.Close()) }()
	trusted := &tls.Config{RootCAs: x509.NewCertPool(), MinVersion: tls.VersionTLS12}
	trusted.RootCAs.AddCert(secure.Certificate())
	for name, row := range map[string]struct {
		url   string
		trust *tls.Config
		says  string
		fails string
	}{
		"plain":        {plain.URL, trusted, strings.TrimPrefix(plain.URL, "http://") + " takes a connection", ""},
		"TLS":          {secure.URL, trusted, "has a certificate that is trusted here", ""},
		"a stranger":   {secure.URL, &tls.Config{MinVersion: tls.VersionTLS12}, "", "certificate"},
		"no TLS there": {"https://" + strings.TrimPrefix(plain.URL, "http://"), trusted, "", "can't be reached"},
		"nobody":       {"http://127.0.0.1:1", trusted, "", "127.0.0.1:1 can't be reached"},
		"no such host": {"https://nowhere.invalid", trusted, "", "nowhere.invalid can't be reached"},
		"silence":      {"https://" + silent.Addr().String(), trusted, "", "deadline exceeded"},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			if name == "silence" {
				ctx, cancel = context.WithTimeout(t.Context(), 100*time.Millisecond)
			}
			defer cancel()
			reached, err := reach(ctx, row.url+"/"+secret, row.trust)
			if row.fails == "" {
				require.NoError(t, err)
				require.Contains(t, reached, row.says)
				require.NotContains(t, reached, secret)
				return
			}
			require.ErrorContains(t, err, row.fails)
			require.NotContains(t, err.Error(), secret)
		})
	}
}
