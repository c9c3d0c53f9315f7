package spool

import (
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/offloader/offloader/internal/stream"
)

// Whatever happens to a timeline meanwhile (halves of commands that are cut off, new ids, new chunks), who
// follows its tail, from any byte on, gets what became durable, and nothing else.
func TestATailGivesWhatBecomesDurable(t *testing.T) {
	root, n := t.TempDir(), 0
	rapid.Check(t, func(t *rapid.T) {
		n++
		_, src, closeAll := open(t, filepath.Join(root, strconv.Itoa(n)), Options{MaxSize: 2 << 20})
		defer closeAll()
		tl := begin(t, src, "t1")
		now := epoch
		var want []byte // from offset 100 on
		type follower struct {
			tail *Tail
			from stream.Offset
			got  []byte
		}
		var all []*follower
		follow := func() {
			for _, f := range all {
				for to := tl.Head().Durable; f.from+stream.Offset(len(f.got)) < to; {
					b, err := f.tail.Next(to)
					require.NoError(t, err)
					require.NotEmpty(t, b)
					f.got = append(f.got, b...)
				}
			}
		}
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			now = now.Add(time.Millisecond)
			switch rapid.SampledFrom([]string{"write", "write", "half", "id", "quiet", "follow", "look"}).Draw(t, "step") {
			case "write":
				c := cmd("SET", "k", strings.Repeat("v", rapid.SampledFrom([]int{1, 100, 60_000}).Draw(t, "size")))
				require.NoError(t, tl.Append([]byte(c), now))
				want = append(want, c...)
			case "half":
				c := cmd("SET", "dead", strings.Repeat("d", rapid.IntRange(0, 5000).Draw(t, "dead")))
				whole := cmd("INCR", "n")
				require.NoError(t, tl.Append([]byte(whole+c[:len(c)-1]), now))
				want = append(want, whole...)
				_, err := tl.Cut()
				require.NoError(t, err)
			case "id":
				_, err := tl.Cut()
				require.NoError(t, err)
				require.NoError(t, tl.SetReplID(stream.ReplID(strings.Repeat(rapid.SampledFrom([]string{"a", "b"}).Draw(t, "id"), 40)), "", now))
			case "quiet":
				require.NoError(t, tl.Alive(now))
			case "follow":
				from := stream.Offset(rapid.IntRange(100, 100+len(want)).Draw(t, "from"))
				all = append(all, &follower{tail: tl.Tail(from), from: from})
			case "look":
				awaitDurable(t, src, tl)
				follow()
			}
		}
		awaitDurable(t, src, tl)
		follow()
		for _, f := range all {
			require.Equal(t, string(want[f.from-100:]), string(f.got))
			require.NoError(t, f.tail.Close())
		}
	})
}

func TestATailOfWhatWasLetGo(t *testing.T) {
	_, src, closeAll := open(t, t.TempDir(), Options{MaxSize: 2 << 20})
	defer closeAll()
	tl := begin(t, src, "t1")
	old := tl.Tail(100)
	for range 25 {
		require.NoError(t, tl.Append([]byte(cmd("SET", "k", strings.Repeat("v", 60_000))), epoch))
	}
	awaitDurable(t, src, tl)
	h := tl.Head()
	require.NoError(t, tl.Trim(h.Durable))
	require.Greater(t, tl.Head().Trimmed, stream.Offset(100))
	_, err := old.Next(h.Durable)
	require.ErrorIs(t, err, fs.ErrNotExist)
}

// Any number of readers wait for news beside the link.
func TestNewsReachAll(t *testing.T) {
	_, src, closeAll := open(t, t.TempDir(), Options{})
	tl := begin(t, src, "t1")
	for name, happens := range map[string]func(){
		"bytes became durable": func() { require.NoError(t, tl.Append([]byte(cmd("PING")), epoch)) },
		"another id took over": func() { require.NoError(t, tl.SetReplID(stream.ReplID(strings.Repeat("c", 40)), "", epoch)) },
	} {
		t.Log(name)
		one, other := src.News(), src.News()
		happens()
		<-one
		<-other
	}
	last := src.News()
	closeAll()
	<-last
	require.True(t, tl.Head().Closed)
}
