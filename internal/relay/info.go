package relay

import (
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"time"
)

// info is INFO: the sections asked for that we have, all without an argument. What Sentinel
// reads is in it (redis, sentinel.c: sentinelRefreshInstanceInfo).
func (l *Listener) info(c command) string {
	want := func(section string) bool {
		if len(c) == 1 {
			return true
		}
		for i := range c[1:] {
			switch c.arg(i + 1) {
			case strings.ToUpper(section), "ALL", "DEFAULT", "EVERYTHING":
				return true
			}
		}
		return false
	}
	var b strings.Builder
	if want("server") {
		fmt.Fprintf(&b, "# Server\r\nserver_name:offloader\r\nredis_mode:standalone\r\nprocess_id:%d\r\nrun_id:%s\r\ntcp_port:%d\r\nuptime_in_seconds:%d\r\n",
			os.Getpid(), l.runID, l.Port(), int64(time.Since(l.began).Seconds()))
	}
	if want("replication") {
		if b.Len() > 0 {
			b.WriteString("\r\n")
		}
		l.replication(&b)
	}
	return b.String()
}

// replication is the section of that name, of a replica that is never elected (slave_priority
// 0), and that clients who ask a Sentinel for replicas to read from don't hear of
// (replica_announced 0).
func (l *Listener) replication(b *strings.Builder) {
	i := l.o.Describe()
	status, syncing, lastIO := "down", 0, int64(-1)
	if i.Up {
		status = "up"
	}
	if i.Syncing {
		syncing = 1
	}
	if !i.LastIO.IsZero() {
		lastIO = max(0, int64(time.Since(i.LastIO).Seconds()))
	}
	line := func(name string, value any) { fmt.Fprintf(b, "%s:%v\r\n", name, value) }
	b.WriteString("# Replication\r\n")
	line("role", "slave")
	line("master_host", i.MasterHost)
	line("master_port", i.MasterPort)
	line("master_link_status", status)
	line("master_last_io_seconds_ago", lastIO)
	line("master_sync_in_progress", syncing)
	line("slave_read_repl_offset", i.Offset)
	line("slave_repl_offset", i.Offset)
	if !i.Up {
		down := int64(-1)
		if !i.DownSince.IsZero() {
			down = max(0, int64(time.Since(i.DownSince).Seconds()))
		}
		line("master_link_down_since_seconds", down)
	}
	line("slave_priority", 0)
	line("slave_read_only", 1)
	line("replica_announced", 0)
	attached := slices.DeleteFunc(l.Replicas(), func(r Replica) bool { return r.State == Away })
	line("connected_slaves", len(attached))
	for n, r := range attached {
		state, lag := "send_bulk", int64(-1)
		if r.State == Online {
			state = "online"
		}
		if r.AckTime > 0 {
			lag = max(0, int64(time.Since(r.AckTime.Go()).Seconds()))
		}
		host, port, _ := net.SplitHostPort(r.Address) // listensAt has joined it
		line(fmt.Sprintf("slave%d", n), fmt.Sprintf("ip=%s,port=%s,state=%s,offset=%d,lag=%d", host, port, state, r.Offset, lag))
	}
	line("master_failover_state", "no-failover")
	line("master_replid", i.ReplID)
	line("master_repl_offset", i.Offset)
}

// role is ROLE.
func (l *Listener) role() []byte {
	i := l.o.Describe()
	state := "connect"
	switch {
	case i.Up:
		state = "connected"
	case i.Syncing:
		state = "sync"
	}
	return array(bulk("slave"), bulk(i.MasterHost), integer(int64(i.MasterPort)), bulk(state), integer(int64(i.Offset)))
}
