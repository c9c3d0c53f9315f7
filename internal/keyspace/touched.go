package keyspace

// touched remembers what the log did to which keys: a table of open addressing, since a log of
// 100-byte values touches millions of keys a second of work. A map takes four times as long, and
// twice the memory.
//
// A key's slot is where the top bits of its hash say, or the next free one behind that. So the
// order of the slots is that of the hashes, and growing reads and writes memory from end to end.
type touched struct {
	slots []slot // a power of two, at most three quarters of them taken
	shift uint   // 64 less the bits of an index
	n     int    // slots taken
}

// slot holds one key. Hash 0 says that it is free: no place has it.
type slot struct {
	hash uint64
	entry
}

const leastSlots = 1 << 10

func newTouched() touched { return touched{slots: make([]slot, leastSlots), shift: 64 - 10} }

// find gives the slot of a hash: the key's, or the free one that it would get.
func (t *touched) find(hash uint64) *slot {
	mask := uint64(len(t.slots) - 1)
	for i := hash >> t.shift; ; i++ {
		s := &t.slots[i&mask]
		if s.hash == hash || s.hash == 0 {
			return s
		}
	}
}

// get gives what is known of a key, if anything is.
func (t *touched) get(hash uint64) (e entry, ok bool) {
	s := t.find(hash)
	return s.entry, s.hash != 0
}

// put sets what is known of a key. It tells whether the key is new.
func (t *touched) put(hash uint64, e entry) bool {
	s := t.find(hash)
	isNew := s.hash == 0
	s.hash, s.entry = hash, e
	if isNew {
		t.added()
	}
	return isNew
}

// added counts a slot that was taken. Pointers to slots are of no use any more.
func (t *touched) added() {
	if t.n++; t.n > len(t.slots)/4*3 {
		t.move(2*len(t.slots), func(*slot) bool { return true })
	}
}

// keep forgets all keys but those for which keep says so.
func (t *touched) keep(keep func(*slot) bool) { t.move(len(t.slots), keep) }

func (t *touched) move(size int, keep func(*slot) bool) {
	old := t.slots
	t.slots, t.n = make([]slot, size), 0
	t.shift = 64
	for ; size > 1; size /= 2 {
		t.shift--
	}
	for i := range old {
		if s := &old[i]; s.hash != 0 && keep(s) {
			*t.find(s.hash) = *s
			t.n++
		}
	}
}

// warm reads the memory in which a hash's slot lies. What it gives is of no use: but a processor
// fetches the memory of many such reads at once, and then finds it when it is needed.
func (t *touched) warm(hash uint64) uint64 { return t.slots[hash>>t.shift].hash }
