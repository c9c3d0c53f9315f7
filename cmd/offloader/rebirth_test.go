package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/config"
	"github.com/offloader/offloader/internal/engine/enginetest"
	"github.com/offloader/offloader/internal/httpapi"
	"github.com/offloader/offloader/internal/rebirth"
	"github.com/offloader/offloader/internal/relay"
	"github.com/offloader/offloader/internal/source"
	"github.com/offloader/offloader/internal/spool"
	"github.com/offloader/offloader/internal/stream"
	"github.com/offloader/offloader/internal/syncer"
)

// TestTheSourcesNameMayLeadToAMaster: the source's name has several addresses, and a server at another one than that
// which has come back is a master.
func TestTheSourcesNameMayLeadToAMaster(t *testing.T) {
	s := enginetest.Start(t, enginetest.Any(t))
	sp, err := spool.Open(t.TempDir(), spool.Options{MaxSize: 64 << 20})
	require.NoError(t, err)
	defer func() { require.NoError(t, sp.Close()) }()
	k := &keeper{want: want{Source: config.Source{Name: "cache", Address: fmt.Sprintf("localhost:%d", s.Port())}}}
	k.source = source.New(source.Options{Name: "cache", Spool: sp})

	others := k.others(t.Context(), fmt.Sprintf("10.9.8.7:%d", s.Port()))
	require.Len(t, others, 1)
	require.Equal(t, s.Addr(), others[0].Address)
	require.True(t, others[0].Master)
	require.Empty(t, k.others(t.Context(), s.Addr()), "that is itself")
	s.Kill()
	require.Empty(t, k.others(t.Context(), fmt.Sprintf("10.9.8.7:%d", s.Port())), "and where nobody answers, nobody is known to be one")
}

// TestTheSourcesOtherPort: where a port can't be asked it counts whether it is at the source's own host: it may be the
// source itself, which announces its port for TLS and is asked without.
func TestTheSourcesOtherPort(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var answers sync.WaitGroup
	answers.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte{21, 3, 1, 0, 2, 2, 10}) // TLS: unexpected message
			_ = c.Close()
		}
	})
	defer answers.Wait()
	defer func() { require.NoError(t, l.Close()) }()
	sp, err := spool.Open(t.TempDir(), spool.Options{MaxSize: 64 << 20})
	require.NoError(t, err)
	defer func() { require.NoError(t, sp.Close()) }()
	for address, host := range map[string]bool{"127.0.0.1:6379": true, "10.9.8.7:6379": false} {
		k := &keeper{want: want{Source: config.Source{Name: "cache", Address: address}}}
		k.source = source.New(source.Options{Name: "cache", Spool: sp, Followers: func() []relay.Replica {
			return []relay.Replica{{Address: l.Addr().String(), State: relay.Online}}
		}})
		others := k.others(t.Context(), address)
		require.Len(t, others, 1)
		require.Error(t, others[0].Err)
		require.Equal(t, host, others[0].Host)
	}
}

// TestWhoRefusesToBeAsked: one that doesn't let us ask is told from one that doesn't answer.
func TestWhoRefusesToBeAsked(t *testing.T) {
	kind := enginetest.Any(t)
	knows, stranger, gone := enginetest.Start(t, kind), enginetest.Start(t, kind), enginetest.Start(t, kind)
	gone.Kill()
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { require.NoError(t, silent.Close()) }()
	k := &keeper{want: want{Source: config.Source{Username: "offloader", Password: "secret"}}}
	all := []string{knows.Addr(), stranger.Addr(), gone.Addr(), silent.Addr().String()}
	refuse := func() (who []bool) {
		for _, a := range k.want.askAll(t.Context(), all) {
			who = append(who, a.refuses())
		}
		return who
	}
	knows.Do("ACL", "SETUSER", "offloader", "on", ">secret", "+info")
	require.Equal(t, []bool{false, true, false, false}, refuse())
	knows.Do("ACL", "SETUSER", "offloader", "-info")
	require.Equal(t, []bool{true, true, false, false}, refuse())
	require.Empty(t, k.following(time.Now()), "there is no relay")
}

