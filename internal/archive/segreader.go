package archive

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/klauspost/compress/zstd"

	"github.com/offloader/offloader/internal/crc64"
	"github.com/offloader/offloader/internal/crypt"
	"github.com/offloader/offloader/internal/resp"
	"github.com/offloader/offloader/internal/stream"
)

const (
	// readSize is the most that one piece holds.
	readSize = 256 << 10
	// storedSize is read at a time. Runs of 4 KiB and more are what crc64 sums fastest.
	storedSize = 64 << 10
	// maxNotes is how many annotations may stand together. The writer puts at most 10 there; what
	// expands to lines without end is no segment.
	maxNotes = 64
)

// newlines is what a blank annotation stands for.
var newlines = bytes.Repeat([]byte{'\n'}, 4096)

// SegmentReader gives back the bytes of a segment, and when they were received. It believes
// nothing: what isn't as the name and the head say is a *DamageError, at the latest in place of
// io.EOF, so the end of what was read counts only once io.EOF was seen.
type SegmentReader struct {
	file string
	name SegmentName
	// timeline is the folder that it lies in, "" where the reader doesn't know.
	timeline string
	src      io.ReadCloser
	sum      sourceSum
	cipher   *decrypter // nil for a plain file
	dec      *zstd.Decoder

	head   SegmentHead
	format bool // the head's first line was seen
	framer *resp.Framer
	time   stream.Time
	blank  int64 // newlines still to give
	notes  int   // annotations since the last byte of the stream

	buf  []byte
	rest []byte // of buf, not yet looked at
	end  bool   // nothing comes behind rest
	err  error  // what Next says from now on
}

// sourceSum sums what is read of r, and remembers how reading failed: a disk that can't be read
// is not an archive that is damaged.
type sourceSum struct {
	r   io.Reader
	sum uint64
	err error
}

func (s *sourceSum) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	s.sum = crc64.Update(s.sum, p[:n])
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

// NewSegmentReader reads the segment of that name from its stored bytes. file is what errors call
// it. Close closes src. One that is encrypted takes an identity; without the right one Next says so.
func NewSegmentReader(src io.ReadCloser, file string, name SegmentName, identities ...crypt.Identity) (*SegmentReader, error) {
	dec, err := NewDecoder()
	if err != nil {
		return nil, errors.Join(err, src.Close())
	}
	// A small segment, of which there can be thousands, gets small buffers: lines of annotations,
	// of which each must fit, beside what the range holds.
	need := min(name.Len(), readSize) + 4*maxLine
	r := &SegmentReader{file: file, name: name, src: src, dec: dec, buf: make([]byte, min(need, readSize))}
	r.sum.r = src
	in := bufio.NewReaderSize(&r.sum, int(min(need, storedSize)))
	packed := io.Reader(in)
	if name.Encrypted {
		r.cipher = &decrypter{src: in, file: file, identities: identities}
		packed = r.cipher
	}
	if err := dec.Reset(packed); err != nil {
		dec.Close()
		return nil, errors.Join(err, src.Close())
	}
	return r, nil
}

// Head is what the first lines say, whole once Next has given a piece.
func (r *SegmentReader) Head() SegmentHead { return r.head }

// DB is the database selected before the first byte, known once Next was called.
func (r *SegmentReader) DB() int { return r.head.From.DB }

// Boundary is the last one that was passed, with the database selected there: where the segment ends,
// once Next has given io.EOF.
func (r *SegmentReader) Boundary() stream.Cursor {
	if r.framer == nil {
		return stream.Cursor{}
	}
	return r.framer.Boundary()
}

// Close ends reading, at any place.
func (r *SegmentReader) Close() error {
	r.dec.Close()
	if r.err == nil {
		r.err = errors.New("read of a closed segment")
	}
	return r.src.Close()
}

// Next gives the next piece. All commands that begin in it were received at its time.
func (r *SegmentReader) Next() (stream.Piece, error) {
	if r.err != nil {
		return stream.Piece{}, r.err
	}
	p, err := r.next()
	if err != nil {
		r.err = err
	}
	return p, err
}

