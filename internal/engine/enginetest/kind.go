// Package enginetest starts real engines for tests: redis 7.0 and 8.0, valkey 8.1 and 9.1.
//
// What Offloader promises is only true if it holds against what engines really do, so tests run
// against all four and not against a model of them:
//
//	enginetest.Each(t, func(t *testing.T, kind enginetest.Kind) {
//		master := enginetest.Start(t, kind)
//		master.Do("SET", "k", "v")
//		…
//		if diff := enginetest.Diff(t, master, restored); diff != "" {
//			t.Error(diff)
//		}
//	})
//
// scripts/engines fetches them. An engine that is missing fails a test, it doesn't skip it: a
// skipped engine looks like a green one. Which of them run is narrowed by the environment
// (ENGINES=redis7.0,valkey9.1), and the tests then say so.
//
// A server listens on the loopback only, has a folder of its own, and is gone when its test
// ends, however that is: also when the test binary is killed. Programs that aren't tests
// (benchmarks, the demo) use it through Main.
package enginetest

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TB is what this package needs of a test. A *testing.T is one; Main gives one to a program.
type TB interface {
	Helper()
	Logf(format string, args ...any)
	Fatalf(format string, args ...any)
	Failed() bool
	Cleanup(f func())
	TempDir() string
}

// names are the engines there are, oldest first; scripts/engines has the same list.
var names = []string{"redis7.0", "redis8.0", "valkey8.1", "valkey9.1"}

// A Kind is one of the engines.
type Kind struct {
	name    string
	dir     string // where scripts/engines put it
	version string
}

// All is the engines that the tests run against: the four, or those that ENGINES names. It
// fails the test if one of them is missing.
func All(t TB) []Kind {
	t.Helper()
	wanted := names
	if only := os.Getenv("ENGINES"); only != "" {
		wanted = strings.FieldsFunc(only, func(r rune) bool { return r == ',' || r == ' ' })
		t.Logf("narrowed by ENGINES to %s, of %s", strings.Join(wanted, ", "), strings.Join(names, ", "))
	}
	if len(wanted) == 0 {
		t.Fatalf("ENGINES=%q names no engine: there are %s", os.Getenv("ENGINES"), strings.Join(names, ", "))
	}
	root, err := folder()
	if err != nil {
		t.Fatalf("%v", err)
	}
	var all []Kind
	for _, name := range wanted {
		if !slices.Contains(names, name) {
			t.Fatalf("ENGINES names %q: there are %s", name, strings.Join(names, ", "))
		}
		k := Kind{name: name, dir: filepath.Join(root, name)}
		version, err := os.ReadFile(filepath.Join(k.dir, "VERSION"))
		if err != nil {
			t.Fatalf("the engine %s is not there (%v): run scripts/engines", name, err)
		}
		k.version = strings.TrimSpace(string(version))
		all = append(all, k)
	}
	return all
}

// Any is the newest of All, for tests where it makes no difference which.
func Any(t TB) Kind {
	t.Helper()
	all := All(t)
	return all[len(all)-1]
}

// Each runs f as a subtest for each of All, under the engine's name.
func Each(t *testing.T, f func(t *testing.T, kind Kind)) {
	t.Helper()
	for _, kind := range All(t) {
		t.Run(kind.name, func(t *testing.T) { f(t, kind) })
	}
}

// folder is where the engines lie: in OFFLOADER_ENGINES, or below the module, whose root is
// searched upwards since tests run in the folder of their package.
func folder() (string, error) {
	if dir := os.Getenv("OFFLOADER_ENGINES"); dir != "" {
		return filepath.Abs(dir)
	}
	start, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("look for the engines: %w", err)
	}
	for dir := start; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return filepath.Join(dir, ".cache", "engines"), nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("look for the engines: no go.mod in %s or above it: set OFFLOADER_ENGINES to the folder that scripts/engines filled", start)
		}
	}
}

// String is the engine's name: "redis7.0", "valkey9.1".
func (k Kind) String() string { return k.name }

// Version is what the engine says it is: "7.0.15".
func (k Kind) Version() string { return k.version }

// Valkey tells a valkey from a redis.
func (k Kind) Valkey() bool { return strings.HasPrefix(k.name, "valkey") }

// AtLeast tells whether k is this product ("redis" or "valkey") in this version or a later one.
func (k Kind) AtLeast(product string, major, minor int) bool {
	if k.Valkey() != (product == "valkey") {
		return false
	}
	parts := strings.Split(k.version+".0", ".")
	haveMajor, _ := strconv.Atoi(parts[0])
	haveMinor, _ := strconv.Atoi(parts[1])
	return haveMajor > major || haveMajor == major && haveMinor >= minor
}

// HasWaitAOF tells whether the engine knows WAITAOF, and with it FACK.
func (k Kind) HasWaitAOF() bool { return k.Valkey() || k.AtLeast("redis", 7, 2) }

// HasHashFieldTTL tells whether fields of a hash can expire (HPEXPIRE).
func (k Kind) HasHashFieldTTL() bool { return k.AtLeast("redis", 7, 4) || k.AtLeast("valkey", 9, 0) }

// Tool is the path of one of the engine's programs: server, cli, check-aof, check-rdb or
// benchmark.
func (k Kind) Tool(name string) string { return filepath.Join(k.dir, "bin", name) }
