package source

import (
	"context"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/amnesia"
	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/engine/enginetest"
	"github.com/offloader/offloader/internal/store"
	"github.com/offloader/offloader/internal/stream"
	"github.com/offloader/offloader/internal/syncer"
)

// What a master comes back with, after what was archived of it: suspect or not, and why.
func TestJudge(t *testing.T) {
	const old, other = stream.ReplID("aaaa"), stream.ReplID("bbbb")
	b := &bench{t: t, dir: t.TempDir()}
	var err error
	b.store, err = store.OpenDisk(t.Context(), filepath.Join(b.dir, "archive"), store.Options{Write: true})
	require.NoError(t, err)
	b.open()
	defer b.close()
	b.full(time.UnixMilli(1000), shipID)
	s := b.s
	s.o.SuspectBelow = 50
	before := func(keys int64, was *Suspicion) *past {
		return &past{timeline: "t2", suspicion: was, known: amnesia.Known{Keys: map[int]int64{0: keys}, RunID: "run"},
			history: amnesia.History{IDs: []stream.ReplID{old}, End: 1000, Seen: time.Minute, RunID: "run"}}
	}
	master := syncer.Master{Permitted: true, Role: "master", RunID: "another", ReplID: other}
	anew := func(keys int64) newborn { return newborn{m: master, id: other, at: 14, keys: keys, full: true} }
	sameRun, itsMaster, longAgo, refilled := anew(3), anew(3), anew(3), anew(100)
	refilled.m.RunID = "run"
	sameRun.m.RunID = "run"
	longAgo.m.RunID, longAgo.m.ReplID2 = "run", shipID
	itsMaster.m.RunID, itsMaster.m.ReplID2 = "run", "cccc"
	sameID := newborn{m: master, id: old, at: 5000, keys: 0, full: true}
	rewound := anew(100)
	rewound.m.ReplID2, rewound.m.SecondOffset, rewound.m.BacklogFirst = old, 801, 801
	restored := rewound
	restored.m.RunID, restored.keys = "run", 3
	branch := newborn{m: master, keys: 100}
	nothing, given, goesOn := anew(0), anew(3), newborn{m: master, keys: 0}
	nothing.m.Reborn, given.m.Reborn, goesOn.m.Reborn = true, true, true

	emptied := &Suspicion{Timeline: "t2", Before: "t1", Cause: "the master came back empty: it held 100 keys", Keys: archive.Sizes{Before: 100, Now: 0}}
	older := &Suspicion{Timeline: "t2", Before: "t1", Cause: "an older dataset", Keys: archive.Sizes{Before: 100, Now: 99}}
	for _, row := range []struct {
		name string
		p    *past
		n    newborn
		want string // in the cause, "" for not suspect
		keys archive.Sizes
	}{
		{"nothing was archived before", nil, anew(0), "", archive.Sizes{}},
		{"as many keys", before(100, nil), anew(100), "", archive.Sizes{}},
		{"enough of them", before(100, nil), anew(50), "", archive.Sizes{}},
		{"empty", before(100, nil), anew(0), "came back empty: it held 100 keys at ", archive.Sizes{Before: 100, Now: 0}},
		{"far fewer", before(100, nil), anew(49), "came back with 49 keys: it held 100 keys at ", archive.Sizes{Before: 100, Now: 49}},
		{"how many isn't known", before(100, nil), anew(-1), "", archive.Sizes{}},
		{"the same history: what it lost, it was told to lose", before(100, nil), sameID, "", archive.Sizes{}},
		{"the same process, by itself", before(100, nil), sameRun, "", archive.Sizes{}},
		{"the same process, which followed another server", before(100, nil), itsMaster, "came back with 3 keys", archive.Sizes{Before: 100, Now: 3}},
		{"the same process, restored to what an older timeline holds", before(100, nil), longAgo, "", archive.Sizes{}},
		{"rewound", before(100, nil), rewound, "as it was at offset 800", archive.Sizes{Before: 100, Now: 100}},
		{"restored to an earlier state", before(100, nil), restored, "", archive.Sizes{}},
		{"a failover", before(100, nil), branch, "", archive.Sizes{}},
		{"a first start from nothing", nil, nothing, "", archive.Sizes{}},
		{"from nothing, though something was archived", before(100, nil), nothing, "started from nothing, by `promote --empty`: it held 100 keys at ", archive.Sizes{Before: 100, Now: 0}},
		{"nobody knows of what", before(-1, nil), nothing, "by `promote --empty`", archive.Sizes{Before: -1, Now: 0}},
		{"from nothing, of which there was none", before(0, nil), nothing, "", archive.Sizes{}},
		{"from nothing, after nothing", before(0, emptied), nothing, "it held 100 keys in timeline t1", archive.Sizes{Before: 100, Now: 0}},
		{"what it was given at its rebirth", before(100, nil), given, "", archive.Sizes{}},
		{"the same, which was nothing", before(100, nil), goesOn, "", archive.Sizes{}},

		{"empty once more", before(0, emptied), anew(0), "came back empty: it held 100 keys in timeline t1", archive.Sizes{Before: 100, Now: 0}},
		{"a little more than nothing", before(5, emptied), anew(5), "came back with 5 keys", archive.Sizes{Before: 100, Now: 5}},
		{"what it had is back", before(0, emptied), anew(100), "", archive.Sizes{}},
		{"the same process, refilled", before(100, emptied), refilled, "it came after timeline t2, which is suspect: the master came back empty", archive.Sizes{Before: 100, Now: 100}},
		{"a branch of what is suspect", before(5, emptied), branch, "it came after timeline t2, which is suspect: the master came back empty", archive.Sizes{Before: 100, Now: 100}},
		{"it has grown, and is empty", before(200, emptied), anew(0), "it held 200 keys at ", archive.Sizes{Before: 200, Now: 0}},
		{"as many keys after an older dataset prove nothing", before(99, older), anew(99), "which is suspect: an older dataset", archive.Sizes{Before: 100, Now: 99}},
	} {
		got := s.judge(row.p, row.n, time.UnixMilli(2000))
		if row.want == "" {
			require.Nil(t, got, row.name)
			continue
		}
		require.NotNil(t, got, row.name)
		require.Contains(t, got.Cause, row.want, row.name)
		require.Equal(t, row.keys, got.Keys, row.name)
		good := "t2"
		if row.p.suspicion != nil {
			good = "t1"
		}
		require.Equal(t, good, got.Before, row.name)
	}
	chained := &Suspicion{Cause: "it came after timeline t2, which is suspect: an older dataset"}
	require.Equal(t, "an older dataset", rootCause(chained.Cause), "causes don't grow")
}

