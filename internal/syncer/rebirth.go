package syncer

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/offloader/offloader/internal/stream"
)

// A Follower is the server at our master's address while it is somebody's replica.
type Follower struct {
	Remote   string        // ip:port of it
	Upstream string        // host:port of whom it follows
	ReplID   stream.ReplID // "" while its link was never up
	State    string        // of its link, as ROLE has it: connect, connecting, sync, connected
	Offset   stream.Offset // where it stands, by ROLE, or by INFO while it has no link; -1: not known
	Loading  bool          // it reads an RDB
	Keys     int64         // that it holds
	RunID    string
	Untold   string // "INFO" or "ROLE", which our user may not ask it for; "": it was asked for both
}

// Fate is what becomes of a Follower.
type Fate int

// The fates. One of our replicas that is neither promoted now nor anybody else's waits: that is a
// *RebirthError.
const (
	Upstream Fate = iota // it follows another server: its stream is as good as that one's
	Promote              // it is ours, and to be the master again
)

// A RebirthError says why a source that has come back as our replica is not promoted, or not yet.
type RebirthError struct {
	Master string // host:port
	Why    string // "it is at offset 5 of 7"
	Do     string // what decides, "" where it goes on by itself
}

func (e *RebirthError) Error() string { return e.Master + " waits for its rebirth: " + e.Why }

// Hint says what to do.
func (e *RebirthError) Hint() string { return e.Do }

// rebirth finds out whether the server follows us: then its stream is our own, and must not be asked
// for. One that is to be the master again is promoted on this connection, between what it said of itself
// and what it is asked for next.
func (c *conn) rebirth(ctx context.Context) error {
	if c.master.Role == "master" && c.master.RunID != "" && c.master.RunID == c.l.reborn {
		c.master.Reborn = true // the connection broke between its promotion and its stream
	}
	if c.l.o.Follower == nil || c.master.Permitted && c.master.Role != "slave" {
		return nil
	}
	f, err := c.follower()
	if err != nil {
		return err
	}
	fate, err := c.l.o.Follower(ctx, f)
	if err != nil || fate != Promote {
		return err
	}
	c.l.reborn = f.RunID
	r, err := c.ask(stagePromote, "REPLICAOF", "NO", "ONE")
	if err != nil {
		return err
	}
	if r.isError {
		c.l.reborn = ""
		return c.refused(stagePromote, r.text)
	}
	c.l.change(func(s *Status) { s.Promoted++ })
	c.l.log.Warn("the source is reborn: it is the master again", "master", c.master.Addr, "offset", int64(f.Offset), "replid", string(f.ReplID))
	c.master, c.unready = Master{Addr: c.master.Addr, OutputLimit: -1, Reborn: true}, nil
	if err := c.inquire(); err != nil {
		return err
	}
	if c.master.Role != "master" {
		return fmt.Errorf("%s was promoted, and says that it is a %s all the same", c.master.Addr, c.master.Role)
	}
	return nil
}

// follower is what the server says of itself, as far as our user may ask.
func (c *conn) follower() (Follower, error) {
	f := Follower{Remote: c.nc.RemoteAddr().String(), Offset: -1}
	if !c.master.Permitted {
		f.Untold = stageInfo
		return f, nil
	}
	f.Upstream, f.ReplID, f.Loading, f.RunID = c.master.Upstream, c.master.ReplID, c.master.Loading, c.master.RunID
	for _, n := range c.master.Keys {
		f.Keys += n
	}
	r, err := c.ask(stageRole, "ROLE")
	if err != nil {
		return f, err
	}
	switch {
	case r.isError && strings.HasPrefix(r.text, "NOPERM"):
		f.Untold = stageRole
	case r.isError:
		return f, c.refused(stageRole, r.text)
	case len(r.array) == 5 && r.array[0] == "slave":
		f.State = r.array[3]
		if at, err := strconv.ParseInt(r.array[4], 10, 64); err == nil {
			f.Offset = stream.Offset(at)
		}
	}
	if f.Offset < 0 { // it has no link: what it holds, of its own dump.rdb perhaps, may be more than we have
		f.Offset = c.master.Offset
	}
	return f, nil
}
