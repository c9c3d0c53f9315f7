package resp

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/offloader/offloader/internal/stream"
)

// told is what a reader of commands sees of one, owned.
type told struct {
	Start, End, Before, After stream.Offset
	DB, BeforeDB, N           int
	InMulti                   bool
	Time, BeforeTime          stream.Time
	Args                      []string
	Lens                      []int64
}

func tell(c *Command) told {
	t := told{
		Start: c.Start, End: c.End, Before: c.Before.Offset, After: c.After, DB: c.DB, BeforeDB: c.Before.DB,
		N: c.N, InMulti: c.InMulti, Time: c.Time, BeforeTime: c.Before.Time,
	}
	for i, a := range c.Args {
		t.Args = append(t.Args, string(a))
		t.Lens = append(t.Lens, c.ArgLen(i))
	}
	return t
}

// read gives s to a reader in pieces of the given sizes, round and round. Pieces have the time 1.
func read(s string, sizes ...int) ([]told, stream.Cursor, error) {
	var all []told
	c := NewCommands(stream.Cursor{})
	at := stream.Offset(0)
	for i := 0; len(s) > 0; i++ {
		part := s[:min(len(s), max(1, sizes[i%len(sizes)]))]
		s = s[len(part):]
		err := c.Each(stream.Piece{At: at, Time: 1, Data: []byte(part)}, func(c *Command) error {
			all = append(all, tell(c))
			return nil
		})
		if err != nil {
			return all, c.Boundary(), err
		}
		at += stream.Offset(len(part))
	}
	return all, c.Boundary(), nil
}

func TestCommandsOfAStream(t *testing.T) {
	s := cmd("SELECT", "2") + cmd("set", "k", "") + "\n" + cmd("MULTI") + cmd("SELECT", "3") + cmd("DEL", "a", "b") + cmd("EXEC") + cmd("PING")
	want := []told{
		{Start: 0, End: 23, After: 23, N: 2, Args: []string{"SELECT", "2"}},
		{Start: 23, End: 49, Before: 23, After: 49, DB: 2, BeforeDB: 2, N: 3, Args: []string{"set", "k", ""}},
		{Start: 50, End: 65, Before: 50, DB: 2, BeforeDB: 2, InMulti: true, N: 1, Args: []string{"MULTI"}},
		{Start: 65, End: 88, Before: 50, DB: 2, BeforeDB: 2, InMulti: true, N: 2, Args: []string{"SELECT", "3"}},
		{Start: 88, End: 115, Before: 50, DB: 3, BeforeDB: 2, InMulti: true, N: 3, Args: []string{"DEL", "a", "b"}},
		{Start: 115, End: 129, Before: 50, After: 129, DB: 3, BeforeDB: 2, InMulti: true, N: 1, Args: []string{"EXEC"}},
		{Start: 129, End: 143, Before: 129, After: 143, DB: 3, BeforeDB: 3, N: 1, Args: []string{"PING"}},
	}
	for _, size := range []int{1, 2, 5, 26, 1000} {
		got, boundary, err := read(s, size)
		require.NoError(t, err)
		require.Equal(t, stream.Cursor{Offset: 143, DB: 3, Time: 1}, boundary)
		require.Len(t, got, len(want))
		for i, w := range want {
			for _, a := range w.Args {
				w.Lens = append(w.Lens, int64(len(a)))
			}
			w.Time = 1
			if w.Before > 0 {
				w.BeforeTime = 1
			}
			require.Equal(t, w, got[i], "by %d", size)
		}
	}
}

// A command that comes in two pieces has the time of the first: that is how a restore to a time
// decides, too.
func TestCommandHasTheTimeOfItsFirstByte(t *testing.T) {
	c := NewCommands(stream.Cursor{Offset: 100, Time: 5})
	s := cmd("PING") + cmd("PING")
	var times []stream.Time
	note := func(c *Command) error { times = append(times, c.Time); return nil }
	require.NoError(t, c.Each(stream.Piece{At: 100, Time: 10, Data: []byte(s[:15])}, note))
	require.Equal(t, stream.Cursor{Offset: 114, Time: 10}, c.Boundary())
	require.NoError(t, c.Each(stream.Piece{At: 115, Time: 20, Data: []byte(s[15:])}, note))
	require.Equal(t, []stream.Time{10, 10}, times)
	require.Equal(t, stream.Cursor{Offset: 128, Time: 20}, c.Boundary())
}

