package test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/engine/enginetest"
	"github.com/offloader/offloader/test/blackbox"
)

// TestAlarms: an archive that nothing has come to for years is told by /readyz and by check, by the
// limits in force. When all is well again, /readyz says so and the heartbeat is called; nobody learns
// its URL.
func TestAlarms(t *testing.T) {
	t.Parallel()
	const patience = 30 * time.Second
	master := enginetest.Start(t, enginetest.Any(t))
	called := make(chan string, 16)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { called <- r.URL.Path }))
	defer server.Close()
	dir := t.TempDir()
	old := filepath.Join(dir, "archive", "cache", "20200101T000000.000Z-01234567")
	snapshot := filepath.Join(old, "snapshots", "00000000000000000100-1577836801000")
	require.NoError(t, os.MkdirAll(filepath.Dir(snapshot), 0o750))
	for file, text := range map[string]string{
		filepath.Join(old, "timeline.json"): `{"format": 1, "source": "cache", "timeline": "20200101T000000.000Z-01234567", "replid": "0123456701234567012345670123456701234567",
			"offset": 100, "began": "2020-01-01T00:00:00.000Z", "spool": "of old", "reason": "first contact"}`,
		snapshot + ".rdb.zst": "", snapshot + ".json": `{"offset": 100, "time": "2020-01-01T00:00:01.000Z"}`,
	} {
		require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	}
	config := func(address, limits string) string {
		return fmt.Sprintf(`
sources: [{name: cache, address: %q}]
spool: {path: $DIR/archive/.spool, min_free: 1%%}
stores: [{type: disk, path: $DIR/archive}]
snapshots: {schedule: "@daily"}
verify: {schedule: "@daily"}
max_age: %s
heartbeat: {url: "%s/secret-token"}
`, address, limits, server.URL)
	}
	d := blackbox.StartWith(t, dir, config(fmt.Sprintf("127.0.0.1:%d", enginetest.FreePort(t)), "{snapshot: 2d, stored: 10m, verify: 8d}"))
	ready := func(want ...string) {
		t.Helper()
		body := ""
		require.Eventually(t, func() bool {
			body = d.Get("/readyz")
			for _, w := range want {
				if !strings.Contains(body, w) {
					return false
				}
			}
			return true
		}, patience, 20*time.Millisecond, "%v: %s", want, &body)
	}
	store := "cache: store " + d.Dir + ": "
	ready("cache: waiting to connect again", store+"its newest snapshot is of ", store+"its newest byte was received ", store+"it was never verified, and began ")
	r := d.Run("check")
	require.Equal(t, 1, r.Code)
	require.Contains(t, r.Stdout, "max_age.snapshot is 2 days")
	require.Empty(t, called)

	d.Rewrite(config(master.Addr(), "{snapshot: 2d, stored: 10m}"))
	d.Reload()
	d.Until("cache", "streaming from where it is now", func(s blackbox.SourceStatus) bool { return s.State == "streaming" && s.Master == master.Addr() })
	ready("ok\n")
	select {
	case path := <-called:
		require.Equal(t, "/secret-token", path)
	case <-time.After(patience):
		t.Fatal("nobody was called")
	}
	host := strings.TrimPrefix(server.URL, "http://")
	require.Eventually(t, func() bool {
		return strings.Contains(d.Get("/metrics"), "offloader_heartbeat_last_success_timestamp_seconds ")
	}, patience, 20*time.Millisecond)
	status := d.Do("status")
	require.Contains(t, status, "heartbeat to "+host)
	require.Contains(t, status, "not verified yet")
	require.Zero(t, d.Run("check").Code)
	for _, text := range []string{status, d.Do("status", "--json"), d.LogText(), d.Get("/metrics")} {
		require.NotContains(t, text, "secret-token")
	}
}
