package keyspace

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/engine/enginetest"
	"github.com/offloader/offloader/internal/resp"
	"github.com/offloader/offloader/internal/stream"
)

// raw writes a command as a master sends it.
func raw(args ...string) []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "*%d\r\n", len(args))
	for _, a := range args {
		fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(a), a)
	}
	return []byte(b.String())
}

// with gives the command to do.
func with(t *testing.T, do func(*resp.Command), args ...string) {
	t.Helper()
	err := resp.NewCommands(stream.Cursor{}).Each(stream.Piece{Data: raw(args...)}, func(c *resp.Command) error {
		do(c)
		return nil
	})
	require.NoError(t, err)
}

// keysOf is the keys of a command, in the order in which Next gives them.
func keysOf(t *testing.T, args ...string) (keys []string, scope Scope) {
	t.Helper()
	with(t, func(c *resp.Command) {
		k := Of(c)
		scope = k.Scope
		for i, ok := k.Next(); ok; i, ok = k.Next() {
			keys = append(keys, string(c.Args[i]))
		}
	}, args...)
	return keys, scope
}

// samples have a command for each row with a where, and then some. The keys are k1, k2, ….
var samples = []string{
	"SET k1 v", "set k1 v EX 10", "MSET k1 v k2 v k3 v", "DEL k1 k2 k3", "BITOP and k1 k2 k3", "BLPOP k1 k2 0", "XGROUP CREATE k1 g $",
	"XGROUP DESTROY k1 g", "PFDEBUG GETREG k1",
	"SORT k1 BY store GET store LIMIT 0 1 STORE k2", "SORT k1 STORE x store k2", "SORT k1 BY a store k2 GET STORE ALPHA",
	"ZUNIONSTORE k1 2 k2 k3 WEIGHTS 1 2", "ZINTERSTORE k1 1 k2", "ZDIFFSTORE k1 2 k2 k3",
	"LMPOP 2 k1 k2 LEFT", "ZMPOP 1 k1 MIN", "BLMPOP 0 2 k1 k2 LEFT", "BZMPOP 0 1 k1 MIN",
	"GEORADIUS k1 1 1 1 m STORE k2", "GEORADIUS k1 1 1 1 m ASC storedist k2", "GEORADIUSBYMEMBER k1 member 1 m STORE k2",
	"GEORADIUSBYMEMBER k1 store 1 m WITHCOORD STOREDIST k2",
	"XREADGROUP GROUP streams streams COUNT 1 NOACK STREAMS k1 k2 > >", "XREADGROUP GROUP g c BLOCK 1 STREAMS k1 >",
	"MIGRATE host 1 k1 0 1", "MIGRATE host 1  0 1 COPY AUTH keys KEYS k1 k2", "MIGRATE host 1  0 1 AUTH2 keys keys KEYS k1",
	"COPY k1 k2 DB 3", "SMOVE k1 k2 m", "EVAL x 2 k1 k2 a", "FCALL f 1 k1 a",
}

// sampleFrom are samples that only some engines know.
var sampleFrom = map[string]func(enginetest.Kind) bool{
	"MSETEX 2 k1 v k2 v EX 10": func(k enginetest.Kind) bool { return k.AtLeast("valkey", 9, 1) || k.AtLeast("redis", 8, 4) },
	"DELIFEQ k1 v":             func(k enginetest.Kind) bool { return k.AtLeast("valkey", 9, 0) },
	"HSETEX k1 FIELDS 1 f v":   func(k enginetest.Kind) bool { return k.AtLeast("valkey", 9, 0) || k.AtLeast("redis", 8, 0) },
}

func TestKeysAreWhereTheEnginesFindThem(t *testing.T) {
	enginetest.Each(t, func(t *testing.T, kind enginetest.Kind) {
		s := enginetest.Start(t, kind)
		all := samples
		for sample, has := range sampleFrom {
			if has(kind) {
				all = append(all[:len(all):len(all)], sample)
			}
		}
		for _, sample := range all {
			args := strings.Split(sample, " ")
			got, scope := keysOf(t, args...)
			want := s.Do(append([]any{"COMMAND", "GETKEYS"}, anys(args)...)...)
			require.ElementsMatch(t, want, anys(got), sample)
			require.Equal(t, Named, scope, sample)
		}
	})
}

