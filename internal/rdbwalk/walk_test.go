package rdbwalk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/offloader/offloader/internal/crc64"
	"github.com/offloader/offloader/internal/stream"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// told is all that a walk tells, as text, for comparing walks.
func told(r io.Reader, options ...Option) (string, error) {
	var b strings.Builder
	w := NewWalker(r, options...)
	for w.Next() {
		k := w.Record()
		fmt.Fprintf(&b, "%d: %s %d db %d %q %d %v %d\n", k.Offset, k.TypeName(), k.Type, k.DB, k.Key, k.KeyLen, k.ExpireAt, k.RawLen)
	}
	err := w.Finish(nil, nil)
	fmt.Fprintf(&b, "%+v", *w.Summary())
	return b.String(), err
}

func TestEveryRowHasASample(t *testing.T) {
	for _, r := range types {
		found := false
		for _, s := range samples {
			found = found || s.number == r.number && s.by == r.by
		}
		require.True(t, found, "type %d, %s", r.number, r.name)
	}
}

// Each sample alone, so that a record that is read too far or not far enough shows.
func TestEveryTypeIsPassedToItsLastByte(t *testing.T) {
	for i, s := range samples {
		for f, magic := range map[family]string{redis: "REDIS0012", valkey: "VALKEY080"} {
			rec := record(s.number, "key", s.value)
			rdb := sealed(magic, rec, record(0, "after", str("v")))
			w := NewWalker(bytes.NewReader(rdb))
			if s.by != both && s.by != f {
				continue // the other family gives the number another meaning or none
			}
			require.True(t, w.Next(), "sample %d: %v", i, w.Err())
			require.Equal(t, "key", string(w.Record().Key))
			require.Equal(t, s.number, w.Record().Type)
			require.EqualValues(t, len(rec), w.Record().RawLen)
			require.True(t, w.Next())
			require.Equal(t, "after", string(w.Record().Key))
			require.False(t, w.Next())
			require.NoError(t, w.Finish(nil, nil))
		}
	}
}

func TestEverythingRedis(t *testing.T)  { testEverything(t, redis) }
func TestEverythingValkey(t *testing.T) { testEverything(t, valkey) }

func testEverything(t *testing.T, f family) {
	rdb := everything(f)
	w := NewWalker(bytes.NewReader(rdb))
	last := map[string]Record{}
	n := 0
	for w.Next() {
		k := *w.Record()
		last[string(k.Key)] = k
		n++
		require.True(t, k.IsKey())
		require.False(t, k.Cut())
	}
	require.NoError(t, w.Err())
	require.NoError(t, w.Finish(nil, nil))

	s := w.Summary()
	require.Equal(t, f == valkey, s.Valkey)
	require.Equal(t, "9.9.9", s.EngineVersion)
	require.Equal(t, stream.Time(1700000000000), s.Created)
	require.EqualValues(t, 10000, s.UsedMem)
	require.Equal(t, 2, s.ReplDB)
	require.Equal(t, stream.ReplID("0123456789abcdef0123456789abcdef01234567"), s.ReplID)
	require.Equal(t, stream.Offset(123), s.ReplOffset)
	require.False(t, s.AOFBase)
	require.EqualValues(t, 1, s.Functions)
	require.Equal(t, []string{"ReJSON-RL"}, s.Modules)
	require.Equal(t, CRCOK, s.CRC)
	require.EqualValues(t, len(rdb), s.Length)
	require.Empty(t, s.Unchecked)
	require.EqualValues(t, n, s.Keys)
	require.EqualValues(t, 3, s.Expires)
	require.Equal(t, []DBCount{{DB: 0, Keys: s.Keys - 8, SizeHint: 100}, {DB: 1000, Keys: 8, Expires: 3, SizeHint: 5}}, s.DBs)

	for key, at := range map[string]stream.Time{
		"ms": 1700000000123, "s": 1700000000000, "idle": 1700000000123, "freq": 0, "12345": 0,
		strings.Repeat("packed", 10): 0, strings.Repeat("k", 300): 0, "": 0,
	} {
		require.Contains(t, last, key)
		require.Equal(t, at, last[key].ExpireAt, key)
		require.Equal(t, 1000, last[key].DB, key)
		require.EqualValues(t, len(key), last[key].KeyLen)
	}
}

