package archive

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/offloader/offloader/internal/crc64"
	"github.com/offloader/offloader/internal/resp"
	"github.com/offloader/offloader/internal/stream"
)

const (
	testID       = stream.ReplID("1a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d")
	testTimeline = "20261123T183152.123Z-1a2b3c4d"
)

// cmd writes a command as a master sends it.
func cmd(args ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "*%d\r\n", len(args))
	for _, a := range args {
		fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(a), a)
	}
	return b.String()
}

// cutUp makes pieces of a stream, as a link would that received it in parts of these sizes at
// these times, round and round.
func cutUp(t require.TestingT, from stream.Cursor, all string, sizes []int, times []stream.Time) []stream.Piece {
	var pieces []stream.Piece
	f := resp.NewFramer(from)
	rest := []byte(all)
	for i := 0; len(rest) > 0; i++ {
		part := rest[:min(len(rest), max(1, sizes[i%len(sizes)]))]
		rest = rest[len(part):]
		for len(part) > 0 {
			at := f.Offset()
			n, first, blank, err := f.Feed(part)
			require.NoError(t, err)
			pieces = append(pieces, stream.Piece{At: at, Time: times[min(i, len(times)-1)], Data: part[:n], First: first, Blank: blank})
			part = part[n:]
		}
	}
	return pieces
}

func head(from stream.Cursor) SegmentHead {
	return SegmentHead{Source: "cache", Timeline: testTimeline, ReplID: testID, From: from}
}

// seal writes a segment of pieces.
func seal(t require.TestingT, from stream.Cursor, pieces []stream.Piece) (SegmentName, []byte) {
	enc, err := NewEncoder()
	require.NoError(t, err)
	var stored bytes.Buffer
	w, err := NewSegmentWriter(&stored, enc, head(from))
	require.NoError(t, err)
	for _, p := range pieces {
		require.NoError(t, w.Write(p))
	}
	name, err := w.Close()
	require.NoError(t, err)
	require.EqualValues(t, stored.Len(), w.Stored())
	return name, stored.Bytes()
}

