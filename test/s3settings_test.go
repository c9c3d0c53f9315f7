package test

import (
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

// archived has a daemon archive a master to a bucket, and stop.
func archived(t *testing.T, s *service) moment {
	t.Helper()
	master := enginetest.Start(t, enginetest.Any(t))
	master.Do("SET", "noise", noise(t, 300_000)) // more than MinIO keeps beside its metadata
	d := blackbox.StartWith(t, t.TempDir(), fmt.Sprintf("sources: [{name: cache, address: %q}]\nspool: {path: $DIR/spool}\nstores: [%s]\n", master.Addr(), s.store(t)))
	d.Streaming("cache")
	master.Do("SET", "more noise", noise(t, 300_000))
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
// isn't what was put there.
func TestS3DamageOnTheServer(t *testing.T) {
	t.Parallel()
	s3test.Each(t, func(t *testing.T, kind s3test.Kind) {
		t.Parallel()
		s := startService(t, kind)
		m := archived(t, s)
		alone := s.alone(t)
		alone.Do("verify")
		for _, folder := range []string{"/log/", "/snapshots/"} {
			t.Run(strings.Trim(folder, "/"), func(t *testing.T) {
				path := objectFile(t, filepath.Join(s.Dir(), s.bucket), folder)
				content, err := os.ReadFile(path)
				require.NoError(t, err)
				hurt := append([]byte(nil), content...)
				hurt[len(hurt)/2] ^= 1
				require.NoError(t, os.WriteFile(path, hurt, 0o600))
				defer func() { require.NoError(t, os.WriteFile(path, content, 0o600)) }()

				for _, command := range [][]string{{"verify"}, {"restore", "--latest", "--output", filepath.Join(t.TempDir(), "out")}} {
					r := alone.Run(command...)
					require.Contains(t, r.Stderr, "cache/"+alone.Timelines("cache")[0].Name+folder, "which file: %s", r)
					switch kind {
					case s3test.VersityGW: // it gives what it finds
						require.Equal(t, 4, r.Code, "%s", r)
						require.Contains(t, r.Stderr, "is damaged")
					case s3test.MinIO: // it finds out by itself, and gives nothing
						require.Equal(t, 1, r.Code, "%s", r)
						require.Contains(t, r.Stderr, "its disks may have damaged what is asked for")
					}
				}
			})
		}
		m.equals(t, enginetest.Any(t), alone.Restore("--latest"))
	})
}

// objectFile is the file in which a server keeps the bytes of the largest object below a folder of the archive.
func objectFile(t *testing.T, bucket, folder string) (path string) {
	t.Helper()
	var most int64
	require.NoError(t, filepath.WalkDir(bucket, func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || !strings.Contains(name, folder) || filepath.Base(name) == "xl.meta" {
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
