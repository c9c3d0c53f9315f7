package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/schedule"
)

// environment is one with these variables and no others.
func environment(pairs ...string) Env {
	return func(name string) (string, bool) {
		for i := 0; i < len(pairs); i += 2 {
			if pairs[i] == name {
				return pairs[i+1], true
			}
		}
		return "", false
	}
}

// good is the least that a configuration has.
const good = `sources:
  - name: cache
    address: 10.0.0.5
stores:
  - type: disk
    path: /srv/archive
`

func TestTheLeastThereIs(t *testing.T) {
	c, warnings, err := Parse("c.yaml", []byte(good), environment())
	require.NoError(t, err)
	require.Empty(t, warnings)
	want := &Config{
		Sources: []Source{{Name: "cache", Address: "10.0.0.5:6379"}},
		Spool:   Spool{Path: "/var/lib/offloader/spool", MaxSize: 20 << 30, MinFree: 5},
		Stores:  []Store{{Type: "disk", Path: "/srv/archive"}},
		Ack:     "local",
		HTTP:    HTTP{Listen: "127.0.0.1:9390"},

		Snapshots: Snapshots{Method: "master"}, MaxFullSyncs: 4, Amnesia: Amnesia{SuspectBelow: 50},
	}
	if diff := cmp.Diff(want, c); diff != "" {
		t.Error(diff)
	}
}

func at(t *testing.T, line string) schedule.Schedule {
	t.Helper()
	s, err := schedule.Parse(line)
	require.NoError(t, err)
	return s
}

// The reference that users read is right, and says the defaults that there are.
func TestTheReference(t *testing.T) {
	c, warnings, err := Load("../../configs/offloader.yaml", environment("OFFLOADER_PASSWORD", "it's secret: #1"))
	require.NoError(t, err)
	require.Empty(t, warnings)
	want := Default()
	want.Sources = []Source{{Name: "cache", Address: "10.0.0.5:6379", Username: "offloader", Password: "it's secret: #1"}}
	want.Stores = []Store{{Type: "disk", Path: "/var/lib/offloader/archive"}}
	want.Verify.Schedule = at(t, "0 4 * * *")
	if diff := cmp.Diff(want, c); diff != "" {
		t.Error(diff)
	}
}

// TestTheReferenceUncommented turns on what the reference only shows, so that it can't grow old.
func TestTheReferenceUncommented(t *testing.T) {
	text, err := os.ReadFile("../../configs/offloader.yaml")
	require.NoError(t, err)
	dir := t.TempDir()
	secret := filepath.Join(dir, "secret")
	require.NoError(t, os.WriteFile(secret, []byte("pw\n"), 0o600))
	certificate(t, dir)
	var lines []string
	for line := range strings.Lines(string(text)) {
		bare := strings.TrimSpace(line)
		for _, field := range []string{"password_file:", "tls:", "  ca_file:", "  cert_file:", "  key_file:", "  server_name:", "announce:",
			"relay:", "  listen:", "  username:", "  password_file:", "  tls:",
			"exports:", "  - schedule:", "    to:", "  - {schedule:", "retention:", "  window:", "  keep:", "    hourly:", "    daily:", "    weekly:", "    monthly:", "  minimum:",
			"max_age:", "  snapshot:", "  stored:", "  verify:", "heartbeat:", "  url:"} {
			if strings.HasPrefix(bare, "# "+field) {
				line = strings.Replace(line, "# ", "", 1)
			}
		}
		if !strings.HasPrefix(bare, "password:") {
			lines = append(lines, line)
		}
	}
	whole := strings.NewReplacer("/run/credentials/offloader.service/cache-password", secret,
		"/run/credentials/offloader.service/relay-password", secret, "/etc/offloader/relay.", dir+"/client.", "/etc/offloader", dir).Replace(strings.Join(lines, ""))
	c, _, err := Parse("c.yaml", []byte(whole), environment())
	require.NoError(t, err)
	require.Equal(t, Source{
		Name: "cache", Address: "10.0.0.5:6379", Username: "offloader", Password: "pw", Announce: "203.0.113.7:16379",
		TLS:   &TLS{CAFile: dir + "/ca.pem", CertFile: dir + "/client.pem", KeyFile: dir + "/client.key", ServerName: "cache.internal"},
		Relay: &Relay{Listen: "10.0.0.9:6390", Username: "replica", Password: "pw", TLS: &RelayTLS{CertFile: dir + "/client.pem", KeyFile: dir + "/client.key"}},
	}, c.Sources[0])
	require.Equal(t, &Retention{Window: Duration(7 * day), Keep: Keep{24, 7, 4, 12}, Minimum: 1}, c.Retention)
	require.Equal(t, &Retention{Window: Duration(30 * day), Minimum: 1}, c.RetentionIn(c.Stores[0]))
	require.Len(t, c.Exports, 2)
	require.Equal(t, "s3://exports/cache/{source}-{time}.rdb?region=eu-west-1", c.Exports[0].To.String())
	require.Equal(t, MaxAge{Snapshot: Duration(2 * day), Stored: Duration(10 * time.Minute), Verify: Duration(8 * day)}, c.MaxAge)
	require.EqualValues(t, "https://hc.example.com/ping/…", c.Heartbeat.URL)
	tls, err := c.Sources[0].TLS.Config()
	require.NoError(t, err)
	require.Equal(t, "cache.internal", tls.ServerName)
	require.Len(t, tls.Certificates, 1)
}

