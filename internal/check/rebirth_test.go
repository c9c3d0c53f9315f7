package check

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/engine/enginetest"
	"github.com/offloader/offloader/internal/rebirth"
)

func comeback(t *testing.T, s *enginetest.Server, user string, password bool, start ...archive.Start) []Finding {
	t.Helper()
	m := master(s, user)
	m.Sample = time.Millisecond
	f, err := m.Ask(t.Context())
	require.NoError(t, err)
	before := s.Info("replication")
	c, err := m.AskComeback(t.Context(), f)
	require.NoError(t, err)
	require.Equal(t, before["role"], s.Info("replication")["role"], "nothing changes")
	require.Equal(t, before["master_replid"], s.Info("replication")["master_replid"])
	through := Through{Listen: "10.0.0.9:6390", Start: append(start, archive.StartUnseen)[0]}
	if password {
		through.Password = "secret"
	}
	list := AdviseRebirth(c, user, through)
	require.NotContains(t, fmt.Sprint(list), "secret")
	return list
}

// What stands in the way of a rebirth is found on a master that runs, and nothing changes there.
func TestRebirthReadiness(t *testing.T) {
	enginetest.Each(t, func(t *testing.T, kind enginetest.Kind) {
		t.Parallel()
		says := func(list []Finding, level Level, words string) {
			t.Helper()
			for _, f := range named(list, "rebirth", level) {
				if strings.Contains(f.Message+f.Hint, words) {
					return
				}
			}
			require.Fail(t, "not found", "%s %q in %+v", level, words, list)
		}
		s := enginetest.Start(t, kind)
		list := comeback(t, s, "", true)
		says(list, Fail, "serves an empty master")
		says(list, Fail, "--replicaof 10.0.0.9 6390 --replica-serve-stale-data no")
		says(list, Fail, "has none to give")
		s.Do("CONFIG", "SET", "save", "3600 1")
		says(comeback(t, s, "", false), Fail, "its own RDB or AOF")
		s.Do("CONFIG", "SET", "save", "")

		s.Do("CONFIG", "SET", "replica-serve-stale-data", "no")
		s.Do("CONFIG", "SET", "masterauth", "another's")
		says(comeback(t, s, "", true), Fail, "is not the relay's")
		require.NotContains(t, fmt.Sprint(comeback(t, s, "", true)), "another's")
		s.Do("CONFIG", "SET", "masterauth", "secret")
		says(comeback(t, s, "", true), Warn, "can't be seen while it runs")
		says(comeback(t, s, "", true, archive.StartForgot), Fail, "its last start was not through the relay")
		says(comeback(t, s, "", true, archive.StartReborn), OK, "comes back with all that is durable")
		require.Empty(t, named(comeback(t, s, "", true, archive.StartReborn), "rebirth", Warn))
		s.Do("CONFIG", "SET", "save", "3600 1")
		says(comeback(t, s, "", true, archive.StartReborn), Warn, "what its dump.rdb has beyond that")
		s.Do("CONFIG", "SET", "appendonly", "yes")
		says(comeback(t, s, "", true), Warn, "can't be seen while it runs")
		says(comeback(t, s, "", true, archive.StartReborn), Warn, "what its AOF has beyond that")
		s.Do("CONFIG", "SET", "appendonly", "no", "save", "")
		s.Do("CONFIG", "SET", "masteruser", "somebody")
		says(comeback(t, s, "", true), Fail, "as its replica the master gives \"somebody\"")
		s.Do("CONFIG", "SET", "masteruser", "")
		require.NoError(t, os.WriteFile(filepath.Join(s.Dir(), "dump.rdb"), nil, 0o600))
		says(comeback(t, s, "", true), Fail, "mv "+filepath.Join(s.Dir(), "dump.rdb")+" "+filepath.Join(s.Dir(), "dump.rdb")+".before-offloader")
		require.NoError(t, os.Remove(filepath.Join(s.Dir(), "dump.rdb")))
		s.Do("CONFIG", "SET", "replica-read-only", "no")
		says(comeback(t, s, "", true, archive.StartReborn), Fail, "takes writes that nobody archives")
		s.Do("CONFIG", "SET", "replica-read-only", "yes")

		s.Do("CONFIG", "SET", "replica-announce-port", "7000")
		says(comeback(t, s, "", true, archive.StartReborn), Fail, "that it is 127.0.0.1:7000, which is not the source's address")
		s.Do("CONFIG", "SET", "replica-announce-port", s.Port(), "replica-announce-ip", "10.9.8.7")
		says(comeback(t, s, "", true, archive.StartReborn), Fail, fmt.Sprintf("that it is 10.9.8.7:%d, which is not the source's address", s.Port()))
		s.Do("CONFIG", "SET", "replica-announce-ip", "127.0.0.1")
		says(comeback(t, s, "", true, archive.StartReborn), OK, "comes back")
		s.Do("CONFIG", "SET", "replica-announce-port", 0, "replica-announce-ip", "")

		s.Do("ACL", "SETUSER", "offloader", "on", ">pw", "resetkeys", "resetchannels", "+psync", "+replconf", "+ping", "+info", "+config|get")
		says(comeback(t, s, "offloader", true), Fail, "ACL SETUSER offloader +replicaof +role +info")
		s.Do("ACL", "SETUSER", "offloader", "+replicaof", "+role")
		says(comeback(t, s, "offloader", true, archive.StartReborn), OK, "comes back")
		for _, right := range []string{"replicaof", "role", "info"} {
			s.Do("ACL", "SETUSER", "offloader", "-"+right)
			list := comeback(t, s, "offloader", true, archive.StartReborn)
			says(list, Fail, "may not do there what a rebirth takes, so it would not come back by itself: "+strings.ToUpper(right)+" (NOPERM")
			says(list, Fail, "ACL SETUSER offloader +replicaof +role +info")
			require.Empty(t, named(list, "rebirth", OK))
			s.Do("ACL", "SETUSER", "offloader", "+"+right)
		}
		s.Do("ACL", "SETUSER", "offloader", "-config|get", "-role")
		says(comeback(t, s, "offloader", true), Fail, "ROLE (NOPERM")
		says(comeback(t, s, "offloader", true), Warn, "doesn't tell its settings")

		replica := enginetest.Start(t, kind, "--replicaof", fmt.Sprintf("127.0.0.1 %d", s.Port()))
		says(comeback(t, replica, "", false), Warn, "it is a replica of "+s.Addr())
		require.Empty(t, named(comeback(t, replica, "", false), "rebirth", Fail), "a chained source is none to be reborn")
		replica.Do("CONFIG", "SET", "replica-read-only", "no")
		says(comeback(t, replica, "", false), Fail, "replica-read-only yes")

		cluster := enginetest.Start(t, kind, "--cluster-enabled", "yes")
		says(comeback(t, cluster, "", false), Fail, "cluster mode")
	})
}

