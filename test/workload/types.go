package workload

import (
	"github.com/offloader/offloader/internal/engine/enginetest"
)

// Strings, and what lives in strings: bitmaps, HyperLogLogs.
var stringActions = []action{
	{weight: 6, do: func(w *Workload) []command { return one("SET", w.key("s"), w.value()) }},
	{weight: 4, do: func(w *Workload) []command { return one("SET", w.key("s"), w.value(), "PX", w.life()) }},
	{weight: 1, do: func(w *Workload) []command {
		return one("SET", w.key("s"), w.value(), "EX", 1+w.life()/1000, pick(w, "NX", "XX"))
	}},
	{weight: 1, do: func(w *Workload) []command { return one("SET", w.key("s"), w.value(), "PXAT", w.when()) }},
	{weight: 1, do: func(w *Workload) []command { return one("SET", w.key("s"), w.value(), "KEEPTTL") }},
	{weight: 1, do: func(w *Workload) []command { return one("SET", w.key("s"), w.value(), "GET") }},
	{weight: 1, do: func(w *Workload) []command { return one("SETNX", w.key("s"), w.value()) }},
	{weight: 1, do: func(w *Workload) []command { return one("SETEX", w.key("s"), 1+w.life()/1000, w.value()) }},
	{weight: 1, do: func(w *Workload) []command { return one("PSETEX", w.key("s"), w.life(), w.value()) }},
	{weight: 1, do: func(w *Workload) []command {
		return on(w.pairs(5, func() string { return w.key("s") }, w.value), "MSET")
	}},
	{weight: 1, do: func(w *Workload) []command { return one("MSETNX", w.key("sx"), w.value(), w.key("sx"), w.value()) }},
	{weight: 2, do: func(w *Workload) []command { return one("APPEND", w.key("s"), w.value()) }},
	{weight: 1, do: func(w *Workload) []command { return one("SETRANGE", w.key("s"), w.rng.IntN(5000), w.value()) }},
	{weight: 2, do: func(w *Workload) []command { return one(pick(w, "INCR", "DECR"), w.key("n")) }},
	{weight: 1, do: func(w *Workload) []command { return one(pick(w, "INCRBY", "DECRBY"), w.key("n"), w.rng.IntN(1000)) }},
	{weight: 1, do: func(w *Workload) []command { return one("INCRBYFLOAT", w.key("f"), w.rng.Float64()) }},
	{weight: 1, do: func(w *Workload) []command { return one("GETSET", w.key("s"), w.value()) }},
	{weight: 1, do: func(w *Workload) []command { return one("GETDEL", w.key("s")) }},
	{weight: 1, do: func(w *Workload) []command { return one("GETEX", w.key("s"), "PX", w.life()) }},
	{weight: 1, do: func(w *Workload) []command { return one("GETEX", w.key("s"), "PERSIST") }},
	{weight: 1, do: func(w *Workload) []command { return one("SET", w.key("s"), w.value(), "IFEQ", w.value()) },
		needs: func(k enginetest.Kind) bool { return k.AtLeast("valkey", 8, 1) }},

	{weight: 2, do: func(w *Workload) []command { return one("SETBIT", w.key("bm"), w.rng.IntN(10_000), w.rng.IntN(2)) }},
	{weight: 1, do: func(w *Workload) []command {
		return one("BITFIELD", w.key("bm"), "SET", "u8", "#3", w.rng.IntN(256), "OVERFLOW", "SAT", "INCRBY", "i5", 100, w.rng.IntN(30))
	}},
	{weight: 1, do: func(w *Workload) []command {
		return one("BITOP", pick(w, "AND", "OR", "XOR"), w.key("bm"), w.key("bm"), w.key("bm"))
	}},
	{weight: 2, do: func(w *Workload) []command { return on(w.several(50, w.member), "PFADD", w.key("hll")) }},
	{weight: 1, do: func(w *Workload) []command { return one("PFMERGE", w.key("hll"), w.key("hll"), w.key("hll")) }},
	{weight: 1, do: func(w *Workload) []command { return one("PFCOUNT", w.key("hll")) }},
}

