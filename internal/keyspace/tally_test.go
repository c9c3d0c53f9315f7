package keyspace

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/resp"
	"github.com/offloader/offloader/internal/stream"
)

// key is one of a snapshot.
type key struct {
	db   int
	name string
	at   stream.Time
}

// run feeds a log, one command a line, and a snapshot. The commands were received at 500, and what
// expired by 1000 has expired.
func run(t *testing.T, log string, snapshot ...key) *Tally {
	t.Helper()
	tally := NewTally(1000)
	commands := resp.NewCommands(stream.Cursor{})
	at := stream.Offset(0)
	for line := range strings.SplitSeq(log, "\n") {
		if line == "" {
			continue
		}
		data := raw(strings.Split(line, " ")...)
		err := commands.Each(stream.Piece{At: at, Time: 500, Data: data}, func(c *resp.Command) error { tally.Add(c); return nil })
		require.NoError(t, err)
		at += stream.Offset(len(data))
	}
	for _, k := range snapshot {
		tally.Record(k.db, []byte(k.name), k.at)
	}
	return tally
}

func TestTally(t *testing.T) {
	a, old, later := key{0, "a", 0}, key{0, "old", 900}, key{0, "later", 1100}
	for _, c := range []struct {
		name, log     string
		snapshot      []key
		keys, expired int64
	}{
		{"nothing", "", nil, 0, 0},
		{"a snapshot alone", "PING\nPUBLISH a b", []key{a, old, later, {3, "a", 0}}, 4, 1},
		{"new keys", "SET b v\nRPUSH c 1\nMULTI\nHSET d f v\nEXEC", []key{a}, 4, 0},
		{"writes to old keys keep the expiry", "APPEND old v\nINCR later\nSET old v KEEPTTL", []key{old, later}, 2, 1},
		{"SET takes the expiry away", "set old v", []key{old}, 1, 0},
		{"SET with an expiry", "SET a v PXAT 900\nSET b v pxat 1100\nSET c v EXAT 1\nSET d v EXAT 2", []key{a}, 4, 2},
		{"SET with one from now on", "SET a v PX 400\nSET b v EX 1\nPSETEX c 500 v\nSETEX d 1 v\nEXPIRE d 0", nil, 4, 3},
		{"conditional SET", "SET a v IFEQ PXAT\nSET b v IFEQ KEEPTTL PXAT 1", []key{{0, "a", 900}}, 2, 1},
		{"GETEX", "GETEX old PERSIST\nGETEX a PXAT 900\nGETEX later", []key{a, old, later}, 3, 1},
		{"deleted", "DEL a nokey\nUNLINK old\nGETDEL later\nSET b v\nDEL b", []key{a, old, later}, 0, 0},
		{"deleted and made again", "DEL old\nHSET old f v", []key{old}, 1, 0},
		{"expiry given and taken", "PEXPIREAT a 900\nPERSIST old\nEXPIREAT later 1\nPEXPIRE b 1", []key{a, old, later, {0, "b", 0}}, 4, 3},
		{"expiry far away", "PEXPIREAT a 9223372036854775807\nEXPIREAT a 9223372036854775807\nEXPIRE a 9223372036854775807", []key{a}, 1, 0},
		{"RESTORE", "RESTORE a 0 x REPLACE\nRESTORE b 900 x ABSTTL\nRESTORE old 1100 x REPLACE ABSTTL\nRESTORE c 100 x", []key{a, old}, 4, 2},
		{"MSET", "MSET old v b v\nMSETNX c v", []key{old}, 3, 0},
		{"MSETEX", "MSETEX 2 a v b v PXAT 900\nMSETEX 1 old v KEEPTTL\nMSETEX 1 PXAT 900", []key{old}, 4, 3},
		{"PFMERGE makes the first only", "PFMERGE a b c", nil, 1, 0},
		{"RENAME takes the expiry along", "RENAME old b\nRENAME b c\nRENAME later old", []key{old, later}, 2, 1},
		{"RENAME over a key", "RENAME a old", []key{a, old}, 1, 0},
		{"RENAME there and back", "RENAME old b\nRENAME b old", []key{old}, 1, 1},
		{"RENAME of a known expiry", "SET a v PXAT 900\nRENAMENX a b\nSET c v\nRENAME c old", []key{old}, 2, 1},
		{"RENAME to itself", "RENAME old old", []key{old}, 1, 1},
		{"the heir gets another expiry", "RENAME old b\nPERSIST b", []key{old}, 1, 0},
		{"COPY", "COPY old b\nCOPY old c DB 2 REPLACE\nDEL old", []key{old}, 2, 2},
		{"MOVE", "MOVE old 2\nMOVE a 2", []key{a, old}, 2, 1},
		{"MOVE to a database that is flushed", "MOVE old 2\nSELECT 2\nFLUSHDB", []key{a, old}, 1, 0},
		{"the heir outlives the database", "COPY old b DB 2\nFLUSHDB", []key{a, old}, 1, 1},
		{"databases are apart", "SELECT 1\nDEL a", []key{a, {1, "a", 0}}, 1, 0},
		{"FLUSHDB", "SET b v\nFLUSHDB\nSET c v", []key{a, old, {1, "a", 0}}, 2, 0},
		{"FLUSHDB and the same key", "FLUSHDB\nAPPEND old v", []key{old}, 1, 0},
		{"FLUSHALL", "RENAME old x\nSET b v\nFLUSHALL ASYNC\nSET c v\nSELECT 1\nAPPEND a v", []key{a, old, {1, "a", 900}}, 2, 0},
		{"SWAPDB", "SWAPDB 0 1\nDEL a\nSELECT 1\nAPPEND old v", []key{a, old, {1, "a", 0}}, 2, 1},
		{"SWAPDB and FLUSHDB", "SWAPDB 0 1\nFLUSHDB\nSWAPDB 0 1", []key{a, old, {1, "x", 0}}, 2, 1},
		{"SWAPDB after FLUSHALL", "FLUSHALL\nSET a v\nSWAPDB 0 1\nSET a v\nSELECT 1\nDEL a", []key{a}, 1, 0},
		{"a list turned round", "LMOVE old old LEFT RIGHT\nRPOPLPUSH a a", []key{a, old}, 2, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			require.Equal(t, Result{Keys: c.keys, Expired: c.expired, Exact: true}, run(t, c.log, c.snapshot...).Result())
		})
	}
}

