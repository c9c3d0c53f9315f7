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

// cmd writes a command as a master sends it.
func cmd(args ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "*%d\r\n", len(args))
	for _, a := range args {
		fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(a), a)
	}
	return b.String()
}

// feed gives p to f in parts of the given sizes, round and round, as a link would.
func feed(f *Framer, p []byte, sizes ...int) error {
	for i := 0; len(p) > 0; i++ {
		part := p[:min(len(p), max(1, sizes[i%len(sizes)]))]
		p = p[len(part):]
		for len(part) > 0 {
			n, _, _, err := f.Feed(part)
			if err != nil {
				return err
			}
			part = part[n:]
		}
	}
	return nil
}

func TestBoundaries(t *testing.T) {
	nasty := "a\r\n*3\r\n$3\r\nSET\x00#TS:17\n"
	for _, c := range []struct {
		name, stream string
		boundary     int // bytes of stream before the last boundary
		db           int
	}{
		{"a command", cmd("SET", "k", "v"), 27, 0},
		{"an empty value", cmd("SET", "k", ""), 26, 0},
		{"binary values", cmd("SET", nasty, nasty), len(cmd("SET", nasty, nasty)), 0},
		{"half a command", cmd("PING") + cmd("SET", "k", "v")[:20], 14, 0},
		{"select", cmd("SELECT", "9") + cmd("SET", "k", "v"), 23 + 27, 9},
		{"select in any case", cmd("sElEcT", "12"), 24, 12},
		{"a value that says SELECT", cmd("SET", "SELECT", "7"), len(cmd("SET", "SELECT", "7")), 0},
		{"an open transaction", cmd("PING") + cmd("MULTI") + cmd("SET", "k", "v"), 14, 0},
		{"select in an open transaction", cmd("PING") + cmd("MULTI") + cmd("SELECT", "4"), 14, 0},
		{"a closed transaction", cmd("MULTI") + cmd("SELECT", "4") + cmd("exec"), 15 + 23 + 14, 4},
		{"bare newlines", "\n\n" + cmd("PING") + "\n", 2 + 14 + 1, 0},
		{"getack", cmd("REPLCONF", "GETACK", "*"), 37, 0},
	} {
		for _, size := range []int{1, 2, 3, 7, 1 << 20} {
			f := NewFramer(stream.Cursor{Offset: 1000})
			require.NoError(t, feed(f, []byte(c.stream), size), "%s by %d", c.name, size)
			require.Equal(t, stream.Cursor{Offset: 1000 + stream.Offset(c.boundary), DB: c.db}, f.Boundary(), "%s by %d", c.name, size)
			require.Equal(t, stream.Offset(1000+len(c.stream)), f.Offset(), "%s by %d", c.name, size)
		}
	}
}

func TestMalformedStreams(t *testing.T) {
	for _, c := range []struct {
		name, stream, says string
		at                 int
	}{
		{"inline command", "PING\r\n", `want '*', got 'P'`, 0},
		{"no length", "*\r\n", "want a length", 0},
		{"no arguments", "*0\r\n", "a command of 0 arguments", 0},
		{"null array", "*-1\r\n", "want a length", 0},
		{"too many arguments", "*9999999999\r\n", "a command of 9999999999 arguments", 0},
		{"nested array", "*1\r\n*1\r\n", `want '$', got '*'`, 4},
		{"null bulk", "*1\r\n$-1\r\n", "want a length", 4},
		{"endless length", "*1\r\n$99999999999999999999999", "more than 18 digits", 4},
		{"huge length", "*1\r\n$999999999999999999\r\n", "argument 0 has length 999999999999999999", 4},
		{"no CRLF behind a value", "*1\r\n$4\r\nPINGxx", "want CRLF behind argument 0", 12},
		{"no newline behind a length", "*1\rx", "want a newline", 0},
	} {
		for _, size := range []int{1, 5, 1 << 20} {
			err := feed(NewFramer(stream.Cursor{}), []byte(cmd("PING")+c.stream), size)
			var bad *ProtocolError
			require.ErrorAs(t, err, &bad, "%s by %d", c.name, size)
			require.ErrorContains(t, err, c.says, "%s by %d", c.name, size)
			require.Equal(t, stream.Offset(14+c.at), bad.At, "%s by %d: %v", c.name, size, err)
		}
	}
}

