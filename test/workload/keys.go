package workload

import (
	"encoding/binary"
	"fmt"

	"github.com/offloader/offloader/internal/crc64"
)

// anyKey is a key of any type.
func (w *Workload) anyKey() string {
	return w.key(pick(w, "s", "n", "l", "set", "z", "h", "x", "ht", "bm", "hll", "geo"))
}

// twins are keys of one prefix, so that types stay together.
func (w *Workload) twins() (string, string) {
	p := pick(w, "s", "l", "set", "z", "h", "x", "hb", "ht", "geo", "hll")
	return w.key(p), w.key(p)
}

var keyActions = []action{
	{weight: 1, do: func(w *Workload) []command { return one("DEL", w.anyKey()) }},
	{weight: 1, do: func(w *Workload) []command { return one("UNLINK", w.anyKey(), w.anyKey()) }},
	{weight: 2, do: func(w *Workload) []command {
		a, b := w.twins()
		return one(pick(w, "RENAME", "RENAMENX"), a, b)
	}},
	{weight: 2, do: func(w *Workload) []command {
		a, b := w.twins()
		return one("COPY", a, b, "DB", pick(w, databases...), "REPLACE")
	}},
	{weight: 1, do: func(w *Workload) []command { return one("MOVE", w.anyKey(), pick(w, databases...)) }},
	{weight: 2, do: func(w *Workload) []command { return one("PEXPIRE", w.anyKey(), w.life()) }},
	{weight: 1, do: func(w *Workload) []command {
		return one("EXPIRE", w.anyKey(), 1+w.life()/1000, pick(w, "NX", "XX", "GT", "LT"))
	}},
	{weight: 1, do: func(w *Workload) []command { return one("EXPIREAT", w.anyKey(), w.when()/1000+1) }},
	{weight: 1, do: func(w *Workload) []command { return one("PEXPIREAT", w.anyKey(), w.when()) }},
	{weight: 1, do: func(w *Workload) []command { return one(pick(w, "EXPIRE", "PEXPIREAT"), w.key("s"), -1) }}, // goes at once
	{weight: 2, do: func(w *Workload) []command { return one("PERSIST", w.anyKey()) }},
	{weight: 1, do: func(w *Workload) []command { // expired and then kept, a second before it would have gone
		k := w.key("s")
		return []command{{"SET", k, w.value(), "PX", 1000}, {"PERSIST", k}}
	}},
	{weight: 1, do: func(w *Workload) []command { // not BY: it leaves open in which order equals come
		return one("SORT", pick(w, w.key("set"), w.key("z")), "ALPHA", "GET", "#", "GET", "s:*", "STORE", w.key("l"))
	}},
	{weight: 1, do: func(w *Workload) []command { return one("RESTORE", w.key("s"), w.life(), w.dump(), "REPLACE") }},
	{weight: 1, do: func(w *Workload) []command { return one("SWAPDB", pick(w, 0, 1, 2), pick(w, 1, 2, 9)) }},
	{weight: 1, do: func(w *Workload) []command { return one("PUBLISH", "news", w.value()) }},
	{weight: 1, do: func(w *Workload) []command { // now and then, in a database that isn't missed
		if !w.chance(3) {
			return one("PUBLISH", "news", "no flush")
		}
		return []command{{"SELECT", pick(w, 2, 9, 15)}, {"FLUSHDB", pick(w, "SYNC", "ASYNC")}, {"SELECT", w.db}}
	}},
}

// Big makes a value of size bytes that don't compress, or of zeros, which the stream has as a
// command of a few bytes.
func (w *Workload) Big(key string, size int, zeros bool) (c []any) {
	if zeros {
		return command{"SETRANGE", key, size - 1, "x"}
	}
	return command{"SET", key, w.noise(size)}
}

// dump is what DUMP gives for a string: type, length, value, RDB version and CRC64.
func (w *Workload) dump() string {
	v := w.noise(w.rng.IntN(60))
	b := append([]byte{0, byte(len(v))}, v...)
	b = append(b, 10, 0) // a version that all engines take
	return string(binary.LittleEndian.AppendUint64(b, crc64.Update(0, b)))
}

const (
	counter    = "return redis.call('incr', KEYS[1])"
	counterSHA = "2bab3b661081db58bd2341920e0ba7cf5dc77b25"
)

// Scripts and functions: only what they do reaches replicas, but functions themselves do too.
var scriptActions = []action{
	{weight: 2, do: func(w *Workload) []command {
		return one("EVAL", `redis.call('set', KEYS[1], ARGV[1]) redis.call('incr', KEYS[2]) return redis.call('lpush', KEYS[3], ARGV[1], '')`,
			3, w.key("s"), w.key("n"), w.key("l"), w.value())
	}},
	{weight: 1, do: func(w *Workload) []command { // one write: comes without MULTI
		return one("EVAL", `return redis.call('hset', KEYS[1], 'f', ARGV[1])`, 1, w.key("h"), w.value())
	}},
	{weight: 1, do: func(w *Workload) []command { // fails in the middle: what it wrote stays
		return one("EVAL", `redis.call('set', KEYS[1], ARGV[1]) return redis.pcall('lpush', KEYS[1], 'x')`, 1, w.key("s"), w.value())
	}},
	{weight: 1, do: func(w *Workload) []command {
		return []command{{"SCRIPT", "LOAD", counter}, {"EVALSHA", counterSHA, 1, w.key("n")}}
	}},
	{weight: 1, do: func(w *Workload) []command {
		lib := fmt.Sprintf("lib%d", w.rng.IntN(3))
		code := fmt.Sprintf("#!lua name=%s\nredis.register_function('%s_set', function(keys, args) redis.call('set', keys[1], args[1]) return redis.call('sadd', keys[2], args[1]) end) -- %d",
			lib, lib, w.rng.IntN(100))
		return []command{{"FUNCTION", "LOAD", "REPLACE", code}, {"FCALL", lib + "_set", 2, w.key("s"), w.key("set"), w.member()}}
	}},
	{weight: 1, do: func(w *Workload) []command {
		if !w.chance(4) {
			return one("FCALL", fmt.Sprintf("lib%d_set", w.rng.IntN(3)), 2, w.key("s"), w.key("set"), w.member())
		}
		return one("FUNCTION", "DELETE", fmt.Sprintf("lib%d", w.rng.IntN(3)))
	}},
}
