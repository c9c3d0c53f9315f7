package test

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"testing"

	"github.com/offloader/offloader/internal/engine/enginetest"
	"github.com/offloader/offloader/test/blackbox"
)

// TestMain builds the program that all tests here use.
func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "offloader-")
	if err == nil {
		err = blackbox.Build(dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	// These tests wait more than they work: more of them run side by side than there are cores.
	flag.Parse()
	if f := flag.Lookup("test.parallel"); f.Value.String() == strconv.Itoa(runtime.GOMAXPROCS(0)) { // nobody has said otherwise
		if err := f.Value.Set(strconv.Itoa(3 * runtime.GOMAXPROCS(0))); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// torture tells whether the tests run with their full counts.
func torture() bool { return os.Getenv("OFFLOADER_TORTURE") == "1" }

// count is how often something is done: in full, or fewer times in make test, which then says so.
func count(t *testing.T, what string, full, short int) int {
	t.Helper()
	if torture() {
		return full
	}
	t.Logf("%d %s instead of %d: make torture does all", short, what, full)
	return short
}

// nth is one of the engines, the nth of those that there are: where a test on all of them would take too
// long, they share its cases, or it shares them with others.
func nth(t *testing.T, n int) enginetest.Kind {
	t.Helper()
	all := enginetest.All(t)
	return all[n%len(all)]
}
