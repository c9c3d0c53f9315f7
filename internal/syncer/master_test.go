package syncer

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/offloader/offloader/internal/stream"
)

const (
	idA = stream.ReplID("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa")
	idB = stream.ReplID("bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb")
	idC = stream.ReplID("cccccccccccccccccccccccccccccccccccccccc")
)

func TestJudge(t *testing.T) {
	// The backlog holds the bytes 1001 to 2000, as PSYNC counts; idB was left at 1500.
	m := Master{Permitted: true, ReplID: idA, ReplID2: idB, SecondOffset: 1501, Offset: 2000, BacklogFirst: 1001, BacklogLen: 1000, BacklogSize: 1 << 20}
	for _, c := range []struct {
		name string
		m    Master
		r    Resume
		full bool
		why  string
		do   string
	}{
		{"all is held", m, Resume{ID: idA, Offset: 2000}, false, "", ""},
		{"the oldest byte", m, Resume{ID: idA, Offset: 1000}, false, "", ""},
		{"one too old", m, Resume{ID: idA, Offset: 999}, true, "repl-backlog-size is too small", "CONFIG SET repl-backlog-size 2097152"},
		{"one too far", m, Resume{ID: idA, Offset: 2001}, true, "went back in time", ""},
		{"the old id, all in common", m, Resume{ID: idB, Offset: 1500}, false, "", ""},
		{"the old id, one byte more", m, Resume{ID: idB, Offset: 1501}, true, "1 B after it are held that it never had", ""},
		{"another id", m, Resume{ID: idC, Offset: 1500}, true, "not the one that is held", ""},
		{"nothing held", m, Resume{}, true, "nothing is held", ""},
		{"no backlog", Master{Permitted: true, ReplID: idA, Offset: 2000}, Resume{ID: idA, Offset: 2000}, true, "no backlog", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := c.m.Judge(c.r)
			require.True(t, v.Known)
			require.Equal(t, c.full, v.Full)
			require.Contains(t, v.Why, c.why)
			require.Contains(t, v.Do, c.do)
			require.Equal(t, c.full, v.Why != "")
		})
	}
	require.Equal(t, Verdict{}, Master{Addr: "x"}.Judge(Resume{ID: idA, Offset: 5}), "without INFO nothing is known")
}

// INFO comes from outside: whatever it says, it is taken in or passed over.
func TestInfoOfAnyKind(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		names := []string{"redis_version", "valkey_version", "role", "master_replid", "master_replid2", "second_repl_offset",
			"master_repl_offset", "repl_backlog_first_byte_offset", "repl_backlog_histlen", "repl_backlog_active", "master_host"}
		var b strings.Builder
		for range rapid.IntRange(0, 20).Draw(t, "lines") {
			b.WriteString(rapid.SampledFrom(names).Draw(t, "name") + ":" + rapid.OneOf(rapid.String(), rapid.StringMatching(`-?[0-9]{1,25}`), rapid.Just(string(idA))).Draw(t, "value") + "\r\n")
		}
		m := Master{Permitted: true}
		m.info(b.String())
		v := m.Judge(Resume{ID: idA, Offset: stream.Offset(rapid.Int64Min(0).Draw(t, "offset"))})
		if v.Full && v.Why == "" {
			t.Fatal("a full resync without a reason")
		}
		require.Regexp(t, `^[0-9A-Za-z]+\.`, m.announced()+".")
	})
}

func TestAnnouncedVersion(t *testing.T) {
	for _, c := range [][3]string{
		{"valkey", "9.1.2", "9.1.2"}, {"valkey", "10.0.0-rc1", "10.0.0"}, {"valkey", "8.1.1", "9.1.0"},
		{"redis", "8.0.2", "9.1.0"}, {"", "", "9.1.0"}, {"valkey", "junk", "9.1.0"}, {"valkey", "9.x", "9.1.0"},
	} {
		m := Master{Engine: c[0], Version: c[1]}
		require.Equal(t, c[2], m.announced(), "%s %s", c[0], c[1])
	}
}

func TestOutputLimit(t *testing.T) {
	require.Equal(t, int64(268435456), outputLimit("normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60"))
	require.Equal(t, int64(0), outputLimit("normal 0 0 0 replica 0 0 0"))
	require.Equal(t, int64(-1), outputLimit(""))
	require.Equal(t, int64(-1), outputLimit("slave x"))
}
