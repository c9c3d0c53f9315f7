package crc64

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"
)

// bitwise is the definition, as slow as it is short.
func bitwise(crc uint64, p []byte) uint64 {
	for _, b := range p {
		crc ^= uint64(b)
		for range 8 {
			if crc&1 == 1 {
				crc = crc>>1 ^ poly
			} else {
				crc >>= 1
			}
		}
	}
	return crc
}

// The value that redis demands of itself (crc64.c: crc64Test).
func TestCheckValue(t *testing.T) {
	const want = 0xe9c6d914c4b8d9ca
	if got := Update(0, []byte("123456789")); got != want {
		t.Errorf("Update: %#x, want %#x", got, uint64(want))
	}
	if got := bitwise(0, []byte("123456789")); got != want {
		t.Errorf("the definition in this test: %#x, want %#x", got, uint64(want))
	}
	if got := Update(7, nil); got != 7 {
		t.Errorf("Update with nothing: %#x, want 7", got)
	}
}

func TestUpdateIsTheDefinition(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		seed := rapid.Uint64().Draw(t, "seed")
		n := rapid.OneOf(
			rapid.IntRange(0, 40),
			rapid.IntRange(2*run-20, 2*run+20),
			rapid.IntRange(0, 5*run),
		).Draw(t, "length")
		from := rapid.Uint64().Draw(t, "from")
		p := noise(seed, n)
		if got, want := Update(from, p), bitwise(from, p); got != want {
			t.Fatalf("%d bytes from %#x: %#x, want %#x", n, from, got, want)
		}
	})
}

func TestAnySplitGivesTheSame(t *testing.T) {
	p := noise(1, 10*run+13)
	want := Update(0, p)
	rapid.Check(t, func(t *rapid.T) {
		var d Digest
		for rest := p; len(rest) > 0; {
			n := rapid.IntRange(1, len(rest)).Draw(t, "n")
			if m, err := d.Write(rest[:n]); m != n || err != nil {
				t.Fatalf("Write of %d bytes: %d, %v", n, m, err)
			}
			rest = rest[n:]
		}
		if d.Sum64() != want {
			t.Fatalf("%#x, want %#x", d.Sum64(), want)
		}
	})
}

func TestUpdateDoesNotAllocate(t *testing.T) {
	p := bytes.Repeat([]byte{'x'}, 10000)
	if n := testing.AllocsPerRun(10, func() { Update(0, p) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func noise(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, 0))
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(r.Uint32())
	}
	return p
}

func BenchmarkUpdate(b *testing.B) {
	for _, n := range []int{64, 512, 4 << 10, 64 << 10, 256 << 10} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			p := noise(1, n)
			b.SetBytes(int64(n))
			for b.Loop() {
				Update(0, p)
			}
		})
	}
}
