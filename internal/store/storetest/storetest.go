// Package storetest is what every store must pass.
package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/store"
)

// Run tests the stores that open gives, each of them empty.
func Run(t *testing.T, open func(t *testing.T) store.Store) {
	for name, test := range map[string]func(*testing.T, store.Store){
		"put and open":            putAndOpen,
		"whole or nothing":        wholeOrNothing,
		"never overwritten":       neverOverwritten,
		"one of many puts":        oneOfMany,
		"listing":                 listing,
		"missing":                 missing,
		"delete":                  deleting,
		"cancelled":               cancelled,
		"names that lead outside": badNames,
	} {
		t.Run(name, func(t *testing.T) { test(t, open(t)) })
	}
}

func put(t *testing.T, s store.Store, name, content string) {
	t.Helper()
	require.NoError(t, s.Put(t.Context(), name, strings.NewReader(content)))
}

func get(t *testing.T, s store.Store, name string) string {
	t.Helper()
	r, err := s.Open(t.Context(), name)
	require.NoError(t, err)
	b, err := io.ReadAll(r)
	require.NoError(t, errors.Join(err, r.Close()))
	return string(b)
}

func list(t *testing.T, s store.Store, dir string) []string {
	t.Helper()
	entries, err := s.List(t.Context(), dir)
	require.NoError(t, err)
	names := []string{}
	for _, e := range entries {
		names = append(names, e.Name)
	}
	return names
}

func putAndOpen(t *testing.T, s store.Store) {
	require.NotEmpty(t, s.String())
	large := strings.Repeat("0123456789abcdef", 5<<20/16) + "!"
	for name, content := range map[string]string{"a": "", "src/tl/log/b": "content", "src/large": large} {
		put(t, s, name, content)
		require.Equal(t, content, get(t, s, name))
	}
	r, err := s.Open(t.Context(), "src/large") // a reader may stop anywhere
	require.NoError(t, err)
	_, err = io.ReadFull(r, make([]byte, 10))
	require.NoError(t, errors.Join(err, r.Close()))
}

// failing gives some bytes and then an error.
type failing struct {
	r   io.Reader
	err error
}

func (f *failing) Read(p []byte) (int, error) {
	n, err := f.r.Read(p)
	if err == io.EOF {
		err = f.err
	}
	return n, err
}

func wholeOrNothing(t *testing.T, s store.Store) {
	// The last two look like an end, and are none.
	for _, broken := range []error{errors.New("the source broke"), io.ErrUnexpectedEOF, fmt.Errorf("the link: %w", io.EOF)} {
		for _, size := range []int{0, 1, 3 << 20, 9 << 20} {
			err := s.Put(t.Context(), "src/f", &failing{bytes.NewReader(make([]byte, size)), broken})
			require.ErrorIs(t, err, broken)
			require.Empty(t, list(t, s, ""))
			_, err = s.Open(t.Context(), "src/f")
			require.ErrorIs(t, err, fs.ErrNotExist)
		}
	}
	put(t, s, "src/f", "and now it works")
}

func neverOverwritten(t *testing.T, s store.Store) {
	put(t, s, "src/f", "first")
	require.ErrorIs(t, s.Put(t.Context(), "src/f", strings.NewReader("second")), fs.ErrExist)
	require.ErrorIs(t, s.Put(t.Context(), "src/f", strings.NewReader("first")), fs.ErrExist)
	require.Equal(t, "first", get(t, s, "src/f"))
	require.Equal(t, []string{"src/f"}, list(t, s, ""))
}

func oneOfMany(t *testing.T, s store.Store) {
	const n = 8
	var wg sync.WaitGroup
	errs := make([]error, n)
	for i := range n {
		wg.Go(func() {
			errs[i] = s.Put(t.Context(), "src/f", strings.NewReader(strings.Repeat(fmt.Sprint(i), 100_000)))
		})
	}
	wg.Wait()
	winner := -1
	for i, err := range errs {
		if err == nil {
			require.Equal(t, -1, winner, "two puts of one name succeeded")
			winner = i
		} else {
			require.ErrorIs(t, err, fs.ErrExist)
		}
	}
	require.GreaterOrEqual(t, winner, 0, "no put succeeded")
	require.Equal(t, strings.Repeat(fmt.Sprint(winner), 100_000), get(t, s, "src/f"))
}

