package history

// glob tells whether name is like pattern, as redis and valkey match keys (util.c:
// stringmatchlen): * is any run of bytes, ? any byte, [a-c] one of a class, [^a-c] one that isn't
// in it, and a backslash takes a special sign as it is.
func glob(pattern, name []byte) bool {
	star, taken := -1, 0 // the last *, and how much of name is behind what it takes
	i, k := 0, 0
	for k < len(name) {
		if i < len(pattern) {
			if pattern[i] == '*' {
				star, taken = i, k
				i++
				continue
			}
			if n, ok := one(pattern[i:], name[k]); ok {
				i += n
				k++
				continue
			}
		}
		if star < 0 {
			return false
		}
		taken++ // the last * takes a byte more
		i, k = star+1, taken
	}
	for i < len(pattern) && pattern[i] == '*' {
		i++
	}
	return i == len(pattern)
}

// one matches a byte with what pattern begins with, n bytes long and no *.
func one(pattern []byte, b byte) (n int, ok bool) {
	switch {
	case pattern[0] == '?':
		return 1, true
	case pattern[0] == '[':
		return class(pattern, b)
	case pattern[0] == '\\' && len(pattern) > 1:
		return 2, pattern[1] == b
	}
	return 1, pattern[0] == b
}

// class matches a byte with the [class] that pattern begins with. One that isn't closed ends with
// the pattern, and one that is empty matches nothing, as in the engines.
func class(pattern []byte, b byte) (n int, ok bool) {
	i := 1
	not := i < len(pattern) && pattern[i] == '^'
	if not {
		i++
	}
	for ; i < len(pattern) && pattern[i] != ']'; i++ {
		left := pattern[i:]
		switch {
		case left[0] == '\\' && len(left) >= 2:
			ok = ok || left[1] == b
			i++
		case len(left) >= 3 && left[1] == '-':
			ok = ok || min(left[0], left[2]) <= b && b <= max(left[0], left[2])
			i += 2
		default:
			ok = ok || left[0] == b
		}
	}
	return min(i+1, len(pattern)), ok != not
}
