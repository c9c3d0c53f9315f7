package config

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestAlarms(t *testing.T) {
	url := filepath.Join(t.TempDir(), "url")
	require.NoError(t, os.WriteFile(url, []byte("https://hc.example.com/secret-token\n"), 0o600))
	read := func(text string) (*Config, []string, error) { return Parse("f", []byte(good+text), environment()) }

	c, warnings, err := read("snapshots: {schedule: \"@daily\"}\nverify: {schedule: \"@weekly\"}\nmax_age: {snapshot: 2d, stored: 10m, verify: 8d}\nheartbeat: {url_file: " + url + "}\nmax_full_syncs: 2\namnesia: {suspect_below: 12.5%}\n")
	require.NoError(t, err)
	require.Empty(t, warnings)
	require.Equal(t, MaxAge{Snapshot: Duration(2 * day), Stored: Duration(10 * time.Minute), Verify: Duration(8 * day)}, c.MaxAge)
	require.EqualValues(t, "https://hc.example.com/secret-token", c.Heartbeat.URL)
	require.NotContains(t, fmt.Sprintf("%v %+v %#v", c.Heartbeat, c.Heartbeat, c.Heartbeat), "secret-token")
	require.Equal(t, 2, c.MaxFullSyncs)
	require.Equal(t, Percent(12.5), c.Amnesia.SuspectBelow)

	_, warnings, err = read("max_age: {snapshot: 1h}")
	require.NoError(t, err)
	require.Equal(t, []string{`max_age.snapshot is given, and "snapshots" has no "schedule": only those by hand, and full syncs, keep under it`}, warnings)

	const bucket = "sources: [{name: a, address: b}]\nstores: [{type: s3, bucket: backups, region: eu-west-1, upload_interval: 10m}]\n"
	for text, want := range map[string]string{
		good + "max_age: {}":                                                     `f:7:10: "max_age" says nothing: say what may become how old, like {snapshot: 2d, verify: 8d}`,
		good + "max_age: {snapshots: 2d}":                                        `f:7:11: unknown field "snapshots": did you mean "snapshot"?`,
		good + "max_age: {stored: 10}":                                           `f:7:19: "10" is not a duration: say 10s, 1h30m or 7d`,
		good + "max_age: {stored: 5s}":                                           `f:7:19: 5s is out of range: say something from 30s to `,
		good + "max_age: {verify: 8d}":                                           `f:7:19: there is no "verify" with a "schedule": nothing else keeps under this`,
		good + "verify: {schedule: \"@weekly\"}\nmax_age: {verify: 7d}":          `f:8:19: the schedule of verify leaves up to 168h0m0s between two, so the last will be longer ago than 168h0m0s: say more`,
		good + "snapshots: {schedule: \"0 4 * * 1-5\"}\nmax_age: {snapshot: 2d}": `f:8:21: the schedule of snapshots leaves up to 72h0m0s between two, so the newest will be older than 48h0m0s: say more`,
		bucket + "max_age: {stored: 10m}":                                        `f:3:19: a store with an upload_interval of 10m0s gets bytes that are older than 10m0s: say more`,
		good + "heartbeat: {}":                                                   `f:7:12: "heartbeat" has no "url": say who is called while all is well`,
		good + "heartbeat: {url: secret-token}":                                  `f:7:18: this is no URL that can be called: it begins with https:// or http://, and names a host`,
		good + "heartbeat: {url: \"ftp://h/secret-token\"}":                      `f:7:18: this is no URL that can be called`,
		good + "heartbeat: {url: \"https://h/%zz-secret-token\"}":                `f:7:18: this is no URL that can be called`,
		good + "heartbeat: {url: \"https://h/a\", url_file: " + url + "}":        `both "url" and "url_file" are given: keep one`,
		good + "heartbeat: {url_file: /none}":                                    `f:7:23: `,
		good + "max_full_syncs: 0":                                               `f:7:17: with 0 full syncs nothing could begin: say 1 or more`,
		good + "amnesia: {suspect_below: 0.5}":                                   `f:7:26: "0.5" is not a share: say 5%`,
		good + "amnesia: {suspectbelow: 5%}":                                     `f:7:11: unknown field "suspectbelow": did you mean "suspect_below"?`,
		good + "max_full_syncs: many":                                            `f:7:17: "many" is not a number of full syncs: say 1 or more`,
	} {
		_, _, err := Parse("f", []byte(text), environment())
		require.ErrorContains(t, err, want, text)
		require.NotContains(t, err.Error(), "secret-token", text)
	}

	// Who only reads the archive calls nobody, and has no credentials.
	file := filepath.Join(t.TempDir(), "c.yaml")
	require.NoError(t, os.WriteFile(file, []byte(good+"heartbeat: {url_file: /none}\nmax_age: {snapshot: 1h}"), 0o600))
	c, warnings, err = LoadToRead(file, environment())
	require.NoError(t, err)
	require.Empty(t, warnings)
	require.Empty(t, c.Heartbeat.URL)
}
