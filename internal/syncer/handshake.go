package syncer

import (
	"cmp"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/offloader/offloader/internal/stream"
)

// greet finds out whom we speak to: AUTH, PING, INFO, CONFIG GET. Each step waits for the reply of the
// one before.
func (c *conn) greet() error {
	if err := c.auth(); err != nil {
		return err
	}
	pong, err := c.ask(stagePing, "PING")
	if err != nil {
		return err
	}
	// A user without +ping is a good replica's user all the same.
	switch {
	case pong.isError && c.l.o.Follower != nil && (strings.HasPrefix(pong.text, "MASTERDOWN") || strings.HasPrefix(pong.text, "LOADING")):
		c.unready = c.refused(stagePing, pong.text) // as a replica of ours may be: INFO tells
	case pong.isError && !strings.HasPrefix(pong.text, "NOPERM"):
		return c.refused(stagePing, pong.text)
	case !pong.isError && pong.text != "PONG":
		return foreign(c.master.Addr, stagePing, []byte(pong.text))
	}
	return c.inquire()
}

func (c *conn) refused(stage, reply string) error {
	return refused(c.master.Addr, stage, c.l.o.Username, reply)
}

func (c *conn) auth() error {
	password := ""
	if c.l.o.Password != nil {
		var err error
		if password, err = c.l.o.Password(); err != nil {
			return fmt.Errorf("password for %s: %w", c.master.Addr, err)
		}
	}
	if password == "" && c.l.o.Username == "" {
		return nil
	}
	args := []string{"AUTH", password}
	if c.l.o.Username != "" {
		args = []string{"AUTH", c.l.o.Username, password}
	}
	r, err := c.ask(stageAuth, args...)
	if err == nil && r.isError {
		return c.refused(stageAuth, r.text)
	}
	return err
}

// inquire learns what there is to learn. Nothing of it is needed; without it a full resync can't
// be foreseen.
func (c *conn) inquire() error {
	for i, section := range []string{"server", "replication", "persistence", "keyspace"} {
		if i > 1 && !c.master.Permitted {
			break
		}
		r, err := c.ask(stageInfo, "INFO", section)
		if err != nil {
			return err
		}
		if r.isError {
			continue
		}
		c.master.Permitted = true
		if strings.Contains(r.text, "_mode:sentinel") { // redis_mode, in valkey server_mode
			return &RefusalError{Kind: KindNotMaster, Master: c.master.Addr, Stage: stageInfo,
				What: "this is a Sentinel, not a master", Do: "give the master's own address"}
		}
		c.master.info(r.text)
	}
	timeout, err := c.config("repl-timeout")
	if err != nil {
		return err
	}
	if s, err := strconv.Atoi(timeout); err == nil && s > 0 {
		c.master.ReplTimeout = time.Duration(min(s, 24*60*60)) * time.Second
	}
	limits, err := c.config("client-output-buffer-limit")
	if err != nil {
		return err
	}
	c.master.OutputLimit = outputLimit(limits)
	return nil
}

// config is a setting of the master, "" where it doesn't tell.
func (c *conn) config(name string) (string, error) {
	r, err := c.ask("CONFIG GET", "CONFIG", "GET", name)
	if err != nil || r.isError || len(r.array) != 2 {
		return "", err
	}
	return r.array[1], nil
}

// outputLimit takes a replica's hard limit out of client-output-buffer-limit:
// "normal 0 0 0 slave 268435456 67108864 60 pubsub …". -1 where it isn't there.
func outputLimit(setting string) int64 {
	f := strings.Fields(setting)
	for i := 0; i+1 < len(f); i += 4 {
		if n, err := strconv.ParseInt(f[i+1], 10, 64); err == nil && (f[i] == "slave" || f[i] == "replica") {
			return n
		}
	}
	return -1
}

