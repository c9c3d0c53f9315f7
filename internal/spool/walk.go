package spool

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"

	"github.com/offloader/offloader/internal/stream"
)

// chunkState is what walking a timeline's chunks finds.
type chunkState struct {
	chunks   []chunk
	unsealed []unsealed
	begin    stream.Cursor
	end      stream.Cursor // the last whole boundary
	alive    stream.Time   // of the newest byte or sign of life
	replID   stream.ReplID // in force at end
	damage   error         // why bytes behind end, once durable, can't be reached
}

// unsealed is a chunk without a trailer, and where it ends.
type unsealed struct {
	chunk
	end stream.Cursor
}

// walkChunks finds the last boundary that can be trusted. Chunks with a trailer were fsynced
// whole; those without are walked record by record, up to the first that is not whole.
func walkChunks(dir string) (chunkState, error) {
	var s chunkState
	chunks, err := listChunks(dir)
	if err != nil {
		return s, err
	}
	if len(chunks) == 0 {
		return s, fmt.Errorf("the stream's chunks are missing from %s", dir)
	}
	s.chunks = chunks
	for i, c := range chunks {
		next := stream.Offset(-1)
		if i+1 < len(chunks) {
			next = chunks[i+1].from
		}
		head, end, err := walkChunk(dir, c, next)
		if errors.Is(err, errTorn) && i > 0 {
			return s, nil // a chunk that was not even begun
		}
		if err != nil {
			return s, err
		}
		if i == 0 {
			s.begin = head.at
		} else if s.end.Offset < c.from {
			// The chunk before it lost its end: what follows was never durable, or that is damaged.
			s.damage = damaged(dir, chunks[i-1:])
			return s, nil
		}
		if n := len(s.unsealed); n > 0 && s.end.Offset >= c.from {
			s.unsealed[n-1].end = minCursor(s.unsealed[n-1].end, head.at) // dead bytes behind that
		}
		s.end, s.alive, s.replID = end.boundary, max(s.alive, end.alive), head.replID
		if !end.sealed {
			s.unsealed = append(s.unsealed, unsealed{c, end.boundary})
		}
	}
	return s, nil
}

func minCursor(a, b stream.Cursor) stream.Cursor {
	if b.Offset < a.Offset {
		return b
	}
	return a
}

// damaged is an error if behind the first of the chunks, which ends too early, another has a
// trailer: they are fsynced in order, so the first was durable, and the disk has lost it.
func damaged(dir string, chunks []chunk) error {
	for i, c := range chunks[:len(chunks)-1] {
		f, err := os.Open(chunkPath(dir, c.from))
		if err != nil {
			return err
		}
		end, sealed := readTrailer(f, c.size)
		if err := f.Close(); err != nil {
			return err
		}
		if sealed && i > 0 && end.Offset == chunks[i+1].from {
			return &DamageError{chunkPath(dir, chunks[0].from), filepath.Dir(dir)}
		}
	}
	return nil
}

// A DamageError says that the disk has lost durable bytes in the midst of a stream. Those behind
// them are not dropped for that.
type DamageError struct {
	Path string
	Dir  string // of the source
}

func (e *DamageError) Error() string {
	return e.Path + " is damaged: it ends before the next chunk begins, though all of it was durable"
}

// Hint says what to do about it.
func (e *DamageError) Hint() string {
	return "check the disk; move " + e.Dir + " away, and the archive goes on where the store ends"
}

// chunkEnd is where a chunk stops being whole.
type chunkEnd struct {
	boundary stream.Cursor
	alive    stream.Time
	sealed   bool
}

// walkChunk reads a chunk's trailer, or else the chunk. A trailer counts where the next chunk
// begins at its offset: else it is that of a chunk which is gone, or somebody's value.
func walkChunk(dir string, c chunk, next stream.Offset) (chunkHead, chunkEnd, error) {
	r, err := openChunk(chunkPath(dir, c.from), c.from)
	if err != nil {
		return chunkHead{}, chunkEnd{}, err
	}
	defer r.close() //nolint:errcheck // only read
	end := chunkEnd{boundary: r.head.at, alive: r.head.at.Time}
	if t, ok := readTrailer(r.f, c.size); ok && t.Offset == next {
		end.boundary, end.sealed = t, true
		end.alive = t.Time
		return r.head, end, nil
	}
	at := c.from
	for {
		rec, err := r.next(at)
		if errors.Is(err, io.EOF) || errors.Is(err, errTorn) {
			return r.head, end, nil
		}
		if err != nil {
			return r.head, end, err
		}
		at, end.alive = rec.End(), rec.Time
		if rec.boundary > end.boundary.Offset {
			end.boundary = stream.Cursor{Offset: rec.boundary, DB: rec.db, Time: rec.Time}
		}
	}
}

// readTrailer gives the end of a chunk that was sealed.
func readTrailer(f *os.File, size int64) (stream.Cursor, bool) {
	if size < headerSize+recordSize {
		return stream.Cursor{}, false
	}
	c := chunkReader{f: f, buf: make([]byte, recordSize)}
	if _, err := f.ReadAt(c.buf, size-recordSize); err != nil {
		return stream.Cursor{}, false
	}
	c.end = recordSize
	at, ok := trailerAt(c.buf)
	if !ok {
		return stream.Cursor{}, false
	}
	rec, err := c.next(at)
	return stream.Cursor{Offset: rec.At, DB: rec.db, Time: rec.Time}, err == nil
}

// listChunks are the chunk files of a timeline by offset.
func listChunks(dir string) ([]chunk, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var chunks []chunk
	for _, e := range entries {
		digits, ok := strings.CutSuffix(e.Name(), chunkSuffix)
		if !ok || len(digits) != 20 {
			continue
		}
		from, err := strconv.ParseInt(digits, 10, 64)
		if err != nil {
			continue
		}
		info, err := os.Stat(filepath.Join(dir, e.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue // trimmed meanwhile
		}
		if err != nil {
			return nil, err
		}
		chunks = append(chunks, chunk{stream.Offset(from), info.Size()})
	}
	sort.Slice(chunks, func(i, j int) bool { return chunks[i].from < chunks[j].from })
	return chunks, nil
}
