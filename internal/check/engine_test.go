package check

import (
	"crypto/tls"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/engine/enginetest"
)

func master(s *enginetest.Server, user string) Master {
	m := Master{Address: s.Addr(), Username: user, Sample: 20 * time.Millisecond, Timeout: 5 * time.Second}
	if user != "" {
		m.Password = "pw"
	}
	return m
}

// named are the findings of a name and level.
func named(list []Finding, name string, level Level) (found []Finding) {
	for _, f := range list {
		if f.Name == name && f.Level == level {
			found = append(found, f)
		}
	}
	return found
}

func ask(t *testing.T, m Master) []Finding {
	t.Helper()
	facts, err := m.Ask(t.Context())
	require.NoError(t, err)
	return Advise(facts, Ours{User: m.Username})
}

// Whatever is asked, the master makes no sync and no fork, has no replica afterwards, and its
// stream hasn't begun.
func TestAskingCostsNothing(t *testing.T) {
	enginetest.Each(t, func(t *testing.T, kind enginetest.Kind) {
		s := enginetest.Start(t, kind)
		s.Do("SET", "k", "v")
		id := s.Info("replication")["master_replid"]
		for range 20 { // the probe rests on two words going out together
			ask(t, master(s, ""))
		}
		require.Equal(t, "0", s.Info("stats")["sync_full"])
		require.Equal(t, "0", s.Info("stats")["sync_partial_err"])
		require.Equal(t, "0", s.Info("stats")["total_forks"])
		require.Equal(t, "0", s.Info("replication")["connected_slaves"])
		require.Equal(t, "0", s.Info("replication")["repl_backlog_active"])
		require.Equal(t, id, s.Info("replication")["master_replid"])
		require.NotContains(t, s.LogText(), "asks for synchronization but with a wrong offset")
	})
}

func TestRights(t *testing.T) {
	enginetest.Each(t, func(t *testing.T, kind enginetest.Kind) {
		s := enginetest.Start(t, kind)
		user := func(name string, rules ...any) {
			s.Do(append([]any{"ACL", "SETUSER", name, "on", ">pw", "resetkeys", "resetchannels"}, rules...)...)
		}
		line := strings.Fields(strings.NewReplacer("PASSWORD", "pw", "'", "").Replace(aclLine(""))) // as a shell takes it
		args := make([]any, len(line))
		for i, word := range line {
			args[i] = word
		}
		s.Do(args...) // the line that users are told to paste
		user("bare", "+psync", "+replconf")
		user("deaf", "+psync", "+ping", "+info", "+config|get")
		user("none", "+replconf", "+ping", "+info", "+config|get")

		list := ask(t, master(s, "offloader"))
		require.Empty(t, named(list, "rights", Fail))
		require.Equal(t, "user offloader may attach", named(list, "rights", OK)[0].Message)
		require.Empty(t, named(list, "extra rights", Warn))

		list = ask(t, master(s, "bare"))
		require.NotEmpty(t, named(list, "rights", OK))
		require.Equal(t, "on the master: ACL SETUSER bare +ping +info '+config|get'", named(list, "extra rights", Warn)[0].Hint)

		list = ask(t, master(s, "deaf"))
		require.Equal(t, "user deaf may not attach: it lacks +replconf", named(list, "rights", Fail)[0].Message)

		list = ask(t, master(s, "none"))
		require.Equal(t, "on the master: ACL SETUSER none +psync", named(list, "rights", Fail)[0].Hint)
		require.Equal(t, "0", s.Info("stats")["sync_full"])

		for _, facts := range [][]Finding{list} { // that it lacks a right doesn't keep the cost from being told
			require.NotEmpty(t, named(facts, "fork", OK))
			require.NotEmpty(t, named(facts, "transfer", OK))
		}
	})
}

func TestReplicas(t *testing.T) {
	enginetest.Each(t, func(t *testing.T, kind enginetest.Kind) {
		s := enginetest.Start(t, kind, "--repl-diskless-sync-delay", "0")
		host, port, err := net.SplitHostPort(s.Addr())
		require.NoError(t, err)
		r := enginetest.Start(t, kind, "--replicaof", host+" "+port)
		require.Eventually(t, func() bool { return r.Info("replication")["master_link_status"] == "up" }, 20*time.Second, 20*time.Millisecond)
		syncs := s.Info("stats")["sync_full"]

		list := ask(t, master(s, ""))
		require.Contains(t, named(list, "wait", OK)[0].Message, "with 1 other replicas, WAIT 2 <ms>")
		list = ask(t, master(r, ""))
		require.Contains(t, named(list, "state", OK)[0].Message, "it is a replica of "+s.Addr())
		require.Equal(t, syncs, s.Info("stats")["sync_full"])
		require.Equal(t, "0", r.Info("stats")["sync_full"])

		s.Kill()
		require.Eventually(t, func() bool { return r.Info("replication")["master_link_status"] == "down" }, 20*time.Second, 20*time.Millisecond)
		list = ask(t, master(r, ""))
		require.Contains(t, named(list, "state", Fail)[0].Message, "whose own link is down")
		r.Do("CONFIG", "SET", "replica-serve-stale-data", "no")
		list = ask(t, master(r, ""))
		require.Contains(t, named(list, "state", Fail)[0].Message, "whose own link is down")
	})
}

