package store_test

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/offloader/offloader/internal/durable/durabletest"
	"github.com/offloader/offloader/internal/store"
	"github.com/offloader/offloader/internal/store/storetest"
)

func TestBoundedDisk(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Store { return store.Bounded(open(t, t.TempDir()).(*store.Disk)) })
}

// A folder that hangs when it is opened: who starts on it is told so in time.
func TestADiskThatHangsFromTheStart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "archive")
	goesOn, opened := make(chan struct{}), make(chan struct{})
	durabletest.Fail(t, func(_, path string) error {
		if path == filepath.Dir(dir) {
			<-goesOn
			close(opened)
		}
		return nil
	})
	_, err := store.OpenDiskBy(t.Context(), dir, store.Options{Write: true}, 50*time.Millisecond)
	require.ErrorContains(t, err, "archive "+dir+": no answer")
	require.Contains(t, hint(t, err), "umount -f")
	close(goesOn)
	<-opened
}

// A file that never opens, and one that opens and gives nothing: who asks for them is told so in time, and what
// hangs is counted. Where it is too much nothing more is asked, and when it has come back all is as before.
func TestADiskThatHangs(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, left := store.BoundedBy(open(t, dir).(*store.Disk), 50*time.Millisecond)
	require.NoError(t, s.Put(t.Context(), "sound", strings.NewReader("sound")))
	hangs := filepath.Join(dir, "hangs") // a FIFO opens when somebody writes to it
	require.NoError(t, unix.Mkfifo(hangs, 0o600))

	for n := range store.MostLeft {
		_, err := s.Open(t.Context(), "hangs")
		require.ErrorContains(t, err, dir+": hangs: no answer")
		require.Contains(t, hint(t, err), "umount -f")
		require.Equal(t, n+1, left())
	}
	_, err := s.Open(t.Context(), "sound")
	require.ErrorContains(t, err, "no answer", "it is asked for nothing more")
	_, err = s.List(t.Context(), "")
	require.ErrorContains(t, err, "no answer")

	w, err := os.OpenFile(hangs, os.O_WRONLY, 0)
	require.NoError(t, err)
	require.Eventually(t, func() bool { return left() == 0 }, 10*time.Second, time.Millisecond)
	r, err := s.Open(t.Context(), "hangs")
	require.NoError(t, err)
	p := make([]byte, 10)
	_, err = r.Read(p)
	require.ErrorContains(t, err, "no answer")
	require.Equal(t, 1, left())
	_, err = w.WriteString("late")
	require.NoError(t, err)
	require.Eventually(t, func() bool { return left() == 0 }, 10*time.Second, time.Millisecond)
	require.Equal(t, make([]byte, 10), p, "what comes late is nobody's")
	_, err = r.Read(p)
	require.ErrorContains(t, err, "no answer", "what is missing in between isn't passed over")
	require.NoError(t, r.Close())
	require.NoError(t, w.Close())

	r, err = s.Open(t.Context(), "sound")
	require.NoError(t, err)
	all, err := io.ReadAll(r)
	require.NoError(t, err)
	require.Equal(t, "sound", string(all))
	require.NoError(t, r.Close())

	leaves, cancel := context.WithCancelCause(t.Context())
	go cancel(io.ErrClosedPipe)
	_, err = s.Open(leaves, "hangs")
	require.ErrorIs(t, err, io.ErrClosedPipe, "who has left isn't kept")
	w, err = os.OpenFile(hangs, os.O_WRONLY, 0)
	require.NoError(t, err)
	require.NoError(t, w.Close())
}