var listActions = []action{
	{weight: 3, do: func(w *Workload) []command {
		return on(w.several(8, w.value), pick(w, "LPUSH", "RPUSH"), w.key("l"))
	}},
	{weight: 1, do: func(w *Workload) []command { return one(pick(w, "LPUSHX", "RPUSHX"), w.key("l"), w.value()) }},
	{weight: 2, do: func(w *Workload) []command { return one(pick(w, "LPOP", "RPOP"), w.key("l")) }},
	{weight: 1, do: func(w *Workload) []command { return one(pick(w, "LPOP", "RPOP"), w.key("l"), w.rng.IntN(10)) }},
	{weight: 2, do: func(w *Workload) []command {
		k := w.key("lm")
		return []command{{"RPUSH", k, w.member(), "pivot"}, {"LINSERT", k, "BEFORE", "pivot", w.member()}, {"LREM", k, w.rng.IntN(5) - 2, w.member()}}
	}},
	{weight: 1, do: func(w *Workload) []command { return one("LSET", w.key("l"), w.rng.IntN(4)-2, w.value()) }},
	{weight: 1, do: func(w *Workload) []command { return one("LTRIM", w.key("l"), w.rng.IntN(3), -1-w.rng.IntN(3)) }},
	{weight: 1, do: func(w *Workload) []command {
		return one("LMOVE", w.key("l"), w.key("l"), pick(w, "LEFT", "RIGHT"), pick(w, "LEFT", "RIGHT"))
	}},
	{weight: 1, do: func(w *Workload) []command { return one("RPOPLPUSH", w.key("l"), w.key("l")) }},
	{weight: 1, do: func(w *Workload) []command {
		return one("LMPOP", 2, w.key("l"), w.key("lm"), pick(w, "LEFT", "RIGHT"), "COUNT", 1+w.rng.IntN(4))
	}},
}

var setActions = []action{
	{weight: 3, do: func(w *Workload) []command { return on(w.several(30, w.member), "SADD", w.key("set")) }},
	{weight: 1, do: func(w *Workload) []command { // integers only
		return on(w.several(20, func() string { return pick(w, "1", "-7", "300", "70000", "5000000000") }), "SADD", w.key("ints"))
	}},
	{weight: 1, do: func(w *Workload) []command { return on(w.several(5, w.member), "SREM", w.key("set")) }},
	{weight: 1, do: func(w *Workload) []command { return one("SPOP", w.key("set")) }},
	{weight: 1, do: func(w *Workload) []command { return one("SPOP", w.key("set"), w.rng.IntN(40)) }},
	{weight: 1, do: func(w *Workload) []command { return one("SMOVE", w.key("set"), w.key("set"), w.member()) }},
	{weight: 1, do: func(w *Workload) []command {
		return one(pick(w, "SUNIONSTORE", "SDIFFSTORE", "SINTERSTORE"), w.key("set"), w.key("set"), w.key("set"))
	}},
}

