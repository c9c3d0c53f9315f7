// Package resp frames a replication stream: it says where commands begin and end, which database
// is selected and whether a MULTI is open, and nothing else.
//
// Bytes go in as they come from the master, split anywhere. What comes out is the last boundary:
// the end of a whole command outside MULTI/EXEC, with the offset and the selected database, which
// is all that is needed to acknowledge, to cut or to resume a stream there. Values are stepped
// over by their announced length, never searched, so whatever they hold (CRLF, "*3\r\n", NUL)
// can't confuse it. The Framer allocates nothing and holds at most one header line; lengths are
// checked against what an engine can send before they are believed.
//
// The grammar is RESP arrays of bulk strings (redis, networking.c: processMultibulkBuffer). A
// master sends no inline commands; a bare newline between commands is accepted and counted, as a
// real replica does.
package resp

import (
	"fmt"

	"github.com/offloader/offloader/internal/stream"
)

const (
	// maxArgs is the engines' own bound on the elements of a command (2^31-1).
	maxArgs = 1<<31 - 1
	// maxBulk bounds a bulk string. proto-max-bulk-len is 512 MiB by default and may be set
	// higher; nothing is allocated by it, so the bound only has to catch nonsense.
	maxBulk = 1 << 40
	// maxHeader is the longest header line: type, sign or digit run, CRLF.
	maxHeader = 24
	// keep is how much of a command's first two arguments is looked at: SELECT and its number,
	// MULTI, EXEC.
	keep = 12
)

// A ProtocolError says at which offset a stream stops being one.
type ProtocolError struct {
	At   stream.Offset
	What string
}

func (e *ProtocolError) Error() string {
	return fmt.Sprintf("replication stream is malformed at offset %d: %s", e.At, e.What)
}

// state is what the framer expects next.
type state uint8

const (
	atCommand state = iota // '*', or a bare newline
	inArray                // the rest of "*<n>\r\n"
	inBulk                 // "$<len>\r\n", or the rest of it
	inData                 // left bytes of an argument
	inCRLF                 // left bytes of the CRLF behind it
)

// Framer follows one stream from a boundary on.
type Framer struct {
	off      stream.Offset // consumed so far
	boundary stream.Cursor
	start    stream.Offset // where the command that is open, or was last read, began
	db       int           // selected by the stream; differs from boundary.DB inside MULTI
	multi    bool

	state state
	args  int64 // arguments still to come
	arg   int64 // number of the current argument
	left  int64 // bytes of it, or of its CRLF, still to come
	line  [maxHeader]byte
	lineN int
	head  [2][keep]byte // the first bytes of the first two arguments
	headN [2]int64      // and their whole lengths
}

// NewFramer begins at a boundary.
func NewFramer(at stream.Cursor) *Framer {
	return &Framer{off: at.Offset, boundary: at, start: at.Offset, db: at.DB}
}

// Offset is that of the next byte.
func (f *Framer) Offset() stream.Offset { return f.off }

// Boundary is the last one passed. Its Time is that of the cursor the framer began at: times are
// the caller's.
func (f *Framer) Boundary() stream.Cursor { return f.boundary }

// Start is where the open command, or else the last whole one, begins.
func (f *Framer) Start() stream.Offset { return f.start }

// DB is the database that the next write goes to, also inside a transaction.
func (f *Framer) DB() int { return f.db }

// InMulti tells whether a transaction is open.
func (f *Framer) InMulti() bool { return f.multi }

// Between tells whether the next byte begins a command.
func (f *Framer) Between() bool { return f.state == atCommand }

// Feed consumes p, or a part of it that must travel alone: n < len(p) says that bare newlines
// begin at p[n], or that p[:n] was newlines (then blank is true). first is the index of the first
// command that begins in p[:n], -1 if none does.
func (f *Framer) Feed(p []byte) (n, first int, blank bool, err error) {
	first = -1
	if f.state == atCommand {
		for n < len(p) && p[n] == '\n' {
			n++
		}
		if n > 0 {
			f.off += stream.Offset(n)
			f.passed(f.off)
			return n, -1, true, nil
		}
	}
	for n < len(p) {
		if f.state == atCommand {
			if p[n] == '\n' {
				return n, first, false, nil
			}
			if first < 0 {
				first = n
			}
		}
		c, _, err := f.Next(p[n:])
		n += c
		if err != nil {
			return n, first, false, err
		}
	}
	return n, first, false, nil
}

// Next consumes p up to the end of the first command that ends in it, or all of it. whole tells
// which. A bare newline where a command should begin is an error here: Feed is for those.
func (f *Framer) Next(p []byte) (n int, whole bool, err error) {
	base := f.off
	if f.state == atCommand {
		if n = wholeCommand(p); n > 0 {
			f.start = base
			f.off = base + stream.Offset(n)
			f.passed(f.off)
			return n, true, nil
		}
	}
	for n < len(p) {
		switch f.state {
		case inData:
			k := min(f.left, int64(len(p)-n))
			if f.arg < 2 {
				f.remember(p[n : n+int(k)])
			}
			n += int(k)
			if f.left -= k; f.left == 0 {
				f.state, f.left = inCRLF, 2
			}
		case inCRLF:
			if p[n] != "\n\r"[f.left-1] {
				f.off = base + stream.Offset(n)
				return n, false, f.fail(fmt.Sprintf("want CRLF behind argument %d, got %q", f.arg, p[n]))
			}
			n++
			if f.left--; f.left == 0 {
				f.arg++
				f.state = inBulk
				if f.args--; f.args == 0 {
					f.off = base + stream.Offset(n)
					f.state = atCommand
					f.ended()
					return n, true, nil
				}
			}
		default:
			k, err := f.header(p[n:], base+stream.Offset(n))
			n += k
			if err != nil {
				f.off = base + stream.Offset(n)
				return n, false, err
			}
		}
	}
	f.off = base + stream.Offset(n)
	return n, false, nil
}

