package relay

import (
	"net"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// helloChannel is where Sentinels tell each other, every two seconds and through every server that they watch, who the
// master is (redis, sentinel.c: sentinelSendHello). We are such a server, at the port that the master is told.
const helloChannel = "__sentinel__:hello"

// maxName is how long the names in a Hello may be: those of hosts are not longer.
const maxName = 255

// A Hello is what a Sentinel has said of itself and of the master that it watches. Whoever reaches the port can say
// it: it tells whom to ask.
type Hello struct {
	Sentinel string `json:"address"` // host:port, where it can be asked
	Master   string `json:"master"`  // what it calls the master and its replicas
	Names    string `json:"names"`   // host:port of the master
	Epoch    uint64 `json:"epoch"`   // of the failover that has made it that: a higher one is newer
}

// parseHello reads ip, port, runid and epoch of the Sentinel, and name, ip, port and epoch of the master.
func parseHello(text string) (h Hello, ok bool) {
	f := strings.Split(text, ",")
	if len(f) != 8 {
		return h, false
	}
	h = Hello{Sentinel: endpoint(f[0], f[1]), Master: f[4], Names: endpoint(f[5], f[6])}
	epoch, err := strconv.ParseUint(f[7], 10, 64)
	h.Epoch = epoch
	return h, err == nil && h.Valid()
}

// Valid tells whether it says all that a Hello does.
func (h Hello) Valid() bool {
	return isEndpoint(h.Sentinel) && isEndpoint(h.Names) && isName(h.Master)
}

// endpoint is "" where there is no such one.
func endpoint(host, port string) string {
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 || !isName(host) {
		return ""
	}
	return net.JoinHostPort(host, strconv.FormatUint(n, 10))
}

func isEndpoint(address string) bool {
	host, port, err := net.SplitHostPort(address)
	return err == nil && endpoint(host, port) == address
}

// isName tells whether a name can be one, and be shown and kept as it is.
func isName(s string) bool {
	return s != "" && len(s) <= maxName && !strings.ContainsFunc(s, func(r rune) bool { return r == utf8.RuneError || !unicode.IsGraphic(r) })
}
