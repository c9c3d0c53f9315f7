package store

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/offloader/offloader/internal/archive"
)

// doubt is how long a store may take to give a file that it has given before. It is asked for one
// when another one doesn't come, and that has taken its time already.
const doubt = 10 * time.Second

// ToRead is s for those who read an archive: it tells a file that is lost from a store that is away.
//
// A service whose disk has damaged an object may say no more than that it has an error, as one that is
// overloaded does; and a disk gives an error of input or output. So when a file doesn't come, all
// repetitions notwithstanding, the store is asked for another one. If it gives that, and the first still
// not, that one is an archive.DamageError. If it gives neither it is away, and is not asked again for as
// long as it took to find out: a store that hangs costs its deadline once, and not for every file.
//
// What a store refuses (there is none, access is denied) is no word on the file, and is passed on.
func ToRead(s Reading) Reading { return &toRead{Reading: s} }

// Reading is the part of a Store that it takes to read an archive, and to put a word into it: a pin, say.
type Reading interface {
	archive.Files
	Put(ctx context.Context, name string, r io.Reader) error
	String() string
}

type toRead struct {
	Reading
	mu    sync.Mutex
	gave  string // a file that was read to its end
	away  error  // why nothing is asked of it until then
	until time.Time
}

// List implements archive.Files.
func (s *toRead) List(ctx context.Context, dir string) (entries []archive.Entry, err error) {
	err = s.ask(ctx, func() (err error) { entries, err = s.Reading.List(ctx, dir); return err })
	return entries, err
}

// Dirs implements archive.Files.
func (s *toRead) Dirs(ctx context.Context, dir string) (names []string, err error) {
	err = s.ask(ctx, func() (err error) { names, err = s.Reading.Dirs(ctx, dir); return err })
	return names, err
}

// ask asks the store itself, unless it is away.
func (s *toRead) ask(ctx context.Context, what func() error) error {
	if err := s.isAway(); err != nil {
		return err
	}
	began := time.Now()
	err := what()
	if err != nil && !refused(ctx, err) {
		s.goAway(began, err)
	}
	return err
}

func (s *toRead) isAway() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Now().Before(s.until) {
		return s.away
	}
	return nil
}

func (s *toRead) goAway(began time.Time, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.away, s.until = err, time.Now().Add(time.Since(began))
}

// refused tells that an error is no word on a file, nor on whether the store is there.
func refused(ctx context.Context, err error) bool {
	status := statusOf(err)
	return ctx.Err() != nil || errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrInvalid) ||
		errors.As(err, new(*archive.DamageError)) || 400 <= status && status < 500
}

// Open implements archive.Files.
func (s *toRead) Open(ctx context.Context, name string) (io.ReadCloser, error) {
	if err := s.isAway(); err != nil {
		return nil, err
	}
	f := &doubted{s: s, ctx: ctx, name: name}
	began := time.Now()
	if err := f.open(); err != nil {
		if err := f.judge(began, err); err != nil {
			return nil, err
		}
	}
	return f, nil
}

// doubted is a file that is read.
type doubted struct {
	s    *toRead
	ctx  context.Context // a reader's life: Read is given none
	name string

	f     io.ReadCloser // nil once it was closed
	at    int64
	again bool  // it was asked for a second time
	err   error // for good
}

// open opens it where reading has got to.
func (f *doubted) open() error {
	r, err := f.s.Reading.Open(f.ctx, f.name)
	if err != nil {
		return err
	}
	if _, err := io.CopyN(io.Discard, r, f.at); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF // it was longer before
		}
		return errors.Join(err, r.Close())
	}
	f.f = r
	return nil
}

func (f *doubted) Read(p []byte) (int, error) {
	for f.err == nil {
		began := time.Now()
		n, err := f.f.Read(p)
		f.at += int64(n)
		switch {
		case n > 0 || err == nil:
			return n, nil // what it is at its end, it says again
		case err == io.EOF:
			f.s.gaveAll(f.name)
			return 0, err
		}
		f.err = f.judge(began, err)
	}
	return 0, f.err
}

// judge finds out what an error says, of the file or of the store. Where it is nil the file was
// opened again, and can be read on.
func (f *doubted) judge(began time.Time, err error) error {
	for {
		if refused(f.ctx, err) {
			return err
		}
		if !f.s.gives(f.ctx, f.name) {
			f.s.goAway(began, err)
			return err
		}
		if f.again {
			return &archive.DamageError{Name: f.name, What: "the store doesn't give it, though it gives others", Err: unnamed(err)}
		}
		f.again = true
		_ = f.Close() // what it had to say is err
		if err = f.open(); err == nil {
			return nil
		}
	}
}

// unnamed is a store's error without the name of the file, which the sentence around it has.
func unnamed(err error) error {
	var bucket *S3Error
	var disk *DiskError
	switch {
	case errors.As(err, &bucket):
		short := *bucket
		short.Op = ""
		return &short
	case errors.As(err, &disk):
		return &DiskError{disk.Root, "", disk.Err}
	}
	return err
}

func (f *doubted) Close() error {
	if f.f == nil {
		return nil
	}
	err := f.f.Close()
	f.f = nil
	return err
}

func (s *toRead) gaveAll(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gave = name
}

// gives tells whether the store gives a file, another one than that.
func (s *toRead) gives(ctx context.Context, but string) bool {
	ctx, cancel := context.WithTimeout(ctx, doubt)
	defer cancel()
	for _, name := range s.others(ctx, but) {
		f, err := s.Reading.Open(ctx, name)
		if err != nil {
			continue
		}
		_, err = f.Read(make([]byte, 1))
		if err := errors.Join(err, f.Close()); err == nil {
			return true
		}
	}
	return false
}

// others are files to ask for: the one that was read last, or else some of the same timeline.
func (s *toRead) others(ctx context.Context, but string) (names []string) {
	const most = 3
	s.mu.Lock()
	gave := s.gave
	s.mu.Unlock()
	if gave != "" && gave != but {
		return []string{gave}
	}
	timeline := but
	for strings.Count(timeline, "/") > 1 {
		timeline = path.Dir(timeline)
	}
	entries, err := s.Reading.List(ctx, timeline)
	if err != nil {
		return nil
	}
	for _, e := range entries {
		if e.Name != but && e.Size > 0 && len(names) < most {
			names = append(names, e.Name)
		}
	}
	return names
}
