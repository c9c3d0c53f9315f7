// Package keyspace knows what the commands of a replication stream do to keys: which of their
// arguments are keys, and what becomes of the existence and the expiry of each.
//
// A stream holds effects only: a command stands in it because it changed something on the master
// (no failed SETNX, no DEL of nothing), and scripts, blocking commands and relative expiries come
// rewritten. That is what makes a table of one row a command enough. A command that isn't in the
// table (a module's, a newer engine's) is never an error: its keys are unknown, and whoever asks
// is told so.
//
// A Tally uses the table to count what a restore will hold, without an engine: first the log since
// a snapshot, then the snapshot's records.
package keyspace

import (
	"math"

	"github.com/offloader/offloader/internal/resp"
)

// Scope says how much of the dataset a command touches.
type Scope uint8

const (
	// Named: the keys among its arguments, none for PING and the like.
	Named Scope = iota
	// Every: all keys of a database or of all, without naming them: FLUSHALL, FLUSHDB, SWAPDB.
	Every
	// Unknown: the command is not in the table, or says too little.
	Unknown
)

// Keys is where a command's keys stand among its arguments: every step-th from first to last, and
// one more.
type Keys struct {
	Scope             Scope
	first, last, step int
	extra             int // 0: none
}

// Of finds the keys of c.
func Of(c *resp.Command) Keys {
	r := find(c)
	return r.keys(c)
}

// Next takes the next key off k: the index of an argument of the command. ok is false when there
// are no more. A command with very many arguments doesn't keep them all: resp.Command's Whole says
// whether this key is there.
func (k *Keys) Next() (arg int, ok bool) {
	if k.first > 0 && k.first <= k.last {
		arg = k.first
		k.first += k.step
		return arg, true
	}
	arg, k.extra = k.extra, 0
	return arg, arg > 0
}

// action is what a command does to its keys.
type action uint8

const (
	nothing   action = iota // no key is changed
	unclear                 // not known
	writes                  // each key exists afterwards, with the expiry it had before
	replaces                // each exists, without an expiry
	deletes                 // each is gone
	shrinks                 // each may be empty, and then gone; else it has the expiry it had
	merges                  // the first exists, with the expiry it had; the others are read
	stores                  // the first takes a result, without an expiry, and is gone if that is empty
	passes                  // an element goes from the first, which shrinks, to the second
	renames                 // the first becomes the second
	copies                  // the first is copied to the second, perhaps of another database
	moves                   // to another database
	sets                    // SET: replaced, with an expiry if an option says so
	expires                 // the expiry is argument 2, in the row's unit
	setsEx                  // replaced, the expiry is argument 2, in the row's unit
	getsEx                  // an option says what becomes of the expiry
	persists                // the expiry goes
	restores                // RESTORE
	flushesDB               // all keys of the database are gone
	flushes                 // all keys are gone
	swapsDBs                // two databases trade names
	record                  // no command: a key of the snapshot passes
)

// row is what is known of one command.
type row struct {
	// The keys, as COMMAND INFO has them: every step-th argument from first to last, which counts
	// from the end (-1) if negative. No keys if first is 0.
	first, last, step int
	action            action
	unit              int64                        // milliseconds in a unit of the expiry; negative: from now on
	scope             Scope                        // if not Named
	where             func(*resp.Command) position // where first, last and step don't tell
}

// position is where a command's keys are, as Keys has it.
type position struct{ first, last, step, extra int }

// strange is the row of a command that is not in the table.
var strange = row{scope: Unknown, action: unclear}

// longest is the length of the longest name in the table.
const longest = 20

// find returns the command's row. Names keep the client's case.
func find(c *resp.Command) row {
	var folded [longest]byte
	name := c.Args[0]
	if len(name) > longest {
		return strange
	}
	for i, b := range name {
		if 'a' <= b && b <= 'z' {
			b -= 'a' - 'A'
		}
		folded[i] = b
	}
	if r, ok := table[string(folded[:len(name)])]; ok {
		return r
	}
	return strange
}

// keys applies the row to a command.
func (r *row) keys(c *resp.Command) Keys {
	if r.where != nil {
		p := r.where(c)
		if p.extra >= c.N {
			p.extra = 0
		}
		return Keys{first: p.first, last: min(p.last, c.N-1), step: p.step, extra: p.extra}
	}
	last := r.last
	if last < 0 {
		last += c.N
	}
	return Keys{Scope: r.scope, first: r.first, last: min(last, c.N-1), step: r.step}
}

// is compares argument i with a word in capitals, without regard to case.
func is(c *resp.Command, i int, word string) bool {
	if !c.Whole(i) || len(c.Args[i]) != len(word) {
		return false
	}
	for k, b := range c.Args[i] {
		if 'a' <= b && b <= 'z' {
			b -= 'a' - 'A'
		}
		if b != word[k] {
			return false
		}
	}
	return true
}

// number reads argument i, a decimal integer as engines write it.
func number(c *resp.Command, i int) (n int64, ok bool) {
	if !c.Whole(i) {
		return 0, false
	}
	digits := c.Args[i]
	minus := len(digits) > 0 && digits[0] == '-'
	if minus {
		digits = digits[1:]
	}
	if len(digits) == 0 {
		return 0, false
	}
	for _, b := range digits {
		if b < '0' || b > '9' || n > (math.MaxInt64-int64(b-'0'))/10 {
			return 0, false
		}
		n = n*10 + int64(b-'0')
	}
	if minus {
		n = -n
	}
	return n, true
}
