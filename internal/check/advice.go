package check

import (
	"fmt"
	"math/bits"
	"strconv"
	"strings"
	"time"
)

// What is assumed where nobody can know. All of it is said in the findings.
const (
	// lineSpeed is what a full sync is taken to run at: a gigabit link, about half of what an
	// engine's child writes.
	lineSpeed = 100 << 20
	// absence is how long a restart of ours may take, with an upgrade of the machine between.
	absence = 5 * time.Minute
	// minBacklog is the least that is advised: memory of this size is in nobody's way.
	minBacklog = 64 << 20
	// stillPerGiB is how long a fork stops a server, for each GiB, at worst on common machines.
	stillPerGiB = 25 * time.Millisecond
)

// Ours is what is known of our own side.
type Ours struct {
	User     string // who asks, "" for the default user
	Attached bool   // a daemon of ours is one of the master's replicas already
	AckStore bool   // acknowledged is what every store has
	Stored   bool   // a store has a snapshot of it
	Booted   bool   // an engine has shown that it gets from the archive what the master holds
}

// Advise turns what is known of a master into findings.
func Advise(f *Facts, us Ours) []Finding {
	var out findings
	f.identity(&out)
	f.rights(&out, us.User, "master")
	if f.Info == nil {
		return out
	}
	f.state(&out, us)
	if f.Waits { // the rest is about a master
		return out
	}
	f.fork(&out)
	f.transfer(&out)
	f.backlog(&out)
	f.buffer(&out)
	f.timeout(&out)
	f.wait(&out, us)
	f.persistence(&out, us)
	return out
}

func (f *Facts) identity(out *findings) {
	if f.Info == nil {
		out.add(Warn, "master", "", "it answers, and may not tell what it is: nothing can be said about what attaching costs")
		return
	}
	product, version := f.Product()
	if f.sentinel() {
		out.add(Fail, "master", "ask it where the master is: SENTINEL GET-MASTER-ADDR-BY-NAME name", "this is a Sentinel, it holds no data")
		return
	}
	keys := int64(0)
	for name, value := range f.Info {
		if _, isDB := strings.CutPrefix(name, "db"); !isDB {
			continue
		}
		if text, ok := strings.CutPrefix(value, "keys="); ok {
			text, _, _ = strings.Cut(text, ",")
			if n, err := strconv.ParseInt(text, 10, 64); err == nil {
				keys += n
			}
		}
	}
	out.ok("master", "%s %s, %s in %d keys", product, version, size(f.number("used_memory")), keys)
	if major, _, _ := strings.Cut(version, "."); major != "" {
		if n, err := strconv.Atoi(major); err == nil && n < 4 {
			out.add(Warn, "version", "upgrade it to 7.0 or later", "%s %s can't continue a link after a failover or restart: each ends in a full resync", product, version)
		}
	}
	if f.Info["cluster_enabled"] == "1" {
		out.add(Warn, "cluster", "make each shard's master a source, and change its address after a failover", "this is one shard of a cluster, and only its keys are archived")
	}
}

// Product is what the server is, as timeline.json names it, and which version of it.
func (f *Facts) Product() (name, version string) {
	if v := f.Info["valkey_version"]; v != "" {
		return "valkey", v
	}
	return "redis", f.Info["redis_version"]
}

func (f *Facts) sentinel() bool {
	return f.Info["redis_mode"] == "sentinel" || f.Info["server_mode"] == "sentinel"
}

