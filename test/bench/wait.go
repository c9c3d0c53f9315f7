package main

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/offloader/offloader/internal/engine/enginetest"
)

// wait measures a client that wants each write safe: SET, then WAIT 1, on one connection. The disk
// is measured in turns with it: 4 KiB are appended to a file and made durable.
func (b *bench) wait() {
	master := b.startMaster()
	d := b.archiveOne(master)
	disk := b.openProbe()
	var ours, theirs, probe sample // in ms; medians of rounds
	var p99 sample
	for range b.rounds {
		pairs, syncs := b.inTurns(master, disk, 1000, func() bool { return false })
		ours, theirs, p99 = append(ours, pairs.median()), append(theirs, syncs.median()), append(p99, pairs.quantile(0.99))
	}
	b.compare("SET and WAIT 1 together, median of 1,000", "ms", ours, theirs, "fdatasync of 4 KiB", 2.5, false)
	b.compare("the same, p99", "ms", p99, theirs, "fdatasync of 4 KiB", 0, false)
	quiet := theirs

	large := b.dataset()
	ours, p99 = nil, nil
	var count int
	for i := range b.rounds {
		// Another source of the same daemon begins, and its RDB arrives.
		name := fmt.Sprintf("large%d", i)
		d.configure(target{name: "main", port: master.Port()}, target{name: name, port: large.Port()})
		d.reload()
		d.until("second RDB", func() bool { return d.source(name).Transfer != nil })
		arrived := false
		stop := make(chan struct{})
		ended := make(chan struct{})
		go func() { // looks beside the clients, since it takes a while
			defer close(ended)
			for {
				select {
				case <-stop:
					return
				case <-time.After(50 * time.Millisecond):
				}
				if d.source(name).Transfer == nil {
					return
				}
			}
		}()
		pairs, syncs := b.inTurns(master, disk, 1000, func() bool {
			select {
			case <-ended:
				arrived = true
			default:
			}
			return arrived
		})
		close(stop)
		<-ended
		count += len(pairs)
		ours, probe, p99 = append(ours, pairs.median()), append(probe, syncs.median()), append(p99, pairs.quantile(0.99))
		d.until("second snapshot", func() bool { return d.source(name).LastSnapshot != nil })
		d.configure(target{name: "main", port: master.Port()})
		d.reload()
		d.until("end of the second source", func() bool { return d.source(name).Name == "" })
	}
	b.check(disk.Close(), "close the probe")
	what := fmt.Sprintf("SET and WAIT 1 while another source's RDB arrives, median of %d", count/b.rounds)
	b.compare(what, "ms", ours, probe, "fdatasync beside it", 2.5, false)
	b.compare("the same", "ms", ours, quiet, "fdatasync on the quiet disk", 0, false)
	b.compare("the same, p99", "ms", p99, quiet, "fdatasync on the quiet disk", 0, false)
	d.stop()
	d.remove()
	master.Kill()
}

// inTurns measures n pairs and n fdatasyncs, in turns of 50 each, in ms. It ends early when ended
// says so, but not before it has some of each.
func (b *bench) inTurns(master *enginetest.Server, disk *os.File, n int, ended func() bool) (pairs, syncs sample) {
	c, err := net.Dial("tcp", master.Addr())
	b.check(err, "connect to the master")
	defer c.Close()
	in := bufio.NewReader(c)
	block := make([]byte, 4096)
	set := bulk([]byte("*3\r\n$3\r\nSET\r\n$5\r\nkey:1\r\n"), strings.Repeat("x", 100))
	wait := []byte("*3\r\n$4\r\nWAIT\r\n$1\r\n1\r\n$4\r\n1000\r\n")
	for len(pairs) < n {
		for range 50 {
			began := time.Now()
			_, err = c.Write(set)
			b.check(err, "SET")
			b.check(skipReply(in), "SET")
			_, err = c.Write(wait)
			b.check(err, "WAIT")
			line, err := in.ReadSlice('\n')
			b.check(err, "WAIT")
			if string(line) != ":1\r\n" {
				b.Fatalf("WAIT 1 1000 answered %q", line)
			}
			pairs = append(pairs, since(began))
		}
		for range 50 {
			began := time.Now()
			_, err := disk.Write(block)
			b.check(err, "write the probe")
			b.check(unix.Fdatasync(int(disk.Fd())), "fdatasync the probe")
			syncs = append(syncs, since(began))
		}
		if ended() {
			break
		}
	}
	return pairs, syncs
}

// since is how long ago something was, in ms.
func since(t time.Time) float64 { return float64(time.Since(t)) / float64(time.Millisecond) }

// openProbe makes the file by which the disk is measured.
func (b *bench) openProbe() *os.File {
	f, err := os.OpenFile(b.folder("probe"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	b.check(err, "make the probe")
	return f
}
