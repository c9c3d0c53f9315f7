// Package amnesia tells whether a master that came back has forgotten what it held.
//
// A master without persistence that is restarted comes back empty, with an old dump.rdb it comes back as
// it was then, and a server that isn't told otherwise then goes on as if nothing had happened. What was
// archived of it before is worth most in that moment. So what a master was last Known to hold is kept, with what
// its stream has emptied on purpose since, and compared with what it comes back with.
//
// A new replication id or a lower offset proves nothing: a restart with an AOF brings both. Proof is in the number
// of keys (Forgot), and in a history that ends before what is held of it (Rewound) on a server that was started
// since (CameBack): a replica that was promoted instead, and lost the same bytes, had been running before.
//
// There is no I/O here, and time is an argument.
package amnesia

import (
	"maps"
	"strconv"

	"github.com/offloader/offloader/internal/resp"
	"github.com/offloader/offloader/internal/stream"
)

// Known is what a master held at an offset of its stream.
type Known struct {
	Keys   map[int]int64 `json:"keys"` // how many, by database; nil: nothing is known
	Offset stream.Offset `json:"offset"`
	Time   stream.Time   `json:"time"`             // when that was so
	RunID  string        `json:"run_id,omitempty"` // of the process that said so; "" where an RDB was counted
}

// Total is how many keys it held in all databases, -1 where that isn't known.
func (k Known) Total() int64 {
	if k.Keys == nil {
		return -1
	}
	var n int64
	for _, keys := range k.Keys {
		n += keys
	}
	return n
}

// After is what is known behind a command of the stream, as far as that empties databases on purpose.
// What else comes and goes is for the next count to tell. Commands before Offset are counted already.
func (k Known) After(c *resp.Command) Known {
	if k.Keys == nil || c.Start < k.Offset {
		return k
	}
	switch {
	case c.Is("FLUSHALL"):
		k.Keys = map[int]int64{}
	case c.Is("FLUSHDB"):
		k.Keys = maps.Clone(k.Keys)
		delete(k.Keys, c.DB)
	case c.Is("SWAPDB") && len(c.Args) == 3:
		a, errA := strconv.Atoi(string(c.Args[1]))
		b, errB := strconv.Atoi(string(c.Args[2]))
		if errA == nil && errB == nil {
			k.Keys = maps.Clone(k.Keys)
			k.Keys[a], k.Keys[b] = k.Keys[b], k.Keys[a]
		}
	}
	return k
}