// rights tells what the user may do on a server, and the line that grants the rest.
func (f *Facts) rights(out *findings, user, server string) {
	who := user
	if who == "" {
		who = "default"
	}
	var missing []string
	deny := func(command string) bool { return strings.HasPrefix(f.Refused[command], "NOPERM") }
	if strings.HasPrefix(f.Psync, "NOPERM") {
		missing = append(missing, "+psync")
	}
	if deny("replconf") {
		missing = append(missing, "+replconf")
	}
	unknown := func(words string) bool { return strings.Contains(strings.ToLower(words), "unknown command") }
	switch {
	case len(missing) > 0:
		out.add(Fail, "rights", fmt.Sprintf("on the %s: ACL SETUSER %s %s", server, who, quoted(missing)), "user %s may not attach: it lacks %s", who, strings.Join(missing, " and "))
	case unknown(f.Psync):
		out.add(Warn, "rights", "where it is a hosted server, ask its vendor for PSYNC; else see rename-command in its configuration",
			"it doesn't know PSYNC: only plain SYNC is left, which can't resume, so each interruption is a full resync and a fork")
	case unknown(f.Refused["replconf"]):
		out.add(Fail, "rights", "where it is a hosted server, ask its vendor for REPLCONF; else see rename-command in its configuration", "it doesn't know REPLCONF, without which nothing can be acknowledged")
	case who == "default":
		out.add(OK, "rights", "on the "+server+": "+aclLine(""), "user default may attach; a user of its own, with fewer rights, is enough")
	default:
		out.ok("rights", "user %s may attach", who)
	}
	var extra []string
	for _, right := range []string{"ping", "info", "config|get"} {
		if deny(right) {
			extra = append(extra, "+"+right)
		}
	}
	if len(extra) > 0 {
		guard := ""
		if deny("info") && server == "master" {
			guard = "; that the master came back without its data is then told by the newest snapshot alone, and that it came back with an old dump.rdb not at all"
		}
		out.add(Warn, "extra rights", fmt.Sprintf("on the %s: ACL SETUSER %s %s", server, who, quoted(extra)), "user %s lacks %s: it works without, and less can be told%s", who, strings.Join(extra, " and "), guard)
	} else if f.Config == nil && f.Info != nil {
		out.add(Warn, "extra rights", "", "the server doesn't tell its settings (%s): what depends on them isn't checked", f.Refused["config|get"])
	}
}

// state tells what keeps a link from beginning right now.
func (f *Facts) state(out *findings, us Ours) {
	switch {
	case f.Waits:
		hint := "`offloader status` says why, and what to do"
		if !us.Attached {
			hint = "no daemon is at work that would bring it back: start it (systemctl start offloader, or `offloader run`)"
		}
		out.add(Warn, "state", hint, "it is a replica of this source's relay: it waits for its rebirth, and takes no writes until then")
	case f.Info["loading"] == "1":
		out.add(Warn, "state", "wait: Offloader does", "it is loading its dataset, and refuses replicas until that is done")
	case f.cutOff():
		out.add(Fail, "state", fmt.Sprintf("mend its link to %s:%s, or name another source", f.Info["master_host"], f.Info["master_port"]),
			"it is a replica whose own link is down, and gives nothing on while that is so")
	case f.Info["role"] == "slave":
		out.ok("state", "it is a replica of %s:%s: same ids, offsets and bytes, and what follows falls on it and not on its master", f.Info["master_host"], f.Info["master_port"])
	}
}

// cutOff tells of a replica that its own link is down: it refuses to give anything on.
func (f *Facts) cutOff() bool {
	return strings.HasPrefix(f.Psync, "NOMASTERLINK") || strings.HasPrefix(f.Psync, "MASTERDOWN") ||
		f.Info["role"] == "slave" && f.Info["master_link_status"] != "up"
}

// Dataset bounds the RDB from above: values in memory are at least as large, nearly always.
func (f *Facts) Dataset() int64 {
	if n := f.number("used_memory_dataset"); n > 0 {
		return n
	}
	return f.number("used_memory")
}

// transferTime is what a full sync takes: as long as the last BGSAVE, or line speed.
func (f *Facts) transferTime() time.Duration {
	line := time.Duration(float64(f.Dataset()) / lineSpeed * float64(time.Second))
	return max(line, time.Duration(f.number("rdb_last_bgsave_time_sec"))*time.Second, time.Second)
}

func (f *Facts) fork(out *findings) {
	used, rss, total := f.number("used_memory"), f.number("used_memory_rss"), f.number("total_system_memory")
	still := time.Duration(float64(used) / (1 << 30) * float64(stillPerGiB))
	how := "none was made yet; expect up to " + span(max(still, time.Millisecond)) + " of stillness"
	if last := f.number("latest_fork_usec"); last > 0 {
		how = "the last one stopped the server for " + span(time.Duration(last)*time.Microsecond)
	}
	message := fmt.Sprintf("attaching costs one fork of %s; %s", size(used), how)
	free := total - rss
	switch {
	case total <= 0 || rss <= 0:
		out.ok("fork", "%s", message)
	case free < used/4:
		out.add(Warn, "fork", "attach when few writes come, or give the machine memory; see vm.overcommit_memory in the engine's log",
			"%s. At most %s of the machine's %s are free, and each page written meanwhile is copied", message, size(free), size(total))
	default:
		out.ok("fork", "%s; at most %s of the machine's %s are free for pages written meanwhile", message, size(free), size(total))
	}
}

