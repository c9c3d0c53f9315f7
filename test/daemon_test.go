package test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/engine/enginetest"
	"github.com/offloader/offloader/internal/httpapi"
	"github.com/offloader/offloader/test/blackbox"
)

// get asks a daemon by the socket in its spool.
func get(t *testing.T, d *blackbox.Daemon, path string) (int, string) {
	t.Helper()
	answer, err := httpapi.ClientIn(filepath.Join(d.Dir, ".spool")).Get("http://offloader" + path)
	require.NoError(t, err)
	body, err := io.ReadAll(answer.Body)
	require.NoError(t, err)
	require.NoError(t, answer.Body.Close())
	return answer.StatusCode, string(body)
}

// series reads what a scrape gives, by name and labels.
func series(t *testing.T, body string) map[string]float64 {
	t.Helper()
	all := map[string]float64{}
	for line := range strings.Lines(body) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		name, value, ok := strings.Cut(strings.TrimSpace(line), "} ")
		if ok {
			name += "}"
		} else {
			name, value, _ = strings.Cut(strings.TrimSpace(line), " ")
		}
		v, err := strconv.ParseFloat(value, 64)
		require.NoError(t, err, line)
		all[name] = v
	}
	return all
}

// What can be seen of a daemon, from its first look at a master to its end: status, metrics,
// health; and that nothing stays behind in the spool.
func TestADaemonIsSeenFromOutside(t *testing.T) {
	t.Parallel()
	enginetest.Each(t, func(t *testing.T, kind enginetest.Kind) {
		t.Parallel()
		master := enginetest.Start(t, kind)
		d := blackbox.Start(t, t.TempDir(), blackbox.Source{Name: "cache", Address: master.Addr()})
		d.Streaming("cache")
		master.Do("SET", "k", "v")
		require.EqualValues(t, 1, master.Do("WAIT", 1, 10_000))
		offset := master.Offset()

		s := d.Durable("cache", offset)
		require.Equal(t, master.Addr(), s.Master)
		require.Equal(t, master.Info("replication")["master_replid"], s.ReplID)
		require.GreaterOrEqual(t, s.Received, s.Durable)
		require.EqualValues(t, 1, s.FullResyncs)
		require.EqualValues(t, 0, s.PartialResyncs)
		require.NotNil(t, s.LastSnapshot)
		require.Positive(t, s.Spool.Bytes)
		require.Equal(t, []string{d.Dir}, []string{s.Stores[0].Name})
		require.Regexp(t, `^cache: every moment from \d\d:\d\d:\d\d to [0-9.]+ m?s ago can be restored; 0 B not yet durable\n`, d.Do("status"))
		_, body := get(t, d, "/api/v1/status")
		require.JSONEq(t, withoutTimes(body), withoutTimes(d.Do("status", "--json")))

		code, body := get(t, d, "/metrics")
		require.Equal(t, http.StatusOK, code)
		m := series(t, body)
		require.Equal(t, 1.0, m[`offloader_source_state{source="cache",state="streaming"}`])
		require.GreaterOrEqual(t, m[`offloader_durable_offset_bytes{source="cache"}`], float64(offset))
		require.Equal(t, 1.0, m[`offloader_full_resyncs_total{source="cache"}`])
		require.Positive(t, m["offloader_fsync_duration_seconds_count"])
		require.Positive(t, m[`offloader_ack_duration_seconds_count{source="cache"}`])
		require.Positive(t, m["process_resident_memory_bytes"])
		code, body = get(t, d, "/readyz")
		require.Equal(t, http.StatusOK, code, body)

		master.Kill()
		d.Until("cache", "down", func(s blackbox.SourceStatus) bool { return s.State != "streaming" && s.Error != "" })
		code, body = get(t, d, "/readyz")
		require.Equal(t, http.StatusServiceUnavailable, code)
		require.Regexp(t, `^cache: .+\n$`, body)
		code, body = get(t, d, "/healthz")
		require.Equal(t, http.StatusOK, code, body)

		began := time.Now()
		d.Stop()
		require.Less(t, time.Since(began), 15*time.Second)
		require.NoError(t, os.RemoveAll(filepath.Join(d.Dir, ".spool")))
		timelines := d.Timelines("cache")
		require.Len(t, timelines, 1)
		windows := timelines[0].Windows
		require.Equal(t, offset, windows[len(windows)-1].To.Offset, "all is in the store")
	})
}

// withoutTimes leaves out of a status what changes from one moment to the next.
func withoutTimes(json string) string {
	return regexp.MustCompile(`(?m)"(\w*time|\w*seconds|\w*bytes|segments|received|durable|acked|stored)": .*?(,?)$`).ReplaceAllString(json, `"$1": 0$2`)
}

