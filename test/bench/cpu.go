package main

import (
	"bytes"
	"math/rand/v2"
	"strings"

	"github.com/offloader/offloader/internal/engine/enginetest"
)

// cpu measures CPU seconds per GB of stream: of the daemon with all that it does, framing, spool,
// fsync, compression and storing, and of a replica that applies the stream and writes its AOF.
// Keys are there before, so that no dataset grows while it is measured.
func (b *bench) cpu() {
	docs := newDocuments()
	constant := bytes.Repeat([]byte("x"), 100)
	shapes := []struct {
		what  string
		keys  int
		value func(r *rand.Rand) []byte
	}{
		{"CPU s per GB of stream, SET of 100 B, values that vary", 1_000_000, docs.value100},
		{"CPU s per GB of stream, SET of 100 B, one value (redis-benchmark's)", 1_000_000, func(*rand.Rand) []byte { return constant }},
		{"CPU s per GB of stream, JSON documents of 1 KB", 100_000, docs.next},
	}
	var small sample // the replica's figure for 100 B, by which JSON is judged too
	for i, s := range shapes {
		master := b.startMaster()
		keys := int(min(int64(s.keys), b.size/1000))
		for range 3 { // nearly all of the keys
			b.load(master, keys, sets(keys, s.value))
		}
		each := len(sets(keys, s.value)(rand.New(rand.NewPCG(1, 1)))(nil))
		commands := int(b.share(0.25)) / each
		write := func() { b.load(master, commands, sets(keys, s.value)) }
		var ours, theirs sample
		for range b.rounds {
			theirs = append(theirs, b.replicaCPU(master, write))
			ours = append(ours, b.daemonCPU(master, write))
		}
		master.Kill()
		const other = "replica"
		switch i {
		case 0:
			small = theirs
			b.compare(s.what, "s", ours, theirs, other, 0.3, false)
		case 1:
			b.compare(s.what, "s", ours, theirs, other, 0.3, false)
		default:
			b.compare(s.what+", against the replica's SET of 100 B", "s", ours, small, other, 0.6, false)
			b.compare(s.what+", against the replica's own", "s", ours, theirs, other, 0, false)
		}
	}
}

// replicaCPU is what a real replica takes for what write makes the master say.
func (b *bench) replicaCPU(master *enginetest.Server, write func()) float64 {
	r := b.startReplica(master)
	defer r.Kill()
	from, spent := master.Offset(), b.cpuOf(r.Pid())
	write()
	b.follow(master, r)
	settle() // its AOF is fsynced a second later
	return (b.cpuOf(r.Pid()) - spent) / float64(master.Offset()-from) * 1e9
}

// daemonCPU is what Offloader takes for it, until all is stored.
func (b *bench) daemonCPU(master *enginetest.Server, write func()) float64 {
	d := b.archiveOne(master)
	defer d.remove()
	d.stored(0)
	from, spent := master.Offset(), b.cpuOf(d.pid())
	write()
	d.inStep(master)
	said := master.Offset() - from
	// Leaving stores the rest, as waiting for the interval would, if it takes seconds only.
	d.stored(64 << 20)
	took := d.stop() - spent
	if strings.Contains(d.log(), "not all was brought to the store") {
		b.Fatalf("offloader left without storing all\n%s", d.log())
	}
	return took / float64(said) * 1e9
}
