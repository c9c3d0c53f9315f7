package check

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/rebirth"
	"github.com/offloader/offloader/internal/relay"
)

// Comeback is what a master told of how it would come back if it died now.
type Comeback struct {
	Cluster  bool
	Upstream string            // host:port of the server that it follows, "" for a master
	Config   map[string]string // nil where CONFIG GET was refused
	Refused  []string          // what a rebirth asks of it and it doesn't let us: the command, with its words
	Dump     string            // a dump.rdb that it would load, "" where none is seen
	Unseen   string            // why it can't be seen whether there is one, "" where it can
	Says     string            // where it would tell the relay that it listens, if that isn't the source's address
}

// comebackSettings are what is looked at.
var comebackSettings = []string{
	"save", "appendonly", "replica-serve-stale-data", "replica-read-only", "dir", "dbfilename", "masterauth", "masteruser",
	"port", "tls-port", "tls-replication", "replica-announce-ip", "replica-announce-port",
}

// AskComeback asks a master how it would come back. Nothing changes there.
func (m Master) AskComeback(ctx context.Context, f *Facts) (*Comeback, error) {
	line, err := m.dial(ctx)
	if err != nil {
		return nil, &ConnectError{m.Address, err, m.wayIn(err)}
	}
	client := m.client(line)
	conn := client.Conn()
	c, err := m.askComeback(ctx, conn, f)
	return c, errors.Join(err, conn.Close(), client.Close())
}

func (m Master) askComeback(ctx context.Context, conn *redis.Conn, f *Facts) (*Comeback, error) {
	if err := m.login(ctx, conn); err != nil {
		return nil, &ConnectError{m.Address, err, m.wayIn(err)}
	}
	c := &Comeback{Cluster: f.Info["cluster_enabled"] == "1"}
	if f.Info["role"] == "slave" {
		c.Upstream = net.JoinHostPort(f.Info["master_host"], f.Info["master_port"])
	}
	for _, name := range comebackSettings {
		got, err := conn.ConfigGet(ctx, name).Result()
		if err != nil {
			c.Config = nil
			break
		}
		if c.Config == nil {
			c.Config = map[string]string{}
		}
		for k, v := range got {
			c.Config[k] = v
		}
	}
	c.tryRights(ctx, conn, f)
	if dir, name := c.Config["dir"], c.Config["dbfilename"]; dir != "" && name != "" {
		c.lookFor(ctx, m.Address, dir, name)
	}
	c.announces(ctx, m.Address)
	return c, ctx.Err()
}

// announces finds out whether it would tell the relay another address than the source has (replication.c:
// syncWithMaster): then it is taken for another server. Where it tells none, the relay sees where it comes from.
func (c *Comeback) announces(ctx context.Context, address string) {
	host, _, _ := net.SplitHostPort(address)
	port, ip := c.Config["port"], c.Config["replica-announce-ip"]
	if tls := c.Config["tls-port"]; c.Config["tls-replication"] == "yes" && atoi(tls) != 0 {
		port = tls
	}
	if told := c.Config["replica-announce-port"]; atoi(told) != 0 {
		port = told
	}
	if port == "" {
		return // it doesn't tell its settings
	}
	if ip == "" {
		ip = host
	} else if all, err := net.DefaultResolver.LookupHost(ctx, host); err == nil && slices.Contains(all, ip) {
		ip = host
	}
	if says := net.JoinHostPort(ip, port); says != address {
		c.Says = says
	}
}

// tryRights finds out what a rebirth would be refused: where the server stands is told by INFO and ROLE, and REPLICAOF
// promotes it.
func (c *Comeback) tryRights(ctx context.Context, conn *redis.Conn, f *Facts) {
	refused := func(command, words string) {
		if words != "" {
			c.Refused = append(c.Refused, command+" ("+words+")")
		}
	}
	refused("INFO", f.Refused["info"])
	refused("ROLE", refusal(conn.Do(ctx, "ROLE").Err()))
	// No port is negative: it is refused before anything is done (replication.c: replicaofCommand).
	if words := refusal(conn.Do(ctx, "REPLICAOF", "nobody.invalid", "-1").Err()); strings.HasPrefix(words, "NOPERM") || strings.Contains(words, "unknown command") {
		refused("REPLICAOF", words)
	}
}

