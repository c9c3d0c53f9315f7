package syncer

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/crc64"
	"github.com/offloader/offloader/internal/engine/enginetest"
	"github.com/offloader/offloader/internal/rdbwalk"
	"github.com/offloader/offloader/internal/stream"
)

// seal puts the checksum behind an RDB.
func seal(body string) string {
	return string(binary.LittleEndian.AppendUint64([]byte(body), crc64.Update(0, []byte(body))))
}

// tinyRDB is one key, as redis 7.0 writes it.
func tinyRDB(t *testing.T) string {
	t.Helper()
	return seal("REDIS0010\xfe\x00\x00\x01k\x01v\xff")
}

const set1 = "*2\r\n$6\r\nSELECT\r\n$1\r\n0\r\n*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1\r\n1\r\n"

// onlyAcks is all that a replica may say: a command that brings a reply would end the link.
var onlyAcks = regexp.MustCompile(`^(\n|\*5\r\n\$8\r\nREPLCONF\r\n\$3\r\nACK\r\n\$\d+\r\n\d+\r\n\$4\r\nFACK\r\n\$\d+\r\n\d+\r\n)+$`)

func TestRDBInAnyPieces(t *testing.T) {
	mark := strings.Repeat("m", markLen)
	future := seal("REDIS0099\xfe\x00\xc8 what nobody knows " + mark + " and more\xff")
	unsummed := "REDIS0099\xfe\x00\xc8 what nobody knows " + mark + " and more\xff" + strings.Repeat("\x00", 8)
	for _, c := range []struct {
		name, rdb string
		glued     bool // the stream comes in one piece with the mark
		unchecked string
	}{
		{"a known version", seal("REDIS0010\xfe\x00\x00\x01k\x01v\xff"), false, ""},
		{"pitfall 31: the stream glued to the mark", seal("REDIS0010\xfe\x00\x00\x01k\x01v\xff"), true, ""},
		{"pitfall 15: the mark in a value", seal("REDIS0010\xfe\x00\x00\x01k\x28" + mark + "\xff"), true, ""},
		{"a version of the future", future, false, "type 200 of RDB version 99 is not known"},
		{"of the future, without a checksum", unsummed, false, "type 200 of RDB version 99 is not known"},
	} {
		for _, framing := range []string{"$EOF", "$len"} {
			for _, piece := range []int{1, 7, 1 << 20} {
				t.Run(c.name+" "+framing, func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						sink := newMemory()
						l, master := piped(t, Options{}, sink)
						ctx, cancel := context.WithCancel(t.Context())
						ended := make(chan error, 1)
						go func() { ended <- l.Run(ctx) }()
						master.greet("+FULLRESYNC " + string(idA) + " 1000\r\n")
						heard := make(chan string, 1)
						go func() { b, _ := io.ReadAll(master.in); heard <- string(b) }()
						body := "$EOF:" + mark + "\r\n" + c.rdb + mark
						if framing == "$len" {
							body = "$" + stream.Offset(len(c.rdb)).String() + "\r\n" + c.rdb
						}
						if c.glued || framing == "$len" {
							body += set1
						}
						for p := range bytesIn(body, piece) {
							master.say(p)
						}
						if !c.glued && framing == "$EOF" { // a master waits for the ACK
							time.Sleep(5 * time.Second)
							master.say(set1)
						}
						synctest.Wait()
						require.Equal(t, c.rdb, string(sink.rdb))
						require.Equal(t, set1, string(sink.stream))
						require.Equal(t, stream.Offset(1000+len(set1)), sink.Durable())
						require.Equal(t, c.unchecked, sink.summary.Unchecked)
						require.Empty(t, sink.discarded)
						cancel()
						<-ended
						require.Regexp(t, onlyAcks, <-heard, "pitfall 7")
					})
				})
			}
		}
	}
}

func bytesIn(s string, n int) func(func(string) bool) {
	return func(yield func(string) bool) {
		for len(s) > 0 {
			k := min(n, len(s))
			if !yield(s[:k]) {
				return
			}
			s = s[k:]
		}
	}
}

