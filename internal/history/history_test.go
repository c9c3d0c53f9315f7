package history

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/offloader/offloader/internal/engine/enginetest"
	"github.com/offloader/offloader/internal/plan"
	"github.com/offloader/offloader/internal/resp"
	"github.com/offloader/offloader/internal/stream"
)

// raw writes a command as a master sends it.
func raw(args ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "*%d\r\n", len(args))
	for _, a := range args {
		fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(a), a)
	}
	return b.String()
}

// pieces are given one after the other.
type pieces []stream.Piece

func (p *pieces) Next() (stream.Piece, error) {
	if len(*p) == 0 {
		return stream.Piece{}, io.EOF
	}
	first := (*p)[0]
	*p = (*p)[1:]
	return first, nil
}

// streamOf is commands, one a line, "time command args…", from offset 1000 on. Commands of the
// same time are in one piece.
func streamOf(lines string) *pieces {
	all, at := pieces{}, stream.Offset(1000)
	for line := range strings.Lines(strings.TrimSpace(lines)) {
		words := strings.Fields(line)
		var when stream.Time
		fmt.Sscan(words[0], &when)
		data := raw(words[1:]...)
		if n := len(all); n > 0 && all[n-1].Time == when {
			all[n-1].Data = append(all[n-1].Data, data...)
		} else {
			all = append(all, stream.Piece{At: at, Time: when, Data: []byte(data)})
		}
		at += stream.Offset(len(data))
	}
	return &all
}

func look(t *testing.T, p Pieces, q Query) []Entry {
	t.Helper()
	var all []Entry
	err := Search(t.Context(), stream.Cursor{Offset: 1000}, p, q, func(e Entry) error {
		all = append(all, e)
		return nil
	})
	require.NoError(t, err)
	return all
}

const morning = `
10 SELECT 2
10 set user:1 x
20 ping
20 DEL user:2 user:3
30 MULTI
30 SET a 1
30 SELECT 3
30 RENAME user:4 b
30 EXEC
40 FLUSHALL
40 REPLCONF GETACK *
50 JSON.SET user:1 $ 1
50 PUBLISH user:1 hello
`

func TestSearch(t *testing.T) {
	for _, c := range []struct {
		name string
		q    Query
		want string // the commands, separated by |
	}{
		{"all", Query{}, "set user:1 x|DEL user:2 user:3|SET a 1|RENAME user:4 b|FLUSHALL|JSON.SET user:1 $ 1|PUBLISH user:1 hello"},
		{"a key", Query{Key: "user:1"}, "set user:1 x|FLUSHALL|JSON.SET user:1 $ 1"},
		{"one of several keys", Query{Key: "user:3"}, "DEL user:2 user:3|FLUSHALL"},
		{"a key that goes away", Query{Key: "user:4"}, "RENAME user:4 b|FLUSHALL"},
		{"a glob", Query{Key: "user:[12]"}, "set user:1 x|DEL user:2 user:3|FLUSHALL|JSON.SET user:1 $ 1"},
		{"a key like a glob", Query{Key: `user:\*`}, "FLUSHALL"},
		{"a command", Query{Command: []string{"Set"}}, "set user:1 x|SET a 1"},
		{"a command with an argument", Query{Command: []string{"SET", "a"}}, "SET a 1"},
		{"a command and a key", Query{Command: []string{"SET"}, Key: "a"}, "SET a 1"},
		{"what is hidden else", Query{Command: []string{"ping"}}, "ping"},
		{"a transaction", Query{Command: []string{"exec"}}, "EXEC"},
		{"from", Query{From: 40}, "FLUSHALL|JSON.SET user:1 $ 1|PUBLISH user:1 hello"},
		{"to, exclusive", Query{To: 30}, "set user:1 x|DEL user:2 user:3"},
		{"between", Query{From: 20, To: 40}, "DEL user:2 user:3|SET a 1|RENAME user:4 b"},
		{"nothing", Query{Command: []string{"HSET"}}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got []string
			for _, e := range look(t, streamOf(morning), c.q) {
				got = append(got, e.Command)
			}
			require.Equal(t, c.want, strings.Join(got, "|"))
		})
	}
}