// unseal reads a segment whole, keeping what pieces hold.
func unseal(name SegmentName, stored []byte) (pieces []stream.Piece, db int, err error) {
	r, err := NewSegmentReader(io.NopCloser(bytes.NewReader(stored)), "seg", name)
	if err != nil {
		return nil, 0, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	for {
		p, err := r.Next()
		if err == io.EOF {
			return pieces, r.DB(), nil
		}
		if err != nil {
			return pieces, r.DB(), err
		}
		p.Data = bytes.Clone(p.Data)
		pieces = append(pieces, p)
	}
}

func joined(pieces []stream.Piece) string {
	var b strings.Builder
	for _, p := range pieces {
		b.Write(p.Data)
	}
	return b.String()
}

// starts tells for each command's first byte, and each newline between commands, when it was
// received.
func starts(t require.TestingT, from stream.Cursor, pieces []stream.Piece) map[stream.Offset]stream.Time {
	got := map[stream.Offset]stream.Time{}
	f := resp.NewFramer(from)
	for _, p := range pieces {
		require.Equal(t, f.Offset(), p.At)
		first := -1
		for i := range p.Data {
			if f.Between() {
				got[f.Offset()] = p.Time
				if first < 0 && !p.Blank {
					first = i
				}
				if p.Blank {
					require.Equal(t, byte('\n'), p.Data[i])
				} else {
					require.Equal(t, byte('*'), p.Data[i])
				}
			}
			_, _, _, err := f.Feed(p.Data[i : i+1])
			require.NoError(t, err)
		}
		require.Equal(t, first, p.First, "piece at %d", p.At)
	}
	return got
}

// drawStream is a stream with everything in it that could confuse a reader.
func drawStream(t *rapid.T) string {
	nasty := rapid.SampledFrom([]string{"", "v", "\n", "#", "#TS:17\r\n", "\r\n#OFFLOADER:time 5\r\n", "*3\r\n$3\r\nSET", "\x00\xff\r\n", strings.Repeat("#OFFLOADER:blank 9\r\n", 20)})
	command := rapid.Custom(func(t *rapid.T) string {
		switch rapid.IntRange(0, 6).Draw(t, "kind") {
		case 0:
			return cmd("SELECT", fmt.Sprint(rapid.IntRange(0, 15).Draw(t, "db")))
		case 1:
			return cmd("MULTI") + cmd("SET", "a", nasty.Draw(t, "v")) + cmd("SELECT", "3") + cmd("EXEC")
		case 2:
			return strings.Repeat("\n", rapid.IntRange(1, 3).Draw(t, "n"))
		case 3:
			return cmd("REPLCONF", "GETACK", "*")
		default:
			return cmd("SET", nasty.Draw(t, "k"), nasty.Draw(t, "v"))
		}
	})
	return strings.Join(rapid.SliceOfN(command, 1, 25).Draw(t, "commands"), "")
}

// Whatever the split, the same bytes come out, and the same times of commands.
func TestSegmentGivesBackWhatItGot(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		from := stream.Cursor{Offset: stream.Offset(rapid.Int64Range(0, 1<<50).Draw(t, "from")), DB: rapid.SampledFrom([]int{0, 0, 1, 9, 100}).Draw(t, "db")}
		all := drawStream(t)
		at := stream.Time(1_763_924_400_000)
		times := []stream.Time{at}
		for _, step := range rapid.SliceOfN(rapid.SampledFrom([]int{0, 0, 1, 7, 999, 1000, 86_400_000}), 0, 20).Draw(t, "steps") {
			at += stream.Time(step)
			times = append(times, at)
		}
		in := cutUp(t, from, all, rapid.SliceOfN(rapid.IntRange(1, 60), 1, 6).Draw(t, "sizes"), times)
		name, stored := seal(t, from, in)
		require.Equal(t, stream.Range{From: from.Offset, To: from.Offset + stream.Offset(len(all))}, name.Range)
		require.Equal(t, in[0].Time, name.Time0)
		require.Equal(t, in[len(in)-1].Time, name.Time1)
		require.Equal(t, crc64.Update(0, stored), name.Sum)

		out, db, err := unseal(name, stored)
		require.NoError(t, err)
		require.Equal(t, from.DB, db)
		require.Equal(t, all, joined(out))
		require.Equal(t, starts(t, from, in), starts(t, from, out))

		// Compaction: what was read back is written again.
		again, stored2 := seal(t, from, out)
		again.Sum, again.Time1 = crc64.Update(0, stored2), name.Time1
		out2, _, err := unseal(again, stored2)
		require.NoError(t, err)
		require.Equal(t, starts(t, from, in), starts(t, from, out2))
		require.Equal(t, all, joined(out2))
	})
}

// plain is what zstd -d gives.
func plain(t require.TestingT, stored []byte) string {
	dec, err := zstd.NewReader(bytes.NewReader(stored))
	require.NoError(t, err)
	defer dec.Close()
	b, err := io.ReadAll(dec)
	require.NoError(t, err)
	return string(b)
}

// pack is the opposite, and gives the name that belongs to it.
func pack(t require.TestingT, text string, r stream.Range, time0, time1 stream.Time) (SegmentName, []byte) {
	enc, err := NewEncoder()
	require.NoError(t, err)
	stored := enc.zstd.EncodeAll([]byte(text), nil)
	return SegmentName{r, time0, time1, crc64.Update(0, stored), false}, stored
}

// The text of a segment, to the byte: docs/format.md shows it.
func TestSegmentText(t *testing.T) {
	from := stream.Cursor{Offset: 1000, DB: 3}
	set, multi := cmd("SET", "k", "v"), cmd("MULTI")+cmd("INCR", "n")+cmd("EXEC")
	_, stored := seal(t, from, []stream.Piece{
		{At: 1000, Time: 1763924400123, Data: []byte(set + set[:9]), First: 0},
		{At: 1036, Time: 1763924400124, Data: []byte(set[9:] + multi[:20]), First: 18},
		{At: 1074, Time: 1763924401000, Data: []byte(multi[20:]), First: -1},
		{At: 1104, Time: 1763924401000, Data: []byte("\n\n"), First: -1, Blank: true},
		{At: 1106, Time: 1763924401000, Data: []byte(set), First: 0},
	})
	require.Equal(t, "#OFFLOADER:segment 1\r\n"+
		"#OFFLOADER:source cache\r\n"+
		"#OFFLOADER:timeline 20261123T183152.123Z-1a2b3c4d\r\n"+
		"#OFFLOADER:replid 1a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d\r\n"+
		"#OFFLOADER:from 1000\r\n"+
		"#OFFLOADER:db 3\r\n"+
		"#OFFLOADER:inserted 23\r\n"+
		"*2\r\n$6\r\nSELECT\r\n$1\r\n3\r\n"+
		"#TS:1763924400\r\n"+
		"#OFFLOADER:time 1763924400123\r\n"+
		set+set+
		"#OFFLOADER:time 1763924400124\r\n"+
		multi+
		"#TS:1763924401\r\n"+
		"#OFFLOADER:time 1763924401000\r\n"+
		"#OFFLOADER:blank 2\r\n"+
		set, plain(t, stored))
}

