package source

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"filippo.io/age"
	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/crc64"
	"github.com/offloader/offloader/internal/crypt"
	"github.com/offloader/offloader/internal/engine/enginetest"
	"github.com/offloader/offloader/internal/stream"
)

// newKey is a recipient, and the identity that opens what it gets.
func newKey(t require.TestingT) (crypt.Recipient, crypt.Identity) {
	key, err := age.GenerateX25519Identity()
	require.NoError(t, err)
	to, err := crypt.ParseRecipient(key.Recipient().String())
	require.NoError(t, err)
	i, err := crypt.ParseIdentity("key.txt", []byte(key.String()))
	require.NoError(t, err)
	return to, i
}

// encryptedRig archives a master of which database 5 was written last, and loses its spool. What
// happens before the next start is the caller's.
func encryptedRig(t *testing.T, master *enginetest.Server, to crypt.Recipient) (*rig, stream.Offset) {
	encoders, err := NewEncoders(1, to)
	require.NoError(t, err)
	r := newRig(t, master.Addr(), func(o *Options) { o.Stores[0].Encoders = encoders })
	r.streaming()
	for i := range 100 {
		require.NoError(t, master.DB(5).Set(t.Context(), fmt.Sprint("before:", i), "v", 0).Err())
	}
	require.EqualValues(t, 1, master.Do("WAIT", 1, 5000))
	end := stream.Offset(master.Offset())
	r.until("stored", func(s Status) bool { return s.Stores[0].Stored >= end })
	r.stop()
	require.NoError(t, os.RemoveAll(filepath.Join(r.dir, "spool")))
	return r, end
}

// selectedAfter is the database of the first segment of the newest timeline, once it has one.
func selectedAfter(t *testing.T, r *rig, key crypt.Identity) int {
	t.Helper()
	cat, err := archive.Load(t.Context(), r.store, "cache", key)
	require.NoError(t, err)
	require.Empty(t, cat.Problems)
	p, err := cat.Timelines[len(cat.Timelines)-1].Segments[0].Open(t.Context())
	require.NoError(t, err)
	_, err = p.Next()
	require.NoError(t, err)
	require.NoError(t, p.Close())
	return p.DB()
}

// A daemon that has recipients only, and loses its spool, goes on where the store ends, in the
// database that was selected there: without an identity, and without a full sync.
func TestALostSpoolOfAnEncryptedArchive(t *testing.T) {
	master := enginetest.Start(t, enginetest.Any(t))
	to, key := newKey(t)
	r, end := encryptedRig(t, master, to)
	require.NoError(t, master.DB(5).Set(t.Context(), "after", "the loss", 0).Err()) // no SELECT comes before it
	r.start(master.Addr())
	r.streaming()
	require.Equal(t, "1", master.Info("stats")["sync_full"])
	cat := r.catalog()
	require.Len(t, cat.Timelines, 2)
	require.Equal(t, end, cat.Timelines[1].Parent.Offset)
	offset := stream.Offset(master.Offset())
	r.until("stored", func(s Status) bool { return s.Stores[0].Stored >= offset })
	require.Equal(t, 5, selectedAfter(t, r, key))
}

// Where the store's end doesn't say its database, since other hands have encrypted it, nobody
// guesses: an identity reads it, and without one a full sync comes that says why.
func TestALostSpoolAndNoNote(t *testing.T) {
	for _, has := range []bool{true, false} {
		t.Run(fmt.Sprintf("identity %v", has), func(t *testing.T) {
			master := enginetest.Start(t, enginetest.Any(t), "--repl-diskless-sync-delay", "0")
			to, key := newKey(t)
			r, end := encryptedRig(t, master, to)
			encryptAnew(t, r, to, key)
			require.NoError(t, master.DB(5).Set(t.Context(), "after", "the loss", 0).Err())
			before := r.tune
			r.tune = func(o *Options) {
				before(o)
				if has {
					o.Identity = key
				}
			}
			r.start(master.Addr())
			r.streaming()
			cat := r.catalog()
			require.Len(t, cat.Timelines, 2)
			newest := cat.Timelines[1]
			if has {
				require.Equal(t, "1", master.Info("stats")["sync_full"])
				require.Equal(t, end, newest.Parent.Offset)
				offset := stream.Offset(master.Offset())
				r.until("stored", func(s Status) bool { return s.Stores[0].Stored >= offset })
				require.Equal(t, 5, selectedAfter(t, r, key))
				return
			}
			require.Equal(t, "2", master.Info("stats")["sync_full"])
			require.Nil(t, newest.Parent)
			require.Contains(t, newest.Reason, "the spool was lost")
			require.Contains(t, newest.Reason, "there is no identity to open it")
		})
	}
}

// encryptAnew replaces all segments of the store by ones without a note, as age -e would.
func encryptAnew(t *testing.T, r *rig, to crypt.Recipient, key crypt.Identity) {
	t.Helper()
	cat := r.catalog()
	dir := filepath.Join(r.dir, "archive", "cache", cat.Timelines[0].Timeline)
	for _, seg := range cat.Timelines[0].Segments {
		path := filepath.Join(dir, seg.Name)
		stored, err := os.ReadFile(path)
		require.NoError(t, err)
		inside, err := crypt.Decrypt(bytes.NewReader(stored), seg.Name, key)
		require.NoError(t, err)
		var anew bytes.Buffer
		w, err := crypt.Encrypt(&anew, nil, to)
		require.NoError(t, err)
		_, err = io.Copy(w, inside)
		require.NoError(t, err)
		require.NoError(t, w.Close())
		name, err := archive.ParseSegmentName(seg.Name)
		require.NoError(t, err)
		name.Sum = crc64.Update(0, anew.Bytes())
		require.NoError(t, os.WriteFile(filepath.Join(dir, name.String()), anew.Bytes(), 0o600))
		require.NoError(t, os.Remove(path))
	}
}
