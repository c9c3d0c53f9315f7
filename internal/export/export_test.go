package export

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/crc64"
	"github.com/offloader/offloader/internal/durable"
	"github.com/offloader/offloader/internal/store"
)

// rdbOf is an RDB of that version with one key and, where more is given, with what follows it.
func rdbOf(version string, more ...byte) []byte {
	b := append([]byte("REDIS"+version+"\xfe\x00\x00\x01k\x01v"), more...)
	b = append(b, 0xff)
	return binary.LittleEndian.AppendUint64(b, crc64.Update(0, b))
}

// to is a template, which must be right.
func to(t *testing.T, text string) Options {
	t.Helper()
	template, err := ParseTemplate(text)
	require.NoError(t, err)
	return Options{To: template}
}

// from gives a reader's bytes to a Put.
func from(ctx context.Context, r io.Reader) func(Put) error {
	return func(put Put) error { return put(ctx, at(), r) }
}

// names are all that a folder holds.
func names(t *testing.T, dir string) (all []string) {
	t.Helper()
	list, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, e := range list {
		all = append(all, e.Name())
	}
	return all
}

func TestAnExportToAFolder(t *testing.T) {
	dir, rdb := filepath.Join(t.TempDir(), "new", "folder"), rdbOf("0011")
	o := to(t, dir+"/{source}-{time}.rdb")
	r, err := Run(t.Context(), o, from(t.Context(), iotest.OneByteReader(bytes.NewReader(rdb))))
	require.NoError(t, err)
	path := dir + "/cache-20261125T030000Z.rdb"
	one := int64(1)
	require.Equal(t, &Report{Point: at(), To: path, Bytes: int64(len(rdb)), SHA256: r.SHA256, RDBVersion: 11, Keys: &one}, r)
	require.Len(t, r.SHA256, 64)
	got, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, rdb, got)

	// What is there stays, and is not read for.
	_, err = Run(t.Context(), o, from(t.Context(), iotest.ErrReader(errors.New("it was read"))))
	var exists *ExistsError
	require.ErrorAs(t, err, &exists)
	require.ErrorIs(t, err, fs.ErrExist)
	require.EqualError(t, err, path+" exists, and nothing is ever overwritten")
	got, err = os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, rdb, got)
	_, err = Run(t.Context(), to(t, dir), from(t.Context(), bytes.NewReader(rdb)))
	require.ErrorContains(t, err, "is a folder: name the file too, like "+dir+"/dump.rdb")
	require.Equal(t, []string{"cache-20261125T030000Z.rdb"}, names(t, dir))
}

// What comes half, or not at all, leaves nothing, and is told in its own words.
func TestWhatDoesNotComeLeavesNothing(t *testing.T) {
	dir, rdb := t.TempDir(), rdbOf("0011")
	cut := errors.New("the master is gone")
	_, err := Run(t.Context(), to(t, dir+"/dump.rdb"), from(t.Context(), io.MultiReader(bytes.NewReader(rdb[:9]), iotest.ErrReader(cut))))
	require.Equal(t, cut, err)
	ctx, cancel := context.WithCancelCause(t.Context())
	_, err = Run(ctx, to(t, dir+"/dump.rdb"), func(put Put) error {
		cancel(cut)
		return put(ctx, at(), bytes.NewReader(rdb))
	})
	require.Equal(t, cut, err)
	_, err = Run(t.Context(), to(t, dir+"/dump.rdb"), func(Put) error { return cut })
	require.Equal(t, cut, err)
	// All came, and then what gave it says that it was wrong.
	_, err = Run(t.Context(), to(t, dir+"/dump.rdb"), func(put Put) error {
		return errors.Join(put(t.Context(), at(), bytes.NewReader(rdb)), cut)
	})
	require.ErrorContains(t, err, "was no good, and was taken away: the master is gone")
	require.Empty(t, names(t, dir))

	full := to(t, dir+"/dump.rdb")
	full.MinFree = 1
	_, err = Run(t.Context(), full, from(t.Context(), iotest.ErrReader(errors.New("it was read"))))
	require.ErrorContains(t, err, "the disk is full")
	_, err = Run(t.Context(), to(t, "/proc/nowhere/dump.rdb"), from(t.Context(), bytes.NewReader(rdb)))
	var refused *WriteError
	require.ErrorAs(t, err, &refused)
	require.ErrorContains(t, err, "export to /proc/nowhere/dump.rdb: ")
	require.Empty(t, names(t, dir))
}

// wounded is a store that gives back something else than it was given.
type wounded struct {
	store.Store
	wound func([]byte) ([]byte, error)
	stuck error // what Delete fails with
}

func (w wounded) Open(ctx context.Context, name string) (io.ReadCloser, error) {
	f, err := w.Store.Open(ctx, name)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(f)
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	if b, err = w.wound(b); err == nil {
		err = io.EOF
	}
	return io.NopCloser(io.MultiReader(bytes.NewReader(b), iotest.ErrReader(err))), nil
}

