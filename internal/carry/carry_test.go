package carry

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/offloader/offloader/internal/resp"
	"github.com/offloader/offloader/internal/stream"
)

func encode(args ...string) []byte {
	b := fmt.Appendf(nil, "*%d\r\n", len(args))
	for _, a := range args {
		b = fmt.Appendf(b, "$%d\r\n%s\r\n", len(a), a)
	}
	return b
}

// take is what one command becomes, as text: order by order.
func take(t *testing.T, tr *Translator, command string) (string, error) {
	t.Helper()
	raw := encode(strings.Fields(command)...)
	var all []string
	err := NewLog(stream.Cursor{}).Each(stream.Piece{Data: raw, Time: 1_000_000}, func(c *resp.Command, raw []byte) error {
		orders, err := tr.Take(c, raw)
		for _, o := range orders {
			text := map[How]string{Send: "", Everywhere: "everywhere ", FlushDB: "flush db", FlushAll: "flush all", Apart: "apart "}[o.How]
			for i, w := range o.Words {
				if i > 0 {
					text += " "
				}
				if b, ok := w.([]byte); ok {
					text += string(b)
				} else {
					text += fmt.Sprint(w)
				}
			}
			all = append(all, text)
		}
		return err
	})
	return strings.Join(all, "; "), err
}

// What commands become. "+t" is a time that is put off.
func TestWhatCommandsBecome(t *testing.T) {
	later := func(at int64) string { return strconv.FormatInt(at+Later, 10) }
	held := func(_ int, key []byte) bool { return bytes.HasPrefix(key, []byte("held")) }
	rows := []struct{ command, alone, cluster, beside string }{
		{"SET k v", "SET k v", "SET k v", "SET k v"},
		{"ping", "", "", ""},
		{"PUBLISH c m", "", "", ""},
		{"MULTI", "", "", ""},
		{"FLUSHALL ASYNC", "flush all", "flush all", "flush all"},
		{"FLUSHDB", "flush db", "flush db", "flush db"},
		{"FUNCTION FLUSH", "everywhere FUNCTION FLUSH", "everywhere FUNCTION FLUSH", "everywhere FUNCTION FLUSH"},
		{"SET k v PXAT 5000", "SET k v PXAT " + later(5000), "SET k v PXAT " + later(5000), "SET k v PXAT " + later(5000)},
		{"set k v nx exat 5", "set k v nx PXAT " + later(5000), "set k v nx PXAT " + later(5000), "set k v nx PXAT " + later(5000)},
		{"SET k EX KEEPTTL", "SET k EX KEEPTTL", "SET k EX KEEPTTL", "SET k EX KEEPTTL"},
		{"SET k v IFEQ EX PX 1", "SET k v IFEQ EX PXAT " + later(1_000_001), "SET k v IFEQ EX PXAT " + later(1_000_001), "SET k v IFEQ EX PXAT " + later(1_000_001)},
		{"SETEX k 3 v", "SET k v PXAT " + later(1_003_000), "SET k v PXAT " + later(1_003_000), "SET k v PXAT " + later(1_003_000)},
		{"EXPIRE k 3", "PEXPIREAT k " + later(1_003_000), "PEXPIREAT k " + later(1_003_000), "PEXPIREAT k " + later(1_003_000)},
		{"PEXPIREAT k 7 GT", "PEXPIREAT k " + later(7) + " GT", "PEXPIREAT k " + later(7) + " GT", "PEXPIREAT k " + later(7) + " GT"},
		{"GETEX k PXAT 9", "GETEX k PXAT " + later(9), "GETEX k PXAT " + later(9), "GETEX k PXAT " + later(9)},
		{"RESTORE k 9 x ABSTTL", "RESTORE k " + later(9) + " x ABSTTL", "RESTORE k " + later(9) + " x ABSTTL", "RESTORE k " + later(9) + " x ABSTTL"},
		{"RESTORE-ASKING k 9 x", "RESTORE k " + later(1_000_009) + " x ABSTTL", "RESTORE k " + later(1_000_009) + " x ABSTTL", "RESTORE k " + later(1_000_009) + " x ABSTTL"},
		{"RESTORE k 0 x", "RESTORE k 0 x", "RESTORE k 0 x", "RESTORE k 0 x"},
		{"DEL a b held", "DEL a b held", "DEL a; DEL b; DEL held", "DEL a; DEL b"},
		{"DEL {x}a {x}b", "DEL {x}a {x}b", "DEL {x}a {x}b", "DEL {x}a {x}b"},
		{"MSETNX a 1 held 2", "MSETNX a 1 held 2", "SET a 1; SET held 2", "SET a 1"},
		{"RENAME a b", "RENAME a b", "apart RENAME a b", "RENAME a b"},
		{"RENAME a held", "RENAME a held", "apart RENAME a held", "!depend on them"},
		{"RENAME held1 held2", "RENAME held1 held2", "apart RENAME held1 held2", ""},
		{"MOVE k 3", "MOVE k 3", "MOVE k 3", "MOVE k 3"},
		{"SORT a BY w:* STORE b", "SORT a BY w:* STORE b", "!by a pattern", "SORT a BY w:* STORE b"},
		{"SORT a BY nosort GET # STORE b", "SORT a BY nosort GET # STORE b", "apart SORT a BY nosort GET # STORE b", "SORT a BY nosort GET # STORE b"},
		{"SWAPDB 0 1", "SWAPDB 0 1", "SWAPDB 0 1", "!to stay as they are"},
		{"JSON.SET k x", "JSON.SET k x", "!isn't known", "!isn't known"},
		{"EVAL x 1 k", "EVAL x 1 k", "!isn't known", "!isn't known"},
		{"MIGRATE h 1 k 0 1", "!other servers", "!other servers", "!other servers"},
		{"PEXPIREAT k 4503599627370496", "!can't be carried over", "!can't be carried over", "!can't be carried over"},
		{"DEL own", "", "", ""},
	}
	for _, r := range rows {
		for _, c := range []struct {
			name string
			tr   Translator
			want string
		}{{"alone", Translator{}, r.alone}, {"cluster", Translator{Cluster: true}, r.cluster}, {"beside", Translator{Held: held}, r.beside}} {
			c.tr.Own = []byte("own")
			got, err := take(t, &c.tr, r.command)
			if why, no := strings.CutPrefix(c.want, "!"); no {
				require.ErrorContains(t, err, why, "%s, %s", r.command, c.name)
				var ours *CommandError
				require.ErrorAs(t, err, &ours)
				continue
			}
			require.NoError(t, err, "%s, %s", r.command, c.name)
			require.Equal(t, c.want, got, "%s, %s", r.command, c.name)
		}
	}
}

