package test

import (
	"bytes"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/engine/enginetest"
	"github.com/offloader/offloader/internal/store/s3test"
	"github.com/offloader/offloader/test/blackbox"
)

// intoBucket is a daemon that archives a master to a bucket.
func intoBucket(t *testing.T, s *service) (*enginetest.Server, *blackbox.Daemon) {
	t.Helper()
	master := enginetest.Start(t, enginetest.Any(t))
	master.Do("SET", "noise", noise(t, 300_000)) // more than MinIO keeps beside its metadata
	d := blackbox.StartWith(t, t.TempDir(), fmt.Sprintf("sources: [{name: cache, address: %q}]\nspool: {path: $DIR/spool}\nstores: [%s]\n", master.Addr(), s.store(t)))
	d.Streaming("cache")
	master.Do("SET", "more noise", noise(t, 300_000))
	return master, d
}

// archived has a daemon archive a master to a bucket, and stop.
func archived(t *testing.T, s *service) moment {
	t.Helper()
	master, d := intoBucket(t, s)
	m := note(t, master, 1)
	stored(t, d, m.offset)
	d.Stop()
	return m
}

// What is wrong with the way to a bucket is said by whatever goes there, with what to do, and is never
// taken for an archive that is empty or damaged.
func TestS3WrongSettings(t *testing.T) {
	t.Parallel()
	master := enginetest.Start(t, enginetest.Any(t))
	s3test.Each(t, func(t *testing.T, kind s3test.Kind) {
		t.Parallel()
		s := startService(t, kind)
		archived(t, s)
		where, secret := s.URL(s.bucket, "redis"), "AWS_SECRET_ACCESS_KEY="+s3test.SecretKey
		behind := strings.Replace(where, url.QueryEscape(s.Endpoint()), url.QueryEscape(s.proxy.Endpoint()), 1)
		// What S3 answers to a request that was signed an hour ago or ahead, whatever is tried.
		end := harm(always, s3test.Fault{Status: http.StatusForbidden, Code: "RequestTimeTooSkewed"})(t, s)
		for name, row := range map[string]struct{ url, key, secret, says, hint string }{
			"secret": {where, s3test.AccessKey, secret + "x", "the secret key is wrong (SignatureDoesNotMatch)", "compare the secret key"},
			"key":    {where, "AKNOBODY", secret, "the access key is not known there", "access_key_id"},
			"bucket": {s.URL("nowhere", "redis"), s3test.AccessKey, secret, "there is no such bucket (NoSuchBucket)", "offloader makes no buckets"},
			"clock":  {behind, s3test.AccessKey, secret, "this machine's clock is wrong (RequestTimeTooSkewed)", "NTP"},
		} {
			t.Run(name, func(t *testing.T) {
				place, _, _ := strings.Cut(row.url, "?")
				a := blackbox.ArchiveOn(t, row.url, "AWS_ACCESS_KEY_ID="+row.key, row.secret)
				for _, command := range [][]string{
					{"check", "--master", master.Addr()}, {"list"}, {"verify"}, {"restore", "--source", "cache", "--latest", "--output", filepath.Join(t.TempDir(), "out")},
				} {
					r := a.Run(command...)
					require.Equal(t, 1, r.Code, "%s", r)
					require.Contains(t, r.Stdout+r.Stderr, row.says)
					require.Contains(t, r.Stdout+r.Stderr, row.hint)
					require.Contains(t, r.Stdout+r.Stderr, place, "which store")
				}
			})
		}
		end()
	})
}

