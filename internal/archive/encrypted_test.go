package archive_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"
	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/crypt"
	"github.com/offloader/offloader/internal/stream"
)

// newKey is a recipient, and the identity that opens what it gets.
func newKey(t *testing.T) (crypt.Recipient, crypt.Identity) {
	t.Helper()
	key, err := age.GenerateX25519Identity()
	require.NoError(t, err)
	to, err := crypt.ParseRecipient(key.Recipient().String())
	require.NoError(t, err)
	i, err := crypt.ParseIdentity("key.txt", []byte(key.String()))
	require.NoError(t, err)
	return to, i
}

// large is a stream that shrinks little, so that its segment has several chunks of age's.
func large() string { return command("SELECT", "7") + command("SET", "k", string(rdb(300_000))) }

// readOne reads a segment to its end.
func readOne(t *testing.T, s archive.Segment) (string, error) {
	t.Helper()
	r, err := s.Open(t.Context())
	if err != nil {
		return "", err
	}
	var b strings.Builder
	for {
		p, err := r.Next()
		if err != nil {
			require.NoError(t, r.Close())
			if err == io.EOF {
				err = nil
			}
			return b.String(), err
		}
		b.Write(p.Data)
	}
}

// An encrypted archive has the names of a plain one with ".age" behind them. Its catalog needs no
// identity, its contents need one of the right kind; what was stored plain before goes on to need none.
func TestEncryptedArchive(t *testing.T) {
	to, key := newKey(t)
	second, secondKey := newKey(t)
	_, stranger := newKey(t)
	s, root := disk(t)
	require.NoError(t, archive.WriteTimeline(t.Context(), s, info(0)))
	plain, ping := command("SET", "a", "plain"), command("PING")
	put(t, s, stream.Cursor{}, plain, 100, begin, 1)
	at := stream.Offset(len(plain))
	name := put(t, s, stream.Cursor{Offset: at}, large(), 50_000, begin+10, 1, to, second)
	require.True(t, strings.HasSuffix(name, ".aof.zst.age"), name)
	end := at + stream.Offset(len(large()))
	put(t, s, stream.Cursor{Offset: end, DB: 7}, ping, 100, begin+20, 1, to)
	data := rdb(400_000)
	wrote, err := writeSnapshot(t, s, archive.SnapshotInfo{Offset: at, Time: begin + 5, DB: 7}, bytes.NewReader(data), to, second)
	require.NoError(t, err)

	cat := load(t, s) // by names only
	require.Len(t, cat.Segments, 3)
	require.Equal(t, []bool{false, true, true}, []bool{cat.Segments[0].Encrypted, cat.Segments[1].Encrypted, cat.Segments[2].Encrypted})
	require.Equal(t, name, cat.Segments[1].Name)
	used, reached := archive.Cover(cat.Segments, stream.Range{From: 0, To: cat.End()})
	require.Len(t, used, 3)
	require.Equal(t, cat.End(), reached)
	require.Len(t, cat.Snapshots, 1)
	require.True(t, cat.Snapshots[0].Encrypted)
	stored, err := os.ReadFile(filepath.Join(root, folder, cat.Snapshots[0].Name))
	require.NoError(t, err)
	require.EqualValues(t, len(stored), wrote.StoredBytes)
	require.EqualValues(t, len(stored), cat.Snapshots[0].Size)
	read, err := cat.Snapshots[0].Info(t.Context())
	require.NoError(t, err)
	require.Equal(t, wrote, read)
	require.True(t, bytes.HasPrefix(stored, []byte("age-encryption.org/v1\n")))

	for _, i := range []crypt.Identity{key, secondKey} {
		cat := load(t, s, i)
		got, err := readOne(t, cat.Segments[1])
		require.NoError(t, err)
		require.True(t, got == large())
		back, err := readSnapshot(t, cat.Snapshots[0])
		require.NoError(t, err)
		require.True(t, bytes.Equal(data, back))
	}
	require.Equal(t, plain+large()+ping, readAll(t, load(t, s, key).Segments))

	// Without, or with another's: the file is named, and it isn't called damaged.
	for says, ids := range map[string][]crypt.Identity{"no identity to open it": nil, "no key in key.txt opens it": {stranger}} {
		cat := load(t, s, ids...)
		got, err := readOne(t, cat.Segments[0])
		require.NoError(t, err)
		require.Equal(t, plain, got)
		_, err = readOne(t, cat.Segments[1])
		requireLocked(t, err, folder+"/"+name, says)
		_, err = readSnapshot(t, cat.Snapshots[0])
		requireLocked(t, err, folder+"/"+cat.Snapshots[0].Name, says)
	}
	_, err = readOne(t, load(t, s, secondKey).Segments[2])
	requireLocked(t, err, load(t, s).Segments[2].Name, "no key")

	// Where a segment ends, a daemon finds without an identity.
	require.Nil(t, cat.Segments[0].EndDB)
	for _, seg := range cat.Segments[1:] {
		db, ok, err := seg.EndDB(t.Context())
		require.NoError(t, err)
		require.True(t, ok)
		require.Equal(t, 7, db)
	}
}