// A value larger than the reader's buffer, and annotations across its end.
func TestSegmentOfLargeValues(t *testing.T) {
	var all strings.Builder
	rng := rand.New(rand.NewPCG(1, 2))
	for range 40 {
		all.WriteString(cmd("SET", "k", strings.Repeat("#\n", rng.IntN(200_000))))
	}
	var times []stream.Time
	for i := range 2000 {
		times = append(times, stream.Time(1_763_924_400_000+i))
	}
	from := stream.Cursor{Offset: 7, DB: 12}
	in := cutUp(t, from, all.String(), []int{10_000, 3, 200_000}, times)
	name, stored := seal(t, from, in)
	out, _, err := unseal(name, stored)
	require.NoError(t, err)
	require.Equal(t, all.String(), joined(out))
	times0, times1 := map[stream.Offset]stream.Time{}, map[stream.Offset]stream.Time{}
	for _, p := range in {
		if p.First >= 0 {
			times0[p.At+stream.Offset(p.First)] = p.Time
		}
	}
	for _, p := range out {
		require.LessOrEqual(t, len(p.Data), readSize)
		if p.First >= 0 {
			times1[p.At+stream.Offset(p.First)] = p.Time
		}
	}
	require.Subset(t, times1, times0)
}

// What a segment can suffer, and that it is told.
func TestWoundsOfSegments(t *testing.T) {
	from := stream.Cursor{Offset: 1000, DB: 3}
	stuff := strings.Repeat(cmd("SET", "key", "value")+cmd("MULTI")+cmd("INCR", "n")+cmd("EXEC"), 2000)
	var times []stream.Time
	for i := range 500 {
		times = append(times, stream.Time(1_763_924_400_000+i*10))
	}
	name, stored := seal(t, from, cutUp(t, from, stuff, []int{1000}, times))
	text := plain(t, stored)
	replaced := func(old, new string) func(t *testing.T) (SegmentName, []byte) {
		return func(t *testing.T) (SegmentName, []byte) {
			changed := strings.Replace(text, old, new, 1)
			require.NotEqual(t, text, changed)
			return pack(t, changed, name.Range, name.Time0, name.Time1)
		}
	}
	renamed := func(change func(*SegmentName)) func(*testing.T) (SegmentName, []byte) {
		return func(*testing.T) (SegmentName, []byte) {
			n := name
			change(&n)
			return n, stored
		}
	}
	for _, c := range []struct {
		name, says string
		wound      func(t *testing.T) (SegmentName, []byte)
	}{
		{"empty", "nothing of the stream", func(*testing.T) (SegmentName, []byte) { return name, nil }},
		{"cut", "can't be decompressed", func(*testing.T) (SegmentName, []byte) { return name, stored[:len(stored)-5] }},
		{"cut to half", "can't be decompressed", func(*testing.T) (SegmentName, []byte) { return name, stored[:len(stored)/2] }},
		{"junk behind", "can't be decompressed", func(*testing.T) (SegmentName, []byte) { return name, append(bytes.Clone(stored), "junk"...) }},
		{"an empty frame behind", "CRC64", func(t *testing.T) (SegmentName, []byte) {
			_, empty := pack(t, "", name.Range, 1, 1)
			return name, append(append(bytes.Clone(stored), 0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0), empty...)
		}},
		{"no zstd", "can't be decompressed", func(*testing.T) (SegmentName, []byte) { return name, []byte(text) }},
		{"another sum", "CRC64", renamed(func(n *SegmentName) { n.Sum++ })},
		{"another beginning", "begins at offset 1000, its name says 999", renamed(func(n *SegmentName) { n.From-- })},
		{"a later end", "ends at offset", renamed(func(n *SegmentName) { n.To++ })},
		{"an earlier end", "more than", renamed(func(n *SegmentName) { n.To-- })},
		{"later times", "is not between", renamed(func(n *SegmentName) { n.Time0++ })},
		{"earlier times", "is not between", renamed(func(n *SegmentName) { n.Time1 = n.Time0 + 1 })},
		{"plain AOF", "doesn't begin with #OFFLOADER:segment", func(t *testing.T) (SegmentName, []byte) {
			return pack(t, stuff, name.Range, name.Time0, name.Time1)
		}},
		{"no head", "doesn't begin with #OFFLOADER:segment", replaced("#OFFLOADER:segment 1\r\n", "")},
		{"another head", "its head says", replaced("segment 1", "segment x")},
		{"no replid", "head is not complete", replaced("#OFFLOADER:replid "+string(testID)+"\r\n", "")},
		{"bad replid", "its head says", replaced(string(testID), "1234")},
		{"another select", "what was inserted", replaced("$1\r\n3", "$1\r\n4")},
		{"another db", "what was inserted", replaced(":db 3", ":db 5")},
		{"a longer select", "bytes were inserted", replaced("inserted 23", "inserted 9999999")},
		{"no times", "doesn't say when", func(t *testing.T) (SegmentName, []byte) {
			timeless := strings.ReplaceAll(text, "#OFFLOADER:time ", "#OFFLOADER:tide ")
			return pack(t, timeless, name.Range, name.Time0, name.Time1)
		}},
		{"time runs backwards", "is not between", replaced("time 1763924400030", "time 1763924400000")},
		{"a byte too many", "don't stand together", replaced("value", "valuee")},
		{"a newline between commands", "don't stand together", replaced("value\r\n", "value\r\n\n")},
		{"newlines that never were", "newlines stand where none were", replaced("#OFFLOADER:time 1763924400030", "#OFFLOADER:blank 9999999")},
		{"an endless line", "annotation doesn't end", replaced("#TS:1763924400", "#"+strings.Repeat("x", 1022))},
		{"endless lines", "annotations stand together", replaced("#TS:1763924400\r\n", strings.Repeat("#TS:1763924400\r\n", 65))},
		{"open transaction", "in the middle of a command", func(t *testing.T) (SegmentName, []byte) {
			cut := strings.TrimSuffix(text, cmd("EXEC"))
			return pack(t, cut, stream.Range{From: name.From, To: name.To - 14}, name.Time0, name.Time1)
		}},
		{"half a command", "in the middle of a command", func(t *testing.T) (SegmentName, []byte) {
			return pack(t, text[:len(text)-3], stream.Range{From: name.From, To: name.To - 3}, name.Time0, name.Time1)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			n, b := c.wound(t)
			pieces, _, err := unseal(n, b)
			var damage *DamageError
			require.ErrorAs(t, err, &damage)
			require.Equal(t, "seg", damage.Name)
			require.ErrorContains(t, err, c.says)
			for _, p := range pieces {
				require.LessOrEqual(t, p.End(), n.To)
			}
		})
	}
	t.Run("any flipped bit", func(t *testing.T) {
		for i := 0; i < len(stored); i += 1 + len(stored)/300 {
			b := bytes.Clone(stored)
			b[i] ^= 1 << (i % 8)
			_, _, err := unseal(name, b)
			var damage *DamageError
			require.ErrorAs(t, err, &damage, "byte %d", i)
		}
	})
	t.Run("a later version", func(t *testing.T) {
		n, b := replaced("segment 1", "segment 2")(t)
		_, _, err := unseal(n, b)
		var version *VersionError
		require.ErrorAs(t, err, &version)
		require.ErrorContains(t, err, "newer version")
	})
}

