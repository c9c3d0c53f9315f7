package main

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/offloader/offloader/internal/engine/enginetest"
)

// restore measures the way from an archive to a server that answers. Half of it is a snapshot,
// half the stream behind it. Beside it stands the plainest backup there could be: the same files,
// copied and fsynced. Beside a restore into a server that runs stands the engine's own load of the same.
func (b *bench) restore() {
	docs := newDocuments()
	master := b.startMaster()
	b.fill(master, b.share(0.5))
	d := b.archiveOne(master)
	b.load(master, int(b.share(0.5)/1100), sets(200_000, docs.next))
	d.inStep(master)
	d.stored(0)
	d.stop()
	want := master.Digest()
	master.Kill()

	var ours, theirs, oursUp, theirsUp, into, own sample
	for i := range b.rounds {
		settle()
		out, copied := b.folder("restored"), b.folder("copied")
		began := time.Now()
		said, err := exec.Command(b.binary, "restore", "--archive", d.path("archive"), "--source", "main", "--latest", "--output", out).CombinedOutput()
		took := time.Since(began).Seconds()
		b.check(err, "restore: %s", said)

		settle()
		began = time.Now()
		b.check(copyTree(out, copied), "copy what was restored")
		copying := time.Since(began).Seconds()
		ours, theirs = append(ours, took), append(theirs, copying)

		settle()
		began = time.Now()
		s := enginetest.StartIn(b, b.kind, copied, "--appendonly", "yes")
		load := time.Since(began).Seconds()
		if got := s.Digest(); i == 0 && got != want {
			b.Fatalf("what was restored is not what the master had: digest %s, want %s", got, want)
		}
		s.Kill()
		oursUp, theirsUp = append(oursUp, took+load), append(theirsUp, copying+load)

		server := enginetest.Start(b, b.kind)
		settle()
		began = time.Now()
		said, err = exec.Command(b.binary, "restore", "--archive", d.path("archive"), "--source", "main", "--latest", "--to", "redis://"+server.Addr()).CombinedOutput()
		into, own = append(into, time.Since(began).Seconds()), append(own, load)
		b.check(err, "restore into a server: %s", said)
		if got := server.Digest(); i == 0 && got != want {
			b.Fatalf("what was restored into a server is not what the master had: digest %s, want %s", got, want)
		}
		server.Kill()
		b.check(errors.Join(os.RemoveAll(out), os.RemoveAll(copied)), "remove what was restored")
	}
	b.compare("restore of an AOF directory of "+megabytes(b.size)+" dataset and log, before the engine starts", "s", ours, theirs, "copy and fsync", 1.3, false)
	b.compare("the same, and the engine's own load", "s", oursUp, theirsUp, "copy and load", 0, false)
	b.compare("restore of the same into an empty server that runs, by REPLICAOF", "s", into, own, "the engine's own load", 1.2, false)
	d.remove()
}

// copyTree copies a folder as cp does, through memory, and makes all of it durable.
func copyTree(from, to string) error {
	return filepath.WalkDir(from, func(path string, e os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, name)
		if e.IsDir() {
			return errors.Join(os.Mkdir(target, 0o750), syncDir(filepath.Dir(target)))
		}
		return errors.Join(copyFile(path, target), syncDir(filepath.Dir(target)))
	})
}

func copyFile(from, to string) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	// The plain types hide copy_file_range, which on some file systems copies nothing.
	_, err = io.CopyBuffer(struct{ io.Writer }{out}, struct{ io.Reader }{in}, make([]byte, 1<<20))
	if err == nil {
		err = out.Sync()
	}
	return errors.Join(err, out.Close())
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
