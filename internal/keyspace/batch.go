package keyspace

import (
	"bytes"

	"github.com/offloader/offloader/internal/resp"
)

// batch is what waits to be looked up. A key's place in memory is a random one, and waiting for
// it takes a processor as long as a hundred instructions; for many at once it waits only once.
type batch struct {
	n       int
	changes [64]change
	warmed  uint64 // keeps the compiler from leaving out reads whose result nobody needs
}

// change is what happens to one key.
type change struct {
	hash  uint64
	entry        // data is the key's; has and past are what it gets, where what says so
	what  action // writes, replaces, deletes, shrinks; record for a key of the snapshot
}

// later notes a change. Whoever looks at what is known, or changes it in another way, settles before.
func (t *Tally) later(p place, what action, e entry) {
	if t.batch.n == len(t.batch.changes) {
		t.settle()
	}
	e.data = p.data
	t.batch.changes[t.batch.n] = change{p.hash, e, what}
	t.batch.n++
}

// settle does what waits, in order.
func (t *Tally) settle() {
	changes := t.batch.changes[:t.batch.n]
	t.batch.n = 0
	if t.gone {
		return
	}
	if t.seen != nil {
		changes = t.sift(changes)
	}
	warmed := uint64(0)
	for i := range changes {
		warmed ^= t.touched.warm(changes[i].hash)
	}
	t.batch.warmed = warmed
	for i := range changes {
		if t.gone {
			return
		}
		if c := &changes[i]; c.what == record {
			t.record(c)
		} else {
			t.change(c)
		}
	}
}

// sift counts those records of which the log has left the keys alone, and returns the others.
func (t *Tally) sift(records []change) []change {
	n := 0
	for i := range records {
		switch c := &records[i]; {
		case t.seen.holds(c.hash):
			records[n] = *c
			n++
		case !t.lost(c.data):
			t.left(c)
		}
	}
	return records[:n]
}

// change does to a key what a command does.
func (t *Tally) change(c *change) {
	s := t.touched.find(c.hash)
	e := s.entry
	if s.hash == 0 {
		e = untouched(c.data)
	}
	switch c.what {
	case writes:
		e = e.written()
	case deletes:
		e = entry{state: gone}
	case shrinks:
		e.state = perhaps
	default:
		e = entry{has: c.has, past: c.past}
	}
	e.data = c.data
	s.entry = e
	if s.hash == 0 {
		s.hash = c.hash
		t.touched.added()
		t.bound()
	}
}

// rowOf is the row of a command that was seen.
type rowOf struct {
	name [longest]byte // as the client wrote it
	n    int
	row  row
}

// row is find, faster for the few commands that make up a log.
func (t *Tally) row(c *resp.Command) *row {
	name := c.Args[0]
	if len(name) == 0 || len(name) > longest {
		return &strange
	}
	k := &t.rows[(len(name)*7+int(name[0])*5+int(name[len(name)-1]))%len(t.rows)]
	if !bytes.Equal(k.name[:k.n], name) {
		k.row, k.n = find(c), copy(k.name[:], name)
	}
	return &k.row
}