// lookFor looks for what the master would load at its start, where it can be looked at from here.
func (c *Comeback) lookFor(ctx context.Context, address, dir, name string) {
	path := filepath.Join(dir, name)
	if host, _, _ := net.SplitHostPort(address); !relay.Here(ctx, host) {
		c.Unseen = path + " is another host's"
		return
	}
	_, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		if _, err = os.Stat(dir); err == nil {
			return
		} // its folder isn't there either: the master has a root of its own, as in a container
	}
	if err != nil {
		c.Unseen = err.Error()
		return
	}
	c.Dump = path
}

// Through is what a source would be reborn through, and what is known of that beside what its master tells.
type Through struct {
	Listen   string
	Login    string // the name that goes with its password
	Password string // "": it wants none
	Start    archive.Start
	Replay   error // why no scratch engine could replay what is behind a snapshot, nil where one can

	Beside []rebirth.Server // replicas that follow the master itself, asked as they are before a rebirth
	More   int              // of these that were not asked
}

// AdviseRebirth says whether a source that has a relay would be reborn, and what to change. It can't be seen from
// outside how a server that runs was started: the second of the two options alone shows, and what the archive tells of
// its last start.
func AdviseRebirth(c *Comeback, user string, r Through) []Finding {
	var out findings
	const name = "rebirth"
	if user == "" {
		user = "default"
	}
	kept := beyond(c.Config) != ""
	if c.Cluster {
		out.add(Fail, name, "what it held is restored by `offloader restore --to`, or into a replica of the same shard", "it is in cluster mode, where the engine refuses replicaof: it is archived and guarded, and not reborn")
		return out
	}
	if c.Config["replica-read-only"] == "no" {
		out.add(Fail, name, "CONFIG SET replica-read-only yes, and in its configuration file", "replica-read-only is no: while it is a replica, until it is promoted, it takes writes that nobody archives")
	}
	if c.Upstream != "" {
		out.add(Warn, name, "where it waits for its rebirth, `offloader status` says why; where it is a replica for good, leave it one: started with the relay as its master it would be made a master beside its own",
			"it is a replica of %s", c.Upstream)
		return out
	}
	c.rights(&out, user)
	switch {
	case c.Config == nil:
		out.add(Warn, name, "grant +config|get", "the master doesn't tell its settings: whether it would be reborn isn't known")
		return out
	case c.Dump != "" && !kept:
		out.add(Fail, name, "mv "+c.Dump+" "+c.Dump+".before-offloader", "%s is left beside save '': a restart loads it, and comes back as the master was then", c.Dump)
	}
	if c.Config["replica-serve-stale-data"] != "no" {
		what := "a restart without it serves an empty master"
		if kept {
			what = "it comes back with what its own RDB or AOF holds, which may be older than what is archived"
		}
		out.add(Fail, name, "start it with --replicaof "+relayAt(r.Listen)+" --replica-serve-stale-data no --rdb-del-sync-files yes, by a drop-in for its unit (configs/), and CONFIG SET replica-serve-stale-data no now",
			"it was not started as a replica of the relay: %s", what)
	}
	const auth = "CONFIG SET masterauth …, and in its configuration file (masteruser too where the relay has a username)"
	switch has := c.Config["masterauth"]; {
	case r.Password == "" || has == r.Password:
	case has == "":
		out.add(Fail, name, auth, "the relay wants a password, and the master has none to give as its replica")
	default:
		out.add(Fail, name, auth, "the password that the master would give as a replica (masterauth) is not the relay's: it could not get in")
	}
	if has := c.Config["masteruser"]; r.Password != "" && cmp.Or(has, "default") != cmp.Or(r.Login, "default") {
		out.add(Fail, name, "CONFIG SET masteruser '"+r.Login+"', and in its configuration file", "the relay wants the user %q, and as its replica the master gives %q", cmp.Or(r.Login, "default"), cmp.Or(has, "default"))
	}
	if c.Says != "" {
		out.add(Fail, name, "CONFIG SET replica-announce-ip and replica-announce-port there to the source's address, and in its configuration file; or give the source the address that it tells",
			"as a replica it would tell the relay that it is %s, which is not the source's address: it is taken for another server, and not reborn", c.Says)
	}
	others, held := r.beside(user)
	const look = "look at what starts it (`systemctl cat` of its unit: --replicaof %s has to stand there), and restart it once at a quiet hour: then it is proved"
	switch {
	case len(out) > 0:
	case r.Start == archive.StartForgot:
		out.add(Fail, name, fmt.Sprintf(look, relayAt(r.Listen)), "its last start was not through the relay: it came back with less than it had held, and would do so again")
	case r.Start == archive.StartUnseen:
		out.add(Warn, name, fmt.Sprintf(look, relayAt(r.Listen)),
			"it has the settings of a server that is reborn; whether a restart has it follow the relay on %s can't be seen while it runs", r.Listen)
	case !held:
		out.ok(name, "if it dies and is started again, it comes back with all that is durable: it follows the relay on %s until it has that", r.Listen)
	}
	out = append(out, others...)
	if r.Replay != nil {
		out.add(Warn, name, "have the engine's package beside the daemon, not started, and memory free for the dataset; with young snapshots it is short (docs/limits.md)",
			"while it comes back its clients get an error until a snapshot is loaded, and then read what is old until it has applied the stream behind that: no scratch engine can do so before (%v)", r.Replay)
	}
	if what := beyond(c.Config); what != "" && c.Config["replica-serve-stale-data"] == "no" {
		out.add(Warn, name, "switch it off once you trust the archive (docs/operations.md), or take the drop-in away; until then restart it only while the daemon runs and all is durable",
			"its own persistence is still on: a restart takes what is archived, and throws away what %s", what)
	}
	if c.Unseen != "" && !kept {
		out.add(OK, name, "look there: none may be left beside save ''", "whether there is a dump.rdb that a restart would load can't be seen from here: %s", c.Unseen)
	}
	return out
}