// A disk that fails is not an archive that is damaged.
func TestUnreadableIsNotDamaged(t *testing.T) {
	from := stream.Cursor{Offset: 1000}
	name, stored := seal(t, from, cutUp(t, from, strings.Repeat(cmd("PING"), 1000), []int{5}, []stream.Time{1_763_924_400_000}))
	broken := errors.New("input/output error")
	src := io.MultiReader(bytes.NewReader(stored[:len(stored)/2]), brokenReader{broken})
	r, err := NewSegmentReader(io.NopCloser(src), "seg", name)
	require.NoError(t, err)
	for err == nil {
		_, err = r.Next()
	}
	require.NoError(t, r.Close())
	var damage *DamageError
	require.ErrorIs(t, err, broken)
	require.NotErrorAs(t, err, &damage)
}

type brokenReader struct{ err error }

func (r brokenReader) Read([]byte) (int, error) { return 0, r.err }

// A small file that expands to gigabytes is found out at the end of its range.
func TestBombs(t *testing.T) {
	enc, err := NewEncoder()
	require.NoError(t, err)
	var stored bytes.Buffer
	w, err := NewSegmentWriter(&stored, enc, head(stream.Cursor{}))
	require.NoError(t, err)
	start := []byte("*2\r\n$3\r\nSET\r\n$10000000000\r\n")
	require.NoError(t, w.Write(stream.Piece{Time: 1, Data: start, First: 0}))
	zeros := make([]byte, 1<<20)
	for i := range 256 {
		require.NoError(t, w.Write(stream.Piece{At: stream.Offset(len(start) + i<<20), Time: 1, Data: zeros, First: -1}))
	}
	name, err := w.Close()
	require.NoError(t, err)
	require.Less(t, stored.Len(), 100_000)
	name.To = 1 << 20
	pieces, _, err := unseal(name, stored.Bytes())
	require.ErrorContains(t, err, "more than [0,1048576)")
	require.LessOrEqual(t, len(joined(pieces)), 1<<20)
}

