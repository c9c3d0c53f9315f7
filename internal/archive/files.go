package archive

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"golang.org/x/sync/errgroup"

	"github.com/offloader/offloader/internal/stream"
)

// maxJSON is the largest JSON file that is read. Ours have hundreds of bytes; a snapshot's counts
// keys for each database, of which there can be many.
const maxJSON = 16 << 20

// Entry is a file in a listing. Its name is that in the archive, from the root on.
type Entry struct {
	Name string
	Size int64
}

// Files is what reading an archive takes of a store.
type Files interface {
	// List gives all files below a folder, however deep, sorted by name; none where the folder
	// doesn't exist.
	List(ctx context.Context, dir string) ([]Entry, error)
	// Dirs gives the names of the folders in a folder, sorted. "" is the root.
	Dirs(ctx context.Context, dir string) ([]string, error)
	// Open gives a file's bytes. One that doesn't exist is fs.ErrNotExist.
	Open(ctx context.Context, name string) (io.ReadCloser, error)
}

// Depot is what writing takes of a store.
type Depot interface {
	// Put stores all that r gives under name, or nothing. A name that is taken keeps what it
	// has: fs.ErrExist.
	Put(ctx context.Context, name string, r io.Reader) error
	Open(ctx context.Context, name string) (io.ReadCloser, error)
}

// ErrKept is a store's refusal to delete a file that is locked, or that this archiver may not
// delete. The archive is as good as before: whoever deletes goes on.
var ErrKept = errors.New("the store keeps it")

// A VersionError says that a file was written by a later Offloader.
type VersionError struct {
	Name   string
	Format int
}

func (e *VersionError) Error() string {
	return fmt.Sprintf("%s has format %d, which was written by a newer version of offloader: this one knows format %d", e.Name, e.Format, FormatVersion)
}

// Hint says what to do about it.
func (e *VersionError) Hint() string { return "read it with the version that wrote it, or a later one" }

// WriteTimeline stores timeline.json, which makes the timeline exist. Where it exists already and
// says the same, that is no error; where it says something else it is another's, and the error
// is fs.ErrExist.
func WriteTimeline(ctx context.Context, d Depot, info TimelineInfo) error {
	if err := CheckSource(info.Source); err != nil {
		return err
	}
	if _, _, err := ParseTimelineName(info.Timeline); err != nil {
		return err
	}
	info.Format = FormatVersion
	return putJSON(ctx, d, inTimeline(info.Source, info.Timeline, timelineFile), info)
}

// ReadTimeline reads timeline.json.
func ReadTimeline(ctx context.Context, f interface {
	Open(context.Context, string) (io.ReadCloser, error)
}, source, timeline string) (TimelineInfo, error) {
	name := inTimeline(source, timeline, timelineFile)
	var info TimelineInfo
	if err := getJSON(ctx, f.Open, name, &info); err != nil {
		return TimelineInfo{}, err
	}
	damage := func(what string) (TimelineInfo, error) { return TimelineInfo{}, &DamageError{Name: name, What: what} }
	switch {
	case info.Format > FormatVersion:
		return TimelineInfo{}, &VersionError{name, info.Format}
	case info.Format != FormatVersion:
		return damage(fmt.Sprintf("it has format %d", info.Format))
	case info.Timeline != timeline:
		return damage(fmt.Sprintf("it is that of timeline %q", info.Timeline))
	case info.Offset < 0:
		return damage(fmt.Sprintf("it begins at offset %d", info.Offset))
	}
	if _, err := stream.ParseReplID(string(info.ReplID)); err != nil {
		return damage(err.Error())
	}
	return info, nil
}

// Name is the event's file, within the timeline.
func (e Event) Name() string { return EventName{e.Offset, e.Time, e.Kind}.String() }

// WriteEvent stores an event of a timeline. One that is there already, the same, is no error.
func WriteEvent(ctx context.Context, d Depot, source, timeline string, e Event) error {
	if _, err := ParseEventName(e.Name()); err != nil {
		return err
	}
	return putJSON(ctx, d, inTimeline(source, timeline, e.Name()), e)
}

// ReadEvent reads the event of that name of a timeline.
func ReadEvent(ctx context.Context, f interface {
	Open(context.Context, string) (io.ReadCloser, error)
}, source, timeline string, n EventName) (Event, error) {
	name := inTimeline(source, timeline, n.String())
	var e Event
	if err := getJSON(ctx, f.Open, name, &e); err != nil {
		return Event{}, err
	}
	damage := func(what string) (Event, error) { return Event{}, &DamageError{Name: name, What: what} }
	switch _, err := stream.ParseReplID(string(e.ReplID)); {
	case (EventName{e.Offset, e.Time, e.Kind}) != n:
		return damage("it doesn't say what its name says")
	case e.Kind == EventReplID && err != nil:
		return damage(err.Error())
	case e.Kind == EventOutage && e.From == 0:
		return damage("it doesn't say since when the link was down")
	}
	return e, nil
}

// putJSON stores v for people and programs. What is there already and equal counts as stored, so
// that a daemon that was killed before it took note can do it again.
func putJSON(ctx context.Context, d Depot, name string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	b = append(b, '\n')
	err = d.Put(ctx, name, bytes.NewReader(b))
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	there, readErr := readSmall(ctx, d.Open, name)
	if readErr != nil {
		return errors.Join(err, readErr)
	}
	if bytes.Equal(there, b) {
		return nil
	}
	return err
}

func getJSON(ctx context.Context, open func(context.Context, string) (io.ReadCloser, error), name string, v any) error {
	b, err := readSmall(ctx, open, name)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return &DamageError{Name: name, What: "it is not the JSON that belongs there", Err: err}
	}
	return nil
}

// readSmall reads a file that must not be large.
func readSmall(ctx context.Context, open func(context.Context, string) (io.ReadCloser, error), name string) ([]byte, error) {
	r, err := open(ctx, name)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(r, maxJSON+1))
	if err := errors.Join(err, r.Close()); err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if len(b) > maxJSON {
		return nil, &DamageError{Name: name, What: fmt.Sprintf("it has more than %d bytes", maxJSON)}
	}
	return b, nil
}

// ahead are small files that were read together: one after the other, each takes the way to a bucket
// and back.
type ahead map[string]smallFile

// smallFile is what came of reading one.
type smallFile struct {
	content []byte
	err     error
}

// readAhead reads small files, some at a time. What can't be read is told by Open.
func readAhead(ctx context.Context, files Files, names []string) ahead {
	const atOnce = 8
	all := make([]smallFile, len(names))
	var g errgroup.Group
	g.SetLimit(atOnce)
	for i, name := range names {
		g.Go(func() error {
			all[i].content, all[i].err = readSmall(ctx, files.Open, name)
			return nil
		})
	}
	_ = g.Wait() // an error is its file's
	read := ahead{}
	for i, name := range names {
		read[name] = all[i]
	}
	return read
}

// Open gives a file that was read.
func (a ahead) Open(_ context.Context, name string) (io.ReadCloser, error) {
	f, known := a[name]
	switch {
	case !known:
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	case f.err != nil:
		return nil, f.err
	}
	return io.NopCloser(bytes.NewReader(f.content)), nil
}
