package test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/engine/enginetest"
	"github.com/offloader/offloader/internal/store/s3test"
	"github.com/offloader/offloader/test/blackbox"
)

// What a bucket keeps under a lock stays when retention would let it go, is told, and no mark is laid over
// it. When the lock is off the next prune goes on. Where an archiver may delete nothing, it says that
// retention is not its job.
func TestPruneOfLocks(t *testing.T) {
	t.Parallel()
	kind := enginetest.Any(t)
	s3test.Each(t, func(t *testing.T, service s3test.Kind) {
		t.Parallel()
		s := startService(t, service)
		s.bucket = s.Bucket(s3test.Locking)
		store := s.store(t)
		locking := store[:len(store)-1] + ", object_lock: {mode: governance, retain: 1h}}"
		master := enginetest.Start(t, kind)
		yaml := "sources: [{name: cache, address: %q}]\nspool: {path: $DIR/spool}\nstores: [%s]\nretention: {window: 1s}\n"
		d := blackbox.StartWith(t, t.TempDir(), fmt.Sprintf(yaml, master.Addr(), locking))
		d.Streaming("cache")
		master.Do("SET", "old", "1")
		old := note(t, master, 1)
		stored(t, d, old.offset)

		// The master comes back with nothing: a timeline that makes the first one old.
		master.Kill()
		require.NoError(t, os.Remove(filepath.Join(master.Dir(), "dump.rdb"))) // note made it
		master.Restart()
		d.Until("cache", "synced anew", func(s blackbox.SourceStatus) bool { return s.FullResyncs == 2 && s.State == "streaming" })
		d.WaitFor(1500 * time.Millisecond) // longer than the window
		master.Do("SET", "young", "1")
		young := note(t, master, 1)
		stored(t, d, young.offset)
		first := d.Timelines("cache")[0].Name
		d.Stop() // what it seals last is there before files are counted

		there := s.Versions(s.bucket)
		r := d.Run("prune", "--dry-run")
		require.Equal(t, 0, r.Code, "%s", r)
		require.Contains(t, r.Stdout, "would go: 0 files", "what is locked doesn't go")
		require.Contains(t, r.Stdout, "the store keeps it, or a file that it belongs to")
		require.Contains(t, r.Stderr, "it is locked (GOVERNANCE) until ")
		r = d.Run("prune")
		require.Equal(t, 0, r.Code, "%s", r)
		require.Contains(t, r.Stdout, "deleted: 0 files")
		require.Contains(t, r.Stderr, "offloader: the store keeps cache/"+first+"/")
		require.Contains(t, r.Stderr, "it is locked (GOVERNANCE) until ")
		require.Subset(t, s.Versions(s.bucket), there)
		require.Zero(t, s.marks(t), "nothing is hidden")
		old.equals(t, kind, d.Restore(append(old.byOffset(), "--timeline", first)...))

		// Nobody may delete there, locked or not.
		s.unlock(t)
		s.proxy.Harm(func(r *http.Request) s3test.Fault {
			if r.Method == http.MethodDelete {
				return s3test.Fault{Status: http.StatusForbidden, Code: "AccessDenied"}
			}
			return s3test.Fault{}
		})
		r = d.Run("prune")
		require.Equal(t, 1, r.Code, "%s", r)
		require.Contains(t, r.Stderr, "lets us delete nothing, so retention is not this archiver's job there")
		require.Contains(t, r.Stderr, `take "retention" of that store out of the configuration; or give the right to delete`)
		old.equals(t, kind, d.Restore(append(old.byOffset(), "--timeline", first)...))

		s.proxy.Mend()
		r = d.Run("prune", "--dry-run")
		require.Equal(t, 0, r.Code, "%s", r)
		require.NotContains(t, r.Stdout, "would go: 0 files")
		require.NotContains(t, r.Stderr, "keeps")
		r = d.Run("prune")
		require.Equal(t, 0, r.Code, "%s", r)
		require.NotContains(t, r.Stderr, "keeps")
		require.Len(t, d.Timelines("cache"), 1)
		require.Positive(t, s.marks(t), "it is hidden, no version is deleted")
		young.equals(t, kind, d.Restore(young.byOffset()...))
		d.Do("verify")
	})
}

// marks is how many objects are hidden by a deletion.
func (s *service) marks(t *testing.T) int {
	t.Helper()
	out, err := s.Client().ListObjectVersions(t.Context(), &s3.ListObjectVersionsInput{Bucket: &s.bucket})
	require.NoError(t, err)
	return len(out.DeleteMarkers)
}

// unlock has all locks end now, as the bucket's owner may.
func (s *service) unlock(t *testing.T) {
	t.Helper()
	out, err := s.Client().ListObjectVersions(t.Context(), &s3.ListObjectVersionsInput{Bucket: &s.bucket})
	require.NoError(t, err)
	end := time.Now().Add(2 * time.Second) // it must be to come
	for _, v := range out.Versions {
		_, err := s.Client().PutObjectRetention(t.Context(), &s3.PutObjectRetentionInput{
			Bucket: &s.bucket, Key: v.Key, VersionId: v.VersionId, BypassGovernanceRetention: aws.Bool(true),
			Retention: &types.ObjectLockRetention{Mode: types.ObjectLockRetentionModeGovernance, RetainUntilDate: &end},
		})
		require.NoError(t, err)
	}
	time.Sleep(time.Until(end) + 10*time.Millisecond)
}
