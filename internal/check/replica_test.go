package check

import (
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/engine/enginetest"
)

// Who snapshots are taken of has to have the source's data, and the right to give them.
func TestReplicaForSnapshots(t *testing.T) {
	kind := enginetest.Any(t)
	s, stranger := enginetest.Start(t, kind, "--repl-diskless-sync-delay", "0"), enginetest.Start(t, kind)
	host, port, err := net.SplitHostPort(s.Addr())
	require.NoError(t, err)
	r := enginetest.Start(t, kind, "--replicaof", host+" "+port)
	require.Eventually(t, func() bool { return r.Info("replication")["master_link_status"] == "up" }, 20*time.Second, 20*time.Millisecond)
	for name, rules := range map[string][]any{"none": {"+info"}, "blind": {"+psync", "+replconf"}} {
		r.Do(append([]any{"ACL", "SETUSER", name, "on", ">pw", "resetkeys", "resetchannels"}, rules...)...)
	}
	source, err := master(s, "").Ask(t.Context())
	require.NoError(t, err)
	advise := func(of *enginetest.Server, user string, source *Facts) []Finding {
		facts, err := master(of, user).Ask(t.Context())
		require.NoError(t, err)
		list := AdviseReplica(facts, source, Ours{User: user})
		for _, f := range list {
			require.Equal(t, "replica", f.Name)
			require.Contains(t, f.Message, of.Addr())
		}
		return list
	}

	list := advise(r, "", source)
	require.Len(t, list, 1)
	require.Equal(t, OK, list[0].Level)
	require.Contains(t, list[0].Message, "is a replica with the source's data")
	require.Equal(t, "0", r.Info("stats")["total_forks"], "asking costs nothing")

	list = advise(stranger, "", source)
	require.Equal(t, Fail, list[0].Level)
	require.Contains(t, list[0].Message, "it is no replica of it")
	list = advise(s, "", source)
	require.Equal(t, Warn, list[0].Level)
	require.Contains(t, list[0].Message, "is a master itself")
	list = advise(r, "", nil)
	require.Equal(t, Warn, list[0].Level)
	require.Contains(t, list[0].Message, "since the source doesn't tell what it is")
	list = advise(r, "blind", source)
	require.Equal(t, Warn, list[0].Level)
	require.Contains(t, list[0].Message, "may not tell what it is")

	list = advise(r, "none", source)
	require.Len(t, list, 1)
	require.Equal(t, Fail, list[0].Level)
	require.Contains(t, list[0].Message, "user none may not attach: it lacks +psync and +replconf")
	require.Equal(t, "on the replica: ACL SETUSER none +psync +replconf", list[0].Hint)

	s.Kill()
	require.Eventually(t, func() bool { return r.Info("replication")["master_link_status"] == "down" }, 20*time.Second, 20*time.Millisecond)
	list = advise(r, "", source)
	require.Equal(t, Fail, list[0].Level)
	require.Contains(t, list[0].Message, "whose own link is down")
	require.Equal(t, "mend its link to "+s.Addr(), list[0].Hint)
}
