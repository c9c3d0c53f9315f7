package store

import (
	"context"
	"hash/crc32"
	"io"
	"os"
)

// sections are the parts of a file. They are read twice, for the checksum and to be sent, and never held.
type sections struct {
	f        file
	at       int64 // of the next
	left     int64
	whole    uint32
	total    int64
	partSize int64
}

func newSections(f file, at, size int64) *sections {
	return &sections{f: f, at: at, left: size, total: size, partSize: max(filePart, (size+maxParts-1)/maxParts)}
}

func (s *sections) sum() uint32 { return s.whole }
func (s *sections) size() int64 { return s.total }

func (s *sections) next(ctx context.Context, _ int) (*part, error) {
	if s.left == 0 {
		return nil, io.EOF
	}
	size := min(s.left, s.partSize)
	body := io.NewSectionReader(s.f, s.at, size)
	own, all := crc32.NewIEEE(), &running{s.whole}
	if err := digest(ctx, io.MultiWriter(own, all), body); err != nil {
		return nil, err
	}
	s.at, s.left, s.whole = s.at+size, s.left-size, all.sum
	return &part{body: body, sum: own.Sum32(), free: func(int) {}}, nil
}

// running is a checksum that goes on.
type running struct{ sum uint32 }

func (r *running) Write(p []byte) (int, error) {
	r.sum = crc32.Update(r.sum, crc32.IEEETable, p)
	return len(p), nil
}

// streamed are the parts of a stream. Each lies in a file, from which it is sent, if need be again: so
// however many uploads there are, and however long a service takes, memory does not follow. The kernel
// keeps such a file in its cache while there is room, and mostly never writes it to the disk. It has no name:
// a crash leaves nothing.
type streamed struct {
	r      io.Reader
	folder string
	chunk  []byte // what is read at a time
	filled int    // of chunk, by who has begun to read
	first  *part  // not given yet
	ended  bool
	whole  uint32
	total  int64
	slots  chan *os.File // nil is one that isn't made yet
	made   []*os.File
}

// newStreamed goes on with a stream that begins with what start holds.
func newStreamed(r io.Reader, start []byte, folder string) *streamed {
	s := &streamed{r: r, folder: folder, chunk: make([]byte, 256<<10), slots: make(chan *os.File, inFlight+1)}
	s.filled = copy(s.chunk, start)
	for range cap(s.slots) {
		s.slots <- nil
	}
	return s
}

func (s *streamed) sum() uint32 { return s.whole }
func (s *streamed) size() int64 { return s.total }

// close gives the room back.
func (s *streamed) close() {
	for _, f := range s.made {
		_ = f.Close() // nothing in it is wanted any more
	}
}

// sizeOfPart lets the parts of a stream, whose end nobody knows, grow: 15 GiB go in parts of 8 MiB, and each
// further fifth of their number in parts of twice the size. That ends at 484 GiB.
func sizeOfPart(n int) int { return streamPart << ((n - 1) / (maxParts / 5)) }

// start reads the first part, and gives it if it is all there is.
func (s *streamed) start(ctx context.Context) (all *io.SectionReader, err error) {
	if s.first, err = s.fill(ctx, 1); err == nil && s.ended {
		all = s.first.body
	}
	return all, err
}

func (s *streamed) next(ctx context.Context, n int) (*part, error) {
	p := s.first
	if s.first = nil; p != nil {
		return p, nil
	}
	if s.ended {
		return nil, io.EOF
	}
	p, err := s.fill(ctx, n)
	if err == nil && p.body.Size() == 0 {
		err = io.EOF
	}
	return p, err
}

// fill waits for a slot and reads part n into it.
func (s *streamed) fill(ctx context.Context, n int) (*part, error) {
	var f *os.File
	select {
	case f = <-s.slots:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if f == nil {
		var err error
		if f, err = s.room(); err != nil {
			return nil, err
		}
	}
	at, own := 0, uint32(0)
	for size := sizeOfPart(n); at < size && !s.ended; {
		got, ended, err := readFull(ctx, s.r, s.chunk, s.filled)
		if err != nil {
			return nil, err
		}
		read := s.chunk[:got]
		if _, err := f.WriteAt(read, int64(at)); err != nil {
			return nil, &scratchError{err}
		}
		own, s.whole = crc32.Update(own, crc32.IEEETable, read), crc32.Update(s.whole, crc32.IEEETable, read)
		at, s.total, s.filled, s.ended = at+got, s.total+int64(got), 0, ended
	}
	return &part{body: io.NewSectionReader(f, 0, int64(at)), sum: own, free: func(tries int) {
		if tries > 1 { // the connection of a try that failed may still read from it
			_ = f.Close()
			f = nil
		}
		s.slots <- f
	}}, nil
}

// room makes a file for a part.
func (s *streamed) room() (*os.File, error) {
	f, err := os.CreateTemp(s.folder, ".part-")
	if err == nil {
		s.made = append(s.made, f)
		err = os.Remove(f.Name()) // what is open stays
	}
	if err != nil {
		return nil, &scratchError{err}
	}
	return f, nil
}

// scratchError says that there is no room for the part of a stream.
type scratchError struct{ err error }

func (e *scratchError) Error() string { return "keep a part of it until it is sent: " + e.err.Error() }
func (e *scratchError) Unwrap() error { return e.err }

// Hint says what to do about it.
func (e *scratchError) Hint() string {
	return "an upload keeps 24 MiB on disk, a very large one more: the daemon in its spool, a command where TMPDIR says"
}