// Any split of the bytes gives the same boundaries, and any cut a prefix of them.
func TestSplitsDoNotMatter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		command := rapid.Custom(func(t *rapid.T) string {
			switch rapid.IntRange(0, 5).Draw(t, "kind") {
			case 0:
				return cmd("SELECT", fmt.Sprint(rapid.IntRange(0, 15).Draw(t, "db")))
			case 1:
				return cmd("MULTI") + cmd("SET", "a", "b") + cmd("EXEC")
			case 2:
				return "\n"
			default:
				args := rapid.SliceOfN(rapid.SliceOfN(rapid.Byte(), 0, 40), 1, 5).Draw(t, "args")
				s := make([]string, len(args))
				for i, a := range args {
					s[i] = string(a)
				}
				if len(s) == 1 && (strings.EqualFold(s[0], "MULTI") || strings.EqualFold(s[0], "EXEC")) {
					return cmd("PING")
				}
				return cmd(s...)
			}
		})
		all := strings.Join(rapid.SliceOfN(command, 1, 20).Draw(t, "commands"), "")
		whole, split := NewFramer(stream.Cursor{}), NewFramer(stream.Cursor{})
		require.NoError(t, feed(whole, []byte(all), len(all)))
		require.NoError(t, feed(split, []byte(all), rapid.SliceOfN(rapid.IntRange(1, 30), 1, 9).Draw(t, "sizes")...))
		require.Equal(t, stream.Offset(len(all)), whole.Boundary().Offset)
		require.Equal(t, whole.Boundary(), split.Boundary())

		cut := rapid.IntRange(0, len(all)).Draw(t, "cut")
		short := NewFramer(stream.Cursor{})
		require.NoError(t, feed(short, []byte(all)[:cut], 13))
		require.LessOrEqual(t, short.Boundary().Offset, stream.Offset(cut))
		rest := NewFramer(short.Boundary()) // whoever resumes at a boundary comes to the same end
		require.NoError(t, feed(rest, []byte(all)[short.Boundary().Offset:], 17))
		require.Equal(t, whole.Boundary(), rest.Boundary())
	})
}

func TestFirstCommandOfAPiece(t *testing.T) {
	f := NewFramer(stream.Cursor{})
	p := []byte(cmd("SET", "k", "v") + cmd("PING"))
	n, first, _, err := f.Feed(p[:10])
	require.NoError(t, err)
	require.Equal(t, []int{10, 0}, []int{n, first})
	n, first, _, err = f.Feed(p[10:])
	require.NoError(t, err)
	require.Equal(t, []int{len(p) - 10, 27 - 10}, []int{n, first})
	n, first, blank, err := f.Feed([]byte("\n\n*"))
	require.NoError(t, err)
	require.True(t, blank)
	require.Equal(t, []int{2, -1}, []int{n, first})
}

func TestFramingAllocatesNothing(t *testing.T) {
	p := bytes.Repeat([]byte(cmd("SET", "key:000001", strings.Repeat("x", 100))), 1000)
	f := NewFramer(stream.Cursor{})
	require.Zero(t, testing.AllocsPerRun(10, func() {
		if _, _, _, err := f.Feed(p); err != nil {
			t.Fatal(err)
		}
	}))
}

func BenchmarkFramer(b *testing.B) {
	for _, size := range []int{10, 100, 1000} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			p := bytes.Repeat([]byte(cmd("SET", "key:000001", strings.Repeat("x", size))), 1<<20/size)
			f := NewFramer(stream.Cursor{})
			b.SetBytes(int64(len(p)))
			for b.Loop() {
				for q := p; len(q) > 0; {
					part := q[:min(len(q), 256<<10)]
					q = q[len(part):]
					if _, _, _, err := f.Feed(part); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}

func FuzzFramer(f *testing.F) {
	f.Add([]byte(cmd("SET", "k", "v")+cmd("MULTI")+cmd("SELECT", "3")+cmd("EXEC")), 3)
	f.Add([]byte("*1\r\n$99999999999\r\n"), 1)
	f.Add([]byte("\n\n*2\r\n$0\r\n\r\n$1\r\nx\r\n"), 2)
	f.Fuzz(func(t *testing.T, p []byte, size int) {
		whole, split := NewFramer(stream.Cursor{}), NewFramer(stream.Cursor{})
		e1, e2 := feed(whole, p, max(1, len(p))), feed(split, p, min(max(1, size), 1<<10))
		if (e1 == nil) != (e2 == nil) || e1 == nil && whole.Boundary() != split.Boundary() {
			t.Fatalf("whole: %+v, %v; split by %d: %+v, %v", whole.Boundary(), e1, size, split.Boundary(), e2)
		}
		var bad *ProtocolError
		if e1 != nil && !errors.As(e1, &bad) {
			t.Fatalf("not a ProtocolError: %v", e1)
		}
	})
}