// Each wound, and what becomes of it: the Incoming is discarded, nothing is acknowledged.
func TestDamagedTransfers(t *testing.T) {
	mark := strings.Repeat("m", markLen)
	rdb := seal("REDIS0010\xfe\x00\x00\x01k\x01v\xff")
	flipped := []byte(rdb)
	flipped[len(flipped)-12] ^= 1
	for _, c := range []struct {
		name, sent string
		kind       Kind
		begun      bool // there was something to discard
	}{
		{"wrong CRC", "$EOF:" + mark + "\r\n" + string(flipped) + mark, KindDamaged, true},
		{"wrong CRC, length known", "$28\r\n" + string(flipped), KindDamaged, true},
		{"another mark", "$EOF:" + mark + "\r\n" + rdb + strings.Repeat("n", markLen), KindDamaged, true},
		{"cut in the RDB", "$EOF:" + mark + "\r\n" + rdb[:10], KindClosed, true},
		{"cut in the mark", "$EOF:" + mark + "\r\n" + rdb + mark[:10], KindClosed, true},
		{"shorter than it says", "$5000\r\n" + rdb + strings.Repeat("\x00", 5000-len(rdb)), KindDamaged, true},
		{"longer than it says", "$20\r\n" + rdb, KindClosed, true},
		{"no RDB at all", "$EOF:" + mark + "\r\n<html>" + strings.Repeat(" ", 100), KindDamaged, true},
		{"a length of nothing", "$0\r\n", KindNotMaster, false},
		{"a length below nothing", "$-1\r\n", KindNotMaster, false},
		{"a length too long", "$99999999999999999999\r\n", KindNotMaster, false},
		{"a short mark", "$EOF:abc\r\n", KindNotMaster, false},
		{"the child died", "", KindSave, false},
		{"an error instead", "-ERR BGSAVE failed, replication can't continue\r\n", KindSave, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sink := newMemory()
				l, master := piped(t, Options{}, sink)
				ctx, cancel := context.WithCancel(t.Context())
				ended := make(chan error, 1)
				go func() { ended <- l.Run(ctx) }()
				master.greet("+FULLRESYNC " + string(idA) + " 1000\r\n")
				heard := make(chan string, 1)
				go func() { b, _ := io.ReadAll(master.in); heard <- string(b) }()
				_, _ = io.WriteString(master.nc, c.sent) // the link may hang up in the middle
				_ = master.nc.Close()
				synctest.Wait()
				time.Sleep(time.Millisecond)
				s := l.Status()
				require.Equal(t, map[Kind]int64{c.kind: 1}, s.Errors, s.LastError)
				require.Len(t, sink.discarded, count(c.begun))
				require.Len(t, sink.downs, count(c.begun))
				require.Zero(t, sink.wholes)
				require.Zero(t, sink.Durable())
				cancel()
				<-ended
				require.NotRegexp(t, "ACK\r\n\\$[0-9]+\r\n[1-9]", <-heard)
			})
		})
	}
}

func count(b bool) int {
	if b {
		return 1
	}
	return 0
}

func TestAWrongCRCIsAskedForAgain(t *testing.T) {
	enginetest.Each(t, func(t *testing.T, kind enginetest.Kind) {
		master := enginetest.Start(t, kind)
		fill(master, 1000)
		addr := newProxy(t, master.Addr(), func(n int) func([]byte) ([]byte, error) {
			if n > 0 {
				return straight
			}
			return after("value ", func(at int64, p []byte) ([]byte, error) {
				if at == 0 && len(p) > 0 {
					p[0] ^= 0x01 // its first digit: a value, so only the checksum can tell
				}
				return p, nil
			})
		})
		sink := newMemory()
		l, _ := up(t, Options{Address: addr}, sink)
		caught(t, master, sink)
		require.Len(t, sink.discarded, 1)
		var sum *rdbwalk.ChecksumError
		require.ErrorAs(t, sink.discarded[0], &sum)
		require.Equal(t, int64(1), l.Status().Errors[KindDamaged])
		require.Equal(t, 2, fullSyncs(master))
		require.Empty(t, enginetest.Diff(t, master, restored(t, kind, sink)))
	})
}

// The mark is the same for all syncs of a server's run, so it can be stored in a value.
func TestPitfall15TheMarkInAValue(t *testing.T) {
	enginetest.Each(t, func(t *testing.T, kind enginetest.Kind) {
		master := enginetest.Start(t, kind)
		var seen recorder
		addr := newProxy(t, master.Addr(), func(int) func([]byte) ([]byte, error) { return seen.pass })
		sink := newMemory()
		_, stop := up(t, Options{Address: addr}, sink)
		caught(t, master, sink)
		stop()
		_, behind, ok := strings.Cut(seen.String(), "$EOF:")
		require.True(t, ok)
		sink = newMemory()
		master.Do("CONFIG", "SET", "rdbcompression", "no")
		master.Do("SET", "trap", behind[:markLen])
		master.Do("SET", "trap2", strings.Repeat("x", 300_000)+behind[:markLen])
		up(t, Options{Address: master.Addr()}, sink)
		caught(t, master, sink)
		require.Contains(t, string(sink.rdb), behind[:markLen])
		require.Empty(t, enginetest.Diff(t, master, restored(t, kind, sink)))
	})
}

