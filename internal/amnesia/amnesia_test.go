package amnesia

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/offloader/offloader/internal/resp"
	"github.com/offloader/offloader/internal/stream"
	"github.com/offloader/offloader/internal/syncer"
)

func TestForgot(t *testing.T) {
	for _, row := range []struct {
		before, now int64
		share       float64
		want        bool
	}{
		{1000, 0, 50, true},
		{1, 0, 50, true},       // empty is empty
		{1, 0, 0, true},        // whatever the share
		{0, 0, 50, false},      // it always was
		{-1, 0, 50, false},     // nothing is known
		{1000, -1, 50, false},  // nor of what it holds now
		{1000, 499, 50, true},  //
		{1000, 500, 50, false}, // half is not fewer than half
		{1000, 1, 0, false},    // only emptiness is meant
		{9, 1, 50, false},      // of a handful
		{10, 4, 50, true},      //
		{1000, 2000, 99, false},
	} {
		require.Equal(t, row.want, Forgot(row.before, row.now, row.share), "%+v", row)
	}
}

// Whatever the numbers: who comes back with no fewer has forgotten nothing, who comes back with none all, and
// fewer keys, more before, or a higher share never make it look better.
func TestForgotProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		number := rapid.OneOf(rapid.Int64Range(0, 30), rapid.Int64Range(0, 1<<62))
		before, now, share := number.Draw(t, "before"), number.Draw(t, "now"), rapid.Float64Range(0, 100).Draw(t, "share")
		forgot := Forgot(before, now, share)
		if now >= before {
			require.False(t, forgot)
			return
		}
		if now == 0 {
			require.True(t, forgot)
		}
		if forgot {
			require.True(t, Forgot(before, rapid.Int64Range(0, now).Draw(t, "fewer"), share))
			require.True(t, Forgot(rapid.Int64Range(before, 1<<62).Draw(t, "more before"), now, share))
			require.True(t, Forgot(before, now, rapid.Float64Range(share, 100).Draw(t, "higher")))
		} else if before >= fewKeys {
			require.GreaterOrEqual(t, float64(now), float64(before)/100*share)
		}
	})
}

func command(args ...string) string {
	b := fmt.Sprintf("*%d\r\n", len(args))
	for _, a := range args {
		b += fmt.Sprintf("$%d\r\n%s\r\n", len(a), a)
	}
	return b
}

// What a stream empties is known, in whatever pieces it comes, and what the count has seen already is not
// taken away a second time.
func TestKnownAfterAStream(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const dbs = 4
		keys := map[int]int64{}
		for db := range dbs {
			keys[db] = rapid.Int64Range(0, 100).Draw(t, "keys")
		}
		var text strings.Builder
		counted, db := -1, 0
		want := map[int]int64{}
		n := rapid.IntRange(0, 12).Draw(t, "commands")
		at := rapid.IntRange(0, n).Draw(t, "counted before")
		for i := range n + 1 {
			if i == at {
				counted = text.Len()
				for k, v := range keys {
					want[k] = v
				}
			}
			if i == n {
				break
			}
			switch rapid.IntRange(0, 4).Draw(t, "command") {
			case 0:
				db = rapid.IntRange(0, dbs-1).Draw(t, "db")
				text.WriteString(command("SELECT", fmt.Sprint(db)))
			case 1:
				text.WriteString(command("flushall", "ASYNC"))
				want = map[int]int64{}
			case 2:
				text.WriteString(command("FLUSHDB"))
				delete(want, db)
			case 3:
				a, b := rapid.IntRange(0, dbs-1).Draw(t, "a"), rapid.IntRange(0, dbs-1).Draw(t, "b")
				text.WriteString(command("SWAPDB", fmt.Sprint(a), fmt.Sprint(b)))
				want[a], want[b] = want[b], want[a]
			case 4:
				text.WriteString(command("SET", "FLUSHALL", "FLUSHDB"))
			}
		}
		k := Known{Keys: keys, Offset: stream.Offset(1000 + counted)}
		commands := resp.NewCommands(stream.Cursor{Offset: 1000})
		all := []byte(text.String())
		for done := 0; done < len(all); {
			size := rapid.IntRange(1, len(all)-done).Draw(t, "piece")
			p := stream.Piece{At: stream.Offset(1000 + done), Data: all[done : done+size]}
			require.NoError(t, commands.Each(p, func(c *resp.Command) error { k = k.After(c); return nil }))
			done += size
		}
		var total int64
		for db := range dbs {
			require.Equal(t, want[db], k.Keys[db], "db %d of %q", db, all)
			total += want[db]
		}
		require.Equal(t, total, k.Total())
		for db := range dbs { // what was known before is as it was
			require.Contains(t, keys, db)
		}
	})
	require.EqualValues(t, -1, Known{}.Total())
}

