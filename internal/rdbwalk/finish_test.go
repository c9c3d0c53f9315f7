package rdbwalk

import (
	"bytes"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const mark = "0123456789abcdef0123456789abcdef01234567"

// link is a connection: what the master sends in the pieces in which it arrives, and then
// silence, which a deadline ends.
type link struct {
	pieces  []string
	silence int // reads that waited
	after   error
}

func (l *link) Read(p []byte) (int, error) {
	if len(l.pieces) == 0 {
		l.silence++
		return 0, l.after
	}
	n := copy(p, l.pieces[0])
	if l.pieces[0] = l.pieces[0][n:]; l.pieces[0] == "" {
		l.pieces = l.pieces[1:]
	}
	return n, nil
}

func silent(pieces ...string) *link { return &link{pieces: pieces, after: os.ErrDeadlineExceeded} }

// walked is a walker behind its last Next.
func walked(r io.Reader) *Walker {
	w := NewWalker(r)
	for w.Next() {
	}
	return w
}

func TestMarkBehindAKnownRDB(t *testing.T) {
	rdb := string(everything(redis))
	for _, pieces := range [][]string{{rdb + mark}, {rdb, mark}, {rdb + mark[:1], mark[1:]}, {rdb[:len(rdb)-1], rdb[len(rdb)-1:] + mark[:39], mark[39:]}} {
		l := silent(pieces...)
		w := walked(l)
		require.NoError(t, w.Finish([]byte(mark), nil))
		require.Zero(t, l.silence, "nothing is awaited behind the mark")
		require.Empty(t, w.Buffered())
	}
	w := walked(silent(rdb + strings.ToUpper(mark)))
	var damage *FormatError
	require.ErrorAs(t, w.Finish([]byte(mark), nil), &damage)

	require.ErrorIs(t, walked(silent(rdb+mark[:39])).Finish([]byte(mark), nil), os.ErrDeadlineExceeded)
	require.ErrorIs(t, walked(strings.NewReader(rdb+mark[:39])).Finish([]byte(mark), nil), io.ErrUnexpectedEOF)
	require.ErrorIs(t, walked(silent(rdb)).Finish(nil, nil), os.ErrDeadlineExceeded)
}

// An RDB that holds something unknown ends where the checksum and the mark say so.
func TestMarkBehindAnUnknownRDB(t *testing.T) {
	value := strings.Repeat("the mark is "+mark+" ", 10)
	// The mark planted so that reads end in it, also behind what looks like no checksum.
	planted := strings.Repeat("\xff"+strings.Repeat("\x00", 8)+mark, 3)
	rdb := string(sealed("REDIS0014", record(0, "k", str("v")), record(27, "new", value+planted+strings.Repeat("x", 1000))))
	at := strings.Index(rdb, planted) + len(planted)
	for name, pieces := range map[string][]string{
		"at once":                     {rdb + mark},
		"mark alone":                  {rdb, mark},
		"a read ends in a mark":       {rdb[:strings.Index(rdb, mark)+40], rdb[strings.Index(rdb, mark)+40:] + mark},
		"a read ends in a plant":      {rdb[:at], rdb[at:] + mark},
		"mark cut":                    {rdb + mark[:20], mark[20:]},
		"checksum cut":                {rdb[:len(rdb)-3], rdb[len(rdb)-3:] + mark[:1], mark[1:]},
		"byte by byte from the plant": append([]string{rdb[:at]}, strings.Split(rdb[at:]+mark, "")...),
	} {
		l := silent(pieces...)
		w := walked(l)
		var doubts []bool
		require.NoError(t, w.Finish([]byte(mark), func(is bool) { doubts = append(doubts, is) }), name)
		require.Zero(t, l.silence, name)
		require.EqualValues(t, len(rdb), w.Summary().Length, name)
		require.Equal(t, CRCOK, w.Summary().CRC, name)
		require.Equal(t, "type 27 of RDB version 14 is not known", w.Summary().Unchecked)
		require.Empty(t, w.Buffered())
		for i, is := range doubts {
			require.Equal(t, i%2 == 0, is, name)
		}
		if strings.HasPrefix(name, "a read ends") {
			require.Equal(t, []bool{true, false}, doubts, name)
		}
	}
}

// Without a checksum only silence proves the end; with a wrong one it proves the damage.
func TestSilenceEndsAnUnknownRDB(t *testing.T) {
	rdb := string(body("REDIS0014", record(27, "new", strings.Repeat("x", 100))))
	for _, row := range []struct {
		name, trailer string
		after         error
		want          error
		crc           CRC
	}{
		{"absent, silence", strings.Repeat("\x00", 8), os.ErrDeadlineExceeded, nil, CRCAbsent},
		{"absent, closed", strings.Repeat("\x00", 8), io.EOF, nil, CRCAbsent},
		{"absent, broken", strings.Repeat("\x00", 8), errReset, errReset, CRCPending},
		{"wrong, silence", "whatever", os.ErrDeadlineExceeded, new(ChecksumError), CRCWrong},
	} {
		w := walked(&link{pieces: []string{rdb + row.trailer + mark}, after: row.after})
		var doubts []bool
		err := w.Finish([]byte(mark), func(is bool) { doubts = append(doubts, is) })
		require.Equal(t, []bool{true, false}, doubts, row.name)
		require.Equal(t, row.crc, w.Summary().CRC, row.name)
		switch want := row.want.(type) {
		case nil:
			require.NoError(t, err, row.name)
			require.EqualValues(t, len(rdb)+8, w.Summary().Length, row.name)
		case *ChecksumError:
			require.ErrorAs(t, err, &want, row.name)
			require.Equal(t, err, w.Err())
		default:
			require.ErrorIs(t, err, want, row.name)
		}
	}
	// Silence without the mark is no end.
	require.ErrorIs(t, walked(silent(rdb+"whatever"+mark[1:])).Finish([]byte(mark), nil), os.ErrDeadlineExceeded)
	require.ErrorIs(t, walked(strings.NewReader(rdb+"whatever")).Finish([]byte(mark), nil), io.ErrUnexpectedEOF)
}

// With a known length ($len) the source's end is the end, and the checksum decides.
func TestLengthOfAnUnknownRDB(t *testing.T) {
	rdb := sealed("REDIS0014", record(27, "new", strings.Repeat("x", 3*bufferSize)))
	for _, seed := range []uint64{6, 11, 17} {
		require.NoError(t, walked(chunked(rdb, seed)).Finish(nil, nil))
	}
	var wrong *ChecksumError
	for _, cut := range []int{len(rdb) - 1, len(rdb) - 8, 100, 12, 10} {
		require.ErrorAs(t, walked(bytes.NewReader(rdb[:cut])).Finish(nil, nil), &wrong)
	}
	rdb[1000] ^= 1
	require.ErrorAs(t, walked(bytes.NewReader(rdb)).Finish(nil, nil), &wrong)

	old := body("REDIS0004", record(27, "new", strings.Repeat("x", 100)))
	w := walked(bytes.NewReader(old))
	require.NoError(t, w.Finish(nil, nil))
	require.Equal(t, CRCAbsent, w.Summary().CRC)
	require.EqualValues(t, len(old), w.Summary().Length)
}

// What a tee stores is what came, each byte once, whichever way the end was found.
func TestATeeSeesEachByteOnce(t *testing.T) {
	for _, rdb := range [][]byte{everything(redis), sealed("REDIS0014", record(27, "new", strings.Repeat("x", 3*bufferSize)))} {
		for _, seed := range []uint64{6, 11, 17} {
			var stored bytes.Buffer
			w := walked(io.TeeReader(chunked(append(bytes.Clone(rdb), mark...), seed), &stored))
			require.NoError(t, w.Finish([]byte(mark), nil))
			require.True(t, bytes.Equal(stored.Bytes(), append(bytes.Clone(rdb), mark...)))
			require.EqualValues(t, len(rdb), w.Summary().Length)
		}
	}
}