// A daemon whose bucket refuses it says so. With nothing in its spool it waits, since the bucket may hold what it
// should go on with; else it archives all the same, and brings the bucket all of it once that is put right.
func TestS3WrongSecret(t *testing.T) {
	t.Parallel()
	kind := enginetest.Any(t)
	s := startService(t, s3test.VersityGW)
	master := enginetest.Start(t, kind)
	yaml := fmt.Sprintf("sources: [{name: cache, address: %q}]\nspool: {path: $DIR/spool}\nstores: [%s]\n", master.Addr(), s.store(t))
	_, rest, _ := strings.Cut(yaml, "secret_access_key_file: ")
	file, _, _ := strings.Cut(rest, "}")
	secret := func(text string) { require.NoError(t, os.WriteFile(file, []byte(text), 0o600)) }

	secret("something else")
	d := blackbox.StartWith(t, t.TempDir(), yaml)
	told := d.Until("cache", "refused", func(s blackbox.SourceStatus) bool { return s.Error != "" })
	require.Equal(t, "waiting", told.State)
	require.Contains(t, told.Error, "the secret key is wrong")
	require.Contains(t, told.Hint, "compare the secret key")
	require.Contains(t, d.Get("/readyz"), "the secret key is wrong")
	require.Contains(t, d.Do("status"), "waiting for a store")
	require.Equal(t, "0", master.Info("stats")["sync_full"], "the master is left alone")

	restart := func() {
		d.Stop()
		d.Restart()
		d.Streaming("cache")
	}
	secret(s3test.SecretKey)
	restart()
	stored(t, d, note(t, master, 1).offset)
	secret("something else")
	restart()
	master.Do("SET", "key", "value")
	require.EqualValues(t, 1, master.Do("WAIT", 1, 10_000))
	store := d.Until("cache", "refused", func(s blackbox.SourceStatus) bool { return s.Stores[0].Error != "" }).Stores[0]
	require.Contains(t, store.Error, "the secret key is wrong")
	require.Contains(t, store.Hint, "compare the secret key")
	require.Contains(t, d.Get("/readyz"), "the secret key is wrong")
	require.Contains(t, d.Do("status"), "the secret key is wrong")
	require.NotContains(t, d.LogText()+d.Do("status", "--json"), "something else", "a secret is nobody's business")

	secret(s3test.SecretKey)
	restart()
	m := note(t, master, 1)
	stored(t, d, m.offset)
	d.Kill()
	m.equals(t, kind, s.alone(t).Restore("--latest"))
}

// What the service's disk has changed is found by verify, and refused by restore: which file it is, and that it
// isn't what was put there. MinIO finds out by itself and gives nothing, as one that is overloaded does; the gateway
// gives what it finds. Where the point is reached without that file, it is restored.
func TestS3DamageOnTheServer(t *testing.T) {
	t.Parallel()
	s3test.Each(t, func(t *testing.T, kind s3test.Kind) {
		t.Parallel()
		s := startService(t, kind)
		master, d := intoBucket(t, s)
		early := note(t, master, 1)
		master.Do("SET", "most noise", noise(t, 300_000))
		d.Do("snapshot") // the largest: it has all three
		m := note(t, master, 1)
		stored(t, d, m.offset)
		d.Stop()
		alone := s.alone(t)
		alone.Do("verify")
		for _, row := range []struct {
			folder string
			hurt   func([]byte) []byte
			needs  []string // a point that can't be restored without it, nil where others make up for it
		}{
			{"/log/", func(b []byte) []byte { b[len(b)/2] ^= 1; return b }, early.byOffset()},
			{"/snapshots/", func(b []byte) []byte { return b[:len(b)/2] }, nil},
			{"/timeline.json", func(b []byte) []byte { return b[:len(b)/2] }, []string{"--latest"}},
		} {
			t.Run(strings.Trim(row.folder, "/"), func(t *testing.T) {
				path := objectFile(t, filepath.Join(s.Dir(), s.bucket), row.folder)
				content, err := os.ReadFile(path)
				require.NoError(t, err)
				require.NoError(t, os.WriteFile(path, row.hurt(bytes.Clone(content)), 0o600))
				defer func() { require.NoError(t, os.WriteFile(path, content, 0o600)) }()

				out := filepath.Join(t.TempDir(), "out")
				commands := [][]string{{"verify"}, {"copy", "--to", t.TempDir()}}
				if row.needs != nil {
					commands = append(commands, append([]string{"restore", "--output", out}, row.needs...))
				}
				for _, command := range commands {
					r := alone.Run(command...)
					require.Equal(t, 4, r.Code, "%s", r)
					require.Contains(t, r.Stderr, row.folder, "which file: %s", r)
					require.Contains(t, r.Stderr, "is damaged")
					if kind == s3test.MinIO {
						require.Contains(t, r.Stderr, "the store doesn't give it, though it gives others")
					}
				}
				require.NoDirExists(t, out)
				if row.needs == nil {
					r := alone.Run("restore", "--latest", "--output", out)
					require.Zero(t, r.Code, "%s", r)
					require.Contains(t, r.Stdout, "the same was read from elsewhere")
				}
			})
		}
		for _, m := range []moment{early, m} {
			m.equals(t, enginetest.Any(t), alone.Restore(m.byOffset()...))
		}
	})
}

// objectFile is the file in which a server keeps the bytes of the largest object below a folder of the archive.
func objectFile(t *testing.T, bucket, folder string) (path string) {
	t.Helper()
	var most int64
	require.NoError(t, filepath.WalkDir(bucket, func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || !strings.Contains(name, folder) {
			return err
		}
		info, err := e.Info()
		if err == nil && info.Size() > most {
			path, most = name, info.Size()
		}
		return err
	}))
	require.NotEmpty(t, path, "no object below %s in %s", folder, bucket)
	return path
}