// What the numbers are when nobody can know, and what is said of it.
func TestTallyThatIsNotExact(t *testing.T) {
	old := key{0, "old", 900}
	for _, c := range []struct {
		name, log string
		snapshot  []key
		want      Result
		reason    string
	}{
		{"a set that may be empty", "SREM a m\nHDEL b f", []key{{0, "a", 0}, {0, "b", 0}}, Result{Keys: 2, Unsure: 2}, "2 of the keys may be gone"},
		{"until it is written to", "SREM a m\nSADD a m", []key{{0, "a", 0}}, Result{Keys: 1, Exact: true}, ""},
		{"or deleted", "LPOP a\nDEL a", []key{{0, "a", 0}}, Result{Exact: true}, ""},
		{"but its expiry may be gone", "LPOP old\nLPUSH old m", []key{old}, Result{Keys: 1, Expired: 1}, "1 of the expired keys may have no expiry"},
		{"which makes no difference to one to come", "LPOP a\nLPUSH a m", []key{{0, "a", 1100}}, Result{Keys: 1, Exact: true}, ""},
		{"nor if it is set anew", "LPOP old\nLPUSH old m\nPEXPIREAT old 900", []key{old}, Result{Keys: 1, Expired: 1, Exact: true}, ""},
		{"a result that may be empty", "SINTERSTORE a b c", nil, Result{Keys: 1, Unsure: 1}, "1 of the keys may be gone"},
		{"a sorted list", "SORT b STORE old", []key{old}, Result{Keys: 1, Unsure: 1}, "1 of the keys"},
		{"an element that is moved", "SMOVE a b m\nLMOVE c d LEFT LEFT", nil, Result{Keys: 4, Unsure: 2}, "2 of the keys"},
		{"a module's command", "SET b v\nJSON.SET a $ 1\nFT.X y", nil, Result{Keys: 1}, "JSON.SET at offset 27: what it did to which keys is not known"},
		{"a cluster's", "CLUSTER FLUSHSLOT 3", nil, Result{}, "CLUSTER at offset 0"},
		{"an expiry that is none", "SET a v PXAT x", nil, Result{}, "SET at offset 0: its expiry is not understood"},
		{"a database that is none", "MOVE a x\nSWAPDB 0 -1", []key{{0, "a", 0}}, Result{Keys: 1}, "MOVE at offset 0: it names no database"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := run(t, c.log, c.snapshot...).Result()
			require.True(t, strings.HasPrefix(got.Reason, c.reason), got.Reason)
			require.Equal(t, c.reason == "", got.Reason == "")
			got.Reason = ""
			require.Equal(t, c.want, got)
		})
	}
}

