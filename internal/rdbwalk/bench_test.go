package rdbwalk

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"testing"

	"github.com/offloader/offloader/internal/crc64"
)

// benchRDB is an RDB of total bytes: strings, or with elements hashes of so many fields.
func benchRDB(value, elements, total int) []byte {
	b := bytes.NewBuffer([]byte("REDIS0012\xfe\x00"))
	text := str(string(noise(1, value)))
	for i := 0; b.Len() < total; i++ {
		switch elements {
		case 0:
			b.WriteString("\x00" + str(fmt.Sprintf("key:%012d", i)) + text)
		default:
			b.WriteString("\x04" + str(fmt.Sprintf("key:%012d", i)) + num(elements))
			for range elements {
				b.WriteString(str("field") + text)
			}
		}
	}
	b.WriteByte(opEOF)
	return binary.LittleEndian.AppendUint64(b.Bytes(), crc64.Update(0, b.Bytes()))
}

// The shapes of data between which the speed of a walk lies.
func BenchmarkWalk(b *testing.B) {
	for _, row := range []struct {
		name            string
		value, elements int
	}{
		{"small", 20, 0}, {"typical", 200, 0}, {"large", 1 << 20, 0}, {"hash", 10, 1000},
	} {
		rdb := benchRDB(row.value, row.elements, 64<<20)
		for _, copied := range []bool{false, true} {
			name, options := row.name, []Option(nil)
			if copied {
				name += "/copied"
				options = []Option{Copy(func(*Record) io.Writer { return io.Discard })}
			}
			b.Run(name, func(b *testing.B) {
				b.SetBytes(int64(len(rdb)))
				b.ReportAllocs()
				for b.Loop() {
					w := NewWalker(bytes.NewReader(rdb), options...)
					for w.Next() {
					}
					if err := w.Finish(nil, nil); err != nil {
						b.Fatal(err)
					}
					b.ReportMetric(float64(w.Summary().Keys), "keys/op")
				}
			})
		}
	}
}
