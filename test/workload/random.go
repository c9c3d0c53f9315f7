package workload

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// chance is true once in n times.
func (w *Workload) chance(n int) bool { return w.rng.IntN(n) == 0 }

// pick is one of all.
func pick[T any](w *Workload, all ...T) T { return all[w.rng.IntN(len(all))] }

// key is one of a few names, so that commands meet each other's keys. Some names are not for the
// eyes.
func (w *Workload) key(prefix string) string {
	names := 24
	if prefix == "x" { // a group needs its stream, and a claim its group
		names = 6
	}
	switch n := w.rng.IntN(names); n {
	case 0:
		return prefix + ":\x00\r\n#TS:1700000000\r\n"
	case 1:
		return prefix + ":*3\r\n$3\r\nDEL\r\n"
	default:
		return prefix + ":" + strconv.Itoa(n)
	}
}

// member is an element, a field or a value of a few, so that it is met again.
func (w *Workload) member() string {
	switch n := w.rng.IntN(60); {
	case n < 40:
		return "m" + strconv.Itoa(n)
	case n < 52:
		return strconv.Itoa(n * 1000) // engines keep integers in other ways
	case n == 52:
		return "\x00\x01\xff"
	case n == 53:
		return "#TS:1700000000\r\n"
	default:
		return fmt.Sprintf("m%d:%s", n, strings.Repeat("long ", 20)) // longer than a compact encoding takes
	}
}

// value is what applications store, and what no text tool survives.
func (w *Workload) value() string {
	switch w.rng.IntN(10) {
	case 0:
		return ""
	case 1:
		return strconv.Itoa(w.rng.IntN(1_000_000) - 500_000)
	case 2:
		return "a\x00b\r\n#TS:1700000000\r\n*3\r\n$3\r\nSET\r\n"
	case 3:
		return "#" + strings.Repeat("x", w.rng.IntN(2000)) + "\r\n"
	case 4:
		return w.noise(w.rng.IntN(20_000))
	default:
		return fmt.Sprintf(`{"id":%d,"name":"user %d","tags":["a","b"],"score":%g}`, w.rng.IntN(1e6), w.rng.IntN(1000), w.rng.Float64())
	}
}

// noise is bytes that don't compress.
func (w *Workload) noise(n int) string {
	b := make([]byte, 0, n+8)
	for len(b) < n {
		v := w.rng.Uint64()
		b = append(b, byte(v), byte(v>>8), byte(v>>16), byte(v>>24), byte(v>>32), byte(v>>40), byte(v>>48), byte(v>>56))
	}
	return string(b[:n])
}

// score is one of a sorted set's, the ends of the scale included.
func (w *Workload) score() string {
	switch w.rng.IntN(12) {
	case 0:
		return "+inf"
	case 1:
		return "-inf"
	case 2:
		return strconv.FormatFloat(math.Pi*w.rng.NormFloat64()*1e17, 'g', -1, 64)
	default:
		return strconv.Itoa(w.rng.IntN(100))
	}
}

// soon is milliseconds after which something expires while the workload goes on, a moment is the
// same for a field of a hash, and later is when it won't for long.
func (w *Workload) soon() int   { return 1 + w.rng.IntN(pick(w, 20, 100, 1500)) }
func (w *Workload) moment() int { return 1 + w.rng.IntN(pick(w, 20, 100, 300)) }
func (w *Workload) later() int  { return 3_600_000 + w.rng.IntN(3_600_000) }

// life is soon or later.
func (w *Workload) life() int {
	if w.chance(2) {
		return w.soon()
	}
	return w.later()
}

// when is a life as a time, in ms.
func (w *Workload) when() int64 { return time.Now().UnixMilli() + int64(w.life()) }

// several is f, one to n times.
func (w *Workload) several(n int, f func() string) (all []any) {
	for range 1 + w.rng.IntN(n) {
		all = append(all, f())
	}
	return all
}

// pairs is two things in turn, one to n times.
func (w *Workload) pairs(n int, f, g func() string) (all []any) {
	for range 1 + w.rng.IntN(n) {
		all = append(all, f(), g())
	}
	return all
}

// on is a command with a list behind it.
func on(tail []any, head ...any) []command { return []command{append(head, tail...)} }

// one is a step of one command.
func one(c ...any) []command { return []command{c} }
