package test

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/engine/enginetest"
	"github.com/offloader/offloader/test/blackbox"
)

// A configuration that is wrong: exit code 2, with line, column and what was meant, for whatever
// reads it. Nothing is started or made.
func TestBadInputConfiguration(t *testing.T) {
	t.Parallel()
	mastersOnly := map[string]bool{"an address that is none": true, "a variable that isn't set": true, "a password file that is missing": true, "a relay for everybody": true}
	for _, row := range []struct {
		name, yaml string
		says       []string // FILE stands for the file's name
	}{
		{"unknown field", "sources:\n  - name: cache\n    adress: 127.0.0.1:1\nstores: [{type: disk, path: DIR/a}]",
			[]string{`FILE:3:5: unknown field "adress": did you mean "address"?`}},
		{"unknown field at the top", "source: []\nstores: [{type: disk, path: DIR/a}]", []string{`FILE:1:1: unknown field "source": did you mean "sources"?`}},
		{"unknown field in a flow", "sources: [{name: cache, address: '127.0.0.1:1'}]\nspool: {pth: DIR/s}\nstores: [{type: disk, path: DIR/a}]",
			[]string{`FILE:2:9: unknown field "pth": did you mean "path"?`}},
		{"like nothing known", "sources: [{name: cache, address: '127.0.0.1:1'}]\nzzzzzz: 1\nstores: [{type: disk, path: DIR/a}]", []string{`FILE:2:1: unknown field "zzzzzz"`}},
		{"wrong kind of value", "sources: cache\nstores: [{type: disk, path: DIR/a}]", []string{"FILE:1:10: "}},
		{"wrong size", "sources: [{name: cache, address: '127.0.0.1:1'}]\nspool: {max_size: 20 apples}\nstores: [{type: disk, path: DIR/a}]",
			[]string{`FILE:2:19: "20 apples" is not a size: say 64MiB or 20GiB`}},
		{"an export that would overwrite", "sources: [{name: cache, address: '127.0.0.1:1'}]\nexports: [{schedule: '@daily', to: DIR/dump.rdb}]\nstores: [{type: disk, path: DIR/a}]",
			[]string{`FILE:2:36: each run would write to the same name`, "put {time} into it"}},
		{"a placeholder that isn't", "sources: [{name: cache, address: '127.0.0.1:1'}]\nexports: [{schedule: '@daily', to: 'DIR/{tme}.rdb'}]\nstores: [{type: disk, path: DIR/a}]",
			[]string{`FILE:2:36: unknown placeholder {tme}: did you mean {time}?`}},
		{"a relay for everybody", "sources: [{name: cache, address: '127.0.0.1:1', relay: {listen: '0.0.0.0:2'}}]\nstores: [{type: disk, path: DIR/a}]",
			[]string{`FILE:1:65: 0.0.0.0:2 can be reached from other hosts, and everybody there could copy the data: add "password_file", or listen on 127.0.0.1`}},
		{"a store twice", "sources: [{name: cache, address: '127.0.0.1:1'}]\nstores: [{type: s3, bucket: b-b}, {type: s3, bucket: b-b, prefix: /}]", []string{`FILE:2:35: this store is named before`}},
		{"a bucket with a slash", "sources: [{name: cache, address: '127.0.0.1:1'}]\nstores: [{type: s3, bucket: b/p}]", []string{`FILE:2:29: "b/p" is more than a bucket`}},
		{"no source", "stores: [{type: disk, path: DIR/a}]", []string{`FILE:1:1: there is no "sources"`}},
		{"no store", "sources: [{name: cache, address: '127.0.0.1:1'}]", []string{`there is no "stores"`}},
		{"a field twice", "sources: [{name: cache, address: '127.0.0.1:1', name: other}]\nstores: [{type: disk, path: DIR/a}]", []string{"FILE:1:"}},
		{"a source that is hidden", "sources: [{name: .cache, address: '127.0.0.1:1'}]\nstores: [{type: disk, path: DIR/a}]", []string{"FILE:1:18: ", ".cache"}},
		{"a source that is a path", "sources: [{name: ../cache, address: '127.0.0.1:1'}]\nstores: [{type: disk, path: DIR/a}]", []string{"FILE:1:18: ", "../cache"}},
		{"two sources of one name", "sources:\n  - {name: cache, address: '127.0.0.1:1'}\n  - {name: cache, address: '127.0.0.1:2'}\nstores: [{type: disk, path: DIR/a}]",
			[]string{`FILE:3:12: there are two sources called "cache"`}},
		{"an address that is none", "sources: [{name: cache, address: 'no port:'}]\nstores: [{type: disk, path: DIR/a}]", []string{"FILE:1:34: "}},
		{"a variable that isn't set", "sources: [{name: cache, address: '${NO_SUCH_VARIABLE}'}]\nstores: [{type: disk, path: DIR/a}]", []string{"FILE:1:34: ", "NO_SUCH_VARIABLE"}},
		{"a password file that is missing", "sources: [{name: cache, address: '127.0.0.1:1', password_file: DIR/none}]\nstores: [{type: disk, path: DIR/a}]", []string{"FILE:1:64: ", "none"}},
		{"the spool among the sources", "sources: [{name: cache, address: '127.0.0.1:1'}]\nspool: {path: DIR/a/spool}\nstores: [{type: disk, path: DIR/a}]", []string{"FILE:2:15: ", "lies in the store"}},
		{"not YAML", "sources: [{name: cache", []string{"FILE:1:"}},
		{"tabs", "sources:\n\t- name: cache", []string{"FILE:2:1: "}},
		{"empty", "", []string{"FILE:1:1: the configuration is empty"}},
		{"binary", "\x00\x01\xff\xfe", []string{"FILE:1:"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			dir := t.TempDir()
			file := filepath.Join(dir, "offloader.yaml")
			require.NoError(t, os.WriteFile(file, []byte(strings.ReplaceAll(row.yaml, "DIR", dir)), 0o600))
			for _, command := range [][]string{{"run"}, {"check"}, {"list"}, {"restore", "--latest", "--dry-run"}, {"log"}, {"status"}} {
				r := blackbox.Run(t, append(command, "--config", file)...)
				if mastersOnly[row.name] && command[0] != "run" && command[0] != "check" {
					require.NotEqual(t, 2, r.Code, "who only reads an archive asks no master: %s", r)
					continue
				}
				require.Equal(t, 2, r.Code, "%s", r)
				require.Empty(t, r.Stdout)
				for _, words := range row.says {
					require.Contains(t, r.Stderr, strings.ReplaceAll(words, "FILE", file))
				}
			}
			require.Equal(t, []string{file}, files(t, dir), "nothing was made")
		})
	}
}