func (w wounded) Delete(ctx context.Context, name string) error {
	if w.stuck != nil {
		return w.stuck
	}
	return w.Store.Delete(ctx, name)
}

func TestWhatIsReadBack(t *testing.T) {
	flip := func(i int) func([]byte) ([]byte, error) {
		return func(b []byte) ([]byte, error) { b[(i+len(b))%len(b)] ^= 1; return b, nil }
	}
	same := func(b []byte) ([]byte, error) { return b, nil }
	for name, row := range map[string]struct {
		sent      []byte
		wound     func([]byte) ([]byte, error)
		want      string // of the error, "" for none
		unchecked string
	}{
		"the same":                {rdbOf("0011"), same, "", ""},
		"newer":                   {rdbOf("0099"), same, "", "RDB version 99 is newer"},
		"a type that isn't known": {rdbOf("0011", 0x77), same, "", "type 119 of RDB version 11 is not known"},
		"a flipped value":         {rdbOf("0011"), flip(-10), "other bytes than were sent", ""},
		"a flipped magic":         {rdbOf("0011"), flip(0), "other bytes than were sent", ""},
		"a flipped checksum":      {rdbOf("0011"), flip(-1), "other bytes than were sent", ""},
		"a cut":                   {rdbOf("0011"), func(b []byte) ([]byte, error) { return b[:12], nil }, "it has 12 bytes, and 25 were sent", ""},
		"a byte more":             {rdbOf("0011"), func(b []byte) ([]byte, error) { return append(b, 0), nil }, "it has 26 bytes, and 25 were sent", ""},
		"nothing":                 {rdbOf("0011"), func([]byte) ([]byte, error) { return nil, nil }, "it has 0 bytes", ""},
		"an answer that ends":     {rdbOf("0011"), func(b []byte) ([]byte, error) { return b[:12], errors.New("the line is cut") }, "could not be read back: the line is cut", ""},
		"no sound RDB was sent":   {append(rdbOf("0011")[:17], 1, 2, 3, 4, 5, 6, 7, 8), same, "the RDB is damaged", ""},
		"text was sent":           {[]byte("not an RDB at all"), same, "the RDB is damaged", ""},
		"nothing was sent":        {nil, same, "unexpected EOF", ""},
		"one that wears no sum":   {append(rdbOf("0011")[:17], make([]byte, 8)...), same, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			w, err := write(t.Context(), to(t, dir+"/dump.rdb"), at(), bytes.NewReader(row.sent))
			require.NoError(t, err)
			disk := w.store
			w.store = wounded{Store: disk, wound: row.wound}
			err = w.check(t.Context())
			if row.want == "" {
				require.NoError(t, err)
				require.Equal(t, row.unchecked == "", w.report.Keys != nil)
				require.Contains(t, w.report.Unchecked, row.unchecked)
				return
			}
			require.ErrorContains(t, err, row.want)
			stuck := wounded{Store: disk, stuck: errors.New("it is locked")}
			w.store = stuck
			var bad *CheckError
			require.ErrorAs(t, w.away(t.Context(), err), &bad)
			require.ErrorContains(t, bad, dir+"/dump.rdb is no good: ")
			require.ErrorContains(t, bad, "it could not be taken away: it is locked")
			require.Contains(t, bad.Hint(), "delete it")
			require.NotEmpty(t, names(t, dir))
			w.store = disk
			require.ErrorAs(t, w.away(t.Context(), err), &bad)
			require.ErrorContains(t, bad, "was no good, and was taken away")
			require.NotEmpty(t, bad.Hint())
			require.Empty(t, names(t, dir))
		})
	}
}

// Told to stop while it is read back, it is as if it had never been.
func TestAnExportThatIsStopped(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("told to stop")
	_, err := Run(ctx, to(t, dir+"/dump.rdb"), func(put Put) error {
		err := put(t.Context(), at(), bytes.NewReader(rdbOf("0011")))
		cancel(stop)
		return err
	})
	require.Equal(t, stop, err)
	require.Empty(t, names(t, dir))
}

// What a kill has left is removed by a later export, and nothing else.
func TestLeftovers(t *testing.T) {
	dir := t.TempDir()
	ours := durable.TempPrefix + strings.Repeat("A", 26)
	for _, name := range []string{ours, durable.TempPrefix + strings.Repeat("B", 26), durable.TempPrefix + "notes", "old.rdb"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), nil, 0o600))
		age := 25 * time.Hour
		if strings.Contains(name, "BBB") {
			age = time.Hour
		}
		require.NoError(t, os.Chtimes(filepath.Join(dir, name), time.Time{}, time.Now().Add(-age)))
	}
	_, err := Run(t.Context(), to(t, dir+"/dump.rdb"), from(t.Context(), bytes.NewReader(rdbOf("0011"))))
	require.NoError(t, err)
	require.Equal(t, []string{durable.TempPrefix + strings.Repeat("B", 26), durable.TempPrefix + "notes", "dump.rdb", "old.rdb"}, names(t, dir))
}
