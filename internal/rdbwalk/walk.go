// Package rdbwalk passes through an RDB, record by record, without holding or decoding it.
//
// An RDB comes in as a stream, from a master or a file, of any size. Records go out one at a
// time: database, key, type, expiry and length of each, and its raw bytes for those who ask
// (Copy). Values are passed over by their structure alone (types.go), so a record of 512 MB
// costs no more memory than one of 5 bytes, and a length that lies costs nothing. On the way
// the CRC64 is checked, and the Summary fills: who wrote the RDB, at which offset, with how
// many keys.
//
// What the bytes are is told apart in the error: damaged (FormatError, ChecksumError), cut off
// (io.ErrUnexpectedEOF), or newer than this package (UnknownError). The last is no reason to
// throw an RDB away: Finish brings its end all the same.
//
// The end is found by structure, never by a mark in the data, and nothing behind it is taken
// for RDB. Each byte is read from the source exactly once and in order, so the source may be
// an io.TeeReader that stores what passes.
package rdbwalk

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"strconv"

	"github.com/offloader/offloader/internal/stream"
)

// MaxKey is how many bytes of a key a Record holds. Longer keys are cut.
const MaxKey = 64 << 10

// A Record is one key with all that belongs to it, valid until the next call of Next. With
// Opcodes it may also be one of the records between the keys.
type Record struct {
	DB       int         // database of the key
	Type     byte        // type of the value, or the opcode of a record that is no key
	Key      []byte      // the real bytes, at most MaxKey; of an AUX field its name
	KeyLen   int64       // bytes of the whole key
	ExpireAt stream.Time // when the key expires, in ms; 0: never
	Offset   int64       // bytes of the RDB before the record
	RawLen   int64       // bytes of the record: prefixes (expiry, idle time, frequency), type, key and value
	HeadLen  int64       // of these, bytes before the value; of a record that is no key, 0

	kind    *kind
	expires bool
}

// IsKey tells a key from what else stands in an RDB.
func (r *Record) IsKey() bool { return r.kind != nil && r.kind.class == value }

// Cut tells whether Key is only the beginning of the key.
func (r *Record) Cut() bool { return r.KeyLen > int64(len(r.Key)) }

// TypeName is Type in words: "hash-listpack", "aux".
func (r *Record) TypeName() string {
	if r.kind == nil {
		return ""
	}
	return r.kind.name
}

// A Walker walks one RDB. It is not safe for concurrent use.
type Walker struct {
	window
	pick  func(*Record) io.Writer
	all   bool // also show what is no key
	kinds *[256]kind

	rec   Record
	db    int
	seen  Summary
	at    int         // index of db in seen.DBs, -1 while it has no keys
	index map[int]int // of a database in seen.DBs
	ended bool        // the EOF record and the checksum are behind us

	key []byte       // room for a record's key
	val [maxAux]byte // and for an AUX value
}

// An Option changes what a Walker hands out.
type Option func(*Walker)

// Copy hands out raw records. pick is called once for each record, when all of it but RawLen is
// known, and says where its bytes go: prefixes, type, key and value as they are in the RDB, in
// one or several writes; nil for nowhere. They are all written when Next returns. Of a record in
// which the walk fails a part may have been written.
func Copy(pick func(*Record) io.Writer) Option {
	return func(w *Walker) { w.pick = pick }
}

// Opcodes makes Next, and the function given to Copy, also see the records that are no keys: AUX
// fields, functions, module data, SELECTDB, hints. Only the EOF is never seen.
func Opcodes() Option {
	return func(w *Walker) { w.all = true }
}

// Unsummed leaves the CRC64, half of a walk's work, to whoever knows in another way that the bytes
// are right. Summary.CRC then is CRCUnread. Such a walk has no Finish.
func Unsummed() Option {
	return func(w *Walker) { w.unsummed = true }
}

// NewWalker walks the RDB that r gives. It asks for large pieces, waits for nothing behind the
// RDB's end, and takes some 350 KiB of memory.
func NewWalker(r io.Reader, options ...Option) *Walker {
	w := &Walker{
		window: window{r: r, buf: make([]byte, bufferSize), doing: "header"},
		seen:   Summary{ReplDB: -1, ReplOffset: -1},
		at:     -1,
		index:  make(map[int]int),
		key:    make([]byte, 0, MaxKey),
	}
	for _, o := range options {
		o(w)
	}
	return w
}

