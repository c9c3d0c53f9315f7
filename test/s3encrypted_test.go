package test

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/engine/enginetest"
	"github.com/offloader/offloader/internal/store/s3test"
	"github.com/offloader/offloader/test/blackbox"
)

// A bucket that is told to encrypt does so with all that is put there, small and in parts: nothing of it is
// readable on the service's disk, and a restore is what the master had.
func TestS3Encryption(t *testing.T) {
	t.Parallel()
	kind := enginetest.Any(t)
	for name, row := range map[string]struct{ how, says, key string }{
		"AES256":  {"{type: AES256}", "AES256", ""},
		"aws:kms": {"{type: aws:kms, kms_key_id: test-key}", "aws:kms", "arn:aws:kms:test-key"},
		"none":    {"", "", ""}, // that what is looked for would be found
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := s3test.Start(t, s3test.MinIO, s3test.KMSKey)
			bucket := server.Bucket(s3test.Plain)
			store := onS3(t, server.Endpoint(), bucket)
			if row.how != "" {
				store = store[:len(store)-1] + ", server_side_encryption: " + row.how + "}"
			}
			master := enginetest.Start(t, kind)
			secret := noise(t, 12<<20) // nothing compresses it
			master.Do("SET", "secret", secret)
			d := blackbox.StartWith(t, t.TempDir(), fmt.Sprintf("sources: [{name: cache, address: %q}]\nspool: {path: $DIR/spool, min_free: 1%%}\nstores: [%s]\n", master.Addr(), store))
			d.Streaming("cache")
			master.Do("SET", "key", "value")
			m := note(t, master, 1)
			stored(t, d, m.offset)
			d.Stop()

			parts := 0
			for _, key := range server.Versions(bucket) {
				head, err := server.Client().HeadObject(t.Context(), &s3.HeadObjectInput{Bucket: &bucket, Key: &key, PartNumber: aws.Int32(1)})
				require.NoError(t, err)
				require.Equal(t, row.says, string(head.ServerSideEncryption), key)
				require.Equal(t, row.key, aws.ToString(head.SSEKMSKeyId), key)
				parts += int(aws.ToInt32(head.PartsCount))
			}
			require.Greater(t, parts, 1, "one of them is in parts")
			piece := secret[6<<20:][:16]
			require.Equal(t, row.how == "", lies(t, filepath.Join(server.Dir(), bucket), piece), "it lies readable on the disk")
			d.Do("verify")
			m.equals(t, kind, d.Restore("--latest"))
		})
	}
}

// lies tells whether a file below a folder holds a piece.
func lies(t *testing.T, dir string, piece []byte) (found bool) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		all, err := os.ReadFile(path)
		found = found || bytes.Contains(all, piece)
		return err
	}))
	return found
}
