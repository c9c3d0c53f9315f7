package keyspace

import (
	"math"

	"github.com/offloader/offloader/internal/resp"
	"github.com/offloader/offloader/internal/stream"
)

// Add takes the next command of the log. MULTI makes no difference: a log ends between
// transactions.
func (t *Tally) Add(c *resp.Command) {
	if t.gone {
		return
	}
	r := t.row(c)
	switch r.action {
	case nothing:
	case writes, replaces, deletes, shrinks, sets, expires, setsEx, getsEx, persists, restores:
		t.each(c, r)
	case unclear:
		t.unsure(c, "what it did to which keys is not known")
	default:
		t.settle()
		if !t.gone {
			t.rare(c, r)
		}
	}
}

// rare takes the commands that do different things to different keys, or to all.
func (t *Tally) rare(c *resp.Command, r *row) {
	switch r.action {
	case flushes:
		t.flushAll()
	case flushesDB:
		t.flush(c.DB)
	case swapsDBs:
		a, okA := number(c, 1)
		b, okB := number(c, 2)
		if !okA || !okB || min(a, b) < 0 || max(a, b) > math.MaxInt32 {
			t.unsure(c, "it names no databases")
			return
		}
		t.swap(int(a), int(b))
	case stores, merges:
		t.result(c, r)
	case passes, renames, copies:
		t.pair(c, r.action)
	case moves:
		t.move(c)
	}
}

// each does the same to every key of c.
func (t *Tally) each(c *resp.Command, r *row) {
	keys := r.keys(c)
	at, has, ok := t.expiryFor(c, r, keys)
	if !ok {
		t.unsure(c, "its expiry is not understood")
		return
	}
	e, what := entry{has: has, past: has == known && at <= t.now}, replaces
	switch {
	case r.action == deletes || r.action == shrinks:
		what = r.action
	case has == own: // all others decide on the expiry
		what = writes
	}
	for i, more := keys.Next(); more; i, more = keys.Next() {
		p, ok := t.key(c, i)
		if !ok {
			return
		}
		t.later(p, what, e)
	}
}

// write is what a command does that makes or changes a key, and leaves its expiry alone.
func (t *Tally) write(p place) { t.put(p, t.get(p).written()) }

func (e entry) written() entry {
	switch {
	case e.state == gone:
		return entry{}
	case e.state == perhaps && e.has != none:
		e.maybe = true
	}
	e.state = there
	return e
}

// expiryFor is the expiry that a command gives its keys. has is own where it leaves them theirs.
func (t *Tally) expiryFor(c *resp.Command, r *row, keys Keys) (at stream.Time, has expiry, ok bool) {
	switch r.action {
	case replaces, persists:
		return 0, none, true
	case expires, setsEx:
		return instant(c, 2, r.unit)
	case restores:
		n, ok := number(c, 2)
		if !ok || n == 0 {
			return 0, none, ok
		}
		for i := 4; i < len(c.Args); i++ {
			if is(c, i, "ABSTTL") {
				return instant(c, 2, 1)
			}
		}
		return instant(c, 2, -1)
	case sets:
		first := 3
		if keys.step == 2 { // MSETEX
			first = keys.last + 1
		}
		return option(c, first, none)
	case getsEx:
		return option(c, 2, own)
	default:
		return 0, own, true
	}
}

// option looks for an expiry among a command's options, which begin at argument i.
func option(c *resp.Command, i int, without expiry) (at stream.Time, has expiry, ok bool) {
	for ; i < len(c.Args); i++ {
		switch {
		case is(c, i, "PXAT"):
			return instant(c, i+1, 1)
		case is(c, i, "EXAT"):
			return instant(c, i+1, 1000)
		case is(c, i, "PX"):
			return instant(c, i+1, -1)
		case is(c, i, "EX"):
			return instant(c, i+1, -1000)
		case is(c, i, "KEEPTTL"):
			return 0, own, true
		case is(c, i, "PERSIST"):
			return 0, none, true
		case is(c, i, "IFEQ"), is(c, i, "IFNE"), is(c, i, "IFDEQ"), is(c, i, "IFDNE"):
			i++ // its value may be any word
		}
	}
	return 0, without, true
}

// instant reads argument i as an expiry in a unit of so many milliseconds, from the time of the
// command on if that is negative. Only masters before redis 7 send those, and a replica then
// counts from when it gets them, as this does.
func instant(c *resp.Command, i int, unit int64) (at stream.Time, has expiry, ok bool) {
	n, ok := number(c, i)
	if !ok {
		return 0, none, false
	}
	from := int64(0)
	if unit < 0 {
		unit, from = -unit, max(0, int64(c.Time))
	}
	n = max(math.MinInt64/unit, min(n, (math.MaxInt64-from)/unit))
	return stream.Time(from + n*unit), known, true
}

// result is what a command does that stores what it made of other keys.
func (t *Tally) result(c *resp.Command, r *row) {
	keys := r.keys(c)
	dest := keys.extra
	if dest == 0 {
		dest = keys.first
	}
	p, ok := t.key(c, dest)
	switch {
	case !ok:
	case r.action == merges:
		t.write(p)
	default:
		t.put(p, entry{state: perhaps})
	}
}

// pair is what a command does that takes from one key to another.
func (t *Tally) pair(c *resp.Command, a action) {
	from, ok := t.key(c, 1)
	if !ok {
		return
	}
	to, ok := t.key(c, 2)
	if !ok {
		return
	}
	if a == copies {
		for i := 3; i < len(c.Args); i++ {
			if is(c, i, "DB") {
				db, ok := number(c, i+1)
				if !ok || db < 0 || db > math.MaxInt32 {
					t.unsure(c, "it names no database")
					return
				}
				to = t.place(t.dataset(int(db)), c.Args[2])
			}
		}
	}
	switch {
	case from == to: // LMOVE turns a list round, RENAME changes nothing
		t.write(from)
	case a == passes:
		e := t.get(from)
		e.state = perhaps
		t.put(from, e)
		t.write(to)
	default:
		t.inherit(from, to, a == copies)
	}
}

// move is MOVE key db.
func (t *Tally) move(c *resp.Command) {
	from, ok := t.key(c, 1)
	if !ok {
		return
	}
	db, ok := number(c, 2)
	if !ok || db < 0 || db > math.MaxInt32 {
		t.unsure(c, "it names no database")
		return
	}
	t.inherit(from, t.place(t.dataset(int(db)), c.Args[1]), false)
}

// inherit makes to what from is, with its expiry. That it could be done shows that from was there.
func (t *Tally) inherit(from, to place, stays bool) {
	e := t.get(from)
	e.state = there
	heir := e
	switch e.has {
	case own:
		t.heirs[to.hash], heir.has = from.hash, inherited
		t.wanted[from.hash] = false
	case inherited:
		t.heirs[to.hash] = t.heirs[from.hash]
	}
	if !stays {
		e = entry{state: gone}
	}
	t.put(from, e)
	t.put(to, heir)
}

// key is the place of argument i, a key. If it wasn't kept whole that is noted.
func (t *Tally) key(c *resp.Command, i int) (p place, ok bool) {
	if i <= 0 || !c.Whole(i) {
		t.unsure(c, "not all its keys could be kept")
		return place{}, false
	}
	return t.place(t.dataset(c.DB), c.Args[i]), true
}
