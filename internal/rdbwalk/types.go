package rdbwalk

// A row says what a value looks like on the wire. Its layout has one letter for each part:
//
//	s  string, plain or encoded
//	l  length
//	b  one byte
//	4  four bytes
//	8  eight bytes
//	i  16 bytes, a stream id
//	f  score as text: one byte of length (253 and more: none follows), then the text
//	m  module id, a length
//	v  module values, each behind its kind, up to kind 0
//	() length n, then n times what stands between
//
// A type that a new engine brings is one more row.
//
// The numbers are redis' (rdb.h: RDB_TYPE_*, RDB_OPCODE_*), the layouts what rdbSaveObject and
// rdbLoadObject (rdb.c) write and read. Valkey and redis have gone apart since redis 7.2:
// where one number means two things, or is only one's, the magic of the file decides.
type row struct {
	number byte
	name   string
	by     family
	layout string
}

// family tells whose files a row is for.
type family byte

const (
	both family = iota
	redis
	valkey
)

// types are the values of keys. Those not listed have no known end: 6 (modules of the 4.0
// release candidates) can't be skipped without the module, and 26 and above (redis 8.6: streams,
// arrays) have not been seen.
var types = []row{
	{0, "string", both, "s"},
	{1, "list", both, "(s)"},
	{2, "set", both, "(s)"},
	{3, "zset", both, "(sf)"},
	{4, "hash", both, "(ss)"},
	{5, "zset-2", both, "(s8)"},
	{7, "module-2", both, "mv"},
	{9, "hash-zipmap", both, "s"},
	{10, "list-ziplist", both, "s"},
	{11, "set-intset", both, "s"},
	{12, "zset-ziplist", both, "s"},
	{13, "hash-ziplist", both, "s"},
	{14, "list-quicklist", both, "(s)"},
	{15, "stream", both, "(ss)lll(sll(i8l)(s8(i)))"},
	{16, "hash-listpack", both, "s"},
	{17, "zset-listpack", both, "s"},
	{18, "list-quicklist-2", both, "(ls)"},
	{19, "stream-2", both, "(ss)llllllll(slll(i8l)(s8(i)))"},
	{20, "set-listpack", both, "s"},
	{21, "stream-3", both, "(ss)llllllll(slll(i8l)(s88(i)))"},
	{22, "hash-metadata-rc", redis, "(lss)"},
	{22, "hash-2", valkey, "(ss8)"},
	{23, "hash-listpack-ex-rc", redis, "s"},
	{24, "hash-metadata", redis, "8(lss)"},
	{25, "hash-listpack-ex", redis, "8s"},
}

const (
	opKeyMeta    = 243 // redis 8.6
	opSlotImport = 243 // valkey 9
	opSlotInfo   = 244
	opFunction   = 245
	opModuleAux  = 247
	opIdle       = 248
	opFreq       = 249
	opAux        = 250
	opResizeDB   = 251
	opExpireMS   = 252
	opExpireSec  = 253
	opSelectDB   = 254
	opEOF        = 255
)

// prefixes stand before the type of a key and belong to it.
var prefixes = []row{
	{opKeyMeta, "key-meta", redis, "(4v)"},
	{opIdle, "idle", both, "l"},
	{opFreq, "freq", both, "b"},
	{opExpireMS, "expire-ms", both, "8"},
	{opExpireSec, "expire", both, "4"},
}

// opcodes are the records between the keys. 246 (functions of the 7.0 release candidates) is
// refused by the engines too.
var opcodes = []row{
	{opSlotImport, "slot-import", valkey, "s(ll)"},
	{opSlotInfo, "slot-info", both, "lll"},
	{opFunction, "function", both, "s"},
	{opModuleAux, "module-aux", both, "mllv"},
	{opAux, "aux", both, "ss"},
	{opResizeDB, "resizedb", both, "ll"},
	{opSelectDB, "selectdb", both, "l"},
	{opEOF, "eof", both, ""},
}

// A kind is a row as the walker looks it up; the zero kind is one that is not known.
type kind struct {
	name, layout string
	class        class
}

type class byte

const (
	unknown class = iota
	value         // of a key
	prefix        // of a key
	between       // keys
)

var (
	redisKinds  = kindsOf(redis)
	valkeyKinds = kindsOf(valkey)
)

// kindsOf is the part of the tables that holds for files of one family, by number.
func kindsOf(f family) (k [256]kind) {
	for c, rows := range map[class][]row{value: types, prefix: prefixes, between: opcodes} {
		for _, r := range rows {
			if r.by == both || r.by == f {
				k[r.number] = kind{r.name, r.layout, c}
			}
		}
	}
	return k
}

// Versions of the format that have been seen and tried: REDIS 1 to 12 (12 is redis 7.4 and
// 8.0), VALKEY 80 (valkey 9). From checksumSince on a file ends with its CRC64 (rdb.c:
// rdbLoadRioWithLoadingCtx).
const (
	newestRedis   = 12
	newestValkey  = 80
	checksumSince = 5
)
