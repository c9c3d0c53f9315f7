// Package replaytest makes archives in memory, with a stream in them, for the tests of whatever
// reads an archive.
package replaytest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"sort"
	"strings"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/stream"
)

// Log is a stream in the making.
type Log struct {
	Start  stream.Offset
	Data   []byte
	pieces []stream.Piece
	cmds   []command

	first   int // database at Start
	db      int
	inMulti bool
}

// command is where one ends.
type command struct {
	end      stream.Offset
	time     stream.Time
	db       int
	boundary bool
}

// NewLog begins at start, in database db.
func NewLog(start stream.Offset, db int) *Log { return &Log{Start: start, first: db, db: db} }

// Add appends a command received at t. MULTI, EXEC and SELECT are understood.
func (l *Log) Add(t stream.Time, args ...string) {
	switch strings.ToUpper(args[0]) {
	case "MULTI":
		l.inMulti = true
	case "EXEC":
		l.inMulti = false
	case "SELECT":
		if _, err := fmt.Sscan(args[1], &l.db); err != nil {
			panic(err) // a test that is wrong
		}
	}
	l.add(t, Encode(args...), false)
}

// Blank appends n bare newlines.
func (l *Log) Blank(t stream.Time, n int) { l.add(t, bytes.Repeat([]byte{'\n'}, n), true) }

func (l *Log) add(t stream.Time, data []byte, blank bool) {
	p := stream.Piece{At: l.End(), Time: t, Data: data, Blank: blank}
	if blank {
		p.First = -1
	}
	l.pieces = append(l.pieces, p)
	l.Data = append(l.Data, data...)
	l.cmds = append(l.cmds, command{l.End(), t, l.db, !l.inMulti})
}

// Encode is a command as it stands in a stream.
func Encode(args ...string) []byte {
	b := fmt.Appendf(nil, "*%d\r\n", len(args))
	for _, a := range args {
		b = fmt.Appendf(b, "$%d\r\n%s\r\n", len(a), a)
	}
	return b
}

// End is the offset behind the last byte.
func (l *Log) End() stream.Offset { return l.Start + stream.Offset(len(l.Data)) }

// At is the last boundary that is not younger than t, Start if there is none.
func (l *Log) At(t stream.Time) stream.Cursor {
	at := stream.Cursor{Offset: l.Start}
	for _, c := range l.cmds {
		if c.time <= t && c.boundary {
			at = stream.Cursor{Offset: c.end, DB: c.db, Time: c.time}
		}
	}
	return at
}

// Boundaries are all of them but Start.
func (l *Log) Boundaries() (all []stream.Cursor) {
	for _, c := range l.cmds {
		if c.boundary {
			all = append(all, stream.Cursor{Offset: c.end, DB: c.db, Time: c.time})
		}
	}
	return all
}

// Bytes are those of r, without bare newlines.
func (l *Log) Bytes(r stream.Range) (b []byte) {
	for _, p := range l.pieces {
		if !p.Blank && p.At < r.To && p.End() > r.From {
			b = append(b, p.Data[max(0, r.From-p.At):min(stream.Offset(len(p.Data)), r.To-p.At)]...)
		}
	}
	return b
}

// Segment holds r, whose ends are boundaries. Commands of the same time are joined, and pieces
// given of at most size bytes.
func (l *Log) Segment(r stream.Range, size int) archive.Segment {
	s := archive.Segment{Range: r, Name: fmt.Sprintf("log/%d-%d", r.From, r.To), Size: r.Len()}
	var pieces []stream.Piece
	for _, p := range l.pieces {
		if p.At < r.From || p.End() > r.To {
			continue
		}
		if s.Time0 == 0 {
			s.Time0 = p.Time
		}
		s.Time1 = p.Time
		for first := p.First; len(p.Data) > 0; first = -1 {
			if n := len(pieces); n == 0 || len(pieces[n-1].Data) == size || pieces[n-1].Time != p.Time || p.Blank || pieces[n-1].Blank {
				pieces = append(pieces, stream.Piece{At: p.At, Time: p.Time, First: -1, Blank: p.Blank})
			}
			last := &pieces[len(pieces)-1]
			if last.First < 0 && first == 0 {
				last.First = len(last.Data)
			}
			n := min(size-len(last.Data), len(p.Data))
			last.Data = append(last.Data, p.Data[:n]...)
			p.At, p.Data = p.At+stream.Offset(n), p.Data[n:]
		}
	}
	db := l.dbAt(r.From)
	s.Open = func(context.Context) (archive.PieceReader, error) { return &Pieces{Pieces: pieces, Database: db}, nil }
	return s
}

// dbAt is the database selected at the boundary o.
func (l *Log) dbAt(o stream.Offset) int {
	i := sort.Search(len(l.cmds), func(i int) bool { return l.cmds[i].end > o })
	if i > 0 {
		return l.cmds[i-1].db
	}
	return l.first
}

// Pieces is an archive.PieceReader. It ends with Err, if that is set, in place of io.EOF.
type Pieces struct {
	Pieces   []stream.Piece
	Database int
	Err      error
	last     []byte
}

// Next gives the next piece, in memory that the call after it overwrites.
func (p *Pieces) Next() (stream.Piece, error) {
	for i := range p.last {
		p.last[i] = '!'
	}
	if len(p.Pieces) == 0 {
		if p.Err != nil {
			return stream.Piece{}, p.Err
		}
		return stream.Piece{}, io.EOF
	}
	next := p.Pieces[0]
	next.Data = bytes.Clone(next.Data)
	p.Pieces, p.last = p.Pieces[1:], next.Data
	return next, nil
}

// DB is the database selected before the first byte.
func (p *Pieces) DB() int { return p.Database }

// Close has nothing to do.
func (p *Pieces) Close() error { return nil }

// Snapshot is one with these bytes.
func Snapshot(info archive.SnapshotInfo, rdb []byte) archive.Snapshot {
	info.Bytes = int64(len(rdb))
	return archive.Snapshot{
		Offset: info.Offset, Time: info.Time, Name: fmt.Sprintf("snapshots/%d", info.Offset), Size: int64(len(rdb)),
		Info: func(context.Context) (archive.SnapshotInfo, error) { return info, nil },
		Open: func(context.Context) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(rdb)), nil },
	}
}
