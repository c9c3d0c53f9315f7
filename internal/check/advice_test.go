package check

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const gib = 1 << 30

// busy is a master of 8 GiB in memory with 10 MiB/s of writes, whose settings are the defaults
// of redis.
func busy() *Facts {
	return &Facts{
		Info: map[string]string{
			"redis_version": "7.0.15", "role": "master", "connected_slaves": "0", "loading": "0",
			"used_memory": "8589934592", "used_memory_rss": "9663676416", "used_memory_dataset": "8000000000", "total_system_memory": "34359738368",
			"latest_fork_usec": "95000", "db0": "keys=1000000,expires=0,avg_ttl=0", "db7": "keys=5,expires=0,avg_ttl=0",
		},
		Config: map[string]string{
			"save": "", "appendonly": "no", "repl-diskless-sync": "yes", "repl-diskless-sync-delay": "5", "repl-backlog-size": "1048576", "repl-backlog-ttl": "3600",
			"repl-timeout": "60", "client-output-buffer-limit": "normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60", "min-replicas-to-write": "0", "rdbchecksum": "yes",
		},
		Refused: map[string]string{}, Psync: "ERR SYNC and PSYNC are invalid with pending output",
		Rate: 10 << 20, Counted: true,
	}
}

func TestWhatAttachingCosts(t *testing.T) {
	list := Advise(busy(), Ours{User: "offloader"})
	require.Equal(t, "redis 7.0.15, 8.0 GiB in 1000005 keys", named(list, "master", OK)[0].Message)
	require.Equal(t, "attaching costs one fork of 8.0 GiB; the last one stopped the server for 95 ms; at most 23 GiB of the machine's 32 GiB are free for pages written meanwhile",
		named(list, "fork", OK)[0].Message)
	require.Equal(t, "diskless: up to 7.5 GiB over the network in about 76 s, after a delay of 5.0 s for other replicas", named(list, "transfer", OK)[0].Message)

	backlog := named(list, "backlog", Warn)[0] // 10 MiB/s for 5 minutes, three times that, in powers of two
	require.Equal(t, "CONFIG SET repl-backlog-size 17179869184", backlog.Hint)
	require.Contains(t, backlog.Message, "1.0 MiB covers an absence of ours for 100 ms only, at 10 MiB/s of writes")

	buffer := named(list, "buffer", Warn)[0] // 760 MiB are written meanwhile, 256 are allowed
	require.Equal(t, `CONFIG SET client-output-buffer-limit "replica 2147483648 2147483648 60"`, buffer.Hint)
	require.Contains(t, named(list, "persistence", Warn)[0].Message, "nothing outlives a crash")
}

