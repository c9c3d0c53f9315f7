package main

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/offloader/offloader/internal/engine/enginetest"
)

// relay measures the full sync of a real replica, from its start until it answers with all: from the relay, and
// from the master, which has no one to wait for.
func (b *bench) relay() {
	master := b.dataset()
	master.Do("CONFIG", "SET", "repl-diskless-sync-delay", 0)
	d, port := b.relaying(master)
	var ours, theirs, above, share sample
	for range b.rounds {
		took, cpu := b.sync(master, master.Port())
		theirs, share = append(theirs, float64(b.size)/1e6/took), append(share, 100*cpu/took)

		took, cpu = b.sync(master, port)
		ours = append(ours, float64(b.size)/1e6/took)
		idle := b.cpuOf(master.Pid())
		time.Sleep(time.Duration(took * float64(time.Second)))
		idle = b.cpuOf(master.Pid()) - idle
		above = append(above, max(0, 100*(cpu-idle)/took))
	}
	b.compare("full sync of a replica from the relay, dataset of "+megabytes(b.size), "MB/s", ours, theirs, "from the master", 1, true)
	b.bounded("the master's CPU meanwhile, above that of an idle one", "% of a core", above,
		"from the master: "+share.in("%")+", and its child's", 1, false)
	d.stop()
	d.remove()
}

// sync has a new replica get all that the master holds, at a port, and gives the seconds that it takes, and the CPU
// seconds of the master's own process.
func (b *bench) sync(master *enginetest.Server, port int) (seconds, cpu float64) {
	settle()
	spent, began := b.cpuOf(master.Pid()), time.Now()
	r := enginetest.Start(b, b.kind, "--replicaof", "127.0.0.1 "+strconv.Itoa(port))
	b.follow(master, r)
	seconds, cpu = time.Since(began).Seconds(), b.cpuOf(master.Pid())-spent
	r.Kill()
	return seconds, cpu
}

// replicas measures what ten full syncs at once cost the master, and the daemon.
func (b *bench) replicas() {
	const many = 10
	master := b.startMaster()
	b.fill(master, b.share(0.1))
	d, port := b.relaying(master)
	var all []*enginetest.Server
	for range many {
		all = append(all, enginetest.Start(b, b.kind))
	}
	figure := func(name string) float64 {
		n, err := strconv.ParseInt(master.Info("stats")[name], 10, 64)
		b.check(err, "read %s", name)
		return float64(n)
	}
	said := func() float64 {
		d.inStep(master)
		return figure("total_net_repl_output_bytes") - float64(master.Offset())
	}
	forks, bytes := figure("total_forks"), said()
	for _, r := range all {
		r.Do("REPLICAOF", "127.0.0.1", port)
	}
	began := time.Now()
	for _, r := range all {
		b.follow(master, r)
	}
	took := time.Since(began)
	what := fmt.Sprintf("%d replicas at once, of %s", many, megabytes(b.share(0.1)))
	b.bounded(what+": forks of the master", "", sample{figure("total_forks") - forks}, "–", 0, false)
	b.bounded("bytes that the master sent beside the stream of the link", "", sample{max(0, said()-bytes)}, "–", 0, false)
	b.bounded("RSS of the daemon at most", "MiB", sample{b.peakOf(d.pid())}, "all in step after "+digits(took.Seconds())+" s", 128, false)
	for _, r := range all {
		r.Kill()
	}
	d.stop()
	d.remove()
	master.Kill()
}