func TestWriterRefusesWhatDoesNotFit(t *testing.T) {
	enc, err := NewEncoder()
	require.NoError(t, err)
	set := []byte(cmd("SET", "k", "v"))
	good := stream.Piece{At: 10, Time: 5, Data: set, First: 0}
	for _, c := range []struct {
		name string
		p    stream.Piece
		says string
	}{
		{"a hole", stream.Piece{At: 38, Time: 5, Data: set}, "piece at 38 where 37 was due"},
		{"twice", good, "piece at 10 where 37 was due"},
		{"time runs backwards", stream.Piece{At: 37, Time: 4, Data: set}, "has time 4, after 5"},
		{"a time of 14 digits", stream.Piece{At: 37, Time: maxTime + 1, Data: set}, "has time"},
		{"first behind the end", stream.Piece{At: 37, Time: 5, Data: set, First: 27}, "first command at 27"},
	} {
		w, err := NewSegmentWriter(io.Discard, enc, head(stream.Cursor{Offset: 10}))
		require.NoError(t, err)
		require.NoError(t, w.Write(good))
		require.ErrorContains(t, w.Write(c.p), c.says, c.name)
	}
	w, err := NewSegmentWriter(io.Discard, enc, head(stream.Cursor{Offset: 10}))
	require.NoError(t, err)
	require.ErrorContains(t, w.Write(stream.Piece{At: 10, Time: 5, Data: set, First: -1}), "doesn't begin with a command")
	_, err = w.Close()
	require.ErrorContains(t, err, "without a byte")
	_, err = NewSegmentWriter(io.Discard, enc, SegmentHead{Source: "a\r\nb", Timeline: testTimeline})
	require.Error(t, err)
	_, err = NewSegmentWriter(io.Discard, enc, SegmentHead{Source: "a", Timeline: "b"})
	require.Error(t, err)
}

// wrap makes a zstd frame of blocks that are not compressed, which costs next to nothing.
func wrap(text []byte) []byte {
	b := []byte{0x28, 0xb5, 0x2f, 0xfd, 0, 9 << 3} // magic, no checksum or size, window 512 KiB
	for last := 0; last == 0; {
		n := min(len(text), 64<<10)
		if n == len(text) {
			last = 1
		}
		h := last | n<<3
		b = append(append(b, byte(h), byte(h>>8), byte(h>>16)), text[:n]...)
		text = text[n:]
	}
	return b
}