// However the stream is cut into pieces, commands come whole, of any length.
func TestLogGivesWholeCommands(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var all []byte
		var want []string
		for range rapid.IntRange(1, 8).Draw(t, "commands") {
			raw := encode("SET", "k", strings.Repeat("x\r\n*1\r\n", rapid.SampledFrom([]int{0, 1, 9, 20_000}).Draw(t, "size")))
			all, want = append(all, raw...), append(want, string(raw))
		}
		log, at := NewLog(stream.Cursor{Offset: 100}), stream.Offset(100)
		var got []string
		for len(all) > 0 {
			n := min(len(all), rapid.SampledFrom([]int{1, 2, 7, 50, 10_000, 1 << 20}).Draw(t, "piece"))
			piece := bytes.Clone(all[:n])
			require.NoError(t, log.Each(stream.Piece{At: at, Data: piece, First: -1}, func(c *resp.Command, raw []byte) error {
				require.Equal(t, len(raw), int(c.End-c.Start))
				require.Len(t, wordsOf(raw), 3)
				got = append(got, string(raw))
				return nil
			}))
			clear(piece) // it is valid until the next only
			at, all = at+stream.Offset(n), all[n:]
		}
		require.Equal(t, want, got)
	})
}

// Slots are those of the engines: CLUSTER KEYSLOT says the same.
func TestSlots(t *testing.T) {
	for key, slot := range map[string]int{"": 0, "foo": 12182, "bar": 5061, "{foo}bar": 12182, "a{foo}{bar}": 12182, "{}foo": 9500, "foo{": SlotOf([]byte("foo{")), "{foo": SlotOf([]byte("{foo"))} {
		require.Equal(t, slot, SlotOf([]byte(key)), "%q", key)
	}
}
