package source

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
	"pgregory.net/rapid"

	"github.com/offloader/offloader/internal/relay"
	"github.com/offloader/offloader/internal/spool"
	"github.com/offloader/offloader/internal/stream"
)

func hello(host string, epoch uint64) relay.Hello {
	return relay.Hello{Sentinel: host + ":26379", Master: "m", Names: "10.0.0.5:6379", Epoch: epoch}
}

// Whoever comes and goes, and however often the daemon is started: nobody is forgotten who was there within the hour, nor
// anybody while no master is there. And all are, after an hour with one.
func TestPeersAreRemembered(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		path := filepath.Join(dir, "peers.json")
		_ = os.Remove(path)
		started := func() *peers {
			p := &peers{path: path, log: slog.New(slog.DiscardHandler)}
			p.open()
			return p
		}
		names := []string{"a", "b", "c"}
		p, book := started(), map[string]relay.Replica{}
		now := time.UnixMilli(1_700_000_000_000)
		connected, up := now, true
		there := map[string]time.Time{}
		knows := func() (all []string) {
			c := p.get()
			for _, f := range c.Followers {
				all = append(all, f.Address)
			}
			for _, s := range c.Sentinels {
				all = append(all, s.Sentinel)
			}
			return all
		}
		pass := func(d time.Duration) {
			now = now.Add(d)
			p.change(func(c *company) {
				c.meet(slices.Collect(func(yield func(relay.Replica) bool) {
					for _, r := range book {
						if !yield(r) {
							return
						}
					}
				}), now)
				if up {
					c.forget(connected, now)
				}
			})
		}
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			name := rapid.SampledFrom(names).Draw(t, "name")
			before := knows()
			switch rapid.IntRange(0, 5).Draw(t, "what") {
			case 0:
				book[name] = relay.Replica{Address: name + ":6379", State: relay.Online, Since: stream.TimeOf(now)}
			case 1:
				if r, ok := book[name]; ok && r.State != relay.Away {
					book[name] = relay.Replica{Address: name + ":6379", State: relay.Away, Since: stream.TimeOf(now)}
				}
			case 2:
				p.change(func(c *company) { c.hear(hello(name, rapid.Uint64().Draw(t, "epoch")), now) })
				there[name+":26379"] = now
			case 3:
				if up = !up; up {
					connected = now
				}
			case 4:
				p.save()
				p, book, connected = started(), map[string]relay.Replica{}, now
			case 5:
				pass(rapid.SampledFrom([]time.Duration{time.Second, 5 * time.Minute, 50 * time.Minute}).Draw(t, "passes"))
			}
			pass(time.Second)
			for _, r := range book {
				if r.State != relay.Away {
					there[r.Address] = now
				}
			}
			known := knows()
			for address, last := range there {
				if now.Sub(last) < remembered {
					require.Contains(t, known, address)
				}
			}
			if !up {
				require.Subset(t, known, before)
			}
			require.ElementsMatch(t, known, slices.Compact(slices.Sorted(slices.Values(known))), "each is known once")
		}
		for name, r := range book {
			if r.State != relay.Away {
				book[name] = relay.Replica{Address: r.Address, State: relay.Away, Since: stream.TimeOf(now)}
			}
		}
		connected, up = now, true
		for range 3 {
			pass(40 * time.Minute)
		}
		require.Empty(t, knows())
		p.save()
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Equal(t, "{}\n", string(text))
	})
}

// However many there are: so many are known. Of those who have left the last ones are, and the Sentinels that were
// there first.
func TestPeersAreBounded(t *testing.T) {
	var c company
	now := time.UnixMilli(1_700_000_000_000)
	for n := range 3 * maxPeers {
		now = now.Add(time.Second)
		c.meet([]relay.Replica{{Address: fmt.Sprintf("r%d:1", n), State: relay.Online}, {Address: "tool:0", State: relay.Online}, {Address: "stays:1", State: relay.Online}}, now)
		c.hear(hello(fmt.Sprintf("s%d", n), 0), now)
	}
	require.Len(t, c.Followers, maxPeers)
	require.Contains(t, c.Followers, follower{Address: "stays:1"})
	require.Contains(t, c.Followers, follower{Address: fmt.Sprintf("r%d:1", 2*maxPeers+5), Left: stream.TimeOf(now) - 1000*(maxPeers-7)})
	require.Len(t, c.Sentinels, maxSentinels)
	c.hear(hello("s0", 7), now)
	require.EqualValues(t, 7, c.Sentinels[0].Epoch)
}

