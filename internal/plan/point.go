package plan

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/offloader/offloader/internal/resp"
	"github.com/offloader/offloader/internal/stream"
)

// Kind is the kind of a Point.
type Kind uint8

// The kinds of points.
const (
	Latest   Kind = iota // the last boundary there is
	ByTime               // the last boundary not younger than Time
	ByOffset             // the boundary at Offset
	Before               // the boundary before the last command that matches Command
)

// Point is what a restore aims at.
type Point struct {
	Kind    Kind
	Time    stream.Time   // of ByTime
	Offset  stream.Offset // of ByOffset
	Command []string      // of Before: name and first arguments
}

// String is the point as messages name it.
func (p Point) String() string {
	switch p.Kind {
	case ByTime:
		return p.Time.String()
	case ByOffset:
		return "offset " + p.Offset.String()
	case Before:
		return "the moment before the last " + quoteWords(p.Command)
	}
	return "the latest point"
}

// ParseBefore reads the words of --before: a command's name and, where more is given, its first
// arguments. Words are split at spaces; "double quotes" know \n \r \t \\ \" and \xHH, 'single
// quotes' take everything as it stands.
func ParseBefore(s string) (Point, error) {
	words, why := splitWords(s)
	if why == "" && len(words) == 0 {
		why = "is no command"
	}
	if why == "" && words[0] == "" {
		why = "has a command without a name"
	}
	if why != "" {
		return Point{}, &SyntaxError{s, why, `say a command and, if it matters, its first arguments: FLUSHALL, or DEL "my key"`}
	}
	return Point{Kind: Before, Command: words}, nil
}

// Matches tells whether c is the command that is looked for. Names are compared without regard to
// case, as engines do; arguments are bytes.
func (p Point) Matches(c *resp.Command) bool {
	if c.N < len(p.Command) || !strings.EqualFold(string(c.Args[0]), p.Command[0]) {
		return false
	}
	for i, want := range p.Command[1:] {
		if !c.Whole(i+1) || string(c.Args[i+1]) != want {
			return false
		}
	}
	return true
}

// splitWords splits like a shell that expands nothing.
func splitWords(s string) (words []string, why string) {
	for {
		s = strings.TrimLeft(s, " \t\r\n")
		if s == "" {
			return words, ""
		}
		var word strings.Builder
		for s != "" && !strings.ContainsRune(" \t\r\n", rune(s[0])) {
			var n int
			switch s[0] {
			case '\'':
				n = strings.IndexByte(s[1:], '\'')
				if n < 0 {
					return nil, "has a quote that is not closed"
				}
				word.WriteString(s[1 : 1+n])
				n += 2
			case '"':
				n, why = unquote(&word, s)
				if why != "" {
					return nil, why
				}
			default:
				word.WriteByte(s[0])
				n = 1
			}
			s = s[n:]
		}
		words = append(words, word.String())
	}
}

// unquote adds the double-quoted string that s begins with to word, and says how long it was.
func unquote(word *strings.Builder, s string) (n int, why string) {
	escapes := map[byte]byte{'n': '\n', 'r': '\r', 't': '\t', '\\': '\\', '"': '"'}
	for n = 1; n < len(s); n++ {
		if s[n] == '"' {
			return n + 1, ""
		}
		if s[n] != '\\' {
			word.WriteByte(s[n])
			continue
		}
		n++
		if n+2 < len(s) && s[n] == 'x' {
			b, err := strconv.ParseUint(s[n+1:n+3], 16, 8)
			if err != nil {
				return 0, `has a \x without two hexadecimal digits`
			}
			word.WriteByte(byte(b))
			n += 2
			continue
		}
		if n == len(s) {
			break
		}
		b, known := escapes[s[n]]
		if !known {
			return 0, `has an escape in double quotes that is none of \n \r \t \\ \" \xHH`
		}
		word.WriteByte(b)
	}
	return 0, "has a quote that is not closed"
}

// quoteWords is the inverse of splitWords, for messages.
func quoteWords(words []string) string {
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = Quote(w)
	}
	return strings.Join(quoted, " ")
}

// Quote writes one argument so that ParseBefore reads it back: bare where that is clear, else in
// double quotes, with \xHH for each byte that is not part of printable text.
func Quote(arg string) string {
	bare := func(r rune) bool {
		return unicode.IsPrint(r) && r != ' ' && !strings.ContainsRune(`"'\`, r) && r != utf8.RuneError
	}
	if arg != "" && strings.IndexFunc(arg, func(r rune) bool { return !bare(r) }) < 0 {
		return arg
	}
	b := []byte{'"'}
	for s := arg; s != ""; {
		r, n := utf8.DecodeRuneInString(s)
		switch {
		case r == '"' || r == '\\':
			b = append(b, '\\', s[0])
		case r == '\n':
			b = append(b, `\n`...)
		case r == '\r':
			b = append(b, `\r`...)
		case r == '\t':
			b = append(b, `\t`...)
		case r == ' ' || bare(r) || r == '\'':
			b = append(b, s[:n]...)
		default:
			for _, c := range []byte(s[:n]) {
				b = fmt.Appendf(b, `\x%02x`, c)
			}
		}
		s = s[n:]
	}
	return string(append(b, '"'))
}
