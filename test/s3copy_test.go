package test

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/engine/enginetest"
	"github.com/offloader/offloader/internal/store/s3test"
	"github.com/offloader/offloader/test/blackbox"
)

// An archive goes from a folder to one service, to another, and to a folder again: each copy is whole, a
// second copy has nothing to do, and each restores by itself what the master had.
func TestCopyToAndFromS3(t *testing.T) {
	t.Parallel()
	kind := enginetest.Any(t)
	master := enginetest.Start(t, kind)
	master.Do("SET", "noise", noise(t, 12<<20)) // a snapshot that goes in parts
	dir := t.TempDir()
	d := blackbox.StartWith(t, dir, fmt.Sprintf("sources: [{name: cache, address: %q}]\nspool: {path: $DIR/spool, min_free: 1%%}\nstores: [{type: disk, path: $DIR/archive}]\n", master.Addr()))
	d.Streaming("cache")
	master.Do("SET", "key", "value")
	late := note(t, master, 1)
	d.Stop() // it stores the last of it

	minio, versity := s3test.Start(t, s3test.MinIO), s3test.Start(t, s3test.VersityGW)
	keys := []string{"AWS_ACCESS_KEY_ID=" + s3test.AccessKey, "AWS_SECRET_ACCESS_KEY=" + s3test.SecretKey}
	from := filepath.Join(dir, "archive")
	for _, to := range []string{
		minio.URL(minio.Bucket(s3test.Plain), "copy"),
		versity.URL(versity.Bucket(s3test.Plain), "copy"),
		minio.URL(minio.Bucket(s3test.Plain), ""),
		filepath.Join(dir, "back"),
	} {
		r := blackbox.ArchiveOn(t, from, keys...).Run("copy", "--to", to)
		require.Zero(t, r.Code, "%s", r)
		require.Contains(t, r.Stdout, "it has all of ")
		r = blackbox.ArchiveOn(t, from, keys...).Run("copy", "--to", to, "--json")
		require.Zero(t, r.Code, "%s", r)
		require.Contains(t, r.Stdout, `"files": 0`, "it is there already")
		copied := blackbox.ArchiveOn(t, to, keys...)
		copied.Do("verify")
		late.equals(t, kind, copied.Restore("--latest"))
		from = to
	}
}