// What is kept of what is known, and when: not each second, and never too late to matter.
func TestWhatIsWorthKeeping(t *testing.T) {
	of := func(keys int64) memory {
		return memory{Timeline: "t", Known: amnesia.Known{Keys: map[int]int64{0: keys}, RunID: "run"}}
	}
	renamed, restarted, unknown, further := of(1000), of(1000), of(1000), of(1000)
	further.From = 5
	renamed.Timeline, restarted.Known.RunID, unknown.Known.Keys = "u", "other", nil
	for _, row := range []struct {
		was, is memory
		after   time.Duration
		want    bool
	}{
		{of(1000), of(1000), time.Hour, false},
		{of(1000), further, time.Second, false},
		{of(1000), further, time.Minute, true},
		{of(1000), of(1050), time.Second, false},
		{of(1000), of(1050), time.Minute, true},
		{of(1000), of(1200), time.Second, true},
		{of(1000), of(800), time.Second, true},
		{of(1000), of(0), time.Second, true},
		{of(0), of(1), time.Second, true},
		{of(3), of(0), time.Second, true},
		{unknown, of(1), time.Second, true},
		{of(1000), renamed, time.Second, true},
		{of(1000), restarted, time.Second, true},
	} {
		require.Equal(t, row.want, row.is.differs(row.was, row.after), "%+v", row)
	}
}

// Where it can't be kept, which is tried each second, the log says so once, and once more after it could.
func TestWhatCantBeKept(t *testing.T) {
	var said strings.Builder
	dir := filepath.Join(t.TempDir(), "full")
	g := &guard{path: filepath.Join(dir, guardFile), log: slog.New(slog.NewTextHandler(&said, nil))}
	g.memory.Timeline = "t"
	keys := int64(0)
	tried := func(times int) {
		for range times {
			keys += 100
			g.change("t", func(m *memory) { m.Known.Keys = map[int]int64{0: keys} })
		}
	}
	tried(3)
	require.Equal(t, 1, strings.Count(said.String(), "won't survive a restart"))
	require.NoError(t, os.Mkdir(dir, 0o700))
	tried(1)
	require.FileExists(t, g.path)
	require.NoError(t, os.RemoveAll(dir))
	tried(3)
	require.Equal(t, 2, strings.Count(said.String(), "won't survive a restart"))
}

