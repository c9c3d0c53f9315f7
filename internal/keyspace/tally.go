package keyspace

import (
	"fmt"
	"hash/maphash"
	"math/bits"

	"github.com/offloader/offloader/internal/resp"
	"github.com/offloader/offloader/internal/stream"
)

// maxTouched bounds how many keys a Tally remembers: 4 million take 128 MiB,
// and for a moment 192.
const maxTouched = 4_000_000

// Result is how many keys a dataset has.
type Result struct {
	Keys    int64
	Expired int64 // of Keys, those whose expiry has passed at the Tally's now

	// Exact is false if the numbers may be off, and Reason then says why, for people.
	Exact  bool
	Reason string
	// Unsure is how many of Keys may be gone: they lost an element that may have been the last.
	Unsure int64
}

// Tally counts the keys of the dataset that a snapshot and the log behind it make, and those among
// them that have expired. It is fed the log first (Add), then the snapshot's records (Record),
// because of the keys in the log it remembers something, and of the snapshot's nothing: its memory
// follows what changed. Above 4 million changed keys it gives up and counts the snapshot only.
//
// Nothing is decoded, so after an SREM it isn't known whether the set is still there: such a key
// is counted, and the Result is not Exact. Keys are known by a 64-bit hash.
type Tally struct {
	now  stream.Time
	max  int
	seed maphash.Seed

	touched touched
	heirs   map[uint64]uint64 // key → the snapshot's key whose expiry it took over by RENAME, COPY, MOVE
	wanted  map[uint64]bool   // those snapshot's keys; once they were seen, whether their expiry has passed

	rows  [64]rowOf // of commands seen, each where its name says
	batch batch     // changes and records that are still to be looked up

	// A dataset is what SWAPDB swaps and FLUSHDB makes anew. Those of the snapshot have its
	// databases' numbers, later ones count up from firstFresh.
	data  map[int]dataset // by the database that it is now, where it isn't the one of that number
	fresh dataset
	dead  map[dataset]struct{}
	empty bool // FLUSHALL: nothing of the snapshot is left
	swept int  // len(dead) when touched was last freed of the dead

	seen filter // of the keys in touched and wanted, from the first Record on

	untouched, untouchedExpired int64 // of the snapshot, what the log left alone
	snapshot, snapshotExpired   int64 // all of it

	doubt string // the first reason why the result is not exact
	gone  bool   // gave up
}

type dataset uint32

// firstFresh is above all numbers of databases: they are ints, of 32 bits, in the engines.
const firstFresh dataset = 1 << 31

// entry is what is known of a key that the log touched.
type entry struct {
	data  dataset
	state existence
	has   expiry
	past  bool // the expiry has passed, if it is known
	maybe bool // the key may have been gone in between, and have come back without its expiry
}

type existence uint8

const (
	there existence = iota
	perhaps
	gone
)

type expiry uint8

const (
	none      expiry = iota
	known            // entry.past
	own              // as in the snapshot
	inherited        // as the snapshot's key in Tally.heirs
)

// place is a key in a dataset.
type place struct {
	hash uint64
	data dataset
}

// NewTally counts a key as expired if its expiry is at or before now.
func NewTally(now stream.Time) *Tally {
	return &Tally{
		now: now, max: maxTouched, seed: maphash.MakeSeed(), fresh: firstFresh,
		touched: newTouched(), heirs: map[uint64]uint64{}, wanted: map[uint64]bool{},
		data: map[int]dataset{}, dead: map[dataset]struct{}{},
	}
}

// Record counts a key of the snapshot, whose expiry in Unix milliseconds is at, 0 for none. All of
// the log must have been added before.
func (t *Tally) Record(db int, key []byte, at stream.Time) {
	past := at != 0 && at <= t.now
	t.snapshot++
	if past {
		t.snapshotExpired++
	}
	if t.gone {
		return
	}
	if t.seen == nil {
		t.settle()
		if t.gone {
			return
		}
		t.seen = newFilter(&t.touched, t.wanted)
	}
	e := entry{past: past}
	if at != 0 {
		e.has = known
	}
	t.later(t.place(dataset(db), key), record, e)
}

// Snapshot counts a snapshot of so many keys, none of which has an expiry, without its records.
// That can be done where the log touched no key, or flushed them all: else it returns false, and
// does nothing.
func (t *Tally) Snapshot(keys int64) bool {
	t.settle()
	switch {
	case t.gone, t.empty:
	case t.touched.n+len(t.wanted)+len(t.dead) > 0:
		return false
	default:
		t.untouched += keys
	}
	t.snapshot += keys
	return true
}

// record is a change that isn't one: a key of the snapshot passes.
func (t *Tally) record(c *change) {
	if _, heir := t.wanted[c.hash]; heir {
		t.wanted[c.hash] = c.past
	}
	s := t.touched.find(c.hash)
	switch {
	case t.lost(c.data):
	case s.hash == 0:
		t.left(c)
	case s.has == own:
		s.has, s.past = c.has, c.past
	}
}

// left counts a key that the log left alone.
func (t *Tally) left(c *change) {
	t.untouched++
	if c.past {
		t.untouchedExpired++
	}
}

// lost tells whether a dataset of the snapshot was flushed.
func (t *Tally) lost(d dataset) bool {
	if t.empty || len(t.dead) == 0 {
		return t.empty
	}
	_, dead := t.dead[d]
	return dead
}

