package enginetest

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
)

// Main lets a program that isn't a test use this package: it runs f, then ends what f started
// and removes its folders. The error is what f failed with, nil if it didn't.
func Main(f func(t TB)) error {
	p := &program{}
	done := make(chan struct{})
	go func() { // of its own, so that Fatalf can end it
		defer close(done)
		defer p.finish()
		f(p)
	}()
	<-done
	return p.failure
}

// program is the TB that Main gives to f.
type program struct {
	failure error
	undo    []func()
}

func (p *program) Helper() {}

func (p *program) Logf(format string, args ...any) {
	_, _ = fmt.Fprintf(os.Stderr, format+"\n", args...)
}

func (p *program) Failed() bool { return p.failure != nil }

func (p *program) Fatalf(format string, args ...any) {
	p.failure = errors.Join(p.failure, fmt.Errorf(format, args...))
	runtime.Goexit()
}

func (p *program) Cleanup(f func()) { p.undo = append(p.undo, f) }

func (p *program) TempDir() string {
	dir, err := os.MkdirTemp("", "offloader-")
	if err != nil {
		p.Fatalf("%v", err)
	}
	p.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func (p *program) finish() {
	for _, f := range slices.Backward(p.undo) {
		f()
	}
}
