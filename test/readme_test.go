package test

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/engine/enginetest"
)

// TestReadmeCommands follows README.md word by word: each of its sh blocks is run, in their order,
// by the shell of a newcomer with an empty home. A block that isn't known here fails the test, and
// so does one that is gone.
//
// What a test can't have is replaced, and nothing else: the master's address and the system's
// folders by those of the test (reader.replace), git clone by a copy of this tree, sudo by nothing,
// systemctl by running what the unit says, the terminal at which a password is typed by the
// environment, ^C by a signal, and "5m ago", when nothing was archived yet, by "now".
// make test, which this is a part of, is only looked up.
func TestReadmeCommands(t *testing.T) {
	r := newReader(t, "../README.md")
	master := r.master
	const (
		checks  = "offloader check --master"
		runs    = "offloader run --master"
		user    = "redis-cli -h 10.0.0.5 ACL SETUSER"
		restore = "offloader restore --archive ~/archive --latest --output"
	)
	r.follow([]step{
		{"git clone", func(block string) {
			out := r.sh(block)
			require.Contains(t, out, "Nothing is missing: all ")
			r.cwd = filepath.Join(r.cwd, "offloader")
		}},
		{"make build", func(block string) {
			r.sh(block)
			require.FileExists(t, filepath.Join(r.root, "usr/bin/offloader"))
		}},
		{user, func(block string) {
			r.sh(block)
			for _, refused := range []string{"GET k", "SET k v", "CONFIG SET maxmemory 1", "FLUSHALL"} {
				require.Contains(t, r.sh("redis-cli -h 10.0.0.5 --user offloader --pass PASSWORD --no-auth-warning "+refused), "NOPERM")
			}
			master.Do("SET", "user:17", "Ada", "EX", "86400")
			master.Do("RPUSH", "orders", "1", "2", "3")
		}},
		{checks, func(block string) {
			out := r.sh(block)
			require.Contains(t, out, "user offloader may attach")
			require.NotContains(t, out, "FAIL")
			require.NotContains(t, out, "extra rights", "the README's user lacks a right")
			require.NoDirExists(t, filepath.Join(r.home, "archive"), "nothing is changed")
		}},
		{runs, func(block string) {
			r.background(block)
			r.streaming("--archive ~/archive")
			master.Do("DEL", "user:17")
			require.EqualValues(t, 0, master.Do("EXISTS", "user:17"))
			master.Do("SET", "user:18", "Grace")
			master.Do("WAIT", 1, 5000)
		}},
		{restore, func(block string) {
			out := r.sh(block)
			start := regexp.MustCompile(`(?m)^  start it  (\S+-server) --dir (\S+) `).FindStringSubmatch(out)
			require.NotNil(t, start, out)
			require.Equal(t, filepath.Join(r.home, "restored"), start[2])
			restored := enginetest.StartIn(t, master.Kind(), start[2], "--appendonly", "yes")
			require.Equal(t, master.Do("DBSIZE"), restored.Do("DBSIZE"))
			require.Equal(t, master.Digest(), restored.Digest())
			restored.Stop()
		}},
		{"offloader verify --boot", func(block string) {
			require.Contains(t, r.sh(block), "as the master had then")
		}},
		{"redis-cli -h 10.0.0.5 ACL DELUSER", func(block string) {
			r.stop(syscall.SIGINT)
			r.sh(block)
			require.NotContains(t, fmt.Sprint(master.Do("ACL", "LIST")), "offloader")
			require.Equal(t, "0", master.Info("replication")["connected_slaves"])
		}},
		{"offloader list", func(block string) {
			out := r.sh(strings.ReplaceAll(block, "5m ago", "now"))
			require.Contains(t, out, "DEL user:17")
			require.Contains(t, out, "goes on;")
			require.DirExists(t, filepath.Join(r.home, "then"))
			restored := enginetest.StartIn(t, master.Kind(), filepath.Join(r.home, "before"), "--appendonly", "yes")
			require.Equal(t, "Ada", restored.Do("GET", "user:17"))
			require.Nil(t, restored.Do("GET", "user:18"))
			restored.Stop()
		}},
		{"offloader restore --archive ~/archive --before 'DEL user:17' --to", func(block string) {
			server := enginetest.Start(t, master.Kind())
			r.sh(strings.ReplaceAll(block, "10.0.0.8:6379", server.Addr()))
			require.Equal(t, "Ada", server.Do("GET", "user:17"))
			require.Nil(t, server.Do("GET", "user:18"))
			server.Kill()
		}},
		{"printf 'SET order:1", func(block string) {
			r.sh(r.block(user))
			r.background(r.block(runs))
			r.streaming("--archive ~/archive")
			require.Equal(t, "OK\n1\n", r.sh(block))
			require.Equal(t, "1", master.Info("stats")["sync_full"], "it continues where it was")
		}},
		{"offloader export", func(block string) {
			require.Contains(t, r.sh(block), "found whole")
			exported := enginetest.StartIn(t, master.Kind(), filepath.Join(r.home, "exported"))
			require.Equal(t, master.Digest(), exported.Digest())
			exported.Stop()
			r.stop(syscall.SIGINT)
		}},
		{"sudo mkdir -p /etc/offloader", func(block string) {
			// The defaults of what the README leaves out belong to the system.
			local := fmt.Sprintf("spool: {path: /var/lib/offloader/spool}\nhttp: {listen: \"127.0.0.1:%d\"}\nstores:\n", enginetest.FreePort(t))
			out := r.sh(strings.Replace(block, "stores:\n", local, 1))
			require.Contains(t, out, "cache at "+master.Addr())
			require.NotContains(t, out, "FAIL")
		}},
		{"sudo useradd", func(block string) {
			r.sh(block)
			require.Contains(t, r.read("useradd"), "--system")
			require.Equal(t, "daemon-reload\nenable --now offloader\n", r.read("systemctl"))
			r.service()
		}},
		{"sudo offloader status", func(block string) {
			r.streaming("")
			require.Regexp(t, `^cache: every moment from .* can be restored; `, r.sh(block))
			r.stop(syscall.SIGTERM)
			require.DirExists(t, filepath.Join(r.root, "var/lib/offloader/archive/cache"))
		}},
		{"age-keygen", func(block string) {
			r.sh(block)
			require.Contains(t, r.read("systemctl"), "restart offloader\n")
			r.service()
			r.streaming("")
			master.Do("SET", "user:19", "Edsger")
			require.EqualValues(t, 1, master.Do("WAIT", 1, 5000))
			r.stop(syscall.SIGTERM)
			stored, err := filepath.Glob(filepath.Join(r.root, "var/lib/offloader/archive/cache/*/log/*.aof.zst.age"))
			require.NoError(t, err)
			require.NotEmpty(t, stored)
			require.NoError(t, os.RemoveAll(filepath.Join(r.root, "var/lib/offloader/spool"))) // plain, and it may be lost
		}},
		{"sudo offloader restore --latest", func(block string) {
			r.sh(block)
			restored := enginetest.StartIn(t, master.Kind(), filepath.Join(r.home, "opened"), "--appendonly", "yes")
			require.Equal(t, master.Digest(), restored.Digest())
			restored.Stop()
		}},
	})
}

