package test

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/engine/enginetest"
	"github.com/offloader/offloader/internal/rdbwalk"
	"github.com/offloader/offloader/test/blackbox"
	"github.com/offloader/offloader/test/workload"
)

// A moment is what a master held at an offset, while nobody wrote.
//
// Expiry makes this delicate: a key whose time has passed is there until something deletes it,
// which is a command of its own in the stream. So what is there is asked for in ways that delete
// nothing (DEBUG DIGEST, SAVE), with the engine's own expiry switched off meanwhile.
type moment struct {
	offset   int64
	at       time.Time
	digest   string
	expiries map[string]int64  // of every key that is there, in ms; 0: never
	keys     map[string]string // enginetest.KeyState, of those whose time hasn't passed
}

// note takes a moment that replicas many replicas have acknowledged. Nobody may write meanwhile.
func note(t *testing.T, master *enginetest.Server, replicas int64) moment {
	t.Helper()
	if master.Kind().AtLeast("valkey", 9, 0) {
		settle(t, master)
	}
	master.Do("DEBUG", "SET-ACTIVE-EXPIRE", 0)
	acknowledged(t, master, replicas)
	var m moment
	for again := true; again; { // until no PING came between the answers
		m.offset = master.Offset()
		m.digest = master.Digest()
		m.expiries = expiries(t, master)
		again = master.Offset() != m.offset
	}
	m.at = time.Now()
	for time.Since(m.at) < 2*time.Millisecond { // what comes next is to have a later time, and times are in ms
		time.Sleep(time.Millisecond)
	}
	m.keys = master.KeyState() // this deletes keys whose time has passed: behind the offset
	master.Do("DEBUG", "SET-ACTIVE-EXPIRE", 1)
	return m
}

// acknowledged waits until replicas many replicas have acknowledged all that was written so far. WAIT
// asks for the last write of the connection that it comes on, so there must be one.
func acknowledged(t *testing.T, master *enginetest.Server, replicas int64) {
	t.Helper()
	conn := master.Client().Conn()
	defer func() { require.NoError(t, conn.Close()) }()
	require.NoError(t, conn.Publish(t.Context(), "written", "by this connection").Err())
	got, err := conn.Wait(t.Context(), int(replicas), 20*time.Second).Result()
	require.NoError(t, err)
	require.Equal(t, replicas, got, "acknowledgements")
}

// settle waits until no field of a hash expires soon, and those that have are deleted. Valkey 9
// leaves fields whose time has passed out of its digest, also where they are still there, so the
// digest of a hash that has some changes with the clock.
func settle(t *testing.T, s *enginetest.Server) {
	t.Helper()
	const pending = `
		local n = 0
		for _, key in ipairs(redis.call('keys', ARGV[1])) do
			local fields = redis.call('hkeys', key)
			n = n + redis.call('hlen', key) - #fields
			for _, field in ipairs(fields) do
				if redis.call('hpttl', key, 'fields', 1, field)[1] >= 0 then n = n + 1 end
			end
		end
		return n`
	for db := range 16 {
		require.Eventually(t, func() bool {
			n, err := s.DB(db).Eval(t.Context(), pending, nil, workload.Brief+"*").Int()
			require.NoError(t, err)
			return n == 0
		}, 10*time.Second, 20*time.Millisecond, "db %d: fields that don't expire", db)
	}
}

// expiries has the server save all that is there, and reads when each key expires.
func expiries(t *testing.T, s *enginetest.Server) map[string]int64 {
	t.Helper()
	require.Eventually(t, func() bool { // a full sync's child may not be gone yet
		err := s.Client().Save(t.Context()).Err()
		require.True(t, err == nil || redis.HasErrorPrefix(err, "Background save already in progress"), "%v", err)
		return err == nil
	}, 20*time.Second, 10*time.Millisecond)
	file, err := os.Open(filepath.Join(s.Dir(), "dump.rdb"))
	require.NoError(t, err)
	defer func() { _ = file.Close() }()
	all := map[string]int64{}
	w := rdbwalk.NewWalker(file)
	for w.Next() {
		r := w.Record()
		all[fmt.Sprintf("db %d %q", r.DB, r.Key)] = int64(r.ExpireAt)
	}
	require.NoError(t, w.Err())
	return all
}

// equals boots what was restored and compares all of it with the moment. The server is a replica
// whose master isn't there, since a replica expires nothing by itself: what was loaded stays.
func (m moment) equals(t *testing.T, kind enginetest.Kind, restored *blackbox.Restored) {
	t.Helper()
	s := restored.Boot(kind, "--replicaof", "127.0.0.1 1")
	defer s.Kill()
	if got := s.Digest(); got != m.digest {
		t.Errorf("%s: the digest at offset %d is %s, the restore's is %s\n%s", kind, m.offset, m.digest, got, m.differences(s))
	}
	there := expiries(t, s)
	require.Equal(t, m.expiries, there, "keys, and when they expire, at offset %d", m.offset)
	require.Empty(t, m.differences(s), "at offset %d", m.offset)

	require.NotNil(t, restored.Keys)
	if restored.KeysNote == "" {
		require.EqualValues(t, len(there), *restored.Keys, "keys told by the report")
	} else {
		require.GreaterOrEqual(t, *restored.Keys, int64(len(there)), "keys told by the report: %s", restored.KeysNote)
	}
}

// readCount is what a group has read: Redis 7.0 doesn't tell its replicas.
var readCount = regexp.MustCompile(`( at \S+) read \S+`)

// differences names the keys in which a server differs from the moment, beside those whose time
// has passed since, which a server doesn't show any more.
func (m moment) differences(s *enginetest.Server) string {
	there := s.KeyState()
	now := time.Now().UnixMilli()
	all := maps.Clone(m.keys)
	maps.Copy(all, there)
	var out strings.Builder
	for _, key := range slices.Sorted(maps.Keys(all)) {
		want, got := m.keys[key], there[key]
		if s.Kind().AtLeast("redis", 7, 0) && !s.Kind().AtLeast("redis", 7, 2) {
			want, got = readCount.ReplaceAllString(want, "$1"), readCount.ReplaceAllString(got, "$1")
		}
		switch {
		case want == got, strings.Contains(key, `"`+workload.Brief):
		case got == "" && 0 < expiryOf(want) && expiryOf(want) <= now:
		default:
			fmt.Fprintf(&out, "%s\n  then: %s\n  now:  %s\n", key, want, got)
		}
	}
	return out.String()
}

// expiryOf reads the expiry out of a KeyState's text, 0 for none.
func expiryOf(state string) int64 {
	_, rest, found := strings.Cut(state, " expires ")
	if !found {
		return 0
	}
	digits, _, _ := strings.Cut(rest, " ")
	at, _ := strconv.ParseInt(digits, 10, 64)
	return at
}

// point is how a user names the moment to restore: by its offset or its time.
func (m moment) byOffset() []string { return []string{"--offset", strconv.FormatInt(m.offset, 10)} }

func (m moment) byTime() []string { return []string{"--at", strconv.FormatInt(m.at.UnixMilli(), 10)} }