func readAll(t *testing.T, all []archive.Segment) string {
	t.Helper()
	var b strings.Builder
	for _, s := range all {
		got, err := readOne(t, s)
		require.NoError(t, err)
		b.WriteString(got)
	}
	return b.String()
}

func requireLocked(t *testing.T, err error, file, says string) {
	t.Helper()
	var no *crypt.IdentityError
	require.ErrorAs(t, err, &no)
	require.ErrorContains(t, err, file)
	require.ErrorContains(t, err, says)
	var damage *archive.DamageError
	require.NotErrorAs(t, err, &damage)
}

// What age -d gives is the file that would have been stored without recipients.
func TestInsideIsTheSameFile(t *testing.T) {
	to, key := newKey(t)
	s, root := disk(t)
	name := put(t, s, stream.Cursor{Offset: 10}, large(), 50_000, begin, 1)
	want, err := os.ReadFile(filepath.Join(root, folder, name))
	require.NoError(t, err)
	name = put(t, s, stream.Cursor{Offset: 10}, large(), 50_000, begin, 1, to)
	f, err := os.Open(filepath.Join(root, folder, name))
	require.NoError(t, err)
	defer f.Close()
	r, err := crypt.Decrypt(f, name, key)
	require.NoError(t, err)
	got, err := io.ReadAll(r)
	require.NoError(t, err)
	require.True(t, bytes.Equal(want, got))
}

// wounds are what can happen to an encrypted file, at each of its parts.
func wounds(stored []byte) map[string][]byte {
	flip := func(at int) []byte {
		b := bytes.Clone(stored)
		b[at] ^= 1
		return b
	}
	head := bytes.Index(stored, []byte("\n--- ")) // then 43 characters of MAC, a newline, the nonce
	payload := head + len("\n--- ") + 43 + 1 + 16
	chunk := 64<<10 + 16
	w := map[string][]byte{
		"empty":                      {},
		"no more than a head":        stored[:payload-16],
		"cut in the first line":      stored[:10],
		"cut in the head":            stored[:head-5],
		"cut in the nonce":           stored[:payload-3],
		"cut before the first chunk": stored[:payload],
		"cut in a chunk":             stored[:payload+1000],
		"cut in a chunk's tag":       stored[:payload+chunk-3],
		"cut between chunks":         stored[:payload+chunk],
		"cut by a byte":              stored[:len(stored)-1],
		"a byte more":                append(bytes.Clone(stored), 0),
		"a chunk twice":              append(bytes.Clone(stored), stored[payload:payload+chunk]...),
		"no age file":                bytes.Repeat([]byte("x"), len(stored)),
		"plain":                      []byte("(\xb5/\xfd"),
		"the first line":             flip(3),
		"a kind of recipient":        flip(bytes.Index(stored, []byte("X25519"))),
		"a recipient's share":        flip(bytes.Index(stored, []byte("X25519")) + 20),
		"a recipient's key":          flip(bytes.Index(stored, []byte("X25519")) + 60),
		"the head's sum":             flip(head + 10),
		"the nonce":                  flip(payload - 5),
		"a byte of the first chunk":  flip(payload + 5),
		"a tag":                      flip(payload + chunk - 5),
		"a byte of a later chunk":    flip(payload + chunk + 5),
		"the last byte":              flip(len(stored) - 1),
	}
	if at := bytes.Index(stored, []byte("-> offloader")); at > 0 {
		w["the note"] = flip(at + len("-> offloader db "))
		w["the note's name"] = flip(at + 5)
	}
	return w
}

