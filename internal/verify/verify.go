// Package verify reads everything in an archive again, and checks it.
//
// One store comes in, with a source or all of them, and what comes out is a Result: what was read,
// and Findings, each with the file, what is wrong with it, and which moments can't be restored now.
// What a file says is held against its name, its checksums, its own structure, and against its
// neighbours: segments that overlap must agree in every byte, those that follow one another in the
// database and in time, the log must have no hole that no event explains, a branch must have its
// parent. JSON files have no checksum: what they repeat of something else is compared with that.
//
// Files are read one after the other through fixed buffers. The archive lives meanwhile: segments
// are joined, old files go. So what is wrong between files is believed only when another listing
// shows it too, and a file that vanished is no finding. Neither is what a spool still holds: that
// the store is behind is not for verify to tell.
package verify

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/plan"
	"github.com/offloader/offloader/internal/stream"
)

// Options say what is read.
type Options struct {
	Files    archive.Files
	Source   string // "": all
	Timeline string // of Source, "": all. What it continues is not read
	// Load makes a source's catalog: archive.Load, and with it the identities for what is encrypted.
	// Nil: without any.
	Load func(ctx context.Context, files archive.Files, source string) (*archive.Catalog, error)
	// Opens says that Load's catalog can open what is encrypted. Without it only the checksums of
	// such files as they are stored are checked.
	Opens bool
	// Progress is told how many bytes of how many were read, nil for nobody.
	Progress func(done, total int64)
	// Note is where an event "verified" of each source is stored, if nothing was found; nil for
	// nowhere. Who verifies on schedule wants one.
	Note archive.Depot
}

// Result is what came of it. Its JSON is that of `offloader verify --json`.
type Result struct {
	Began    stream.Time `json:"began"`
	Seconds  float64     `json:"seconds"`
	Files    int64       `json:"files"`
	Bytes    int64       `json:"bytes"` // as stored
	Sources  []Source    `json:"sources"`
	Findings []Finding   `json:"findings"`
	Unread   []string    `json:"unread"` // what could not be read, and why
	Notes    []string    `json:"notes"`  // what is as it may be, and yet worth knowing
}

// Took is how long it took.
func (r *Result) Took() time.Duration { return time.Duration(r.Seconds * float64(time.Second)) }

// Source is what was read of one.
type Source struct {
	Name      string `json:"name"`
	Timelines Tally  `json:"timelines"`
	Events    Tally  `json:"events"`
	Snapshots Tally  `json:"snapshots"` // with their sidecars
	Log       Tally  `json:"log"`
	Sealed    Tally  `json:"sealed"` // of the snapshots and the log, what is encrypted and was not opened
	Sound     bool   `json:"sound"`  // all of it was read, and nothing is wrong with it
}

// Tally is how much of something there is.
type Tally struct {
	Files int64 `json:"files"`
	Bytes int64 `json:"bytes"` // as stored
}

func (t *Tally) add(size int64) { t.Files, t.Bytes = t.Files+1, t.Bytes+size }

// Finding is something that is not as it was written, or not as it should be.
type Finding struct {
	Source   string `json:"source"`
	Timeline string `json:"timeline"`
	File     string `json:"file"` // its name in the archive; of a hole, the folder that it is in
	What     string `json:"what"` // is wrong with it
	Cost     string `json:"cost"` // in words
	Lost     []Lost `json:"lost"` // moments that can't be restored for it
}

// Lost is a span of moments of a timeline.
type Lost struct {
	Timeline string `json:"timeline"`
	archive.Window
}

func (l Lost) String() string {
	if l.From.Offset == l.To.Offset {
		return fmt.Sprintf("%s (offset %d) of timeline %s", l.From.Time, l.From.Offset, l.Timeline)
	}
	return fmt.Sprintf("%s to %s (offset %d to %d) of timeline %s", l.From.Time, l.To.Time, l.From.Offset, l.To.Offset, l.Timeline)
}

// A FoundError says that a Result has findings: the archive is damaged.
type FoundError struct{ Findings []Finding }

func (e *FoundError) Error() string {
	first := fmt.Sprintf("%s: %s", e.Findings[0].File, e.Findings[0].What)
	if n := len(e.Findings) - 1; n > 0 {
		return fmt.Sprintf("the archive is damaged: %s (and %d more)", first, n)
	}
	return "the archive is damaged: " + first
}

// Hint says what to do about it.
func (e *FoundError) Hint() string {
	for _, f := range e.Findings {
		if f.What == noSnapshot {
			return "`offloader copy` brings what another archive has of that timeline; where it goes on, `offloader snapshot` takes a new snapshot to start from"
		}
	}
	for _, f := range e.Findings {
		if len(f.Lost) > 0 || f.Cost == costsAll {
			return "what else there is can be restored; if there is another copy of that file, put it in place of this one"
		}
	}
	return "every moment that the archive held can still be restored; if there is another copy of that file, put it in place of this one"
}

