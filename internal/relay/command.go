package relay

import (
	"context"
	"fmt"
	"strings"
)

// handle answers a command, with nil where none is due. In a MULTI commands wait for EXEC.
func (p *peer) handle(ctx context.Context, c command) []byte {
	if !p.admitted.Load() {
		if ok, answer := p.knock(c); !ok {
			return answer
		}
	}
	if p.inMulti {
		switch c.name() {
		case "EXEC":
			var replies [][]byte
			for _, q := range p.queued {
				if r := p.answer(q); r != nil {
					replies = append(replies, r)
				}
			}
			p.queued, p.inMulti = nil, false
			return array(replies...)
		case "DISCARD":
			p.queued, p.inMulti = nil, false
			return reply("+OK")
		case "MULTI":
			return reply("-ERR MULTI calls can not be nested")
		case "PSYNC", "SYNC", "SUBSCRIBE", "UNSUBSCRIBE", "QUIT":
			return reply("-ERR Command not allowed inside a transaction")
		}
		if len(p.queued) == maxQueued {
			return reply("-ERR too many commands in a transaction")
		}
		p.queued = append(p.queued, c)
		return reply("+QUEUED")
	}
	switch c.name() {
	case "PSYNC":
		if p.l.o.Archive != nil && len(c) == 3 {
			return p.replicate(ctx, c)
		}
	case "SYNC":
		if p.l.o.Archive != nil && len(c) == 1 {
			return p.replicate(ctx, c)
		}
	case "MULTI":
		p.inMulti = true
		return reply("+OK")
	case "EXEC", "DISCARD":
		return reply("-ERR " + c.name() + " without MULTI")
	}
	return p.answer(c)
}

// answer is what a replica would say, to those who ask replicas: masters, Sentinels, people.
func (p *peer) answer(c command) []byte {
	switch c.name() {
	case "PSYNC", "SYNC":
		return p.refuseSync(c)
	case "REPLCONF":
		return p.replconf(c)
	case "PING":
		return p.pong(c)
	case "INFO":
		return bulk(p.l.info(c))
	case "ROLE":
		return p.l.role()
	case "SLAVEOF", "REPLICAOF":
		// A Sentinel that reconfigures replicas after a failover. Whom we follow is configured.
		p.l.o.Logger.Info("told to follow another master, which only the configuration can do",
			"peer", p.nc.RemoteAddr().String(), "command", printable(c))
		return reply("+OK")
	case "SUBSCRIBE", "UNSUBSCRIBE":
		return p.subscribe(c)
	case "PUBLISH":
		if len(c) != 3 {
			return wrongArgs(c)
		}
		if h, ok := parseHello(c[2]); ok && c[1] == helloChannel {
			p.l.o.Hello(h)
		}
		return integer(int64(p.l.publish(c[1], c[2])))
	case "AUTH":
		return p.auth(c)
	case "SELECT", "READONLY", "READWRITE":
		return reply("+OK") // there is nothing to select
	case "CLIENT":
		return p.client(c)
	case "CONFIG":
		if c.arg(1) == "GET" {
			return array()
		}
		return reply("+OK") // REWRITE, from Sentinels
	case "HELLO":
		return p.hello(c)
	case "COMMAND":
		if c.arg(1) == "COUNT" {
			return integer(0)
		}
		return array()
	case "ECHO":
		if len(c) != 2 {
			return wrongArgs(c)
		}
		return bulk(c[1])
	case "QUIT":
		p.leaving = true
		return reply("+OK")
	}
	return reply("-ERR unknown command '" + printable(c[:1]) + "': this is Offloader, an archive of its master. It serves no data here")
}

// refuseSync says no to who wants our data where there is none, in the two ways that there are. A third argument
// is FAILOVER: the asking master has picked us for its successor and pauses writes until it has
// an answer. Any error makes it go on as master; +CONTINUE would make it our replica (pitfalls 1
// and 2). All others are replicas, to which an error that they don't know means "use SYNC": this
// one means "later" (pitfall 19).
func (p *peer) refuseSync(c command) []byte {
	if c.name() == "PSYNC" && len(c) > 3 {
		p.l.o.Logger.Warn("the master's FAILOVER picked this archive for its successor, which was refused: it stays the master",
			"peer", p.nc.RemoteAddr().String(), "hint", "name a replica: FAILOVER TO host port")
		return reply("-ERR this is an archive, it can't become a master: choose a replica with FAILOVER TO")
	}
	if p.l.o.Archive != nil {
		return reply("-NOMASTERLINK Can't SYNC like that: replicas say PSYNC, an id and an offset")
	}
	return reply("-NOMASTERLINK Can't SYNC while this archive serves no replicas")
}

func (p *peer) pong(c command) []byte {
	switch {
	case p.subscribed(""):
		message := ""
		if len(c) > 1 {
			message = c[1]
		}
		return array(bulk("pong"), bulk(message))
	case len(c) > 1:
		return bulk(c[1])
	}
	return reply("+PONG")
}

// subscribe answers with a reply for each channel.
func (p *peer) subscribe(c command) []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	off := c.name() == "UNSUBSCRIBE"
	names := []string(c[1:])
	if off && len(names) == 0 {
		for name := range p.channels {
			names = append(names, name)
		}
	}
	if len(names) == 0 && !off {
		return wrongArgs(c)
	}
	if p.channels == nil {
		p.channels = map[string]bool{}
	}
	var b []byte
	for _, name := range names {
		if off {
			delete(p.channels, name)
		} else if len(p.channels) < maxArgs {
			p.channels[name] = true
		}
		b = append(b, array(bulk(strings.ToLower(c.name())), bulk(name), integer(int64(len(p.channels))))...)
	}
	if len(names) == 0 {
		return array(bulk("unsubscribe"), reply("$-1"), integer(0))
	}
	return b
}

func (p *peer) client(c command) []byte {
	switch c.arg(1) {
	case "ID", "KILL":
		return integer(0)
	case "GETNAME":
		return reply("$-1")
	case "LIST", "INFO":
		return bulk("")
	}
	return reply("+OK") // SETNAME, SETINFO, REPLY …
}

func (p *peer) hello(c command) []byte {
	if len(c) > 1 && c[1] != "2" {
		return reply("-NOPROTO unsupported protocol version")
	}
	if len(c) >= 5 && c.arg(2) == "AUTH" {
		if r := p.auth(command{"AUTH", c[3], c[4]}); r[0] == '-' {
			return r
		}
	}
	if !p.admitted.Load() {
		return reply("-NOAUTH Authentication required.")
	}
	return array(bulk("server"), bulk("offloader"), bulk("proto"), integer(2), bulk("mode"), bulk("standalone"),
		bulk("role"), bulk("replica"), bulk("modules"), array())
}

func wrongArgs(c command) []byte {
	return reply(fmt.Sprintf("-ERR wrong number of arguments for '%s' command", strings.ToLower(printable(c[:1]))))
}

// printable is c on one line, cut to what a log or an error should hold.
func printable(c command) string {
	const most = 128
	s := strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == '\uFFFD' {
			return '?'
		}
		return r
	}, strings.Join(c, " "))
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "")
	}
	return s
}
