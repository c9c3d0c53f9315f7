package restore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/keyspace"
	"github.com/offloader/offloader/internal/rdbwalk"
	"github.com/offloader/offloader/internal/replay"
	"github.com/offloader/offloader/internal/resp"
	"github.com/offloader/offloader/internal/stream"
)

// A Counter counts keys, and how many databases a server needs, of what passes on its way to a server:
// the log first, then the base. What it can't count it says; it never fails a restore, but for a
// base that no engine would load.
type Counter struct {
	r         *replay.Replay
	tally     *keyspace.Tally
	commands  *resp.Commands
	databases int    // one more than the highest number seen
	failed    string // why keys could not be counted

	fields   bool  // fields of hashes were given an expiry
	ownClock int64 // commands that Redis replays by its own clock: HPERSIST, HINCRBY
}

// NewCounter counts what a replay gives. Keys are expired if their time has passed by now.
func NewCounter(r *replay.Replay, now stream.Time) *Counter {
	c := &Counter{r: r, tally: keyspace.NewTally(now), commands: resp.NewCommands(r.Start())}
	c.sees(r.Info.DB)
	for db := range r.Info.Keys {
		if n, err := strconv.Atoi(db); err == nil {
			c.sees(n)
		}
	}
	return c
}

// sees takes note of a database's number. What isn't one (engines take 31 bits) is none.
func (c *Counter) sees(db int) {
	if db >= 0 && db < 1<<31-1 {
		c.databases = max(c.databases, db+1)
	}
}

// log counts the stream in what passes.
func (c *Counter) log(p *pipe) error {
	for chunk := range p.counted {
		for _, piece := range chunk.pieces {
			_ = c.Piece(piece) // it has remembered why
		}
		p.release(chunk)
	}
	return nil
}

// Databases is how many a server needs for what was seen so far.
func (c *Counter) Databases() int { return c.databases }

// Piece counts what ends in a piece of the stream. It never returns an error.
func (c *Counter) Piece(p stream.Piece) error {
	if c.failed != "" {
		return nil
	}
	if err := c.commands.Each(p, c.command); err != nil {
		c.failed = err.Error()
	}
	c.sees(c.commands.Boundary().DB)
	return nil
}

func (c *Counter) command(cmd *resp.Command) error {
	c.sees(cmd.DB)
	switch {
	case cmd.Is("HPEXPIREAT"), cmd.Is("HSETEX"):
		c.fields = true
	case cmd.Is("HPERSIST"), c.fields && cmd.Is("HINCRBY"):
		c.ownClock++
	// Commands that name a database without selecting it.
	case cmd.Is("SWAPDB"):
		c.names(cmd, 1)
		c.names(cmd, 2)
	case cmd.Is("MOVE"):
		c.names(cmd, 2)
	case cmd.Is("COPY"):
		for i := 3; i+1 < len(cmd.Args); i++ {
			if len(cmd.Args[i]) == 2 && cmd.Args[i][0]|0x20 == 'd' && cmd.Args[i][1]|0x20 == 'b' {
				c.names(cmd, i+1)
			}
		}
	}
	c.tally.Add(cmd)
	return nil
}

// names takes argument i for a database's number.
func (c *Counter) names(cmd *resp.Command, i int) {
	if i < len(cmd.Args) {
		if db, err := strconv.Atoi(string(cmd.Args[i])); err == nil {
			c.sees(db)
		}
	}
}

// knowsBase counts the base by what is written beside the snapshot, where that is enough: there is
// no key in it with an expiry, or that the log touched.
func (c *Counter) knowsBase() bool {
	if i := c.r.Info; c.failed != "" || !c.proven() || i.Keys == nil || len(i.Expires) > 0 {
		return false
	}
	keys := int64(0)
	for _, n := range c.r.Info.Keys {
		keys += n
	}
	return c.tally.Snapshot(keys)
}

// proven says that the RDB was checked when it was received, and that reading it fails if it isn't
// the same any more. So its own checksum isn't computed again, which would take as long as the rest of
// the walk (docs/format.md asks as much of whoever writes a snapshot).
func (c *Counter) proven() bool { return c.r.Info.Unchecked == "" && c.r.Info.SHA256 != "" }