// Every command has its help, and what is for later versions is absent from it.
func TestBadInputLaterFlags(t *testing.T) {
	t.Parallel()
	help := blackbox.Run(t, "help")
	require.Equal(t, 0, help.Code)
	for _, command := range []string{"run", "check", "status", "snapshot", "list", "log", "restore", "serve", "promote", "export", "copy", "verify", "prune", "pin", "unpin", "release", "version", "completion"} {
		require.Regexp(t, `(?m)^\s+`+command+`\b`, help.Stdout)
		r := blackbox.Run(t, command, "--help")
		require.Equal(t, 0, r.Code, "%s", r)
		require.Contains(t, r.Stdout, "Exit codes:")
		if command == "restore" {
			require.NotRegexp(t, `--(keys|db)\b`, r.Stdout)
		}
	}
}

// A spool has one owner. A second daemon on it ends at once, naming the first, which notices
// nothing; so does one with another configuration that leads to the same spool.
func TestBadInputTwoDaemonsOnOneSpool(t *testing.T) {
	t.Parallel()
	kind := enginetest.Any(t)
	master := enginetest.Start(t, kind)
	d := blackbox.StartWith(t, t.TempDir(), onDisk(master, "$DIR/archive/.spool", "$DIR/archive", "1%"))
	d.Streaming("cache")
	before := master.Info("stats")["sync_full"]
	for _, args := range [][]string{
		{"run", "--master", master.Addr(), "--archive", d.Dir},
		{"run", "--config", configFile(t, onDisk(master, d.Dir+"/.spool", t.TempDir(), "1%"))},
	} {
		r := blackbox.Run(t, args...)
		require.Equal(t, 1, r.Code, "%s", r)
		require.Contains(t, r.Stderr, "process "+strconv.Itoa(d.Pid()))
		require.Contains(t, r.Stderr, d.Dir+"/.spool")
		require.Contains(t, r.Stderr, "hint: another daemon works here")
	}
	master.Do("SET", "k", "v")
	require.EqualValues(t, 1, master.Do("WAIT", 1, 10_000))
	require.Equal(t, before, master.Info("stats")["sync_full"])
	require.Equal(t, master.Digest(), d.Restore("--latest").Boot(kind).Digest())
}
