package test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/test/blackbox"
)

// What a disk can do to a file.
var wounds = map[string]func([]byte) []byte{
	"a bit that flipped": func(b []byte) []byte { b[len(b)/2] ^= 1; return b },
	"the first bit":      func(b []byte) []byte { b[0] ^= 1; return b },
	"the last bit":       func(b []byte) []byte { b[len(b)-1] ^= 0x80; return b },
	"cut in the middle":  func(b []byte) []byte { return b[:len(b)/2] },
	"cut by one byte":    func(b []byte) []byte { return b[:len(b)-1] },
	"empty":              func([]byte) []byte { return nil },
	"a byte too much":    func(b []byte) []byte { return append(b, 0) },
	"zeroes":             func(b []byte) []byte { clear(b[len(b)/2:]); return b },
	"another's content":  func(b []byte) []byte { return []byte("not what it was") },
}

// A damaged file of the archive: exit code 4 and its name wherever it is needed, nothing written,
// and whatever doesn't need it is restored as before.
func TestBadInputDamage(t *testing.T) {
	t.Parallel()
	s := tell(t)
	_, all := segments(t, blackbox.ArchiveAt(t, s.copied(t)), "cache")
	require.GreaterOrEqual(t, len(all), 2, "one before the outage, one after it")
	last := all[len(all)-1].Name
	offset := func(n int64) []string { return []string{"--offset", strconv.FormatInt(n, 10)} }
	for _, row := range []struct {
		file   string   // below the timeline, may be a pattern
		breaks []string // a point that needs it
		works  []string // one that doesn't, nil if there is none
		digest string
	}{
		{last, []string{"--latest"}, offset(s.beforeOut), "before the outage"},
		{all[0].Name, offset(s.beforeOut), nil, ""},
		{"snapshots/*.rdb.zst", []string{"--latest"}, nil, ""},
		{"snapshots/*.json", []string{"--latest"}, nil, ""},
		{"timeline.json", []string{"--latest"}, nil, ""},
	} {
		for wound, hurt := range wounds {
			t.Run(row.file+": "+wound, func(t *testing.T) {
				dir := s.copied(t)
				if wound == "a bit that flipped" && strings.HasSuffix(row.file, ".json") {
					hurt = flipInName // elsewhere it may be harmless: a letter of the reason
				}
				name := damage(t, filepath.Join(dir, "cache", s.timeline, row.file), hurt)
				harmless := strings.HasSuffix(name, ".json") && wound == "cut by one byte"
				a := blackbox.ArchiveAt(t, dir)
				if harmless {
					// The newline behind the closing brace holds nothing.
					require.Equal(t, s.digests["latest"], a.Restore(row.breaks...).Boot(s.kind).Digest())
					return
				}
				out := filepath.Join(t.TempDir(), "out")
				r := a.Run(append([]string{"restore", "--output", out}, row.breaks...)...)
				require.Equal(t, 4, r.Code, "%s", r)
				// A sidecar that is still JSON tells of damage without telling on which side.
				require.Contains(t, r.Stderr, strings.TrimSuffix(filepath.Base(name), ".json"))
				require.Contains(t, r.Stderr, "damaged")
				require.NoDirExists(t, out)
				require.Empty(t, files(t, filepath.Dir(out)), "nothing is left beside it")
				if row.works != nil {
					require.Equal(t, s.digests[row.digest], a.Restore(row.works...).Boot(s.kind).Digest())
				}
			})
		}
	}
}

// flipInName flips a bit of what a JSON file repeats of its own name: source and timeline, or offset.
func flipInName(b []byte) []byte {
	for _, field := range []string{`"timeline": "2`, `"offset": `} {
		if i := bytes.Index(b, []byte(field)); i >= 0 {
			b[i+len(field)] ^= 1
			return b
		}
	}
	panic("neither a timeline.json nor a sidecar")
}

// damage rewrites the one file that a pattern names.
func damage(t *testing.T, pattern string, hurt func([]byte) []byte) (name string) {
	t.Helper()
	found, err := filepath.Glob(pattern)
	require.NoError(t, err)
	require.Len(t, found, 1, pattern)
	data, err := os.ReadFile(found[0])
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(found[0], hurt(data), 0o600))
	return found[0]
}

// A file that is missing altogether is a hole: the point behind it can't be restored, those before
// it can. It is damage where another file says that it was there.
func TestBadInputMissingFiles(t *testing.T) {
	t.Parallel()
	s := tell(t)
	_, all := segments(t, blackbox.ArchiveAt(t, s.copied(t)), "cache")
	last := all[len(all)-1]
	for _, row := range []struct {
		file   string
		code   int
		says   string
		before []string // a point that is there all the same
	}{
		{last.Name, 3, strconv.FormatInt(last.From, 10), []string{"--offset", strconv.FormatInt(s.beforeOut, 10)}},
		{all[0].Name, 3, fmt.Sprintf("offsets %d to %d are missing", s.begin, all[0].To), nil},
		{"snapshots/*.rdb.zst", 4, ".rdb.zst is damaged: it is missing, and its .json says that it was stored", nil},
		{"snapshots/*.json", 3, "", nil},
	} {
		t.Run(row.file, func(t *testing.T) {
			dir := s.copied(t)
			found, err := filepath.Glob(filepath.Join(dir, "cache", s.timeline, row.file))
			require.NoError(t, err)
			require.Len(t, found, 1)
			require.NoError(t, os.Remove(found[0]))
			a, out := blackbox.ArchiveAt(t, dir), filepath.Join(t.TempDir(), "out")
			r := a.Run("restore", "--output", out, "--offset", strconv.FormatInt(s.end, 10))
			require.Equal(t, row.code, r.Code, "%s", r)
			require.Contains(t, r.Stderr, row.says)
			require.NoDirExists(t, out)
			if row.before != nil {
				require.Equal(t, s.digests["before the outage"], a.Restore(row.before...).Boot(s.kind).Digest())
			}
		})
	}
}
