package test

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/engine/enginetest"
	"github.com/offloader/offloader/test/blackbox"
)

// A story is an archive with a past that a daemon wrote, which has left: keys, a transaction in
// another database, an outage with writes, more writes, a FLUSHALL, one more write. Tests damage
// copies of it, and aim at points of it.
type story struct {
	kind      enginetest.Kind
	dir       string // the archive; all of it is in the store
	timeline  string
	begin     int64 // the snapshot's offset
	multi     int64 // offset before the transaction
	outage    [2]time.Time
	beforeOut int64 // the last offset before the outage
	digests   map[string]string
	flush     int64 // offset before the FLUSHALL
	end       int64
	endTime   time.Time
}

// tell makes one. It ends with a daemon that left in order, so the spool lies beside the archive
// and nothing needs it.
func tell(t *testing.T) story {
	t.Helper()
	kind := enginetest.Any(t)
	master := enginetest.Start(t, kind)
	s := story{kind: kind, digests: map[string]string{}}
	master.Do("SET", "in the snapshot", "1")
	d := blackbox.Start(t, t.TempDir(), blackbox.Source{Name: "cache", Address: master.Addr()})
	began := d.Streaming("cache")
	s.dir, s.timeline, s.begin = d.Dir, began.Timeline, began.LastSnapshot.Offset
	for i := range 100 {
		master.Do("SET", fmt.Sprintf("key:%d", i), "value")
	}
	s.multi = master.Offset()
	tx := master.DB(3).TxPipeline()
	tx.Set(t.Context(), "in the transaction", "1", 0)
	tx.Incr(t.Context(), "counter")
	_, err := tx.Exec(t.Context())
	require.NoError(t, err)
	s.beforeOut = master.Offset()
	s.digests["before the outage"] = master.Digest()
	d.Durable("cache", s.beforeOut)
	d.Stop() // and with it, a segment ends
	for i := range 10 {
		master.Do("SET", fmt.Sprintf("during the outage:%d", i), "value")
	}
	d.Restart()
	d.Streaming("cache")
	require.EqualValues(t, 1, master.Do("WAIT", 1, 10_000))
	s.digests["after the outage"] = master.Digest()
	master.Do("SET", "after the outage", "1")
	s.flush = master.Offset() // -WAIT's GETACK came before it
	s.digests["before FLUSHALL"] = master.Digest()
	master.Do("FLUSHALL")
	master.Do("SET", "after FLUSHALL", "1")
	require.EqualValues(t, 1, master.Do("WAIT", 1, 10_000))
	s.digests["latest"] = master.Digest()
	d.Stop()
	one := d.Timelines("cache")
	require.Len(t, one, 1)
	require.Len(t, one[0].Gaps, 1)
	s.outage = [2]time.Time{one[0].Gaps[0].From.Time, one[0].Gaps[0].To.Time}
	last := one[0].Windows[len(one[0].Windows)-1].To
	s.end, s.endTime = last.Offset, last.Time
	return s
}

// copied is a copy of the archive without the spool.
func (s story) copied(t *testing.T) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "archive")
	out, err := exec.Command("cp", "-r", s.dir, to).CombinedOutput()
	require.NoError(t, err, "%s", out)
	out, err = exec.Command("rm", "-r", filepath.Join(to, ".spool")).CombinedOutput()
	require.NoError(t, err, "%s", out)
	return to
}