// The offsets are such that a restore to them is to just before and just behind the command.
func TestEntriesNameTheBoundariesAround(t *testing.T) {
	at := func(commands ...string) stream.Offset {
		n := 1000
		for _, c := range commands {
			n += len(raw(strings.Fields(c)...))
		}
		return stream.Offset(n)
	}
	before := []string{"SELECT 2", "set user:1 x", "ping", "DEL user:2 user:3"}
	behind := append(slices.Clone(before), "MULTI", "SET a 1", "SELECT 3", "RENAME user:4 b", "EXEC")
	require.Equal(t, []Entry{
		{Time: 20, Offset: at(before[:3]...), After: at(before...), DB: 2, Command: "DEL user:2 user:3"},
		{Time: 30, Offset: at(before...), After: at(behind...), DB: 2, InMulti: true, Command: "SET a 1"},
		{Time: 30, Offset: at(before...), After: at(behind...), DB: 3, InMulti: true, Command: "RENAME user:4 b"},
	}, look(t, streamOf(morning), Query{From: 20, To: 40}))
}

// A transaction may be so slow that it goes on behind To, and is waited for.
func TestTransactionThatGoesOnBehindTheEnd(t *testing.T) {
	got := look(t, streamOf("10 MULTI\n10 SET a 1\n20 SET b 1\n30 EXEC\n40 SET c 1"), Query{To: 20})
	require.Len(t, got, 1)
	require.Equal(t, Entry{Time: 10, Offset: 1000, After: 1083, InMulti: true, Command: "SET a 1"}, got[0])
}

func TestLongTransactionTakesBoundedMemory(t *testing.T) {
	var b strings.Builder
	b.WriteString("10 MULTI\n")
	for range 3 * maxWaiting / 2 {
		b.WriteString("10 SET a 1\n")
	}
	b.WriteString("10 EXEC\n")
	got := look(t, streamOf(b.String()), Query{})
	require.Len(t, got, 3*maxWaiting/2)
	require.Zero(t, got[0].After)
	require.Zero(t, got[maxWaiting-1].After)
	require.Positive(t, got[maxWaiting].After)
}

func TestSearchEnds(t *testing.T) {
	t.Run("when enough was found", func(t *testing.T) {
		n := 0
		err := Search(t.Context(), stream.Cursor{Offset: 1000}, streamOf(morning), Query{}, func(Entry) error {
			if n++; n == 2 {
				return ErrStop
			}
			return nil
		})
		require.NoError(t, err)
		require.Equal(t, 2, n)
	})
	t.Run("at the first piece behind To", func(t *testing.T) {
		p := streamOf(morning)
		look(t, p, Query{To: 20})
		require.Len(t, *p, 3)
	})
	t.Run("with the error of who takes the entries", func(t *testing.T) {
		broken := errors.New("broken pipe")
		err := Search(t.Context(), stream.Cursor{Offset: 1000}, streamOf(morning), Query{}, func(Entry) error { return broken })
		require.ErrorIs(t, err, broken)
	})
	t.Run("with the error of the pieces", func(t *testing.T) {
		err := Search(t.Context(), stream.Cursor{Offset: 1000}, failing{}, Query{}, nil)
		require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	})
	t.Run("with the stream's own", func(t *testing.T) {
		var bad *resp.ProtocolError
		p := &pieces{{At: 1000, Data: []byte("SET a 1\r\n")}}
		require.ErrorAs(t, Search(t.Context(), stream.Cursor{Offset: 1000}, p, Query{}, nil), &bad)
	})
	t.Run("when told to", func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		enough := errors.New("interrupted")
		cancel(enough)
		require.ErrorIs(t, Search(ctx, stream.Cursor{Offset: 1000}, streamOf(morning), Query{}, nil), enough)
	})
}