var sortedSetActions = []action{
	{weight: 3, do: func(w *Workload) []command { return on(w.pairs(20, w.score, w.member), "ZADD", w.key("z")) }},
	{weight: 1, do: func(w *Workload) []command {
		return one("ZADD", w.key("z"), pick(w, "NX", "XX", "GT", "LT"), "CH", w.score(), w.member())
	}},
	{weight: 1, do: func(w *Workload) []command { return one("ZADD", w.key("zi"), "INCR", w.rng.Float64(), w.member()) }},
	{weight: 1, do: func(w *Workload) []command { return one("ZINCRBY", w.key("zi"), w.rng.NormFloat64(), w.member()) }},
	{weight: 1, do: func(w *Workload) []command { return on(w.several(4, w.member), "ZREM", w.key("z")) }},
	{weight: 1, do: func(w *Workload) []command { return one(pick(w, "ZPOPMIN", "ZPOPMAX"), w.key("z"), w.rng.IntN(4)) }},
	{weight: 1, do: func(w *Workload) []command {
		return one("ZMPOP", 2, w.key("z"), w.key("zi"), pick(w, "MIN", "MAX"), "COUNT", 2)
	}},
	{weight: 1, do: func(w *Workload) []command {
		return one("ZREMRANGEBYSCORE", w.key("z"), w.rng.IntN(50), 50+w.rng.IntN(5))
	}},
	{weight: 1, do: func(w *Workload) []command { return one("ZREMRANGEBYRANK", w.key("z"), 0, w.rng.IntN(3)) }},
	{weight: 1, do: func(w *Workload) []command { // all of one score: else it is open what is in the range
		k := w.key("zl")
		return []command{{"ZADD", k, 0, w.member(), 0, w.member(), 0, "m1"}, {"ZREMRANGEBYLEX", k, "[m1", "(m2"}}
	}},
	{weight: 1, do: func(w *Workload) []command {
		return one(pick(w, "ZUNIONSTORE", "ZINTERSTORE"), w.key("z"), 2, w.key("z"), w.key("set"), "WEIGHTS", 2, 3, "AGGREGATE", "MIN")
	}},
	{weight: 1, do: func(w *Workload) []command { return one("ZDIFFSTORE", w.key("z"), 2, w.key("z"), w.key("z")) }},
	{weight: 1, do: func(w *Workload) []command { return one("ZRANGESTORE", w.key("z"), w.key("z"), 0, 10, "REV") }},
	{weight: 2, do: func(w *Workload) []command {
		return one("GEOADD", w.key("geo"), w.rng.Float64()*360-180, w.rng.Float64()*160-80, w.member())
	}},
	{weight: 1, do: func(w *Workload) []command {
		return one("GEOSEARCHSTORE", w.key("geo"), w.key("geo"), "FROMLONLAT", 15, 37, "BYRADIUS", 8000, "km", pick(w, "ASC", "STOREDIST"))
	}},
}

// Fields of a hash under "hb:" (Brief) expire under way, those under "ht:" much later. What looks
// at whether a field has expired, and writes (HPERSIST, HINCRBY), is for the latter: Redis 8.0 asks
// its own clock then, also for what its master sends, so no replica and no replay is exact.
var hashActions = []action{
	{weight: 3, do: func(w *Workload) []command { return on(w.pairs(10, w.member, w.value), "HSET", w.key("h")) }},
	{weight: 1, do: func(w *Workload) []command { return on(w.pairs(4, w.member, w.member), "HMSET", w.key("h")) }},
	{weight: 1, do: func(w *Workload) []command { return one("HSETNX", w.key("h"), w.member(), w.value()) }},
	{weight: 1, do: func(w *Workload) []command { return on(w.several(6, w.member), "HDEL", w.key("h")) }},
	{weight: 1, do: func(w *Workload) []command { return one("HINCRBY", w.key("hn"), w.member(), w.rng.IntN(100)) }},
	{weight: 1, do: func(w *Workload) []command { return one("HINCRBYFLOAT", w.key("hf"), w.member(), w.rng.Float64()) }},

	{weight: 3, needs: enginetest.Kind.HasHashFieldTTL, do: func(w *Workload) []command {
		k, f := w.key(Brief), w.member()
		return []command{append(command{"HSET", k, f, w.value()}, w.pairs(5, w.member, w.value)...), {"HPEXPIRE", k, w.moment(), "FIELDS", 2, f, w.member()}}
	}},
	{weight: 2, needs: enginetest.Kind.HasHashFieldTTL, do: func(w *Workload) []command {
		k, f := w.key("ht"), w.member()
		return []command{append(command{"HSET", k, f, w.value()}, w.pairs(5, w.member, w.value)...), {"HEXPIREAT", k, 4_000_000_000 + w.rng.IntN(1000), "FIELDS", 2, f, w.member()}}
	}},
	{weight: 1, needs: enginetest.Kind.HasHashFieldTTL, do: func(w *Workload) []command { // a whole hash that goes
		k := w.key(Brief)
		return []command{{"DEL", k}, {"HSET", k, "a", 1, "b", 2}, {"HPEXPIRE", k, w.moment(), "FIELDS", 2, "a", "b"}}
	}},
	{weight: 2, needs: enginetest.Kind.HasHashFieldTTL, do: func(w *Workload) []command { return one("HPERSIST", w.key("ht"), "FIELDS", 1, w.member()) }},
	{weight: 1, needs: enginetest.Kind.HasHashFieldTTL, do: func(w *Workload) []command { // in the past: goes at once
		return one("HPEXPIREAT", w.key("ht"), 1, "FIELDS", 1, w.member())
	}},
	{weight: 2, needs: enginetest.Kind.HasHashFieldTTL, do: func(w *Workload) []command {
		return one("HSETEX", w.key("ht"), "PX", w.later(), "FIELDS", 1, w.member(), w.value())
	}},
	{weight: 2, needs: enginetest.Kind.HasHashFieldTTL, do: func(w *Workload) []command {
		return one("HGETEX", w.key("ht"), "PX", w.later(), "FIELDS", 1, w.member())
	}},
	{weight: 1, needs: func(k enginetest.Kind) bool { return k.AtLeast("redis", 8, 0) || k.AtLeast("valkey", 9, 1) },
		do: func(w *Workload) []command { return one("HGETDEL", w.key("ht"), "FIELDS", 1, w.member()) }},
}

