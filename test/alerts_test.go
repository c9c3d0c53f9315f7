package test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/engine/enginetest"
	"github.com/offloader/offloader/test/blackbox"
)

// scrape is what Prometheus has of a daemon at one moment.
type scrape map[string]float64

// scraped reads a daemon's metrics as Prometheus stores them: with the labels of the scrape, before which a label "job" of the
// daemon's own gives way. promtool's clock begins at 0 with the first scrape, so moments are told as seconds since.
func scraped(t *testing.T, d *blackbox.Daemon) scrape {
	t.Helper()
	now := float64(time.Now().UnixMilli()) / 1000
	all := scrape{`up{job="offloader",instance="here"}`: 1}
	for name, value := range series(t, d.Get("/metrics")) {
		if !strings.HasPrefix(name, "offloader_") || strings.Contains(name, "_bucket{") {
			continue
		}
		name, labels, _ := strings.Cut(strings.TrimSuffix(name, "}"), "{")
		if strings.HasSuffix(name, "_timestamp_seconds") {
			value -= now
		}
		labels = strings.TrimPrefix(strings.Replace(","+labels, `,job="`, `,exported_job="`, 1), ",")
		if labels != "" {
			labels = "," + labels
		}
		all[fmt.Sprintf(`%s{job="offloader",instance="here"%s}`, name, labels)] = value
	}
	return all
}

// with is the scrape with another value of a metric that it has.
func (s scrape) with(t *testing.T, metric string, value float64) scrape {
	t.Helper()
	other, found := scrape{}, false
	for name, v := range s {
		if strings.HasPrefix(name, metric+"{") {
			v, found = value, true
		}
		other[name] = v
	}
	require.True(t, found, "the daemon has no %s", metric)
	return other
}

// prometheus writes promtool's test of one expression, one hour after half an hour of before and then of after.
func prometheus(before, after scrape, expr string, value int) string {
	var y strings.Builder
	fmt.Fprintf(&y, "  - interval: 1m\n    input_series:\n")
	// It knows no infinity there; what is as large is as good for our thresholds.
	number := func(v float64) string { return strconv.FormatFloat(min(v, 1e15), 'f', -1, 64) }
	for name, v := range after {
		was, ok := before[name]
		if !ok {
			was = v
		}
		fmt.Fprintf(&y, "      - {series: '%s', values: '%sx30 %sx60'}\n", name, number(was), number(v))
	}
	fmt.Fprintf(&y, "    promql_expr_test:\n      - {expr: '%s', eval_time: 1h, exp_samples: [{labels: '{}', value: %d}]}\n", expr, value)
	return y.String()
}

