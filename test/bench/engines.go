package main

import (
	"strconv"
	"time"

	"github.com/offloader/offloader/internal/engine/enginetest"
)

// startMaster starts an engine that puts up with slow replicas: a loop of full syncs would be
// measured otherwise.
func (b *bench) startMaster() *enginetest.Server {
	return enginetest.Start(b, b.kind, "--client-output-buffer-limit", "replica 0 0 0")
}

// startReplica starts a real replica as one would run it instead of Offloader, and returns when
// it is in step.
func (b *bench) startReplica(master *enginetest.Server) *enginetest.Server {
	r := enginetest.Start(b, b.kind, "--appendonly", "yes", "--appendfsync", "everysec", "--auto-aof-rewrite-percentage", "0",
		"--client-output-buffer-limit", "replica 0 0 0", "--replicaof", "127.0.0.1 "+strconv.Itoa(master.Port()))
	b.follow(master, r)
	return r
}

// follow waits until a replica has applied all that its master has said.
func (b *bench) follow(master, replica *enginetest.Server) {
	b.Helper()
	at := master.Offset()
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		info := replica.Info("replication")
		offset, _ := strconv.ParseInt(info["slave_repl_offset"], 10, 64)
		if info["master_link_status"] == "up" && offset >= at && replica.Info("persistence")["aof_rewrite_in_progress"] == "0" {
			return
		}
		if time.Now().After(end) {
			b.Fatalf("the replica isn't in step within %v: %v", patience, info)
		}
	}
}

// dataset is a master with the large dataset, made once: documents and small records of each
// type that people keep in such servers.
func (b *bench) dataset() *enginetest.Server {
	if b.large == nil {
		b.large = b.startMaster()
		b.say("  making a dataset of %d MB", b.size/1e6)
		b.fill(b.large, b.size)
	}
	return b.large
}