// rights says what a rebirth lacks, where it would have the server stay a replica that serves nobody.
func (c *Comeback) rights(out *findings, user string) {
	if len(c.Refused) == 0 {
		return
	}
	words, hint := strings.Join(c.Refused, "; "), "where it is a hosted server, ask its vendor; else see rename-command in its configuration"
	if strings.Contains(words, "NOPERM") {
		hint = "on the master: ACL SETUSER " + user + " +replicaof +role +info, and in the file that a restart has its users from"
	}
	out.add(Fail, "rebirth", hint, "user %s may not do there what a rebirth takes, so it would not come back by itself: %s", user, words)
}

// beyond is what a master's own persistence may hold that a rebirth doesn't know of, "" where that is off. It knows by
// the offset that an RDB says; an AOF says none, nor does an RDB that was saved when the backlog was gone (rdb.c:
// rdbPopulateSaveInfo), with what stood in it.
func beyond(config map[string]string) string {
	switch {
	case config["appendonly"] == "yes":
		return "its AOF has beyond that: what was written while no daemon ran, since an AOF doesn't say how far it goes"
	case config["save"] != "":
		return "its dump.rdb has beyond that, where it was saved after an hour without any replica (repl-backlog-ttl): else it says how far it goes, and a rebirth waits"
	}
	return ""
}

// relayAt is what --replicaof names: the host and the port where the relay listens.
func relayAt(listen string) string {
	host, port, _ := net.SplitHostPort(listen) // the configuration has checked it
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "OFFLOADER-HOST"
	}
	return host + " " + port
}
