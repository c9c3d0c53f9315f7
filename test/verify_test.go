package test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/crc64"
	"github.com/offloader/offloader/internal/engine/enginetest"
	"github.com/offloader/offloader/test/blackbox"
)

// verified is what `offloader verify --json` prints, as far as tests look at it.
type verified struct {
	Files    int64 `json:"files"`
	Findings []struct {
		File string `json:"file"`
		What string `json:"what"`
		Cost string `json:"cost"`
		Lost []struct {
			From blackbox.Place `json:"from"`
			To   blackbox.Place `json:"to"`
		} `json:"lost"`
	} `json:"findings"`
	Unread []string `json:"unread"`
}

func verifying(t *testing.T, a blackbox.Archive, code int) (v verified) {
	t.Helper()
	r := a.Run("verify", "--json")
	require.Equal(t, code, r.Code, "%s", r)
	var all struct {
		Stores []verified `json:"stores"`
	}
	require.NoError(t, json.Unmarshal([]byte(r.Stdout), &all), "%s", r)
	require.Len(t, all.Stores, 1)
	v = all.Stores[0]
	return v
}

// Whatever happens to whichever file: verify finds it, names it, says with which moments it goes,
// and exits with 4.
func TestVerifyFindsWounds(t *testing.T) {
	t.Parallel()
	s := tell(t)
	whole := verifying(t, blackbox.ArchiveAt(t, s.copied(t)), 0)
	require.Empty(t, whole.Findings)
	require.Empty(t, whole.Unread)
	_, all := segments(t, blackbox.ArchiveAt(t, s.copied(t)), "cache")
	first, last := all[0], all[len(all)-1]
	for _, row := range []struct {
		file string // below the timeline, may be a pattern
		lost int64  // from where on moments are lost, -1: it is said in words
	}{
		{first.Name, first.From}, {last.Name, last.From}, {"snapshots/*.rdb.zst", s.begin}, {"snapshots/*.json", s.begin}, {"timeline.json", -1},
	} {
		for wound, hurt := range wounds {
			t.Run(row.file+": "+wound, func(t *testing.T) {
				dir := s.copied(t)
				if wound == "a bit that flipped" && strings.HasSuffix(row.file, ".json") {
					hurt = flipInName // elsewhere it may be harmless: a letter of the reason
				}
				name := damage(t, filepath.Join(dir, "cache", s.timeline, row.file), hurt)
				if strings.HasSuffix(name, ".json") && wound == "cut by one byte" {
					require.Empty(t, verifying(t, blackbox.ArchiveAt(t, dir), 0).Findings, "it was the last newline")
					return
				}
				v := verifying(t, blackbox.ArchiveAt(t, dir), 4)
				require.Len(t, v.Findings, 1)
				f := v.Findings[0]
				// A sidecar that is still JSON tells of damage without telling on which side.
				require.Contains(t, f.File, strings.TrimSuffix(filepath.Base(name), ".json"))
				require.NotEmpty(t, f.What)
				if row.lost < 0 {
					require.Equal(t, "nothing of this timeline can be restored", f.Cost)
					return
				}
				require.Equal(t, row.lost, f.Lost[0].From.Offset)
				require.Equal(t, s.end, f.Lost[len(f.Lost)-1].To.Offset)
				require.Contains(t, f.Cost, "can't be restored: ")
			})
		}
	}
}

