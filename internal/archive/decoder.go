package archive

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/klauspost/compress/zstd"

	"github.com/offloader/offloader/internal/crypt"
)

// NewDecoder is the decoder for segments and snapshots. It refuses windows for which a small file
// could make it take gigabytes.
func NewDecoder() (*zstd.Decoder, error) {
	return zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(8<<20))
}

// decrypter gives the zstd stream that is in an encrypted file, and remembers how that failed.
type decrypter struct {
	src        *bufio.Reader
	file       string
	identities []crypt.Identity
	plain      io.Reader // nil before the first Read
	err        error
}

func (d *decrypter) Read(p []byte) (n int, err error) {
	if d.err == nil && d.plain == nil {
		d.plain, d.err = crypt.Decrypt(d.src, d.file, d.identities...)
	}
	if d.err != nil {
		return 0, d.err
	}
	n, err = d.plain.Read(p)
	if err != nil && err != io.EOF {
		// Wrapped: to zstd an io.ErrUnexpectedEOF between two frames is an end as good as any.
		d.err = fmt.Errorf("decrypt: %w", err)
		err = d.err
	}
	return n, err
}

// why is what readers say of a file that could not be decrypted. One wrong bit in the file's head
// makes it look as if it were encrypted to somebody else, so where no key fits the file's sum
// decides: the rest is read, and then sound tells.
func (d *decrypter) why(sound func() bool) error {
	var no *crypt.IdentityError
	if !errors.As(d.err, &no) {
		return &DamageError{Name: d.file, What: "it can't be decrypted", Err: d.err}
	}
	if len(no.Tried) == 0 {
		return no
	}
	if _, err := io.Copy(io.Discard, d.src); err != nil {
		return fmt.Errorf("read %s: %w", d.file, err)
	}
	if sound() {
		return no
	}
	return &DamageError{Name: d.file, What: "its checksum is not what it was when the file was written"}
}

// noteDB begins the note of an encrypted segment that says which database is selected behind its
// last byte: a daemon that has no identity goes on there when its spool is lost.
const noteDB = "db"

func noteOf(db int) crypt.Note { return crypt.Note{noteDB, strconv.Itoa(db)} }

// readDB gives what noteOf has noted.
func readDB(n crypt.Note) (db int, ok bool) {
	if len(n) < 2 || n[0] != noteDB {
		return 0, false
	}
	db, err := strconv.Atoi(n[1])
	return db, err == nil && db >= 0 && db < 1<<31
}
