package rdbwalk

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Most records go the quick way, and are the same there as on the careful way, which is taken
// where somebody may want a copy.
func TestQuickWayIsTheSame(t *testing.T) {
	values := []string{"", "\xc0\x05", "\xc1\x05\x06", "\xc2\x05\x06\x07\x08", lzf(strings.Repeat("ab", 50)), "\x80\x00\x00\x00\x01x", num64(3) + "abc"}
	for _, n := range []int{0, 1, 62, 63, 64, 65, 255, 256, 16382, 16383, 16384} {
		values = append(values, str(string(noise(uint64(n), n))))
	}
	values[0] = num(0)
	var parts []string
	for _, n := range []int{0, 1, 63, 64, 300} {
		key := str(string(noise(7, n)))
		for i, v := range values {
			at := string(binary.LittleEndian.AppendUint64([]byte{opExpireMS}, uint64(1_700_000_000_000+i)))
			parts = append(parts,
				"\x00"+key+v, at+"\x00"+key+v, "\x10"+key+v, // string, hash-listpack
				"\xf9\x07"+at+"\x00"+key+v, at+"\xf9\x07\x00"+key+v, // with a frequency
				"\x04"+key+num(1)+v+v)
		}
	}
	rdb := sealed("REDIS0012", append([]string{"\xfe\x03"}, parts...)...)

	keys := func(r io.Reader, o ...Option) (list []string, s Summary) {
		w := NewWalker(r, o...)
		for w.Next() {
			k := w.Record()
			list = append(list, fmt.Sprintf("%d %s %q %d %d %d %d", k.DB, k.TypeName(), k.Key, k.KeyLen, k.ExpireAt, k.Offset, k.RawLen))
		}
		require.NoError(t, w.Finish(nil, nil))
		return list, *w.Summary()
	}
	want, sum := keys(bytes.NewReader(rdb), Copy(func(*Record) io.Writer { return nil }))
	require.Len(t, want, len(parts))
	for _, r := range []io.Reader{bytes.NewReader(rdb), chunked(rdb, 1), chunked(rdb, 2)} {
		got, s := keys(r)
		require.Equal(t, want, got)
		require.Equal(t, sum, s)
	}
}
