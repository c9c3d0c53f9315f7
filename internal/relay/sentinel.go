package relay

import (
	"net"
	"strconv"
	"strings"
	"time"
)

// helloChannel is where Sentinels tell each other, every two seconds and through every server that they watch, who the
// master is (redis, sentinel.c: sentinelSendHello). We are such a server, at the port that the master is told.
const helloChannel = "__sentinel__:hello"

// helloFor is how long a hello counts: some of those that follow it may get lost.
const helloFor = 10 * time.Second

// named is a master as a Sentinel has named it.
type named struct {
	address string
	epoch   uint64 // of its configuration: a higher one is newer
	heard   time.Time
}

// hear takes note of a Sentinel's hello: ip, port, runid, epoch, and of the master name, ip, port, epoch.
func (l *Listener) hear(hello string, now time.Time) {
	f := strings.Split(hello, ",")
	if len(f) != 8 {
		return
	}
	port, err := strconv.ParseUint(f[6], 10, 16)
	epoch, bad := strconv.ParseUint(f[7], 10, 64)
	if err != nil || bad != nil || f[5] == "" || len(f[5]) > 255 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if now.Sub(l.named.heard) < helloFor && epoch < l.named.epoch {
		return // that Sentinel has not heard of the newer one yet
	}
	l.named = named{net.JoinHostPort(f[5], strconv.FormatUint(port, 10)), epoch, now}
}

// Named is the master that Sentinels name, "" where none has said anything for a while.
func (l *Listener) Named() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if time.Since(l.named.heard) > helloFor {
		return ""
	}
	return l.named.address
}