func TestWhatCanBeSaid(t *testing.T) {
	dir := t.TempDir()
	secret := filepath.Join(dir, "secret")
	require.NoError(t, os.WriteFile(secret, []byte("p w\r\n"), 0o600))
	source := func(fields string) string { return strings.Replace(good, "    address: 10.0.0.5\n", fields, 1) }
	tests := []struct {
		name, text string
		want       func(*Config)
	}{
		{"address with a port", source("    address: master.example:7000\n"), func(c *Config) { c.Sources[0].Address = "master.example:7000" }},
		{"IPv6 alone", source("    address: fd00::5\n"), func(c *Config) { c.Sources[0].Address = "[fd00::5]:6379" }},
		{"IPv6 in brackets", source("    address: \"[fd00::5]\"\n"), func(c *Config) { c.Sources[0].Address = "[fd00::5]:6379" }},
		{"IPv6 with a port", source("    address: \"[fd00::5]:7000\"\n"), func(c *Config) { c.Sources[0].Address = "[fd00::5]:7000" }},
		{"environment in the middle", source("    address: ${HOST}:${PORT}\n"), func(c *Config) { c.Sources[0].Address = "redis-1:6380" }},
		{"a variable's value is no YAML", source("    address: a\n    password: ${YAML}\n"), func(c *Config) { c.Sources[0].Address, c.Sources[0].Password = "a:6379", "x: {y: #z\n- ${HOST}" }},
		{"a bare dollar", source("    address: a\n    password: $HOST$\n"), func(c *Config) { c.Sources[0].Address, c.Sources[0].Password = "a:6379", "$HOST$" }},
		{"a password of digits", source("    address: a\n    password: 00012\n"), func(c *Config) { c.Sources[0].Address, c.Sources[0].Password = "a:6379", "00012" }},
		{"a password that looks true", source("    address: a\n    password: yes\n"), func(c *Config) { c.Sources[0].Address, c.Sources[0].Password = "a:6379", "yes" }},
		{"password_file", source("    address: a\n    password_file: " + secret + "\n"), func(c *Config) { c.Sources[0].Address, c.Sources[0].Password = "a:6379", "p w" }},
		{"empty tls", source("    address: a\n    tls: {}\n"), func(c *Config) { c.Sources[0].Address, c.Sources[0].TLS = "a:6379", &TLS{} }},
		{"flow style", "{sources: [{name: cache, address: 10.0.0.5}], stores: [{type: disk, path: /srv/archive}]}", func(*Config) {}},
		{"byte order mark, CRLF, dashes first", "\ufeff---\r\n" + strings.ReplaceAll(good, "\n", "\r\n"), func(*Config) {}},
		{"a size in bytes", good + "spool: {max_size: 1048576}\n", func(c *Config) { c.Spool.MaxSize = 1 << 20 }},
		{"sizes", good + "spool: {max_size: 64MiB, min_free: 2.5%}\n", func(c *Config) { c.Spool.MaxSize, c.Spool.MinFree = 64<<20, 2.5 }},
		{"a hidden spool in the store", good + "spool: {path: /srv/archive/.spool}\n", func(c *Config) { c.Spool.Path = "/srv/archive/.spool" }},
		{"another port", good + "http: {listen: \":0\"}\n", func(c *Config) { c.HTTP.Listen = ":0" }},
		{"ack", good + "ack: local\n", func(*Config) {}},
		{"verify", good + "verify: {schedule: TZ=UTC 0 4 * * *}\n", func(c *Config) { c.Verify.Schedule = at(t, "TZ=UTC 0 4 * * *") }},
		{"a boot", good + "verify: {schedule: TZ=UTC 0 4 * * *, boot: true}\nengine: {valkey: /opt/valkey-server}\n", func(c *Config) {
			c.Verify.Schedule, c.Verify.Boot, c.Engine.Valkey = at(t, "TZ=UTC 0 4 * * *"), true, "/opt/valkey-server"
		}},
		{"one alias for several sources", strings.Replace(good, "  - name: cache\n    address: 10.0.0.5\n",
			"  - &first {name: cache, address: 10.0.0.5, announce: \"a:1\"}\n  - {<<: *first, name: sessions}\n", 1), func(c *Config) {
			c.Sources[0].Announce = "a:1"
			c.Sources = append(c.Sources, Source{Name: "sessions", Address: "10.0.0.5:6379", Announce: "a:1"})
		}},
	}
	env := environment("HOST", "redis-1", "PORT", "6380", "YAML", "x: {y: #z\n- ${HOST}")
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, _, err := Parse("c.yaml", []byte(tt.text), env)
			require.NoError(t, err)
			want, _, err := Parse("c.yaml", []byte(good), env)
			require.NoError(t, err)
			tt.want(want)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// Each wound, and what its reader is told: all of it, with line and column.
func TestWhatIsWrong(t *testing.T) {
	source := func(fields string) string { return strings.Replace(good, "    address: 10.0.0.5\n", fields, 1) }
	tests := []struct {
		name, text string
		want       []string
	}{
		{"nothing", "", []string{`1:1: the configuration is empty: it needs at least "sources" and "stores"`}},
		{"comments only", "# nothing yet\n", []string{`1:1: the configuration is empty: it needs at least "sources" and "stores"`}},
		{"a word", "offloader\n", []string{`1:1: a configuration has fields, like sources and stores, and this is the single value "offloader"`}},
		{"no fields", "{}\n", []string{`1:1: there is no "sources": name at least one master to archive`, `1:1: there is no "stores": name the place where the archive is kept`}},
		{"an unknown field", source("    adress: a\n"), []string{`2:5: this source has no "address": say where its master is, like 10.0.0.5:6379`, `3:5: unknown field "adress": did you mean "address"?`}},
		{"an unknown field at the top", good + "store: []\n", []string{`7:1: unknown field "store": did you mean "stores"?`}},
		{"a field like none", good + "colour: red\n", []string{`7:1: unknown field "colour": there is sources, spool, stores, ack, http, encryption, snapshots, exports, retention, verify, engine, max_age, heartbeat, max_full_syncs, amnesia`}},
		{"a field in the wrong place", good + "max_size: 1GiB\n", []string{`7:1: unknown field "max_size": there is sources, spool, stores, ack, http, encryption, snapshots, exports, retention, verify, engine, max_age, heartbeat, max_full_syncs, amnesia`}},
		{"no exports", good + "exports: []\n", []string{`7:10: "exports" is an empty list`}},
		{"half an export", good + "exports: [{to: '/x/{time}'}, {schedule: '@daily'}]\n", []string{
			`7:11: this export has no "schedule": say when, like "0 3 * * *" for each day at 03:00`, `7:30: this export has no "to": say where, like s3://bucket/{source}-{time}.rdb or a path`}},
		{"exports to one name", exportTo("/x/dump.rdb"), []string{`9:9: each run would write to the same name, and nothing is ever overwritten: put {time} into it`}},
		{"an export's placeholder", exportTo("/x/{tmie}.rdb"), []string{`9:9: unknown placeholder {tmie}: did you mean {time}?`}},
		{"an export's placeholder like none", exportTo("/x/{day}.rdb"), []string{`9:9: unknown placeholder {day}: there is {source}, {time}, {offset}, {timeline}`}},
		{"an export to a folder", exportTo("/x/{time}/"), []string{`9:9: "/x/19700101T000000Z/" is a folder: name the file too, like /x/19700101T000000Z/dump.rdb`}},
		{"an export to a bucket", exportTo("s3://x/{time}?endpont=http://a"), []string{`9:9: "s3://x/19700101T000000Z?endpont=http://a": unknown parameter "endpont": did you mean "endpoint"?`}},
		{"an export twice", exportTo("/x/{time}") + "  - schedule: \"@hourly\"\n    to: /x/{time}\n", []string{`11:9: there are two exports to /x/{time}`}},
		{"an export for several sources", strings.Replace(exportTo("/x/{time}"), "stores:", "  - {name: sessions, address: b}\nstores:", 1), []string{`10:9: there are 2 sources, and each would write to the same name: put {source} into it`}},
		{"an export in the archive", exportTo("/srv/archive/{source}/{time}"), []string{`9:9: this lies in the archive in the folder /srv/archive, where only offloader's own files belong: say another place`}},
		{"an export in the spool", exportTo("/var/lib/offloader/spool/x/{time}"), []string{`9:9: this lies in the spool /var/lib/offloader/spool, where only offloader's own files belong: say another place`}},
		{"an export in the archive's bucket", bucket("bucket: bb\n    prefix: redis") + "exports: [{schedule: '@daily', to: 's3://bb/redis/x/{time}'}]\n", []string{
			`8:36: this lies in the archive in s3 bucket bb at AWS, prefix redis, where only offloader's own files belong: say another place`}},
		{"snapshots by merging", good + "snapshots: {method: merge}\n", []string{`7:21: "method: merge" is not in this version: say master or replica`}},
		{"a method that isn't", good + "snapshots: {method: replcia}\n", []string{`7:21: "replcia" is no method: did you mean "replica"?`}},
		{"a replica without address", good + "snapshots: {method: replica}\n", []string{`7:12: method replica needs the replica's "address"`}},
		{"an address for the master", good + "snapshots: {address: a}\n", []string{`7:22: an "address" goes with method replica`}},
		{"a snapshot's schedule", good + "snapshots: {schedule: hourly}\n", []string{`7:23: "hourly" is no schedule: it has 1 fields, a schedule has 5: minute, hour, day of the month, month, day of the week, like "0 4 * * *" for each day at 04:00`}},
		{"a schedule that isn't", good + "verify: {schedule: \"0 4 * * 7\"}\n", []string{`7:20: "0 4 * * 7" is no schedule: its day of the week is "7": say 0 (Sunday) to 6, or SUN to SAT, a range like 1-5, a list like 1,3, or * with a step like */2`}},
		{"a schedule in no zone", good + "verify:\n  schedule: TZ=Europe/Berln 0 4 * * *\n", []string{`8:13: "TZ=Europe/Berln 0 4 * * *" is no schedule: there is no time zone "Europe/Berln": say one like Europe/Berlin or UTC`}},
		{"a boot without a schedule", good + "verify: {boot: true}\n", []string{`7:9: "verify" has no "schedule": say when, like "0 4 * * *" for each day at 04:00`}},
		{"a boot that isn't", good + "verify: {schedule: \"@daily\", boot: often}\n", []string{`7:36: "often" is neither true nor false`}},
		{"an engine of no product", good + "engine: {path: /x}\n", []string{`7:10: unknown field "path": there is redis, valkey`}},
		{"no schedule", good + "verify: {}\n", []string{`7:9: "verify" has no "schedule": say when, like "0 4 * * *" for each day at 04:00`}},
		{"a schedule's neighbour", good + "verify: {shedule: \"0 4 * * *\"}\n", []string{`7:9: "verify" has no "schedule": say when, like "0 4 * * *" for each day at 04:00`, `7:10: unknown field "shedule": did you mean "schedule"?`}},
		{"sentinel", source("    sentinel: {master: m}\n"), []string{`3:5: "sentinel" is not in this version`}},
		{"an s3 store with a path", strings.Replace(good, "disk", "s3\n    bucket: bb", 1), []string{`7:5: unknown field "path": did you mean "path_style"?`}},
		{"an s3 store without a bucket", bucket(""), []string{`5:5: this store has no "bucket"`}},
		{"a bucket with a path", bucket("bucket: b/p"), []string{`6:13: "b/p" is more than a bucket: what follows the slash is the "prefix"`}},
		{"a bucket that is a URL", bucket("bucket: s3://b"), []string{`6:13: "s3://b" is a URL: name the bucket alone, and "prefix" and "endpoint" beside it`}},
		{"an endpoint that is none", bucket("bucket: bb\n    endpoint: 127.0.0.1:9000\n    path_style: yes"), []string{
			`7:15: "127.0.0.1:9000" is no endpoint: say https://host or http://host:port`, `8:17: "yes" is neither true nor false`}},
		{"an interval out of range", bucket("bucket: bb\n    upload_interval: 1ms"), []string{`7:22: 1ms is out of range: say something from 250ms to 1h0m0s`}},
		{"no interval", bucket("bucket: bb\n    upload_interval: -1s"), []string{`7:22: "-1s" is not a duration: say 10s, 1h30m or 7d`}},
		{"half a key", bucket("bucket: bb\n    access_key_id: k"), []string{`5:5: there is an access key and no secret for it: add "secret_access_key_file"`}},
		{"a secret twice", bucket("bucket: bb\n    access_key_id: k\n    secret_access_key: s\n    secret_access_key_file: /none"), []string{
			`9:29: read the password: stat /none: no such file or directory`, `9:29: both "secret_access_key" and "secret_access_key_file" are given: keep one`}},
		{"a profile and a key", bucket("bucket: bb\n    access_key_id: k\n    secret_access_key: s\n    profile: p"), []string{`9:14: there are both an access key and a "profile": keep one`}},
		{"a role that is none", bucket("bucket: bb\n    role_arn: admin"), []string{`7:15: "admin" is no role: say arn:aws:iam::123456789012:role/name`}},
		{"an encryption that isn't", bucket("bucket: bb\n    server_side_encryption: {type: aws:kmss}"), []string{`7:36: "aws:kmss" is not a kind of encryption: did you mean "aws:kms"?`}},
		{"a key for no KMS", bucket("bucket: bb\n    server_side_encryption: {type: AES256, kms_key_id: k}"), []string{`7:56: a key goes with type aws:kms`}},
		{"a class that can't be read", bucket("bucket: bb\n    storage_class: GLACIER"), []string{`7:20: what is stored as GLACIER can't be read at once, and a restore needs that: say GLACIER_IR or STANDARD_IA`}},
		{"half a lock", bucket("bucket: bb\n    object_lock: {mode: governance}"), []string{`7:18: a lock has a "mode", governance or compliance, and how long it is to "retain", like 30d`}},
		{"a store twice", good + "  - {type: disk, path: /a}\n  - {type: disk, path: /a/}\n", []string{`8:5: this store is named before: folder /a`}},
		{"a field of s3 on a disk", good + "    bucket: b\n", []string{`7:5: unknown field "bucket": there is type, path, retention`}},
		{"a type that isn't", strings.Replace(good, "disk", "dsik", 1), []string{`5:11: "dsik" is not a type of store: did you mean "disk"?`}},
		{"no type", strings.Replace(good, "type: disk\n    ", "", 1), []string{`5:5: this store has no "type": say disk, or s3`}},
		{"no path", strings.Replace(good, "path: /srv/archive", "", 1), []string{`5:5: this store has no "path": name the archive's folder`}},
		{"a URL for a path", strings.Replace(good, "/srv", "file:///srv", 1), []string{`6:11: "file:///srv/archive" is a URL, this is a path: say "/srv/archive" without file://`}},
		{"a field twice", good + "sources: []\n", []string{`7:1: "sources" is given twice`}},
		{"a second document", good + "---\nspool: {}\n", []string{`7:1: a second document begins here: a configuration is one`}},
		{"a second, empty document", good + "---\n", []string{`7:1: a second document begins here: a configuration is one`}},
		{"no list", "sources: cache\nstores: {}\n", []string{
			`1:10: "sources" is the single value "cache", it wants a list: put a dash before each item`, `2:9: "stores" is a group of fields, it wants a list: put a dash before each item`,
		}},
		{"empty lists", "sources: []\nstores: []\n", []string{`1:10: "sources" is an empty list`, `2:9: "stores" is an empty list`}},
		{"nothing behind the colon", good + "spool:\nhttp: {listen: }\n", []string{`7:7: "spool" is empty, it wants fields, like {a: b}`, `8:15: this is empty, it wants a single value`}},
		{"a list for a value", source("    address: [a, b]\n"), []string{`3:14: this is a list, it wants a single value`}},
		{"fields for a value", source("    address: {host: a}\n"), []string{`3:14: this is a group of fields, it wants a single value`}},
		{"a value for tls", source("    address: a\n    tls: true\n"), []string{`4:10: "tls" is the single value "true", it wants fields, like {a: b}`}},
		{"a source that is a value", "sources: [cache]\nstores: [{type: disk, path: /a}]\n", []string{`1:11: "source" is the single value "cache", it wants fields, like {a: b}`}},
		{"no size", good + "spool: {max_size: 20 Gigs}\n", []string{`7:19: "20 Gigs" is not a size: say 64MiB or 20GiB`}},
		{"a negative size", good + "spool: {max_size: -1}\n", []string{`7:19: "-1" is not a size: say 64MiB or 20GiB`}},
		{"a size of nothing", good + "spool: {max_size: 0}\n", []string{`7:19: a size of 0 is out of range`}},
		{"a size without its unit", good + "spool: {max_size: 20}\n", []string{`7:19: 20 B is too small for a spool, say at least 1.0 MiB (20 without a unit are bytes: 20GiB?)`}},
		{"a small size", good + "spool: {max_size: 1023KiB}\n", []string{`7:19: 1023 KiB is too small for a spool, say at least 1.0 MiB`}},
		{"a huge size", good + "spool: {max_size: 9EiB}\n", []string{`7:19: a size of 9EiB is out of range`}},
		{"no share", good + "spool: {min_free: 5}\n", []string{`7:19: "5" is not a share: say 5%`}},
		{"more than there is", good + "spool: {min_free: 100%}\n", []string{`7:19: 100% is out of range: say something from 0% to 99%`}},
		{"a name of two words", strings.Replace(good, "cache", "my cache", 1), []string{`2:11: source name "my cache" may only have letters, digits, dot, dash and underscore`}},
		{"a name of the archive's own", strings.Replace(good, "cache", ".spool", 1), []string{`2:11: source name ".spool" begins with a dot: such folders of an archive are not sources`}},
		{"a path for a name", strings.Replace(good, "cache", "a/../b", 1), []string{`2:11: source name "a/../b" may only have letters, digits, dot, dash and underscore`}},
		{"an empty name", strings.Replace(good, "cache", `""`, 1), []string{`2:11: a source's name is empty`}},
		{"two of a name", strings.Replace(good, "stores", "  - {name: cache, address: b}\nstores", 1), []string{`4:12: there are two sources called "cache"`}},
		{"two of a name but for case", strings.Replace(good, "stores", "  - {name: Cache, address: b}\nstores", 1), []string{`4:12: source "Cache" differs from "cache" only by case, and not every store tells them apart`}},
		{"a port alone", source("    address: 6379\n"), []string{`3:14: "6379" is no host: say host:port, like 10.0.0.5:6379`}},
		{"no host", source("    address: :6379\n"), []string{`3:14: ":6379" has no host: say host:port, like 10.0.0.5:6379`}},
		{"a port out of range", source("    address: a:65536\n"), []string{`3:14: "65536" is no port: it is a number from 1 to 65535`}},
		{"port 0", source("    address: a:0\n"), []string{`3:14: "0" is no port: it is a number from 1 to 65535`}},
		{"a URL", source("    address: redis://a:1\n"), []string{`3:14: "redis://a:1" is a URL: leave out redis:// and say host:port`}},
		{"too many colons", source("    address: a:1:2\n"), []string{`3:14: "a:1:2" is not an address: say host:port, like 10.0.0.5:6379 or [fd00::5]:6379`}},
		{"announce without a port", source("    address: a\n    announce: b\n"), []string{`4:15: "b" is not an address: say host:port, both are told to the master`}},
		{"announce longer than a master keeps", source("    address: a\n    announce: " + strings.Repeat("x", 46) + ":1\n"), []string{
			`4:15: host "` + strings.Repeat("x", 46) + `" has 46 bytes, and a master keeps no more than 45: use its address`,
		}},
		{"listen at a word", good + "http: {listen: 9390}\n", []string{`7:16: "9390" is not an address to listen at: say host:port, like 127.0.0.1:9390`}},
		{"two passwords", source("    address: a\n    password: b\n    password_file: /etc/hostname\n"), []string{`5:20: both "password" and "password_file" are given: keep one`}},
		{"a user without a password", source("    address: a\n    username: b\n"), []string{`4:15: there is a "username" and no password for it: add "password_file"`}},
		{"no such password file", source("    address: a\n    password_file: /no/such\n"), []string{`4:20: read the password: stat /no/such: no such file or directory`}},
		{"a folder for a password file", source("    address: a\n    password_file: /\n"), []string{`4:20: read the password: / is not a file`}},
		{"a device for a password file", source("    address: a\n    password_file: /dev/zero\n"), []string{`4:20: read the password: /dev/zero is not a file`}},
		{"a certificate without its key", source("    address: a\n    tls: {cert_file: /a}\n"), []string{`4:22: "cert_file" needs a "key_file" beside it`}},
		{"a key without its certificate", source("    address: a\n    tls: {key_file: /a}\n"), []string{`4:21: "key_file" needs a "cert_file" beside it`}},
		{"no such roots", source("    address: a\n    tls: {ca_file: /no/such}\n"), []string{`4:20: read the roots: stat /no/such: no such file or directory`}},
		{"roots that are none", source("    address: a\n    tls: {ca_file: ../../go.mod}\n"), []string{`4:20: read the roots: ../../go.mod holds no certificate in PEM form`}},
		{"a variable that isn't set", source("    address: ${NOPE}:1\n"), []string{`3:14: the environment has no NOPE`}},
		{"half a variable tells no secret", source("    address: a\n    password: \"${secret\"\n"), []string{
			`4:15: what begins with ${ here is not ${NAME}: a password that holds it goes into a password_file`,
		}},
		{"the spool in the store", good + "spool: {path: /srv/archive/spool}\n", []string{
			`7:15: the spool /srv/archive/spool lies in the store /srv/archive, where sources are: move it out, or call it /srv/archive/.spool`,
		}},
		{"the spool is the store", good + "spool: {path: /srv/x/../archive/}\n", []string{
			`7:15: the spool /srv/archive lies in the store /srv/archive, where sources are: move it out, or call it /srv/archive/.spool`,
		}},
		{"the store in the spool", good + "spool: {path: /srv}\n", []string{`7:15: the store /srv/archive lies in the spool /srv: move it out`}},
		{"no anchor", source("    address: *a\n"), []string{`3:14: there is no anchor &a`}},
		{"an alias of itself", source("    address: &a !!str *a\n"), []string{`3:22: this alias stands for itself`}},
		{"a merge of itself", "sources: [&a {name: b, address: c, <<: *a}]\nstores: [{type: disk, path: /a}]\n", []string{`1:36: this merge is its own part`}},
		{"a tag", source("    address: !!binary YQ==\n"), []string{`3:14: the tag !!binary means nothing here`}},
		{"a tab", good + "\tspool: {}\n", []string{"7:1: found character '\t' that cannot start any token"}},
		{"a list that stays open", good + "http: [\n", []string{`7:7: sequence end token ']' not found`}},
		{"no UTF-8", good + "# caf\xe9\n", []string{`7:6: this is no UTF-8 text`}},
		{"deep lists", "a: " + strings.Repeat("[", 40), []string{`1:36: this is nested more than 32 deep`}},
		{"deep dashes", strings.Repeat("- ", 40), []string{`1:65: this is nested more than 32 deep`}},
		{"several at once", "sources:\n  - {name: a b, address: 1}\nspol: {}\nexports: {}\nstores: [{type: disk}]\n", []string{
			`2:12: source name "a b" may only have letters, digits, dot, dash and underscore`, `2:26: "1" is no host: say host:port, like 10.0.0.5:6379`,
			`3:1: unknown field "spol": did you mean "spool"?`, `4:10: "exports" is a group of fields, it wants a list: put a dash before each item`, `5:10: this store has no "path": name the archive's folder`,
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, _, err := Parse("c.yaml", []byte(tt.text), environment())
			require.Nil(t, c)
			var wrong Errors
			require.ErrorAs(t, err, &wrong)
			var got []string
			for _, e := range wrong {
				got = append(got, strings.TrimPrefix(e.Error(), "c.yaml:"))
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// An alias bomb costs what its text costs: the tree is followed only as far as fields lead.
func TestAnAliasBombIsHarmless(t *testing.T) {
	text := "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
	for i := range 30 {
		text += fmt.Sprintf("a%d: &a%d [%s]\n", i+1, i+1, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d, ", i), 10), ", "))
	}
	_, _, err := Parse("c.yaml", []byte(text+"sources: *a30\nstores: *a30\n"), environment())
	var wrong Errors
	require.ErrorAs(t, err, &wrong)
	require.Less(t, len(wrong), 40)
}

// When the daemon is down, its credentials and its environment are gone; a restore must do without.
func TestReadersNeedNoSecrets(t *testing.T) {
	file := filepath.Join(t.TempDir(), "c.yaml")
	text := strings.Replace(good, "address: 10.0.0.5", "address: ${MASTER}\n    username: ${WHO}\n    password_file: ${CREDENTIALS_DIRECTORY}/cache\n    tls: {ca_file: /nowhere}", 1)
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	_, _, err := Load(file, environment())
	require.ErrorContains(t, err, "the environment has no MASTER")
	c, warnings, err := LoadToRead(file, environment())
	require.NoError(t, err)
	require.Empty(t, warnings)
	require.Equal(t, []Source{{Name: "cache"}}, c.Sources)
	require.Equal(t, []Store{{Type: "disk", Path: "/srv/archive"}}, c.Stores)

	// All else is as strict as ever.
	for _, wrong := range []string{"adress: x", "address: x\n    name: cache", "address: x\n    sentinel: {}"} {
		require.NoError(t, os.WriteFile(file, []byte(strings.Replace(good, "address: 10.0.0.5", wrong, 1)), 0o600))
		c, _, err := LoadToRead(file, environment())
		var errs Errors
		require.ErrorAs(t, err, &errs, wrong)
		require.Equal(t, "/srv/archive", c.Stores[0].Path, "what could be read is given")
	}
}

func TestSecretsStayHidden(t *testing.T) {
	c, _, err := Parse("c.yaml", []byte(strings.Replace(good, "stores", "    password: hunter2\nstores", 1)), environment())
	require.NoError(t, err)
	text, err := json.Marshal(c)
	require.NoError(t, err)
	require.NotContains(t, fmt.Sprintf("%v %+v %#v %s", c, *c, c.Sources, text), "hunter2")
}

func TestSecretsThatEveryoneReads(t *testing.T) {
	dir := t.TempDir()
	secret, file := filepath.Join(dir, "secret"), filepath.Join(dir, "c.yaml")
	require.NoError(t, os.WriteFile(secret, []byte("pw\n"), 0o644))
	require.NoError(t, os.WriteFile(file, []byte(strings.Replace(good, "stores", "    password_file: "+secret+"\nstores", 1)), 0o644))
	_, warnings, err := Load(file, environment())
	require.NoError(t, err)
	require.Equal(t, []string{secret + " holds a password and can be read by everyone: chmod o-r it"}, warnings)

	require.NoError(t, os.WriteFile(file, []byte(strings.Replace(good, "stores", "    password: pw\nstores", 1)), 0o644))
	_, warnings, err = Load(file, environment())
	require.NoError(t, err)
	require.Equal(t, []string{file + " holds a password and can be read by everyone: chmod o-r it, or use password_file"}, warnings)

	// One of the environment isn't in the file, even if it is a word that is.
	for written, holds := range map[string]bool{"${PASSWORD}": false, "'${PASSWORD}${PASSWORD}'": false, "${PASSWORD}1": true} {
		require.NoError(t, os.WriteFile(file, []byte(strings.Replace(good, "stores", "    password: "+written+"\nstores", 1)), 0o644))
		c, warnings, err := Load(file, func(string) (string, bool) { return "disk", true })
		require.NoError(t, err)
		require.Contains(t, string(c.Sources[0].Password), "disk")
		require.Equal(t, holds, len(warnings) > 0, written)
	}
}

func TestNoFile(t *testing.T) {
	_, _, err := Load(filepath.Join(t.TempDir(), "none.yaml"), environment())
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestNearest(t *testing.T) {
	known := []string{"sources", "spool", "stores", "ack", "http", "encryption", "retention"}
	for word, want := range map[string]string{
		"source": "sources", "SPOOL": "spool", "store": "stores", "htpp": "http", "retenton": "retention", "encrypt": "encryption", "zebra": "", "": "",
	} {
		require.Equal(t, want, Nearest(word, known), word)
	}
}

// FuzzConfig: any text gives a configuration that is whole, or errors that have a place.
func FuzzConfig(f *testing.F) {
	f.Add(good)
	f.Add("{sources: [{name: a, address: \"[::1]:1\", tls: {}}], stores: [{type: disk, path: /a}], spool: {min_free: 1%}}")
	f.Add("a: &a [*a]\n<<: *a\n? b\n: |\n  ${C}\n")
	f.Add("%YAML 1.2\n---\nsources: !!str x\n...\n--- \n")
	reference, err := os.ReadFile("../../configs/offloader.yaml")
	require.NoError(f, err)
	f.Add(string(reference))
	env := environment("OFFLOADER_PASSWORD", "pw", "C", "${C}")
	f.Fuzz(func(t *testing.T, text string) {
		c, _, err := Parse("c", []byte(text), env)
		if err == nil {
			if len(c.Sources) == 0 || len(c.Stores) != 1 || c.Spool.Path == "" || c.Spool.MaxSize <= 0 || c.Ack != "local" {
				t.Errorf("taken for right: %+v", c)
			}
			return
		}
		var wrong Errors
		if !errors.As(err, &wrong) || len(wrong) == 0 || c != nil {
			t.Fatalf("%T: %v", err, err)
		}
		if i := slices.IndexFunc(wrong, func(e *Error) bool { return e.Line < 1 || e.Col < 1 || e.Msg == "" }); i >= 0 {
			t.Errorf("an error without a place: %+v", wrong[i])
		}
	})
}

// exportTo is a configuration that exports to a place.
func exportTo(to string) string {
	return good + "exports:\n  - schedule: \"@daily\"\n    to: " + to + "\n"
}

// bucket is a configuration whose store is on S3, with these fields.
func bucket(fields string) string {
	at := strings.Index(good, "  - type: disk")
	return good[:at] + "  - type: s3\n    " + fields + "\n"
}

func TestS3Store(t *testing.T) {
	dir := t.TempDir()
	id, secret := filepath.Join(dir, "id"), filepath.Join(dir, "secret")
	require.NoError(t, os.WriteFile(id, []byte("AKID\n"), 0o600))
	require.NoError(t, os.WriteFile(secret, []byte("secret\n"), 0o600))
	c, warnings, err := Parse("f", []byte(bucket("bucket: backups")), nil)
	require.NoError(t, err)
	require.Empty(t, warnings)
	require.Equal(t, []Store{{Type: "s3", S3: S3{Bucket: "backups"}, UploadInterval: Duration(time.Second)}}, c.Stores)

	c, _, err = Parse("f", []byte(bucket(`bucket: backups
    prefix: /redis/
    region: eu-west-1
    endpoint: http://127.0.0.1:9000/
    path_style: true
    upload_interval: 10s
    role_arn: arn:aws:iam::1:role/r
    access_key_id_file: `+id+`
    secret_access_key_file: `+secret+`
    server_side_encryption: {type: aws:kms, kms_key_id: key}
    storage_class: STANDARD_IA
    tags: {team: data, env: test}
    object_lock: {mode: compliance, retain: 1w2d}`)), nil)
	require.NoError(t, err)
	require.Equal(t, []Store{{Type: "s3", UploadInterval: Duration(10 * time.Second), S3: S3{
		Bucket: "backups", Prefix: "redis", Region: "eu-west-1", Endpoint: "http://127.0.0.1:9000", PathStyle: true,
		RoleARN: "arn:aws:iam::1:role/r", AccessKeyID: "AKID", SecretAccessKey: "secret", Encryption: "aws:kms", KMSKeyID: "key",
		StorageClass: "STANDARD_IA", Tags: map[string]string{"team": "data", "env": "test"}, LockMode: "COMPLIANCE", LockFor: Duration(9 * 24 * time.Hour),
	}}}, c.Stores)
	require.NotContains(t, fmt.Sprintf("%v %+v %#v", c.Stores, c.Stores, c.Stores), "secret\"")

	// Who only reads may have other credentials.
	file := filepath.Join(dir, "c.yaml")
	require.NoError(t, os.WriteFile(file, []byte(bucket("bucket: backups\n    access_key_id: ${NONE}\n    secret_access_key_file: /none")), 0o600))
	c, warnings, err = LoadToRead(file, environment())
	require.NoError(t, err)
	require.Len(t, warnings, 2)
	require.Contains(t, warnings[0], "the environment has no NONE; going on with the credentials that AWS's environment has")
	require.Equal(t, S3{Bucket: "backups"}, c.Stores[0].S3)
	_, _, err = Load(file, environment())
	require.ErrorContains(t, err, "/none")
}

func TestParseDuration(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"10s": 10 * time.Second, "250ms": 250 * time.Millisecond, "1h30m": 90 * time.Minute, "7d": 7 * day, "2w": 14 * day, "1w1d12h": 8*day + 12*time.Hour,
	} {
		d, err := ParseDuration(text)
		require.NoError(t, err, text)
		require.Equal(t, Duration(want), d, text)
	}
	for _, text := range []string{"", "0s", "7", "-1s", "1d-1h", "+1s", "d", "1y", "99999999w", "9999w9999d9223372036s", "1d 2h", "s"} {
		_, err := ParseDuration(text)
		require.ErrorContains(t, err, "is not a duration", text)
	}
}