func (r *SegmentReader) next() (stream.Piece, error) {
	for {
		if r.blank > 0 {
			return r.nextBlank()
		}
		if len(r.rest) == 0 {
			if err := r.fill(); err != nil {
				return stream.Piece{}, err
			}
			if len(r.rest) == 0 {
				return stream.Piece{}, r.finish()
			}
		}
		if between := r.framer == nil || r.framer.Between(); between && r.rest[0] == '#' {
			if err := r.annotation(); err != nil {
				return stream.Piece{}, err
			}
			continue
		}
		return r.commands()
	}
}

// fill reads on behind rest, which it keeps.
func (r *SegmentReader) fill() error {
	n := copy(r.buf, r.rest)
	for n < len(r.buf) && !r.end {
		m, err := r.dec.Read(r.buf[n:])
		n += m
		if errors.Is(err, io.EOF) && r.sum.err == nil && (r.cipher == nil || r.cipher.err == nil) {
			r.end = true
		} else if err != nil {
			return r.unreadable(err)
		}
	}
	r.rest = r.buf[:n]
	return nil
}

// unreadable tells a file that can't be read from one that can't be decrypted or decoded.
func (r *SegmentReader) unreadable(err error) error {
	switch {
	case r.sum.err != nil:
		return fmt.Errorf("read %s: %w", r.file, r.sum.err)
	case r.cipher != nil && r.cipher.err != nil:
		return r.cipher.why(func() bool { return r.sum.sum == r.name.Sum })
	}
	return r.damage("it can't be decompressed", err)
}

func (r *SegmentReader) damage(what string, err error) error {
	return &DamageError{Name: r.file, What: what, Err: err}
}

// commands gives what lies before the next annotation, or the end of the buffer.
func (r *SegmentReader) commands() (stream.Piece, error) {
	if r.framer == nil {
		if err := r.begin(); err != nil {
			return stream.Piece{}, err
		}
	}
	r.notes = 0
	p := stream.Piece{At: r.framer.Offset(), Time: r.time, First: -1}
	n := 0
	for n < len(r.rest) {
		if r.framer.Between() {
			if r.rest[n] == '#' {
				break
			}
			if p.First < 0 {
				p.First = n
			}
		}
		c, _, err := r.framer.Next(r.rest[n:])
		n += c
		if err != nil {
			return stream.Piece{}, r.damage("its commands don't stand together", err)
		}
	}
	p.Data, r.rest = r.rest[:n], r.rest[n:]
	if r.time == 0 {
		return stream.Piece{}, r.damage("it doesn't say when its first command was received", nil)
	}
	if p.End() > r.name.To {
		return stream.Piece{}, r.damage(fmt.Sprintf("it holds more than %s, its range", r.name.Range), nil)
	}
	return p, nil
}

// nextBlank gives newlines that stood in the stream.
func (r *SegmentReader) nextBlank() (stream.Piece, error) {
	if r.framer == nil {
		if err := r.begin(); err != nil {
			return stream.Piece{}, err
		}
	}
	r.notes = 0
	p := stream.Piece{At: r.framer.Offset(), Time: r.time, First: -1, Blank: true}
	p.Data = newlines[:min(r.blank, int64(len(newlines)))]
	r.blank -= int64(len(p.Data))
	if r.time == 0 || p.End() > r.name.To {
		return stream.Piece{}, r.damage("newlines stand where none were", nil)
	}
	if _, _, _, err := r.framer.Feed(p.Data); err != nil {
		return stream.Piece{}, r.damage("newlines stand in a command", err)
	}
	return p, nil
}

// begin is at the first byte of the stream: the head is complete.
func (r *SegmentReader) begin() error {
	switch {
	case !r.format:
		return r.damage("it doesn't begin with "+annotation+"segment", nil)
	case r.head.Source == "" || r.head.Timeline == "" || r.head.ReplID == "":
		return r.damage("its head is not complete", nil)
	case r.head.From.Offset != r.name.From:
		return r.damage(fmt.Sprintf("it begins at offset %d, its name says %d", r.head.From.Offset, r.name.From), nil)
	case r.timeline != "" && r.head.Timeline != r.timeline:
		return r.damage("it belongs to timeline "+strconv.Quote(r.head.Timeline), nil)
	}
	r.framer = resp.NewFramer(r.head.From)
	return nil
}