// TestReadmeLinks looks up what README and the pages of docs point to in this repository.
func TestReadmeLinks(t *testing.T) {
	pages, err := filepath.Glob("../docs/*.md")
	require.NoError(t, err)
	for _, page := range append(pages, "../README.md", "../CONTRIBUTING.md", "../CHANGELOG.md") {
		text, err := os.ReadFile(page)
		require.NoError(t, err)
		for _, link := range regexp.MustCompile(`\]\(([^)#]+)\)`).FindAllStringSubmatch(string(text), -1) {
			if !strings.Contains(link[1], "://") {
				require.FileExists(t, filepath.Join(filepath.Dir(page), link[1]), "linked from %s", page)
			}
		}
	}
}

// step is what a block of a page must do. It is known by how it begins.
type step struct {
	begins string
	do     func(block string)
}

// reader is a newcomer with the README, or another page, open.
type reader struct {
	t       *testing.T
	master  *enginetest.Server
	blocks  []string
	home    string   // of the newcomer
	cwd     string   // where the newcomer's shell is
	root    string   // stands for / where the README writes to the system
	bin     string   // goes before the PATH
	caches  []string // of Go, as its environment names them
	daemon  *exec.Cmd
	ended   chan struct{}
	said    *syncBuffer // by the daemon
	replace *strings.Replacer
}

