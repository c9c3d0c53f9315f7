// Package spool is where the replication stream becomes durable.
//
// The link appends bytes as the master sends them. One fsync covers all that was appended while
// the one before it ran, and only then does Durable rise: what is acknowledged to the master is
// what a power cut can't take. A boundary (the end of a whole command outside MULTI) is the only
// place where anything ends: opening cuts back to the last one, since half a command is no write,
// and the link resumes from there.
//
// A spool is a folder with one owner, held by a lock, and a random id by which the timelines that
// it writes are known. It holds, per source and timeline, what the stores don't have yet:
//
//	<spool>/.lock .id
//	<spool>/<source>/<timeline>/timeline.json    written last: with it the timeline exists
//	                            snapshot.rdb     as received, until the stores have it
//	                            snapshot.json
//	                            <offset>-<time>.rdb .json  snapshots taken later (snapshot.go)
//	                            events/<name>    until the stores have them
//	                            lack.json        what went before a store had it (lack.go)
//	                            <from>.chunk     the stream (chunk.go)
//
// The bytes of a timeline stay until a store has them in a compacted segment, so compaction reads
// the spool and never a store. View reads a spool beside its owner, or after the owner died.
package spool

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/offloader/offloader/internal/durable"
	"github.com/offloader/offloader/internal/stream"
)

// Options bound a spool.
type Options struct {
	MaxSize int64                    // bytes of stream that it may hold, of all sources together
	MinFree func(total int64) int64  // bytes of the file system that must stay free; nil: none
	OnSync  func(took time.Duration) // told of each fsync of the stream; may be nil
}

// Spool is an open spool, owned by this process.
type Spool struct {
	dir  string
	id   string
	opts Options
	lock *durable.Lock

	used  atomic.Int64 // bytes in all chunks
	tight atomic.Bool  // the file system is at MinFree
	asked atomic.Int64 // used, when the file system was last asked for its free space
}

// A FullError says that the spool can take no more. Nothing was dropped.
type FullError struct {
	Dir  string
	What string
	Way  string
}

func (e *FullError) Error() string { return "spool " + e.Dir + " is full: " + e.What }

// Hint says what makes room.
func (e *FullError) Hint() string { return e.Way }

// Open takes the spool in dir for this process and makes it when it is not there. It fails with
// a *durable.LockedError when another process has it.
func Open(dir string, opts Options) (*Spool, error) {
	if err := durable.MkdirAll(dir); err != nil {
		return nil, fmt.Errorf("make the spool: %w", err)
	}
	lock, err := durable.TryLock(filepath.Join(dir, ".lock"))
	if err != nil {
		return nil, fmt.Errorf("take the spool %s: %w", dir, err)
	}
	s := &Spool{dir: dir, opts: opts, lock: lock}
	if s.id, err = readOrMakeID(filepath.Join(dir, ".id")); err != nil {
		return nil, errors.Join(fmt.Errorf("read the spool's id: %w", err), lock.Unlock())
	}
	return s, nil
}

func readOrMakeID(path string) (string, error) {
	b, err := os.ReadFile(path)
	if err == nil {
		id := strings.TrimSpace(string(b))
		if raw, err := hex.DecodeString(id); err != nil || len(raw) != 16 {
			return "", fmt.Errorf("%s does not hold a spool's id", path)
		}
		return id, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	var raw [16]byte
	if _, err := rand.Read(raw[:]); err != nil {
		return "", err
	}
	id := hex.EncodeToString(raw[:])
	return id, durable.WriteFile(path, []byte(id+"\n"))
}

// ID is the spool's random id. timeline.json names it: a timeline has one writer.
func (s *Spool) ID() string { return s.id }

// Dir is where the spool is.
func (s *Spool) Dir() string { return s.dir }

// Used is how many bytes its streams take on disk.
func (s *Spool) Used() int64 { return s.used.Load() }

// MaxSize is how many they may take.
func (s *Spool) MaxSize() int64 { return s.opts.MaxSize }

// Pressed tells that the spool is half full or its file system near its bound: bytes that only
// wait to be compacted should go now.
func (s *Spool) Pressed() bool { return s.Used() > s.opts.MaxSize/2 || s.tight.Load() }

// Crowded tells that the spool is about to be full, or its file system is.
func (s *Spool) Crowded() bool { return s.Used() > s.opts.MaxSize/8*7 || s.tight.Load() }

// Tight tells that its file system has less free than must stay.
func (s *Spool) Tight() bool { return s.tight.Load() }

// Close gives the spool up. Its timelines must have been closed before.
func (s *Spool) Close() error { return s.lock.Unlock() }

// chunkSize is how much goes into one file: room comes back a file at a time, so a small spool
// has small ones.
func (s *Spool) chunkSize() int64 { return min(16<<20, max(64<<10, s.opts.MaxSize/16)) }

// room fails with a FullError if more bytes must not be added. The file system is asked once per
// 4 MiB, not for each piece.
func (s *Spool) room(more int64) error {
	used := s.used.Load()
	if used+more > s.opts.MaxSize {
		return &FullError{s.dir, fmt.Sprintf("it holds %s of at most %s", humanize.IBytes(uint64(used)), humanize.IBytes(uint64(s.opts.MaxSize))),
			"the stores are away or too slow: see `offloader status`; or raise spool.max_size"}
	}
	if last := s.asked.Load(); used-last > -(4<<20) && used-last < 4<<20 && last != 0 && !s.tight.Load() {
		return nil
	}
	s.asked.Store(max(1, used))
	return s.fileSystem(more)
}

// fileSystem fails with a FullError if writing more bytes would leave less than MinFree, and remembers that.
func (s *Spool) fileSystem(more int64) error {
	err := s.Fits(more)
	if full := (*FullError)(nil); err == nil || errors.As(err, &full) {
		s.tight.Store(full != nil)
	}
	return err
}

// Fits fails with a FullError if so many bytes beside what the spool holds would leave less than MinFree.
func (s *Spool) Fits(bytes int64) error {
	if s.opts.MinFree == nil {
		return nil
	}
	free, total, err := durable.Space(s.dir)
	if err != nil {
		return fmt.Errorf("ask for the free space of %s: %w", s.dir, err)
	}
	if keep := s.opts.MinFree(total); free-bytes < keep {
		return &FullError{s.dir, fmt.Sprintf("its file system has %s free, %s must stay (spool.min_free)", humanize.IBytes(uint64(free)), humanize.IBytes(uint64(keep))),
			"free some space there, or move the spool to a larger disk"}
	}
	return nil
}

// Room fails with a FullError while there is no room to go on with. After a stop it wants some
// air first, so that a full spool is not left and met again with every piece.
func (s *Spool) Room() error {
	if err := s.fileSystem(s.chunkSize()); err != nil {
		return err
	}
	return s.room(min(s.opts.MaxSize/8, 4*s.chunkSize()))
}

// clamp keeps times from falling: at a step of the clock backwards they stand still.
func clamp(last, now stream.Time) stream.Time { return max(last, now) }
