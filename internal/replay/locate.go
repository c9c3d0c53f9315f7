package replay

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/plan"
	"github.com/offloader/offloader/internal/resp"
	"github.com/offloader/offloader/internal/stream"
)

// Match is the command that a restore stops before.
type Match struct {
	Time    stream.Time   `json:"time"`     // when it was received
	Offset  stream.Offset `json:"offset"`   // of its first byte
	DB      int           `json:"db"`       // it was executed in
	Command string        `json:"command"`  // for people: long ones are cut
	LeftOut int64         `json:"left_out"` // commands after it, without PING, SELECT, MULTI and the like
}

// locate finds the boundary that an aim stands for.
func locate(ctx context.Context, aim *plan.Aim) (stream.Cursor, *Match, error) {
	at := stream.Cursor{Offset: aim.At.Offset, Time: aim.At.Time}
	var match *Match
	var err error
	switch kind := aim.Request.Point.Kind; {
	case kind == plan.Before:
		at, match, err = locateCommand(ctx, aim)
	case len(aim.Search) == 0:
	case kind == plan.ByTime:
		at, err = locateTime(ctx, aim)
	default:
		at, err = locateOffset(ctx, aim)
	}
	return at, match, err
}

// locateTime finds the last boundary that is not younger than the time. A command is as old as
// its first byte, a transaction as the first byte of its EXEC.
func locateTime(ctx context.Context, aim *plan.Aim) (stream.Cursor, error) {
	step, t := aim.Search[0], aim.Request.Point.Time
	at := stream.Cursor{Offset: step.Range.From, Time: min(t, step.Segment.Time0)}
	err := walk(ctx, step, func(m mark) error {
		if m.time > t {
			return errEnough
		}
		if m.boundary {
			at = stream.Cursor{Offset: m.to, Time: m.time}
		}
		return nil
	})
	return at, err
}

// locateOffset makes sure that the offset is a boundary.
func locateOffset(ctx context.Context, aim *plan.Aim) (stream.Cursor, error) {
	step, o := aim.Search[0], aim.Request.Point.Offset
	before := plan.Place{Timeline: step.Timeline, Offset: step.Range.From, Time: step.Segment.Time0}
	var after *plan.Place
	where := "command"
	err := walk(ctx, step, func(m mark) error {
		switch {
		case m.to == o && !m.boundary:
			where = "transaction (MULTI to EXEC)"
		case !m.boundary:
		case m.to <= o:
			before.Offset, before.Time = m.to, m.time
		default:
			after = &plan.Place{Timeline: step.Timeline, Offset: m.to, Time: m.time}
			return errEnough
		}
		return nil
	})
	if err != nil {
		return stream.Cursor{}, err
	}
	if before.Offset == o {
		return stream.Cursor{Offset: o, Time: before.Time}, nil
	}
	why := fmt.Sprintf("offset %d is inside a %s", o, where)
	if after != nil {
		why += fmt.Sprintf("; the boundaries before and after it are %d and %d", before.Offset, after.Offset)
	}
	return stream.Cursor{}, aim.Unreachable(why, &before, after)
}

// locateCommand finds the last command that matches, from the newest segment backwards, and the
// boundary before it, which for one in a transaction is the one before its MULTI.
func locateCommand(ctx context.Context, aim *plan.Aim) (stream.Cursor, *Match, error) {
	leftOut := int64(0)
	for _, step := range slices.Backward(aim.Search) {
		f := finder{want: aim.Request.Point, boundary: stream.Cursor{Offset: step.Range.From, Time: step.Segment.Time0}}
		if err := walk(ctx, step, f.visit); err != nil {
			return f.at, nil, err
		}
		leftOut += f.after
		if f.match != nil {
			f.match.LeftOut = leftOut
			return f.at, f.match, nil
		}
	}
	why := "nothing is held of the stream to look in"
	if n := len(aim.Search); n > 0 {
		why = fmt.Sprintf("there is none between %s and %s of timeline %s",
			plan.Place{Offset: aim.Search[0].Range.From, Time: aim.Search[0].Segment.Time0},
			plan.Place{Offset: aim.Search[n-1].Range.To, Time: aim.Search[n-1].Segment.Time1}, aim.Timeline.TimelineInfo.Timeline)
	}
	return stream.Cursor{}, nil, aim.Unreachable(why, nil, nil)
}

// elsewhere adds to an error that says that there is no such command a timeline that has one. It
// reads what the search has not read: nobody has to guess in which of many timelines it was.
func elsewhere(ctx context.Context, cat *archive.Catalog, aim *plan.Aim, err error) error {
	var none *plan.UnreachableError
	if aim.Request.Point.Kind != plan.Before || !errors.As(err, &none) {
		return err
	}
	searched := slices.Clone(aim.Search)
	for _, t := range slices.Backward(cat.Timelines) {
		other, unheld := plan.Choose(cat, plan.Request{Point: aim.Request.Point, Timeline: t.TimelineInfo.Timeline})
		if unheld != nil {
			continue
		}
		other.Search = slices.DeleteFunc(slices.Clone(other.Search), func(s plan.Step) bool {
			return slices.ContainsFunc(searched, func(known plan.Step) bool {
				return known.Timeline == s.Timeline && known.Range.From <= s.Range.From && s.Range.To <= known.Range.To
			})
		})
		searched = append(searched, other.Search...)
		// What can't be read there isn't needed here.
		if _, match, unread := locateCommand(ctx, other); unread == nil {
			none.Elsewhere = &plan.Place{Timeline: t.TimelineInfo.Timeline, Offset: match.Offset, Time: match.Time}
			return err
		}
	}
	return err
}

// finder remembers the last match in a segment.
type finder struct {
	want     plan.Point
	boundary stream.Cursor // the last one seen
	match    *Match
	at       stream.Cursor // the boundary before match
	after    int64         // commands behind match, all where there is none
}

func (f *finder) visit(m mark) error {
	switch {
	case m.cmd == nil:
	case f.want.Matches(m.cmd):
		f.match = &Match{Time: m.time, Offset: m.cmd.Start, DB: m.cmd.DB, Command: text(m.cmd)}
		f.at, f.after = f.boundary, 0
	case !isHousekeeping(m.cmd):
		f.after++
	}
	if m.boundary {
		f.boundary = stream.Cursor{Offset: m.to, Time: m.time}
	}
	return nil
}

// isHousekeeping tells the commands of a stream that no client sent to write something.
func isHousekeeping(c *resp.Command) bool {
	switch len(c.Args[0]) {
	case 4:
		return c.Is("PING") || c.Is("EXEC")
	case 5:
		return c.Is("MULTI")
	case 6:
		return c.Is("SELECT")
	case 8:
		return c.Is("REPLCONF")
	}
	return false
}

// text is a command for people: its words, quoted, cut at about 200 characters.
func text(c *resp.Command) string {
	const most = 200
	var b strings.Builder
	for i, arg := range c.Args {
		if i > 0 {
			b.WriteByte(' ')
		}
		left := max(0, most-b.Len())
		b.WriteString(plan.Quote(string(arg[:min(left, len(arg))])))
		if left < len(arg) || !c.Whole(i) || (i+1 < c.N && b.Len() >= most) {
			return fmt.Sprintf("%s… (%d arguments)", b.String(), c.N-1)
		}
	}
	if len(c.Args) < c.N {
		return fmt.Sprintf("%s… (%d arguments)", b.String(), c.N-1)
	}
	return b.String()
}
