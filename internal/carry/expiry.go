package carry

import (
	"bytes"
	"fmt"
	"strconv"

	"github.com/offloader/offloader/internal/stream"
)

// Later is by how much expiries are put off while commands are sent, in milliseconds: 142,808 years. So nothing
// expires by the server's clock, and what has an expiry of ours is known by it.
const Later = 1 << 52

// PutOff is an expiry while commands are sent.
func PutOff(at int64) (int64, error) {
	if at >= Later {
		return 0, fmt.Errorf("an expiry of %d, in some %d years, can't be carried over", at, at/31_556_952_000)
	}
	return at + Later, nil
}

// putOffAll gives a command whose expiry is put off, and absolute in any case. Masters before redis 7 send some that
// count from when a replica gets them, which is at. put says whether there was any.
func putOffAll(name string, args Words, at stream.Time) (_ Words, put bool, err error) {
	switch name {
	case "EXPIRE", "PEXPIRE", "EXPIREAT", "PEXPIREAT":
		return withExpiry(args, 2, at, name[0] == 'P', len(name) < 8, func(ms int64) Words {
			return append(Words{"PEXPIREAT", args[1], ms}, args[3:]...)
		})
	case "SETEX", "PSETEX":
		return withExpiry(args, 2, at, name[0] == 'P', true, func(ms int64) Words {
			return Words{"SET", args[1], args[3], "PXAT", ms}
		})
	case "SET":
		return option(args, 3, at)
	case "GETEX":
		return option(args, 2, at)
	case "MSETEX":
		n, _ := number(args, 1)
		return option(args, 2+2*int(max(0, min(n, int64(len(args))))), at)
	case "RESTORE", "RESTORE-ASKING":
		if n, ok := number(args, 2); !ok || n == 0 {
			return args, false, nil
		}
		absolute := false
		for i := 4; i < len(args); i++ {
			absolute = absolute || is(args, i, "ABSTTL")
		}
		return withExpiry(args, 2, at, true, !absolute, func(ms int64) Words {
			w := append(Words{"RESTORE", args[1], ms}, args[3:]...)
			if !absolute {
				w = append(w, "ABSTTL")
			}
			return w
		})
	}
	return args, false, nil
}

// withExpiry makes a command anew, whose expiry is argument i: in milliseconds or seconds, from at on or not.
func withExpiry(args Words, i int, at stream.Time, ms, relative bool, make func(int64) Words) (Words, bool, error) {
	n, ok := number(args, i)
	if !ok {
		return nil, false, fmt.Errorf("its expiry is not understood")
	}
	if !ms {
		if n > Later || n < -Later {
			n = Later // PutOff says no
		} else {
			n *= 1000
		}
	}
	if relative {
		n += int64(at)
	}
	n, err := PutOff(n)
	if err != nil {
		return nil, false, err
	}
	return make(n), true, nil
}

// option puts off the expiry among a command's options, which begin at argument i.
func option(args Words, i int, at stream.Time) (Words, bool, error) {
	for ; i+1 < len(args); i++ {
		for name, kind := range map[string]struct{ ms, relative bool }{"PXAT": {true, false}, "EXAT": {}, "PX": {true, true}, "EX": {false, true}} {
			if is(args, i, name) {
				return withExpiry(args, i+1, at, kind.ms, kind.relative, func(ms int64) Words {
					w := append(Words{}, args[:i]...)
					return append(append(w, "PXAT", ms), args[i+2:]...)
				})
			}
		}
		for _, name := range []string{"IFEQ", "IFNE", "IFDEQ", "IFDNE"} { // a value follows, which may be any word
			if is(args, i, name) {
				i++
				break
			}
		}
	}
	return args, false, nil
}

func is(args Words, i int, word string) bool {
	b, ok := args[i].([]byte)
	return ok && len(b) == len(word) && bytes.EqualFold(b, []byte(word))
}

func number(args Words, i int) (int64, bool) {
	if i >= len(args) {
		return 0, false
	}
	b, ok := args[i].([]byte)
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseInt(string(b), 10, 64)
	return n, err == nil
}
