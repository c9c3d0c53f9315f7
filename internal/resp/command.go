package resp

import (
	"fmt"

	"github.com/offloader/offloader/internal/stream"
)

// What is kept of one command, however long it is. A longer argument is cut, later ones are
// counted only. The bounds are what memory is spent on them, and no more.
const (
	// KeepArg is how many bytes of an argument are kept: far more than a sensible key has.
	KeepArg = 64 << 10
	// keepAll bounds the bytes kept of all arguments together, when they had to be copied.
	keepAll = 4 << 20
	// keepArgs bounds how many arguments are kept. A DEL of more keys is not unheard of, but rare.
	keepArgs = 1 << 18
)

// Command is one whole command of the stream. It and all that it points to is valid until the
// function that it was given to returns.
type Command struct {
	Start, End stream.Offset
	Time       stream.Time // when its first byte was received
	DB         int         // in which it runs; for a SELECT the one before it

	// InMulti says that it is part of a transaction. MULTI and EXEC are, too.
	InMulti bool
	// Before is the last boundary at or before Start: for a command in a transaction the place
	// before its MULTI. A restore to it gives the dataset without this command.
	Before stream.Cursor
	// After is the first boundary behind the command: its End, or 0 where it is in a transaction
	// whose end was not read yet.
	After stream.Offset

	// Args are the arguments, the name first, each cut to KeepArg, and not all of them if there
	// are very many: N is how many there are. At least one is kept.
	Args [][]byte
	N    int

	lens []int64
}

// ArgLen is the whole length in bytes of argument i, of which Args[i] may be the beginning only.
func (c *Command) ArgLen(i int) int64 { return c.lens[i] }

// Whole tells whether argument i is kept whole.
func (c *Command) Whole(i int) bool {
	return i < len(c.Args) && int64(len(c.Args[i])) == c.lens[i]
}

// Is compares the command's name with one in capitals, without regard to case: masters keep the
// client's, or the script's.
func (c *Command) Is(name string) bool {
	return len(c.Args[0]) == len(name) && isWord(c.Args[0], name)
}

// Commands reads a stream, given piece by piece, as whole commands with their arguments.
//
// A command that lies in one piece is handed on as slices of that piece, nothing is copied or
// allocated. One that is split over pieces is gathered, up to the bounds above, in a buffer that
// is used again for the next.
type Commands struct {
	framer *Framer
	before stream.Cursor // the last boundary
	cmd    Command
	parts  gatherer
}

// NewCommands begins at a boundary.
func NewCommands(at stream.Cursor) *Commands {
	return &Commands{framer: NewFramer(at), before: at}
}

// Boundary is the last one read. Its Time is that of the piece in which it lies.
func (c *Commands) Boundary() stream.Cursor { return c.before }

// Each reads the next piece and calls do for every command that ends in it. Pieces follow on each
// other: one that begins elsewhere than the last ended, or whose bytes are no commands, is a
// ProtocolError. An error of do stops the reading and is returned; Each can't be called again then.
func (c *Commands) Each(p stream.Piece, do func(*Command) error) error {
	if p.At != c.framer.Offset() {
		return &ProtocolError{c.framer.Offset(), fmt.Sprintf("the next bytes are those at offset %d", p.At)}
	}
	for data := p.Data; len(data) > 0; {
		began := c.framer.Between()
		if began && data[0] == '\n' {
			n, _, _, err := c.framer.Feed(data)
			if err != nil {
				return err
			}
			data = data[n:]
			c.passed(p.Time)
			continue
		}
		if began {
			c.cmd.Start, c.cmd.Time, c.cmd.DB = c.framer.Offset(), p.Time, c.framer.DB()
		}
		inMulti := c.framer.InMulti()
		n, whole, err := c.framer.Next(data)
		if err != nil {
			return err
		}
		switch {
		case began && whole:
			c.cmd.slice(data[:n])
		case began:
			c.parts.reset()
			c.parts.add(data[:n])
		default:
			c.parts.add(data[:n])
			if whole {
				c.parts.fill(&c.cmd)
			}
		}
		data = data[n:]
		if !whole {
			return nil
		}
		c.cmd.End, c.cmd.Before, c.cmd.After = c.framer.Offset(), c.before, 0
		c.cmd.InMulti = inMulti || c.framer.InMulti()
		if !c.framer.InMulti() {
			c.cmd.After = c.cmd.End
			c.passed(p.Time)
		}
		if err := do(&c.cmd); err != nil {
			return err
		}
	}
	return nil
}

