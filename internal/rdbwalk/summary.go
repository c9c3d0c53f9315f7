package rdbwalk

import (
	"math"
	"strconv"

	"github.com/offloader/offloader/internal/stream"
)

const (
	// maxAux is the longest value of an AUX field that is looked at; those known are far shorter.
	maxAux = 256

	// maxDBs bounds Summary.DBs. Engines have 16 databases by default.
	maxDBs = 1 << 16

	// maxModules bounds Summary.Modules.
	maxModules = 64
)

// A Summary says what an RDB is.
type Summary struct {
	Valkey  bool // the magic is VALKEY; redis and older valkeys write REDIS
	Version int  // RDB version number

	// From AUX fields (rdb.c: rdbSaveInfoAuxFields), where the RDB has them.
	EngineVersion string        // redis-ver or valkey-ver
	ReplDB        int           // repl-stream-db, selected in the stream at ReplOffset; -1: not said
	ReplID        stream.ReplID // repl-id
	ReplOffset    stream.Offset // repl-offset; -1: not said
	Created       stream.Time   // ctime, by the engine's clock, to the second
	UsedMem       int64         // used-mem, bytes
	AOFBase       bool          // aof-base, or aof-preamble: the RDB is the beginning of an AOF

	Keys      int64     // in all databases
	Expires   int64     // of them, those with an expiry
	DBs       []DBCount // in the order of the RDB, which leaves out empty ones; the first 65,536
	Functions int64     // function libraries
	Modules   []string  // that have data in the RDB, the first 64

	CRC    CRC
	Length int64 // bytes from the magic to the checksum; 0 before the end

	// Unchecked says why the structure was not checked, or not with certainty: "type 27 of RDB
	// version 14 is not known". Empty for RDBs that this package knows. Counts may then be short.
	Unchecked string
}

// DBCount is what a database of an RDB holds.
type DBCount struct {
	DB            int
	Keys, Expires int64 // counted
	SizeHint      int64 // keys announced before the first; for progress, not to be relied on
}

// CRC is the verdict on an RDB's checksum.
type CRC byte

const (
	CRCPending CRC = iota // the end has not been reached
	CRCOK
	CRCAbsent // the engine wrote none (rdbchecksum no, or a version before 5)
	CRCWrong
	CRCUnread // the walk was Unsummed
)

func (c CRC) String() string {
	switch c {
	case CRCOK:
		return "ok"
	case CRCAbsent:
		return "absent"
	case CRCWrong:
		return "wrong"
	case CRCUnread:
		return "unread"
	}
	return "pending"
}

// aux reads an AUX field, and keeps what the summary has a place for. Fields may stand anywhere
// between the keys, thousands of them (valkey: slot-info).
func (w *Walker) aux() bool {
	name, full, rest, ok := w.text(w.key)
	if !ok {
		return false
	}
	w.rec.Key, w.rec.KeyLen = name, full
	w.release()
	if !w.skip(rest) {
		return false
	}
	value, full, rest, ok := w.text(w.val[:0])
	if !ok {
		return false
	}
	if full <= maxAux {
		w.seen.note(name, value)
	}
	return w.skip(rest)
}

// note takes in one AUX field. One that doesn't read as it should is as good as absent: engines
// ignore fields that they don't know.
func (s *Summary) note(name, value []byte) {
	switch string(name) {
	case "redis-ver", "valkey-ver":
		s.EngineVersion = string(value)
	case "repl-stream-db":
		if n, ok := number(value); ok && n < 1<<31 {
			s.ReplDB = int(n)
		}
	case "repl-id":
		if id, err := stream.ParseReplID(string(value)); err == nil {
			s.ReplID = id
		}
	case "repl-offset":
		if n, ok := number(value); ok {
			s.ReplOffset = stream.Offset(n)
		}
	case "ctime":
		if n, ok := number(value); ok && n < 1<<40 {
			s.Created = stream.Time(n * 1000)
		}
	case "used-mem":
		s.UsedMem, _ = number(value)
	case "aof-base", "aof-preamble":
		s.AOFBase = string(value) == "1"
	}
}

// number reads an AUX value that is a count.
func number(b []byte) (int64, bool) {
	n, err := strconv.ParseInt(string(b), 10, 64)
	return max(n, 0), err == nil && n >= 0
}

// selectDB makes db the database of the keys that follow.
func (w *Walker) selectDB(db int) {
	w.db, w.at = db, -1
	if i, ok := w.index[db]; ok {
		w.at = i
	}
}

// current is the place where the selected database is counted, nil where there are too many.
func (w *Walker) current() *DBCount {
	if w.at < 0 {
		if len(w.seen.DBs) == maxDBs {
			return nil
		}
		w.at = len(w.seen.DBs)
		w.index[w.db] = w.at
		w.seen.DBs = append(w.seen.DBs, DBCount{DB: w.db})
	}
	return &w.seen.DBs[w.at]
}

// hint takes in the size that a database is announced with.
func (w *Walker) hint(keys uint64) {
	if c := w.current(); c != nil {
		c.SizeHint = int64(min(keys, math.MaxInt64))
	}
}

// count takes in the key that was just walked.
func (w *Walker) count() bool {
	expires := int64(0)
	if w.rec.expires {
		expires = 1
	}
	w.seen.Keys++
	w.seen.Expires += expires
	if c := w.current(); c != nil {
		c.Keys++
		c.Expires += expires
	}
	return true
}

// module reads a module's id and keeps its name: nine characters of six bits, above ten bits
// of version (module.c: moduleTypeEncodeId).
func (w *Walker) module() bool {
	id, ok := w.length()
	if !ok {
		return false
	}
	const set = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	var name [9]byte
	for i := range name {
		name[i] = set[id>>(58-6*i)&63]
	}
	for _, m := range w.seen.Modules {
		if m == string(name[:]) {
			return true
		}
	}
	if len(w.seen.Modules) < maxModules {
		w.seen.Modules = append(w.seen.Modules, string(name[:]))
	}
	return true
}