// Without a version valkey 9 takes us for an older one, whose RDB can't hold fields that expire:
// every full sync would fail, for ever.
func TestPitfall3HashesWithFieldExpiry(t *testing.T) {
	enginetest.Each(t, func(t *testing.T, kind enginetest.Kind) {
		for _, who := range []string{"default", "blind"} { // the latter may not ask for the version
			t.Run(who, func(t *testing.T) {
				master := enginetest.Start(t, kind)
				fill(master, 10)
				if kind.HasHashFieldTTL() {
					master.Do("HSET", "h", "f", "v", "g", "w")
					master.Do("HPEXPIRE", "h", 3600_000, "FIELDS", 1, "f")
				}
				master.Do("ACL", "SETUSER", "blind", "on", ">pw", "+psync", "+replconf")
				sink := newMemory()
				o := Options{Address: master.Addr()}
				if who == "blind" {
					o.Username, o.Password = who, func() (string, error) { return "pw", nil }
				}
				l, _ := up(t, o, sink)
				caught(t, master, sink)
				require.Equal(t, who != "blind", l.Status().Master.Permitted)
				require.Equal(t, kind.AtLeast("valkey", 9, 0), sink.summary.Version == 80)
				require.Empty(t, enginetest.Diff(t, master, restored(t, kind, sink)))
			})
		}
	})
}

// Pitfall 30: the stream that a master buffers for a replica that loads has a bound, and one that
// overruns it is cut off. The setting that is too small is named.
func TestPitfall30OutputBufferTooSmall(t *testing.T) {
	enginetest.Each(t, func(t *testing.T, kind enginetest.Kind) {
		master := enginetest.Start(t, kind, "--client-output-buffer-limit", "replica 1mb 1mb 1", "--repl-backlog-size", "16kb",
			"--rdb-key-save-delay", "100", "--repl-diskless-sync", "yes")
		fill(master, 10000)
		path := filepath.Join(t.TempDir(), "budget.json")
		spent, err := json.Marshal(Budget{Spent: freeResyncs - 1, Since: time.Now(), Last: time.Now()})
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(path, spent, 0o600))
		l, stop := up(t, Options{Address: master.Addr(), BudgetPath: path}, newMemory())
		eventually(t, "the RDB arrives", func() bool { return l.Status().Phase == Receiving })
		for range 40 {
			master.Do("SET", "big", strings.Repeat("x", 500_000))
		}
		refusedWith(t, l, KindClosed)
		require.Contains(t, master.LogText(), "overcoming of output buffer limits")
		s := refusedWith(t, l, KindBudget)
		stop()
		require.Contains(t, s.LastError, "the master closed the last connection while it sent the RDB")
		require.Contains(t, s.LastHint, "CONFIG SET client-output-buffer-limit")

		_, value, ok := strings.Cut(s.LastHint, "CONFIG SET client-output-buffer-limit ")
		require.True(t, ok, s.LastHint)
		master.Do("CONFIG", "SET", "client-output-buffer-limit", strings.Trim(value, `"`))
		master.Do("CONFIG", "SET", "rdb-key-save-delay", "0")
		sink := newMemory()
		up(t, Options{Address: master.Addr()}, sink)
		caught(t, master, sink)
	})
}

// A sink that is full puts the link down, and nothing is acknowledged.
type full struct{ *memory }

var errFull = errors.New("no space left")

func (f full) FullSync(m Master, id stream.ReplID, at stream.Offset, size int64) (Incoming, error) {
	in, err := f.memory.FullSync(m, id, at, size)
	return tooSmall{in}, err
}

type tooSmall struct{ Incoming }

func (tooSmall) Write([]byte) (int, error) { return 0, errFull }

func TestAFullDiskIsNotTheMastersFault(t *testing.T) {
	master := enginetest.Start(t, enginetest.Any(t))
	fill(master, 20000)
	sink := newMemory()
	l, stop := up(t, Options{Address: master.Addr()}, full{sink})
	s := refusedWith(t, l, KindLocal)
	stop()
	require.Contains(t, s.LastError, "no space left")
	require.ErrorIs(t, sink.discarded[0], errFull)
	require.Zero(t, s.Acked)
}

func TestPlainSyncWhereThereIsNoPSYNC(t *testing.T) {
	enginetest.Each(t, func(t *testing.T, kind enginetest.Kind) {
		for _, diskless := range []string{"yes", "no"} {
			t.Run("diskless "+diskless, func(t *testing.T) {
				master := enginetest.Start(t, kind, "--rename-command", "PSYNC", "", "--repl-diskless-sync", diskless)
				fill(master, 100)
				sink := newMemory()
				l, _ := up(t, Options{Address: master.Addr()}, sink)
				eventually(t, "the RDB is whole", func() bool { return see(sink, func(m *memory) bool { return m.wholes == 1 }) })
				master.Do("SET", "k", "v")
				eventually(t, "the stream comes", func() bool {
					return see(sink, func(m *memory) bool { return bytes.Contains(m.stream, []byte("\r\nv\r\n")) })
				})
				s := l.Status()
				require.True(t, s.PlainSync)
				require.Zero(t, s.Acked, "its offsets are ours, not the master's")
				require.Zero(t, sink.base)
				require.Len(t, sink.id, 40)
				require.Empty(t, enginetest.Diff(t, master, restored(t, kind, sink)))
			})
		}
	})
}
