package keyspace

import "github.com/offloader/offloader/internal/resp"

// The commands whose keys have to be looked for. Each function does what the engine's own does
// (redis, db.c: the …GetKeys functions).

// counted finds keys behind their number, which is argument at. dest is one more key, 0 for none:
// ZUNIONSTORE dest numkeys key ….
func counted(at, dest int) func(*resp.Command) position {
	return func(c *resp.Command) position {
		n, _ := number(c, at)
		n = max(0, min(n, int64(c.N-at-1))) // it is not believed before it is known to fit
		return position{first: at + 1, last: at + int(n), step: 1, extra: dest}
	}
}

// msetex: MSETEX numkeys key value … option ….
func msetex(c *resp.Command) position {
	n, _ := number(c, 1)
	n = max(0, min(n, int64(c.N-2)/2))
	return position{first: 2, last: 2*int(n) + 1, step: 2}
}

// sortStore: SORT key … STORE dest …, of which the last counts.
func sortStore(c *resp.Command) position {
	p := position{first: 1, last: 1, step: 1}
	for i := 2; i < len(c.Args); i++ {
		switch {
		case is(c, i, "LIMIT"):
			i += 2
		case is(c, i, "GET"), is(c, i, "BY"):
			i++
		case is(c, i, "STORE") && i+1 < c.N:
			i++
			p.extra = i
		}
	}
	return p
}

// geoStore: GEORADIUS key longitude latitude radius unit … STORE dest, or STOREDIST dest. With
// BYMEMBER there is an argument less before the options, and the engines begin at 5 all the same.
func geoStore(c *resp.Command) position {
	p := position{first: 1, last: 1, step: 1}
	for i := 5; i < len(c.Args); i++ {
		if (is(c, i, "STORE") || is(c, i, "STOREDIST")) && i+1 < c.N {
			i++
			p.extra = i
		}
	}
	return p
}

// afterStreams: XREADGROUP GROUP group consumer … STREAMS key … id ….
func afterStreams(c *resp.Command) position {
	for i := 1; i < len(c.Args); i++ {
		switch {
		case is(c, i, "GROUP"):
			i += 2
		case is(c, i, "BLOCK"), is(c, i, "COUNT"), is(c, i, "CLAIM"):
			i++
		case is(c, i, "STREAMS"):
			return position{first: i + 1, last: i + (c.N-i-1)/2, step: 1}
		}
	}
	return position{}
}

// migrate: MIGRATE host port key …, or with an empty key … KEYS key ….
func migrate(c *resp.Command) position {
	if !c.Whole(3) || len(c.Args[3]) > 0 {
		return position{first: 3, last: 3, step: 1}
	}
	for i := 6; i < len(c.Args); i++ {
		switch {
		case is(c, i, "AUTH"):
			i++
		case is(c, i, "AUTH2"):
			i += 2
		case is(c, i, "KEYS"):
			return position{first: i + 1, last: c.N - 1, step: 1}
		}
	}
	return position{}
}
