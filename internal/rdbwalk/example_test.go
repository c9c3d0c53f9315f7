package rdbwalk_test

import (
	"bytes"
	"fmt"

	"github.com/offloader/offloader/internal/rdbwalk"
)

// Counting keys, and naming the longest record.
func Example() {
	rdb := []byte("REDIS0011" +
		"\xfa\x09redis-ver\x057.2.4" + // who wrote it
		"\xfe\x00" + // database 0
		"\x00\x05hello\x05world" + // a string
		"\x01\x04list\x03\x01a\x01b\x01c" + // a list of three
		"\xff" + "\x00\x00\x00\x00\x00\x00\x00\x00") // the end, without a checksum

	var longest int64
	var key string
	w := rdbwalk.NewWalker(bytes.NewReader(rdb))
	for w.Next() {
		if r := w.Record(); r.RawLen > longest {
			longest, key = r.RawLen, string(r.Key)
		}
	}
	if err := w.Finish(nil, nil); err != nil {
		fmt.Println(err)
		return
	}
	s := w.Summary()
	fmt.Printf("%d keys of %s; %q takes %d bytes; checksum %s\n", s.Keys, s.EngineVersion, key, longest, s.CRC)
	// Output: 2 keys of 7.2.4; "hello" takes 13 bytes; checksum absent
}
