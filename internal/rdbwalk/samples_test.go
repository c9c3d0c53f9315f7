package rdbwalk

import (
	"encoding/binary"
	"strings"

	"github.com/offloader/offloader/internal/crc64"
)

// The pieces of an RDB, made by hand.

// num is a length in its shortest form.
func num(n int) string {
	switch {
	case n < 1<<6:
		return string([]byte{byte(n)})
	case n < 1<<14:
		return string([]byte{byte(n>>8) | 0x40, byte(n)})
	default:
		return string(binary.BigEndian.AppendUint32([]byte{0x80}, uint32(n)))
	}
}

func num64(n uint64) string { return string(binary.BigEndian.AppendUint64([]byte{0x81}, n)) }

func str(s string) string { return num(len(s)) + s }

// lzf is s packed as badly as can be: all of it literal.
func lzf(s string) string {
	var b strings.Builder
	for rest := s; rest != ""; {
		n := min(32, len(rest))
		b.WriteByte(byte(n - 1))
		b.WriteString(rest[:n])
		rest = rest[n:]
	}
	return "\xc3" + num(b.Len()) + num(len(s)) + b.String()
}

func le32(n int32) string { return string(binary.LittleEndian.AppendUint32(nil, uint32(n))) }

func le64(n int64) string { return string(binary.LittleEndian.AppendUint64(nil, uint64(n))) }

func aux(key, value string) string { return "\xfa" + str(key) + str(value) }

// body is parts behind a magic, up to where the checksum begins.
func body(magic string, parts ...string) []byte {
	return []byte(magic + strings.Join(parts, "") + "\xff")
}

// sealed is body with its checksum.
func sealed(magic string, parts ...string) []byte {
	b := body(magic, parts...)
	return binary.LittleEndian.AppendUint64(b, crc64.Update(0, b))
}

// record is a key of a type.
func record(typ byte, key, value string) string { return string([]byte{typ}) + str(key) + value }

const id16 = "\x00\x00\x01\x90\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01"

// moduleID stands for "ReJSON-RL" in version 3, made as redis does (module.c: moduleTypeEncodeId).
var moduleID = func() string {
	var id uint64
	for _, c := range "ReJSON-RL" {
		id = id<<6 | uint64(strings.IndexRune("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_", c))
	}
	return num64(id<<10 | 3)
}()

var seen8 = le64(1700000000000)

// A sample is a value of each type, with each branch of its layout taken.
type sample struct {
	number byte
	by     family
	value  string
}