// finish checks what can be checked once all was read.
func (r *SegmentReader) finish() error {
	if r.framer == nil {
		return r.damage("it holds nothing of the stream", nil)
	}
	at := r.framer.Offset()
	switch {
	case r.sum.sum != r.name.Sum:
		return r.damage(fmt.Sprintf("its CRC64 is %016x, its name says %016x", r.sum.sum, r.name.Sum), nil)
	case at != r.name.To:
		return r.damage(fmt.Sprintf("it ends at offset %d, its name says %d", at, r.name.To), nil)
	case r.framer.Boundary().Offset != at || !r.framer.Between():
		return r.damage(fmt.Sprintf("it ends in the middle of a command or transaction that begins at %d", r.framer.Boundary().Offset), nil)
	}
	return io.EOF
}

// annotation takes the line that rest begins with.
func (r *SegmentReader) annotation() error {
	end := bytes.IndexByte(r.rest[:min(len(r.rest), maxLine)], '\n')
	if end < 0 && len(r.rest) < maxLine && !r.end {
		if err := r.fill(); err != nil {
			return err
		}
		end = bytes.IndexByte(r.rest[:min(len(r.rest), maxLine)], '\n')
	}
	if end < 1 || r.rest[end-1] != '\r' {
		return r.damage("an annotation doesn't end", nil)
	}
	line := string(r.rest[:end-1])
	r.rest = r.rest[end+1:]
	if r.notes++; r.notes > maxNotes {
		return r.damage(fmt.Sprintf("more than %d annotations stand together", maxNotes), nil)
	}
	line, ours := strings.CutPrefix(line, annotation)
	if !ours {
		return nil // #TS:, which only repeats our own, and what others may have put there
	}
	key, value, _ := strings.Cut(line, " ")
	if !r.format && key != "segment" {
		return r.damage("it doesn't begin with "+annotation+"segment", nil)
	}
	switch key {
	case "time", "blank":
		return r.note(key, value)
	}
	if r.framer != nil {
		return nil
	}
	return r.headLine(key, value)
}

// note takes an annotation that may stand anywhere between commands.
func (r *SegmentReader) note(key, value string) error {
	n, err := strconv.ParseInt(value, 10, 64)
	if err != nil {
		return r.damage(fmt.Sprintf("%q is no number", value), nil)
	}
	if key == "blank" {
		if n < 1 || n > maxBlank {
			return r.damage(fmt.Sprintf("it stands for %d newlines", n), nil)
		}
		r.blank = n
		return nil
	}
	t := stream.Time(n)
	if t < r.time || t < r.name.Time0 || t > r.name.Time1 {
		return r.damage(fmt.Sprintf("time %d is not between %d and %d", t, max(r.time, r.name.Time0), r.name.Time1), nil)
	}
	r.time = t
	return nil
}

// headLine takes a line of the head. Keys that it doesn't know are a later version's.
func (r *SegmentReader) headLine(key, value string) error {
	n, err := strconv.ParseInt(value, 10, 64)
	bad := err != nil || n < 0
	switch key {
	case "segment":
		if !bad && n > FormatVersion {
			return &VersionError{Name: r.file, Format: int(n)}
		}
		bad = bad || n != FormatVersion || r.format
		r.format = true
	case "source":
		r.head.Source, bad = value, false
	case "timeline":
		r.head.Timeline, bad = value, false
	case "replid":
		id, err := stream.ParseReplID(value)
		r.head.ReplID, bad = id, err != nil
	case "from":
		r.head.From.Offset = stream.Offset(n)
	case "db":
		r.head.From.DB = int(n)
		bad = bad || n > 1<<31-1
	case "inserted":
		return r.inserted(n)
	default:
		return nil
	}
	if bad {
		return r.damage(fmt.Sprintf("its head says %q", key+" "+value), nil)
	}
	return nil
}

// inserted steps over a SELECT that the writer put in.
func (r *SegmentReader) inserted(n int64) error {
	want := selectCommand(r.head.From.DB)
	if n != int64(len(want)) {
		return r.damage(fmt.Sprintf("%d bytes were inserted, want %q", n, want), nil)
	}
	if len(r.rest) < len(want) {
		if err := r.fill(); err != nil {
			return err
		}
	}
	if !bytes.HasPrefix(r.rest, []byte(want)) {
		return r.damage(fmt.Sprintf("what was inserted is not %q", want), nil)
	}
	r.rest = r.rest[len(want):]
	return nil
}
