package archive

import (
	"bytes"
	"io"

	"github.com/klauspost/compress/zstd"

	"github.com/offloader/offloader/internal/crypt"
)

// An Encoder makes stored files: it compresses, and where there are recipients it encrypts what it
// has compressed. One is at work for one file at a time and serves any number of them.
type Encoder struct {
	zstd   *zstd.Encoder
	to     []crypt.Recipient
	cipher io.Closer // of the file at work, nil for one that stays plain
}

// NewEncoder is the encoder for segments and snapshots. It takes about 2 MB; a larger window would
// take more and gain nothing on a replication stream, and without LowerEncoderMem more still.
func NewEncoder(to ...crypt.Recipient) (*Encoder, error) {
	z, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1),
		zstd.WithLowerEncoderMem(true), zstd.WithWindowSize(512<<10))
	if err != nil {
		return nil, err
	}
	return &Encoder{zstd: z, to: to}, nil
}

// Encrypts tells whether what it makes is encrypted.
func (e *Encoder) Encrypts() bool { return len(e.to) > 0 }

// Release forgets the file that it was at work for.
func (e *Encoder) Release() {
	e.zstd.Reset(nil)
	e.cipher = nil
}

// begin turns to a file that goes to w. The note is for an encrypted one.
func (e *Encoder) begin(w io.Writer, note crypt.Note) error {
	e.cipher = nil
	if e.Encrypts() {
		c, err := crypt.Encrypt(w, note, e.to...)
		if err != nil {
			return err
		}
		w, e.cipher = c, c
	}
	e.zstd.Reset(w)
	return nil
}

func (e *Encoder) write(p []byte) error {
	_, err := e.zstd.Write(p)
	return err
}

// end completes the file.
func (e *Encoder) end() error {
	err := e.zstd.Close()
	if err == nil && e.cipher != nil {
		err = e.cipher.Close()
	}
	return err
}

// reader gives the file that is made of what c reads.
func (e *Encoder) reader(c *compressor) (io.Reader, error) {
	if !e.Encrypts() {
		return c, nil
	}
	return crypt.EncryptReader(c, e.to...)
}

// compressor is an encoder that is read from: each Read encodes as much as it takes to have
// something to give. That needs no goroutine, and holds one block.
type compressor struct {
	src   io.Reader
	zstd  *zstd.Encoder
	in    *counter
	buf   []byte
	ready bytes.Buffer
	done  bool
}

func newCompressor(z *zstd.Encoder, src io.Reader) *compressor {
	c := &compressor{src: src, zstd: z, in: newCounter(), buf: make([]byte, 128<<10)}
	z.Reset(&c.ready)
	return c
}

func (c *compressor) Read(p []byte) (int, error) {
	for c.ready.Len() == 0 {
		if c.done {
			return 0, io.EOF
		}
		c.ready.Reset()
		n, err := c.src.Read(c.buf)
		_, _ = c.in.Write(c.buf[:n]) // a hash never fails
		if _, err := c.zstd.Write(c.buf[:n]); err != nil {
			return 0, err
		}
		if err == io.EOF {
			c.done = true
			err = c.zstd.Close()
		}
		if err != nil {
			return 0, err
		}
	}
	return c.ready.Read(p) // it has something
}
