package config

import (
	"errors"
	"fmt"
	"math"
	"net"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/dustin/go-humanize"
)

// Size is a number of bytes.
type Size int64

func (s Size) String() string { return humanize.IBytes(uint64(max(0, s))) }

// ParseSize takes 64MiB, 20GiB, 500MB or a plain number of bytes. A size is at least 1.
func ParseSize(s string) (Size, error) {
	n, err := humanize.ParseBytes(s)
	if err != nil || s == "" || strings.ContainsAny(s, ",+-") {
		return 0, fmt.Errorf("%q is not a size: say 64MiB or 20GiB", s)
	}
	if n == 0 || n > math.MaxInt64 {
		return 0, fmt.Errorf("a size of %s is out of range", s)
	}
	return Size(n), nil
}

// minSpool is the least that a spool works with: a command, or a transaction, has to fit in, and what
// comes while a store is written to. What is smaller is most likely a number that lacks its unit.
const minSpool = 1 << 20

// spoolSize takes the bound of a spool.
func spoolSize(s string) (Size, error) {
	n, err := ParseSize(s)
	if err == nil && n < minSpool {
		hint := ""
		if _, plain := strconv.ParseUint(s, 10, 64); plain == nil {
			hint = fmt.Sprintf(" (%s without a unit are bytes: %sGiB?)", s, s)
		}
		err = fmt.Errorf("%s is too small for a spool, say at least %s%s", n, Size(minSpool), hint)
	}
	return n, err
}

// Percent is a share, from 0 to 100.
type Percent float64

func (p Percent) String() string { return strconv.FormatFloat(float64(p), 'f', -1, 64) + "%" }

// Of is that share of a whole.
func (p Percent) Of(whole int64) int64 { return int64(float64(whole) / 100 * float64(p)) }

// ParsePercent takes 5% and 2.5%.
func ParsePercent(s string) (Percent, error) {
	digits, ok := strings.CutSuffix(s, "%")
	p, err := strconv.ParseFloat(strings.TrimSpace(digits), 64)
	if !ok || err != nil || math.IsNaN(p) {
		return 0, fmt.Errorf("%q is not a share: say 5%%", s)
	}
	if p < 0 || p >= 100 {
		return 0, fmt.Errorf("%s is out of range: say something from 0%% to 99%%", s)
	}
	return Percent(p), nil
}

// Address takes a server's host:port, or a host alone for port 6379. An IPv6 address with a
// port stands in brackets. The result always has both, in the form that net.Dial takes.
func Address(s string) (string, error) {
	if scheme, _, ok := strings.Cut(s, "://"); ok {
		return "", fmt.Errorf("%q is a URL: leave out %s:// and say host:port", s, scheme)
	}
	host, port := s, DefaultPort
	switch bare := strings.TrimSuffix(strings.TrimPrefix(s, "["), "]"); {
	case net.ParseIP(bare) != nil:
		host = bare
	case strings.Contains(s, ":"):
		var err error
		if host, port, err = net.SplitHostPort(s); err != nil {
			return "", fmt.Errorf("%q is not an address: say host:port, like 10.0.0.5:6379 or [fd00::5]:6379", s)
		}
	}
	if _, err := strconv.Atoi(host); err == nil {
		return "", fmt.Errorf("%q is no host: say host:port, like 10.0.0.5:6379", host)
	}
	return endpoint(s, host, port, false)
}

// announce takes the host:port that a master is told. The engines keep at most 45 bytes of the
// host (replication.c: replconfCommand).
func announce(s string) (string, error) {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return "", fmt.Errorf("%q is not an address: say host:port, both are told to the master", s)
	}
	if len(host) > 45 {
		return "", fmt.Errorf("host %q has %d bytes, and a master keeps no more than 45: use its address", host, len(host))
	}
	return endpoint(s, host, port, false)
}

// listen takes an address to listen at: no host means all of them, port 0 any free one.
func listen(s string) (string, error) {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return "", fmt.Errorf("%q is not an address to listen at: say host:port, like %s", s, DefaultListen)
	}
	if host == "" {
		host = "0.0.0.0" // only to pass the check for a host
		if _, err := endpoint(s, host, port, true); err != nil {
			return "", err
		}
		return s, nil
	}
	return endpoint(s, host, port, true)
}

// Loopback tells whether an address to listen at can be reached from this host only.
func Loopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	ip := net.ParseIP(host)
	return err == nil && (host == "localhost" || ip != nil && ip.IsLoopback())
}

func endpoint(whole, host, port string, zero bool) (string, error) {
	if host == "" || strings.ContainsAny(host, " \t\r\n/@[]") {
		return "", fmt.Errorf("%q has no host: say host:port, like 10.0.0.5:6379", whole)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 && !zero {
		return "", fmt.Errorf("%q is no port: it is a number from 1 to 65535", port)
	}
	return net.JoinHostPort(host, strconv.FormatUint(n, 10)), nil
}

// maxName leaves room in a path of 255 bytes an element, and in the keys of object stores.
const maxName = 128

// sourceName takes a source's name: it is a folder of the archive, a label of metrics and a
// word in URLs, so it is plain.
func sourceName(s string) (string, error) {
	bad := strings.IndexFunc(s, func(c rune) bool {
		return !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.ContainsRune("._-", c))
	})
	switch {
	case s == "":
		return "", errors.New("a source's name is empty")
	case s[0] == '.':
		return "", fmt.Errorf("source name %q begins with a dot: such folders of an archive are not sources", s)
	case bad >= 0:
		return "", fmt.Errorf("source name %q may only have letters, digits, dot, dash and underscore", s)
	case len(s) > maxName:
		return "", fmt.Errorf("a source's name has at most %d characters, this one has %d", maxName, len(s))
	}
	return s, nil
}

func path(s string) (string, error) {
	if s == "" || strings.ContainsRune(s, 0) {
		return "", fmt.Errorf("%q is not a path", s)
	}
	if scheme, rest, ok := strings.Cut(s, "://"); ok {
		return "", fmt.Errorf("%q is a URL, this is a path: say %q without %s://", s, rest, scheme)
	}
	return filepath.Clean(s), nil
}

func notEmpty(s string) (string, error) {
	if s == "" {
		return "", errors.New("this is empty")
	}
	return s, nil
}