func newReader(t *testing.T, page string) *reader {
	t.Helper()
	text, err := os.ReadFile(page)
	require.NoError(t, err)
	r := &reader{t: t, blocks: shellBlocks(string(text)), master: enginetest.Start(t, enginetest.Any(t)), home: t.TempDir(), root: t.TempDir(), bin: t.TempDir()}
	r.cwd = r.home
	r.master.Do("CONFIG", "SET", "save", "3600 1") // until the runbook switches it off
	names := []string{"GOCACHE", "GOMODCACHE", "GOPATH"}
	out, err := exec.Command("go", append([]string{"env"}, names...)...).Output()
	require.NoError(t, err)
	for i, folder := range strings.Split(strings.TrimSpace(string(out)), "\n") {
		r.caches = append(r.caches, names[i]+"="+folder)
	}
	for _, dir := range []string{"usr/bin", "etc/systemd/system", "var/lib"} {
		require.NoError(t, os.MkdirAll(filepath.Join(r.root, dir), 0o755))
	}
	r.replace = strings.NewReplacer(
		"-h 10.0.0.5", fmt.Sprintf("-h 127.0.0.1 -p %d", r.master.Port()), "10.0.0.5:6379", r.master.Addr(),
		"/usr/bin/", r.root+"/usr/bin/", "/etc/", r.root+"/etc/", "=/etc", "="+r.root+"/etc", "/var/lib/", r.root+"/var/lib/",
	)
	r.programs()
	return r
}

// programs are what the newcomer's machine has, as far as this one can't give it.
func (r *reader) programs() {
	tree := filepath.Join(r.t.TempDir(), "offloader")
	copyTree(r.t, "..", tree)
	program, err := exec.LookPath("make")
	require.NoError(r.t, err)
	for name, text := range map[string]string{
		"git":          `[ "$1" = clone ] && exec cp -r ` + tree + ` offloader`,
		"sudo":         `exec "$@"`,
		"useradd":      `echo "$@" >>` + filepath.Join(r.bin, "useradd.log"),
		"systemctl":    `echo "$@" >>` + filepath.Join(r.bin, "systemctl.log"),
		"redis-server": `exec "` + r.master.Kind().Tool("server") + `" "$@"`, // it may be a valkey, as on many systems
		"redis-cli":    `exec "` + r.master.Kind().Tool("cli") + `" "$@"`,
		"make":         `[ "$1" != test ] || exec grep '^test:' Makefile` + "\nexec " + program + ` "$@"`,
		// Without --archive it reads the system's configuration.
		"offloader": `case "$*" in *--archive*|*--config*) ;; *) set -- "$@" --config "` + r.root + `/etc/offloader/offloader.yaml" ;; esac
exec "` + r.root + `/usr/bin/offloader" "$@"`,
	} {
		executable(r.t, filepath.Join(r.bin, name), text)
	}
}

// follow runs all blocks, each as its step wants.
func (r *reader) follow(steps []step) {
	r.t.Helper()
	for i, block := range r.blocks {
		require.Less(r.t, i, len(steps), "the page has a block that this test doesn't know:\n%s", block)
		require.True(r.t, strings.HasPrefix(block, steps[i].begins), "the page's block %d should begin with %q:\n%s", i+1, steps[i].begins, block)
		steps[i].do(block)
	}
	require.Len(r.t, steps, len(r.blocks), "blocks are gone from the page")
}

// block is the one that begins so.
func (r *reader) block(begins string) string {
	r.t.Helper()
	i := slices.IndexFunc(r.blocks, func(b string) bool { return strings.HasPrefix(b, begins) })
	require.GreaterOrEqual(r.t, i, 0, "the page has no %q", begins)
	return r.blocks[i]
}

