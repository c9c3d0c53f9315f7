package test

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/engine/enginetest"
	"github.com/offloader/offloader/test/blackbox"
)

// background is for clients that end with their server, not with the test.
var background = context.Background()

// TestFortySources: one daemon archives them all, in the memory that is promised. One that can't
// be reached and one whose link is cut again and again disturb no other.
func TestFortySources(t *testing.T) {
	n := count(t, "sources", 40, 6)
	commands := count(t, "commands to each", 200_000, 20_000)
	kinds := enginetest.All(t)
	var masters []*enginetest.Server
	var sources []blackbox.Source
	for i := range n {
		m := enginetest.Start(t, kinds[i%len(kinds)])
		masters = append(masters, m)
		sources = append(sources, blackbox.Source{Name: fmt.Sprintf("s%d", i), Address: m.Addr()})
	}
	fails := blackbox.Source{Name: "fails", Address: fmt.Sprintf("127.0.0.1:%d", enginetest.FreePort(t))}
	looping := enginetest.Start(t, kinds[0])
	noise := make([]byte, 1<<20) // an RDB compresses what it can
	_, err := rand.Read(noise)
	require.NoError(t, err)
	looping.Do("SET", "large", noise)
	proxy := blackbox.NewProxy(t, looping.Addr())
	proxy.CutAfter(100_000) // in the middle of the RDB, each time
	loops := blackbox.Source{Name: "loops", Address: proxy.Addr()}
	d := blackbox.Start(t, t.TempDir(), append(sources, fails, loops)...)
	for _, s := range sources {
		d.Streaming(s.Name)
	}

	var load sync.WaitGroup
	errs := make([]error, n)
	for i, m := range masters {
		client := m.Client()
		load.Go(func() { errs[i] = pour(client, commands) })
	}
	load.Wait()
	for i, m := range masters {
		require.NoError(t, errs[i])
		require.EqualValues(t, 1, m.Do("WAIT", 1, 20_000), "source %d", i)
		require.Equal(t, "1", m.Info("stats")["sync_full"], "source %d", i)
	}
	_, peak := d.RSS()
	bound := int64(256 << 20)
	if n < 40 {
		bound = 128 << 20
	}
	t.Logf("%d sources: %d MiB at most", n, peak>>20)
	require.LessOrEqual(t, peak, bound)

	for name, state := range map[string]blackbox.SourceStatus{"fails": d.Source("fails"), "loops": d.Source("loops")} {
		require.NotEqual(t, "streaming", state.State, name)
		require.NotEmpty(t, state.Error, name)
	}
	for i := 0; i < n; i += max(1, n/4) {
		m := masters[i]
		got := d.Restore("--latest", "--source", sources[i].Name).Boot(m.Kind())
		require.Equal(t, m.Digest(), got.Digest(), "source %d", i)
	}
}

// pour sends commands as fast as they are taken, a hundred at a time.
func pour(client *redis.Client, commands int) error {
	ctx, cancel := context.WithTimeout(background, 10*time.Minute)
	defer cancel()
	for sent := 0; sent < commands; sent += 100 {
		_, err := client.Pipelined(ctx, func(p redis.Pipeliner) error {
			for i := range 100 {
				p.Set(ctx, fmt.Sprintf("key:%d", (sent+i)%1000), strings.Repeat("v", 100), 0)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}
