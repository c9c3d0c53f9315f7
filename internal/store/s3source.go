package store

import (
	"bytes"
	"context"
	"hash/crc32"
	"io"
)

// sections are the parts of a file. They are read twice, for the checksum and to be sent, and never held.
type sections struct {
	f         file
	at        int64 // of the next
	left      int64
	whole     uint32
	total     int64
	partSize  int64
	available chan struct{}
}

func newSections(f file, at, size int64) *sections {
	s := &sections{f: f, at: at, left: size, total: size, available: make(chan struct{}, inFlight)}
	s.partSize = max(filePart, (size+maxParts-1)/maxParts)
	return s
}

func (s *sections) sum() uint32 { return s.whole }
func (s *sections) size() int64 { return s.total }

func (s *sections) next(ctx context.Context, _ int) (*part, error) {
	if s.left == 0 {
		return nil, io.EOF
	}
	select {
	case s.available <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	size := min(s.left, s.partSize)
	body := io.NewSectionReader(s.f, s.at, size)
	own, all := crc32.NewIEEE(), &running{s.whole}
	if err := digest(ctx, io.MultiWriter(own, all), body); err != nil {
		return nil, err
	}
	s.at, s.left, s.whole = s.at+size, s.left-size, all.sum
	return &part{body: body, size: size, sum: own.Sum32(), free: func(int) { <-s.available }}, nil
}

// running is a checksum that goes on.
type running struct{ sum uint32 }

func (r *running) Write(p []byte) (int, error) {
	r.sum = crc32.Update(r.sum, crc32.IEEETable, p)
	return len(p), nil
}

// buffers are the parts of a stream. Each is held until it was sent.
type buffers struct {
	r       io.Reader
	started *held // filled, and not given yet
	ended   bool
	whole   uint32
	total   int64
	slots   chan []byte // inFlight of them; nil is one that isn't made yet
}

// held is a filled buffer and the number of slots that it takes.
type held struct {
	data  []byte
	slots int
}

func newBuffers(r io.Reader) *buffers {
	b := &buffers{r: r, slots: make(chan []byte, inFlight)}
	for range inFlight {
		b.slots <- nil
	}
	return b
}

func (b *buffers) sum() uint32 { return b.whole }
func (b *buffers) size() int64 { return b.total }

// sizeOfPart lets the parts of a stream, whose end nobody knows, grow: 39 GiB go in parts of
// 8 MiB, two at a time, and what follows up to 101 GiB in parts of 16 MiB, one at a time, which
// takes the same memory. Only beyond that it takes more, and ends at 350 GiB.
func sizeOfPart(n int) (size, slots int) {
	switch {
	case n <= maxParts/2:
		return bufferPart, 1
	case n <= maxParts/10*9:
		return inFlight * bufferPart, inFlight
	}
	return 32 * bufferPart, inFlight
}

// start reads the first part, which begins with what was read before. It may be all there is.
func (b *buffers) start(ctx context.Context, begun []byte) (all []byte, ended bool, err error) {
	b.started, err = b.fill(ctx, 1, begun)
	if err != nil {
		return nil, false, err
	}
	return b.started.data, b.ended, nil
}

func (b *buffers) next(ctx context.Context, n int) (*part, error) {
	h := b.started
	if b.started = nil; h == nil {
		if b.ended {
			return nil, io.EOF
		}
		var err error
		if h, err = b.fill(ctx, n, nil); err != nil {
			return nil, err
		}
		if len(h.data) == 0 {
			return nil, io.EOF
		}
	}
	b.whole = crc32.Update(b.whole, crc32.IEEETable, h.data)
	b.total += int64(len(h.data))
	return &part{
		body: bytes.NewReader(h.data), size: int64(len(h.data)), sum: crc32.ChecksumIEEE(h.data),
		free: func(tries int) {
			if tries > 1 {
				h.data = nil // the connection of a try that failed may still read from it
			}
			b.slots <- h.data
			for range h.slots - 1 {
				b.slots <- nil
			}
		},
	}, nil
}

// fill waits for a buffer and reads part n into it.
func (b *buffers) fill(ctx context.Context, n int, begun []byte) (*held, error) {
	size, slots := sizeOfPart(n)
	var buf []byte
	for range slots {
		select {
		case buf = <-b.slots:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	if cap(buf) < size {
		buf = make([]byte, size)
	}
	buf = buf[:size]
	have, ended, err := readFull(ctx, b.r, buf, copy(buf, begun))
	if err != nil {
		return nil, err
	}
	b.ended = ended
	return &held{buf[:have], slots}, nil
}
