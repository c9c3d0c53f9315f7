package test

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/engine/enginetest"
	"github.com/offloader/offloader/test/blackbox"
)

// into restores into a server, which must succeed by the way that is named.
func into(t *testing.T, from blackbox.Archive, way string, args ...string) blackbox.Report {
	t.Helper()
	args = append([]string{"restore", "--json"}, args...)
	for i, a := range args {
		if strings.HasPrefix(a, "OFFLOADER_") { // the environment stands before the command
			args = append([]string{a}, slices.Delete(args, i, i+1)...)
			break
		}
	}
	r := from.Run(args...)
	require.Zero(t, r.Code, "%s", r)
	var report struct {
		blackbox.Report
		Format string `json:"format"`
	}
	require.NoError(t, json.Unmarshal([]byte(r.Stdout), &report), "%s", r)
	require.Equal(t, way, report.Format, "%s", r)
	require.Empty(t, report.Start)
	return report.Report
}

func redisURL(s *enginetest.Server) string { return "redis://" + s.Addr() }

// holds compares a server that is a master with the moment. What has expired since is gone, or not yet.
func (m moment) holds(t *testing.T, s *enginetest.Server) {
	t.Helper()
	require.Equal(t, "master", s.Info("replication")["role"])
	require.Empty(t, m.differences(s), "at offset %d", m.offset)
}

// settings are those that a restore touches.
func settings(t *testing.T, s *enginetest.Server) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, name := range []string{"repl-diskless-load", "masteruser", "masterauth"} {
		got, err := s.Client().ConfigGet(t.Context(), name).Result()
		require.NoError(t, err)
		maps.Copy(all, got)
	}
	return all
}

// TestRestoreTo: a server becomes what the master was at the point, by REPLICAOF, and where its user may not say that, by
// commands. One that holds keys is left alone, unless told what becomes of them.
func TestRestoreTo(t *testing.T) {
	t.Parallel()
	enginetest.Each(t, func(t *testing.T, kind enginetest.Kind) {
		t.Parallel()
		master := enginetest.Start(t, kind)
		w := working(t, master, 500)
		d := blackbox.Start(t, t.TempDir(), blackbox.Source{Name: "cache", Address: master.Addr()})
		d.Streaming("cache")
		require.NoError(t, w.Run(t.Context(), 500))
		first := note(t, master, 1)
		require.NoError(t, w.Run(t.Context(), 1000))
		last := note(t, master, 1)

		s := enginetest.Start(t, kind)
		s.Do("DEBUG", "SET-ACTIVE-EXPIRE", 0) // what was restored stays until it was compared
		before := settings(t, s)
		report := into(t, d.Archive, "replicaof", append(first.byOffset(), "--to", redisURL(s))...)
		require.Equal(t, redisURL(s), report.Output)
		require.EqualValues(t, len(first.expiries), *report.Keys)
		require.Equal(t, first.digest, s.Digest())
		require.Equal(t, first.expiries, expiries(t, s))
		first.holds(t, s)
		require.Equal(t, before, settings(t, s))

		d.Stop() // no daemon is needed
		r := d.Run(append([]string{"restore", "--to", redisURL(s)}, last.byTime()...)...)
		require.Equal(t, 1, r.Code, "%s", r)
		require.Regexp(t, `redis://\S+: it holds \d+ keys\n`, r.Stderr)
		require.Contains(t, r.Stderr, "--conflict replace replaces all that it holds")
		into(t, d.Archive, "replicaof", append(last.byTime(), "--to", redisURL(s), "--conflict", "replace")...)
		require.Equal(t, last.digest, s.Digest())
		s.Kill()

		for _, m := range []moment{first, last} {
			s := enginetest.Start(t, kind)
			s.Do("ACL", "SETUSER", "restorer", "on", ">right", "~*", "&*", "+@all", "-replicaof", "-slaveof")
			report := into(t, d.Archive, "commands", append(append([]string{"OFFLOADER_TO_PASSWORD=right"}, m.byOffset()...), "--to", "redis://restorer@"+s.Addr())...)
			if kind.HasHashFieldTTL() { // a hash whose last field has expired since may be gone
				require.LessOrEqual(t, *report.Keys, int64(len(m.expiries)))
			} else {
				require.EqualValues(t, len(m.expiries), *report.Keys)
			}
			require.Contains(t, report.Notes, "it got commands, and was no replica: it refuses REPLICAOF ("+refusal(t, s)+")")
			m.holds(t, s)
			s.Kill()
		}
	})
}

// refusal is how an engine refuses REPLICAOF to a user that may not.
func refusal(t *testing.T, s *enginetest.Server) string {
	t.Helper()
	conn := s.Client().Conn()
	defer func() { require.NoError(t, conn.Close()) }()
	require.NoError(t, conn.AuthACL(t.Context(), "restorer", "right").Err())
	err := conn.Do(t.Context(), "REPLICAOF", "127.0.0.1", "1").Err()
	require.Error(t, err)
	return err.Error()
}

