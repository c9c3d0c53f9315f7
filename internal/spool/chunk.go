package spool

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"

	"github.com/offloader/offloader/internal/stream"
)

// A chunk is a file of the stream, named by its first offset in 20 digits:
//
//	header   magic[8] version:4 db:4 from:8 time:8 replid[40] zero:20 crc:4     96 bytes
//	record   crc:4 size:4 at:8 time:8 boundary:8 db:4 first:4 flags:4 zero:4    48 bytes, then size bytes
//	...
//	trailer  a record of flag sealed and size 0
//
// Numbers are little-endian; sums are CRC32C, a record's over all of it behind the sum. A record
// is what one read of the link gave. boundary and db are the last boundary at the record's end:
// a reader knows where to stop without framing. first is the index of the first command that
// begins in it. A record of size 0 says that the link was up and silent until time.
//
// The trailer is written after the chunk was fsynced and another was begun: a chunk that has one
// is whole, and recovery needs to walk only those without. Bytes at or beyond the next chunk's
// first offset are dead: a chunk is begun at the last boundary when the link drops what it holds
// behind it.
const (
	chunkSuffix  = ".chunk"
	chunkVersion = 1
	headerSize   = 96
	recordSize   = 48

	// maxRecord bounds a record's bytes, so that a torn length can't make a reader allocate.
	maxRecord = 1 << 20

	flagBlank  = 1 << 0
	flagSealed = 1 << 1

	noFirst = 1<<32 - 1
)

var (
	chunkMagic = [8]byte{'O', 'F', 'L', 'S', 'P', 'O', 'O', 'L'}
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

// errTorn ends the walk of a chunk: what follows was never whole.
var errTorn = errors.New("the record is not whole")

// chunkHead is what a chunk's header says: the cursor at its first byte, and the id in force.
type chunkHead struct {
	at     stream.Cursor
	replID stream.ReplID
}

func (h chunkHead) encode() []byte {
	b := make([]byte, 0, headerSize)
	b = append(b, chunkMagic[:]...)
	b = binary.LittleEndian.AppendUint32(b, chunkVersion)
	b = binary.LittleEndian.AppendUint32(b, uint32(h.at.DB))
	b = binary.LittleEndian.AppendUint64(b, uint64(h.at.Offset))
	b = binary.LittleEndian.AppendUint64(b, uint64(h.at.Time))
	b = append(b, h.replID...)
	b = b[:headerSize]
	binary.LittleEndian.PutUint32(b[headerSize-4:], crc32.Checksum(b[:headerSize-4], castagnoli))
	return b
}

func decodeHead(b []byte) (chunkHead, error) {
	if len(b) < headerSize || !bytes.Equal(b[:8], chunkMagic[:]) {
		return chunkHead{}, errTorn
	}
	if v := binary.LittleEndian.Uint32(b[8:]); v != chunkVersion {
		return chunkHead{}, fmt.Errorf("chunk version %d was written by another version of offloader, this one knows %d", v, chunkVersion)
	}
	if crc32.Checksum(b[:headerSize-4], castagnoli) != binary.LittleEndian.Uint32(b[headerSize-4:]) {
		return chunkHead{}, errTorn
	}
	id, err := stream.ParseReplID(string(b[32:72]))
	if err != nil {
		return chunkHead{}, err
	}
	return chunkHead{
		at: stream.Cursor{
			Offset: stream.Offset(binary.LittleEndian.Uint64(b[16:])),
			DB:     int(binary.LittleEndian.Uint32(b[12:])),
			Time:   stream.Time(binary.LittleEndian.Uint64(b[24:])),
		},
		replID: id,
	}, nil
}

// record is a piece on disk, with the last boundary at its end.
type record struct {
	stream.Piece
	boundary stream.Offset
	db       int
	sealed   bool
}

// appendHead writes r's header; r.Data follows it in the file.
func (r *record) appendHead(b []byte) []byte {
	at := len(b)
	first, flags := uint32(noFirst), uint32(0)
	if r.First >= 0 {
		first = uint32(r.First)
	}
	if r.Blank {
		flags |= flagBlank
	}
	if r.sealed {
		flags |= flagSealed
	}
	b = append(b, 0, 0, 0, 0)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(r.Data)))
	b = binary.LittleEndian.AppendUint64(b, uint64(r.At))
	b = binary.LittleEndian.AppendUint64(b, uint64(r.Time))
	b = binary.LittleEndian.AppendUint64(b, uint64(r.boundary))
	b = binary.LittleEndian.AppendUint32(b, uint32(r.db))
	b = binary.LittleEndian.AppendUint32(b, first)
	b = binary.LittleEndian.AppendUint32(b, flags)
	b = append(b, 0, 0, 0, 0)
	sum := crc32.Update(crc32.Checksum(b[at+4:], castagnoli), castagnoli, r.Data)
	binary.LittleEndian.PutUint32(b[at:], sum)
	return b
}

