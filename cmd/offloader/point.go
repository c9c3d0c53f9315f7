package main

import (
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/offloader/offloader/internal/plan"
	"github.com/offloader/offloader/internal/stream"
)

// pointFlags are what a user aims at.
type pointFlags struct {
	at, offset, before, source, timeline string
	latest                               bool
}

// pointNames are the flags of which one says the point.
var pointNames = []string{"at", "offset", "before", "latest"}

func (f *pointFlags) add(a *app, cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.at, "at", "", "the last moment not after `TIME`")
	flags.StringVar(&f.offset, "offset", "", "the boundary at offset `N`")
	flags.StringVar(&f.before, "before", "", "just before the last `COMMAND` like this: a name, and first arguments if they matter")
	flags.BoolVar(&f.latest, "latest", false, "the last boundary that is durable")
	a.timelineFlag(cmd, &f.timeline, &f.source, "the timeline's `NAME`, see offloader list; default: chosen by the point")
	a.sourceFlag(cmd, &f.source)
}

// point reads the one of the four flags that is given.
func (f pointFlags) point(given func(string) bool, now time.Time) (plan.Point, error) {
	var chosen []string
	for _, name := range pointNames {
		if given(name) {
			chosen = append(chosen, "--"+name)
		}
	}
	switch {
	case len(chosen) == 0:
		return plan.Point{}, usagef("--latest takes all that there is", "say which point: --at, --offset, --before or --latest")
	case len(chosen) > 1:
		return plan.Point{}, usagef("keep one", "%s don't go together", strings.Join(chosen, " and "))
	}
	switch chosen[0] {
	case "--at":
		at, err := plan.ParseTime(f.at, now, time.Local)
		return plan.Point{Kind: plan.ByTime, Time: stream.TimeOf(at)}, err
	case "--offset":
		o, err := parseOffset(f.offset)
		return plan.Point{Kind: plan.ByOffset, Offset: o}, err
	case "--before":
		return plan.ParseBefore(f.before)
	}
	if !f.latest {
		return plan.Point{}, usagef("", "say which point: --latest=false is none")
	}
	return plan.Point{Kind: plan.Latest}, nil
}

// parseOffset reads decimal digits, however many zeroes stand before them: names of files have 20.
func parseOffset(s string) (stream.Offset, error) {
	n, err := strconv.ParseUint(s, 10, 63)
	if err != nil {
		return 0, usagef("offsets are what offloader list, log and status show", "--offset %q is not an offset: say a number in decimal digits, at most %d", s, int64(math.MaxInt64))
	}
	return stream.Offset(n), nil
}
