package rdbwalk

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"testing/iotest"
)

// FuzzWalk: whatever comes in, the walk ends, takes the same memory, tells the same however the
// bytes are split, and accounts for each byte of what it accepts.
func FuzzWalk(f *testing.F) {
	f.Add(everything(redis))
	f.Add(everything(valkey))
	f.Add(sealed("REDIS0014", record(27, "k", "anything")))
	f.Add([]byte{})
	for _, s := range samples {
		f.Add(sealed("REDIS0012", record(s.number, "key", s.value)))
		f.Add(sealed("VALKEY080", "\xfc"+seen8+record(s.number, "key", s.value)))
	}
	seeds, err := filepath.Glob(filepath.Join("testdata", "*.rdb")) // made by engines
	if err != nil || len(seeds) == 0 {
		f.Fatalf("no seeds: %v", err)
	}
	for _, name := range seeds {
		rdb, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(rdb)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		want, wantErr := told(bytes.NewReader(b))
		for _, r := range []io.Reader{iotest.HalfReader(bytes.NewReader(b)), chunked(b, uint64(len(b)))} {
			if got, err := told(r); got != want || (err == nil) != (wantErr == nil) {
				t.Fatalf("split: %v\n%s\nwhole: %v\n%s", err, got, wantErr, want)
			}
		}

		var raw bytes.Buffer
		w := NewWalker(bytes.NewReader(b), Opcodes(), Copy(func(*Record) io.Writer { return &raw }))
		at := int64(9)
		for w.Next() {
			r := w.Record()
			if r.Offset != at || r.RawLen <= 0 || r.Offset+r.RawLen > int64(len(b)) || len(r.Key) > MaxKey || r.KeyLen < int64(len(r.Key)) {
				t.Fatalf("%+v at %d", r, at)
			}
			at += r.RawLen
		}
		walked := w.Err() == nil
		switch err := w.Finish(nil, nil); {
		case err == nil && w.Summary().Length != int64(len(b)):
			t.Fatalf("length %d of %d", w.Summary().Length, len(b))
		case err == nil && walked && !bytes.Equal(raw.Bytes(), b[9:at]):
			t.Fatalf("copied %q of %q", raw.Bytes(), b)
		case err != nil && !isTyped(err):
			t.Fatalf("%T: %v", err, err)
		}
	})
}

// isTyped tells whether err is one of those that are documented.
func isTyped(err error) bool {
	var damage *FormatError
	var wrong *ChecksumError
	return errors.As(err, &damage) || errors.As(err, &wrong) || errors.Is(err, io.ErrUnexpectedEOF)
}

// FuzzUnpackLZF: packed bytes come from anywhere.
func FuzzUnpackLZF(f *testing.F) {
	f.Add([]byte("\x00a\xe0\x10\x00"), 30)
	f.Add([]byte("\x04abcde\x20\x04"), 8)
	f.Fuzz(func(t *testing.T, src []byte, n int) {
		if n < 0 || n > 1<<16 {
			return
		}
		whole, ok := unpackLZF(make([]byte, n), src, true)
		if !ok {
			return
		}
		for _, part := range []int{0, n / 3, n} {
			got, ok := unpackLZF(make([]byte, part), src, false)
			if !ok || !bytes.Equal(got, whole[:part]) {
				t.Fatalf("the first %d of %d: %v", part, n, ok)
			}
		}
	})
}