// wholeCommand is the length of the command that p begins with, 0 where it isn't all there, or is
// anything but ordinary: those that change the framer's state, and what is wrong, are left to
// the slower way. Nearly all commands of a stream go this one.
func wholeCommand(p []byte) int {
	args, n := shortHeader(p, 0, '*')
	if n == 0 || args == 0 {
		return 0
	}
	size, n := shortHeader(p, n, '$')
	if n == 0 || size > len(p)-n-2 {
		return 0
	}
	switch c := p[n:]; { // SELECT, MULTI, EXEC, in any case
	case size == 6 && c[0]|0x20 == 's', size == 5 && c[0]|0x20 == 'm', size == 4 && c[0]|0x20 == 'e':
		return 0
	}
	for {
		n += size
		if p[n] != '\r' || p[n+1] != '\n' {
			return 0
		}
		n += 2
		if args--; args == 0 {
			return n
		}
		if size, n = shortHeader(p, n, '$'); n == 0 || size > len(p)-n-2 {
			return 0
		}
	}
}

// shortHeader reads a header line of at most 7 digits at p[n:]. next is where what follows it
// begins, 0 where there is no such line.
func shortHeader(p []byte, n int, kind byte) (value, next int) {
	if len(p)-n < 4 || p[n] != kind {
		return 0, 0
	}
	q := p[n+1:]
	for i, c := range q[:min(len(q)-1, 8)] {
		if d := c - '0'; d <= 9 {
			value = value*10 + int(d)
			continue
		}
		if i == 0 || c != '\r' || q[i+1] != '\n' {
			return 0, 0
		}
		return value, n + i + 3
	}
	return 0, 0
}

// header reads a "*<n>" or "$<len>" line, which may come in parts.
func (f *Framer) header(p []byte, at stream.Offset) (n int, err error) {
	if f.state == atCommand {
		f.start = at
		f.state = inArray
	}
	line, before := p, f.lineN
	at -= stream.Offset(before)
	if before > 0 || len(p) < maxHeader { // it may go on in the next bytes: gather it
		f.lineN += copy(f.line[before:], p)
		line = f.line[:f.lineN]
	}
	value, size, bad := parseHeader(line, "*$"[f.state-inArray])
	if bad != "" {
		return 0, &ProtocolError{at, bad}
	}
	if size == 0 {
		return len(p), nil
	}
	n, f.lineN = size-before, 0
	if f.state == inArray {
		if value < 1 || value > maxArgs {
			return 0, &ProtocolError{at, fmt.Sprintf("a command of %d arguments", value)}
		}
		f.state, f.args, f.arg, f.headN = inBulk, value, 0, [2]int64{}
		return n, nil
	}
	if value < 0 || value > maxBulk {
		return 0, &ProtocolError{at, fmt.Sprintf("argument %d has length %d", f.arg, value)}
	}
	f.state, f.left = inData, value
	if value == 0 {
		f.state, f.left = inCRLF, 2
	}
	return n, nil
}

// parseHeader reads a header line at the start of p. size is the line's length with its CRLF, 0
// where p ends within it; bad says what is wrong with it.
func parseHeader(p []byte, kind byte) (value int64, size int, bad string) {
	if len(p) == 0 {
		return 0, 0, ""
	}
	if p[0] != kind {
		return 0, 0, fmt.Sprintf("want %q, got %q", kind, p[0])
	}
	i := 1
	for i < len(p) && p[i] >= '0' && p[i] <= '9' {
		if i > 18 {
			return 0, 0, "a length of more than 18 digits"
		}
		value = value*10 + int64(p[i]-'0')
		i++
	}
	switch {
	case i == len(p):
		return 0, 0, ""
	case i == 1 || p[i] != '\r':
		return 0, 0, fmt.Sprintf("want a length behind %q, got %q", kind, p[i])
	case i+1 == len(p):
		return 0, 0, ""
	case p[i+1] != '\n':
		return 0, 0, fmt.Sprintf("want a newline behind a length, got %q", p[i+1])
	}
	return value, i + 2, ""
}

// remember keeps the head of one of the first two arguments, part by part.
func (f *Framer) remember(part []byte) {
	h := &f.head[f.arg]
	if at := f.headN[f.arg]; at < keep {
		copy(h[at:], part)
	}
	f.headN[f.arg] += int64(len(part))
}

// ended takes note of a whole command.
func (f *Framer) ended() {
	switch n := f.headN[0]; {
	case n == 6 && isWord(f.head[0][:6], "SELECT"):
		db, ok := number(f.head[1][:min(f.headN[1], keep)])
		if ok && f.arg == 2 {
			f.db = db
		}
	case n == 5 && isWord(f.head[0][:5], "MULTI"):
		f.multi = true
	case n == 4 && isWord(f.head[0][:4], "EXEC"):
		f.multi = false
	}
	if !f.multi {
		f.passed(f.off)
	}
}

func (f *Framer) passed(at stream.Offset) {
	if f.multi {
		return
	}
	f.boundary.Offset, f.boundary.DB = at, f.db
}

func (f *Framer) fail(what string) error { return &ProtocolError{f.off, what} }

// isWord compares without regard to case; word is in capitals. Masters keep the client's case.
func isWord(b []byte, word string) bool {
	for i := range b {
		if b[i]&^0x20 != word[i] {
			return false
		}
	}
	return true
}

// number reads a database's index. Redis takes any int there (getIntFromObjectOrReply).
func number(b []byte) (int, bool) {
	if len(b) == 0 || len(b) > 9 {
		return 0, false
	}
	n := 0
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int(c-'0')
	}
	return n, true
}