type failing struct{}

func (failing) Next() (stream.Piece, error) { return stream.Piece{}, io.ErrUnexpectedEOF }

// The text of a command can be typed: restore --before finds the very command by it.
func TestTextCanBeTyped(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		args := rapid.SliceOfN(rapid.Map(rapid.SliceOfN(rapid.Byte(), 0, 30), func(b []byte) string { return string(b) }), 0, 5).Draw(t, "args")
		args = append([]string{"SET"}, args...)
		err := resp.NewCommands(stream.Cursor{}).Each(stream.Piece{Data: []byte(raw(args...))}, func(c *resp.Command) error {
			point, err := plan.ParseBefore(Text(c))
			require.NoError(t, err)
			require.Equal(t, args, point.Command)
			return nil
		})
		require.NoError(t, err)
	})
}

func TestTextOfLongCommands(t *testing.T) {
	text := func(args ...string) string {
		s := ""
		err := resp.NewCommands(stream.Cursor{}).Each(stream.Piece{Data: []byte(raw(args...))}, func(c *resp.Command) error {
			s = Text(c)
			return nil
		})
		require.NoError(t, err)
		return s
	}
	require.Equal(t, "SET k "+strings.Repeat("v", 128)+"…(1000000 bytes)", text("SET", "k", strings.Repeat("v", 1_000_000)))
	require.Equal(t, `SET "" "a b" "\x00\n\"\xff"`, text("SET", "", "a b", "\x00\n\"\xff"))
	many := make([]string, 50_000)
	for i := range many {
		many[i] = fmt.Sprint("member", i)
	}
	got := text(append([]string{"SADD", "k"}, many...)...)
	require.True(t, strings.HasPrefix(got, "SADD k member0 member1 "))
	require.True(t, strings.HasSuffix(got, "…(50002 arguments)"))
	require.Less(t, len(got), 1200)
	got = text(append([]string{"DEL"}, make([]string, 300_000)...)...)
	require.True(t, strings.HasSuffix(got, "…(300001 arguments)"))
}

// Patterns and names of few different signs, so that they meet, are matched as an engine does.
func TestGlobIsTheEngines(t *testing.T) {
	s := enginetest.Start(t, enginetest.Any(t))
	word := func(signs string, most int) *rapid.Generator[string] {
		return rapid.Map(rapid.SliceOfN(rapid.SampledFrom([]byte(signs)), 1, most), func(b []byte) string { return string(b) })
	}
	rapid.Check(t, func(t *rapid.T) {
		names := rapid.SliceOfN(word("abc-]^*\\", 6), 1, 20).Draw(t, "names")
		pattern := word("aabc**?[[]^-\\", 9).Draw(t, "pattern")
		s.Do("FLUSHALL")
		var want, got []string
		for _, name := range names {
			s.Do("SET", name, "v")
		}
		for _, name := range s.Do("KEYS", pattern).([]any) {
			want = append(want, fmt.Sprint(name))
		}
		seen := map[string]bool{}
		for _, name := range names {
			if !seen[name] && newMatcher(Query{Key: pattern}).is([]byte(name)) {
				got = append(got, name)
			}
			seen[name] = true
		}
		require.ElementsMatch(t, want, got)
	})
}

// A pattern of many stars must not take exponential time.
func TestGlobOfManyStars(t *testing.T) {
	require.False(t, glob([]byte(strings.Repeat("*a", 50)+"b"), []byte(strings.Repeat("a", 10_000))))
}

func FuzzGlob(f *testing.F) {
	f.Add([]byte("a*[b-d\\]?"), []byte("axxc"))
	f.Add([]byte("[^"), []byte("["))
	f.Fuzz(func(t *testing.T, pattern, name []byte) {
		if glob(pattern, name) && !glob(append([]byte("*"), pattern...), name) {
			t.Fatal("a * more and it doesn't match")
		}
	})
}