// The file is written when something of it has changed, not as often as somebody is seen again, and is a cache: damaged
// or gone, nobody is known.
func TestPeersFile(t *testing.T) {
	p := &peers{path: filepath.Join(t.TempDir(), "peers.json"), log: slog.New(slog.DiscardHandler)}
	now := time.Now()
	seen := func(state string) {
		p.change(func(c *company) {
			c.meet([]relay.Replica{{Address: "a:1", State: state, Since: stream.TimeOf(now)}}, now)
			c.hear(hello("s", 3), now)
		})
		p.save()
	}
	seen(relay.Online)
	require.NoError(t, os.WriteFile(p.path, []byte("not written again"), 0o600))
	for _, state := range []string{relay.Away, relay.Copying, relay.Online} { // it has come back within the minute
		now = now.Add(time.Second)
		seen(state)
	}
	text, err := os.ReadFile(p.path)
	require.NoError(t, err)
	require.Equal(t, "not written again", string(text))

	again := &peers{path: p.path, log: p.log}
	again.open()
	require.Empty(t, again.get())
	p.change(func(c *company) {
		c.Replicas, c.Port, c.Master, c.Beyond = []string{"b:1"}, 7, process{"run", "master"}, &place{"id", 5, "run", 3}
	})
	p.save()
	again.open()
	require.Equal(t, company{[]string{"b:1"}, []follower{{Address: "a:1"}}, []Sentinel{{Hello: hello("s", 3)}}, 7, process{"run", "master"}, &place{"id", 5, "run", 3}}, again.get())
}

// Where it can't be written, which is tried each second, the log says so once, and once more after it could.
func TestPeersThatCantBeKept(t *testing.T) {
	var said strings.Builder
	dir := filepath.Join(t.TempDir(), "full")
	p := &peers{path: filepath.Join(dir, "peers.json"), log: slog.New(slog.NewTextHandler(&said, nil))}
	tried := func(times int) {
		for n := range times {
			p.change(func(c *company) { c.hear(hello("s", uint64(n)), time.Now()) })
			p.save()
		}
	}
	tried(3)
	require.Equal(t, 1, strings.Count(said.String(), "won't survive a restart"))
	require.NoError(t, os.Mkdir(dir, 0o700))
	tried(1)
	require.FileExists(t, p.path)
	require.NoError(t, os.RemoveAll(dir))
	tried(3)
	require.Equal(t, 2, strings.Count(said.String(), "won't survive a restart"))
}

// Whatever is in the file: nothing of it is taken that isn't whole, nor more than is bounded, and what was taken is kept.
func FuzzPeers(f *testing.F) {
	f.Add([]byte(`{"replicas":["a:1"],"followers":[{"address":"b:1","left":null},{"address":"c:1","left":"2026-01-02T03:04:05Z"}],"sentinels":[{"address":"s:26379","master":"m","names":"a:1","epoch":3}]}`))
	f.Add([]byte(`{"sentinels":[{"address":"s","master":"","names":"a:1"}],"followers":[{}]}`))
	f.Add([]byte(`{"master":{"run_id":"a","role":"master"},"beyond":{"replid":"b","offset":5}}`))
	f.Add([]byte(`{"followers":{}}`))
	f.Add([]byte("\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := parseCompany(b)
		if err != nil {
			require.Empty(t, c)
			return
		}
		require.LessOrEqual(t, max(len(c.Replicas), len(c.Followers)), maxPeers)
		require.LessOrEqual(t, len(c.Sentinels), maxSentinels)
		for _, s := range c.Sentinels {
			require.True(t, s.Valid())
		}
		kept, err := json.Marshal(c)
		require.NoError(t, err)
		again, err := parseCompany(kept)
		require.NoError(t, err)
		twice, err := json.Marshal(again)
		require.NoError(t, err)
		require.Equal(t, string(kept), string(twice))
		now := time.UnixMilli(1_700_000_000_000)
		c.meet(nil, now)
		c.forget(now, now.Add(2*remembered))
	})
}

// TestOnePortForAnAddress: the link comes now from one address and now from another, as where the master's name has one of each
// kind. Each has its port open once, and the same one, by which Sentinels know us.
func TestOnePortForAnAddress(t *testing.T) {
	sp, err := spool.Open(t.TempDir(), spool.Options{MaxSize: 64 << 20})
	require.NoError(t, err)
	defer func() { require.NoError(t, sp.Close()) }()
	s := New(Options{Name: "cache", Spool: sp})
	ctx, cancel := context.WithCancel(t.Context())
	var g errgroup.Group
	ports := map[string]int{}
	for range 3 {
		for _, ip := range []string{"127.0.0.1", "127.0.0.2"} {
			port, err := s.listen(ctx, &g, ip)
			require.NoError(t, err)
			if ports[ip] == 0 {
				ports[ip] = port
			}
			require.Equal(t, ports[ip], port)
			require.Equal(t, port, s.port)
		}
	}
	cancel()
	require.ErrorIs(t, g.Wait(), context.Canceled)
}