func TestLongCommandsAreCut(t *testing.T) {
	long := strings.Repeat("x", KeepArg+1)
	args := []string{"MSET"}
	for range 100 { // past keepAll
		args = append(args, long)
	}
	args = append(args, "last")
	for _, size := range []int{1000, 64 << 10, 16 << 20} {
		got, _, err := read(cmd(args...)+cmd("SET", "k", "v"), size)
		require.NoError(t, err)
		require.Len(t, got, 2)
		require.Equal(t, 102, got[0].N)
		require.Len(t, got[0].Args, 102)
		require.Equal(t, int64(KeepArg+1), got[0].Lens[1])
		require.Len(t, got[0].Args[1], KeepArg)
		require.Empty(t, got[0].Args[101])
		require.Equal(t, []string{"SET", "k", "v"}, got[1].Args)
		kept := 0
		for _, a := range got[0].Args {
			kept += len(a)
		}
		require.Equal(t, keepAll, kept)
	}
}

func TestVeryManyArguments(t *testing.T) {
	s := fmt.Sprintf("*%d\r\n", keepArgs+10) + strings.Repeat("$1\r\nx\r\n", keepArgs+10)
	for _, size := range []int{100_000, len(s)} {
		got, _, err := read(s+cmd("PING"), size)
		require.NoError(t, err)
		require.Len(t, got, 2)
		require.Equal(t, keepArgs+10, got[0].N)
		require.Len(t, got[0].Args, keepArgs)
		require.Len(t, got[0].Lens, keepArgs)
	}
}

func TestWholeArguments(t *testing.T) {
	long := strings.Repeat("x", KeepArg+1)
	c := NewCommands(stream.Cursor{})
	err := c.Each(stream.Piece{Data: []byte(cmd("Set", "k", long))}, func(c *Command) error {
		require.True(t, c.Is("SET"))
		require.False(t, c.Is("GET"))
		require.False(t, c.Is("SETEX"))
		require.True(t, c.Whole(1))
		require.False(t, c.Whole(2))
		require.False(t, c.Whole(3))
		return nil
	})
	require.NoError(t, err)
}

func TestWoundsOfCommands(t *testing.T) {
	for name, s := range map[string]string{
		"an inline command": cmd("PING") + "PING\r\n",
		"no arguments":      "*0\r\n",
		"a negative length": "*1\r\n$-1\r\n",
		"no CRLF":           "*1\r\n$1\r\nxyz",
	} {
		for _, size := range []int{1, 1000} {
			_, _, err := read(s, size)
			var bad *ProtocolError
			require.ErrorAs(t, err, &bad, name)
		}
	}
	c := NewCommands(stream.Cursor{Offset: 10})
	var bad *ProtocolError
	require.ErrorAs(t, c.Each(stream.Piece{At: 11, Data: []byte("*")}, nil), &bad, "a hole")
	require.Equal(t, stream.Offset(10), bad.At)
}

func TestAnErrorEndsTheReading(t *testing.T) {
	stop, calls := errors.New("enough"), 0
	err := NewCommands(stream.Cursor{}).Each(stream.Piece{Data: []byte(cmd("PING") + cmd("PING"))}, func(*Command) error {
		calls++
		return stop
	})
	require.ErrorIs(t, err, stop)
	require.Equal(t, 1, calls)
}