// TestRestoreToACluster: keys go to the nodes that serve them, also what commands on several keys did. Two
// functions, a FLUSHALL on the way, and expiries that have passed since are among it.
func TestRestoreToACluster(t *testing.T) {
	t.Parallel()
	enginetest.Each(t, func(t *testing.T, kind enginetest.Kind) {
		t.Parallel()
		master := enginetest.Start(t, kind)
		master.Do("SET", "lost", "in the flush")
		master.Do("FUNCTION", "LOAD", "#!lua name=before\nredis.register_function('f', function() return 1 end)")
		for i := range 300 {
			master.Do("SET", "snap:"+strconv.Itoa(i), strings.Repeat("v", i), "PX", 1_000_000+i)
		}
		d := blackbox.Start(t, t.TempDir(), blackbox.Source{Name: "cache", Address: master.Addr()})
		d.Streaming("cache")
		early := note(t, master, 1)
		master.Do("FLUSHALL")
		master.Do("FUNCTION", "LOAD", "#!lua name=later\nredis.register_function('g', function() return 1 end)")
		for _, c := range crossing() {
			master.Do(c...)
		}
		m := note(t, master, 1)
		master.Do("SELECT", 0)
		require.NoError(t, master.DB(1).Set(t.Context(), "elsewhere", 1, 0).Err())
		beyond := note(t, master, 1)

		nodes := startCluster(t, kind)
		to := []string{"--to", redisURL(nodes[1])}
		into(t, d.Archive, "commands", append(early.byOffset(), to...)...)
		clusterHolds(t, early, nodes)
		r := d.Run(append([]string{"restore"}, append(m.byOffset(), to...)...)...)
		require.Equal(t, 1, r.Code, "%s", r)
		require.Contains(t, r.Stderr, "it holds 301 keys")
		report := into(t, d.Archive, "commands", append(append(m.byOffset(), to...), "--conflict", "replace")...)
		require.EqualValues(t, len(m.expiries), *report.Keys)
		clusterHolds(t, m, nodes)

		r = d.Run(append([]string{"restore", "--conflict", "replace"}, append(beyond.byOffset(), to...)...)...)
		require.Equal(t, 1, r.Code, "%s", r)
		require.Contains(t, r.Stderr, "it is a cluster, which has database 0 only, and the data has 2 databases")
		clusterHolds(t, m, nodes)
	})
}

// crossing are commands on keys that a cluster keeps apart.
func crossing() (list [][]any) {
	add := func(args ...any) { list = append(list, args) }
	add("MSET", "a", 1, "b", 2, "c", 3, "d", 4, "e", 5)
	add("DEL", "a", "b", "none")
	add("PEXPIRE", "c", 50)
	add("RENAME", "d", "moved")
	add("SET", "renamed:from", "x", "EX", 1000)
	add("RENAME", "renamed:from", "renamed:to")
	add("COPY", "moved", "copied")
	add("SADD", "s1", "x", "y", "z")
	add("SADD", "s2", "y")
	add("SMOVE", "s1", "s3", "x")
	add("SUNIONSTORE", "s4", "s1", "s2", "s3")
	add("SINTERSTORE", "s5", "s1", "s2")
	add("SDIFFSTORE", "s6", "s2", "s2") // nothing: gone, or never there
	add("RPUSH", "l1", 1, 2, 3)
	add("LMOVE", "l1", "l2", "LEFT", "RIGHT")
	add("LMOVE", "l2", "l3", "LEFT", "RIGHT") // l2 is empty then
	add("ZADD", "z1", 1, "a", 2, "b")
	add("ZADD", "z2", 5, "b")
	add("ZUNIONSTORE", "z3", 2, "z1", "z2", "WEIGHTS", 2, 3)
	add("ZRANGESTORE", "z4", "z1", 0, 0)
	add("PFADD", "h1", "a", "b")
	add("PFADD", "h2", "c")
	add("PFMERGE", "h3", "h1", "h2")
	add("BITOP", "NOT", "bits", "moved")
	add("SORT", "l1", "BY", "nosort", "STORE", "sorted")
	add("XADD", "x1", "1-1", "f", "v")
	add("XGROUP", "CREATE", "x1", "g", "0")
	add("EVAL", "redis.call('set', KEYS[1], 1) redis.call('set', KEYS[2], 2) redis.call('incr', KEYS[1])", 2, "lua1", "lua2")
	return list
}

// startCluster starts three masters, and returns when they serve all slots.
func startCluster(t *testing.T, kind enginetest.Kind) (nodes []*enginetest.Server) {
	t.Helper()
	for i := range 3 {
		n := enginetest.Start(t, kind, "--cluster-enabled", "yes", "--cluster-node-timeout", "5000")
		n.Do("CLUSTER", "ADDSLOTSRANGE", i*5462, min(16383, i*5462+5461))
		n.Do("CLUSTER", "SET-CONFIG-EPOCH", i+1)
		for _, other := range nodes {
			n.Do("CLUSTER", "MEET", "127.0.0.1", other.Port())
		}
		nodes = append(nodes, n)
	}
	for _, n := range nodes {
		require.Eventually(t, func() bool {
			info := fmt.Sprint(n.Do("CLUSTER", "INFO"))
			return strings.Contains(info, "cluster_state:ok") && strings.Contains(info, "cluster_slots_assigned:16384") && strings.Contains(info, "cluster_known_nodes:3")
		}, 30*time.Second, 20*time.Millisecond)
	}
	return nodes
}

// clusterHolds compares all nodes together with the moment, functions on each.
func clusterHolds(t *testing.T, m moment, nodes []*enginetest.Server) {
	t.Helper()
	now, functions := map[string]string{}, map[string]string{}
	for _, n := range nodes {
		for key, state := range n.KeyState() {
			now[key] = state
			if strings.HasPrefix(key, "function") {
				functions[key] = state
			}
		}
	}
	want := maps.Clone(m.keys)
	passed := time.Now().UnixMilli()
	maps.DeleteFunc(want, func(_, state string) bool { at := expiryOf(state); return 0 < at && at <= passed })
	require.Equal(t, want, now)
	for _, n := range nodes {
		for key, state := range functions {
			require.Equal(t, state, n.KeyState()[key])
		}
	}
}
