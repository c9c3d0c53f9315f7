// Package blackbox uses offloader as its users do: it builds the program, runs its commands, starts
// and kills its daemon, and boots what it restored on the engine that wrote it.
//
// Nothing of the program's inside is known here but its command line, its JSON and its exit codes,
// so a test that is written with this package shows what a user would notice:
//
//	d := blackbox.Start(t, t.TempDir(), blackbox.Source{Name: "cache", Address: master.Addr()})
//	d.Streaming("cache")
//	…
//	restored := d.Restore("--before", "FLUSHALL")
//	server := restored.Boot(kind)
//
// Programs that aren't tests (benchmarks, the demo) use it through enginetest.Main. All that is
// started listens on the loopback only, and is gone when its test ends, also when the test binary
// is killed.
package blackbox

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"github.com/offloader/offloader/internal/engine/enginetest"
)

// TB is what this package needs of a test.
type TB = enginetest.TB

// Build makes the program, as dir/offloader, and lets all that follows in this process use it. A
// program that OFFLOADER_BIN names already is taken as it is. With OFFLOADER_RACE=1 it is built
// with the race detector: each race then fails the test in which it occurs.
func Build(dir string) error {
	if os.Getenv("OFFLOADER_BIN") != "" {
		return nil
	}
	root, err := moduleRoot()
	if err != nil {
		return err
	}
	program := filepath.Join(dir, "offloader")
	args := []string{"build", "-o", program}
	if os.Getenv("OFFLOADER_RACE") == "1" {
		args = append(args, "-race")
	}
	cmd := exec.Command("go", append(args, "./cmd/offloader")...)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build offloader: %w\n%s", err, out)
	}
	return os.Setenv("OFFLOADER_BIN", program)
}

// Binary is the path of the program that Build made.
func Binary(t TB) string {
	t.Helper()
	path := os.Getenv("OFFLOADER_BIN")
	if path == "" {
		t.Fatalf("there is no program to test: call blackbox.Build in TestMain, or set OFFLOADER_BIN")
	}
	return path
}

// moduleRoot is the folder of go.mod, at or above the current one: tests run in the folder of
// their package.
func moduleRoot() (string, error) {
	start, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for dir := start; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("no go.mod in %s or above it", start)
		}
	}
}

// A Result is what a command left behind.
type Result struct {
	Args           []string
	Stdout, Stderr string
	Code           int
}

// String is the whole of it, for a failed test.
func (r Result) String() string {
	return fmt.Sprintf("offloader %s: exit %d\n%s%s", strings.Join(r.Args, " "), r.Code, r.Stdout, r.Stderr)
}

// Run runs a command to its end. Environment variables of the form NAME=value may stand before
// the arguments, as in a shell.
func Run(t TB, args ...string) Result {
	t.Helper()
	env := os.Environ()
	for len(args) > 0 && isAssignment(args[0]) {
		env, args = append(env, args[0]), args[1:]
	}
	cmd := exec.Command(Binary(t), args...)
	cmd.Env = env
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := <-launch(t, cmd)
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("run offloader %s: %v", strings.Join(args, " "), err)
	}
	r := Result{Args: args, Stdout: stdout.String(), Stderr: stderr.String(), Code: cmd.ProcessState.ExitCode()}
	if trouble := crash(r.Stderr); trouble != "" {
		t.Fatalf("%s in\n%s", trouble, r)
	}
	return r
}

func isAssignment(arg string) bool {
	name, _, ok := strings.Cut(arg, "=")
	return ok && name != "" && strings.Trim(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZ_0123456789") == ""
}

// launch starts a process, and its channel gives what Wait said. The goroutine that starts it stays
// on its thread until the process is gone: the kernel's death signal (Pdeathsig), by which no
// process outlives the test binary, goes by the thread that started it.
func launch(t TB, cmd *exec.Cmd) <-chan error {
	t.Helper()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started, ended := make(chan error, 1), make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			ended <- cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		t.Fatalf("start %s: %v", cmd.Path, err)
	}
	return ended
}

// crash names what no program may do, whatever it was asked: panic, or race. "" if it did neither.
func crash(output string) string {
	for _, sign := range []string{"WARNING: DATA RACE", "panic: ", "fatal error: ", "[signal SIG"} {
		if strings.Contains(output, sign) {
			return sign
		}
	}
	return ""
}

// decode reads a command's JSON strictly enough to notice what isn't JSON.
func decode(t TB, r Result, into any) {
	t.Helper()
	if err := json.Unmarshal([]byte(r.Stdout), into); err != nil {
		t.Fatalf("this is not the JSON that was expected: %v\n%s", err, r)
	}
}
