package main

import (
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/offloader/offloader/internal/rdbwalk"
)

// walk measures the RDB walk, CRC64 included, and the engine's own check of the same file: bytes
// per CPU second, which is what one core does when it has nothing else to do.
func (b *bench) walk() {
	path, size := b.rdb()
	var ours, theirs, allocs sample
	for range b.rounds {
		check := exec.Command(b.kind.Tool("check-rdb"), path)
		out, err := check.CombinedOutput()
		b.check(err, "check-rdb: %s", out)
		theirs = append(theirs, float64(size)/1e6/(check.ProcessState.UserTime()+check.ProcessState.SystemTime()).Seconds())

		seconds, perRecord := b.walkOnce(path)
		ours, allocs = append(ours, float64(size)/1e6/seconds), append(allocs, perRecord)
	}
	b.compare("RDB walk with CRC64, per CPU second", "MB/s", ours, theirs, "check-rdb", 0, true)
	b.bounded("the same", "MB/s", ours, "–", 1000, true)
	b.bounded("allocations per record", "", allocs, "–", 0.001, false)
	b.check(os.Remove(path), "remove an RDB")
}

// walkOnce walks a file in this process and gives the CPU seconds and the allocations per record.
func (b *bench) walkOnce(path string) (seconds, allocs float64) {
	f, err := os.Open(path)
	b.check(err, "open an RDB")
	defer f.Close()
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	began := b.cpuOf(os.Getpid())
	w := rdbwalk.NewWalker(f)
	for w.Next() {
	}
	b.check(w.Finish(nil, nil), "walk an RDB")
	seconds = b.cpuOf(os.Getpid()) - began
	runtime.ReadMemStats(&after)
	if w.Summary().CRC != rdbwalk.CRCOK || w.Summary().Keys == 0 {
		b.Fatalf("the walk of %s found %d keys, and its CRC64 is %v", path, w.Summary().Keys, w.Summary().CRC)
	}
	return seconds, float64(after.Mallocs-before.Mallocs) / float64(w.Summary().Keys)
}

// rdb is a file with the large dataset, as the engine writes it to a replica.
func (b *bench) rdb() (path string, size int64) {
	path = b.folder("dump")
	b.fetch(path)
	info, err := os.Stat(path)
	b.check(err, "look at an RDB")
	return path, info.Size()
}

// fetch has the engine's own client fetch the large dataset.
func (b *bench) fetch(path string) {
	out, err := exec.Command(b.kind.Tool("cli"), "-p", strconv.Itoa(b.dataset().Port()), "--rdb", path).CombinedOutput()
	b.check(err, "cli --rdb: %s", out)
}

// fullSync measures from the start of the program to a durable RDB: the engine's own client, and
// the daemon.
func (b *bench) fullSync() {
	master := b.dataset()
	var ours, theirs sample
	for range b.rounds {
		settle()
		path := b.folder("dump")
		began := time.Now()
		b.fetch(path)
		info, err := os.Stat(path)
		b.check(err, "look at an RDB")
		theirs = append(theirs, rate(info.Size(), began))
		b.check(os.Remove(path), "remove an RDB")

		settle()
		d := b.archive(target{name: "main", port: master.Port()})
		d.until("durable RDB", func() bool { return d.source("main").LastSnapshot != nil })
		ours = append(ours, rate(info.Size(), d.started))
		d.remove()
	}
	b.compare("full sync, from start to a durable RDB of "+megabytes(b.size)+" in memory", "MB/s", ours, theirs, "cli --rdb", 0, true)
}

// rate is MB/s since began.
func rate(bytes int64, began time.Time) float64 {
	return float64(bytes) / 1e6 / time.Since(began).Seconds()
}

// settle waits until what was written before is on the disk, so that nobody pays for another.
func settle() {
	unix.Sync()
	time.Sleep(1200 * time.Millisecond) // the engines fsync their AOF once a second
}
