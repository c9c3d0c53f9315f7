package main

import (
	"encoding/csv"
	"fmt"
	"os/exec"
	"strconv"
	"strings"

	"github.com/offloader/offloader/internal/engine/enginetest"
)

// master measures what a master's clients notice, by the engine's own benchmark: with no replica,
// with a real one, with Offloader.
func (b *bench) master() {
	m := b.startMaster()
	b.load(m, 1_000_000, sets(1_000_000, newDocuments().value100))
	for _, depth := range []int{1, 16} {
		requests := int(min(max(20_000, b.size/5000), 400_000)) * min(depth, 8)
		var alone, replica, ours [2]sample // rate, p99
		keep := func(s *[2]sample) {
			rate, p99 := b.ask(m, requests, depth)
			s[0], s[1] = append(s[0], rate/1000), append(s[1], p99)
		}
		for range b.rounds {
			keep(&alone)
			r := b.startReplica(m)
			keep(&replica)
			r.Kill()
			d := b.archiveOne(m)
			keep(&ours)
			d.stop()
			d.remove()
		}
		name := fmt.Sprintf("SET of 100 B, 50 clients, %d at a time", depth)
		b.compare("the master's throughput, "+name, "k/s", ours[0], replica[0], "with a replica", 1, true)
		b.compare("the same", "k/s", ours[0], alone[0], "alone", 0, true)
		b.compare("the master's p99, "+name, "ms", ours[1], replica[1], "with a replica", 0, false)
		b.compare("the same", "ms", ours[1], alone[1], "alone", 0, false)
	}
	m.Kill()
}

// ask runs the engine's benchmark and gives requests a second and the 99th percentile in ms.
func (b *bench) ask(m *enginetest.Server, requests, depth int) (rate, p99 float64) {
	settle()
	out, err := exec.Command(b.kind.Tool("benchmark"), "-p", strconv.Itoa(m.Port()), "-t", "set", "-d", "100", "-r", "1000000",
		"-n", strconv.Itoa(requests), "-P", strconv.Itoa(depth), "--csv").CombinedOutput()
	b.check(err, "run the engine's benchmark: %s", out)
	lines, err := csv.NewReader(strings.NewReader(string(out))).ReadAll()
	b.check(err, "read what the engine's benchmark printed: %s", out)
	values := map[string]float64{}
	if len(lines) == 2 {
		for i, name := range lines[0] {
			values[name], _ = strconv.ParseFloat(lines[1][i], 64)
		}
	}
	rate, p99 = values["rps"], values["p99_latency_ms"]
	if rate == 0 || p99 == 0 {
		b.Fatalf("the engine's benchmark printed %q", out)
	}
	return rate, p99
}