// TestAlerts fires each alert of configs/alerts.yaml in Prometheus' own evaluation, on what a real daemon tells: in real trouble, or,
// where that takes days or a disk, when it is well but for one value. While it is well none fires.
func TestAlerts(t *testing.T) {
	t.Parallel()
	master, replica := enginetest.Start(t, enginetest.Any(t)), enginetest.Start(t, enginetest.Any(t))
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer server.Close()
	dir, port := t.TempDir(), enginetest.FreePort(t)
	store := filepath.Join(dir, "archive")
	// What was due long ago is done at the start.
	require.NoError(t, os.Mkdir(filepath.Join(dir, "spool"), 0o750))
	missed := fmt.Sprintf(`{"verify %s": "2026-01-01T00:00:00Z", "boot cache": "2026-01-01T00:00:00Z"}`, store)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "spool", ".jobs.json"), []byte(missed), 0o600))
	d := blackbox.StartWith(t, dir, fmt.Sprintf(`
sources: [{name: cache, address: %q, relay: {listen: "127.0.0.1:%d"}}]
spool: {path: $DIR/spool, min_free: 1%%}
stores: [{type: disk, path: $DIR/archive}]
verify: {schedule: "@every 1m", boot: true}
heartbeat: {url: %q}
`, master.Addr(), port, server.URL), program(t, master.Kind()))
	until := func(d *blackbox.Daemon, metric string, ok func(float64) bool) (s scrape) {
		t.Helper()
		require.Eventually(t, func() bool {
			s = scraped(t, d)
			for name, v := range s {
				if strings.HasPrefix(name, metric) && ok(v) {
					return true
				}
			}
			return false
		}, time.Minute, 50*time.Millisecond, "%s", metric)
		return s
	}
	is := func(want float64) func(float64) bool { return func(v float64) bool { return v == want } }
	there := func(float64) bool { return true }

	d.Streaming("cache")
	follow(replica, port)
	for i := range 20 {
		master.Do("SET", fmt.Sprint("k", i), "v")
	}
	acknowledged(t, master, 1)
	same(t, master, replica)
	until(d, "offloader_heartbeat_last_success_timestamp_seconds", there)
	until(d, "offloader_store_verified_timestamp_seconds", there)
	until(d, "offloader_store_booted_timestamp_seconds", there)
	until(d, "offloader_boot_findings", is(0))
	well := until(d, "offloader_replica_lag_bytes", is(0))

	rightly, err := os.ReadFile(filepath.Join(dir, "offloader.yaml"))
	require.NoError(t, err)
	d.Rewrite("sources: many")
	d.Reload()
	reload := until(d, "offloader_reload_failing", is(1))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "offloader.yaml"), rightly, 0o600))
	d.Reload()
	back := away(t, store)
	master.Do("SET", "k", "v")
	failing := until(d, "offloader_store_failing", is(1))
	back()
	until(d, "offloader_store_failing", is(0))
	master.Kill()
	down := until(d, `offloader_source_state{job="offloader",instance="here",source="cache",state="streaming"}`, is(0))
	master.Restart()
	suspect := until(d, "offloader_source_suspect", is(1))
	master.Kill()
	master.Restart("--replicaof", fmt.Sprintf("127.0.0.1 %d", port), "--replica-serve-stale-data", "no")
	waiting := until(d, "offloader_rebirth_waiting", is(1))
	taken := blackbox.StartWith(t, t.TempDir(), fmt.Sprintf(`
sources: [{name: cache, address: %q, relay: {listen: "127.0.0.1:%d"}}]
spool: {path: $DIR/spool, min_free: 1%%}
stores: [{type: disk, path: $DIR/archive}]
`, master.Addr(), master.Port()))
	closed := until(taken, "offloader_relay_failing", is(1))

	const day = 86400
	fired := []struct {
		alert string
		on    scrape
	}{
		{"OffloaderDown", well.with(t, "up", 0)},
		{"OffloaderNotStreaming", down},
		{"OffloaderSourceEnded", well.with(t, "offloader_source_ended", 1)},
		{"OffloaderNotDurable", well.with(t, "offloader_not_durable_seconds", 20)},
		{"OffloaderSuspect", suspect},
		{"OffloaderRebirthWaiting", waiting},
		{"OffloaderRebirthTooLong", well.with(t, "offloader_rebirth_predicted_seconds", 400)},
		{"OffloaderRelayFailing", closed},
		{"OffloaderReplicaBehind", well.with(t, "offloader_replica_lag_bytes", 1<<30)},
		{"OffloaderReplicaCopiesAgain", well.with(t, "offloader_replica_full_syncs_total", 9)},
		{"OffloaderFullResyncs", well.with(t, "offloader_full_resyncs_total", 9)},
		{"OffloaderStoreFailing", failing},
		{"OffloaderStoreBehind", well.with(t, "offloader_store_lag_seconds", 600)},
		{"OffloaderSpoolFilling", well.with(t, "offloader_spool_full_seconds", 3600)},
		{"OffloaderStoreFilling", well.with(t, "offloader_store_full_seconds", day)},
		{"OffloaderSnapshotOld", well.with(t, "offloader_store_snapshot_timestamp_seconds", -3*day)},
		{"OffloaderVerifyOld", well.with(t, "offloader_store_verified_timestamp_seconds", -9*day)},
		{"OffloaderDamaged", well.with(t, "offloader_store_verify_findings", 2)},
		{"OffloaderBootDiffers", well.with(t, "offloader_boot_findings", 1)},
		{"OffloaderBootOld", well.with(t, "offloader_store_booted_timestamp_seconds", -9*day)},
		{"OffloaderJobFailed", well.with(t, "offloader_job_failing", 1)},
		{"OffloaderReloadFailing", reload},
		{"OffloaderHeartbeatFailing", well.with(t, "offloader_heartbeat_failing", 1)},
	}
	rules, err := filepath.Abs("../configs/alerts.yaml")
	require.NoError(t, err)
	text := fmt.Sprintf("rule_files: [%s]\nevaluation_interval: 1m\ntests:\n", rules) + prometheus(well, well, "count(ALERTS) or vector(0)", 0)
	var names []string
	for _, f := range fired {
		text += prometheus(well, f.on, fmt.Sprintf(`clamp_max(count(ALERTS{alertname="%s",alertstate="firing"}), 1)`, f.alert), 1)
		names = append(names, f.alert)
	}
	var all []string
	for _, a := range alerts(t) {
		all = append(all, a.name)
	}
	require.Equal(t, all, names, "each alert is fired here")
	tests := filepath.Join(t.TempDir(), "tests.yaml")
	require.NoError(t, os.WriteFile(tests, []byte(text), 0o600))
	out, err := exec.CommandContext(t.Context(), "../.cache/prometheus/promtool", "test", "rules", tests).CombinedOutput()
	require.NoError(t, err, "%s: scripts/promtool fetches it", out)
}

