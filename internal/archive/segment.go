package archive

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/offloader/offloader/internal/crc64"
	"github.com/offloader/offloader/internal/crypt"
	"github.com/offloader/offloader/internal/stream"
)

// A segment is one zstd stream over AOF text: the stream's bytes as they came, with annotations
// between commands. An annotation is a line that begins with '#', which engines skip. The lines
// are (docs/format.md has them all):
//
//	#OFFLOADER:segment 1          the format's version; first of the head, which goes on with
//	#OFFLOADER:source <name>      what is needed to use the file alone
//	#OFFLOADER:timeline <name>
//	#OFFLOADER:replid <40 digits>
//	#OFFLOADER:from <offset>      of the first byte of the stream in here
//	#OFFLOADER:db <number>        selected there
//	#OFFLOADER:inserted <bytes>   the next bytes are a SELECT of ours, not of the stream
//	#TS:<seconds>                 as engines write it, when the second changes
//	#OFFLOADER:time <milliseconds>  when what follows was received
//	#OFFLOADER:blank <n>          n newlines stood here in the stream; in a file they'd be refused
const (
	annotation = "#OFFLOADER:"
	markTime   = "#TS:"
	crlf       = "\r\n"

	// maxLine is the longest line that engines take for an annotation, CRLF included (redis,
	// aof.c: loadSingleAppendOnlyFile reads lines into 1 KiB).
	maxLine = 1023
	// maxBlank bounds what one blank annotation stands for. Nothing is allocated by it.
	maxBlank = 1 << 40
)

// SegmentHead is what a segment's first lines say.
type SegmentHead struct {
	Source   string
	Timeline string
	ReplID   stream.ReplID // at From
	From     stream.Cursor // where it begins; its Time is not written

	// End is where it will end, nil where that isn't known. Only an encrypted segment says it, and
	// of it only the database, in words that need no identity.
	End *stream.Cursor
}

// SegmentWriter writes one segment. It does no framing: pieces say where commands begin.
type SegmentWriter struct {
	enc  *Encoder
	sum  summer
	name SegmentName
	end  *stream.Cursor
	at   stream.Time // the last one written
	line []byte
}

// summer counts and sums what passes to w.
type summer struct {
	w   io.Writer
	sum uint64
	n   int64
}

func (s *summer) Write(p []byte) (int, error) {
	n, err := s.w.Write(p)
	s.sum = crc64.Update(s.sum, p[:n])
	s.n += int64(n)
	return n, err
}

// NewSegmentWriter begins a segment at a boundary. What it stores goes to w; enc is busy until
// Close.
func NewSegmentWriter(w io.Writer, enc *Encoder, head SegmentHead) (*SegmentWriter, error) {
	if err := CheckSource(head.Source); err != nil {
		return nil, err
	}
	if _, _, err := ParseTimelineName(head.Timeline); err != nil {
		return nil, err
	}
	s := &SegmentWriter{enc: enc, sum: summer{w: w}, end: head.End,
		name: SegmentName{Range: stream.Range{From: head.From.Offset, To: head.From.Offset}, Encrypted: enc.Encrypts()}}
	var note crypt.Note
	if head.End != nil {
		note = noteOf(head.End.DB)
	}
	if err := enc.begin(&s.sum, note); err != nil {
		return nil, err
	}
	var b bytes.Buffer
	for _, l := range [...]struct{ key, value string }{
		{"segment", strconv.Itoa(FormatVersion)},
		{"source", head.Source},
		{"timeline", head.Timeline},
		{"replid", string(head.ReplID)},
		{"from", head.From.Offset.String()},
		{"db", strconv.Itoa(head.From.DB)},
	} {
		b.WriteString(annotation + l.key + " " + l.value + crlf)
	}
	if head.From.DB != 0 {
		sel := selectCommand(head.From.DB)
		fmt.Fprintf(&b, "%sinserted %d%s%s", annotation, len(sel), crlf, sel)
	}
	if err := enc.write(b.Bytes()); err != nil {
		return nil, err
	}
	return s, nil
}

// selectCommand is the command that selects db, as a master writes it.
func selectCommand(db int) string {
	n := strconv.Itoa(db)
	return fmt.Sprintf("*2\r\n$6\r\nSELECT\r\n$%d\r\n%s\r\n", len(n), n)
}

// Write adds a piece, which must begin where the last one ended; the first one begins with a
// command or is blank.
func (s *SegmentWriter) Write(p stream.Piece) error {
	switch {
	case len(p.Data) == 0:
		return nil
	case p.At != s.name.To:
		return fmt.Errorf("segment from %d: piece at %d where %d was due", s.name.From, p.At, s.name.To)
	case p.First >= len(p.Data):
		return fmt.Errorf("segment from %d: piece at %d of %d bytes has its first command at %d", s.name.From, p.At, len(p.Data), p.First)
	case p.Time < s.name.Time1 || p.Time < 1 || p.Time > maxTime:
		return fmt.Errorf("segment from %d: piece at %d has time %d, after %d", s.name.From, p.At, p.Time, s.name.Time1)
	case s.at == 0 && p.First != 0 && !p.Blank:
		return fmt.Errorf("segment from %d doesn't begin with a command", s.name.From)
	}
	if s.name.Time0 == 0 {
		s.name.Time0 = p.Time
	}
	s.name.Time1, s.name.To = p.Time, p.End()

	data := p.Data
	if p.Time != s.at && (p.First >= 0 || p.Blank) {
		if p.First > 0 {
			if err := s.enc.write(data[:p.First]); err != nil {
				return err
			}
			data = data[p.First:]
		}
		if err := s.writeTime(p.Time); err != nil {
			return err
		}
	}
	if p.Blank {
		s.line = append(strconv.AppendInt(append(s.line[:0], annotation+"blank "...), int64(len(data)), 10), crlf...)
		data = s.line
	}
	return s.enc.write(data)
}

// writeTime notes when what follows was received.
func (s *SegmentWriter) writeTime(t stream.Time) error {
	b := s.line[:0]
	if t/1000 != s.at/1000 {
		b = append(strconv.AppendInt(append(b, markTime...), int64(t/1000), 10), crlf...)
	}
	b = append(strconv.AppendInt(append(b, annotation+"time "...), int64(t), 10), crlf...)
	s.line, s.at = b, t
	return s.enc.write(b)
}

// Close ends the segment, which must be at a boundary, and says what its name is. A segment that
// is joined from others takes Time1 from the last of them: pieces that were read back know only
// when commands began.
func (s *SegmentWriter) Close() (SegmentName, error) {
	if err := s.enc.end(); err != nil {
		return SegmentName{}, err
	}
	switch {
	case s.name.Len() == 0:
		return SegmentName{}, errors.New("a segment without a byte")
	case s.end != nil && s.end.Offset != s.name.To:
		return SegmentName{}, fmt.Errorf("segment from %d ends at %d, and said that it would at %d", s.name.From, s.name.To, s.end.Offset)
	}
	s.name.Sum = s.sum.sum
	return s.name, nil
}

// Stored is how many bytes went to w. It is final after Close.
func (s *SegmentWriter) Stored() int64 { return s.sum.n }

// Range is what the segment holds so far.
func (s *SegmentWriter) Range() stream.Range { return s.name.Range }