// introduce makes the master know us as a replica to be, and tells who we are. Masters that are old, or that have renamed REPLCONF, answer errors
// which real replicas pass over; a missing right they don't, since the first ACK would then end
// the link.
func (c *conn) introduce() error {
	if c.unready != nil {
		return c.unready
	}
	port, err := c.announcedPort()
	if err != nil {
		return err
	}
	var steps [][]string
	if port > 0 {
		steps = append(steps, []string{"REPLCONF", "listening-port", strconv.Itoa(port)})
	}
	if host := c.l.o.Announce.Host; host != "" {
		steps = append(steps, []string{"REPLCONF", "ip-address", host})
	}
	steps = append(steps,
		[]string{"REPLCONF", "capa", "eof", "capa", "psync2"}, // and no two-channel syncs (pitfall 28)
		[]string{"REPLCONF", "version", c.master.announced()}) // pitfall 3
	for _, args := range steps {
		r, err := c.ask(stageReplconf, args...)
		if err != nil {
			return err
		}
		if !r.isError {
			continue
		}
		if isUnknownCommand(r.text) {
			c.mute = true
			return nil
		}
		if !strings.HasPrefix(r.text, "ERR ") {
			return c.refused(stageReplconf, r.text)
		}
		if args[1] != "version" { // which redis doesn't know
			c.l.log.Warn("the master doesn't take what it is told", "master", c.master.Addr, "command", strings.Join(args, " "), "reply", printable(r.text))
		}
	}
	return nil
}

// announcedPort is where the master is told that we listen. A port where nobody answers would
// be a trap: FAILOVER may choose us, and the master then waits, read-only, for an answer.
func (c *conn) announcedPort() (int, error) {
	l := c.l
	ip, _, err := net.SplitHostPort(c.nc.LocalAddr().String())
	if err != nil {
		ip = "" // no TCP: a test's pipe
	}
	if l.o.Listen != nil && (l.localIP != ip || l.port == 0) {
		port, err := l.o.Listen(ip)
		if err != nil {
			return 0, fmt.Errorf("open the port to announce to %s, on %s: %w", c.master.Addr, ip, err)
		}
		l.localIP, l.port = ip, port
	}
	return cmp.Or(l.o.Announce.Port, l.port), nil
}

// answer is what PSYNC brought.
type answer struct {
	full    bool          // +FULLRESYNC, else +CONTINUE
	unknown bool          // the master doesn't know PSYNC
	id      stream.ReplID // "" where +CONTINUE named none
	at      stream.Offset // of +FULLRESYNC
}

// psync asks for what follows r. The answer may take as long as the master takes to fork.
func (c *conn) psync(r Resume) (answer, error) {
	id, asked := string(r.ID), strconv.FormatInt(int64(r.Offset)+1, 10)
	if id == "" {
		id, asked = "?", "-1"
	}
	c.wire.patience = c.readTimeout()
	if err := c.send(stagePsync, "PSYNC", id, asked); err != nil {
		return answer{}, err
	}
	line, err := c.readAfterKeepalives(stagePsync)
	if err != nil {
		return answer{}, err
	}
	words := strings.Fields(string(line))
	switch {
	case len(line) > 0 && line[0] == '-':
		if isUnknownCommand(string(line[1:])) {
			return answer{unknown: true}, nil
		}
		return answer{}, c.refused(stagePsync, string(line[1:]))
	case len(words) == 3 && words[0] == "+FULLRESYNC":
		id, err := stream.ParseReplID(words[1])
		at, bad := strconv.ParseInt(words[2], 10, 64)
		if err == nil && bad == nil && at >= 0 {
			return answer{full: true, id: id, at: stream.Offset(at)}, nil
		}
	case len(words) == 1 && words[0] == "+CONTINUE" && r.ID != "":
		return answer{}, nil
	case len(words) == 2 && words[0] == "+CONTINUE" && r.ID != "":
		if id, err := stream.ParseReplID(words[1]); err == nil {
			return answer{id: id}, nil
		}
	}
	return answer{}, foreign(c.master.Addr, stagePsync, line)
}

// readTimeout is how long a master that we are attached to may be silent. It pings every 10 s
// unless told otherwise, and drops its own replicas after repl-timeout.
func (c *conn) readTimeout() time.Duration {
	return cmp.Or(c.l.o.ReadTimeout, c.master.ReplTimeout, defaultReplTimeout)
}
