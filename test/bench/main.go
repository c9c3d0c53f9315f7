// Command bench measures what archiving costs and how fast it is, beside what one would use
// instead: a real replica, redis-check-rdb, redis-cli --rdb, cp. It prints one table to paste.
//
//	go run ./test/bench [-dir DIR] [-size SIZE] [-engine NAME] [-rounds N] [-only NAME,…]
//
// What is compared is measured in turns within one run, on one engine, one disk and the same
// bytes, and a ratio is that of the medians: machines differ and are never quiet, ratios hold.
// Behind each median stand the least and the most of its rounds.
//
//	cpu.go      CPU seconds per GB of stream, against a replica with appendfsync everysec
//	memory.go   RSS with a large dataset, and with 40 sources
//	master.go   what a master's own clients notice: throughput and p99
//	wait.go     SET and WAIT against the disk's fdatasync, on a quiet daemon and a busy one
//	rdb.go      the RDB walk against redis-check-rdb, the full sync against redis-cli --rdb
//	restore.go  restore against a copy, and both up to an engine that answers; into one against its own load
//	relay.go    a replica of the relay beside one of the master: full sync, ten at once, delay
//	rebirth.go  a master that was killed and comes back through the relay, beside the full sync of a replica
//	upload.go   a snapshot to S3 against the SDK's own uploader, on two servers
//	age.go      how old the oldest byte is that S3 lacks, under load
//	year.go     planning a restore over a year's archive on S3: time and requests
//
// The daemon is the real one, built from this tree, and is asked through its own status.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/dustin/go-humanize"

	"github.com/offloader/offloader/internal/engine/enginetest"
)

// measures are all that there are, in the order of the table.
var measures = []struct {
	name string
	run  func(*bench)
}{
	{"cpu", (*bench).cpu},
	{"memory", (*bench).memory},
	{"sources", (*bench).sources},
	{"master", (*bench).master},
	{"wait", (*bench).wait},
	{"walk", (*bench).walk},
	{"fullsync", (*bench).fullSync},
	{"restore", (*bench).restore},
	{"relay", (*bench).relay},
	{"replicas", (*bench).replicas},
	{"delay", (*bench).delay},
	{"rebirth", (*bench).rebirth},
	{"upload", (*bench).upload},
	{"age", (*bench).age},
	{"year", (*bench).year},
}

func main() {
	if err := run(); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run() error {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	dir := flags.String("dir", "", "folder for archives, spools and engines, on the disk to measure (default: that for temporary files)")
	size := flags.String("size", "2GB", "size of the large dataset; the rest follows it")
	engine := flags.String("engine", "", "the engine to measure with (default: the newest)")
	rounds := flags.Int("rounds", 5, "turns of each comparison")
	only := flags.String("only", "", "measure these only, of "+names())
	if err := flags.Parse(os.Args[1:]); err != nil {
		return err
	}
	bytes, err := humanize.ParseBytes(*size)
	switch {
	case err != nil || bytes < 10e6:
		return fmt.Errorf("-size %q: want a size from 10MB on", *size)
	case flags.NArg() > 0:
		return fmt.Errorf("%q: there are only flags", flags.Arg(0))
	case *rounds < 1:
		return fmt.Errorf("-rounds %d: one at least", *rounds)
	}
	wanted := func(string) bool { return true }
	if *only != "" {
		list := strings.Split(*only, ",")
		for _, name := range list {
			if !strings.Contains(","+names()+",", ","+name+",") {
				return fmt.Errorf("-only %s: there are %s", name, names())
			}
		}
		wanted = func(name string) bool { return slices.Contains(list, name) }
	}
	work, err := os.MkdirTemp(*dir, "offloader-bench-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(work) }()
	// The engines' folders are temporary ones: they belong on the same disk.
	if err := os.Setenv("TMPDIR", work); err != nil {
		return err
	}
	if *engine != "" {
		if err := os.Setenv("ENGINES", *engine); err != nil {
			return err
		}
	}
	return enginetest.Main(func(t enginetest.TB) {
		b := &bench{TB: t, kind: enginetest.Any(t), dir: work, size: int64(bytes), rounds: *rounds}
		b.build()
		for _, m := range measures {
			if wanted(m.name) {
				b.say("measuring: %s", m.name)
				m.run(b)
			}
		}
		fmt.Fprintf(os.Stdout, "%s %s, %d cores, %s/%s, %s; dataset %s, %d rounds; median (least–most).\n\n", b.kind, b.kind.Version(),
			runtime.NumCPU(), runtime.GOOS, runtime.GOARCH, runtime.Version(), humanize.Bytes(bytes), *rounds)
		b.table.print(os.Stdout)
	})
}

func names() string {
	var list []string
	for _, m := range measures {
		list = append(list, m.name)
	}
	return strings.Join(list, ",")
}

// bench is one run.
type bench struct {
	enginetest.TB
	kind   enginetest.Kind
	dir    string // for everything that is measured
	size   int64  // of the large dataset, in bytes
	rounds int
	binary string // the daemon's
	table  table

	large *enginetest.Server // see dataset
	made  int                // folders
}

// build makes the daemon as `make build` does.
func (b *bench) build() {
	b.binary = filepath.Join(b.dir, "offloader")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", b.binary, "github.com/offloader/offloader/cmd/offloader")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	b.check(err, "build offloader: %s", out)
}

// say tells what goes on, to whoever waits.
func (b *bench) say(format string, args ...any) { b.Logf(format, args...) }

// check ends the run at an error.
func (b *bench) check(err error, format string, args ...any) {
	b.Helper()
	if err != nil {
		b.Fatalf("%s: %v", fmt.Sprintf(format, args...), err)
	}
}

// folder is the path of a new one, which is not made.
func (b *bench) folder(name string) string {
	b.made++
	return filepath.Join(b.dir, fmt.Sprintf("%s-%d", name, b.made))
}

// share is a part of the size that was asked for, but no less than keeps a measurement sane.
func (b *bench) share(part float64) int64 { return max(10e6, int64(part*float64(b.size))) }
