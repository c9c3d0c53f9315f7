package store_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/store"
)

// sick is a store whose files may not come. fault is asked before a file is opened, and again in its middle.
type sick struct {
	store.Reading
	files map[string]string
	fault func(name string, middle bool) error
	asked int
}

func (s *sick) List(_ context.Context, dir string) (entries []archive.Entry, err error) {
	s.asked++
	for _, name := range []string{"cache/t/log/a", "cache/t/log/b", "cache/t/timeline.json"} {
		if strings.HasPrefix(name, dir+"/") {
			entries = append(entries, archive.Entry{Name: name, Size: int64(len(s.files[name]))})
		}
	}
	return entries, s.fault("", false)
}

func (s *sick) Open(_ context.Context, name string) (io.ReadCloser, error) {
	s.asked++
	content, ok := s.files[name]
	if !ok {
		return nil, &store.DiskError{Root: "/srv", Name: name, Err: fs.ErrNotExist}
	}
	if err := s.fault(name, false); err != nil {
		return nil, err
	}
	half := len(content) / 2
	return io.NopCloser(io.MultiReader(strings.NewReader(content[:half]), reads(func() error { return s.fault(name, true) }), strings.NewReader(content[half:]))), nil
}

// reads is a reader of nothing that may fail.
type reads func() error

func (r reads) Read([]byte) (int, error) {
	if err := r(); err != nil {
		return 0, err
	}
	return 0, io.EOF
}

func newSick(fault func(name string, middle bool) error) *sick {
	return &sick{files: map[string]string{"cache/t/log/a": "0123456789", "cache/t/log/b": "9876543210", "cache/t/timeline.json": "{}"}, fault: fault}
}

func readAll(ctx context.Context, s store.Reading, name string) (string, error) {
	f, err := s.Open(ctx, name)
	if err != nil {
		return "", err
	}
	var b bytes.Buffer
	_, err = io.Copy(&b, f)
	return b.String(), errors.Join(err, f.Close())
}

// A file that doesn't come is lost where the store gives others, also when it is the first that is asked for.
func TestToReadTellsALostFileFromAStoreThatIsAway(t *testing.T) {
	const name = "cache/t/log/a"
	broken := error(&store.DiskError{Root: "/srv", Name: name, Err: unix.EIO})
	for _, row := range []struct {
		what   string
		err    error
		middle bool
		times  int // that it fails
		others bool
		lost   bool
	}{
		{"never opens", broken, false, 100, true, true},
		{"never to its end", broken, true, 100, true, true},
		{"opens late", broken, false, 1, true, false},
		{"breaks once", broken, true, 1, true, false},
		{"the store is away", broken, false, 100, false, false},
		{"the store goes away", broken, true, 100, false, false},
		{"access is denied", &store.DiskError{Root: "/srv", Name: name, Err: fs.ErrPermission}, false, 100, true, false},
		{"it is gone", &store.DiskError{Root: "/srv", Name: name, Err: fs.ErrNotExist}, false, 100, true, false},
		{"damaged it is", &archive.DamageError{Name: name, What: "other bytes", Err: io.ErrUnexpectedEOF}, true, 100, true, true},
	} {
		t.Run(row.what, func(t *testing.T) {
			left := row.times
			s := newSick(func(asked string, middle bool) error {
				switch {
				case asked != name && asked != "" && !row.others:
					return broken
				case asked == name && middle == row.middle && left > 0:
					left--
					return row.err
				}
				return nil
			})
			got, err := readAll(t.Context(), store.ToRead(s), name)
			if row.times == 1 {
				require.NoError(t, err)
				require.Equal(t, s.files[name], got)
				return
			}
			require.ErrorIs(t, err, errors.Unwrap(row.err), "what the store said is kept")
			var damage *archive.DamageError
			require.Equal(t, row.lost, errors.As(err, &damage), "%v", err)
			if row.lost && row.err == broken {
				require.EqualError(t, err, name+" is damaged: the store doesn't give it, though it gives others: archive /srv: input/output error")
			}
		})
	}
}

// A store that hangs costs its deadline once. Then nothing is asked of it for as long, and after that it is
// asked again.
func TestToReadWaitsOnceForAStoreThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const deadline = 30 * time.Second
		hangs := errors.New("no answer")
		s := newSick(func(name string, middle bool) error {
			if hangs == nil || middle {
				return nil
			}
			time.Sleep(deadline)
			return hangs
		})
		r, began := store.ToRead(s), time.Now()
		_, err := readAll(t.Context(), r, "cache/t/log/a")
		require.ErrorIs(t, err, hangs)
		asked, took := s.asked, time.Since(began)
		for range 20 {
			_, err = readAll(t.Context(), r, "cache/t/log/b")
			require.ErrorIs(t, err, hangs)
			_, err = r.List(t.Context(), "cache")
			require.ErrorIs(t, err, hangs)
		}
		require.Equal(t, asked, s.asked)
		require.Equal(t, took, time.Since(began))

		hangs = nil
		time.Sleep(took)
		got, err := readAll(t.Context(), r, "cache/t/log/b")
		require.NoError(t, err)
		require.Equal(t, s.files["cache/t/log/b"], got)
	})
}
