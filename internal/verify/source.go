package verify

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/stream"
)

const (
	// listings is how often a source is listed, at most, before what is wrong is believed: under load
	// segments come and go within tenths of a second.
	listings = 10
	// failures is how many files in a row may fail to be read before it is the store that is away.
	failures = 10
)

// source is one of them at work. What was read stays read, however often it is listed: files never
// change.
type source struct {
	Source
	o      *Options
	meter  *meter
	result *Result

	cat    *archive.Catalog
	files  []archive.Entry  // all that is wanted, named from the source on
	done   map[string]*read // what was read, by name from the source on
	unread []error          // what could not be, in the last listing
	failed int              // how many in a row
}

// read is what a file told when it was read to its end.
type read struct {
	file   string // that something is wrong with, from the root on
	wrong  string // what, "" for nothing
	note   string // worth knowing
	sealed bool   // only its stored bytes were looked at

	from, to *stream.Cursor          // the databases selected where it begins and ends; nil: not known
	sums     map[stream.Range]uint64 // CRC64 of the ranges that others hold too
}

// run reads the source until a listing brings nothing new, and what is found is what the listing
// before has shown too.
func (s *source) run(ctx context.Context) error {
	var before []Finding
	for listed := 1; ; listed++ {
		if err := s.list(ctx); err != nil {
			return err
		}
		gone, err := s.readAll(ctx)
		if err != nil {
			return err
		}
		j := &judge{source: s}
		if err := j.all(ctx); err != nil {
			return err
		}
		found := slices.DeleteFunc(slices.Clone(j.findings), func(f Finding) bool { return !slices.ContainsFunc(before, f.same) })
		if !gone && len(found) == len(j.findings) || listed == listings {
			s.count()
			s.result.Findings = append(s.result.Findings, found...)
			s.result.Notes = append(s.result.Notes, j.notes...)
			return nil
		}
		before = j.findings
	}
}

// same tells whether o is the same finding in another listing.
func (f Finding) same(o Finding) bool { return f.File == o.File && f.What == o.What }

// list takes a new look at what there is.
func (s *source) list(ctx context.Context) error {
	var err error
	if s.cat, err = s.o.Load(ctx, s.meter, s.Name); err != nil {
		return err
	}
	s.files = s.files[:0]
	for _, e := range s.meter.listed {
		e.Name = strings.TrimPrefix(e.Name, s.Name+"/")
		if s.wanted(e.Name) {
			s.files = append(s.files, e)
		}
	}
	if s.o.Timeline != "" && len(s.files) == 0 {
		return s.unknown()
	}
	left := int64(0)
	for _, e := range s.files {
		if k, _ := kindOf(below(e.Name)); (k == segment || k == rdb) && s.done[e.Name] == nil {
			left += e.Size
		}
	}
	s.meter.expect(left)
	return nil
}

// below is a file's name within its timeline.
func below(name string) string {
	_, rest, _ := strings.Cut(name, "/")
	return rest
}

// readAll reads what was not read yet. gone says that a file wasn't there any more.
func (s *source) readAll(ctx context.Context) (gone bool, err error) {
	s.unread = nil
	take := func(name string, r *read, err error) error {
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, fs.ErrNotExist):
			gone = true
			return nil
		case err != nil:
			s.unread = append(s.unread, err)
			if s.failed++; s.failed == failures {
				return fmt.Errorf("%d files in a row could not be read, the last: %w", failures, err)
			}
			return nil
		}
		s.failed = 0
		s.done[name] = r
		return nil
	}
	for _, t := range s.timelines() {
		shared := overlaps(t.Segments)
		for _, e := range t.Events {
			name := t.Timeline + "/" + e.Name()
			if !archive.ByName(e.Kind) || s.done[name] != nil {
				continue // all others are read by Load
			}
			r, err := s.event(ctx, t, e)
			if err := take(name, r, err); err != nil {
				return gone, err
			}
		}
		for _, snap := range t.Snapshots {
			name := t.Timeline + "/" + snap.Name
			if s.done[name] != nil {
				continue
			}
			r, err := s.snapshot(ctx, t, snap)
			if err := take(name, r, err); err != nil {
				return gone, err
			}
		}
		for _, seg := range t.Segments {
			name, ranges := t.Timeline+"/"+seg.Name, within(shared, seg.Range)
			if !s.done[name].lacks(ranges) {
				continue
			}
			r, err := s.segment(ctx, t, seg, ranges)
			if err := take(name, r, err); err != nil {
				return gone, err
			}
		}
	}
	return gone, nil
}

// lacks tells whether a segment has to be read, for the first time or for the sums of these ranges.
func (r *read) lacks(ranges []stream.Range) bool {
	if r == nil {
		return true
	}
	return r.wrong == "" && !r.sealed && slices.ContainsFunc(ranges, func(shared stream.Range) bool {
		_, ok := r.sums[shared]
		return !ok
	})
}

// damaged makes what was read of an error that says damage, and leaves others as they are.
func damaged(err error) (*read, error) {
	var damage *archive.DamageError
	if !errors.As(err, &damage) {
		return nil, err
	}
	return &read{file: damage.Name, wrong: whatOf(damage)}, nil
}

// whatOf is what a DamageError says, without the name.
func whatOf(e *archive.DamageError) string {
	if e.Err != nil {
		return e.What + ": " + e.Err.Error()
	}
	return e.What
}

// path is the name in the archive of a timeline's file.
func (s *source) path(t *archive.Timeline, name string) string {
	return s.Name + "/" + t.Timeline + "/" + name
}

// event reads one that the catalog knows by its name only.
func (s *source) event(ctx context.Context, t *archive.Timeline, e archive.Event) (*read, error) {
	_, err := archive.ReadEvent(ctx, s.meter, s.Name, t.Timeline, archive.EventName{Offset: e.Offset, Time: e.Time, Kind: e.Kind})
	if err != nil {
		return damaged(err)
	}
	return &read{}, nil
}

// count tallies what was read, by the last listing.
func (s *source) count() {
	for _, e := range s.files {
		kind, _ := kindOf(below(e.Name))
		r := s.done[e.Name]
		if r != nil && r.sealed {
			s.Sealed.add(e.Size)
		}
		switch {
		case kind == timelineJSON:
			s.Timelines.add(e.Size)
		case kind == event:
			s.Events.add(e.Size)
		case kind == sidecar, kind == rdb && r != nil:
			s.Snapshots.add(e.Size)
		case kind == segment && r != nil:
			s.Log.add(e.Size)
		}
	}
}
