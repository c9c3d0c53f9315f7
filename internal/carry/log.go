package carry

import (
	"strconv"

	"github.com/offloader/offloader/internal/resp"
	"github.com/offloader/offloader/internal/stream"
)

// Words are a command's: []byte as they came, or what is written in their place.
type Words []any

// Log reads a stream as commands with all of their arguments, however long these are: what is to be sent on
// can't be cut. Its memory is that of the longest command.
type Log struct {
	commands *resp.Commands
	open     []byte // of a command that goes on in the next piece
}

// NewLog begins at a boundary.
func NewLog(at stream.Cursor) *Log { return &Log{commands: resp.NewCommands(at)} }

// Each reads the next piece and calls do for every command that ends in it. raw is its bytes, valid until do returns.
func (l *Log) Each(p stream.Piece, do func(c *resp.Command, raw []byte) error) error {
	end := p.At
	err := l.commands.Each(p, func(c *resp.Command) error {
		raw := p.Data[max(0, c.Start-p.At) : c.End-p.At]
		if c.Start < p.At {
			l.open = append(l.open, raw...)
			raw = l.open
		}
		end = c.End
		err := do(c, raw)
		if len(raw) <= keepOpen {
			l.open = l.open[:0]
		} else {
			l.open = nil
		}
		return err
	})
	if err == nil && !p.Blank {
		l.open = append(l.open, p.Data[end-p.At:]...)
	}
	return err
}

// keepOpen is how long a buffer may be that is kept for the next command.
const keepOpen = 1 << 20

// wordsOf takes a command apart that was framed.
func wordsOf(raw []byte) Words {
	n, at := header(raw, 1)
	w := make(Words, 0, n)
	for range n {
		size, from := header(raw, at+1)
		w = append(w, raw[from:from+size:from+size])
		at = from + size + 2
	}
	return w
}

// header reads the number at b[i:] and its CRLF. next is the index behind them.
func header(b []byte, i int) (n, next int) {
	end := i
	for b[end] != '\r' {
		end++
	}
	n, _ = strconv.Atoi(string(b[i:end])) // the framer has read it
	return n, end + 2
}