func FuzzSegmentReader(f *testing.F) {
	from := stream.Cursor{Offset: 1000, DB: 3}
	text := func(all string) string {
		_, stored := seal(f, from, cutUp(f, from, all, []int{7, 20}, []stream.Time{1000, 1001, 2500}))
		return plain(f, stored)
	}
	f.Add([]byte(text(cmd("SET", "k", "v")+"\n\n"+cmd("PING"))), true, int64(50))
	f.Add([]byte(text(cmd("MULTI")+cmd("SET", "a", "#TS:1\r\n")+cmd("EXEC"))), true, int64(60))
	_, stored := seal(f, from, cutUp(f, from, cmd("PING"), []int{5}, []stream.Time{1000}))
	f.Add(stored, false, int64(14))
	f.Fuzz(func(t *testing.T, b []byte, compress bool, n int64) {
		name := SegmentName{stream.Range{From: 1000, To: 1000 + stream.Offset(max(1, n%(1<<40)))}, 1000, 2500, crc64.Update(0, b), false}
		if compress {
			b = wrap(b)
			name.Sum = crc64.Update(0, b)
		}
		r, err := NewSegmentReader(io.NopCloser(bytes.NewReader(b)), "seg", name)
		require.NoError(t, err)
		at, when := name.From, stream.Time(0)
		for {
			p, err := r.Next()
			if err != nil {
				var damage *DamageError
				var version *VersionError
				if err == io.EOF && at != name.To || err != io.EOF && !errors.As(err, &damage) && !errors.As(err, &version) {
					t.Fatalf("ended at %d of %s with %v", at, name.Range, err)
				}
				break
			}
			if p.At != at || len(p.Data) == 0 || p.End() > name.To || p.Time < when || p.First >= len(p.Data) {
				t.Fatalf("at %d, %d: piece %d with %d bytes, time %d, first %d", at, when, p.At, len(p.Data), p.Time, p.First)
			}
			if at, when = p.End(), p.Time; at > 1<<24 { // blanks may be many
				break
			}
		}
		require.NoError(t, r.Close())
	})
}

// mixed is a stream like a busy application's, received in 256 KiB pieces a millisecond apart.
func mixed(size int) []stream.Piece {
	rng := rand.New(rand.NewPCG(3, 4))
	var b bytes.Buffer
	for b.Len() < size {
		key := fmt.Sprintf("session:%06d", rng.IntN(100_000))
		switch rng.IntN(4) {
		case 0:
			b.WriteString(cmd("SET", key, fmt.Sprintf(`{"user":%d,"cart":[%d,%d],"seen":"2026-11-23T18:31:%02dZ"}`, rng.IntN(1e6), rng.IntN(1e4), rng.IntN(1e4), rng.IntN(60))))
		case 1:
			b.WriteString(cmd("INCR", key))
		case 2:
			b.WriteString(cmd("HSET", key, "field", fmt.Sprint(rng.IntN(1e9))))
		default:
			v := make([]byte, 60)
			for i := range v {
				v[i] = byte(rng.Uint32())
			}
			b.WriteString(cmd("SET", key, string(v)))
		}
	}
	return cutUp(panics{}, stream.Cursor{}, b.String(), []int{256 << 10}, seconds(size>>18+1))
}

type panics struct{}

func (panics) Errorf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }
func (panics) FailNow()                          { panic("failed") }

func seconds(n int) (times []stream.Time) {
	for i := range n {
		times = append(times, stream.Time(1_763_924_400_000+i))
	}
	return times
}

func BenchmarkSegmentWriter(b *testing.B) {
	pieces := mixed(32 << 20)
	enc, err := NewEncoder()
	require.NoError(b, err)
	b.SetBytes(int64(pieces[len(pieces)-1].End()))
	b.ReportAllocs()
	for b.Loop() {
		w, err := NewSegmentWriter(io.Discard, enc, head(stream.Cursor{}))
		require.NoError(b, err)
		for _, p := range pieces {
			if err := w.Write(p); err != nil {
				b.Fatal(err)
			}
		}
		_, err = w.Close()
		require.NoError(b, err)
		b.ReportMetric(float64(pieces[len(pieces)-1].End())/float64(w.Stored()), "ratio")
	}
}

func BenchmarkSegmentReader(b *testing.B) {
	for _, size := range []int{64 << 10, 32 << 20} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			name, stored := seal(b, stream.Cursor{}, mixed(size))
			b.SetBytes(name.Len())
			b.ReportAllocs()
			for b.Loop() {
				r, err := NewSegmentReader(io.NopCloser(bytes.NewReader(stored)), "seg", name)
				require.NoError(b, err)
				for err == nil {
					_, err = r.Next()
				}
				if err != io.EOF {
					b.Fatal(err)
				}
				require.NoError(b, r.Close())
			}
		})
	}
}