// A dump.rdb is looked for where the master is; where that isn't here, it is said that it can't be seen.
func TestWhereADumpLies(t *testing.T) {
	dir := t.TempDir()
	look := func(address, dir string) (c Comeback) {
		c.lookFor(t.Context(), address, dir, "dump.rdb")
		return c
	}
	for _, here := range []string{"127.0.0.1:6379", "localhost:6379", "[::1]:6379"} {
		require.Equal(t, Comeback{}, look(here, dir), here)
	}
	require.NoError(t, os.WriteFile(filepath.Join(dir, "dump.rdb"), nil, 0o600))
	require.Equal(t, Comeback{Dump: filepath.Join(dir, "dump.rdb")}, look("localhost:6379", dir))
	require.Equal(t, Comeback{Unseen: filepath.Join(dir, "dump.rdb") + " is another host's"}, look("192.0.2.1:6379", dir))
	require.Contains(t, look("127.0.0.1:6379", "/nowhere/data").Unseen, "/nowhere/data: no such file", "it has a root of its own")

	c := look("192.0.2.1:6379", dir)
	c.Config = map[string]string{"replica-serve-stale-data": "no"}
	list := AdviseRebirth(&c, "", Through{Listen: "10.0.0.9:6390", Start: archive.StartReborn})
	require.Len(t, named(list, "rebirth", OK), 2)
	require.Contains(t, list[1].Message, "can't be seen from here")
	c.Config["save"] = "3600 1"
	list = AdviseRebirth(&c, "", Through{Listen: "10.0.0.9:6390", Start: archive.StartReborn})
	require.Len(t, named(list, "rebirth", OK), 1, "it is meant to be there")
	require.Len(t, named(list, "rebirth", Warn), 1)

	list = AdviseRebirth(&c, "", Through{Listen: "10.0.0.9:6390", Start: archive.StartReborn, Replay: errors.New("there is no valkey here")})
	require.Len(t, named(list, "rebirth", Warn), 2)
	require.Contains(t, list[1].Message, "read what is old until it has applied the stream behind that: no scratch engine can do so before (there is no valkey here)")
}