// amnesiac is a rig that guards, on a master that holds a hundred keys.
func amnesiac(t *testing.T, tune func(*Options), args ...string) (*rig, *enginetest.Server) {
	t.Helper()
	master := enginetest.Start(t, enginetest.Any(t), args...)
	fillKeys(master)
	r := newRig(t, master.Addr(), func(o *Options) {
		o.SuspectBelow = 50
		if tune != nil {
			tune(o)
		}
	})
	r.streaming()
	return r, master
}

func fillKeys(master *enginetest.Server) {
	for i := range 100 {
		master.Do("SET", "key:"+strings.Repeat("k", i), i)
	}
}

func (r *rig) suspect() Suspicion {
	r.t.Helper()
	return *r.until("suspect", func(s Status) bool { return s.State == "streaming" && s.Suspect != nil }).Suspect
}

// Without the right to INFO the newest snapshot tells, and it is said that this is weaker. Where somebody
// flushed since, and the spool has it, that counts.
func TestGuardWithoutINFO(t *testing.T) {
	r, master := amnesiac(t, func(o *Options) {
		o.Link.Username, o.Link.Password = "archiver", func() (string, error) { return "secret", nil }
	}, "--user", "archiver", "on", ">secret", "+psync", "+replconf", "+ping")
	known := *r.until("weak", func(s Status) bool { return s.Known != nil && s.Known.Weak != "" }).Known
	require.Equal(t, Known{Keys: 100, Offset: known.Offset, Time: known.Time, By: "snapshot", Weak: "INFO is not permitted"}, known)
	master.Do("SET", "one", "more")
	require.EqualValues(t, 1, master.Do("WAIT", 1, 20_000))
	_, err := r.src.TakeSnapshot(t.Context(), nil)
	require.NoError(t, err)
	require.EqualValues(t, 101, r.src.Status(time.Now()).Known.Keys, "a younger one tells better")
	master.Kill()
	master.Restart()
	sus := r.suspect()
	require.Equal(t, archive.Sizes{Before: 101, Now: 0}, sus.Keys)

	r.src.release(sus.Timeline)
	master.Do("SET", "a", "1")
	_, err = r.src.TakeSnapshot(t.Context(), nil)
	require.NoError(t, err)
	master.Do("FLUSHALL")
	require.EqualValues(t, 1, master.Do("WAIT", 1, 20_000))
	master.Kill()
	master.Restart()
	r.until("a third timeline", func(s Status) bool { return s.State == "streaming" && s.FullResyncs == 3 })
	require.Nil(t, r.src.Suspect())
}

// A master that was away for less than a look is asked as soon as it is back, not only when the question to its former
// life has failed and the pause behind that is over: what it comes to hold by then may be lost the next time.
func TestGuardOfAMasterThatIsBackAtOnce(t *testing.T) {
	r, master := amnesiac(t, nil)
	counted := func(keys int64) {
		t.Helper()
		r.until("counted", func(s Status) bool { return s.Known != nil && s.Known.By == "info" && s.Known.Keys == keys })
	}
	counted(100)
	require.Eventually(t, func() bool { return master.Client().Save(t.Context()).Err() == nil }, 20*time.Second, 10*time.Millisecond)
	before := r.streaming().ReplID
	master.Kill()
	master.Restart()
	r.until("streaming again", func(s Status) bool { return s.State == "streaming" && s.ReplID != before })
	began := time.Now()
	master.Do("SET", "one", "more")
	counted(101)
	require.Less(t, time.Since(began), lookAgain-2*watchEvery)
}

// A replica that is archived is made a master for a while, and put back under its own. What it holds then is an earlier state of
// what is archived, and is no restore that is going on: it is archived from there on.
func TestAReplicaThatWasAMasterForAWhile(t *testing.T) {
	t.Parallel()
	kind := enginetest.Any(t)
	above := enginetest.Start(t, kind)
	fillKeys(above)
	s := enginetest.Start(t, kind, "--replicaof", "127.0.0.1", strconv.Itoa(above.Port()))
	require.Eventually(t, func() bool { return s.Info("replication")["master_link_status"] == "up" }, 20*time.Second, 10*time.Millisecond)
	r := newRig(t, s.Addr(), nil)
	first := r.streaming()
	s.Do("REPLICAOF", "NO", "ONE")
	r.until("under the id of its own", func(st Status) bool { return st.State == "streaming" && st.ReplID != first.ReplID })
	s.Do("SET", "mine", strings.Repeat("x", 1000))
	at := stream.Offset(s.Offset())
	r.until("durable", func(st Status) bool { return st.Durable >= at })
	s.Do("REPLICAOF", "127.0.0.1", above.Port())
	r.until("under the id of its master", func(st Status) bool { return st.State == "streaming" && st.ReplID == first.ReplID })
	above.Do("SET", "theirs", "1")
	at = stream.Offset(above.Offset())
	r.until("durable", func(st Status) bool { return st.Durable >= at })
	require.Nil(t, r.src.Suspect())
}