var samples = []sample{
	{0, both, str("v")},
	{0, both, "\xc0\xfe"},
	{0, both, "\xc1\xfe\xff"},
	{0, both, "\xc2\xfe\xff\xff\xff"},
	{0, both, lzf("a compressed value")},
	{0, both, num64(3) + "abc"},
	{0, both, "\x80\x00\x00\x00\x03abc"},
	{0, both, str(strings.Repeat("x", 100))},
	{0, both, str(strings.Repeat("y", 300))},
	{1, both, num(3) + str("a") + "\xc0\x05" + lzf("bb")},
	{1, both, num(0)},
	{2, both, num(2) + str("a") + str("b")},
	{3, both, num(5) + str("a") + "\x031.5" + str("b") + "\xfd" + str("c") + "\xfe" + str("d") + "\xff" + str("e") + "\x00"},
	{4, both, num(1) + str("f") + str("v")},
	{5, both, num(2) + str("a") + seen8 + "\xc0\x07" + seen8},
	{7, both, moduleID + "\x01\x05" + "\x02" + num64(1<<63) + "\x03abcd" + "\x04abcdefgh" + "\x05" + lzf("s") + "\x00"},
	{9, both, str("\x00\xff")}, {10, both, str("zl")}, {11, both, str("is")}, {12, both, str("zl")},
	{13, both, lzf("zl")},
	{14, both, num(2) + str("zl") + lzf("zl")},
	{15, both, num(1) + str(id16) + lzf("lp") + "\x01" + num64(1<<40) + "\x00" +
		num(1) + str("group") + num64(1<<40) + "\x00" + num(1) + id16 + seen8 + "\x01" +
		num(1) + str("consumer") + seen8 + num(1) + id16},
	{16, both, str("lp")}, {17, both, str("lp")},
	{18, both, num(2) + "\x01" + str("plain") + "\x02" + lzf("lp")},
	{19, both, num(0) + "\x00\x00\x00\x00\x00\x00\x00\x00" +
		num(1) + str("group") + "\x00\x00\x00" + num(0) + num(1) + str("consumer") + seen8 + num(0)},
	{20, both, str("lp")},
	{21, both, num(1) + str(id16) + str("lp") + "\x01\x01\x01\x01\x01\x00\x00\x01" +
		num(2) + str("group") + "\x00\x00\x00" + num(1) + id16 + seen8 + "\x01" + num(1) + str("consumer") + seen8 + seen8 + num(1) + id16 +
		str("other") + "\x00\x00\x00" + num(0) + num(0)},
	{22, redis, num(2) + "\x00" + str("f") + str("v") + num64(1700000000000) + str("g") + lzf("w")},
	{22, valkey, num(2) + str("f") + str("v") + le64(-1) + str("g") + "\xc0\x05" + seen8},
	{23, redis, str("lp")},
	{24, redis, seen8 + num(2) + "\x00" + str("f") + str("v") + "\x05" + str("g") + lzf("w")},
	{25, redis, seen8 + str("lp")},
}

// everything is an RDB with every type, opcode and prefix that a family knows.
func everything(f family) []byte {
	magic, engine := "REDIS0012", "redis-ver"
	if f == valkey {
		magic, engine = "VALKEY080", "valkey-ver"
	}
	parts := []string{
		aux(engine, "9.9.9"), aux("redis-bits", "64"), "\xfa" + str("ctime") + "\xc2" + le32(1700000000),
		"\xfa" + str("used-mem") + "\xc1\x10\x27", "\xfa" + str("repl-stream-db") + "\xc0\x02",
		aux("repl-id", strings.Repeat("0123456789abcdef", 3)[:40]), "\xfa" + str("repl-offset") + "\xc0\x7b",
		"\xfa" + str("aof-base") + "\xc0\x00", "\xfa" + str("unknown") + str(strings.Repeat("long", 200)),
		"\xf7" + moduleID + "\x02\x02" + "\x05" + str("aux data") + "\x00",
		"\xf5" + lzf("#!lua name=l"),
	}
	if f == valkey {
		parts = append(parts, "\xf3"+str(strings.Repeat("a", 40))+num(2)+num(0)+num(5)+num(7)+num(16383))
	}
	parts = append(parts, "\xfe\x00", "\xfb"+num(100)+num(3))
	for _, s := range samples {
		if s.by == both || s.by == f {
			parts = append(parts, record(s.number, "key", s.value))
		}
	}
	parts = append(parts,
		"\xfe"+num(1000), "\xfb\x05\x03", "\xf4"+num(16383)+num(2)+num(1),
		"\xfc"+le64(1700000000123)+record(0, "ms", str("v")),
		"\xfd"+le32(1700000000)+record(0, "s", str("v")),
		"\xfc"+le64(1700000000123)+"\xf8"+num(100000)+record(0, "idle", str("v")),
		aux("slot-info", "1,2,3"),
		"\xf9\xff"+record(0, "freq", str("v")),
		"\x00\xc1\x39\x30"+str("key 12345"), "\x00"+lzf(strings.Repeat("packed", 10))+str("v"),
		"\x00"+str(strings.Repeat("k", 300))+str("v"), "\x00"+str("")+str("empty key"),
		"\xf7"+moduleID+"\x02\x04"+"\x00",
	)
	return sealed(magic, parts...)
}