// Where a server would say that it is follows the engine's own rule.
func TestWhereItSaysThatItIs(t *testing.T) {
	for _, row := range []struct{ address, port, tlsPort, tls, announcedIP, announcedPort, says string }{
		{"10.0.0.5:6379", "6379", "0", "no", "", "0", ""},
		{"10.0.0.5:6379", "6380", "0", "no", "", "0", "10.0.0.5:6380"},
		{"10.0.0.5:6379", "6380", "0", "no", "", "6379", ""},
		{"10.0.0.5:6380", "6379", "6380", "yes", "", "0", ""},
		{"10.0.0.5:6380", "6379", "6380", "no", "", "0", "10.0.0.5:6379"},
		{"localhost:6379", "6379", "0", "no", "127.0.0.1", "0", ""},
		{"localhost:6379", "6379", "0", "no", "localhost", "0", ""},
		{"127.0.0.1:6379", "6379", "0", "no", "localhost", "0", "localhost:6379"},
		{"10.0.0.5:6379", "", "", "", "", "", ""},
	} {
		c := Comeback{Config: map[string]string{"port": row.port, "tls-port": row.tlsPort, "tls-replication": row.tls, "replica-announce-ip": row.announcedIP, "replica-announce-port": row.announcedPort}}
		c.announces(t.Context(), row.address)
		require.Equal(t, row.says, c.Says, row)
	}
}

// Replicas beside the relay are said, and one that can't be asked is not overlooked.
func TestReplicasBesideTheRelay(t *testing.T) {
	advise := func(more int, beside ...rebirth.Server) []Finding {
		c := Comeback{Config: map[string]string{"replica-serve-stale-data": "no"}}
		return AdviseRebirth(&c, "offloader", Through{Listen: "10.0.0.9:6390", Start: archive.StartReborn, Beside: beside, More: more})
	}
	list := advise(3, rebirth.Server{Address: "h:1", ReplID: "x"}, rebirth.Server{Address: "h:2", Archive: true})
	require.Len(t, list, 3)
	require.Len(t, named(list, "rebirth", OK), 3)
	require.Contains(t, list[0].Message, "comes back")
	require.Contains(t, list[1].Message, "ask them: 1.")
	require.Contains(t, list[2].Message, "not asked, beyond these: 3")
	for _, row := range []struct {
		server     rebirth.Server
		says, hint string
	}{
		{rebirth.Server{Address: "h:1", Err: errors.New("WRONGPASS"), Refuses: true}, "replica h:1 of the master doesn't let our user ask", "ACL SETUSER offloader on '>PASSWORD' +info +role"},
		{rebirth.Server{Address: "h:1", Err: fmt.Errorf("dial: %w", syscall.ECONNREFUSED)}, "that it is h:1, where nobody listens", "replica-announce-ip"},
		{rebirth.Server{Address: "h:1", Err: errors.New("no answer")}, "replica h:1 of the master can't be asked what it is", "attach it to the relay"},
	} {
		list := advise(0, row.server)
		require.Len(t, list, 1, "nothing is ok")
		require.Equal(t, Warn, list[0].Level)
		require.Contains(t, list[0].Message, row.says)
		require.Contains(t, list[0].Hint, row.hint)
	}
}
