package restore

import (
	"fmt"
	"net"
	"strings"

	"github.com/offloader/offloader/internal/replay"
)

// startCommand is a line for a shell that starts a server on what was restored: reachable from
// this machine only, on a port that is free now, and needing no configuration. databases is the
// least number of databases that the data needs.
func startCommand(report *Report, r *replay.Replay, databases int) (string, error) {
	port, err := freePort()
	if err != nil {
		return "", fmt.Errorf("the restore is complete; no free port was found for a server on it: %w", err)
	}
	engine := r.Timeline.Engine
	if engine == "" {
		engine = r.Info.Engine
	}
	if engine == "" {
		engine = "redis"
	}
	// save '' because an engine without a configuration would write a dump.rdb beside the AOF.
	words := []string{engine + "-server", "--dir", report.Output, "--appendonly", "yes", "--save", "",
		"--bind", "127.0.0.1", "--port", fmt.Sprint(port)}
	if report.Format == AOFSingle {
		words = append(words, "--appendfilename", singleName)
	}
	if databases > 16 { // the engines' default
		words = append(words, "--databases", fmt.Sprint(databases))
	}
	for i, w := range words {
		words[i] = ShellQuote(w)
	}
	return strings.Join(words, " "), nil
}

// freePort finds a port that nobody listens on: near the one that people know, below those that the
// kernel gives to outgoing connections, so that it stays free; else any.
func freePort() (int, error) {
	for port := 16379; port < 16479; port++ {
		if l, err := net.Listen("tcp4", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			return port, l.Close()
		}
	}
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	port := l.Addr().(*net.TCPAddr).Port
	return port, l.Close()
}

// ShellQuote writes a word such that every POSIX shell takes it as it is.
func ShellQuote(w string) string {
	const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:@%+=,"
	if w != "" && strings.Trim(w, plain) == "" {
		return w
	}
	return "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
}
