// Package crc64 is the checksum of RDB files: CRC64 by Jones, as redis computes it (crc64.c).
//
// An RDB ends with the sum of all its bytes before it, and archive names carry the sum of the
// file they name. The parameters are polynomial 0xad93d23594c935a9, reflected, initial value
// 0, nothing inverted at the end; the sum of "123456789" is 0xe9c6d914c4b8d9ca. The standard
// library's hash/crc64 could be bent to it, but goes at half the speed.
package crc64

import "encoding/binary"

// poly is the polynomial with its bits reversed, since the CRC is a reflected one.
const poly = 0x95ac9329ac4bc9b5

// run is the length of each of the two stretches that Update computes at the same time. One
// stretch alone leaves the processor waiting for the last table look-up; two fill the wait.
const run = 2048

// slices[k][b] is what byte b does to the sum when k zero bytes follow it.
var slices = makeSlices()

// shift[k][b] is what byte k of a sum with value b becomes behind run zero bytes: it joins
// the two stretches.
var shift = makeShift()

// Update is the sum of what crc is the sum of, followed by p. The sum of nothing is 0.
//
// Calls of 4 KiB and more are the fast ones: sum whole buffers rather than records.
func Update(crc uint64, p []byte) uint64 {
	t := &slices
	for len(p) >= 2*run {
		block := (*[2 * run]byte)(p)
		var ahead uint64 // the second stretch, begun from 0
		for i := 0; i < run; i += 8 {
			x := crc ^ binary.LittleEndian.Uint64(block[i:])
			y := ahead ^ binary.LittleEndian.Uint64(block[run+i:])
			crc = t[7][byte(x)] ^ t[6][byte(x>>8)] ^ t[5][byte(x>>16)] ^ t[4][byte(x>>24)] ^
				t[3][byte(x>>32)] ^ t[2][byte(x>>40)] ^ t[1][byte(x>>48)] ^ t[0][x>>56]
			ahead = t[7][byte(y)] ^ t[6][byte(y>>8)] ^ t[5][byte(y>>16)] ^ t[4][byte(y>>24)] ^
				t[3][byte(y>>32)] ^ t[2][byte(y>>40)] ^ t[1][byte(y>>48)] ^ t[0][y>>56]
		}
		s := &shift
		crc = ahead ^ s[0][byte(crc)] ^ s[1][byte(crc>>8)] ^ s[2][byte(crc>>16)] ^ s[3][byte(crc>>24)] ^
			s[4][byte(crc>>32)] ^ s[5][byte(crc>>40)] ^ s[6][byte(crc>>48)] ^ s[7][crc>>56]
		p = p[2*run:]
	}
	for len(p) >= 8 {
		x := crc ^ binary.LittleEndian.Uint64(p)
		crc = t[7][byte(x)] ^ t[6][byte(x>>8)] ^ t[5][byte(x>>16)] ^ t[4][byte(x>>24)] ^
			t[3][byte(x>>32)] ^ t[2][byte(x>>40)] ^ t[1][byte(x>>48)] ^ t[0][x>>56]
		p = p[8:]
	}
	for _, b := range p {
		crc = t[0][byte(crc)^b] ^ crc>>8
	}
	return crc
}

// A Digest sums what is written to it. The zero Digest is the sum of nothing.
type Digest struct{ sum uint64 }

// Write adds p to the sum; it never fails.
func (d *Digest) Write(p []byte) (int, error) {
	d.sum = Update(d.sum, p)
	return len(p), nil
}

// Sum64 is the sum of all bytes written so far.
func (d *Digest) Sum64() uint64 { return d.sum }

// makeSlices derives the tables of slicing by 8 from the polynomial.
func makeSlices() (t [8][256]uint64) {
	for i := range t[0] {
		crc := uint64(i)
		for range 8 {
			bit := crc & 1
			crc >>= 1
			if bit == 1 {
				crc ^= poly
			}
		}
		t[0][i] = crc
	}
	for i := range t[0] {
		for k := 1; k < len(t); k++ {
			t[k][i] = t[0][byte(t[k-1][i])] ^ t[k-1][i]>>8
		}
	}
	return t
}

// makeShift uses that the CRC is linear: what run zero bytes make of a sum is the exclusive
// or of what they make of each of its bits.
func makeShift() (t [8][256]uint64) {
	var bits [64]uint64
	for i := range bits {
		crc := uint64(1) << i
		for range run {
			crc = slices[0][byte(crc)] ^ crc>>8
		}
		bits[i] = crc
	}
	for k := range t {
		for b := range t[k] {
			for i := range 8 {
				if b>>i&1 == 1 {
					t[k][b] ^= bits[8*k+i]
				}
			}
		}
	}
	return t
}