// alert is a rule of configs/alerts.yaml.
type alert struct{ name, expr, severity, summary, runbook string }

// alerts are the rules, as that file writes them: promtool reads it as YAML.
func alerts(t *testing.T) (all []alert) {
	t.Helper()
	text, err := os.ReadFile("../configs/alerts.yaml")
	require.NoError(t, err)
	field := func(rule, name string) string {
		found := regexp.MustCompile(`\b` + name + `: "?([^"}\n]+)`).FindStringSubmatch(rule)
		require.NotNil(t, found, "%s: %s", name, rule)
		return found[1]
	}
	for _, rule := range strings.Split(string(text), "- alert: ")[1:] {
		name, rest, _ := strings.Cut(rule, "\n")
		expr, _, _ := strings.Cut(strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(rest), "expr: ")), "\n")
		all = append(all, alert{name, expr, field(rest, "severity"), field(rest, "summary"), field(rest, "runbook_url")})
	}
	return all
}

// TestAlertsLead: each alert says what is the matter and leads to a chapter of the runbook that is there, and asks only for what
// docs/metrics.md tells of.
func TestAlertsLead(t *testing.T) {
	t.Parallel()
	metrics, err := os.ReadFile("../docs/metrics.md")
	require.NoError(t, err)
	runbook, err := os.ReadFile("../docs/operations.md")
	require.NoError(t, err)
	var chapters []string
	for _, title := range regexp.MustCompile(`(?m)^##+ (.*)$`).FindAllStringSubmatch(string(runbook), -1) {
		kept := regexp.MustCompile(`[^a-z0-9 -]`).ReplaceAllString(strings.ToLower(title[1]), "")
		chapters = append(chapters, strings.ReplaceAll(kept, " ", "-"))
	}
	for _, a := range alerts(t) {
		require.Contains(t, []string{"page", "ticket"}, a.severity, a.name)
		page, chapter, _ := strings.Cut(a.runbook, "#")
		require.Equal(t, "https://github.com/offloader/offloader/blob/main/docs/operations.md", page, a.name)
		require.Contains(t, chapters, chapter, a.name)
		for _, metric := range regexp.MustCompile(`offloader_\w+`).FindAllString(a.expr, -1) {
			require.Contains(t, string(metrics), "| `"+metric+"` |", a.name)
		}
	}
}