// Next goes to the next record and through all of it. It returns false at the end of the RDB,
// with Err nil, or at the first error.
func (w *Walker) Next() bool {
	if w.err == nil && w.version == 0 {
		w.header()
	}
	for w.err == nil && !w.ended {
		if w.quick() {
			return true
		}
		if !w.record() {
			break
		}
		if w.rec.kind.class == value || w.all && !w.ended {
			return true
		}
	}
	return false
}

// Record is what Next went to. Its memory is used again by the next call of Next.
func (w *Walker) Record() *Record { return &w.rec }

// Err is what ended the walk before the end of the RDB: *FormatError, *ChecksumError,
// *UnknownError, or an error that wraps io.ErrUnexpectedEOF, that of the source, or that of a
// writer given by Copy.
func (w *Walker) Err() error { return w.err }

// Offset is how many bytes of the RDB have been walked.
func (w *Walker) Offset() int64 { return w.offset() }

// Summary is what is known of the RDB so far, and all of it after the end. It grows with Next.
func (w *Walker) Summary() *Summary { return &w.seen }

// Buffered are the bytes that were read from the source beyond the end of the RDB, valid until
// Finish; nil before the end. Whatever comes from the source next is behind them.
func (w *Walker) Buffered() []byte {
	if !w.ended {
		return nil
	}
	return w.buf[w.pos:w.end]
}

// header reads the magic: REDIS and four digits, or VALKEY and three (valkey, rdb.h:
// RDB_VALKEY_MAGIC), and with it which tables hold.
func (w *Walker) header() bool {
	if !w.need(9) {
		return false
	}
	magic := string(w.buf[w.pos : w.pos+9])
	digits, newest, oldest := magic[5:], newestRedis, 1
	w.kinds = &redisKinds
	switch {
	case magic[:5] == "REDIS":
	case magic[:6] == "VALKEY":
		digits, newest, oldest = magic[6:], newestValkey, newestValkey
		w.kinds = &valkeyKinds
		w.seen.Valkey = true
	default:
		return w.damaged("it begins with %q, not with REDIS or VALKEY and a version", magic)
	}
	version, err := strconv.ParseUint(digits, 10, 16)
	if err != nil || int(version) < oldest {
		return w.damaged("it begins with %q: no version that any engine wrote", magic)
	}
	w.pos += 9
	w.version = int(version)
	w.seen.Version = w.version
	if w.version > newest {
		w.newer = true
		w.seen.Unchecked = fmt.Sprintf("RDB version %d is newer than %d, the newest known", w.version, newest)
	}
	return true
}

// quick walks a record that lies in the buffer whole and is of the kind that most are: perhaps an
// expiry, a short key, and a value that is one string. It only saves time: it takes nothing that
// record would not.
func (w *Walker) quick() bool {
	p := w.buf[w.pos:w.end]
	if w.pick != nil || len(p) < 9+64+3 { // an expiry, type and key, the value's length
		return false
	}
	at, expires := 0, p[0] == opExpireMS
	if expires {
		at = 9
	}
	k, n := &w.kinds[p[at]], int(p[at+1])
	if k.class != value || k.layout != "s" || n >= 0x40 {
		return false
	}
	key := p[at+2 : at+2+n : at+2+n]
	end := at + 2 + n
	switch b := int(p[end]); {
	case b < 0x40:
		end += 1 + b
	case b < 0x80:
		end += 2 + b&0x3f<<8 + int(p[end+1])
	case b >= 0xc0 && b <= 0xc0+encInt32:
		end += 1 + 1<<(b-0xc0)
	default:
		return false
	}
	if end > len(p) {
		return false
	}
	w.rec = Record{DB: w.db, Type: p[at], Key: key, KeyLen: int64(n), Offset: w.offset(), RawLen: int64(end), HeadLen: int64(at + 2 + n), kind: k, expires: expires}
	if expires {
		w.rec.ExpireAt = stream.Time(binary.LittleEndian.Uint64(p[1:]))
	}
	w.pos += end
	w.held, w.out, w.doing = false, w.pos, k.name
	return w.count()
}

