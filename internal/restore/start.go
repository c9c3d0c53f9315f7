package restore

import (
	"fmt"
	"net"
	"strings"
)

// startCommand is a line for a shell that starts a server on what was restored: reachable from
// this machine only, on a port that is free now, and needing no configuration. databases is the
// least number of databases that the data needs.
func startCommand(report *Report, engine string, databases int) (string, error) {
	port, err := freePort()
	if err != nil {
		return "", fmt.Errorf("the restore is complete; no free port was found for a server on it: %w", err)
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

// writes is the version of an engine that began to write RDBs of a version.
var writes = map[int]string{10: "7.0", 11: "7.2", 12: "7.4", 80: "9.0"}

// atLeast says which engine can load what was restored, "" where that isn't known. An older one than wrote it ends at
// once. version is the master's when the timeline began; it may have been upgraded before the snapshot.
func atLeast(engine, version string, rdb int) string {
	major, minor := release(version)
	if x, y := release(writes[rdb]); x > major || x == major && y > minor {
		major, minor = x, y
	}
	if major == 0 {
		return ""
	}
	return fmt.Sprintf("%s %d.%d or newer", engine, major, minor)
}

// release is the beginning of a version, zeros where there is none.
func release(version string) (major, minor int) {
	if _, err := fmt.Sscanf(version, "%d.%d", &major, &minor); err != nil {
		return 0, 0
	}
	return major, minor
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