func (f *Facts) transfer(out *findings) {
	took, bound := f.transferTime(), size(f.Dataset())
	delay := time.Duration(atoi(f.Config["repl-diskless-sync-delay"])) * time.Second
	switch f.Config["repl-diskless-sync"] {
	case "yes":
		out.ok("transfer", "diskless: up to %s over the network in about %s, after a delay of %s for other replicas", bound, span(took), span(delay))
	case "no":
		out.add(Warn, "transfer", "CONFIG SET repl-diskless-sync yes", "by disk: the master first writes an RDB of up to %s into its own folder, then sends it in about %s", bound, span(took))
	default:
		out.ok("transfer", "up to %s over the network in about %s", bound, span(took))
	}
	if f.Config["rdbchecksum"] == "no" {
		out.add(Warn, "checksum", "set rdbchecksum yes in the master's configuration, and restart it when convenient", "rdbchecksum is off: an RDB that is damaged on its way can't be told by its sum")
	}
}

// rate says where the rate of writes comes from.
func (f *Facts) rate() string {
	of := "writes"
	if !f.Counted {
		of = "input, reads included"
	}
	return fmt.Sprintf("%s/s of %s", size(int64(f.Rate)), of)
}

func (f *Facts) backlog(out *findings) {
	have := atoi(f.Config["repl-backlog-size"])
	if have == 0 {
		have = f.number("repl_backlog_size")
	}
	if have == 0 {
		return
	}
	need := int64(f.Rate * max(absence, f.transferTime()).Seconds())
	covers := "for hours"
	if f.Rate > 0 {
		if t := time.Duration(min(float64(have)/f.Rate, 1e6) * float64(time.Second)); t < 24*time.Hour {
			covers = "for " + span(t)
		}
	}
	if have >= need {
		out.ok("backlog", "repl-backlog-size %s covers an absence of ours %s, at %s", size(have), covers, f.rate())
	} else {
		out.add(Warn, "backlog", fmt.Sprintf("CONFIG SET repl-backlog-size %d", roundUp(max(3*need, minBacklog))), // this hour isn't the day's busiest
			"repl-backlog-size %s covers an absence of ours %s only, at %s: after a longer one there is a full resync, a fork", size(have), covers, f.rate())
	}
	if ttl, given := f.Config["repl-backlog-ttl"]; given && atoi(ttl) > 0 && atoi(ttl) < 3600 {
		out.add(Warn, "backlog ttl", "CONFIG SET repl-backlog-ttl 3600", "repl-backlog-ttl is %s s: that long without a replica, and the next link begins with a full resync", ttl)
	}
}

// limit is a class of client-output-buffer-limit.
type limit struct {
	hard, soft int64
	over       time.Duration // how long soft may be exceeded
}

// replicaLimit reads "normal 0 0 0 slave 268435456 67108864 60 pubsub …".
func replicaLimit(setting string) (limit, bool) {
	words := strings.Fields(setting)
	for i := 0; i+3 < len(words); i++ {
		if words[i] == "slave" || words[i] == "replica" {
			return limit{atoi(words[i+1]), atoi(words[i+2]), time.Duration(atoi(words[i+3])) * time.Second}, true
		}
	}
	return limit{}, false
}

// lowLimit is where values of a size that people store may not fit into a replica's buffer. The
// engines' own limit is four times that.
const lowLimit = 64 << 20

// buffer tells whether what is written during the transfer fits where the master keeps it for
// us. It grows with the stream from the fork on; a value below the backlog's size counts as that
// (redis, replication.c: the backlog is part of the buffer).
func (f *Facts) buffer(out *findings) {
	l, ok := replicaLimit(f.Config["client-output-buffer-limit"])
	if !ok {
		return
	}
	backlog, took := atoi(f.Config["repl-backlog-size"]), f.transferTime()
	grows := func(d time.Duration) int64 { return int64(f.Rate * max(0, d).Seconds()) }
	tooHard := l.hard > 0 && grows(took) > max(l.hard, backlog)
	tooSoft := l.soft > 0 && grows(took-l.over) > max(l.soft, backlog)
	most := max(l.hard, backlog)
	if !tooHard && !tooSoft && l.hard > 0 && most < lowLimit && f.number("used_memory") > most {
		out.add(Warn, "buffer", `CONFIG SET client-output-buffer-limit "replica 268435456 67108864 60"`,
			"client-output-buffer-limit ends a replica's link at %s: one value that is larger does so, and again after each full sync", size(most))
		return
	}
	if !tooHard && !tooSoft {
		out.ok("buffer", "client-output-buffer-limit of replicas covers a transfer of %s, at %s", span(took), f.rate())
		return
	}
	bound := roundUp(max(2*grows(took), l.hard, minBacklog))
	out.add(Warn, "buffer", fmt.Sprintf("CONFIG SET client-output-buffer-limit \"replica %d %d 60\"", bound, bound),
		"%s are written during a transfer of %s, and client-output-buffer-limit ends it at %s (%s for %s): the sync would begin again and again",
		size(grows(took)), span(took), size(l.hard), size(l.soft), span(l.over))
}