// record walks one record: a key with its prefixes, or what stands between keys.
func (w *Walker) record() bool {
	w.rec = Record{DB: w.db, Offset: w.offset()}
	w.held, w.out = true, w.pos
	for prefixed := false; ; prefixed = true {
		w.doing = ""
		op, ok := w.one()
		if !ok {
			return false
		}
		k := &w.kinds[op]
		w.doing = k.name
		switch {
		case k.class == value:
			w.rec.Type, w.rec.kind = op, k
			return w.pair(k) && w.close()
		case k.class == prefix:
			if !w.prefix(op, k) {
				return false
			}
		case k.class == unknown:
			return w.stranger(op)
		case prefixed:
			return w.damaged("an expiry, idle time or frequency without a key behind it")
		default:
			w.rec.Type, w.rec.kind = op, k
			return w.between(op, k) && w.close()
		}
	}
}

// prefix reads what stands before the type of a key. Expiries are stored in milliseconds, by
// redis before 2.6 in seconds.
func (w *Walker) prefix(op byte, k *kind) bool {
	switch op {
	case opExpireMS:
		v, ok := w.fixed64()
		w.rec.ExpireAt, w.rec.expires = stream.Time(v), true
		return ok
	case opExpireSec:
		v, ok := w.fixed32()
		w.rec.ExpireAt, w.rec.expires = stream.Time(int32(v))*1000, true
		return ok
	}
	return w.walk(k.layout)
}

// pair walks a key and its value, and counts it.
func (w *Walker) pair(k *kind) bool {
	key, full, rest, ok := w.text(w.key)
	if !ok {
		return false
	}
	w.rec.Key, w.rec.KeyLen = key, full
	w.release()
	if !w.skip(rest) {
		return false
	}
	w.rec.HeadLen = w.offset() - w.rec.Offset
	return w.walk(k.layout) && w.count()
}

// between walks a record that is no key.
func (w *Walker) between(op byte, k *kind) bool {
	if op == opAux {
		return w.aux()
	}
	w.release()
	switch op {
	case opSelectDB:
		n, ok := w.length()
		if ok && n > math.MaxInt32 {
			return w.damaged("database %d", n)
		}
		w.selectDB(int(n))
		return ok
	case opResizeDB:
		keys, ok := w.length()
		if !ok {
			return false
		}
		w.hint(keys)
		_, ok = w.length() // of them with an expiry
		return ok
	case opFunction:
		w.seen.Functions++
	case opEOF:
		return w.eof()
	}
	return w.walk(k.layout)
}

// release ends the time in which the record is held back: its key is known, so pick decides
// where it goes.
func (w *Walker) release() {
	if w.pick != nil && w.rec.Type != opEOF && (w.all || w.rec.kind.class == value) {
		w.dst = w.pick(&w.rec)
	}
	w.held = false
}

// close is the end of a record.
func (w *Walker) close() bool {
	w.rec.RawLen = w.offset() - w.rec.Offset
	ok := w.flush()
	w.dst = nil
	return ok
}

// stranger ends the walk at a type or opcode that is in no table.
func (w *Walker) stranger(op byte) bool {
	what := "type "
	if op > 200 { // engines count types up from 0 and opcodes down from 255
		what = "opcode "
	}
	return w.fail(&UnknownError{What: what + strconv.Itoa(int(op)), Version: w.version, Offset: w.rec.Offset})
}

// eof compares the checksum, behind the EOF opcode. Files older than version 5 have none.
func (w *Walker) eof() bool {
	w.doing = "checksum"
	if w.version < checksumSince {
		w.seen.CRC = CRCAbsent
	} else {
		if !w.need(trailerLen) {
			return false
		}
		w.sum(w.pos)
		trailer, _ := w.fixed64()
		if w.unsummed {
			w.seen.CRC = CRCUnread
		} else if !w.judge(trailer) {
			return false
		}
	}
	w.ended = true
	w.seen.Length = w.offset()
	return true
}

// judge gives the verdict on the checksum when all that it covers has been summed.
func (w *Walker) judge(trailer uint64) bool {
	switch trailer {
	case 0: // rdbchecksum no, and valkey over TLS (rdb.c: rdbSaveRio)
		w.seen.CRC = CRCAbsent
	case w.crc:
		w.seen.CRC = CRCOK
	default:
		w.seen.CRC = CRCWrong
		return w.fail(&ChecksumError{Want: trailer, Got: w.crc})
	}
	return true
}