// TestWhatADaemonIsAskedWithout: the port that a daemon tells a master speaks no TLS, and is found to be one where the source has it.
func TestWhatADaemonIsAskedWithout(t *testing.T) {
	s := enginetest.Start(t, enginetest.Any(t))
	l, err := relay.Listen("127.0.0.1:0", relay.Options{Describe: func() relay.Info { return relay.Info{Offset: 7} }, Login: relay.Login{}})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	var runs sync.WaitGroup
	runs.Go(func() { _ = l.Run(ctx) })
	defer runs.Wait()
	defer cancel()
	w := want{Source: config.Source{Username: "offloader", Password: "secret"}, tls: &tls.Config{}}
	for range 2 {
		all := w.askAll(t.Context(), []string{l.Addr(), s.Addr()})
		require.NoError(t, all[0].err)
		require.True(t, all[0].archive())
		require.EqualValues(t, 7, all[0].server(l.Addr()).At)
		require.Error(t, all[1].err, "that is no daemon")
		w.tls = nil
	}
}

// TestWhoTheServerIs: one that has just started is not taken for somebody who says that they are another; one that is put
// off, or attached, under another address is.
func TestWhoTheServerIs(t *testing.T) {
	l, err := relay.Listen("127.0.0.1:0", relay.Options{})
	require.NoError(t, err)
	ended, end := context.WithCancel(t.Context())
	end()
	defer func() { require.ErrorIs(t, l.Run(ended), context.Canceled) }()
	k := &keeper{want: want{Source: config.Source{Name: "cache", Address: "127.0.0.1:6379", Relay: &config.Relay{Listen: l.Addr()}}}}
	now := stream.TimeOf(time.Now())
	other := relay.Replica{Address: "127.0.0.1:6380", State: relay.Online, Since: now}
	putOff := relay.Replica{Address: "172.17.0.2:6379", State: relay.Away, Since: now, PutOff: "later"}
	tool := relay.Replica{Address: "127.0.0.1:0", State: relay.Online, Since: now}
	itself := relay.Replica{Address: "127.0.0.1:6379", State: relay.Away, Since: now}
	left := relay.Replica{Address: "127.0.0.1:6381", State: relay.Away, Since: now}
	for _, row := range []struct {
		state    string
		replicas []relay.Replica
		says     string // "": it is found
	}{
		{"connect", []relay.Replica{other, tool, left}, "is not attached to it yet"},
		{"connecting", []relay.Replica{other, putOff}, "those who do say [172.17.0.2:6379]"},
		{"sync", []relay.Replica{other, left}, "those who do say [127.0.0.1:6380]"},
		{"connected", []relay.Replica{other, tool}, "those who do say [127.0.0.1:6380]"},
		{"connect", []relay.Replica{other, putOff, itself}, ""},
	} {
		_, ours, wrong := k.whoIs(t.Context(), syncer.Follower{Remote: "127.0.0.1:6379", Upstream: l.Addr(), State: row.state}, row.replicas, l)
		require.Equal(t, row.says == "", ours, row)
		require.Contains(t, wrong.Why, row.says)
	}
}

// A replica follows while it gets a copy, or the stream, and lives.
func TestWhoFollows(t *testing.T) {
	now := time.Now()
	for _, row := range []struct {
		state   string
		ago     time.Duration
		follows bool
	}{
		{relay.Online, time.Second, true},
		{relay.Copying, time.Second, true},
		{relay.Away, time.Second, false},
		{relay.Online, livesFor, false},
		{relay.Copying, livesFor, false},
	} {
		require.Equal(t, row.follows, follows(relay.Replica{State: row.state, Seen: stream.TimeOf(now.Add(-row.ago))}, now), row)
	}
	require.False(t, follows(relay.Replica{State: relay.Online}, now), "it has said nothing yet")
}

