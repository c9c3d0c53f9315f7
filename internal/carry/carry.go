// Package carry knows what a running server has to be sent so that it comes to hold what an archive does: the
// records of a snapshot as RESTOREs (payload.go), and the commands of the log behind it, one after the other.
//
// Most commands can be sent as they are. Some can't: a server expires keys by its own clock, so expiries are put off
// while it isn't complete (expiry.go); a cluster takes no command whose keys lie in different slots; and where keys of the
// server are to stay as they are, what would change them is left out. What a command becomes is decided here, one command at a
// time and without a server, so that the whole of a log can be tried before anything is written. A command that can't be carried
// over exactly is a *CommandError.
package carry

import (
	"bytes"
	"slices"
	"strings"

	"github.com/offloader/offloader/internal/keyspace"
	"github.com/offloader/offloader/internal/resp"
)

// How an Order is carried out.
type How byte

// Hows.
const (
	Send       How = iota // Words go to the server that has Key
	Everywhere            // Words go to every server
	FlushDB               // all keys of the database that were put there go
	FlushAll              // all keys that were
	Apart                 // the arguments Keys are keys of different slots
)

// Order is one thing to do.
type Order struct {
	How   How
	Words Words
	Key   []byte
	Keys  []int
}

// Translator says what commands become. The zero one is for one server that held nothing.
type Translator struct {
	Cluster bool
	Held    func(db int, key []byte) bool // keys that stay as they are; nil: there are none
	Own     []byte                        // a key of ours, which no command may touch
	// Functions says that libraries of functions are left out.
	NoFunctions bool

	PutOff  bool  // an expiry was put off
	Fields  bool  // fields of hashes have expiries
	Skipped int64 // commands that were left out, all or in part, for keys that stay as they are
	Left    int64 // commands on functions that were left out

	orders []Order
}

// silent are commands that change nothing, or nothing that lasts.
var silent = map[string]bool{
	"MULTI": true, "EXEC": true, "DISCARD": true, "PING": true, "SELECT": true, "REPLCONF": true, "PUBLISH": true, "SPUBLISH": true, "SCRIPT": true,
}

// Take says what a command becomes. raw is all of it; the orders are valid until the next call, their words
// as long as raw is.
func (t *Translator) Take(c *resp.Command, raw []byte) ([]Order, error) {
	t.orders = t.orders[:0]
	name := strings.ToUpper(string(c.Args[0]))
	if silent[name] {
		return nil, nil
	}
	alone := !t.Cluster && t.Held == nil
	switch name {
	case "FUNCTION":
		if t.NoFunctions {
			t.Left++
			return nil, nil
		}
		return t.one(Order{How: Everywhere, Words: wordsOf(raw)})
	case "FLUSHALL":
		return t.one(Order{How: FlushAll})
	case "FLUSHDB":
		return t.one(Order{How: FlushDB})
	case "SWAPDB":
		if t.Held != nil {
			return nil, cannot(c, "it would move keys that are to stay as they are")
		}
		return t.one(Order{Words: wordsOf(raw)})
	case "MIGRATE", "CLUSTER":
		return nil, cannot(c, "it is about other servers than this one")
	case "EVAL", "EVALSHA", "FCALL":
		if !alone {
			return nil, cannot(c, "which keys a script writes isn't known")
		}
	}
	keys := keyspace.Of(c)
	if keys.Scope != keyspace.Named {
		if !alone {
			return nil, cannot(c, "which keys it touches isn't known")
		}
		return t.one(Order{Words: wordsOf(raw)})
	}
	args := wordsOf(raw)
	var at []int
	for i, more := keys.Next(); more; i, more = keys.Next() {
		if i < len(args) {
			at = append(at, i)
		}
	}
	return t.keyed(c, name, args, at)
}

func (t *Translator) one(o Order) ([]Order, error) {
	t.orders = append(t.orders, o)
	return t.orders, nil
}

