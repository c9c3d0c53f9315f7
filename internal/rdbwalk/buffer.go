package rdbwalk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/offloader/offloader/internal/crc64"
)

const (
	// bufferSize fits the second-level cache of a core, so that the checksum finds in it what
	// the walk has touched.
	bufferSize = 256 << 10

	// room is the least free space for a read. With less, what has been walked makes way:
	// checksum and copies so go over long runs, also when a socket gives a little at a time.
	room = 64 << 10

	// maxEmptyReads is how many reads of nothing, without an error, are borne in a row.
	maxEmptyReads = 100
)

// A window is the stretch of the RDB that is in memory.
//
//	0 ......... hashed ..... out ...... pos .......... end ...... len(buf)
//	 walked, summed   walked   kept or   walked so far     not yet     free
//	                           not copied
//
// hashed and out are never ahead of pos, and neither is lost from buf before it has been dealt
// with: that is all the bookkeeping there is.
type window struct {
	r    io.Reader
	rerr error // of r, kept until the bytes that came with it are used up

	buf    []byte
	base   int64  // offset of buf[0] in the RDB
	pos    int    // next byte to walk
	end    int    // behind the last byte received
	hashed int    // buf[:hashed] is in crc
	crc    uint64 // of all before hashed

	unsummed bool // crc is nothing

	held bool      // buf[out:] must stay: where it goes is decided when the key is known
	out  int       // with held or dst: first byte that has not been copied
	dst  io.Writer // takes buf[out:pos], nil when nobody wants it

	version int    // of the RDB, 0 before the header
	newer   bool   // than what has been tried: damage can't be told from change
	doing   string // what is being walked, for errors
	err     error  // the first; all methods return false from then on
}

// offset is the number of bytes walked.
func (w *window) offset() int64 { return w.base + int64(w.pos) }

// fill receives at least one more byte.
func (w *window) fill() bool {
	if w.err != nil {
		return false
	}
	if len(w.buf)-w.end < room && !w.slide() {
		return false
	}
	if w.end == len(w.buf) {
		// Only what is held can be that long, and of it only the metadata of a key: the key
		// itself is held to MaxKey bytes.
		return w.strange(fmt.Sprintf("key metadata above %d bytes", len(w.buf)-room))
	}
	for range maxEmptyReads {
		if w.rerr != nil {
			break
		}
		n, err := w.r.Read(w.buf[w.end:])
		if n < 0 || n > len(w.buf)-w.end {
			return w.fail(fmt.Errorf("reading the RDB: the reader returned %d for %d bytes", n, len(w.buf)-w.end))
		}
		w.end += n
		w.rerr = err
		if n > 0 {
			return true
		}
	}
	switch at := w.base + int64(w.end); {
	case w.rerr == nil:
		w.rerr = io.ErrNoProgress
		fallthrough
	case !errors.Is(w.rerr, io.EOF):
		return w.fail(fmt.Errorf("reading the RDB at byte %d: %w", at, w.rerr))
	default:
		return w.fail(fmt.Errorf("the RDB is cut off after %d bytes: %w", at, io.ErrUnexpectedEOF))
	}
}

// slide makes room: what has been walked is summed and copied, and leaves the buffer.
func (w *window) slide() bool {
	if !w.flush() {
		return false
	}
	keep := w.pos
	if w.held {
		keep = w.out
	}
	w.sum(keep)
	copy(w.buf, w.buf[keep:w.end])
	w.base += int64(keep)
	w.pos -= keep
	w.end -= keep
	w.hashed -= keep
	w.out -= keep
	return true
}

// sum brings the checksum up to buf[:to].
func (w *window) sum(to int) {
	if to > w.hashed {
		if !w.unsummed {
			w.crc = crc64.Update(w.crc, w.buf[w.hashed:to])
		}
		w.hashed = to
	}
}

// flush copies to dst what has been walked of the record.
func (w *window) flush() bool {
	if w.dst == nil {
		if !w.held {
			w.out = w.pos
		}
		return true
	}
	if w.out < w.pos {
		n, err := w.dst.Write(w.buf[w.out:w.pos])
		if err == nil && n < w.pos-w.out {
			err = io.ErrShortWrite
		}
		if err != nil {
			return w.fail(fmt.Errorf("copying a record of the RDB: %w", err))
		}
		w.out = w.pos
	}
	return true
}

// need waits until n bytes lie behind pos. n is small or bounded by MaxKey.
func (w *window) need(n int) bool {
	for w.end-w.pos < n {
		if !w.fill() {
			return false
		}
	}
	return true
}

// skip walks over n bytes, whatever n claims: memory does not depend on it.
func (w *window) skip(n uint64) bool {
	if n <= uint64(w.end-w.pos) {
		w.pos += int(n)
		return true
	}
	if n > math.MaxInt64-uint64(w.offset()) {
		return w.damaged("a length of %d bytes", n)
	}
	for n > uint64(w.end-w.pos) {
		n -= uint64(w.end - w.pos)
		w.pos = w.end
		if !w.fill() {
			return false
		}
	}
	w.pos += int(n)
	return true
}

// one walks over one byte.
func (w *window) one() (byte, bool) {
	if w.pos == w.end && !w.fill() {
		return 0, false
	}
	b := w.buf[w.pos]
	w.pos++
	return b, true
}

// fixed32 and fixed64 are numbers of fixed width, little endian.
func (w *window) fixed32() (uint32, bool) {
	if !w.need(4) {
		return 0, false
	}
	w.pos += 4
	return binary.LittleEndian.Uint32(w.buf[w.pos-4:]), true
}

func (w *window) fixed64() (uint64, bool) {
	if !w.need(8) {
		return 0, false
	}
	w.pos += 8
	return binary.LittleEndian.Uint64(w.buf[w.pos-8:]), true
}

// fail ends the walk. It returns false, as do all who call it.
func (w *window) fail(err error) bool {
	if w.err == nil {
		w.err = err
	}
	return false
}

// strange ends the walk at what can't be walked, but need not be damage.
func (w *window) strange(what string) bool {
	return w.fail(&UnknownError{What: what, Version: w.version, Offset: w.offset()})
}

// damaged ends the walk at damage. In a version that is newer than those tried it could as well
// be a change of the format, and the checksum must decide.
func (w *window) damaged(format string, args ...any) bool {
	what := fmt.Sprintf(format, args...)
	if w.doing != "" {
		what = w.doing + ": " + what
	}
	if w.newer {
		return w.strange("this (" + what + ")")
	}
	return w.fail(&FormatError{Offset: w.offset(), What: what})
}