func TestTallyOfAKeyTooLongToKeep(t *testing.T) {
	long := strings.Repeat("k", resp.KeepArg+1)
	require.False(t, run(t, "SET "+long+" v").Result().Exact)
	require.True(t, run(t, "SET k "+long).Result().Exact)
}

func TestTallyGivesUpOnTooManyKeys(t *testing.T) {
	fill := func(t *Tally, from, to int) {
		for i := from; i < to; i++ {
			t.put(t.place(t.dataset(0), fmt.Append(nil, i)), entry{})
		}
	}
	tally := NewTally(1000)
	tally.max = 1000
	fill(tally, 0, 900)
	tally.flush(0)
	fill(tally, 0, 900) // there is room, because the others are dead
	require.False(t, tally.gone)
	fill(tally, 900, 1100)
	require.True(t, tally.gone)
	with(t, tally.Add, "SET", "a", "v")
	with(t, tally.Add, "RENAME", "a", "b")
	tally.Record(0, []byte("a"), 900)
	tally.Record(0, []byte("b"), 0)
	require.Equal(t, Result{Keys: 2, Expired: 1, Reason: "more than 1000 keys changed behind the snapshot: the numbers are the snapshot's"}, tally.Result())

	// In the middle of each kind of command.
	for _, command := range []string{"RENAME a b", "COPY a b", "MSET a v b v c v", "LMOVE a b LEFT LEFT", "MOVE a 3", "FLUSHDB", "SWAPDB 1 2", "PFMERGE a"} {
		for limit := range 4 {
			tally := NewTally(1000)
			tally.max = limit
			with(t, tally.Add, strings.Split(command, " ")...)
			with(t, tally.Add, strings.Split(command, " ")...)
			tally.Result()
		}
	}
}

func BenchmarkTally(b *testing.B) {
	b.Run("Add", func(b *testing.B) {
		tally, commands, at := NewTally(0), resp.NewCommands(stream.Cursor{}), stream.Offset(0)
		var data []byte
		for i := range 10_000 {
			data = append(data, raw("SET", fmt.Sprintf("key:%08d", i*7919%100_000), strings.Repeat("x", 97))...)
		}
		b.SetBytes(int64(len(data)))
		for b.Loop() {
			if err := commands.Each(stream.Piece{At: at, Data: data}, func(c *resp.Command) error { tally.Add(c); return nil }); err != nil {
				b.Fatal(err)
			}
			at += stream.Offset(len(data))
		}
	})
	for _, n := range []int{0, 1000, 1_000_000} {
		b.Run(fmt.Sprintf("Record/%d", n), func(b *testing.B) {
			tally := NewTally(0)
			for i := range n {
				tally.put(tally.place(0, fmt.Appendf(nil, "touched:%d", i)), entry{})
			}
			key := []byte("key:00000000")
			i := 0
			for b.Loop() {
				for k, x := len(key)-1, i; k > 4; k, x = k-1, x/10 {
					key[k] = byte('0' + x%10)
				}
				i++
				tally.Record(0, key, 0)
			}
		})
	}
}

// A snapshot's number is enough where its records would tell nothing more.
func TestTallyOfANumber(t *testing.T) {
	for log, want := range map[string]int64{"": 7, "PING\nSELECT 3": 7, "SET a v\nFLUSHALL": 0, "SET a v\nFLUSHALL\nSET b v": 1} {
		tally := run(t, log)
		require.True(t, tally.Snapshot(7), log)
		require.Equal(t, Result{Keys: want, Exact: true}, tally.Result(), log)
	}
	for _, log := range []string{"SET a v", "DEL a", "FLUSHDB", "RENAME a b"} {
		tally := run(t, log, key{0, "a", 0})
		require.False(t, tally.Snapshot(7), log)
		require.Equal(t, run(t, log, key{0, "a", 0}).Result(), tally.Result(), log)
	}
}