// Whatever happens to an encrypted file is damage, for who has the right key: never somebody else's
// file, and never an end that looks whole.
func TestWoundsOfEncryptedFiles(t *testing.T) {
	to, key := newKey(t)
	s, root := disk(t)
	require.NoError(t, archive.WriteTimeline(t.Context(), s, info(100)))
	put(t, s, stream.Cursor{Offset: 100}, large(), 50_000, begin, 1, to)
	_, err := writeSnapshot(t, s, archive.SnapshotInfo{Offset: 100, Time: begin}, bytes.NewReader(rdb(400_000)), to)
	require.NoError(t, err)
	whole := load(t, s, key)
	for what, file := range map[string]string{"segment": whole.Segments[0].Name, "snapshot": whole.Snapshots[0].Name} {
		path := filepath.Join(root, folder, file)
		stored, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Greater(t, len(stored), 3*64<<10)
		for name, wounded := range wounds(stored) {
			t.Run(what+": "+name, func(t *testing.T) {
				require.NotEqual(t, stored, wounded)
				require.NoError(t, os.WriteFile(path, wounded, 0o600))
				defer func() { require.NoError(t, os.WriteFile(path, stored, 0o600)) }()
				tl := load(t, s, key)
				if what == "segment" {
					_, err = readOne(t, tl.Segments[0])
					db, ok, noteErr := tl.Segments[0].EndDB(t.Context())
					requireDamage(t, noteErr, file)
					require.False(t, ok, db)
				} else {
					_, err = readSnapshot(t, tl.Snapshots[0])
				}
				requireDamage(t, err, file)
			})
		}
	}
}

func requireDamage(t *testing.T, err error, file string) {
	t.Helper()
	var damage *archive.DamageError
	require.ErrorAs(t, err, &damage)
	require.Equal(t, folder+"/"+file, damage.Name)
	var no *crypt.IdentityError
	require.NotErrorAs(t, err, &no, "damage is no wrong key")
}

// A disk that fails is neither damage nor a wrong key, wherever in the file it fails.
func TestUnreadableEncryptedFiles(t *testing.T) {
	to, key := newKey(t)
	broken := errors.New("the disk doesn't answer")
	s, root := disk(t)
	require.NoError(t, archive.WriteTimeline(t.Context(), s, info(100)))
	name := put(t, s, stream.Cursor{Offset: 100}, large(), 50_000, begin, 1, to)
	stored, err := os.ReadFile(filepath.Join(root, folder, name))
	require.NoError(t, err)
	n, err := archive.ParseSegmentName(name)
	require.NoError(t, err)
	_, stranger := newKey(t)
	for _, i := range []crypt.Identity{key, stranger} {
		for _, at := range []int{0, 30, 190, 300, 70_000, 140_000} {
			r, err := archive.NewSegmentReader(io.NopCloser(io.MultiReader(bytes.NewReader(stored[:at]), failing{broken})), "seg", n, i)
			require.NoError(t, err)
			for err == nil {
				_, err = r.Next()
			}
			require.ErrorIs(t, err, broken, "%d", at)
			var damage *archive.DamageError
			var no *crypt.IdentityError
			require.False(t, errors.As(err, &damage) || errors.As(err, &no), "%d: %v", at, err)
		}
	}
}