func TestSettings(t *testing.T) {
	enginetest.Each(t, func(t *testing.T, kind enginetest.Kind) {
		s := enginetest.Start(t, kind, "--repl-diskless-sync", "no", "--repl-timeout", "5", "--min-replicas-to-write", "1", "--repl-backlog-ttl", "60", "--save", "3600 1")
		list := ask(t, master(s, ""))
		require.Equal(t, "CONFIG SET repl-diskless-sync yes", named(list, "transfer", Warn)[0].Hint)
		require.Equal(t, "CONFIG SET repl-timeout 60", named(list, "timeout", Warn)[0].Hint)
		require.NotEmpty(t, named(list, "min-replicas", Warn))
		require.Contains(t, named(list, "backlog ttl", Warn)[0].Message, "repl-backlog-ttl is 60 s")
		require.Contains(t, named(list, "persistence", OK)[0].Message, "RDB (save 3600 1): keep it on until")

		for _, f := range list { // a line that is told to be pasted is one that the engine takes
			if words, ok := strings.CutPrefix(f.Hint, "CONFIG SET "); ok && !strings.Contains(words, ",") {
				name, value, _ := strings.Cut(words, " ")
				s.Do("CONFIG", "SET", name, strings.Trim(value, `"`))
			}
		}
		list = ask(t, master(s, ""))
		require.Empty(t, append(append(named(list, "transfer", Warn), named(list, "timeout", Warn)...), named(list, "backlog ttl", Warn)...))
	})
}

// Each way not to get in, and what to do about it.
func TestNoWayIn(t *testing.T) {
	kind := enginetest.Any(t)
	open, closed := enginetest.Start(t, kind), enginetest.Start(t, kind)
	closed.Do("ACL", "SETUSER", "offloader", "on", ">right")
	closed.Do("CONFIG", "SET", "requirepass", "secret")
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { require.NoError(t, silent.Close()) }()
	web, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	served := make(chan struct{})
	go func() {
		defer close(served)
		for {
			c, err := web.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
			_ = c.Close()
		}
	}()
	defer func() { require.NoError(t, web.Close()); <-served }()

	tests := []struct {
		name       string
		m          Master
		says, hint string
	}{
		{"no server", Master{Address: "127.0.0.1:1"}, "connection refused", "nothing listens there"},
		{"no host", Master{Address: "nowhere.invalid:1"}, "nowhere.invalid", "is the host's name right"},
		{"a password is wanted", Master{Address: closed.Addr()}, "NOAUTH", "give password_file, or OFFLOADER_PASSWORD"},
		{"wrong password", Master{Address: closed.Addr(), Username: "offloader", Password: "wrong"}, "WRONGPASS", "ACL SETUSER offloader on '>PASSWORD'"},
		{"no password is wanted", Master{Address: open.Addr(), Password: "pw"}, "without any password configured", "leave ours out"},
		{"TLS to a plain port", Master{Address: open.Addr(), TLS: &tls.Config{}, Timeout: 500 * time.Millisecond}, "TLS handshake", "may not speak TLS"},
		{"silence", Master{Address: silent.Addr().String(), Timeout: 200 * time.Millisecond}, "timeout", "may want TLS"},
		{"no Redis", Master{Address: web.Addr().String()}, web.Addr().String(), "Redis or Valkey"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.m.Timeout == 0 {
				tt.m.Timeout = 5 * time.Second
			}
			_, err := tt.m.Ask(t.Context())
			var failed *ConnectError
			require.True(t, errors.As(err, &failed), "%v", err)
			require.Contains(t, err.Error(), tt.says)
			require.Contains(t, failed.Hint(), tt.hint)
		})
	}
	require.True(t, Master{Address: closed.Addr(), Timeout: time.Second}.NeedsPassword(t.Context()))
	require.False(t, Master{Address: open.Addr(), Timeout: time.Second}.NeedsPassword(t.Context()))
}