// What is wrong between the files.
func TestVerifyFindsWhatIsMissingOrDisagrees(t *testing.T) {
	t.Parallel()
	s := tell(t)
	_, all := segments(t, blackbox.ArchiveAt(t, s.copied(t)), "cache")
	first := all[0]
	edit := func(t *testing.T, pattern string, old *regexp.Regexp, with string) {
		damage(t, pattern, func(b []byte) []byte {
			require.Regexp(t, old, string(b))
			return old.ReplaceAll(b, []byte(with))
		})
	}
	remove := func(pattern string) func(*testing.T, string) {
		return func(t *testing.T, timeline string) {
			found, err := filepath.Glob(filepath.Join(timeline, pattern))
			require.NoError(t, err)
			require.Len(t, found, 1)
			require.NoError(t, os.Remove(found[0]))
		}
	}
	for name, row := range map[string]struct {
		hurt       func(t *testing.T, timeline string)
		file, says string
	}{
		"a segment is gone":     {remove(first.Name), "/log", fmt.Sprintf("offsets %d to %d are missing", first.From, first.To)},
		"a snapshot is gone":    {remove("snapshots/*.rdb.zst"), ".rdb.zst", "it is missing"},
		"a sidecar is gone":     {remove("snapshots/*.json"), ".rdb.zst", "its sidecar is missing"},
		"timeline.json is gone": {remove("timeline.json"), "/timeline.json", "it is missing"},
		"the parent is gone": {func(t *testing.T, timeline string) {
			edit(t, filepath.Join(timeline, "timeline.json"), regexp.MustCompile(`"spool"`), fmt.Sprintf(`"parent": {"timeline": "20200101T000000.000Z-12345678", "offset": %d}, "spool"`, s.begin))
		}, "/timeline.json", "its parent 20200101T000000.000Z-12345678 is missing"},
		"a sidecar was edited": {func(t *testing.T, timeline string) {
			edit(t, filepath.Join(timeline, "snapshots/*.json"), regexp.MustCompile(`"0": 1\b`), `"0": 2`)
		}, ".rdb.zst", "its sidecar says that database 0 has 2 keys, there are 1"},
		"an event was edited": {func(t *testing.T, timeline string) {
			edit(t, filepath.Join(timeline, "events/*-outage.json"), regexp.MustCompile(`"kind": "outage"`), `"kind": "outrage"`)
		}, "-outage.json", "it doesn't say what its name says"},
		"segments disagree": {func(t *testing.T, timeline string) { contradict(t, timeline, first) }, ".aof.zst", "hold different bytes at offset "},
	} {
		t.Run(name, func(t *testing.T) {
			dir := s.copied(t)
			row.hurt(t, filepath.Join(dir, "cache", s.timeline))
			v := verifying(t, blackbox.ArchiveAt(t, dir), 4)
			require.Len(t, v.Findings, 1)
			require.True(t, strings.HasSuffix(v.Findings[0].File, row.file), "%+v", v.Findings)
			require.Contains(t, v.Findings[0].What, row.says)
		})
	}
}

// contradict puts a segment beside another that has the same range, and a right checksum, and one
// other byte in it.
func contradict(t *testing.T, timeline string, s storedSegment) {
	t.Helper()
	stored, err := os.ReadFile(filepath.Join(timeline, s.Name))
	require.NoError(t, err)
	dec, err := zstd.NewReader(nil)
	require.NoError(t, err)
	defer dec.Close()
	text, err := dec.DecodeAll(stored, nil)
	require.NoError(t, err)
	at := bytes.Index(text, []byte("key:77"))
	require.Positive(t, at)
	text[at] = 'K'
	enc, err := zstd.NewWriter(nil)
	require.NoError(t, err)
	stored = enc.EncodeAll(text, nil)
	name, err := archive.ParseSegmentName(s.Name)
	require.NoError(t, err)
	name.Sum = crc64.Update(0, stored)
	require.NoError(t, os.WriteFile(filepath.Join(timeline, name.String()), stored, 0o600))
}

// A daemon is hard at work meanwhile, seals, joins and deletes: nothing of that is damage.
func TestVerifyUnderLoad(t *testing.T) {
	t.Parallel()
	kind := enginetest.Any(t)
	master := enginetest.Start(t, kind, "--repl-backlog-size", "256mb")
	d := blackbox.StartWith(t, t.TempDir(), smallSpool(master))
	d.Streaming("cache")
	load(t, master, 3)
	d.Until("cache", "in the store", func(s blackbox.SourceStatus) bool { return len(s.Stores) == 1 && s.Stores[0].Stored > 0 })
	rounds, enough := 0, time.Now().Add(time.Duration(count(t, "seconds of verifying", 60, 6))*time.Second)
	var files int64
	for time.Now().Before(enough) {
		v := verifying(t, d.Archive, 0)
		require.Empty(t, v.Findings)
		require.Empty(t, v.Unread)
		files = max(files, v.Files)
		rounds++
	}
	t.Logf("%d rounds, of at most %d files", rounds, files)
	require.Greater(t, files, int64(4), "segments have come meanwhile")
	require.Greater(t, rounds, 3)
}