// A replica that has left is told of for an hour, a tool while it is there.
func TestWhoIsGone(t *testing.T) {
	now := time.Now()
	for _, row := range []struct {
		address, state string
		ago            time.Duration
		gone           bool
	}{
		{"10.0.0.6:6379", relay.Online, 2 * time.Hour, false},
		{"10.0.0.6:6379", relay.Away, time.Minute, false},
		{"10.0.0.6:6379", relay.Away, 2 * time.Hour, true},
		{"10.0.0.6:0", relay.Copying, time.Minute, false},
		{"10.0.0.6:0", relay.Away, time.Minute, true},
	} {
		require.Equal(t, row.gone, gone(relay.Replica{Address: row.address, State: row.state, Since: stream.TimeOf(now.Add(-row.ago))}, now), row)
	}
}

// What a rebirth would take: a second, the snapshot at the rate of the last copy, the log at that of the stream behind it.
func TestWhatARebirthWouldTake(t *testing.T) {
	for _, row := range []struct {
		snapshot, log int64
		rates         relay.Rates
		seconds       float64
		measured      bool
	}{
		{0, 0, relay.Rates{}, 1, false},
		{2 * guessRDB, 3 * guessStream, relay.Rates{}, 6, false},
		{4 << 30, 1 << 30, relay.Rates{RDB: 512 << 20, Stream: 128 << 20}, 1 + 8 + 8, true},
		{4 << 30, 2 * guessStream, relay.Rates{RDB: 1 << 30}, 1 + 4 + 2, true}, // no log was long enough to tell
	} {
		p := predicted(httpapi.Rebirth{Snapshot: row.snapshot, Log: row.log}, row.rates, false)
		require.Equal(t, httpapi.Rebirth{Snapshot: row.snapshot, Log: row.log, Seconds: row.seconds, Measured: row.measured}, p)
	}
	size := httpapi.Rebirth{Snapshot: 1 << 30, Log: 1 << 30}
	p := predicted(size, relay.Rates{RDB: 1 << 29, Stream: 1 << 28}, true)
	require.InDelta(t, 1+2+4+4, p.Seconds, 1e-9, "the scratch engine saves, and the server loads that")
	require.True(t, p.Replayed)
	size.Log = unseen
	require.False(t, predicted(size, relay.Rates{}, true).Replayed, "nobody sees it")
	size.Log = 1 << 40
	require.False(t, predicted(size, relay.Rates{}, true).Replayed, "that would take too long")
	k := &keeper{}
	require.Nil(t, k.prediction(), "nothing is archived")
}

// What proves that a rebirth comes about is the last start that any store knows of.
func TestTheLastStartOfAllStores(t *testing.T) {
	rebirth := archive.Event{Kind: archive.EventReplID, Offset: 5, Time: 5, Cause: archive.CauseRebirth}
	failover := archive.Event{Kind: archive.EventReplID, Offset: 9, Time: 9, Cause: "the master gave a new id"}
	holds := func(events ...archive.Event) *archive.Catalog {
		return &archive.Catalog{Timelines: []*archive.Timeline{{TimelineInfo: archive.TimelineInfo{Timeline: "a", Reason: "first contact"}, Events: events}}}
	}
	without := holds(rebirth)
	without.Timelines = append(without.Timelines, &archive.Timeline{TimelineInfo: archive.TimelineInfo{Timeline: "b", Reason: "the master came back empty"},
		Events: []archive.Event{{Kind: archive.EventSuspect, Offset: 9, Time: 9}}})
	for _, row := range []struct {
		stores []*archive.Catalog
		want   archive.Start
	}{
		{nil, archive.StartUnseen},
		{[]*archive.Catalog{holds(), holds(rebirth)}, archive.StartReborn},
		{[]*archive.Catalog{holds(rebirth), holds()}, archive.StartReborn},
		{[]*archive.Catalog{holds(rebirth), holds(rebirth, failover)}, archive.StartUnseen},
		{[]*archive.Catalog{holds(rebirth, failover), holds(rebirth)}, archive.StartUnseen},
		{[]*archive.Catalog{holds(rebirth), without}, archive.StartForgot},
		{[]*archive.Catalog{without, holds(rebirth)}, archive.StartForgot},
	} {
		require.Equal(t, row.want, lastStart(row.stores))
	}
}