// Records, copied raw and set one behind the other, are the RDB again: nothing is lost between
// them, and prefixes travel with their key.
func TestCopiedRecordsAreTheRDB(t *testing.T) {
	for _, f := range []family{redis, valkey} {
		rdb := everything(f)
		rapid.Check(t, func(t *rapid.T) {
			var all, odd, even bytes.Buffer
			i := 0
			seed := rapid.Uint64().Draw(t, "seed")
			_, err := told(chunked(rdb, seed), Opcodes(), Copy(func(r *Record) io.Writer {
				i++
				if r.Offset != int64(9+odd.Len()+even.Len()) {
					t.Fatalf("record %d at %d, want %d", i, r.Offset, 9+odd.Len()+even.Len())
				}
				return []io.Writer{io.MultiWriter(&all, &odd), io.MultiWriter(&all, &even)}[i%2]
			}))
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(all.Bytes(), rdb[9:len(rdb)-9]) {
				t.Fatalf("copied %q, want %q", all.Bytes(), rdb[9:len(rdb)-9])
			}
		})
	}
}

func TestAWriterThatFailsEndsTheWalk(t *testing.T) {
	broken := errors.New("disk full")
	pr, pw := io.Pipe()
	require.NoError(t, pr.CloseWithError(broken))
	_, err := told(bytes.NewReader(everything(redis)), Copy(func(*Record) io.Writer { return pw }))
	require.ErrorIs(t, err, broken)
}

// Keys longer than MaxKey are cut, plain or packed, and what follows is found again.
func TestLongKeysAreCut(t *testing.T) {
	for _, n := range []int{MaxKey - 1, MaxKey, MaxKey + 1, 3 * MaxKey, 1 << 20} {
		key := string(noise(uint64(n), n))
		for _, enc := range []string{str(key), lzf(key)} {
			rec := "\xfc" + seen8 + "\x00" + enc + str("v")
			var raw bytes.Buffer
			w := NewWalker(chunked(sealed("REDIS0011", record(0, "before", str("v")), rec, record(0, "after", str("v"))), 1),
				Copy(func(r *Record) io.Writer {
					if r.KeyLen > 100 {
						return &raw
					}
					return nil
				}))
			require.True(t, w.Next())
			require.True(t, w.Next(), w.Err())
			k := w.Record()
			require.EqualValues(t, n, k.KeyLen)
			require.Equal(t, n > MaxKey, k.Cut())
			require.True(t, key[:min(n, MaxKey)] == string(k.Key))
			require.EqualValues(t, len(rec), k.RawLen)
			require.True(t, raw.String() == rec)
			require.True(t, w.Next())
			require.Equal(t, "after", string(w.Record().Key))
			require.False(t, w.Next())
			require.NoError(t, w.Finish(nil, nil))
		}
	}
}

// How a source hands out its bytes changes nothing.
func TestAnySplitGivesTheSame(t *testing.T) {
	for _, f := range []family{redis, valkey} {
		rdb := append(everything(f), make([]byte, 0)...)
		want, err := told(bytes.NewReader(rdb))
		require.NoError(t, err)
		for name, r := range map[string]io.Reader{
			"a byte at a time":       iotest.OneByteReader(bytes.NewReader(rdb)),
			"error with the last":    iotest.DataErrReader(bytes.NewReader(rdb)),
			"half of what is wanted": iotest.HalfReader(bytes.NewReader(rdb)),
		} {
			got, err := told(r)
			require.NoError(t, err, name)
			require.Equal(t, want, got, name)
		}
		rapid.Check(t, func(t *rapid.T) {
			got, err := told(chunked(rdb, rapid.Uint64().Draw(t, "seed")))
			if err != nil || got != want {
				t.Fatalf("%v\n%s", err, got)
			}
		})
	}
}

// More than the buffer, in pieces of all sizes: what the sliding of the buffer could break.
func TestLargeRDBInPieces(t *testing.T) {
	parts := []string{"\xfe\x00"}
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 2000 {
		parts = append(parts, record(0, fmt.Sprint("key", i), str(string(noise(uint64(i), r.IntN(1000))))))
		if i%1000 == 0 {
			parts = append(parts, record(1, "big", num(2)+str(string(noise(1, 300_000)))+lzf(string(noise(2, 700_000)))))
		}
	}
	rdb := sealed("REDIS0009", parts...)
	want, err := told(bytes.NewReader(rdb))
	require.NoError(t, err)
	for _, seed := range []uint64{6, 11, 17} {
		var raw bytes.Buffer
		got, err := told(chunked(rdb, seed), Opcodes(), Copy(func(*Record) io.Writer { return &raw }))
		require.NoError(t, err)
		require.Contains(t, got, "Keys:2002")
		require.True(t, bytes.Equal(raw.Bytes(), rdb[9:len(rdb)-9]))
		got, err = told(chunked(rdb, seed))
		require.NoError(t, err)
		require.True(t, want == got)
	}
}

// chunked gives b in pieces whose sizes follow from the seed.
func chunked(b []byte, seed uint64) io.Reader {
	r := rand.New(rand.NewPCG(seed, 1))
	most := 1 << (1 + seed%19)
	return &pieces{rest: b, next: func() int { return 1 + r.IntN(most) }}
}

