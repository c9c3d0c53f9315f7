package syncer

import (
	"cmp"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/offloader/offloader/internal/stream"
)

// Master is what a master told of itself before PSYNC. Where INFO is not permitted only Addr is
// known; what it didn't say is zero.
type Master struct {
	Addr      string
	Permitted bool   // INFO was answered
	Name      string // what it calls itself: "valkey", "offloader"; redis says nothing
	Engine    string // "redis" or "valkey"
	Version   string // "9.1.2"
	RunID     string
	Role      string // "master", or "slave": then it relays the stream of Upstream
	Upstream  string // host:port of its own master

	Cluster bool // it is a shard of a cluster, where nobody follows us
	Loading bool // it reads its dataset
	Reborn  bool // it was our replica, and we have made it the master; nothing of its stream has come since

	ReplID       stream.ReplID
	ReplID2      stream.ReplID // the id before, good for offsets asked for up to SecondOffset
	SecondOffset stream.Offset // as PSYNC counts: offset + 1; -1 without ReplID2
	Offset       stream.Offset // last byte produced
	BacklogFirst stream.Offset // first byte that can be asked for, as PSYNC counts
	BacklogLen   int64         // bytes it holds; 0 where there is none
	BacklogSize  int64         // bytes it may hold, also where there is none

	Uptime time.Duration // of its process, to the second
	Keys   map[int]int64 // by database; nil where it wasn't told

	Replicas []string // host:port of those that are attached to it, as they announce themselves

	// From CONFIG GET, where that is permitted.
	ReplTimeout time.Duration
	OutputLimit int64 // bytes of stream that it buffers for a replica before it cuts it off; 0: no limit, -1: not known
}

// info takes note of sections of INFO: server, replication, persistence and keyspace.
func (m *Master) info(text string) {
	field := map[string]string{}
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimRight(line, "\r\n"), ":"); ok {
			field[name] = value
		}
	}
	number := func(name string, to *int64) {
		if n, err := strconv.ParseInt(field[name], 10, 64); err == nil {
			*to = n
		}
	}
	set := func(name string, to *string) {
		if v := field[name]; v != "" {
			*to = v
		}
	}
	// Valkey says redis_version too, for its clients' sake: its own comes second and wins.
	if v := field["redis_version"]; v != "" {
		m.Engine, m.Version = "redis", v
	}
	if v := field["valkey_version"]; v != "" {
		m.Engine, m.Version = "valkey", v
	}
	set("server_name", &m.Name)
	set("run_id", &m.RunID)
	set("role", &m.Role)
	if host := field["master_host"]; host != "" {
		m.Upstream = net.JoinHostPort(host, field["master_port"])
	}
	if id, err := stream.ParseReplID(field["master_replid"]); err == nil {
		m.ReplID = id
	}
	if id, err := stream.ParseReplID(field["master_replid2"]); err == nil && strings.Trim(string(id), "0") != "" {
		m.ReplID2 = id
	}
	number("master_repl_offset", (*int64)(&m.Offset))
	number("second_repl_offset", (*int64)(&m.SecondOffset))
	number("repl_backlog_first_byte_offset", (*int64)(&m.BacklogFirst))
	number("repl_backlog_histlen", &m.BacklogLen)
	number("repl_backlog_size", &m.BacklogSize)
	if v := cmp.Or(field["redis_mode"], field["server_mode"]); v != "" { // the latter is valkey's
		m.Cluster = v == "cluster"
	}
	if v := field["loading"]; v != "" {
		m.Loading = v == "1"
	}
	for name, value := range field {
		if rest, ok := strings.CutPrefix(value, "ip="); ok && strings.HasPrefix(name, "slave") {
			host, rest, _ := strings.Cut(rest, ",port=")
			port, _, _ := strings.Cut(rest, ",")
			m.Replicas = append(m.Replicas, net.JoinHostPort(host, port))
		}
	}
	if field["repl_backlog_active"] == "0" {
		m.BacklogLen, m.BacklogFirst = 0, 0
	}
	if s, err := strconv.ParseInt(field["uptime_in_seconds"], 10, 32); err == nil && s >= 0 {
		m.Uptime = time.Duration(s) * time.Second
	}
	if strings.Contains(text, "# Keyspace") { // databases without a key are left out
		m.Keys = keys(field)
	}
}

// maxDBs bounds how many databases are told apart: INFO comes from outside.
const maxDBs = 1 << 16

// keys reads lines like "db0:keys=12,expires=3,avg_ttl=0".
func keys(field map[string]string) map[int]int64 {
	all := map[int]int64{}
	for name, value := range field {
		number, isDB := strings.CutPrefix(name, "db")
		db, err := strconv.Atoi(number)
		text, counted := strings.CutPrefix(value, "keys=")
		if !isDB || err != nil || !counted || db < 0 || db >= maxDBs {
			continue
		}
		text, _, _ = strings.Cut(text, ",")
		if n, err := strconv.ParseInt(text, 10, 64); err == nil && n > 0 {
			all[db] = n
		}
	}
	return all
}

