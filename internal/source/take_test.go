package source

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/engine/enginetest"
	"github.com/offloader/offloader/internal/rdbwalk"
	"github.com/offloader/offloader/internal/schedule"
	"github.com/offloader/offloader/internal/stale"
	"github.com/offloader/offloader/internal/store"
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
			require.NoError(t, r.src.Stored(t.Context(), m))
			taken = append(taken, m.Moment)
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

// What stands at a snapshot's offset is looked at when the stream has come there: after a failover it
// is another history's, and then there is no snapshot; nor is there one inside a command. Until then
// nothing is compacted across it, and all goes on when it has come to nothing.
func TestWhatStandsAtASnapshotsOffset(t *testing.T) {
	const ping = "*1\r\n$4\r\nPING\r\n"
	other := stream.ReplID(strings.Repeat("f", 40))
	for name, row := range map[string]struct {
		at       stream.Offset
		failover bool
		want     string
	}{
		"the end of a command":    {at: 114},
		"another history's":       {at: 114, failover: true, want: "a failover came between"},
		"the middle of a command": {at: 107, want: "offset 107 is inside a command"},
	} {
		t.Run(name, func(t *testing.T) {
			disk, err := store.OpenDisk(t.Context(), filepath.Join(t.TempDir(), "archive"), store.Options{Write: true})
			require.NoError(t, err)
			b := &bench{t: t, dir: t.TempDir(), store: disk}
			b.open()
			defer b.close()
			now := time.Now()
			tl := b.full(now, shipID)
			b.s.cur = tl
			require.NoError(t, b.ship(false))
			k := &taking{s: b.s, ctx: t.Context(), cur: tl, method: MethodMaster}
			in, err := k.begin(syncer.Master{Addr: "master"}, shipID, row.at, 3)
			require.NoError(t, err)
			_, err = in.Write([]byte("RDB"))
			require.NoError(t, err)
			if row.failover {
				require.NoError(t, tl.SetReplID(other, "", now))
			}
			for range 3 {
				require.NoError(t, tl.Append([]byte(ping), now))
			}
			err = in.Whole(rdbwalk.Summary{})
			if row.want == "" {
				require.NoError(t, err)
				require.NoError(t, b.ship(true))
				require.NoError(t, b.sh.bringAll(t.Context()))
				require.NoError(t, b.ship(true))
			} else {
				require.ErrorContains(t, err, row.want)
				in.Discard(err)
				require.False(t, b.s.ledger.reserve(0, tl, stream.Range{From: 100, To: 142}), "nothing goes across")
				b.s.ledger.uncut(tl, row.at)
				require.NoError(t, b.ship(true))
			}
			cat, err := archive.Load(t.Context(), disk, "cache")
			require.NoError(t, err)
			one := cat.Timelines[0]
			require.Len(t, one.Snapshots, map[bool]int{true: 2, false: 1}[row.want == ""])
			_, reached := archive.Cover(one.Segments, stream.Range{From: 100, To: 142})
			require.EqualValues(t, 142, reached)
		})
	}
}

// A snapshot waits for its turn among the full syncs of the daemon, until it comes, or whoever wants
// it, or the source, leaves.
func TestASnapshotWaitsForItsTurn(t *testing.T) {
	master := enginetest.Start(t, enginetest.Any(t))
	limit := schedule.NewLimit(1, 0)
	r := newRig(t, master.Addr(), func(o *Options) { o.Link.Turns = limit })
	r.streaming()
	take := func(ctx context.Context) chan error {
		ended, heard := make(chan error, 1), heeded{ctx, make(chan struct{}, 1)}
		go func() {
			_, err := r.src.TakeSnapshot(heard, nil)
			ended <- err
		}()
		select {
		case <-heard.asked: // it is about to wait for its turn
		case err := <-ended:
			t.Fatalf("it didn't wait: %v", err)
		}
		return ended
	}
	give, err := limit.Take(t.Context())
	require.NoError(t, err)
	left := errors.New("nobody wants it any more")
	ctx, cancel := context.WithCancelCause(t.Context())
	ended := take(ctx)
	cancel(left)
	require.ErrorIs(t, <-ended, left)
	require.ErrorIs(t, r.src.Dataset(ctx, nil, nil), left, "so does what is passed on")

	ended = take(t.Context())
	master.Do("SET", "a", "1")
	give()
	require.NoError(t, <-ended)
	give, ok := limit.Try()
	require.True(t, ok, "it was given back")

	ended = take(t.Context())
	r.stop()
	require.ErrorIs(t, <-ended, errStopped)
	give()
}

// heeded tells when somebody first asks for its end.
type heeded struct {
	context.Context
	asked chan struct{}
}

func (h heeded) Done() <-chan struct{} {
	select {
	case h.asked <- struct{}{}:
	default:
	}
	return h.Context.Done()
}

// What a store has is known from its listing at the start, and from what is stored since.
func TestWhatIsHeldIsKnown(t *testing.T) {
	master := enginetest.Start(t, enginetest.Any(t))
	r := newRig(t, master.Addr(), nil)
	held := func() stale.Held { return r.src.Status(time.Now()).Stores[0].Held }
	r.streaming()
	master.Do("SET", "a", "1")
	offset := stream.Offset(master.Offset())
	require.Eventually(t, func() bool { return held() != stale.Held{} && held() == stale.Of(r.catalog()) }, 10*time.Second, 10*time.Millisecond)
	r.until("stored", func(s Status) bool {
		return s.Stores[0].Stored >= offset && s.Stores[0].Held.Stored > s.Stores[0].Held.Snapshot
	})

	r.src.Verified("elsewhere", Verify{Time: 1})
	require.Zero(t, held().Verified)
	r.src.Verified(r.store.String(), Verify{Time: 1000})
	r.src.Verified(r.store.String(), Verify{Time: 2000, Findings: 3})
	st := r.src.Status(time.Now()).Stores[0]
	require.EqualValues(t, 1000, st.Held.Verified, "only one that found nothing counts")
	require.Equal(t, &Verify{Time: 2000, Findings: 3}, st.LastVerify)

	// After a restart it is what the archive says.
	at := stream.TimeOf(time.Now())
	cat := r.catalog()
	require.NoError(t, archive.WriteEvent(t.Context(), r.store, "cache", cat.Timelines[0].Timeline, archive.Event{Kind: archive.EventVerified, Offset: offset, Time: at}))
	before := held()
	r.stop()
	r.start(master.Addr())
	r.streaming()
	require.Eventually(t, func() bool { return held().Verified == at }, 10*time.Second, 10*time.Millisecond)
	require.Equal(t, before.Since, held().Since)
	require.Equal(t, before.Snapshot, held().Snapshot)
	require.GreaterOrEqual(t, held().Stored, before.Stored)
}
