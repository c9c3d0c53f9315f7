package syncer

import (
	"context"
	"errors"
	"io"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/engine/enginetest"
	"github.com/offloader/offloader/internal/stream"
)

// What is fetched beside a running link, from the master or from a replica of it, is what the stream
// adds up to at that offset; the link goes on as if nothing had been.
func TestFetchBesideTheLink(t *testing.T) {
	enginetest.Each(t, func(t *testing.T, kind enginetest.Kind) {
		master, replica := enginetest.Start(t, kind), enginetest.Start(t, kind)
		replica.Do("REPLICAOF", "127.0.0.1", master.Port())
		fill(master, 500)
		sink := newMemory()
		l, _ := up(t, Options{Address: master.Addr()}, sink)
		eventually(t, "the link streams", func() bool { return l.Status().Phase == Streaming })
		for _, server := range []*enginetest.Server{master, replica} {
			ctx, cancel := context.WithCancel(t.Context())
			wrote := make(chan error, 1)
			client := master.DB(2)
			go func() {
				for ctx.Err() == nil {
					if err := client.RPush(context.Background(), "list", "an element").Err(); err != nil {
						wrote <- err
						return
					}
				}
				wrote <- nil
			}()
			master.Do("SET", "both have it", "1") // a replica that is just up is at offset 0
			require.EqualValues(t, 2, master.Do("WAIT", 2, 20_000))
			got := newMemory()
			require.NoError(t, Fetch(t.Context(), Options{Address: server.Addr()}, func(m Master, id stream.ReplID, at stream.Offset, size int64) (Incoming, error) {
				require.Equal(t, kind.Version(), m.Version)
				return got.FullSync(m, id, at, size)
			}))
			cancel()
			require.NoError(t, <-wrote)
			caught(t, master, sink)
			at := got.base
			require.Equal(t, see(sink, func(m *memory) stream.ReplID { return m.id }), got.id)
			require.GreaterOrEqual(t, at, sink.base)
			until := newMemory()
			until.rdb, until.stream = sink.rdb, sink.stream[:at-sink.base]
			require.Empty(t, enginetest.Diff(t, restored(t, kind, until), restored(t, kind, got)))
		}
		require.EqualValues(t, 1, l.Status().FullResyncs)
		require.Zero(t, l.Status().PartialResyncs)
	})
}

// What can't be fetched leaves nothing, and says why.
func TestFetchThatFails(t *testing.T) {
	kind := enginetest.Any(t)
	master := enginetest.Start(t, kind)
	fill(master, 500)
	refuses := errors.New("not on this timeline")
	err := Fetch(t.Context(), Options{Address: master.Addr()}, func(Master, stream.ReplID, stream.Offset, int64) (Incoming, error) { return nil, refuses })
	require.ErrorIs(t, err, refuses)

	got := newMemory()
	err = Fetch(t.Context(), Options{Address: master.Addr()}, func(m Master, id stream.ReplID, at stream.Offset, size int64) (Incoming, error) {
		in, err := got.FullSync(m, id, at, size)
		return crammed{in}, err
	})
	require.ErrorIs(t, err, io.ErrShortWrite)
	require.Len(t, got.discarded, 1)

	ctx, cancel := context.WithCancelCause(t.Context())
	stopped := errors.New("told to stop")
	err = Fetch(ctx, Options{Address: master.Addr()}, func(m Master, id stream.ReplID, at stream.Offset, size int64) (Incoming, error) {
		cancel(stopped)
		in, err := got.FullSync(m, id, at, size)
		return late{in, ctx}, err
	})
	require.ErrorIs(t, err, stopped)

	master.Do("ACL", "SETUSER", "weak", "on", ">pw", "+ping", "+replconf")
	err = Fetch(t.Context(), Options{Address: master.Addr(), Username: "weak", Password: func() (string, error) { return "pw", nil }}, nil)
	require.Equal(t, KindPermission, KindOf(err), "%v", err)
}

// crammed is a disk that is full.
type crammed struct{ Incoming }

func (crammed) Write([]byte) (int, error) { return 0, io.ErrShortWrite }

// late is a disk that takes its time.
type late struct {
	Incoming
	ctx context.Context
}

func (l late) Write([]byte) (int, error) {
	<-l.ctx.Done()
	return 0, l.ctx.Err()
}
