package test

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const module = "github.com/offloader/offloader/"

// rooms are the packages in the order of docs/architecture.md: each may import those before it.
var rooms = []string{
	"internal/stream", "internal/schedule", "internal/resp", "internal/crc64", "internal/rdbwalk",
	"internal/durable/internal/fault", "internal/durable",
	"internal/crypt", "internal/archive", "internal/stale", "internal/mirror", "internal/store", "internal/export",
	"internal/syncer", "internal/amnesia", "internal/relay", "internal/spool", "internal/source",
	"internal/rebirth", "internal/plan", "internal/replay", "internal/feed", "internal/engine", "internal/fresh", "internal/keyspace", "internal/restore", "internal/carry", "internal/running", "internal/history", "internal/verify", "internal/retention",
	"internal/check", "internal/config", "internal/heartbeat", "internal/httpapi",
	"cmd/offloader",
}

// strangers are packages that must not know each other, whatever the order says: the daemon's
// side and the readers' side meet in the archive's format only.
var strangers = [][2]string{
	{"internal/plan", "internal/spool"}, {"internal/plan", "internal/store"}, {"internal/plan", "internal/source"},
	{"internal/replay", "internal/spool"}, {"internal/replay", "internal/store"}, {"internal/replay", "internal/source"},
	{"internal/feed", "internal/spool"}, {"internal/feed", "internal/store"}, {"internal/feed", "internal/source"},
	{"internal/restore", "internal/spool"}, {"internal/restore", "internal/store"}, {"internal/restore", "internal/source"},
	{"internal/running", "internal/spool"}, {"internal/running", "internal/store"}, {"internal/running", "internal/source"},
	{"internal/history", "internal/spool"}, {"internal/history", "internal/store"},
	{"internal/engine", "internal/archive"}, {"internal/engine", "internal/relay"}, {"internal/verify", "internal/spool"}, {"internal/verify", "internal/store"}, {"internal/verify", "internal/source"},
	{"internal/retention", "internal/spool"}, {"internal/retention", "internal/store"}, {"internal/retention", "internal/source"}, {"internal/retention", "internal/config"},
	{"internal/spool", "internal/syncer"}, {"internal/spool", "internal/store"}, {"internal/syncer", "internal/archive"},
	{"internal/source", "internal/store"}, {"internal/httpapi", "internal/config"}, {"internal/check", "internal/config"},
	{"internal/config", "internal/store"},
	{"internal/rebirth", "internal/source"}, {"internal/rebirth", "internal/relay"}, {"internal/rebirth", "internal/syncer"},
}

// TestImportsGoOneWay holds the order of docs/architecture.md.
func TestImportsGoOneWay(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-f", `{{.ImportPath}} {{join .Imports " "}}`, module+"internal/...", module+"cmd/...").Output()
	require.NoError(t, err)
	for line := range strings.Lines(string(out)) {
		words := strings.Fields(line)
		from := strings.TrimPrefix(words[0], module)
		if strings.HasSuffix(from, "test") {
			continue // for tests only
		}
		at := slices.Index(rooms, from)
		require.GreaterOrEqual(t, at, 0, "%s has no place in the order: see docs/architecture.md", from)
		for _, to := range words[1:] {
			to, ours := strings.CutPrefix(to, module)
			if !ours {
				continue
			}
			require.Less(t, slices.Index(rooms, to), at, "%s must not import %s", from, to)
			require.NotContains(t, strangers, [2]string{from, to}, "%s must not know %s", from, to)
		}
	}
}

// TestEveryPackageSaysWhatItIs wants a package comment in each, files of at most 600 lines, and
// no init.
func TestEveryPackageSaysWhatItIs(t *testing.T) {
	said := map[string]bool{}
	root := ".."
	require.NoError(t, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (strings.HasPrefix(d.Name(), ".") && path != root || d.Name() == "testdata") {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if lines := bytes.Count(text, []byte("\n")); lines > 600 {
			t.Errorf("%s has %d lines", path, lines)
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, text, parser.ParseComments)
		if err != nil {
			return err
		}
		said[filepath.Dir(path)] = said[filepath.Dir(path)] || f.Doc != nil
		for _, decl := range f.Decls {
			if fn, ok := decl.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
				t.Errorf("%s has an init", path)
			}
		}
		return nil
	}))
	for dir, ok := range said {
		if !ok {
			t.Errorf("%s doesn't say what it is", dir)
		}
	}
}
