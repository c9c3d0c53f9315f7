package plan

import (
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/offloader/offloader/internal/resp"
	"github.com/offloader/offloader/internal/stream"
)

func TestParseBefore(t *testing.T) {
	for text, want := range map[string][]string{
		"FLUSHALL":               {"FLUSHALL"},
		"  flushall  async ":     {"flushall", "async"},
		`DEL "my key"`:           {"DEL", "my key"},
		`DEL my\ key`:            {"DEL", `my\`, "key"},
		`DEL 'a "b" \n'`:         {"DEL", `a "b" \n`},
		`SET "\x00\xff\n\"\\" x`: {"SET", "\x00\xff\n\"\\", "x"},
		`SET "" ''`:              {"SET", "", ""},
		`DEL a"b c"'d e'f`:       {"DEL", "ab cd ef"},
		"DEL ключ":               {"DEL", "ключ"},
	} {
		p, err := ParseBefore(text)
		require.NoError(t, err, text)
		require.Equal(t, Point{Kind: Before, Command: want}, p, text)
	}
	for _, text := range []string{"", "  ", `DEL "a`, `DEL 'a`, `DEL "\x4"`, `DEL "\q"`, `DEL "\`, `''`, `DEL "\xg0"`} {
		_, err := ParseBefore(text)
		var syntax *SyntaxError
		require.ErrorAs(t, err, &syntax, text)
		require.Contains(t, syntax.Hint(), "FLUSHALL")
	}
}

func TestQuotedWordsReadBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		words := []string{"DEL", string(rapid.SliceOf(rapid.Byte()).Draw(t, "bytes")), rapid.String().Draw(t, "text")}
		p, err := ParseBefore(quoteWords(words))
		if err != nil {
			t.Fatal(err)
		}
		require.Equal(t, words, p.Command)
	})
}

func FuzzParseBefore(f *testing.F) {
	f.Add(`DEL "my key" 'x'`)
	f.Fuzz(func(t *testing.T, s string) {
		p, err := ParseBefore(s)
		if err != nil {
			return
		}
		again, err := ParseBefore(quoteWords(p.Command))
		require.NoError(t, err)
		require.Equal(t, p, again)
	})
}

func TestMatches(t *testing.T) {
	commands := resp.NewCommands(stream.Cursor{})
	data := "*3\r\n$3\r\ndel\r\n$3\r\nKey\r\n$1\r\nb\r\n"
	seen := false
	err := commands.Each(stream.Piece{Data: []byte(data)}, func(c *resp.Command) error {
		for text, want := range map[string]bool{
			"DEL": true, "del Key": true, "DeL Key b": true, "DEL key": false, "DEL Key b c": false, "DE": false, "DEL b": false, "UNLINK": false,
		} {
			p, err := ParseBefore(text)
			require.NoError(t, err)
			require.Equal(t, want, p.Matches(c), text)
		}
		seen = true
		return nil
	})
	require.NoError(t, err)
	require.True(t, seen)
}

func TestPointsHaveNames(t *testing.T) {
	require.Equal(t, "the latest point", Point{}.String())
	require.Equal(t, "offset 7", Point{Kind: ByOffset, Offset: 7}.String())
	require.Equal(t, "2024-11-23T14:04:05.678Z", Point{Kind: ByTime, Time: 1732370645678}.String())
	require.Equal(t, `the moment before the last DEL "my key"`, Point{Kind: Before, Command: []string{"DEL", "my key"}}.String())
}
