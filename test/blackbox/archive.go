package blackbox

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/offloader/offloader/internal/engine/enginetest"
)

// An Archive is what the reading commands are asked about. A daemon needn't run.
type Archive struct {
	t     TB
	where []string // --archive DIR or --config FILE
	env   []string // NAME=value
}

// ArchiveAt is the archive in a folder.
func ArchiveAt(t TB, dir string) Archive { return Archive{t, []string{"--archive", dir}, nil} }

// ArchiveOn is the archive that a URL names. What the environment must hold for it, NAME=value,
// stands behind.
func ArchiveOn(t TB, url string, env ...string) Archive {
	return Archive{t, []string{"--archive", url}, env}
}

// WithEnv is the same archive, asked with more in the environment, NAME=value.
func (a Archive) WithEnv(env ...string) Archive {
	a.env = slices.Concat(a.env, env)
	return a
}

// Run runs a command on the archive. A command comes first, its flags after it.
func (a Archive) Run(args ...string) Result {
	a.t.Helper()
	return Run(a.t, slices.Concat(a.env, args, a.where)...)
}

// Do runs a command that must succeed, and returns what it printed.
func (a Archive) Do(args ...string) string {
	a.t.Helper()
	r := a.Run(args...)
	if r.Code != 0 {
		a.t.Fatalf("%s", r)
	}
	return r.Stdout
}

// Timelines are those of a source, in order of birth.
func (a Archive) Timelines(source string) []Timeline {
	a.t.Helper()
	r := a.Run("list", "--source", source, "--json")
	if r.Code != 0 {
		a.t.Fatalf("%s", r)
	}
	var list struct {
		Sources []struct {
			Name      string     `json:"name"`
			Timelines []Timeline `json:"timelines"`
		} `json:"sources"`
	}
	decode(a.t, r, &list)
	if len(list.Sources) != 1 || list.Sources[0].Name != source {
		a.t.Fatalf("the list is not of %s: %s", source, r)
	}
	return list.Sources[0].Timelines
}

// Log is what was written, as far as args ask for it.
func (a Archive) Log(args ...string) []Entry {
	a.t.Helper()
	r := a.Run(slices.Concat([]string{"log", "--json"}, args)...)
	if r.Code != 0 {
		a.t.Fatalf("%s", r)
	}
	var log struct {
		Entries []Entry `json:"entries"`
	}
	decode(a.t, r, &log)
	return log.Entries
}

// A Restored is a folder that a restore wrote.
type Restored struct {
	Report
	t TB
}

// Restore restores into a new folder, which must succeed. args say to which point.
func (a Archive) Restore(args ...string) *Restored {
	a.t.Helper()
	dir := filepath.Join(a.t.TempDir(), "restored")
	r := a.Run(slices.Concat([]string{"restore", "--output", dir, "--json"}, args)...)
	if r.Code != 0 {
		a.t.Fatalf("%s", r)
	}
	restored := &Restored{t: a.t}
	decode(a.t, r, &restored.Report)
	if restored.Output != dir {
		a.t.Fatalf("the report says that it wrote %q, not %q", restored.Output, dir)
	}
	return restored
}

// Aim says what a restore would do, and does nothing.
func (a Archive) Aim(args ...string) Report {
	a.t.Helper()
	r := a.Run(slices.Concat([]string{"restore", "--dry-run", "--json"}, args)...)
	if r.Code != 0 {
		a.t.Fatalf("%s", r)
	}
	var report Report
	decode(a.t, r, &report)
	return report
}

// Boot starts an engine as the report says, but for the port, which may be another test's by now.
// args are more options for it.
func (r *Restored) Boot(kind enginetest.Kind, args ...string) *enginetest.Server {
	r.t.Helper()
	options := r.options()
	s := enginetest.StartIn(r.t, kind, r.Output, slices.Concat(options, args)...)
	// Commands that fail while an AOF is loaded are logged, and no more.
	if log := s.LogText(); strings.Contains(log, "== CRITICAL ==") {
		r.t.Fatalf("%s had trouble to load the restore:\n%s", kind, log)
	}
	return s
}

// Remove gives the disk back: a test may restore many times.
func (r *Restored) Remove() {
	r.t.Helper()
	if err := os.RemoveAll(r.Output); err != nil {
		r.t.Fatalf("%v", err)
	}
}

// options are those of the printed command, without the folder and where to listen: a shell takes
// the line apart, as it would for a user.
func (r *Restored) options() (kept []string) {
	r.t.Helper()
	out, err := exec.Command("sh", "-c", `printf '%s\n' `+r.Start).Output()
	if err != nil {
		r.t.Fatalf("a shell doesn't take the start command %q: %v", r.Start, err)
	}
	words := strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
	if len(words)%2 != 1 || !strings.HasSuffix(words[0], "-server") {
		r.t.Fatalf("the start command is no server and its options: %q", r.Start)
	}
	for pair := range slices.Chunk(words[1:], 2) {
		switch pair[0] {
		case "--port":
		case "--dir":
			if pair[1] != r.Output {
				r.t.Fatalf("the start command names another folder than %s: %s", r.Output, r.Start)
			}
		case "--bind":
			if pair[1] != "127.0.0.1" {
				r.t.Fatalf("the start command listens to strangers: %s", r.Start)
			}
		default:
			kept = append(kept, pair...)
		}
	}
	return kept
}