func (f *Facts) timeout(out *findings) {
	if t := atoi(f.Config["repl-timeout"]); t > 0 && t < 10 {
		out.add(Warn, "timeout", "CONFIG SET repl-timeout 60", "repl-timeout is %d s: a slow moment of disk or network cuts the link, and in a transfer that means another fork", t)
	}
}

// wait says which number to give to WAIT, and what counts us without knowing what we are.
func (f *Facts) wait(out *findings, us Ours) {
	if f.Info["role"] == "slave" {
		out.add(OK, "wait", "", "WAIT on the master above doesn't count replicas of replicas: attach to the master itself where WAIT shall mean archived")
		return
	}
	others := f.number("connected_slaves")
	if us.Attached && others > 0 {
		others--
	}
	// "Counts" is all that the engine does: it can't know that nobody can fail over to us.
	const counted = "; Offloader counts as a replica there and can't be promoted"
	means := "means archived durably"
	if us.AckStore {
		means = "returns when every store has it"
	}
	if others == 0 {
		out.ok("wait", "WAIT 1 <ms> %s%s", means, counted)
	} else {
		out.ok("wait", "with %d other replicas, WAIT %d <ms> %s%s", others, others+1, means, counted)
	}
	if n := atoi(f.Config["min-replicas-to-write"]); n > 0 {
		out.add(Warn, "min-replicas", fmt.Sprintf("CONFIG SET min-replicas-to-write %d, once Offloader is attached, where it shall go on to count replicas that can take over", n+1),
			"min-replicas-to-write is %d, and Offloader will be counted although it can't take over", n)
	}
}

// persistence tells whether what the master holds outlives its crash: by itself, or by the archive.
func (f *Facts) persistence(out *findings, us Ours) {
	if f.Config == nil {
		return
	}
	const name = "persistence"
	var kinds []string
	if s := f.Config["save"]; s != "" {
		kinds = append(kinds, "RDB (save "+s+")")
	}
	if f.Config["appendonly"] == "yes" {
		kinds = append(kinds, "AOF")
	}
	switch on := strings.Join(kinds, " and "); {
	case on != "" && us.Booted:
		out.ok(name, "%s: it may be switched off, since the archive is a copy that boots", on)
	case on != "":
		out.ok(name, "%s: keep it on until `offloader status` shows a first snapshot stored and nothing not yet durable, and `offloader verify --boot` has succeeded", on)
	case us.Booted:
		out.ok(name, "RDB and AOF are off: what outlives a crash of this server is the archive, a copy that boots")
	case us.Stored:
		out.add(Warn, name, "have `offloader verify --boot` show it, or CONFIG SET appendonly yes until it has",
			"RDB and AOF are off: what outlives a crash of this server is the archive, and no engine has shown yet that it boots")
	default:
		out.add(Warn, name, "archive it, or CONFIG SET appendonly yes until that has begun and `offloader verify --boot` has succeeded",
			"RDB and AOF are off, and no store has a snapshot of it: nothing outlives a crash of this server")
	}
}

// roundUp is the next power of two.
func roundUp(n int64) int64 {
	if n <= 1 {
		return 1
	}
	return 1 << min(62, bits.Len64(uint64(n-1)))
}

func atoi(s string) int64 {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// quoted joins rights so that a shell leaves them as they are: the bar of a subcommand is a pipe there.
func quoted(rights []string) string {
	words := make([]string, len(rights))
	for i, r := range rights {
		if words[i] = r; strings.Contains(r, "|") {
			words[i] = "'" + r + "'"
		}
	}
	return strings.Join(words, " ")
}
