// Package stream has the words for positions in a replication stream, each with a type.
//
// A master counts every byte that it has ever replicated; that count is an Offset. A history of
// offsets has a name, the ReplID. Ranges are half-open, [From,To), everywhere. Received bytes
// carry the Time at which they came in. The package does no I/O and imports nothing of ours.
package stream

import (
	"fmt"
	"strconv"
	"time"
)

// Offset is a position in a replication stream: how many bytes come before it, as the master
// counts (master_repl_offset). The byte after offset n is what PSYNC asks for as n+1.
type Offset int64

func (o Offset) String() string { return strconv.FormatInt(int64(o), 10) }

// Range is the bytes [From,To) of a stream.
type Range struct{ From, To Offset }

// Len is the number of bytes in r, 0 for an empty or inverted one.
func (r Range) Len() int64 { return max(0, int64(r.To-r.From)) }

// Holds tells whether the byte after o is in r.
func (r Range) Holds(o Offset) bool { return r.From <= o && o < r.To }

func (r Range) String() string { return fmt.Sprintf("[%d,%d)", r.From, r.To) }

// ReplID is a replication id: 40 lower-case hexadecimal digits that name one history.
type ReplID string

// ParseReplID takes an id as a master writes it. Masters compare ids without regard to case, so
// the result is folded to lower case.
func ParseReplID(s string) (ReplID, error) {
	if len(s) != 40 {
		return "", fmt.Errorf("%q is not a replication id: want 40 hexadecimal digits, got %d characters", s, len(s))
	}
	b := []byte(s)
	for i, c := range b {
		switch {
		case '0' <= c && c <= '9', 'a' <= c && c <= 'f':
		case 'A' <= c && c <= 'F':
			b[i] = c + 'a' - 'A'
		default:
			return "", fmt.Errorf("%q is not a replication id: character %d is no hexadecimal digit", s, i+1)
		}
	}
	return ReplID(b), nil
}

// Short is the first 8 digits, as timeline names hold them.
func (id ReplID) Short() string { return string(id[:min(8, len(id))]) }

// Time is an instant in Unix milliseconds: when bytes were received. Zero means not known.
type Time int64

// TimeOf is t, cut to the millisecond.
func TimeOf(t time.Time) Time { return Time(t.UnixMilli()) }

// Go is t as the standard library has it, in UTC.
func (t Time) Go() time.Time { return time.UnixMilli(int64(t)).UTC() }

// Layout is RFC 3339 with milliseconds, the form in which times leave the program.
const Layout = "2006-01-02T15:04:05.000Z07:00"

func (t Time) String() string { return t.Go().Format(Layout) }

// MarshalJSON writes RFC 3339 with milliseconds in UTC, null for a time that is not known.
func (t Time) MarshalJSON() ([]byte, error) {
	if t == 0 {
		return []byte("null"), nil
	}
	return strconv.AppendQuote(nil, t.String()), nil
}

// UnmarshalJSON reads what MarshalJSON writes, and any other RFC 3339 time.
func (t *Time) UnmarshalJSON(b []byte) error {
	if string(b) == "null" {
		*t = 0
		return nil
	}
	s, err := strconv.Unquote(string(b))
	if err != nil {
		return fmt.Errorf("%s is not a time: %w", b, err)
	}
	v, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return err
	}
	*t = TimeOf(v)
	return nil
}

// Cursor is a boundary: a position between whole commands and outside MULTI, with the database
// that is selected there. It is all that is needed to resume a stream.
type Cursor struct {
	Offset Offset
	DB     int
	Time   Time // when the byte before Offset was received
}

// Piece is a run of stream bytes received together. It is how stream bytes travel: the spool
// stores pieces, segments give them back. A command's time is that of the piece that holds its
// first byte, so a piece may be split or joined at any byte that keeps this true.
type Piece struct {
	At    Offset // of the first byte
	Time  Time   // never falls from one piece to the next
	Data  []byte // valid until the next piece is asked for
	First int    // index in Data where the first command begins, -1 where none does

	// Blank says that Data is bare newlines between two commands. A master counts them in its
	// offset (no known one sends them); an AOF that holds one is refused by every engine, so they
	// are kept apart from commands.
	Blank bool
}

// End is the offset behind the piece.
func (p Piece) End() Offset { return p.At + Offset(len(p.Data)) }
