package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// cpuOf is the CPU seconds, user and system, that a process has used.
func (b *bench) cpuOf(pid int) float64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	b.check(err, "read the CPU time of process %d", pid)
	// Fields are counted behind the name, which is in brackets and may hold anything (proc(5)).
	_, rest, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		b.Fatalf("/proc/%d/stat has %d fields", pid, len(fields))
	}
	user, err := strconv.ParseFloat(fields[11], 64)
	b.check(err, "read the user time of process %d", pid)
	system, err := strconv.ParseFloat(fields[12], 64)
	b.check(err, "read the system time of process %d", pid)
	return (user + system) / 100 // USER_HZ is 100 on every Linux that Go runs on
}

// peakOf is the most memory that a process has had resident, in MiB.
func (b *bench) peakOf(pid int) float64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	b.check(err, "read the memory of process %d", pid)
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kb, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			b.check(err, "read VmHWM of process %d", pid)
			return kb / 1024
		}
	}
	b.Fatalf("/proc/%d/status has no VmHWM", pid)
	return 0
}
