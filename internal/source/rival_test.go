package source

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/engine/enginetest"
	"github.com/offloader/offloader/internal/store"
	"github.com/offloader/offloader/internal/stream"
)

// rival is a store in which another daemon is always a moment quicker, twice.
type rival struct {
	*store.Disk
	mu    sync.Mutex
	taken []string
}

func (r *rival) Put(ctx context.Context, name string, from io.Reader) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !strings.HasSuffix(name, "/timeline.json") || len(r.taken) == 2 {
		return r.Disk.Put(ctx, name, from)
	}
	r.taken = append(r.taken, name)
	b, err := io.ReadAll(from)
	if err != nil {
		return err
	}
	var theirs archive.TimelineInfo
	if err := json.Unmarshal(b, &theirs); err != nil {
		return err
	}
	theirs.Spool = strings.Repeat("ab", 16)
	other, err := json.Marshal(theirs)
	if err != nil {
		return err
	}
	if err := r.Disk.Put(ctx, name, bytes.NewReader(other)); err != nil {
		return err
	}
	return r.Disk.Put(ctx, name, bytes.NewReader(b))
}

// Two daemons archive one master into one store and begin in the same millisecond: each has a
// timeline of its own, whole, also after a restart.
func TestTwoDaemonsInOneStore(t *testing.T) {
	master := enginetest.Start(t, enginetest.Any(t))
	quick := &rival{}
	r := newRig(t, master.Addr(), func(o *Options) { quick.Disk = o.Stores[0].Store.(*store.Disk); o.Stores[0].Store = quick })
	r.streaming()
	for round := range 2 {
		for i := range 100 {
			master.Do("SET", fmt.Sprintf("round:%d:%d", round, i), i)
		}
		require.EqualValues(t, 1, master.Do("WAIT", 1, 5000))
		offset := stream.Offset(master.Offset())
		st := r.until("stored", func(s Status) bool { return s.Stores[0].Stored >= offset })
		require.NotContains(t, quick.taken[0]+quick.taken[1], st.Timeline)
		r.stop()
		r.start(master.Addr())
		r.streaming()
	}
	require.Equal(t, "1", master.Info("stats")["sync_full"])
	cat := r.catalog()
	require.Len(t, cat.Timelines, 3)
	for _, theirs := range cat.Timelines[:2] {
		require.Empty(t, theirs.Segments)
		require.Empty(t, theirs.Snapshots)
	}
	require.Len(t, cat.Timelines[2].Snapshots, 1)
	_, all := r.stored()
	require.Equal(t, 200, strings.Count(all, "round:"))
}
