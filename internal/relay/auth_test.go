package relay

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A replica with a wrong password tries each second. The log has it at once, and then once a minute, with how often it was.
func TestWrongPasswordsAreToldOnceAMinute(t *testing.T) {
	var r refusals
	now := time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
	var told []int
	for second := range 121 {
		if who, times := r.count("10.0.0.6", now.Add(time.Duration(second)*time.Second)); times > 0 {
			require.Equal(t, "10.0.0.6", who)
			told = append(told, times)
		}
	}
	require.Equal(t, []int{1, 60, 60}, told)
	_, times := r.count("10.0.0.7", now.Add(time.Second))
	require.Equal(t, 1, times, "another host has its own minute")
	require.True(t, r.lately("10.0.0.6", now.Add(129*time.Second)), "whether it was told or not")
	require.False(t, r.lately("10.0.0.6", now.Add(130*time.Second)))
	require.False(t, r.lately("10.0.0.8", now))
}

// Who comes from everywhere fills neither the memory nor the log.
func TestWrongPasswordsFromEverywhere(t *testing.T) {
	var r refusals
	now := time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
	told := 0
	for i := range 10_000 {
		if _, times := r.count(fmt.Sprint("host ", i), now); times > 0 {
			told++
		}
	}
	require.Equal(t, maxRefused+1, told)
	require.Len(t, r.of, maxRefused+1)
	who, times := r.count("host 9999", now.Add(time.Minute))
	require.Equal(t, "host 9999", who, "the old ones are forgotten")
	require.Equal(t, 1, times)
}

func TestTheLogOfWrongPasswords(t *testing.T) {
	var log bytes.Buffer
	l := running(t, Options{Describe: describe, Login: Login{Password: "secret"}, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	require.False(t, l.Refuses("127.0.0.1"))
	for range 5 {
		require.Contains(t, ask(t, l, "AUTH wrong\r\n"), "-WRONGPASS")
		require.Contains(t, ask(t, l, "PSYNC ? -1\r\n"), "-NOAUTH")
	}
	require.Equal(t, 1, strings.Count(log.String(), "\n"), "%s", &log)
	require.True(t, l.Refuses("127.0.0.1"))
	require.Contains(t, log.String(), `msg="a peer of the relay gave a wrong password, or none" peer=127.0.0.1 times=1`)
	require.NotContains(t, log.String(), "secret")
}
