package main

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/offloader/offloader/internal/engine/enginetest"
)

// memory measures the most that daemon and replica have had resident: through a full sync of the
// large dataset, while it is written to, and a while after.
func (b *bench) memory() {
	master := b.dataset()
	docs := newDocuments()
	busy := func() { b.load(master, 300_000, sets(100_000, docs.next)) }

	r := b.startReplica(master)
	busy()
	b.follow(master, r)
	theirs := b.peakOf(r.Pid())
	r.Kill()

	var ours sample
	for range b.rounds {
		d := b.archive(target{name: "main", port: master.Port()})
		d.until("full sync under way", func() bool { return d.source("main").State != "" && d.source("main").State != "connecting" })
		busy()
		d.inStep(master)
		ours = append(ours, b.peakOf(d.pid()))
		d.stop()
		d.remove()
	}
	b.bounded(fmt.Sprintf("RSS at most, dataset of %s, full sync included", megabytes(b.size)), "MiB", ours,
		"replica: "+digits(theirs)+" MiB", 64, false)
}

func megabytes(n int64) string {
	if n >= 1e9 {
		return strconv.FormatFloat(float64(n)/1e9, 'g', 3, 64) + " GB"
	}
	return strconv.FormatInt(n/1e6, 10) + " MB"
}

const (
	manyMasters = 4
	perMaster   = 10
)

// sources measures 40 of them in one daemon, under load, beside one whose master doesn't exist
// and one that loops: its master refuses it.
func (b *bench) sources() {
	docs := newDocuments()
	var masters []*enginetest.Server
	var targets []target
	for i := range manyMasters {
		m := b.startMaster()
		b.load(m, int(b.share(0.02)/1000), sets(100_000, docs.next))
		masters = append(masters, m)
		for j := range perMaster {
			targets = append(targets, target{name: fmt.Sprintf("m%ds%d", i, j), port: m.Port()})
		}
	}
	broken := enginetest.Start(b, b.kind, "--requirepass", "secret")
	bad := []target{{name: "nobody", port: enginetest.FreePort(b)}, {name: "refused", port: broken.Port()}}

	d := b.archive(append(targets, bad...)...)
	good := func() (streaming, full, lag, failed int) {
		for _, s := range d.status().Sources {
			if s.Name == bad[0].name || s.Name == bad[1].name {
				if s.Error != "" {
					failed++
				}
				continue
			}
			if s.State == "streaming" {
				streaming++
			}
			full += int(s.FullResyncs)
			for i, m := range masters {
				if len(s.Name) > 1 && s.Name[1] == byte('0'+i) && int64(s.Durable) < m.Offset() {
					lag++
				}
			}
		}
		return
	}
	d.until("40 sources that stream", func() bool { n, _, _, _ := good(); return n == len(targets) })
	var g errgroup.Group
	for _, m := range masters {
		for i := range 2 {
			g.Go(func() error {
				// 10 MB/s in each source, 400 MB/s would come together if two cores could.
				return send(m.Addr(), int(max(20_000, b.share(0.02)/1000)), sets(100_000, docs.next)(rand.New(rand.NewPCG(uint64(i), 7))), 5000)
			})
		}
	}
	b.check(g.Wait(), "write to the masters")
	wrote := time.Now()
	d.until("step of 40 sources", func() bool { _, _, lag, _ := good(); return lag == 0 })
	behind := time.Since(wrote)
	streaming, full, _, failed := good()
	b.bounded("RSS at most, 40 sources under load", "MiB", sample{b.peakOf(d.pid())}, "–", 256, false)
	holds := "yes"
	if streaming != len(targets) || full != len(targets) || failed != len(bad) {
		holds = "**no**"
	}
	b.add(row{what: "40 sources beside one without a master and one that is refused", ours: fmt.Sprintf("%d stream, %d full syncs, all in step %s s after the last write",
		streaming, full, digits(behind.Seconds())), other: fmt.Sprintf("%d fail", failed), bound: "40 stream, none disturbed", holds: holds})
	d.stop()
	d.remove()
}
