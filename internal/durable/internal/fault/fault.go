// Package fault is the seam at which tests make a disk fail. In production it is one load of a
// nil pointer before each system call that makes something durable.
package fault

import "sync/atomic"

// A Func is asked before the system call named point is made for path. An error that it returns
// stands in for the call.
type Func func(point, path string) error

// hook is state of the process on purpose: what is under test is buried under packages that
// have no reason to know of it.
var hook atomic.Pointer[Func]

// Set installs f, nil for none, and gives back what was there.
func Set(f *Func) (before *Func) { return hook.Swap(f) }

// At is the error to return instead of making the call, nil to make it.
func At(point, path string) error {
	if f := hook.Load(); f != nil {
		return (*f)(point, path)
	}
	return nil
}