// Base counts the base for those who don't read it themselves, all of the log having been counted.
func (c *Counter) Base(ctx context.Context) (err error) {
	if c.knowsBase() {
		return nil
	}
	rdb, err := c.r.RDB(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rdb.Close()) }()
	read := &keepError{Reader: rdb}
	err = c.walk(read)
	if err != nil && read.err != nil {
		return read.err
	}
	return c.judge(err)
}

// keepError remembers why a reader failed.
type keepError struct {
	io.Reader
	err error
}

func (k *keepError) Read(p []byte) (int, error) {
	n, err := k.Reader.Read(p)
	if err != nil && err != io.EOF {
		k.err = err
	}
	return n, err
}

// base counts the records of the RDB in what passes.
func (c *Counter) base(p *pipe) error {
	in := &chunkReader{pipe: p}
	err := c.walk(in)
	in.drain()
	if !p.whole { // of what was cut short, who gave it knows why
		return nil
	}
	return c.judge(err)
}

func (c *Counter) walk(in io.Reader) error {
	var options []rdbwalk.Option
	if c.proven() {
		options = append(options, rdbwalk.Unsummed())
	}
	walk := rdbwalk.NewWalker(in, options...)
	for walk.Next() {
		c.Record(walk.Record())
	}
	return walk.Err()
}

// Record counts one key of the base, all of the log having been counted.
func (c *Counter) Record(r *rdbwalk.Record) {
	if r.Cut() && c.failed == "" {
		c.failed = fmt.Sprintf("a key of %d bytes is too long to be told from others", r.KeyLen)
	}
	c.sees(r.DB)
	c.tally.Record(r.DB, r.Key, r.ExpireAt)
}

// judge takes how the walk of a whole RDB has ended. In one that was sound when it was received, a
// wrong structure or checksum is damage: an engine would not start on it.
func (c *Counter) judge(err error) error {
	var unknown *rdbwalk.UnknownError
	switch {
	case c.r.Info.Unchecked != "": // what could be read of it need not be all
		c.failed = "the snapshot's RDB is not checked"
		return nil
	case err == nil:
		return nil
	case errors.As(err, &unknown):
		c.failed = "the snapshot can't be read through: " + err.Error()
		return nil
	}
	return c.r.DamagedSnapshot(&archive.DamageError{Name: c.r.From.Timeline + "/" + c.r.Snapshot.Name, What: "its RDB is not sound", Err: err})
}

// Tell puts the numbers into the report.
func (c *Counter) Tell(report *Report) {
	// Redis asks its own clock whether a field has expired, also when it loads an AOF (redis 8.0,
	// t_hash.c: hpersistCommand, hashTypeGetValue). Valkey doesn't.
	if c.ownClock > 0 && c.r.Info.Engine == "redis" {
		report.Notes = append(report.Notes, fmt.Sprintf("the log has %d HPERSIST or HINCRBY of hash fields that may have expired since: Redis drops such fields when it replays them (see docs/limits.md)", c.ownClock))
	}
	if c.failed != "" {
		report.KeysNote = "not counted: " + c.failed
		return
	}
	result := c.tally.Result()
	report.Keys, report.Expired, report.KeysNote = &result.Keys, &result.Expired, result.Reason
}

// chunkReader reads the bytes of chunks, and gives each back when it is read.
type chunkReader struct {
	pipe *pipe
	cur  *chunk
	at   int
}

func (r *chunkReader) Read(p []byte) (int, error) {
	for r.cur == nil || r.at == len(r.cur.data) {
		if !r.next() {
			return 0, io.EOF
		}
	}
	n := copy(p, r.cur.data[r.at:])
	r.at += n
	return n, nil
}

// next goes to the next chunk.
func (r *chunkReader) next() bool {
	if r.cur != nil {
		r.pipe.release(r.cur)
	}
	r.cur, r.at = <-r.pipe.counted, 0
	return r.cur != nil
}

// drain lets the rest pass: who gives chunks waits for them to come back.
func (r *chunkReader) drain() {
	for r.next() {
	}
}