// A daemon that was killed between an RDB and its sidecar does it again: with the same settings, or
// after encryption was switched on or off. It needs no identity for it.
func TestEncryptedSnapshotAfterAKill(t *testing.T) {
	to, key := newKey(t)
	data := rdb(300_000)
	in := archive.SnapshotInfo{Offset: 100, Time: begin, DB: 2}
	encrypted, plain := []crypt.Recipient{to}, []crypt.Recipient(nil)
	for _, c := range []struct {
		name          string
		first, second []crypt.Recipient
		files         int
	}{{"encrypted", encrypted, encrypted, 1}, {"switched on", plain, encrypted, 2}, {"switched off", encrypted, plain, 2}} {
		for _, sidecar := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, with a sidecar: %v", c.name, sidecar), func(t *testing.T) {
				s, root := disk(t)
				require.NoError(t, archive.WriteTimeline(t.Context(), s, info(100)))
				first, err := writeSnapshot(t, s, in, bytes.NewReader(data), c.first...)
				require.NoError(t, err)
				path := filepath.Join(root, folder, archive.SnapshotName{Offset: 100, Time: begin}.Sidecar())
				if !sidecar {
					require.NoError(t, os.Remove(path))
					require.Empty(t, load(t, s).Snapshots)
				}
				second, err := writeSnapshot(t, s, in, bytes.NewReader(data), c.second...)
				require.NoError(t, err)
				if sidecar || c.files == 1 {
					require.Equal(t, first, second, "it was stored, and stays as it is")
				}
				left, err := filepath.Glob(filepath.Join(root, folder, "snapshots", "*.rdb.zst*"))
				require.NoError(t, err)
				require.Len(t, left, c.files)
				all := load(t, s, key).Snapshots
				require.Len(t, all, 1)
				require.Equal(t, second.StoredBytes, all[0].Size, "the file that the sidecar is of")
				back, err := readSnapshot(t, all[0])
				require.NoError(t, err)
				require.True(t, bytes.Equal(data, back))

				// Another RDB under that name is none.
				_, err = writeSnapshot(t, s, in, bytes.NewReader(data[1:]), c.second...)
				require.Error(t, err)
			})
		}
	}
}

// Files that other hands have encrypted have no note: whoever needs it is told so, and guesses nothing.
func TestWithoutANote(t *testing.T) {
	to, key := newKey(t)
	s, root := disk(t)
	require.NoError(t, archive.WriteTimeline(t.Context(), s, info(10)))
	enc, err := archive.NewEncoder(to)
	require.NoError(t, err)
	var stored bytes.Buffer
	w, err := archive.NewSegmentWriter(&stored, enc, archive.SegmentHead{Source: "cache", Timeline: timeline, ReplID: id, From: stream.Cursor{Offset: 10}})
	require.NoError(t, err)
	require.NoError(t, w.Write(stream.Piece{At: 10, Time: begin, Data: []byte(command("PING")), First: 0}))
	name, err := w.Close()
	require.NoError(t, err)
	require.NoError(t, s.Put(t.Context(), folder+"/"+name.String(), &stored))
	seg := load(t, s, key).Segments[0]
	_, ok, err := seg.EndDB(t.Context())
	require.NoError(t, err)
	require.False(t, ok)
	got, err := readOne(t, seg)
	require.NoError(t, err)
	require.Equal(t, command("PING"), got)

	// And a writer that ends elsewhere than it said gives nothing.
	w, err = archive.NewSegmentWriter(io.Discard, enc, archive.SegmentHead{Source: "cache", Timeline: timeline, ReplID: id,
		From: stream.Cursor{Offset: 10}, End: &stream.Cursor{Offset: 12}})
	require.NoError(t, err)
	require.NoError(t, w.Write(stream.Piece{At: 10, Time: begin, Data: []byte(command("PING")), First: 0}))
	_, err = w.Close()
	require.ErrorContains(t, err, "ends at 24")

	require.NoError(t, os.Remove(filepath.Join(root, folder, name.String())))
	_, _, err = seg.EndDB(t.Context())
	require.ErrorIs(t, err, fs.ErrNotExist)
}