func anys(s []string) []any {
	all := make([]any, len(s))
	for i, a := range s {
		all[i] = a
	}
	return all
}

// What the engines themselves say of each command that writes: the flags of COMMAND, and the
// place of its keys. One that looks for its keys does so here, too.
func TestTableAgreesWithTheEngines(t *testing.T) {
	enginetest.Each(t, func(t *testing.T, kind enginetest.Kind) {
		s := enginetest.Start(t, kind)
		written := 0
		var check func(info []any)
		check = func(info []any) {
			name := strings.ToUpper(fmt.Sprint(info[0]))
			name, _, _ = strings.Cut(name, "|")
			flags := fmt.Sprint(info[2])
			if len(info) > 9 {
				for _, i := range info[9].([]any) {
					check(i.([]any))
				}
			}
			r, known := table[name]
			if !strings.Contains(flags, "write") {
				return
			}
			written++
			require.True(t, known, "%v is not in the table", info[0])
			at := []int64{info[3].(int64), info[4].(int64), info[5].(int64)}
			switch {
			case r.where != nil:
				require.Contains(t, flags, "movablekeys", "%v", info[0])
			case at[0] == 0:
				require.Zero(t, r.first, "%v", info[0])
			default:
				require.NotContains(t, flags, "movablekeys", "%v", info[0])
				require.Equal(t, at, []int64{int64(r.first), int64(r.last), int64(r.step)}, "%v", info[0])
				require.NotEqual(t, nothing, r.action, "%v", info[0])
			}
		}
		reply, err := s.Client().Do(context.Background(), "COMMAND").Slice()
		require.NoError(t, err)
		for _, info := range reply {
			check(info.([]any))
		}
		require.Greater(t, written, 100)
	})
}

func TestScopes(t *testing.T) {
	for command, want := range map[string]Scope{
		"PING": Named, "select 3": Named, "PUBLISH k v": Named, "SPUBLISH k v": Named, "REPLCONF GETACK *": Named, "FUNCTION FLUSH": Named,
		"flushall ASYNC": Every, "FLUSHDB": Every, "SWAPDB 0 1": Every,
		"JSON.SET k $ 1": Unknown, "CLUSTER FLUSHSLOT 3": Unknown, "ANAMETHATISLONGERTHANANYINTHETABLE k": Unknown,
	} {
		keys, scope := keysOf(t, strings.Split(command, " ")...)
		require.Equal(t, want, scope, command)
		require.Empty(t, keys, command)
	}
}

// A stream is what a peer sent: numbers in it may be anything.
func TestNonsenseHasNoKeys(t *testing.T) {
	for _, command := range []string{
		"DEL", "XGROUP", "XGROUP CREATE", "ZUNIONSTORE", "ZUNIONSTORE k", "LMPOP", "LMPOP 99999999999999999999 k", "LMPOP -1 k", "LMPOP x k",
		"MSETEX", "MSETEX 5 k v", "MSETEX 9223372036854775807", "XREADGROUP", "XREADGROUP STREAMS", "MIGRATE", "MIGRATE h 1 ", "SORT", "COPY",
		"SORT k STORE", "GEORADIUS k 1 1 1 m STORE", "BLPOP", "BLPOP k", "EVAL", "SMOVE k", "MSET k", "BITOP AND",
	} {
		with(t, func(c *resp.Command) {
			k := Of(c)
			for i, ok := k.Next(); ok; i, ok = k.Next() {
				require.Less(t, i, c.N, command)
				require.Positive(t, i, command)
			}
		}, strings.Split(command, " ")...)
		tally := NewTally(0)
		with(t, tally.Add, strings.Split(command, " ")...) // and does no harm
		tally.Result()
	}
}

func TestFindingKeysAllocatesNothing(t *testing.T) {
	for _, command := range []string{"set k v", "ZUNIONSTORE d 2 a b", "SORT k STORE d", "XREADGROUP GROUP g c STREAMS a b > >", "JSON.SET k $ 1"} {
		with(t, func(c *resp.Command) {
			n := 0
			require.Zero(t, testing.AllocsPerRun(10, func() {
				k := Of(c)
				for i, ok := k.Next(); ok; i, ok = k.Next() {
					n += i
				}
			}))
		}, strings.Split(command, " ")...)
	}
}
