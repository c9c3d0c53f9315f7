package test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/engine/enginetest"
	"github.com/offloader/offloader/test/blackbox"
)

const (
	patience  = 30 * time.Second // generous for a busy machine
	pollEvery = 10 * time.Millisecond
)

// A record is what a master sent a replica that writes everything down and understands nothing
// of it: the truth, to hold an archive against. It shares no code with the program.
type record struct {
	conn net.Conn
	from int64 // offset of the first byte

	mu   sync.Mutex
	data bytes.Buffer
}

// newRecord attaches to a master behind an offset that is in its backlog: the master makes no
// full sync for it.
func newRecord(t *testing.T, master *enginetest.Server, id string, from int64) *record {
	t.Helper()
	conn, err := net.Dial("tcp", master.Addr())
	require.NoError(t, err)
	r := &record{conn: conn, from: from}
	in := bufio.NewReader(conn)
	for _, step := range []struct{ ask, want string }{
		{"REPLCONF capa eof capa psync2", "+OK"},
		{fmt.Sprintf("PSYNC %s %d", id, from+1), "+CONTINUE " + id},
	} {
		_, err := io.WriteString(conn, step.ask+"\r\n")
		require.NoError(t, err)
		line, err := in.ReadString('\n')
		require.NoError(t, err)
		require.Equal(t, step.want, strings.TrimSpace(line), step.ask)
	}
	var wg sync.WaitGroup
	ended := make(chan struct{})
	wg.Go(func() { // until the connection ends
		defer close(ended)
		buf := make([]byte, 64<<10)
		for {
			n, err := in.Read(buf)
			r.mu.Lock()
			r.data.Write(buf[:n])
			r.mu.Unlock()
			if err != nil {
				return
			}
		}
	})
	wg.Go(func() { // a sign of life that acknowledges nothing, so WAIT doesn't count it
		every := time.NewTicker(time.Second)
		defer every.Stop()
		for {
			select {
			case <-ended:
				return
			case <-every.C:
				if _, err := io.WriteString(conn, "REPLCONF ACK 0\r\n"); err != nil {
					return
				}
			}
		}
	})
	t.Cleanup(func() {
		_ = conn.Close()
		wg.Wait()
	})
	return r
}

// upTo waits until the record reaches an offset, and is its bytes up to there.
func (r *record) upTo(t *testing.T, offset int64) []byte {
	t.Helper()
	var got []byte
	require.Eventually(t, func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		got = r.data.Bytes()
		return r.from+int64(len(got)) >= offset
	}, patience, pollEvery, "the record reaches offset %d", offset)
	return got[:offset-r.from]
}

// storedSegment is one of `list --segments --json`.
type storedSegment struct {
	From int64  `json:"from"`
	To   int64  `json:"to"`
	Name string `json:"name"`
}

// segments are those of a source's only timeline, in order. All must be in the store.
func segments(t *testing.T, a blackbox.Archive, source string) (timeline string, all []storedSegment) {
	t.Helper()
	var list struct {
		Sources []struct {
			Timelines []struct {
				Name     string          `json:"name"`
				Segments []storedSegment `json:"segments"`
			} `json:"timelines"`
		} `json:"sources"`
	}
	require.NoError(t, json.Unmarshal([]byte(a.Do("list", "--source", source, "--segments", "--json")), &list))
	require.Len(t, list.Sources, 1)
	require.Len(t, list.Sources[0].Timelines, 1, "one timeline")
	one := list.Sources[0].Timelines[0]
	return one.Name, one.Segments
}

// storedStream is the stream that a timeline's stored segments hold, from the first one's offset
// on. It demands that they join: no hole, and no byte twice.
func storedStream(t *testing.T, dir string, all []storedSegment, key ...string) (from int64, stream []byte) {
	t.Helper()
	require.NotEmpty(t, all)
	sort.Slice(all, func(i, j int) bool { return all[i].From < all[j].From })
	from = all[0].From
	for _, s := range all {
		require.NotEmpty(t, s.Name, "segment [%d,%d) is in the spool only", s.From, s.To)
		require.Equal(t, from+int64(len(stream)), s.From, "segment %s begins where the one before it ends", s.Name)
		text := decompressed(t, filepath.Join(dir, s.Name), key...)
		bytes := withoutAnnotations(t, text)
		require.Equal(t, s.To-s.From, int64(len(bytes)), "segment %s holds as many bytes as its name says", s.Name)
		stream = append(stream, bytes...)
	}
	return from, stream
}

// decompressed is what is in a file of the archive. One that is encrypted takes an identity file.
func decompressed(t *testing.T, path string, key ...string) []byte {
	t.Helper()
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	packed := io.Reader(f)
	if strings.HasSuffix(path, ".age") {
		secret, err := os.ReadFile(key[0])
		require.NoError(t, err)
		keys, err := age.ParseIdentities(bytes.NewReader(secret))
		require.NoError(t, err)
		packed, err = age.Decrypt(f, keys...)
		require.NoError(t, err, path)
	}
	z, err := zstd.NewReader(packed)
	require.NoError(t, err)
	defer z.Close()
	text, err := io.ReadAll(z)
	require.NoError(t, err, path)
	return text
}

// withoutAnnotations reads a segment's text as docs/format.md has it, command by command.
func withoutAnnotations(t *testing.T, text []byte) (stream []byte) {
	t.Helper()
	var inserted int
	for len(text) > 0 {
		if text[0] == '#' {
			line, rest, ok := bytes.Cut(text, []byte("\r\n"))
			require.True(t, ok, "a whole line: %.100q", text)
			require.Less(t, len(line)+2, 1024, "a line that engines take")
			if n, ok := bytes.CutPrefix(line, []byte("#OFFLOADER:inserted ")); ok {
				inserted = atoi(t, n)
			}
			if n, ok := bytes.CutPrefix(line, []byte("#OFFLOADER:blank ")); ok {
				stream = append(stream, bytes.Repeat([]byte("\n"), atoi(t, n))...)
			}
			text = rest
			continue
		}
		n, err := commandLength(text)
		require.NoError(t, err)
		if inserted > 0 {
			require.Equal(t, inserted, n, "what was inserted is one command")
			inserted = 0
		} else {
			stream = append(stream, text[:n]...)
		}
		text = text[n:]
	}
	return stream
}

func atoi(t *testing.T, digits []byte) int {
	t.Helper()
	n, err := strconv.Atoi(string(digits))
	require.NoError(t, err)
	return n
}

// commandLength is how long the command is that text begins with.
func commandLength(text []byte) (int, error) {
	at := 0
	number := func(mark byte) (int, error) {
		line, _, ok := bytes.Cut(text[at:], []byte("\r\n"))
		if !ok || len(line) < 2 || line[0] != mark {
			return 0, fmt.Errorf("%c and a number expected: %.100q", mark, text[at:])
		}
		at += len(line) + 2
		return strconv.Atoi(string(line[1:]))
	}
	words, err := number('*')
	for range words {
		var n int
		if n, err = number('$'); err != nil {
			break
		}
		if at += n + 2; at > len(text) || text[at-2] != '\r' {
			return 0, errors.New("a command is cut")
		}
	}
	return at, err
}

// requireSameStream compares without printing megabytes.
func requireSameStream(t *testing.T, want, got []byte, from int64) {
	t.Helper()
	for i := range min(len(want), len(got)) {
		if want[i] != got[i] {
			require.FailNow(t, "the archive differs from the stream", "at offset %d: the master sent %.100q, the archive has %.100q", from+int64(i), want[i:], got[i:])
		}
	}
	require.Equal(t, len(want), len(got), "bytes from offset %d on", from)
}
