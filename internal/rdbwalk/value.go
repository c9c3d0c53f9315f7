package rdbwalk

import (
	"encoding/binary"
	"strconv"
)

// Encodings of a string, in the low six bits of its first byte (rdb.h: RDB_ENC_*).
const (
	encInt8 = iota
	encInt16
	encInt32
	encLZF
	encNone = 0xff // plain bytes
)

// head is the beginning of a length or string: a number, or how a string is encoded.
func (w *window) head() (n uint64, enc byte, ok bool) {
	b, ok := w.one()
	if !ok {
		return 0, 0, false
	}
	switch {
	case b < 0x40:
		return uint64(b), encNone, true
	case b < 0x80:
		low, ok := w.one()
		return uint64(b&0x3f)<<8 | uint64(low), encNone, ok
	case b == 0x80:
		if !w.need(4) {
			return 0, 0, false
		}
		w.pos += 4
		return uint64(binary.BigEndian.Uint32(w.buf[w.pos-4:])), encNone, true
	case b == 0x81:
		if !w.need(8) {
			return 0, 0, false
		}
		w.pos += 8
		return binary.BigEndian.Uint64(w.buf[w.pos-8:]), encNone, true
	case b >= 0xc0 && b <= 0xc0+encLZF:
		return 0, b - 0xc0, true
	}
	return 0, 0, w.damaged("a length or string can't begin with byte %#02x", b)
}

// length is a number that may not be an encoded string.
func (w *window) length() (uint64, bool) {
	n, enc, ok := w.head()
	if ok && enc != encNone {
		return 0, w.damaged("a string stands where a length must be")
	}
	return n, ok
}

// skipString walks over a string of any encoding.
func (w *window) skipString() bool {
	// Nearly all strings are short and lie in the buffer whole.
	if w.pos < w.end {
		if b := w.buf[w.pos]; b < 0x40 && int(b) < w.end-w.pos {
			w.pos += 1 + int(b)
			return true
		}
	}
	n, enc, ok := w.head()
	if !ok {
		return false
	}
	switch enc {
	case encNone:
		return w.skip(n)
	case encLZF:
		packed, ok := w.length()
		if !ok {
			return false
		}
		if _, ok = w.length(); !ok { // of the text
			return false
		}
		return w.skip(packed)
	default:
		return w.skip(1 << enc)
	}
}

// text reads a string's real bytes into dst, up to its capacity. full is their number, rest how
// many bytes of the RDB the string goes on for: the caller skips them when it suits.
func (w *window) text(dst []byte) (got []byte, full int64, rest uint64, ok bool) {
	n, enc, ok := w.head()
	if !ok {
		return nil, 0, 0, false
	}
	got = dst[:0]
	switch enc {
	case encNone:
		take := int(min(n, uint64(cap(dst))))
		if !w.need(take) {
			return nil, 0, 0, false
		}
		got = append(got, w.buf[w.pos:w.pos+take]...)
		w.pos += take
		return got, int64(min(n, 1<<63-1)), n - uint64(take), true
	case encLZF:
		return w.unpack(dst)
	}
	width := 1 << enc
	if !w.need(width) {
		return nil, 0, 0, false
	}
	var v int64
	switch b := w.buf[w.pos:]; enc {
	case encInt8:
		v = int64(int8(b[0]))
	case encInt16:
		v = int64(int16(binary.LittleEndian.Uint16(b)))
	case encInt32:
		v = int64(int32(binary.LittleEndian.Uint32(b)))
	}
	w.pos += width
	got = strconv.AppendInt(got, v, 10)
	return got, int64(len(got)), 0, true
}

// unpack is text for an LZF string, behind its first byte.
func (w *window) unpack(dst []byte) (got []byte, full int64, rest uint64, ok bool) {
	packed, ok := w.length()
	if !ok {
		return nil, 0, 0, false
	}
	size, ok := w.length()
	if !ok {
		return nil, 0, 0, false
	}
	if size > 1<<40 || packed > 2*size {
		return nil, 0, 0, w.damaged("a compressed string claims %d bytes in %d", size, packed)
	}
	want := int(min(size, uint64(cap(dst))))
	// The worst that LZF can say is one byte behind one control byte; what packs stores 32
	// behind it. So many bytes bring what is wanted.
	take := int(min(packed, uint64(2*want+4)))
	if !w.need(take) {
		return nil, 0, 0, false
	}
	got, sound := unpackLZF(dst[:want], w.buf[w.pos:w.pos+take], uint64(want) == size)
	if !sound {
		return nil, 0, 0, w.damaged("a compressed string doesn't unpack to the %d bytes that it claims", size)
	}
	w.pos += take
	return got, int64(size), packed - uint64(take), true
}

