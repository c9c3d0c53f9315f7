// Package durabletest makes the disk below package durable fail, for tests of whatever stands
// on it.
package durabletest

import (
	"testing"

	"github.com/offloader/offloader/internal/durable/internal/fault"
)

// Points at which durable asks before it makes the system call of that name.
const (
	Write    = "write"    // to an append-only file
	Sync     = "sync"     // fsync or fdatasync of a file
	SyncDir  = "syncdir"  // fsync of a folder
	Rename   = "rename"   // of a file or folder into place, replacing or not
	Remove   = "remove"   // of a file or folder
	Truncate = "truncate" // of an append-only file
)

// Fail has f asked before each system call of durable until the test ends; an error that it
// returns stands in for the call. Tests that use it can't run in parallel with others that write.
func Fail(t testing.TB, f func(point, path string) error) {
	t.Helper()
	hook := fault.Func(f)
	before := fault.Set(&hook)
	t.Cleanup(func() { fault.Set(before) })
}