type pieces struct {
	rest []byte
	next func() int
}

func (p *pieces) Read(b []byte) (int, error) {
	if len(p.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(b, p.rest[:min(p.next(), len(p.rest))])
	p.rest = p.rest[n:]
	return n, nil
}

func noise(seed uint64, n int) []byte {
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	p := make([]byte, n)
	_, _ = rand.NewChaCha8(key).Read(p) // never fails
	return p
}

// The end is found by structure, and what lies behind it is left alone.
func TestBufferedIsWhatLiesBehind(t *testing.T) {
	rdb, behind := everything(redis), []byte("*1\r\n$4\r\nPING\r\n")
	for seed := range uint64(50) {
		src := chunked(append(bytes.Clone(rdb), behind...), seed)
		w := NewWalker(src)
		for w.Next() {
			require.Nil(t, w.Buffered())
		}
		require.NoError(t, w.Err())
		rest, err := io.ReadAll(src)
		require.NoError(t, err)
		require.Equal(t, string(behind), string(append(bytes.Clone(w.Buffered()), rest...)))
	}
}

func TestVersions(t *testing.T) {
	plain := record(0, "k", str("v"))
	for _, row := range []struct {
		magic     string
		crc       bool
		unchecked string
		want      CRC
	}{
		{"REDIS0001", false, "", CRCAbsent},
		{"REDIS0004", false, "", CRCAbsent},
		{"REDIS0005", true, "", CRCOK},
		{"REDIS0006", true, "", CRCOK},
		{"REDIS0012", true, "", CRCOK},
		{"REDIS0013", true, "RDB version 13 is newer than 12, the newest known", CRCOK},
		{"REDIS0080", true, "RDB version 80 is newer than 12, the newest known", CRCOK},
		{"VALKEY080", true, "", CRCOK},
		{"VALKEY081", true, "RDB version 81 is newer than 80, the newest known", CRCOK},
	} {
		rdb := body(row.magic, plain)
		if row.crc {
			rdb = sealed(row.magic, plain)
		}
		w := NewWalker(bytes.NewReader(rdb))
		require.True(t, w.Next(), row.magic)
		require.False(t, w.Next())
		require.NoError(t, w.Finish(nil, nil), row.magic)
		require.Equal(t, row.unchecked, w.Summary().Unchecked)
		require.Equal(t, row.want, w.Summary().CRC)
		require.EqualValues(t, 1, w.Summary().Keys)

		if row.crc { // rdbchecksum no
			w := NewWalker(bytes.NewReader(append(body(row.magic, plain), make([]byte, 8)...)))
			require.True(t, w.Next())
			require.False(t, w.Next())
			require.NoError(t, w.Finish(nil, nil))
			require.Equal(t, CRCAbsent, w.Summary().CRC)
		}
	}
}

func TestNothingIsAllocatedForARecord(t *testing.T) {
	b := body("REDIS0012", "\xfe\x00", strings.Repeat(
		"\xfc"+seen8+record(0, "string", str("value"))+record(4, "hash", num(2)+str("f")+lzf("vvv")+str("g")+"\xc0\x01")+
			"\x00"+lzf("packed key")+"\xc0\x01"+aux("slot-info", "1,2")+record(7, "module", num64(1<<62)+"\x00"), 4000))
	rdb := binary.LittleEndian.AppendUint64(b, crc64.Update(0, b))
	w := NewWalker(iotest.HalfReader(bytes.NewReader(rdb)))
	require.True(t, w.Next()) // the first makes the place where a database is counted
	for range 10 {
		require.True(t, w.Next())
	}
	n := testing.AllocsPerRun(10, func() {
		for range 1000 {
			if !w.Next() {
				t.Error(w.Err())
			}
		}
	})
	require.Zero(t, n)
}

// Whoever knows the bytes by another sum is shown the same records, a wrong CRC64 or not.
func TestUnsummedWalk(t *testing.T) {
	rdb := benchRDB(20, 0, 300<<10)
	rdb[len(rdb)-1] ^= 1
	w := NewWalker(bytes.NewReader(rdb), Unsummed())
	for w.Next() {
	}
	if err := w.Err(); err != nil {
		t.Fatal(err)
	}
	plain := NewWalker(bytes.NewReader(rdb))
	for plain.Next() {
	}
	var wrong *ChecksumError
	if !errors.As(plain.Err(), &wrong) {
		t.Fatalf("the sum is wrong, but: %v", plain.Err())
	}
	got, want := w.Summary(), plain.Summary()
	if got.Keys != want.Keys || got.Length != int64(len(rdb)) || got.CRC != CRCUnread {
		t.Errorf("unsummed: %+v, summed: %+v", got, want)
	}
}
