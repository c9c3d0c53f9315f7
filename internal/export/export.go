// Package export writes a source's dataset as a plain RDB file, for other programs to take: to a
// path, or to an object on S3.
//
// An RDB comes in, as the master sent it or as a snapshot of the archive holds it, and goes out
// byte for byte under the name that a Template gives, which nothing may bear yet. It appears whole
// or not at all. Then it is read again from where it lies: its bytes have to be those that were
// sent, and it is walked, structure and CRC64. What isn't found good is taken away again, so what
// lies there and was reported can be relied on.
package export

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/offloader/offloader/internal/rdbwalk"
	"github.com/offloader/offloader/internal/store"
)

// awayFor is how long taking an export away may take, also where the program is about to end.
const awayFor = 15 * time.Second

// Options say where to.
type Options struct {
	To      Template
	MinFree float64 // the share of the file system, from 0 to 1, with less than which free none is begun
	Scratch string  // where parts of an object lie until they are sent; default the system's folder for such
}

// Put stores an RDB that was taken at a point. Where it failed, it may be called again.
type Put func(ctx context.Context, p Point, rdb io.Reader) error

// Report is an export that was found good.
type Report struct {
	Point
	To         string `json:"to"`
	Bytes      int64  `json:"bytes"`
	SHA256     string `json:"sha256"`
	RDBVersion int    `json:"rdb_version"`
	Keys       *int64 `json:"keys"`                // null where they can't be counted
	Unchecked  string `json:"unchecked,omitempty"` // why the structure was not checked, where it wasn't
}

// Run exports what get gives to a Put. When it returns nil the export was read back and found good;
// else there is none of this run, or a *CheckError names what is left.
func Run(ctx context.Context, o Options, get func(Put) error) (*Report, error) {
	var w *written
	err := get(func(ctx context.Context, p Point, rdb io.Reader) (err error) {
		w, err = write(ctx, o, p, rdb)
		return err
	})
	switch {
	case w == nil && err == nil:
		return nil, errors.New("there was nothing to export")
	case w == nil:
		return nil, err
	case err == nil:
		err = w.check(ctx)
	}
	if err != nil {
		return nil, w.away(ctx, err)
	}
	return &w.report, nil
}

// An ExistsError is a name that is taken.
type ExistsError struct{ To string }

func (e *ExistsError) Error() string {
	return e.To + " exists, and nothing is ever overwritten"
}

// Hint says what to do about it.
func (e *ExistsError) Hint() string {
	return "name another file, or let the name tell them apart: {time} and {offset} in it are replaced"
}

// Is has it recognised as fs.ErrExist.
func (e *ExistsError) Is(target error) bool { return target == fs.ErrExist }

// written is an export that lies where it should, and has not been looked at yet.
type written struct {
	store  store.Store
	name   string // in the store
	report Report
}

func write(ctx context.Context, o Options, p Point, rdb io.Reader) (*written, error) {
	to, err := parsePlace(o.To.fill(p))
	if err != nil {
		return nil, err // impossible: it was parsed as a template
	}
	st, name, err := to.open(ctx, o)
	if err != nil && ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err != nil {
		return nil, &WriteError{to.String(), err}
	}
	in := &watched{ctx: ctx, r: rdb, sum: newCounter()}
	err = st.Put(ctx, name, in)
	switch {
	case in.err != nil: // not the place's fault
		return nil, in.err
	case errors.Is(err, fs.ErrExist):
		return nil, &ExistsError{to.String()}
	case err != nil && ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case err != nil:
		return nil, &WriteError{to.String(), &said{err, st}}
	}
	return &written{st, name, Report{Point: p, To: to.String(), Bytes: in.sum.n, SHA256: in.sum.hex()}}, nil
}