// unpackLZF fills dst with what src unpacks to (lzf_d.c: lzf_decompress). whole tells that src
// must then be used up; without it dst is the beginning of something longer.
func unpackLZF(dst, src []byte, whole bool) ([]byte, bool) {
	n, i := 0, 0
	for n < len(dst) && i < len(src) {
		ctrl := int(src[i])
		i++
		if ctrl < 32 { // ctrl+1 bytes as they are
			run := ctrl + 1
			if i+run > len(src) && whole || n+run > len(dst) && whole {
				return nil, false
			}
			took := copy(dst[n:], src[i:min(i+run, len(src))])
			n += took
			i += run
			continue
		}
		run := ctrl>>5 + 2 // a copy of earlier bytes, which may overlap what it makes
		if run == 9 {
			if i >= len(src) {
				return nil, false
			}
			run += int(src[i])
			i++
		}
		if i >= len(src) {
			return nil, false
		}
		from := n - (ctrl&0x1f<<8 | int(src[i])) - 1
		i++
		if from < 0 || n+run > len(dst) && whole {
			return nil, false
		}
		for ; run > 0 && n < len(dst); run-- {
			dst[n] = dst[from]
			n++
			from++
		}
	}
	if n < len(dst) || whole && i != len(src) {
		return nil, false
	}
	return dst, true
}

// walk passes over what a layout (types.go) says. It ends, because each part takes at least one
// byte, and groups nest only as deep as the layout does.
func (w *Walker) walk(layout string) bool {
	for i := 0; i < len(layout); i++ {
		ok := true
		switch layout[i] {
		case 's':
			ok = w.skipString()
		case 'l':
			_, ok = w.length()
		case 'b':
			ok = w.skip(1)
		case '4':
			ok = w.skip(4)
		case '8':
			ok = w.skip(8)
		case 'i':
			ok = w.skip(16)
		case 'f':
			ok = w.skipScore()
		case 'm':
			ok = w.module()
		case 'v':
			ok = w.moduleValues()
		case '(':
			var n uint64
			body := group(layout[i+1:])
			for n, ok = w.length(); ok && n > 0; n-- {
				switch body { // what most elements are is worth a short cut
				case "s":
					ok = w.skipString()
				case "ss":
					if ok = w.skipString(); ok {
						ok = w.skipString()
					}
				default:
					ok = w.walk(body)
				}
			}
			i += len(body) + 1
		}
		if !ok {
			return false
		}
	}
	return true
}

// group is the part of a layout up to the bracket that closes it.
func group(layout string) string {
	depth := 1
	for i := range len(layout) {
		switch layout[i] {
		case '(':
			depth++
		case ')':
			if depth--; depth == 0 {
				return layout[:i]
			}
		}
	}
	return layout
}

// skipScore walks over a score as text; 253, 254 and 255 are NaN and the infinities.
func (w *window) skipScore() bool {
	n, ok := w.one()
	if !ok || n >= 253 {
		return ok
	}
	return w.skip(uint64(n))
}

// moduleValues walks over what a module saved, each value behind its kind (rdb.h:
// RDB_MODULE_OPCODE_*), without knowing the module.
func (w *window) moduleValues() bool {
	for {
		kind, ok := w.length()
		if !ok {
			return false
		}
		switch kind {
		case 0:
			return true
		case 1, 2: // signed, unsigned
			_, ok = w.length()
		case 3: // float
			ok = w.skip(4)
		case 4: // double
			ok = w.skip(8)
		case 5:
			ok = w.skipString()
		default:
			return w.damaged("a module's value of kind %d", kind)
		}
		if !ok {
			return false
		}
	}
}