func listing(t *testing.T, s store.Store) {
	require.Empty(t, list(t, s, ""))
	require.Empty(t, list(t, s, "src"))
	var want []archive.Entry
	for _, name := range []string{"a-b", "a/b", "a/b-c", "a/b0/c", "a/c", "ab"} { // in order of bytes
		put(t, s, name, name)
		want = append(want, archive.Entry{Name: name, Size: int64(len(name))})
	}
	const many, hands = 1100, 8 // more than one page of S3
	var wg sync.WaitGroup
	errs := make([]error, hands)
	for hand := range hands {
		wg.Go(func() {
			for i := hand; i < many && errs[hand] == nil; i += hands {
				errs[hand] = s.Put(t.Context(), fmt.Sprintf("many/%06d", i), strings.NewReader("x"))
			}
		})
	}
	wg.Wait()
	require.NoError(t, errors.Join(errs...))
	for i := range many {
		want = append(want, archive.Entry{Name: fmt.Sprintf("many/%06d", i), Size: 1})
	}
	got, err := s.List(t.Context(), "")
	require.NoError(t, err)
	require.Equal(t, want, got)
	require.Equal(t, []string{"a/b", "a/b-c", "a/b0/c", "a/c"}, list(t, s, "a"))
	require.Equal(t, []string{"a/b0/c"}, list(t, s, "a/b0"))
	for dir, want := range map[string][]string{"": {"a", "many"}, "a": {"b0"}, "a/b0": nil, "nowhere": nil} {
		got, err := s.Dirs(t.Context(), dir)
		require.NoError(t, err)
		require.Equal(t, want, got, dir)
	}
}

func missing(t *testing.T, s store.Store) {
	put(t, s, "src/f", "x")
	for _, name := range []string{"f", "src/g", "other/f", "src/f/g"} {
		r, err := s.Open(t.Context(), name)
		if err == nil {
			_, err = r.Read(make([]byte, 1))
			require.NoError(t, r.Close())
		}
		require.ErrorIs(t, err, fs.ErrNotExist, name)
	}
}

func deleting(t *testing.T, s store.Store) {
	put(t, s, "src/f", "x")
	put(t, s, "src/g", "y")
	require.NoError(t, s.Kept(t.Context(), "src/f"), "nothing keeps it")
	require.Equal(t, "x", get(t, s, "src/f"), "asking isn't deleting")
	require.NoError(t, s.Delete(t.Context(), "src/f"))
	require.Equal(t, []string{"src/g"}, list(t, s, ""))
	require.NoError(t, s.Delete(t.Context(), "src/f"), "what is gone is gone")
	require.NoError(t, s.Kept(t.Context(), "src/f"))
	put(t, s, "src/f", "z")
	require.Equal(t, "z", get(t, s, "src/f"))
}

func cancelled(t *testing.T, s store.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	err := s.Put(ctx, "src/f", &endless{after: 4 << 20, then: cancel})
	require.ErrorIs(t, err, context.Canceled)
	require.Empty(t, list(t, s, ""))
	require.ErrorIs(t, s.Put(ctx, "src/f", strings.NewReader("x")), context.Canceled)
	_, err = s.List(ctx, "")
	require.ErrorIs(t, err, context.Canceled)
}

// endless gives bytes for ever, and calls then when it has given some.
type endless struct {
	after int
	then  func()
}

func (e *endless) Read(p []byte) (int, error) {
	if e.after -= len(p); e.after <= 0 {
		e.then()
	}
	return len(p), nil
}

func badNames(t *testing.T, s store.Store) {
	for _, name := range []string{"", ".", "..", "../f", "/f", "a/../b", "a/../../b", "a//b", "a/", ".hidden", "a/.tmp-x", "a\x00b"} {
		require.ErrorIs(t, s.Put(t.Context(), name, strings.NewReader("x")), fs.ErrInvalid, "%q", name)
		_, err := s.Open(t.Context(), name)
		require.ErrorIs(t, err, fs.ErrInvalid, "%q", name)
		require.ErrorIs(t, s.Delete(t.Context(), name), fs.ErrInvalid, "%q", name)
		require.ErrorIs(t, s.Kept(t.Context(), name), fs.ErrInvalid, "%q", name)
		if name != "" {
			_, err = s.List(t.Context(), name)
			require.ErrorIs(t, err, fs.ErrInvalid, "%q", name)
		}
	}
	require.Empty(t, list(t, s, ""))
}