// One source that can't be archived, for whatever reason, disturbs no other; and each says why.
func TestOneSourceDisturbsNoOther(t *testing.T) {
	t.Parallel()
	kind := enginetest.Any(t)
	good, closed := enginetest.Start(t, kind), enginetest.Start(t, kind, "--requirepass", "secret")
	dir := t.TempDir()
	spool := filepath.Join(dir, "archive", ".spool")
	require.NoError(t, os.MkdirAll(spool, 0o750))
	require.NoError(t, os.WriteFile(filepath.Join(spool, "blocked"), nil, 0o600)) // where a folder should be
	d := blackbox.Start(t, dir,
		blackbox.Source{Name: "good", Address: good.Addr()},
		blackbox.Source{Name: "nobody", Address: fmt.Sprintf("127.0.0.1:%d", enginetest.FreePort(t))},
		blackbox.Source{Name: "password", Address: closed.Addr(), Password: "wrong"},
		blackbox.Source{Name: "blocked", Address: good.Addr()},
	)
	d.Streaming("good")
	s := d.Until("nobody", "refused", func(s blackbox.SourceStatus) bool { return s.Error != "" })
	require.Contains(t, s.Error, "nothing listens there")
	require.NotEmpty(t, s.Hint)
	s = d.Until("password", "refused", func(s blackbox.SourceStatus) bool { return s.Error != "" })
	require.Contains(t, s.Error, "password is wrong")
	d.Until("blocked", "ended", func(s blackbox.SourceStatus) bool { return strings.Contains(s.Error, "not a directory") })

	code, body := get(t, d, "/healthz")
	require.Equal(t, http.StatusServiceUnavailable, code)
	require.Regexp(t, `^blocked: .*not a directory\n$`, body)
	_, body = get(t, d, "/readyz")
	require.Regexp(t, `(?m)^nobody: `, body)
	require.Regexp(t, `(?m)^password: `, body)
	require.NotRegexp(t, `(?m)^good: `, body)
	text := d.Do("status")
	require.Contains(t, text, "good: every moment from ")
	require.Contains(t, text, "nobody: nothing can be restored yet")
	require.Contains(t, text, "→ ")

	require.NoError(t, os.Remove(filepath.Join(spool, "blocked")))
	d.Streaming("blocked") // it is tried again
	code, body = get(t, d, "/healthz")
	require.Equal(t, http.StatusOK, code, body)
	require.EqualValues(t, 1, d.Source("good").FullResyncs)
	d.Stop()
}

// SIGHUP: what is new begins, what is gone ends, what is the same doesn't notice; a configuration
// that is wrong changes nothing.
func TestReload(t *testing.T) {
	t.Parallel()
	kind := enginetest.Any(t)
	one, two := enginetest.Start(t, kind), enginetest.Start(t, kind)
	dir := t.TempDir()
	first, second := blackbox.Source{Name: "one", Address: one.Addr()}, blackbox.Source{Name: "two", Address: two.Addr()}
	d := blackbox.Start(t, dir, first)
	d.Streaming("one")
	connection := connectionOf(one)

	reload := func(until string) {
		t.Helper()
		before := len(d.LogText())
		d.Reload()
		require.Eventually(t, func() bool { return strings.Contains(d.LogText()[before:], until) }, 20*time.Second, 10*time.Millisecond, until)
	}
	d.Configure(first, second)
	reload("was read again")
	d.Until("one", "followed by two", func(blackbox.SourceStatus) bool { return len(d.Status().Sources) == 2 })
	d.Streaming("two")

	d.Configure(first, blackbox.Source{Name: "three", Address: two.Addr()})
	reload("was read again")
	d.Until("one", "without two", func(blackbox.SourceStatus) bool { return d.Status().Sources[1].Name == "three" })
	d.Streaming("three")
	require.Len(t, d.Timelines("two"), 1, "what was archived stays")

	config := filepath.Join(dir, "offloader.yaml")
	text, err := os.ReadFile(config)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(config, append([]byte("adress: x\n"), text...), 0o600))
	reload("the old one stays in force")
	require.Contains(t, d.LogText(), "adress")
	require.Len(t, d.Status().Sources, 2)
	require.Contains(t, d.Do("status"), "the one before stays in force")
	require.Contains(t, d.Do("status"), `unknown field "adress"`)
	require.Contains(t, d.Run("status").Stderr, `unknown field "adress"`, "the file is still wrong")
	require.Contains(t, d.Do("status", "--json"), `"failed_reload": {`)
	require.Contains(t, d.Get("/metrics"), "\noffloader_reload_failing 1\n")

	require.NoError(t, os.WriteFile(config, []byte(strings.Replace(string(text), "4GiB", "5GiB", 1)), 0o600))
	reload("changes with a restart only")
	require.Contains(t, d.LogText(), "part=spool")
	require.NotContains(t, d.Do("status"), "stays in force", "it was put right")
	require.Contains(t, d.Do("status", "--json"), `"failed_reload": null`)
	require.Contains(t, d.Get("/metrics"), "\noffloader_reload_failing 0\n")

	require.NotEmpty(t, connection)
	require.Equal(t, connection, connectionOf(one), "one did not notice")
	d.Stop()
}