// The rows of protocol.md 6.3, and what looks like them.
func TestRewound(t *testing.T) {
	const a, b, c = stream.ReplID("aaaa"), stream.ReplID("bbbb"), stream.ReplID("cccc")
	h := History{IDs: []stream.ReplID{a, b}, End: 1000, Seen: 20 * time.Second, RunID: "run"}
	// What an engine says that has loaded an RDB of offset 800: its backlog begins there.
	dump := syncer.Master{Permitted: true, Role: "master", ReplID: c, ReplID2: b, SecondOffset: 801, BacklogFirst: 801, BacklogLen: 50, Uptime: 3 * time.Second}
	with := func(change func(*syncer.Master)) syncer.Master { m := dump; change(&m); return m }
	for _, row := range []struct {
		name string
		m    syncer.Master
		id   stream.ReplID
		at   stream.Offset
		to   stream.Offset // 0: it isn't
	}{
		{"an old dump.rdb", dump, c, 850, 800},
		{"one from before a failover", with(func(m *syncer.Master) { m.ReplID2 = a }), c, 850, 800},
		{"the same process was restored", with(func(m *syncer.Master) { m.RunID = "run" }), c, 850, 0},
		{"another one", with(func(m *syncer.Master) { m.RunID = "other" }), c, 850, 800},
		{"its backlog has moved on", with(func(m *syncer.Master) { m.BacklogFirst = 900 }), c, 950, 800},
		{"a dump of all that is held", with(func(m *syncer.Master) { m.SecondOffset, m.BacklogFirst = 1001, 1001 }), c, 1001, 0},
		{"a dump of more than is held", with(func(m *syncer.Master) { m.SecondOffset, m.BacklogFirst = 1101, 1101 }), c, 1101, 0},
		{"a replica was promoted that holds what came before", with(func(m *syncer.Master) { m.BacklogFirst = 100 }), c, 850, 0},
		{"a replica was promoted that has been up", with(func(m *syncer.Master) { m.Uptime = time.Hour }), c, 850, 0},
		{"an AOF: new id, low offset", syncer.Master{Permitted: true, Role: "master", ReplID: c, SecondOffset: -1}, c, 14, 0},
		{"another server", with(func(m *syncer.Master) { m.ReplID2 = c }), c, 850, 0},
		{"INFO is not permitted", syncer.Master{}, c, 14, 0},
		{"an image of the machine", syncer.Master{Permitted: true, Role: "master", RunID: "run", ReplID: b, Uptime: time.Hour}, b, 900, 900},
		{"a backlog that was too small", syncer.Master{Permitted: true, Role: "master", ReplID: b, Uptime: time.Hour}, b, 9000, 0},
		{"a replica that catches up", syncer.Master{Permitted: true, Role: "slave", ReplID: b, Uptime: time.Second}, b, 900, 0},
	} {
		to, ok := h.Rewound(row.m, row.id, row.at)
		require.Equal(t, row.to != 0, ok, row.name)
		if ok {
			require.Equal(t, row.to, to, row.name)
		}
	}
	_, ok := History{}.Rewound(dump, c, 1)
	require.False(t, ok, "nothing is held")
}

// Uptime is in whole seconds on both ends of the reckoning.
func TestCameBackAtOnce(t *testing.T) {
	m := syncer.Master{Permitted: true, SecondOffset: 801, BacklogFirst: 801, BacklogLen: 0}
	for seen, want := range map[time.Duration]bool{0: true, 100 * time.Millisecond: true, time.Minute: true} {
		require.Equal(t, want, CameBack(m, seen))
	}
	m.Uptime = 10 * time.Second
	require.True(t, CameBack(m, 9*time.Second))
	require.False(t, CameBack(m, 2*time.Second))
}
