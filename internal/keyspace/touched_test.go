package keyspace

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// Whatever the hashes, also many that want the same slot, and the last one: the table is a map.
func TestTouchedIsAMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		got, want := newTouched(), map[uint64]entry{}
		hashes := rapid.OneOf(rapid.Uint64Range(1, 50), rapid.Uint64Min(math.MaxUint64-50), rapid.Uint64Min(1))
		next := uint64(rapid.IntRange(1, 1<<40).Draw(t, "stride"))
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			switch rapid.SampledFrom([]string{"put", "put", "many", "keep"}).Draw(t, "step") {
			case "put":
				hash, e := hashes.Draw(t, "hash"), entry{data: dataset(rapid.IntRange(0, 3).Draw(t, "data"))}
				_, had := want[hash]
				require.Equal(t, !had, got.put(hash, e))
				want[hash] = e
			case "many":
				for i := range uint64(rapid.IntRange(0, 2000).Draw(t, "n")) {
					hash := max(1, next*(i+1))
					got.put(hash, entry{data: 2})
					want[hash] = entry{data: 2}
				}
			case "keep":
				got.keep(func(s *slot) bool { return s.data != 1 })
				for hash, e := range want {
					if e.data == 1 {
						delete(want, hash)
					}
				}
			}
		}
		require.Equal(t, len(want), got.n)
		require.LessOrEqual(t, got.n, len(got.slots)/4*3)
		for hash, e := range want {
			has, ok := got.get(hash)
			require.True(t, ok)
			require.Equal(t, e, has)
		}
		for range 20 {
			hash := hashes.Draw(t, "other")
			_, has := want[hash]
			_, ok := got.get(hash)
			require.Equal(t, has, ok)
		}
	})
}