// An UnreadError says that not everything could be read, so that nothing is known of it.
type UnreadError struct {
	Why []string
	Err error // the first
}

func (e *UnreadError) Error() string {
	if n := len(e.Why) - 1; n > 0 {
		return fmt.Sprintf("not everything could be read: %v (and %d more)", e.Err, n)
	}
	return fmt.Sprintf("not everything could be read: %v", e.Err)
}

func (e *UnreadError) Unwrap() error { return e.Err }

// An EmptyError says that there is nothing to verify, which is no good news.
type EmptyError struct{ What string }

func (e *EmptyError) Error() string { return e.What + " holds nothing that could be verified" }

// Hint says what to do about it.
func (e *EmptyError) Hint() string { return "is the name right, and the disk mounted?" }

// Run reads it all. The error is a *FoundError if there are findings, and an *UnreadError if
// something could not be read; both are in the Result too, which holds what was found so far also
// where another error ended it.
func Run(ctx context.Context, o Options) (r *Result, err error) {
	if o.Load == nil {
		o.Load = func(ctx context.Context, files archive.Files, source string) (*archive.Catalog, error) {
			return archive.Load(ctx, files, source)
		}
	}
	began := time.Now()
	r = &Result{Began: stream.TimeOf(began), Sources: []Source{}, Findings: []Finding{}, Unread: []string{}, Notes: []string{}}
	defer func() { r.Seconds = time.Since(began).Seconds() }()
	names := []string{o.Source}
	if o.Source == "" {
		if names, err = archive.Sources(ctx, o.Files); err != nil {
			return r, err
		}
	}
	meter := &meter{Files: o.Files, show: o.Progress}
	o.Files = meter
	var unread []error
	for _, name := range names {
		s := &source{o: &o, meter: meter, result: r, Source: Source{Name: name}, done: map[string]*read{}}
		before := len(r.Findings)
		if err := s.run(ctx); err != nil {
			return r, err
		}
		r.Files += s.Timelines.Files + s.Events.Files + s.Snapshots.Files + s.Log.Files
		r.Bytes += s.Timelines.Bytes + s.Events.Bytes + s.Snapshots.Bytes + s.Log.Bytes
		s.Sound = len(s.unread) == 0 && len(r.Findings) == before
		r.Sources = append(r.Sources, s.Source)
		if s.Sound && o.Note != nil {
			if err := s.note(ctx, o.Note, r.Began); err != nil {
				return r, err
			}
		}
		unread = append(unread, s.unread...)
	}
	if r.Files == 0 && len(r.Findings) == 0 && len(unread) == 0 {
		return r, &EmptyError{what(o.Source)}
	}
	err = r.conclude(unread)
	return r, err
}

func what(source string) string {
	if source == "" {
		return "the archive"
	}
	return "source " + source
}

// conclude makes an error of what is wrong.
func (r *Result) conclude(unread []error) error {
	var errs []error
	if len(r.Findings) > 0 {
		errs = append(errs, &FoundError{r.Findings})
	}
	for _, err := range unread {
		r.Unread = append(r.Unread, err.Error())
	}
	if len(unread) > 0 {
		errs = append(errs, &UnreadError{r.Unread, unread[0]})
	}
	return errors.Join(errs...)
}

// note stores the event that all was right, with the newest timeline.
func (s *source) note(ctx context.Context, to archive.Depot, began stream.Time) error {
	if s.o.Timeline != "" || len(s.cat.Timelines) == 0 {
		return nil
	}
	t := s.cat.Timelines[len(s.cat.Timelines)-1]
	e := archive.Event{
		Kind: archive.EventVerified, Offset: t.End(), From: began, Time: stream.TimeOf(time.Now()),
		Note: fmt.Sprintf("%d files, %d bytes", s.Timelines.Files+s.Events.Files+s.Snapshots.Files+s.Log.Files,
			s.Timelines.Bytes+s.Events.Bytes+s.Snapshots.Bytes+s.Log.Bytes),
	}
	if err := archive.WriteEvent(ctx, to, s.Name, t.Timeline, e); err != nil {
		return fmt.Errorf("note that source %s was verified: %w", s.Name, err)
	}
	return nil
}

// unknown is the error for a timeline that the source doesn't have.
func (s *source) unknown() error {
	var known []string
	for _, t := range s.cat.Timelines {
		known = append(known, t.Timeline)
	}
	return &plan.UnknownTimelineError{Source: s.Name, Timeline: s.o.Timeline, Known: known}
}

// wanted tells whether a file's name, below the source, is of what is to be read.
func (s *source) wanted(name string) bool {
	return s.o.Timeline == "" || strings.HasPrefix(name, s.o.Timeline+"/")
}

// timelines are those that are to be read.
func (s *source) timelines() []*archive.Timeline {
	return slices.DeleteFunc(slices.Clone(s.cat.Timelines), func(t *archive.Timeline) bool {
		return s.o.Timeline != "" && t.Timeline != s.o.Timeline
	})
}