// passed notes that the framer stands at a boundary, unless a transaction is open.
func (c *Commands) passed(at stream.Time) {
	if !c.framer.InMulti() {
		c.before = stream.Cursor{Offset: c.framer.Offset(), DB: c.framer.DB(), Time: at}
	}
}

// slice points the arguments at p, a whole command that the framer has passed: its lines need no
// second check.
func (c *Command) slice(p []byte) {
	n, i := digits(p, 1)
	c.N, c.Args, c.lens = int(n), c.Args[:0], c.lens[:0]
	room := int64(keepAll)
	for k := int64(0); k < min(n, keepArgs); k++ {
		var size int64
		size, i = digits(p, i+1)
		kept := min(size, KeepArg, room)
		room -= kept
		c.Args = append(c.Args, p[i:i+int(kept):i+int(kept)])
		c.lens = append(c.lens, size)
		i += int(size) + 2
	}
}

// digits reads the number at p[i:] and its CRLF. next is the index behind them.
func digits(p []byte, i int) (n int64, next int) {
	for p[i] != '\r' {
		n = n*10 + int64(p[i]-'0')
		i++
	}
	return n, i + 2
}

// gatherer collects a command that comes in parts. The framer has passed the bytes before, so
// they are known to be a command's, and only where an argument begins has to be found again.
type gatherer struct {
	buf  []byte  // what is kept of the arguments, one behind the other
	ends []int   // where each kept argument ends in buf
	lens []int64 // their whole lengths
	n    int64   // arguments the command has
	seen int64   // arguments that have begun

	inData bool  // in an argument or its CRLF; else in a header line
	left   int64 // bytes of them still to come
	keep   int64 // how many of these are to be kept
	number int64 // of the header line, as far as it was read
}

// reset forgets the last command and keeps its memory.
func (g *gatherer) reset() {
	*g = gatherer{buf: g.buf[:0], ends: g.ends[:0], lens: g.lens[:0]}
}

// add takes the command's next bytes.
func (g *gatherer) add(p []byte) {
	for len(p) > 0 {
		if !g.inData {
			g.header(p[0])
			p = p[1:]
			continue
		}
		part := p[:min(g.left, int64(len(p)))]
		if g.keep > 0 {
			kept := min(g.keep, int64(len(part)))
			g.buf = append(g.buf, part[:kept]...)
			g.keep -= kept
		}
		p = p[len(part):]
		if g.left -= int64(len(part)); g.left == 0 {
			g.inData = false
			if len(g.ends) < len(g.lens) {
				g.ends = append(g.ends, len(g.buf))
			}
		}
	}
}

// header reads one byte of a "*<n>\r\n" or "$<len>\r\n" line.
func (g *gatherer) header(b byte) {
	switch {
	case b >= '0' && b <= '9':
		g.number = g.number*10 + int64(b-'0')
	case b == '\n' && g.n == 0:
		g.n, g.number = g.number, 0
	case b == '\n':
		g.inData, g.left = true, g.number+2
		if g.seen < keepArgs {
			g.lens = append(g.lens, g.number)
			g.keep = min(g.number, KeepArg, keepAll-int64(len(g.buf)))
		}
		g.number = 0
		g.seen++
	}
}

// fill hands the gathered command over.
func (g *gatherer) fill(c *Command) {
	c.N, c.Args = int(g.n), c.Args[:0]
	c.lens = append(c.lens[:0], g.lens...)
	begin := 0
	for _, end := range g.ends {
		c.Args = append(c.Args, g.buf[begin:end:end])
		begin = end
	}
}