// announced is the version to give with REPLCONF version: valkey 9 chooses the RDB version by
// it, and one that it thinks too old can't take hashes with field expiry: then no full resync
// succeeds, ever (valkey, replication.c: replicaRdbVersion).
func (m *Master) announced() string {
	const enough = "9.1.0"
	if m.Engine != "valkey" {
		return enough
	}
	version, _, _ := strings.Cut(m.Version, "-")
	parts := strings.Split(version, ".")
	if major, err := strconv.Atoi(parts[0]); err != nil || major < 9 || len(parts) != 3 {
		return enough
	}
	return version
}

// Verdict is what a master will answer to PSYNC.
type Verdict struct {
	Known bool   // INFO said enough to tell
	Full  bool   // it will be a full resync
	Why   string // of Full, for people
	Do    string // what to change so that it doesn't happen again, "" if that isn't known
}

// Judge tells beforehand whether m can continue r, by the test that the engines make (redis,
// replication.c: masterTryPartialResynchronization). There is no request for "partial or nothing":
// who is refused has forked the master.
func (m Master) Judge(r Resume) Verdict {
	if r.ID == "" {
		return Verdict{Known: true, Full: true, Why: "nothing is held that the master could continue"}
	}
	if !m.Permitted || m.ReplID == "" {
		return Verdict{}
	}
	asked := r.Offset + 1
	full := Verdict{Known: true, Full: true}
	switch {
	case r.ID == m.ReplID:
	case r.ID != m.ReplID2:
		full.Why = fmt.Sprintf("the master's history %s is not the one that is held, %s: it was restarted without its data's history, or is another server", m.ReplID.Short(), r.ID.Short())
		return full
	case asked > m.SecondOffset:
		full.Why = fmt.Sprintf("the master left the history %s at offset %d, and %s after it are held that it never had",
			r.ID.Short(), m.SecondOffset-1, bytesOf(int64(asked-m.SecondOffset)))
		return full
	}
	switch end := m.BacklogFirst + stream.Offset(m.BacklogLen); {
	case m.BacklogFirst == 0 && m.BacklogLen == 0:
		full.Why = "the master has no backlog: it had no replica for repl-backlog-ttl, or never"
		return full
	case asked < m.BacklogFirst:
		gap := int64(m.Offset - r.Offset)
		full.Why = fmt.Sprintf("the master's backlog of %s doesn't reach back to offset %d, %s ago: repl-backlog-size is too small", bytesOf(m.BacklogSize), r.Offset, bytesOf(gap))
		full.Do = "let it cover twice that outage: CONFIG SET repl-backlog-size " + strconv.FormatInt(roundUp(max(2*gap, 2*m.BacklogSize)), 10)
		return full
	case asked > end:
		full.Why = fmt.Sprintf("the master stands at offset %d, behind the %d that is held: it went back in time", m.Offset, r.Offset)
		return full
	}
	return Verdict{Known: true}
}

// cut remembers a connection that the master ended while it sent an RDB, or soon after. The
// usual cause is that its output buffer for us was full.
type cut struct {
	happened  bool
	at        stream.Offset // the RDB's
	id        stream.ReplID
	sawTheEnd bool // of the RDB
}

// explain says which setting of the master would have kept such a connection. m is what the
// master says now.
func (c cut) explain(m Master) (why, do string) {
	if !c.happened {
		return "", ""
	}
	when := "while it sent the RDB"
	if c.sawTheEnd {
		when = "right after the RDB"
	}
	why = "the master closed the last connection " + when
	limit := m.OutputLimit
	if limit == 0 {
		return why, "" // it has no limit: that wasn't it
	}
	need := 2 * max(limit, 256<<20)
	if m.Permitted && m.ReplID == c.id && m.Offset > c.at {
		// All that it wrote since is more than it had to buffer.
		need = max(need, 2*int64(m.Offset-c.at))
	}
	need = roundUp(need)
	why += ", as it does with a replica whose output buffer overflows (client-output-buffer-limit)"
	return why, fmt.Sprintf(`if its log says "overcoming of output buffer limits": CONFIG SET client-output-buffer-limit "replica %d %d 60"`, need, need/2)
}

// roundUp is n in whole MiB: settings are for people.
func roundUp(n int64) int64 {
	const mib = 1 << 20
	return (n + mib - 1) / mib * mib
}

func bytesOf(n int64) string { return humanize.IBytes(uint64(max(0, n))) }