// Result adds up. It can be asked again when more was fed.
func (t *Tally) Result() Result {
	t.settle()
	if t.gone {
		return Result{Keys: t.snapshot, Expired: t.snapshotExpired, Reason: t.doubt}
	}
	r := Result{Keys: t.untouched, Expired: t.untouchedExpired, Reason: t.doubt}
	doubtful := int64(0)
	for i := range t.touched.slots {
		hash, e := t.touched.slots[i].hash, t.touched.slots[i].entry
		if _, dead := t.dead[e.data]; hash == 0 || dead || e.state == gone {
			continue
		}
		r.Keys++
		if e.state == perhaps {
			r.Unsure++
		}
		if t.expired(hash, e) {
			r.Expired++
			if e.maybe {
				doubtful++
			}
		}
	}
	switch {
	case r.Reason != "":
	case r.Unsure > 0:
		r.Reason = fmt.Sprintf("%d of the keys may be gone: they lost elements, and it is not known whether any are left", r.Unsure)
	case doubtful > 0:
		r.Reason = fmt.Sprintf("%d of the expired keys may have no expiry: they may have been emptied and filled again", doubtful)
	}
	r.Exact = r.Reason == ""
	return r
}

// expired tells whether a touched key's expiry has passed.
func (t *Tally) expired(hash uint64, e entry) bool {
	switch e.has {
	case known:
		return e.past
	case inherited:
		return t.wanted[t.heirs[hash]]
	default: // own, but the snapshot has no such key: it was made by the log
		return false
	}
}

// dataset is the one that database db is now.
func (t *Tally) dataset(db int) dataset {
	if d, ok := t.data[db]; ok {
		return d
	}
	if !t.empty {
		return dataset(db)
	}
	return t.renew(db)
}

// renew gives database db an empty dataset.
func (t *Tally) renew(db int) dataset {
	d := t.fresh
	t.fresh++
	t.data[db] = d
	return d
}

// flush empties a database.
func (t *Tally) flush(db int) {
	t.dead[t.dataset(db)] = struct{}{}
	t.renew(db)
	t.bound()
}

// flushAll empties all. What is known of keys is of no use any more.
func (t *Tally) flushAll() {
	t.touched = newTouched()
	clear(t.heirs)
	clear(t.wanted)
	clear(t.data)
	clear(t.dead)
	t.empty, t.swept = true, 0
}

func (t *Tally) swap(a, b int) {
	t.data[a], t.data[b] = t.dataset(b), t.dataset(a)
	t.bound()
}

// place finds a key's place. The multiplier spreads the datasets' numbers over 64 bits (it is
// 2^64 divided by the golden ratio), so that a key has another hash in each.
// None is 0.
func (t *Tally) place(d dataset, key []byte) place {
	return place{max(1, maphash.Bytes(t.seed, key)^uint64(d)*0x9e3779b97f4a7c15), d}
}

// get is what is known of a key before a command that shows that it was there, or makes it.
func (t *Tally) get(p place) entry {
	if e, ok := t.touched.get(p.hash); ok {
		return e
	}
	return untouched(p.data)
}

// untouched is what is known of a key that the log touches for the first time.
func untouched(d dataset) entry {
	e := entry{data: d, has: own}
	if d >= firstFresh {
		e.has = none
	}
	return e
}

// put notes what is known of a key behind a command.
func (t *Tally) put(p place, e entry) {
	if t.gone {
		return // in the middle of a command
	}
	e.data = p.data
	if t.touched.put(p.hash, e) {
		t.bound()
	}
}

// bound keeps the memory bounded: it frees what is of no use any more, or gives up.
func (t *Tally) bound() {
	if t.touched.n+len(t.wanted)+len(t.heirs)+len(t.dead)+len(t.data) <= t.max {
		return
	}
	if t.swept < len(t.dead) {
		t.swept = len(t.dead)
		t.touched.keep(func(s *slot) bool { _, dead := t.dead[s.data]; return !dead })
		t.bound()
		return
	}
	t.gone = true
	t.doubt = fmt.Sprintf("more than %d keys changed behind the snapshot: the numbers are the snapshot's", t.max)
	t.touched, t.wanted, t.heirs, t.dead, t.data = newTouched(), nil, nil, nil, nil
}

// unsure notes that it is not known what c did.
func (t *Tally) unsure(c *resp.Command, why string) {
	if t.doubt == "" {
		t.doubt = fmt.Sprintf("%s at offset %d: %s", c.Args[0][:min(64, len(c.Args[0]))], c.Start, why)
	}
}

// filter tells most of the keys that were never touched with one look at memory, where the map
// takes several: a snapshot has many more keys than a log touches. It has a bit for each hash,
// and 16 to 32 times as many as are set.
type filter []uint64

func newFilter(touched *touched, wanted map[uint64]bool) filter {
	n := 16 * (touched.n + len(wanted))
	f := make(filter, 1<<bits.Len(uint(n/64)))
	for i := range touched.slots {
		if hash := touched.slots[i].hash; hash != 0 {
			f.add(hash)
		}
	}
	for hash := range wanted {
		f.add(hash)
	}
	return f
}

// add and holds take the bit from the middle of the hash: touched looks at the top.
func (f filter) add(hash uint64) {
	f[hash>>22&uint64(len(f)-1)] |= 1 << (hash >> 16 & 63)
}

func (f filter) holds(hash uint64) bool {
	return f[hash>>22&uint64(len(f)-1)]&(1<<(hash>>16&63)) != 0
}