// command is a block as the newcomer's shell runs it.
func (r *reader) command(block string) *exec.Cmd {
	cmd := exec.Command("bash", "-euo", "pipefail", "-c", r.replace.Replace(block))
	cmd.Dir = r.cwd
	// What this process was given for its own is none of the newcomer's; the caches of Go and the
	// engines save minutes.
	for _, pair := range os.Environ() {
		switch name, _, _ := strings.Cut(pair, "="); name {
		case "OFFLOADER_BIN", "MAKEFLAGS", "MFLAGS", "MAKELEVEL", "ENGINES", "RUN":
		default:
			cmd.Env = append(cmd.Env, pair)
		}
	}
	cmd.Env = append(cmd.Env, r.caches...)
	engines := filepath.Dir(filepath.Dir(filepath.Dir(r.master.Kind().Tool("server"))))
	cmd.Env = append(cmd.Env, "HOME="+r.home, "PATH="+r.bin+":"+os.Getenv("PATH"), "NO_COLOR=1",
		"OFFLOADER_ENGINES="+engines, "ENGINE="+r.master.Kind().String(), "OFFLOADER_PASSWORD=PASSWORD")
	return cmd
}

// sh runs a block to its end, which must be a good one, and gives what it printed.
func (r *reader) sh(block string) string {
	r.t.Helper()
	out, err := r.command(block).CombinedOutput()
	require.NoError(r.t, err, "%s\n%s", block, out)
	return string(out)
}

// background runs a block in a terminal of its own.
func (r *reader) background(block string) {
	r.t.Helper()
	r.launch(r.command("exec " + block))
}

// service does what systemd would do with the unit.
func (r *reader) service() {
	r.t.Helper()
	text, err := os.ReadFile(filepath.Join(r.root, "etc/systemd/system/offloader.service"))
	require.NoError(r.t, err)
	unit := map[string]string{}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		unit[name] = value
	}
	name, file, _ := strings.Cut(unit["LoadCredential"], ":")
	password, err := os.ReadFile(r.root + file)
	require.NoError(r.t, err, "the credential of the unit")
	credentials := r.t.TempDir()
	require.NoError(r.t, os.WriteFile(filepath.Join(credentials, name), password, 0o400))
	cmd := r.command("exec " + unit["ExecStart"])
	cmd.Env = append(cmd.Env, "CREDENTIALS_DIRECTORY="+credentials)
	r.launch(cmd)
}

func (r *reader) launch(cmd *exec.Cmd) {
	r.t.Helper()
	r.said = &syncBuffer{}
	cmd.Stdout, cmd.Stderr = r.said, r.said
	r.daemon, r.ended = cmd, start(r.t, cmd, syscall.SIGKILL)
}

// streaming waits until the daemon says so.
func (r *reader) streaming(where string) {
	r.t.Helper()
	require.Eventually(r.t, func() bool {
		out, _ := r.command("offloader status --json " + where).Output() // not there yet
		return strings.Contains(string(out), `"state": "streaming"`)
	}, time.Minute, 50*time.Millisecond, "%s", r.said)
}

// stop ends the daemon, which must end well.
func (r *reader) stop(how syscall.Signal) {
	r.t.Helper()
	require.NoError(r.t, r.daemon.Process.Signal(how))
	<-r.ended
	require.Zero(r.t, r.daemon.ProcessState.ExitCode(), "%s", r.said)
}

// read is what a program of ours was called with, a line each time.
func (r *reader) read(program string) string {
	r.t.Helper()
	text, err := os.ReadFile(filepath.Join(r.bin, program+".log"))
	require.NoError(r.t, err)
	return string(text)
}

// shellBlocks are a page's fenced blocks of sh, without the indentation that lists give them.
func shellBlocks(page string) (blocks []string) {
	var block *strings.Builder
	indent := ""
	for line := range strings.Lines(page) {
		text := strings.TrimLeft(line, " ")
		switch {
		case block == nil && strings.TrimSpace(text) == "```sh":
			block, indent = &strings.Builder{}, line[:len(line)-len(text)]
		case block != nil && strings.TrimSpace(text) == "```":
			blocks = append(blocks, block.String())
			block = nil
		case block != nil:
			block.WriteString(strings.TrimPrefix(line, indent))
		}
	}
	return blocks
}

// copyTree copies what a clone would have.
func copyTree(t *testing.T, from, to string) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		at, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		switch {
		case slices.Contains([]string{".git", ".cache", "bin", "dist"}, at):
			return filepath.SkipDir
		case d.IsDir():
			return os.MkdirAll(filepath.Join(to, at), 0o755)
		case !d.Type().IsRegular():
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, at), text, info.Mode().Perm())
	}))
}
