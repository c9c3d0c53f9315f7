package check

import (
	"net"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestRelay(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close()
	for _, c := range []struct {
		name        string
		r           Relay
		port, reach Level
		says        string
	}{
		{"a free port", Relay{Listen: "127.0.0.1:0", Loopback: true}, OK, OK, "is free for replicas"},
		{"one that is taken", Relay{Listen: taken.Addr().String(), Loopback: true}, Fail, OK, "is in use by another process"},
		{"another host's address", Relay{Listen: "192.0.2.1:6390", TLS: true}, Fail, OK, "192.0.2.1:6390 can't be opened"},
		{"beyond this host, in the clear", Relay{Listen: "127.0.0.1:0"}, OK, Warn, "is free"},
		{"a daemon has it", Relay{Listen: taken.Addr().String(), Loopback: true, Running: &RunningRelay{Attached: 3}}, OK, OK, "is open, replicas attached: 3"},
		{"a daemon wants it", Relay{Listen: taken.Addr().String(), Loopback: true, Running: &RunningRelay{Error: "address already in use"}}, Fail, OK, "can't open " + taken.Addr().String() + ": address already in use"},
	} {
		t.Run(c.name, func(t *testing.T) {
			list := c.r.Check(t.Context())
			require.Len(t, list, 2)
			require.Equal(t, c.port, list[0].Level, list[0].Message)
			require.Contains(t, list[0].Message, c.says)
			require.Equal(t, c.reach, list[1].Level, list[1].Message)
			for _, f := range list {
				require.Equal(t, f.Level == OK, f.Hint == "", "what to do where it doesn't stand well")
			}
		})
	}
}