// drawStream is a stream of commands with nasty arguments and whole transactions.
func drawStream(t *rapid.T) string {
	arg := rapid.OneOf(
		rapid.SampledFrom([]string{"", "k", "\r\n", "*3\r\n$3\r\n", "#TS:1", "SELECT", "MULTI"}),
		rapid.StringN(0, 40, 200),
	)
	plain := rapid.Custom(func(t *rapid.T) string {
		switch rapid.IntRange(0, 9).Draw(t, "kind") {
		case 0:
			return cmd("select", fmt.Sprint(rapid.IntRange(0, 15).Draw(t, "db")))
		case 1:
			return cmd("PING")
		default:
			return cmd(append([]string{"SET"}, rapid.SliceOfN(arg, 0, 6).Draw(t, "args")...)...)
		}
	})
	item := rapid.Custom(func(t *rapid.T) string {
		switch rapid.IntRange(0, 5).Draw(t, "item") {
		case 0:
			return cmd("MULTI") + strings.Join(rapid.SliceOfN(plain, 0, 4).Draw(t, "body"), "") + cmd("exec")
		case 1:
			return "\n"
		default:
			return plain.Draw(t, "command")
		}
	})
	return strings.Join(rapid.SliceOfN(item, 1, 20).Draw(t, "items"), "")
}

func TestAnySplitGivesTheSameCommands(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawStream(t)
		whole, end, err := read(s, len(s))
		require.NoError(t, err)
		split, splitEnd, err := read(s, rapid.SliceOfN(rapid.IntRange(1, 60), 1, 9).Draw(t, "sizes")...)
		require.NoError(t, err)
		require.Equal(t, whole, split)
		require.Equal(t, end, splitEnd)
		at := stream.Offset(0)
		for _, c := range whole { // every byte is a command's, or a newline between two
			require.Equal(t, strings.Repeat("\n", int(c.Start-at)), s[at:c.Start])
			require.Equal(t, cmd(c.Args...), s[c.Start:c.End])
			at = c.End
		}
	})
}

func TestReadingCommandsAllocatesNothing(t *testing.T) {
	p := bytes.Repeat([]byte(cmd("SET", "key:000001", strings.Repeat("x", 100))), 1000)
	c := NewCommands(stream.Cursor{})
	at, n := stream.Offset(0), 0
	count := func(*Command) error { n++; return nil }
	require.Zero(t, testing.AllocsPerRun(10, func() {
		for q := p; len(q) > 0; { // split in mid-command, too
			part := q[:min(len(q), 1000)]
			q = q[len(part):]
			if err := c.Each(stream.Piece{At: at, Data: part}, count); err != nil {
				t.Fatal(err)
			}
			at += stream.Offset(len(part))
		}
	}))
	require.Equal(t, 11*1000, n)
}

func BenchmarkCommands(b *testing.B) {
	for _, size := range []int{10, 97, 1000} {
		one := cmd("SET", "key:000001", strings.Repeat("x", size))
		b.Run(fmt.Sprintf("%dB", len(one)), func(b *testing.B) {
			p := bytes.Repeat([]byte(one), 1<<20/len(one))
			c, at := NewCommands(stream.Cursor{}), stream.Offset(0)
			count := 0
			b.SetBytes(int64(len(p)))
			for b.Loop() {
				for q := p; len(q) > 0; {
					part := q[:min(len(q), 256<<10)]
					q = q[len(part):]
					if err := c.Each(stream.Piece{At: at, Data: part}, func(c *Command) error { count += c.N; return nil }); err != nil {
						b.Fatal(err)
					}
					at += stream.Offset(len(part))
				}
			}
		})
	}
}

func FuzzCommands(f *testing.F) {
	f.Add([]byte(cmd("SET", "k", "v")+cmd("MULTI")+cmd("SELECT", "3")+cmd("EXEC")), 3)
	f.Add([]byte("*1\r\n$99999999999\r\n"), 1)
	f.Add([]byte("*2147483647\r\n$1\r\nx\r\n"), 5)
	f.Add([]byte("\n\n*2\r\n$0\r\n\r\n$1\r\nx\r\n"), 2)
	f.Fuzz(func(t *testing.T, p []byte, size int) {
		whole, end, e1 := read(string(p), max(1, len(p)))
		split, splitEnd, e2 := read(string(p), min(max(1, size), 1<<10))
		require.Equal(t, whole, split)
		require.Equal(t, e1 == nil, e2 == nil)
		if e1 == nil {
			require.Equal(t, end, splitEnd)
		}
	})
}