func TestAdvice(t *testing.T) {
	tests := []struct {
		name     string
		change   func(*Facts)
		attached bool
		store    bool
		finding  string
		level    Level
		says     string
		hint     string
	}{
		{name: "a large backlog", change: func(f *Facts) { f.Config["repl-backlog-size"] = "4294967296" }, finding: "backlog", level: OK, says: "covers an absence of ours for 7 min"},
		{name: "nobody writes", change: func(f *Facts) { f.Rate = 0 }, finding: "backlog", level: OK, says: "for hours, at 0 B/s"},
		{name: "a buffer without limits", change: func(f *Facts) { f.Config["client-output-buffer-limit"] = "replica 0 0 0" }, finding: "buffer", level: OK},
		{name: "the soft limit counts only after its time", change: func(f *Facts) {
			f.Rate = 1 << 20
			f.Config["client-output-buffer-limit"] = "slave 0 67108864 60"
		}, finding: "buffer", level: OK},
		{name: "the soft limit after its time", change: func(f *Facts) { f.Config["client-output-buffer-limit"] = "slave 0 67108864 60" }, finding: "buffer", level: Warn, hint: "CONFIG SET client-output-buffer-limit"},
		{name: "a limit below what a value may have", change: func(f *Facts) {
			f.Rate = 0
			f.Config["client-output-buffer-limit"] = "slave 8388608 0 0"
			f.Config["repl-backlog-size"] = "1048576"
		}, finding: "buffer", level: Warn, hint: `"replica 268435456 67108864 60"`},
		{name: "the backlog raises the limit", change: func(f *Facts) { f.Config["repl-backlog-size"] = "1073741824" }, finding: "buffer", level: OK},
		{name: "the last save took long", change: func(f *Facts) { f.Info["rdb_last_bgsave_time_sec"] = "600" }, finding: "transfer", level: OK, says: "in about 10 min"},
		{name: "no fork yet", change: func(f *Facts) { f.Info["latest_fork_usec"] = "0" }, finding: "fork", level: OK, says: "none was made yet; expect up to 200 ms"},
		{name: "no memory for a fork", change: func(f *Facts) { f.Info["total_system_memory"] = "10737418240" }, finding: "fork", level: Warn, says: "At most 1.0 GiB of the machine's 10 GiB are free"},
		{name: "two other replicas", change: func(f *Facts) { f.Info["connected_slaves"] = "2" }, finding: "wait", level: OK, says: "with 2 other replicas, WAIT 3 <ms> means archived durably"},
		{name: "we are one of the replicas", change: func(f *Facts) { f.Info["connected_slaves"] = "1" }, attached: true, finding: "wait", level: OK, says: "WAIT 1 <ms> means"},
		{name: "stores acknowledge", change: func(f *Facts) { f.Info["connected_slaves"] = "1" }, store: true, finding: "wait", level: OK, says: "with 1 other replicas, WAIT 2 <ms> returns when every store has it"},
		{name: "we can't be promoted", change: func(*Facts) {}, finding: "wait", level: OK, says: "counts as a replica there and can't be promoted"},
		{name: "min-replicas", change: func(f *Facts) { f.Config["min-replicas-to-write"] = "1" }, finding: "min-replicas", level: Warn, hint: "CONFIG SET min-replicas-to-write 2"},
		{name: "a replica", change: func(f *Facts) {
			f.Info["role"], f.Info["master_host"], f.Info["master_port"], f.Info["master_link_status"] = "slave", "10.0.0.1", "6379", "up"
		}, finding: "state", level: OK, says: "it is a replica of 10.0.0.1:6379"},
		{name: "loading", change: func(f *Facts) { f.Info["loading"], f.Psync = "1", "LOADING x" }, finding: "state", level: Warn, says: "loading its dataset"},
		{name: "a Sentinel", change: func(f *Facts) { f.Info["redis_mode"] = "sentinel" }, finding: "master", level: Fail, hint: "SENTINEL GET-MASTER-ADDR-BY-NAME"},
		{name: "a cluster", change: func(f *Facts) { f.Info["cluster_enabled"] = "1" }, finding: "cluster", level: Warn, says: "one shard"},
		{name: "an old engine", change: func(f *Facts) { f.Info["redis_version"] = "3.2.1" }, finding: "version", level: Warn},
		{name: "PSYNC renamed away", change: func(f *Facts) { f.Psync = "ERR unknown command 'PSYNC'" }, finding: "rights", level: Warn, says: "only plain SYNC is left"},
		{name: "REPLCONF renamed away", change: func(f *Facts) { f.Refused["replconf"] = "ERR unknown command `REPLCONF`" }, finding: "rights", level: Fail},
		{name: "CONFIG renamed away", change: func(f *Facts) { f.Config = nil; f.Refused["config|get"] = "ERR unknown command 'CONFIG'" }, finding: "extra rights", level: Warn, says: "doesn't tell its settings"},
		{name: "no INFO", change: func(f *Facts) { f.Info = nil; f.Refused["info"] = "NOPERM x" }, finding: "extra rights", level: Warn, hint: "ACL SETUSER offloader +info"},
		{name: "no sums", change: func(f *Facts) { f.Config["rdbchecksum"] = "no" }, finding: "checksum", level: Warn},
		{name: "AOF", change: func(f *Facts) { f.Config["appendonly"] = "yes" }, finding: "persistence", level: OK, says: "AOF: keep it on until"},
		{name: "numbers that are none", change: func(f *Facts) {
			for k := range f.Info {
				if k != "role" {
					f.Info[k] = "-9223372036854775808x"
				}
			}
		}, finding: "rights", level: OK},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := busy()
			tt.change(f)
			list := Advise(f, Ours{User: "offloader", Attached: tt.attached, AckStore: tt.store})
			found := named(list, tt.finding, tt.level)
			require.NotEmpty(t, found, "%+v", list)
			require.Contains(t, found[0].Message, tt.says)
			require.Contains(t, found[0].Hint, tt.hint)
			for _, one := range list {
				require.NotEmpty(t, strings.TrimSpace(one.Message))
				require.NotContains(t, one.Message+one.Hint, "%!")
			}
		})
	}
}

