package source

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/engine/enginetest"
	"github.com/offloader/offloader/internal/stream"
	"github.com/offloader/offloader/internal/syncer"
)

// Snapshots that are taken under load, from the master and from a replica, fall into the timeline
// that goes on: the log is cut at them, also where small segments lay across, nothing is missing,
// and the spool lets go of them.
func TestSnapshotsOfATimelineThatGoesOn(t *testing.T) {
	enginetest.Each(t, func(t *testing.T, kind enginetest.Kind) {
		master, replica := enginetest.Start(t, kind), enginetest.Start(t, kind)
		replica.Do("REPLICAOF", "127.0.0.1", master.Port())
		r := newRig(t, master.Addr(), func(o *Options) { o.Stores[0].Interval = 10 * time.Millisecond; o.Target = 1 << 20 })
		r.streaming()
		master.Do("SET", "before", "1")
		require.EqualValues(t, 2, master.Do("WAIT", 2, 20_000), "the replica streams too")
		ctx, cancel := context.WithCancel(t.Context())
		wrote := make(chan error, 1)
		clients := master.DB(3)
		require.NoError(t, clients.Set(t.Context(), "counter", 0, 0).Err())
		go func() {
			for i := 0; ctx.Err() == nil; i++ {
				tx := clients.TxPipeline()
				tx.Set(context.Background(), fmt.Sprint("key:", i%500), strings.Repeat("x", 1000), 0)
				tx.Incr(context.Background(), "counter")
				if _, err := tx.Exec(context.Background()); err != nil {
					wrote <- err
					return
				}
			}
			wrote <- nil
		}()
		var taken []Moment
		for _, from := range []*syncer.Options{nil, {Address: replica.Addr()}, nil} {
			m, err := r.src.TakeSnapshot(t.Context(), from)
			require.NoError(t, err)
			require.NoError(t, r.src.Stored(t.Context(), m.Offset))
			taken = append(taken, m)
		}
		cancel()
		require.NoError(t, <-wrote)
		offset := stream.Offset(master.Offset())
		r.until("stored", func(s Status) bool { return s.Stores[0].Stored >= offset })
		st := r.src.Status(time.Now())
		require.Equal(t, taken[2], *st.LastSnapshot)
		require.EqualValues(t, 1, st.FullResyncs)

		r.stored() // nothing is missing
		require.Eventually(t, func() bool {
			held, err := r.src.src.Timelines()[0].Snapshots()
			return err == nil && len(held) == 0
		}, 10*time.Second, 10*time.Millisecond, "the spool keeps what is stored")
		one := r.catalog().Timelines[0]
		require.Len(t, one.Snapshots, 4)
		for i, s := range one.Snapshots[1:] {
			require.Equal(t, taken[i], Moment{s.Offset, s.Time})
			info, err := s.Info(t.Context())
			require.NoError(t, err)
			require.Equal(t, []string{MethodMaster, MethodReplica, MethodMaster}[i], info.Method)
			require.Equal(t, 3, info.DB)
			for _, seg := range one.Segments {
				require.False(t, seg.Name != "" && seg.From < s.Offset && s.Offset < seg.To, "segment %s lies across the snapshot at %d", seg.Name, s.Offset)
			}
		}
	})
}

// A server of another history is refused, and nothing is left of what it sent.
func TestASnapshotOfSomethingElse(t *testing.T) {
	kind := enginetest.Any(t)
	master, other := enginetest.Start(t, kind), enginetest.Start(t, kind)
	r := newRig(t, master.Addr(), nil)
	r.streaming()
	_, err := r.src.TakeSnapshot(t.Context(), &syncer.Options{Address: other.Addr()})
	require.ErrorContains(t, err, "it is no master or replica of this source")
	held, err := r.src.src.Timelines()[0].Snapshots()
	require.NoError(t, err)
	require.LessOrEqual(t, len(held), 1)
	_, err = r.src.TakeSnapshot(t.Context(), nil)
	require.NoError(t, err)
}