// connectionOf is a master's number for its replica's connection.
func connectionOf(master *enginetest.Server) string {
	return regexp.MustCompile(`\bid=\d+`).FindString(fmt.Sprint(master.Do("CLIENT", "LIST", "TYPE", "replica")))
}

func TestTwoDaemonsOnOneSpool(t *testing.T) {
	t.Parallel()
	master := enginetest.Start(t, enginetest.Any(t))
	d := blackbox.StartBare(t, t.TempDir(), master.Addr())
	d.Streaming("main")
	r := blackbox.Run(t, "run", "--master", master.Addr(), "--archive", d.Dir)
	require.Equal(t, 1, r.Code, r)
	require.Contains(t, r.Stderr, fmt.Sprintf("locked by process %d", d.Pid()))
	require.Contains(t, r.Stderr, "hint: another daemon works here")
	require.EqualValues(t, 1, d.Source("main").FullResyncs)
	d.Stop()
}

// A port that was asked for must be free. The default one needn't, since nobody asked for it.
func TestAPortInUse(t *testing.T) {
	t.Parallel()
	master := enginetest.Start(t, enginetest.Any(t))
	dir := t.TempDir()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	config := filepath.Join(dir, "c.yaml")
	require.NoError(t, os.WriteFile(config, fmt.Appendf(nil, "sources: [{name: cache, address: %q}]\nspool: {path: %q}\nstores: [{type: disk, path: %q}]\nhttp: {listen: %q}\n",
		master.Addr(), filepath.Join(dir, "spool"), filepath.Join(dir, "archive"), l.Addr()), 0o600))
	r := blackbox.Run(t, "run", "--config", config)
	require.Equal(t, 1, r.Code, r)
	require.Contains(t, r.Stderr, "open http.listen "+l.Addr().String()+": ")
	require.Contains(t, r.Stderr, "address already in use")
	require.Contains(t, r.Stderr, "hint: another process has this port")
	require.NoError(t, l.Close())

	if l, err := net.Listen("tcp", "127.0.0.1:9390"); err == nil { // else it is in use already
		defer l.Close()
	}
	d := blackbox.StartBare(t, t.TempDir(), master.Addr(), "--log-format", "json")
	d.Streaming("main")
	require.Contains(t, d.LogText(), `"level":"WARN","msg":"the default port for metrics and health is in use: going on without"`)
	d.Stop()
}

// What systemd hears (sd_notify(3)): ready, how it is, alive, reloading and ready again, stopping.
func TestSystemdIsTold(t *testing.T) {
	master := enginetest.Start(t, enginetest.Any(t))
	path := filepath.Join(t.TempDir(), "notify")
	bus, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	require.NoError(t, err)
	defer bus.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", "300000")
	d := blackbox.Start(t, t.TempDir(), blackbox.Source{Name: "cache", Address: master.Addr()})
	hear := func(pattern string) {
		t.Helper()
		require.NoError(t, bus.SetReadDeadline(time.Now().Add(20*time.Second)))
		said, wanted := "", regexp.MustCompile(pattern)
		for buf := make([]byte, 4096); ; {
			n, err := bus.Read(buf)
			require.NoError(t, err, "never heard %s, but\n%s", pattern, said)
			if said += string(buf[:n]) + "\n"; wanted.Match(buf[:n]) {
				return
			}
		}
	}
	hear(`^READY=1$`)
	hear(`^STATUS=cache: streaming, 0 B not yet durable$`)
	hear(`^WATCHDOG=1$`)
	d.Reload()
	hear(`^RELOADING=1\nMONOTONIC_USEC=\d+$`)
	hear(`^READY=1$`)
	master.Kill()
	hear(`^STATUS=cache: \w+, .*127\.0\.0\.1`)
	d.Stop()
	hear(`^STOPPING=1$`)
}
