package source

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/engine/enginetest"
	"github.com/offloader/offloader/internal/syncer"
)

// A dataset that passes through, from the master or from a replica, is the master's; the timeline
// goes on and nothing of it gets into the archive.
func TestADatasetThatPassesThrough(t *testing.T) {
	kind := enginetest.Any(t)
	master, replica := enginetest.Start(t, kind), enginetest.Start(t, kind)
	replica.Do("REPLICAOF", "127.0.0.1", master.Port())
	for i := range 500 {
		master.Do("SET", fmt.Sprint("key:", i), i)
	}
	r := newRig(t, master.Addr(), nil)
	r.streaming()
	master.Do("SET", "last", "1")
	require.EqualValues(t, 2, master.Do("WAIT", 2, 20_000))
	for _, from := range []*syncer.Options{nil, {Address: replica.Addr()}} {
		dir := t.TempDir()
		before := master.Offset()
		require.NoError(t, r.src.Dataset(t.Context(), from, func(timeline string, at Moment, rdb io.Reader) error {
			require.Equal(t, r.src.Status(time.Now()).Timeline, timeline)
			require.GreaterOrEqual(t, int64(at.Offset), before)
			require.WithinDuration(t, time.Now(), at.Time.Go(), time.Minute)
			b, err := io.ReadAll(rdb)
			return errors.Join(err, os.WriteFile(filepath.Join(dir, "dump.rdb"), b, 0o600))
		}))
		require.Empty(t, enginetest.Diff(t, master, enginetest.StartIn(t, kind, dir)))
	}
	require.EqualValues(t, 1, r.src.Status(time.Now()).FullResyncs)
	require.Len(t, r.catalog().Timelines[0].Snapshots, 1)
}

// What can't be passed through is told, and nobody who reads it takes a part for the whole.
func TestADatasetThatDoesNotPass(t *testing.T) {
	kind := enginetest.Any(t)
	master, other := enginetest.Start(t, kind), enginetest.Start(t, kind)
	value := make([]byte, 8<<20) // more than is on its way at once
	_, _ = rand.Read(value)
	master.Do("SET", "k", value)
	r := newRig(t, master.Addr(), nil)
	r.streaming()
	unasked := func(string, Moment, io.Reader) error { t.Error("it was begun"); return nil }
	require.ErrorContains(t, r.src.Dataset(t.Context(), &syncer.Options{Address: other.Addr()}, unasked), "it is no master or replica of this source")

	full := errors.New("the disk is full")
	require.Equal(t, full, r.src.Dataset(t.Context(), nil, func(string, Moment, io.Reader) error { return full }))
	err := r.src.Dataset(t.Context(), nil, func(string, Moment, io.Reader) error { return nil })
	require.ErrorContains(t, err, "not all of the RDB was read")

	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("told to stop")
	err = r.src.Dataset(ctx, nil, func(_ string, _ Moment, rdb io.Reader) error {
		cancel(stop)
		<-ctx.Done()
		_, err := io.ReadAll(rdb)
		return err
	})
	require.ErrorIs(t, err, stop)

	master.Kill()
	r.until("down", func(s Status) bool { return s.State != "streaming" && s.Error != "" })
	err = r.src.Dataset(t.Context(), nil, unasked)
	var down *NotStreamingError
	require.ErrorAs(t, err, &down)
	require.ErrorContains(t, err, "source cache is not streaming")
	require.NotEmpty(t, down.Why)
}