// keyed takes a command whose arguments at are keys.
func (t *Translator) keyed(c *resp.Command, name string, args Words, at []int) ([]Order, error) {
	if t.Own != nil && len(at) > 0 && bytes.Equal(word(args, at[0]), t.Own) {
		return nil, nil // left in the archive by a restore into its master
	}
	args, put, err := putOffAll(name, args, c.Time)
	if err != nil {
		return nil, cannot(c, err.Error())
	}
	t.PutOff = t.PutOff || put
	if strings.HasPrefix(name, "HPEXPIRE") || strings.HasPrefix(name, "HEXPIRE") || name == "HSETEX" || name == "HGETEX" {
		t.Fields = true
	}
	if t.Held != nil {
		held, err := t.held(c, name, args, at)
		switch {
		case err != nil:
			return nil, err
		case held == len(at) && held > 0:
			t.Skipped++
			return nil, nil
		case held > 0:
			t.Skipped++
			at = slices.DeleteFunc(at, func(i int) bool { return t.Held(c.DB, word(args, i)) })
			return t.split(name, args, at), nil
		}
	}
	switch {
	case len(at) == 0:
		return t.one(Order{Words: args})
	case !t.Cluster || oneSlot(args, at):
		return t.one(Order{Words: args, Key: word(args, at[0])})
	case splits(name):
		return t.split(name, args, at), nil
	case name == "PFCOUNT": // of several keys it changes none
		return nil, nil
	case name == "SORT" && looksElsewhere(args):
		return nil, cannot(c, "it reads keys by a pattern, which a cluster can't")
	}
	return t.one(Order{How: Apart, Words: args, Keys: at})
}

// held counts the keys of a command that stay as they are. Where only some do, it has to be one that
// does the same to each.
func (t *Translator) held(c *resp.Command, name string, args Words, at []int) (n int, err error) {
	for k, i := range at {
		db := c.DB
		if k == 1 && name == "COPY" {
			db = otherDB(args, db)
		}
		if t.Held(db, word(args, i)) {
			n++
		}
	}
	if name == "MOVE" {
		if to, ok := number(args, 2); ok && t.Held(int(to), word(args, 1)) != (n == 1) {
			return 0, cannot(c, "the key that it moves is there in one of the databases, and is to stay as it is")
		}
	}
	if 0 < n && n < len(at) && !splits(name) {
		return 0, cannot(c, "some of its keys are to stay as they are, and others depend on them")
	}
	return n, nil
}

// otherDB is the database that COPY names.
func otherDB(args Words, db int) int {
	for i := 3; i+1 < len(args); i++ {
		if is(args, i, "DB") {
			if n, ok := number(args, i+1); ok {
				return int(n)
			}
		}
	}
	return db
}

// splits tells whether a command is the same as one for each of its keys.
func splits(name string) bool {
	switch name {
	case "DEL", "UNLINK", "MSET", "MSETNX":
		return true
	}
	return false
}

// split makes a command for each key.
func (t *Translator) split(name string, args Words, at []int) []Order {
	for _, i := range at {
		o := Order{Key: word(args, i)}
		if name == "DEL" || name == "UNLINK" {
			o.Words = Words{name, args[i]}
		} else if i+1 < len(args) {
			o.Words = Words{"SET", args[i], args[i+1]}
		}
		t.orders = append(t.orders, o)
	}
	return t.orders
}

// looksElsewhere says that a SORT has a pattern of keys.
func looksElsewhere(args Words) bool {
	for i := 2; i+1 < len(args); i++ {
		if is(args, i, "BY") && bytes.ContainsRune(word(args, i+1), '*') || is(args, i, "GET") && !is(args, i+1, "#") {
			return true
		}
	}
	return false
}

func oneSlot(args Words, at []int) bool {
	for _, i := range at[1:] {
		if SlotOf(word(args, i)) != SlotOf(word(args, at[0])) {
			return false
		}
	}
	return true
}

func word(args Words, i int) []byte {
	b, _ := args[i].([]byte) // keys are as they came
	return b
}

// cannot is the error for a command that can't be carried over.
func cannot(c *resp.Command, why string) error {
	return &CommandError{string(c.Args[0][:min(64, len(c.Args[0]))]), c.Start, why, nil}
}
