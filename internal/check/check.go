// Package check tells, before the first attach, whether it is going to work and what it will
// cost; it changes nothing, neither on the master nor on a disk.
//
// A master is asked what it is and how it is set (probe.go), with whatever rights the user has;
// what it refuses is a finding too, with the line that grants it. The right to attach is tried
// by a PSYNC that can't succeed. What was learnt is a Facts, and advice.go, which does no I/O,
// turns that into findings: the fork and its size, what the master must buffer meanwhile, what
// its backlog covers. So is the replica that snapshots are taken of, and held against its master
// (replica.go); and the master against what is archived already (history.go). disk.go looks at spool
// and stores.
//
// Each finding says how it stands, and what to do where it doesn't stand well.
package check

import (
	"fmt"
	"time"

	"github.com/dustin/go-humanize"
)

// Level says how a finding stands.
type Level string

// OK is as it should be, or good to know. Warn works, and has a price or a danger. Fail is what
// prevents the daemon from doing its work.
const (
	OK   Level = "ok"
	Warn Level = "warn"
	Fail Level = "fail"
)

// Finding is one thing that was looked at.
type Finding struct {
	Source  string `json:"source,omitempty"` // "" for what concerns the daemon
	Name    string `json:"name"`
	Level   Level  `json:"level"`
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"` // what to do, often a line to paste
}

// findings is a list under construction.
type findings []Finding

func (f *findings) add(level Level, name, hint, format string, args ...any) {
	*f = append(*f, Finding{Name: name, Level: level, Message: fmt.Sprintf(format, args...), Hint: hint})
}

func (f *findings) ok(name, format string, args ...any) { f.add(OK, name, "", format, args...) }

func size(n int64) string { return humanize.IBytes(uint64(max(0, n))) }

// span is a duration in the unit that fits it.
func span(d time.Duration) string {
	switch {
	case d < time.Second:
		return fmt.Sprintf("%.3g ms", float64(d.Microseconds())/1000)
	case d < 10*time.Second:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d < 2*time.Minute:
		return fmt.Sprintf("%.0f s", d.Seconds())
	case d < 2*time.Hour:
		return fmt.Sprintf("%.0f min", d.Minutes())
	}
	return fmt.Sprintf("%.0f h", d.Hours())
}