// delay measures how much later a replica of the relay has a write than one of the master, on a quiet master and on
// a busy one. How much later another replica of the master has it is what a machine makes of nothing, and what
// is durable has waited for the disk, which is measured between.
func (b *bench) delay() {
	master := b.startMaster()
	d, port := b.relaying(master)
	var replicas [3]*enginetest.Server
	for i, at := range []int{master.Port(), port, master.Port()} {
		replicas[i] = enginetest.Start(b, b.kind, "--notify-keyspace-events", "E$", "--replicaof", "127.0.0.1 "+strconv.Itoa(at))
		b.follow(master, replicas[i])
	}
	docs := newDocuments()
	for _, busy := range []int{0, 5000} {
		var p99, median, link, control, syncs sample
		for range b.rounds {
			var g errgroup.Group
			if busy > 0 {
				g.Go(func() error {
					return send(master.Addr(), busy*(delayWrites+delayRate)/delayRate, hashes(rand.New(rand.NewPCG(1, 2)), docs), busy)
				})
			}
			seen := b.seen(master, replicas)
			b.check(g.Wait(), "write to the master")
			var relayed, another sample
			for n := range seen[0] {
				relayed, another = append(relayed, seen[1][n]-seen[0][n]), append(another, seen[2][n]-seen[0][n])
			}
			p99, median = append(p99, relayed.quantile(0.99)), append(median, relayed.median())
			link, control = append(link, seen[0].quantile(0.99)), append(control, another.quantile(0.99))
			syncs = append(syncs, b.syncs().quantile(0.99))
		}
		b.bounded(fmt.Sprintf("how much later than a replica of the master one of the relay has a write, p99, beside %d writes of 1 KB a second", busy),
			"ms", p99, "another of the master: "+control.in("ms")+"; fdatasync of 4 KiB: "+syncs.in("ms"), 5, false)
		b.add(row{what: "the same, median; and the link's own p99, since the write", ours: median.in("ms"), other: link.in("ms"), bound: "told"})
	}
	for _, r := range replicas {
		r.Kill()
	}
	d.stop()
	d.remove()
	master.Kill()
}

// syncs makes 4 KiB durable, as often in a second as seen writes, in ms.
func (b *bench) syncs() (took sample) {
	disk := b.openProbe()
	block := make([]byte, 4096)
	for range delayWrites / 4 {
		began := time.Now()
		_, err := disk.Write(block)
		b.check(err, "write the probe")
		b.check(unix.Fdatasync(int(disk.Fd())), "fdatasync the probe")
		took = append(took, since(began))
		time.Sleep(time.Second / delayRate)
	}
	b.check(disk.Close(), "close the probe")
	return took
}

// hashes writes documents that no subscriber of delay hears of.
func hashes(r *rand.Rand, docs *documents) writer {
	return func(buf []byte) []byte {
		buf = append(buf, "*4\r\n$4\r\nHSET\r\n"...)
		return bulk(bulk(key(buf, "load:", r.IntN(100_000)), "f"), docs.next(r))
	}
}

const (
	delayWrites = 2000
	delayRate   = 200 // a second
)

// seen writes, and gives for each write how many ms after it each replica had it.
func (b *bench) seen(master *enginetest.Server, replicas [3]*enginetest.Server) (after [3]sample) {
	var wrote []time.Time
	var at [3][]time.Time
	var g errgroup.Group
	for i, r := range replicas {
		c, err := net.Dial("tcp", r.Addr())
		b.check(err, "connect to a replica")
		in := bufio.NewReader(c)
		_, err = fmt.Fprint(c, "SUBSCRIBE __keyevent@0__:set\r\n")
		b.check(err, "subscribe at a replica")
		for range 6 { // the lines that confirm it
			_, err := in.ReadSlice('\n')
			b.check(err, "subscribe at a replica")
		}
		g.Go(func() error {
			defer c.Close()
			for len(at[i]) < delayWrites {
				line, err := in.ReadSlice('\n')
				if err != nil {
					return err
				}
				if strings.HasPrefix(string(line), "delay:") {
					at[i] = append(at[i], time.Now())
				}
			}
			return nil
		})
	}
	c, err := net.Dial("tcp", master.Addr())
	b.check(err, "connect to the master")
	defer c.Close()
	in, value := bufio.NewReader(c), strings.Repeat("x", 100)
	for n := range delayWrites {
		wrote = append(wrote, time.Now())
		_, err := c.Write(bulk(key([]byte("*3\r\n$3\r\nSET\r\n"), "delay:", n), value))
		b.check(err, "SET")
		b.check(skipReply(in), "SET")
		time.Sleep(time.Until(wrote[0].Add(time.Duration(n+1) * time.Second / delayRate)))
	}
	b.check(g.Wait(), "listen to the replicas")
	for i := range at {
		for n, t := range at[i] {
			after[i] = append(after[i], float64(t.Sub(wrote[n]))/float64(time.Millisecond))
		}
	}
	return after
}