// TestWhatASentinelSays: what it answers counts; where it doesn't, what was heard of it a moment ago; and for one that
// watches no such master, nothing.
func TestWhatASentinelSays(t *testing.T) {
	kind := enginetest.Any(t)
	s := enginetest.Start(t, kind)
	watches := enginetest.Sentinel(t, kind, s.Port())
	k := &keeper{want: want{Source: config.Source{Name: "cache", Address: s.Addr(), Password: "secret"}}}
	heard := source.Sentinel{Hello: relay.Hello{Sentinel: watches.Addr(), Master: "m", Names: "10.9.8.7:6379", Epoch: 3}}

	require.Equal(t, &rebirth.Word{Names: s.Addr(), Asked: true}, k.askSentinel(t.Context(), heard), "what it says now")
	watches.Do("SENTINEL", "REMOVE", "m")
	require.Nil(t, k.askSentinel(t.Context(), heard))

	locked := enginetest.Sentinel(t, kind, s.Port(), "--requirepass", "its own")
	heard.Sentinel = locked.Addr()
	word := k.askSentinel(t.Context(), heard)
	require.Contains(t, word.Silent, "NOAUTH")
	require.Equal(t, rebirth.Word{Names: "10.9.8.7:6379", Epoch: 3, Silent: word.Silent}, *word)
	heard.Heard = time.Now()
	require.Equal(t, &rebirth.Word{Names: "10.9.8.7:6379", Epoch: 3}, k.askSentinel(t.Context(), heard))
	heard.Heard = time.Time{}
	locked.Kill()
	require.Contains(t, k.askSentinel(t.Context(), heard).Silent, "refused")
	heard.Sentinel = s.Addr() // another server is there now
	require.Contains(t, k.askSentinel(t.Context(), heard).Silent, "unknown command")
}

// A server that comes to the relay from the source's address casts doubt on the link, but for what is seen to be there still:
// whoever gets the source's name meanwhile doesn't cut it off from a master that lives.
func TestWhomALinkLeadsTo(t *testing.T) {
	kind := enginetest.Any(t)
	s, other := enginetest.Start(t, kind), enginetest.Start(t, kind)
	k := &keeper{want: want{Source: config.Source{Name: "cache", Address: s.Addr()}}}
	link := syncer.Status{Remote: s.Addr(), Master: k.want.askAll(t.Context(), []string{s.Addr()})[0].master}
	require.False(t, k.isAnother(t.Context(), link), "it is the same")
	k.want.Address = other.Addr()
	require.False(t, k.isAnother(t.Context(), link), "it has another name by now")
	k.want.Address = s.Addr()
	s.Do("REPLICAOF", "127.0.0.1", "1")
	require.True(t, k.isAnother(t.Context(), link), "it is a master no more")
	s.Kill()
	require.False(t, k.isAnother(t.Context(), link), "nobody is there, and the connection will tell")
	k.want.Address = other.Addr()
	require.True(t, k.isAnother(t.Context(), link), "it is dead, and has come back elsewhere")
	k.want.Address = s.Addr()
	s.Restart()
	require.True(t, k.isAnother(t.Context(), link), "it was started anew")

	// However often one acknowledges, the source is asked once a second.
	now := time.Now()
	require.True(t, k.isDue(now))
	require.False(t, k.isDue(now.Add(999*time.Millisecond)))
	require.True(t, k.isDue(now.Add(time.Second)))
}