// The spool is lost together with what the master held: the stores know how much that was, and that it is suspect.
func TestGuardAfterALostSpool(t *testing.T) {
	r, master := amnesiac(t, nil)
	r.until("stored", func(s Status) bool { return s.Stores[0].StoredTime != 0 })
	good := r.src.Status(time.Now()).Timeline
	lose := func() {
		r.stop()
		require.NoError(t, os.RemoveAll(filepath.Join(r.dir, "spool")))
		master.Kill()
		master.Restart()
		r.start(master.Addr())
	}
	lose()
	sus := r.suspect()
	require.Equal(t, archive.Sizes{Before: 100, Now: 0}, sus.Keys)
	require.Equal(t, good, sus.Before)
	r.until("stored", func(s Status) bool { return s.LastSnapshot != nil && s.Stores[0].Held.Snapshot >= s.LastSnapshot.Time })
	lose()
	again := r.suspect()
	require.NotEqual(t, sus.Timeline, again.Timeline)
	require.Equal(t, sus.Keys, again.Keys)
	require.Equal(t, good, again.Before)

	// The word of a user who has looked at it; then it is what counts.
	release := archive.Event{Kind: archive.EventRelease, Offset: 0, Time: again.Time}
	require.NoError(t, archive.WriteEvent(t.Context(), r.store, "cache", again.Timeline, release))
	r.until("released", func(s Status) bool { return s.Suspect == nil })
}

// What was known is a cache: damaged or gone, the snapshot tells, and the events say what is suspect. A master that is
// started with all that it had is suspect no more.
func TestGuardFileIsACache(t *testing.T) {
	r, master := amnesiac(t, nil)
	r.until("known", func(s Status) bool { return s.Known != nil && s.Known.By == "info" })
	file := filepath.Join(r.dir, "spool", "cache", guardFile)
	require.FileExists(t, file)
	for _, damage := range []func() error{
		func() error { return os.WriteFile(file, []byte("{"), 0o600) },
		func() error { return os.Remove(file) },
	} {
		r.stop()
		require.NoError(t, damage())
		require.NoError(t, os.Remove(filepath.Join(r.dir, "spool", "cache", "budget.json"))) // there are only so many
		master.Kill()
		master.Restart()
		r.start(master.Addr())
		require.Equal(t, archive.Sizes{Before: 100, Now: 0}, r.suspect().Keys)
	}
	require.Len(t, r.catalog().Timelines, 3)

	fillKeys(master)
	master.Do("CONFIG", "SET", "appendonly", "yes")
	require.Eventually(t, func() bool {
		info := master.Info("persistence")
		return info["aof_rewrite_in_progress"] == "0" && info["aof_rewrite_scheduled"] == "0"
	}, 10*time.Second, 10*time.Millisecond)
	master.Kill()
	master.Restart("--appendonly", "yes")
	r.until("a fourth timeline", func(s Status) bool { return s.State == "streaming" && len(r.catalog().Timelines) == 4 })
	require.Nil(t, r.src.Suspect(), "it was started with all of its keys")
}

// ordered is a store that notes in which order things come.
type ordered struct {
	*store.Disk
	mu    sync.Mutex
	names []string
}

func (o *ordered) Put(ctx context.Context, name string, from io.Reader) error {
	err := o.Disk.Put(ctx, name, from)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.names = append(o.names, name)
	return err
}

// Nobody sees of a suspect timeline what could be restored before it is seen that it is suspect.
func TestNothingIsStoredBeforeTheSuspicion(t *testing.T) {
	o := &ordered{}
	r, master := amnesiac(t, func(opts *Options) { o.Disk = opts.Stores[0].Store.(*store.Disk); opts.Stores[0].Store = o })
	master.Kill()
	master.Restart()
	sus := r.suspect()
	master.Do("SET", "a", "1")
	require.EqualValues(t, 1, master.Do("WAIT", 1, 20_000))
	at := stream.Offset(master.Offset())
	r.until("stored", func(s Status) bool { return s.Stores[0].Stored >= at && s.Timeline == sus.Timeline })
	o.mu.Lock()
	defer o.mu.Unlock()
	its := slices.DeleteFunc(slices.Clone(o.names), func(n string) bool { return !strings.Contains(n, sus.Timeline) })
	require.GreaterOrEqual(t, len(its), 4)
	require.Contains(t, its[0], archive.TimelineFile)
	require.Contains(t, its[1], "-suspect.json")
}
