package plan

import (
	"fmt"
	"strings"

	"github.com/offloader/offloader/internal/stream"
)

// An UnreachableError says that nothing in the archive leads to Want (exit 3; 4 where damage is among
// the Problems). Before and After
// are the nearest points that can be restored, nil where there is none.
type UnreachableError struct {
	Source        string
	Want          Point
	Why           string // "offsets 7104 to 9032 are missing: the disk was full"
	Before, After *Place
	Elsewhere     *Place   // a command like the one that is looked for, in another timeline
	Suspect       []string // timelines that have it and were passed over
	Problems      []error  // what of the archive could not be read, so that it isn't known what it held
}

func (e *UnreachableError) Error() string {
	return fmt.Sprintf("%s can't be restored to %s: %s", e.Source, e.Want, e.Why)
}

// Hint names the nearest points.
func (e *UnreachableError) Hint() string {
	var parts []string
	switch {
	case e.Before != nil && e.After != nil:
		parts = append(parts, fmt.Sprintf("the nearest points that can be restored are %s and %s", e.describe(e.Before), e.describe(e.After)))
	case e.Before != nil:
		parts = append(parts, "the nearest point that can be restored is the one before, "+e.describe(e.Before))
	case e.After != nil:
		parts = append(parts, "the nearest point that can be restored is the one after, "+e.describe(e.After))
	}
	if e.Elsewhere != nil {
		parts = append(parts, fmt.Sprintf("timeline %s has one at %s: --timeline %s", e.Elsewhere.Timeline, e.Elsewhere, e.Elsewhere.Timeline))
	}
	if len(e.Suspect) > 0 {
		parts = append(parts, fmt.Sprintf("%s was passed over as suspect: --timeline %s takes it", strings.Join(e.Suspect, ", "), e.Suspect[0]))
	}
	if len(e.Problems) > 0 {
		parts = append(parts, tellUnread(e.Problems)+"; it may have led there")
	}
	return strings.Join(parts, "; ")
}

// tellUnread names the first of what can't be read.
func tellUnread(problems []error) string {
	if n := len(problems); n > 1 {
		return fmt.Sprintf("%d files of the archive can't be read, the first of them: %v", n, problems[0])
	}
	return fmt.Sprintf("a file of the archive can't be read: %v", problems[0])
}

// describe names the timeline too where the two points lie in different ones.
func (e *UnreachableError) describe(p *Place) string {
	if e.Before != nil && e.After != nil && e.Before.Timeline != e.After.Timeline {
		return p.String() + " of timeline " + p.Timeline
	}
	return p.String()
}

// Fit is a timeline in which an offset occurs.
type Fit struct {
	Timeline string
	ReplID   stream.ReplID
}

// An AmbiguousError is an offset that occurs in more than one history (exit 2).
type AmbiguousError struct {
	Source string
	Offset stream.Offset
	Fits   []Fit // in order of birth
}

func (e *AmbiguousError) Error() string {
	fits := make([]string, len(e.Fits))
	for i, f := range e.Fits {
		fits[i] = fmt.Sprintf("%s (replication id %s)", f.Timeline, f.ReplID)
	}
	return fmt.Sprintf("offset %d of %s is in more than one history: %s", e.Offset, e.Source, strings.Join(fits, ", "))
}

// Hint tells how to choose.
func (e *AmbiguousError) Hint() string {
	names := make([]string, len(e.Fits))
	for i, f := range e.Fits {
		names[i] = "--timeline " + f.Timeline
	}
	return "choose one: " + strings.Join(names, " or ")
}

// A DoubtError is a file that can't be read and that says whether Want can be restored (exit 4, as
// it unwraps to an *archive.DamageError).
type DoubtError struct {
	Source string
	Want   Point
	Damage error
	Way    string // what is sure all the same
}

func (e *DoubtError) Error() string {
	return fmt.Sprintf("%s can't be restored to %s for sure: %v", e.Source, e.Want, e.Damage)
}

func (e *DoubtError) Unwrap() error { return e.Damage }

// Hint says what the file is for, and what can be had without it.
func (e *DoubtError) Hint() string { return e.Way }

// An UnknownTimelineError is the name of a timeline that the source doesn't have (exit 2).
type UnknownTimelineError struct {
	Source   string
	Timeline string
	Known    []string // in order of birth
}

func (e *UnknownTimelineError) Error() string {
	return fmt.Sprintf("%s has no timeline %q", e.Source, e.Timeline)
}

// Hint names those that there are.
func (e *UnknownTimelineError) Hint() string {
	if len(e.Known) == 0 {
		return "nothing is archived of this source"
	}
	return "there are: " + strings.Join(e.Known, ", ")
}