// What is said of RDB and AOF follows from what is archived: all is green once an engine has booted it.
func TestPersistence(t *testing.T) {
	for _, row := range []struct {
		aof, says string
		us        Ours
		level     Level
	}{
		{"no", "no store has a snapshot of it: nothing outlives a crash", Ours{}, Warn},
		{"no", "no engine has shown yet that it boots", Ours{Stored: true}, Warn},
		{"no", "what outlives a crash of this server is the archive, a copy that boots", Ours{Stored: true, Booted: true}, OK},
		{"yes", "AOF: keep it on until", Ours{Stored: true}, OK},
		{"yes", "AOF: it may be switched off", Ours{Stored: true, Booted: true}, OK},
	} {
		f := busy()
		f.Config["appendonly"] = row.aof
		list := named(Advise(f, row.us), "persistence", row.level)
		require.Len(t, list, 1, "%+v", row)
		require.Contains(t, list[0].Message, row.says)
		require.Equal(t, row.level == OK, list[0].Hint == "")
	}
}

// A master that follows its own relay is not one whose link is down: it waits for its rebirth.
func TestWaitsForItsRebirth(t *testing.T) {
	f := busy()
	f.Info["role"], f.Info["master_host"], f.Info["master_port"], f.Info["master_link_status"] = "slave", "127.0.0.1", "6390", "down"
	f.Info["master_replid"] = strings.Repeat("0", 40)
	for listen, follows := range map[string]bool{"127.0.0.1:6390": true, "0.0.0.0:6390": true, "127.0.0.1:6391": false, "": false} {
		require.Equal(t, follows, f.follows(t.Context(), listen), listen)
	}
	require.NotEmpty(t, named(Advise(f, Ours{}), "state", Fail), "somebody else's replica")
	f.Waits = true
	waits := named(Advise(f, Ours{Attached: true}), "state", Warn)[0]
	require.Contains(t, waits.Message, "waits for its rebirth")
	require.Contains(t, waits.Hint, "`offloader status` says why")
	alone := Advise(f, Ours{})
	require.Contains(t, named(alone, "state", Warn)[0].Hint, "start it")
	require.Empty(t, named(alone, "persistence", Warn), "it holds nothing yet")
	require.Empty(t, AdviseHistory(f, Archived{}, time.Now()))
}

func TestSpans(t *testing.T) {
	for d, want := range map[time.Duration]string{
		1500 * time.Microsecond: "1.5 ms", 95 * time.Millisecond: "95 ms", 1500 * time.Millisecond: "1.5 s", 76 * time.Second: "76 s", 7 * time.Minute: "7 min", 5 * time.Hour: "5 h",
	} {
		require.Equal(t, want, span(d))
	}
}

func TestRoundUp(t *testing.T) {
	for n, want := range map[int64]int64{0: 1, 1: 1, 2: 2, 3: 4, gib: gib, gib + 1: 2 * gib} {
		require.Equal(t, want, roundUp(n))
	}
}
