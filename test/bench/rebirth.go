package main

import (
	"context"
	"strconv"
	"time"
)

// rebirth measures how long a master without persistence is away that was killed and is started again as a replica of the
// relay: from its start to the first write that it accepts. Beside it stands what a replica takes to get the same from a
// master that lives. Part of it is the second that a replica may take to acknowledge.
func (b *bench) rebirth() {
	master := b.startMaster()
	master.Do("CONFIG", "SET", "repl-diskless-sync-delay", 0)
	b.fill(master, b.size)
	d, port := b.relaying(master)
	again := []string{"--replicaof", "127.0.0.1 " + strconv.Itoa(port), "--replica-serve-stale-data", "no"}
	die := func() float64 {
		d.inStep(master)
		settle()
		master.Kill()
		began := time.Now()
		master.Restart(again...)
		for end := began.Add(patience); ; time.Sleep(5 * time.Millisecond) {
			if master.Client().Set(context.Background(), "first", "write", 0).Err() == nil {
				return time.Since(began).Seconds()
			}
			if time.Now().After(end) {
				b.Fatalf("the master is not reborn within %v: %v", patience, d.source("main").Why)
			}
		}
	}
	var ours, theirs sample
	for range b.rounds {
		took, _ := b.sync(master, master.Port())
		theirs = append(theirs, took)
		ours = append(ours, die()-1)
	}
	b.compare("rebirth of "+megabytes(b.size)+" from a fresh snapshot, to the first write, less 1 s", "s", ours, theirs, "full sync of a replica from the master", 1.2, false)
	predicted := d.source("main").Rebirth

	b.load(master, int(2*b.size/1100), sets(200_000, newDocuments().next))
	d.inStep(master)
	took := die()
	told := "–"
	if predicted != nil {
		told = "predicted before the log: " + digits(predicted.Seconds) + " s"
	}
	b.add(row{what: "the same with " + megabytes(2*b.size) + " of log behind it, which the server applies itself", ours: digits(took) + " s", other: told, bound: "told"})
	d.program = master.Kind().Tool("server")
	d.configure(target{"main", master.Port(), port})
	d.reload()
	b.add(row{what: "the same, replayed by a scratch engine before, so that its clients read nothing that is old", ours: digits(die()) + " s", other: "–", bound: "told"})
	d.stop()
	d.remove()
	master.Kill()
}