// trailerAt gives the offset that a trailer in b would stand at.
func trailerAt(b []byte) (stream.Offset, bool) {
	flags := binary.LittleEndian.Uint32(b[40:])
	return stream.Offset(binary.LittleEndian.Uint64(b[8:])), flags == flagSealed
}

// chunkReader walks one chunk. It reads in large blocks and gives records in place.
type chunkReader struct {
	f          *os.File
	head       chunkHead
	buf        []byte
	start, end int   // what of buf is not used yet
	pos        int64 // in the file, of buf[start]
}

// openChunk opens the chunk at path; from is the offset that its name says.
func openChunk(path string, from stream.Offset) (*chunkReader, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	c := &chunkReader{f: f, buf: make([]byte, 256<<10)}
	if err := c.fill(headerSize); err == nil || errors.Is(err, errTorn) {
		c.head, err = decodeHead(c.buf[:c.end])
		if err == nil && c.head.at.Offset != from {
			err = fmt.Errorf("its header says that it begins at offset %d", c.head.at.Offset)
		}
		if err == nil {
			c.start, c.pos = headerSize, headerSize
			return c, nil
		}
		return nil, errors.Join(fmt.Errorf("chunk %s: %w", path, err), f.Close())
	}
	return nil, errors.Join(fmt.Errorf("chunk %s: %w", path, err), f.Close())
}

// fill makes at least n unused bytes available, or fails with errTorn.
func (c *chunkReader) fill(n int) error {
	if c.end-c.start >= n {
		return nil
	}
	if n > len(c.buf) {
		bigger := make([]byte, maxRecord+recordSize)
		c.end = copy(bigger, c.buf[c.start:c.end])
		c.buf, c.start = bigger, 0
	} else {
		c.end = copy(c.buf, c.buf[c.start:c.end])
		c.start = 0
	}
	for c.end < n {
		k, err := c.f.Read(c.buf[c.end:])
		c.end += k
		switch {
		case errors.Is(err, io.EOF):
			return errTorn
		case err != nil:
			return err
		}
	}
	return nil
}

// next gives the record at the reader's position, which must begin at offset want. It fails with
// io.EOF at the end, errTorn where the bytes are no whole record.
func (c *chunkReader) next(want stream.Offset) (record, error) {
	if err := c.fill(recordSize); err != nil {
		if errors.Is(err, errTorn) && c.end == c.start {
			return record{}, io.EOF
		}
		return record{}, err
	}
	h := c.buf[c.start:c.end]
	size := int(binary.LittleEndian.Uint32(h[4:]))
	if size > maxRecord {
		return record{}, errTorn
	}
	if err := c.fill(recordSize + size); err != nil {
		return record{}, err
	}
	h = c.buf[c.start : c.start+recordSize+size]
	if crc32.Checksum(h[4:], castagnoli) != binary.LittleEndian.Uint32(h) {
		return record{}, errTorn
	}
	flags := binary.LittleEndian.Uint32(h[40:])
	r := record{
		Piece: stream.Piece{
			At:    stream.Offset(binary.LittleEndian.Uint64(h[8:])),
			Time:  stream.Time(binary.LittleEndian.Uint64(h[16:])),
			Data:  h[recordSize:],
			First: -1,
			Blank: flags&flagBlank != 0,
		},
		boundary: stream.Offset(binary.LittleEndian.Uint64(h[24:])),
		db:       int(binary.LittleEndian.Uint32(h[32:])),
		sealed:   flags&flagSealed != 0,
	}
	if first := binary.LittleEndian.Uint32(h[36:]); first != noFirst {
		if int64(first) >= int64(size) {
			return record{}, errTorn
		}
		r.First = int(first)
	}
	if r.At != want {
		return record{}, errTorn
	}
	c.start += recordSize + size
	c.pos += int64(recordSize + size)
	return r, nil
}

func (c *chunkReader) close() error { return c.f.Close() }
