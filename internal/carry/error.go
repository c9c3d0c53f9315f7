package carry

import (
	"fmt"

	"github.com/offloader/offloader/internal/stream"
)

// A CommandError is a command that the server refused, or that can't be carried over to it.
type CommandError struct {
	Command string
	Offset  stream.Offset // where it begins; -1 for a key of the snapshot
	Why     string
	Err     error // may be nil
}

func (e *CommandError) Error() string {
	s := e.Command
	if e.Offset >= 0 {
		s += fmt.Sprintf(" at offset %d", e.Offset)
	}
	s += ": " + e.Why
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

func (e *CommandError) Unwrap() error { return e.Err }
