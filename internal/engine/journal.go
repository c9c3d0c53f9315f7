package engine

import (
	"bytes"
	"slices"
	"strings"
	"sync"
)

const (
	maxLine   = 2048 // of which the rest is passed over
	lastLines = 12   // what is kept of what was said
	maxWoes   = 5
)

// critical is what an engine begins a line with that says that it could not do what its master did, and
// went on all the same (networking.c: afterErrorReply).
const critical = "== CRITICAL =="

// journal takes what a process says, and keeps the end of it, and what matters.
type journal struct {
	mu    sync.Mutex
	part  []byte // of a line that has not ended
	lines []string
	woes  []string // the first lines that say critical
}

// Write implements io.Writer. It never fails: a process is not to wait for who listens.
func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for rest := p; len(rest) > 0; {
		line, behind, whole := bytes.Cut(rest, []byte("\n"))
		j.part = append(j.part, line[:min(len(line), maxLine-len(j.part))]...)
		if whole {
			j.end()
		}
		rest = behind
	}
	return len(p), nil
}

// end takes note of a line.
func (j *journal) end() {
	line := plain(string(j.part))
	j.part = j.part[:0]
	if line == "" {
		return
	}
	j.lines = append(j.lines[max(0, len(j.lines)-lastLines+1):], line)
	if strings.Contains(line, critical) && len(j.woes) < maxWoes {
		j.woes = append(j.woes, line)
	}
}

// plain is a line without process, date and level: "42:S 25 Nov 2026 21:58:06.123 * it begins here".
func plain(line string) string {
	line = strings.TrimSpace(line)
	if head, text, ok := strings.Cut(line, " "); ok && strings.Contains(head, ":") {
		for _, level := range []string{" # ", " * ", " - ", " . "} {
			if _, said, ok := strings.Cut(" "+text, level); ok {
				return said
			}
		}
	}
	return line
}

// last are the last lines.
func (j *journal) last() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.part) > 0 { // it has not ended
		return append(slices.Clone(j.lines), plain(string(j.part)))
	}
	return slices.Clone(j.lines)
}

// complaints are the first lines that say critical.
func (j *journal) complaints() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.woes)
}