// Consumers are made by name: one that XREADGROUP or XAUTOCLAIM makes, and then gives nothing, is
// never told to replicas.
var streamActions = []action{
	{weight: 4, do: func(w *Workload) []command {
		return on(w.pairs(4, w.member, w.value), "XADD", w.key("x"), "*")
	}},
	{weight: 1, do: func(w *Workload) []command {
		return one("XADD", w.key("x"), "NOMKSTREAM", pick(w, "MAXLEN", "MINID"), pick(w, "~", "="), 20, "*", w.member(), w.value())
	}},
	{weight: 4, do: func(w *Workload) []command {
		k := w.key("x")
		return []command{{"XGROUP", "CREATE", k, "g", pick(w, "$", "0"), "MKSTREAM"}, {"XGROUP", "CREATECONSUMER", k, "g", "c1"}, {"XGROUP", "CREATECONSUMER", k, "g", "c2"}}
	}},
	{weight: 4, do: func(w *Workload) []command {
		k := w.key("x")
		return []command{{"XADD", k, "*", "f", w.value()}, {"XREADGROUP", "GROUP", "g", pick(w, "c1", "c2"), "COUNT", 1 + w.rng.IntN(4), "STREAMS", k, ">"}}
	}},
	{weight: 1, do: func(w *Workload) []command {
		return one("XREADGROUP", "GROUP", "g", "c1", "COUNT", 2, "NOACK", "STREAMS", w.key("x"), ">")
	}},
	{weight: 2, do: func(w *Workload) []command { // an entry whose id is known, through its life
		k, id := w.key("xk"), w.rng.IntN(1000)+1
		return []command{
			{"XGROUP", "CREATE", k, "g", "0", "MKSTREAM"}, {"XGROUP", "CREATECONSUMER", k, "g", "c1"}, {"XGROUP", "CREATECONSUMER", k, "g", "c2"},
			{"XADD", k, id, "f", w.value()}, {"XREADGROUP", "GROUP", "g", "c1", "STREAMS", k, ">"},
			{"XCLAIM", k, "g", "c2", 0, id, "RETRYCOUNT", 3}, pick(w, command{"XACK", k, "g", id}, command{"XDEL", k, id}, command{"XACK", k, "g", id - 1}),
		}
	}},
	{weight: 3, do: func(w *Workload) []command { return one("XAUTOCLAIM", w.key("x"), "g", "c1", 0, "0", "COUNT", 2) }},
	{weight: 1, do: func(w *Workload) []command { return one("XTRIM", w.key("x"), "MAXLEN", w.rng.IntN(10)) }},
	{weight: 3, do: func(w *Workload) []command { return one("XGROUP", "SETID", w.key("x"), "g", "$") }},
	{weight: 1, do: func(w *Workload) []command {
		return one("XGROUP", pick(w, "DELCONSUMER", "CREATECONSUMER"), w.key("x"), "g", "c2")
	}},
	{weight: 1, do: func(w *Workload) []command {
		k := w.key("xg")
		return []command{{"XGROUP", "CREATE", k, "gone", "$", "MKSTREAM"}, {"XSETID", k, "5000-1"}, {"XGROUP", "DESTROY", k, "gone"}}
	}},
}