// check reads it again.
func (w *written) check(ctx context.Context) error {
	f, err := w.store.Open(ctx, w.name)
	if err != nil {
		return fmt.Errorf("it could not be read back: %w", &said{err, w.store})
	}
	if file, ok := f.(*os.File); ok {
		// It was fsynced: forgotten by the kernel, it is read from the disk. Where that isn't done,
		// it is read all the same.
		_ = unix.Fadvise(int(file.Fd()), 0, 0, unix.FADV_DONTNEED)
	}
	read := &watched{ctx: ctx, r: f, sum: newCounter()}
	walker := rdbwalk.NewWalker(read)
	for walker.Next() {
		continue // what it counts is all that is wanted
	}
	unsound := walker.Finish(nil, nil)
	if unsound != nil && read.err == nil {
		_, _ = io.Copy(io.Discard, read) // for the sum; an error is in read.err
	}
	switch err := errors.Join(read.err, f.Close()); {
	case err != nil:
		return fmt.Errorf("it could not be read back: %w", &said{err, w.store})
	case read.sum.n != w.report.Bytes:
		return fmt.Errorf("read back it has %d bytes, and %d were sent", read.sum.n, w.report.Bytes)
	case read.sum.hex() != w.report.SHA256:
		return fmt.Errorf("read back it holds other bytes than were sent: their SHA-256 is %s, not %s", read.sum.hex(), w.report.SHA256)
	case unsound != nil:
		return unsound
	}
	s := walker.Summary()
	w.report.RDBVersion, w.report.Unchecked = s.Version, s.Unchecked
	if s.Unchecked == "" {
		w.report.Keys = &s.Keys
	}
	return nil
}

// A CheckError says that what was exported was not found good.
type CheckError struct {
	To   string
	Why  error
	Left error // why it is still there, nil where it was taken away
}

func (e *CheckError) Error() string {
	if e.Left != nil {
		return fmt.Sprintf("the export %s is no good: %v; and it could not be taken away: %v", e.To, e.Why, e.Left)
	}
	return fmt.Sprintf("the export %s was no good, and was taken away: %v", e.To, e.Why)
}

// Hint says what to do about it.
func (e *CheckError) Hint() string {
	if e.Left != nil {
		return "delete it, or let nobody take it for one that is good; then export again"
	}
	var way interface{ Hint() string }
	if errors.As(e.Why, &way) && way.Hint() != "" {
		return way.Hint()
	}
	return "export again; if that doesn't help, the disk, the memory or the service there is at fault"
}

// away takes an export away that was not found good for that reason.
func (w *written) away(ctx context.Context, why error) error {
	alive, cancel := context.WithTimeout(context.WithoutCancel(ctx), awayFor)
	defer cancel()
	left := w.store.Delete(alive, w.name)
	if ctx.Err() != nil && left == nil {
		return context.Cause(ctx) // told to stop: nothing is left of it
	}
	return &CheckError{w.report.To, why, left}
}

// said is what a store says of itself, without its name: that of the export, which lies in it,
// stands before.
type said struct {
	err error
	by  store.Store
}

func (e *said) Error() string {
	return strings.TrimPrefix(e.err.Error(), "archive "+e.by.String()+": ")
}
func (e *said) Unwrap() error { return e.err }

// counter is how many bytes there were, and their SHA-256.
type counter struct {
	n   int64
	sum hash.Hash
}

func newCounter() *counter { return &counter{sum: sha256.New()} }

func (c *counter) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	return c.sum.Write(p)
}

func (c *counter) hex() string { return hex.EncodeToString(c.sum.Sum(nil)) }

// watched counts and sums what is read, until ctx ends, and remembers how reading failed.
type watched struct {
	ctx context.Context //nolint:containedctx // of the call that reads
	r   io.Reader
	sum *counter
	err error
}

func (w *watched) Read(p []byte) (int, error) {
	if w.ctx.Err() != nil {
		w.err = context.Cause(w.ctx)
		return 0, w.err
	}
	n, err := w.r.Read(p)
	_, _ = w.sum.Write(p[:n]) // a hash takes everything
	if err != nil && err != io.EOF {
		w.err = err
	}
	return n, err
}
