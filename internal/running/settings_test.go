package running

import (
	"context"
	"strings"
	"testing"

	"net"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/engine/enginetest"
)

// Whatever a server was set to, it is so again afterwards, also where a restore in between was killed and put nothing back. A relay that
// others could reach has a password, or there is none.
func TestSettingsArePutBack(t *testing.T) {
	enginetest.Each(t, func(t *testing.T, kind enginetest.Kind) {
		for _, c := range []struct {
			name               string
			here               bool // the server is on this host
			password, user     string
			wantUser, wantOurs bool // a user, and a password, of ours
		}{
			{"on this host", true, "", "", true, false},
			{"elsewhere", false, "", "", true, true},
			{"a password of its own", false, "secret", "", true, false},
			{"a user of its own", false, "secret", "repl", false, false},
		} {
			t.Run(c.name, func(t *testing.T) {
				s := enginetest.Start(t, kind)
				s.Do("CONFIG", "SET", "masterauth", c.password)
				s.Do("CONFIG", "SET", "masteruser", c.user)
				s.Do("CONFIG", "SET", "repl-diskless-load", "swapdb")
				for killed := range 2 {
					d := dial{server: Server{Address: s.Addr(), Name: "x"}}
					require.NoError(t, d.connect(t.Context()))
					t.Cleanup(d.close)
					if !c.here {
						d.remote = net.IPv4(192, 0, 2, 1)
					}
					tg := &target{dial: d}
					login, undo, instead := tg.prepare(t.Context())
					require.Empty(t, instead)
					require.Equal(t, "on-empty-db", get(t, s, "repl-diskless-load"))
					require.Equal(t, login.Password, get(t, s, "masterauth"))
					require.Equal(t, login.Username, get(t, s, "masteruser"))
					require.Equal(t, c.wantOurs, c.password == "" && login.Password != "")
					require.Equal(t, c.wantUser, strings.HasPrefix(login.Username, ourUser))
					if killed == 0 {
						continue
					}
					require.NoError(t, undo(context.Background()))
				}
				want := "swapdb"
				if !c.wantUser { // there was no place to note it
					want = "on-empty-db"
				}
				require.Equal(t, want, get(t, s, "repl-diskless-load"))
				require.Equal(t, c.password, get(t, s, "masterauth"))
				require.Equal(t, c.user, get(t, s, "masteruser"))
			})
		}
		s := enginetest.Start(t, kind)
		s.Do("ACL", "SETUSER", "limited", "on", ">pw", "~*", "+@all", "-config")
		d := dial{server: Server{Address: s.Addr(), Name: "x", Username: "limited", Password: "pw"}}
		require.NoError(t, d.connect(t.Context()))
		defer d.close()
		_, _, instead := (&target{dial: d}).prepare(t.Context())
		require.Empty(t, instead, "on this host it needs none")
		d.remote = net.IPv4(192, 0, 2, 1)
		_, _, instead = (&target{dial: d}).prepare(t.Context())
		require.Contains(t, instead, "open to everybody without a password")
	})
}

func get(t *testing.T, s *enginetest.Server, name string) string {
	t.Helper()
	got, err := s.Client().ConfigGet(t.Context(), name).Result()
	require.NoError(t, err)
	return got[name]
}

// Which RDBs an engine loads: what they were seen to load, and refuse.
func TestWhatEnginesLoad(t *testing.T) {
	for _, c := range []struct {
		valkey       bool
		major, minor int
		loads, not   []int
	}{
		{false, 6, 2, []int{9}, []int{10, 80}},
		{false, 7, 0, []int{9, 10}, []int{11, 12, 80}},
		{false, 7, 2, []int{11}, []int{12, 80}},
		{false, 8, 0, []int{10, 11, 12}, []int{13, 80}},
		{false, 8, 6, []int{12, 13}, []int{80}},
		{true, 8, 1, []int{10, 11}, []int{12, 80}},
		{true, 9, 1, []int{11, 80}, []int{12, 79}},
	} {
		f := facts{valkey: c.valkey, major: c.major, minor: c.minor}
		for _, v := range c.loads {
			require.True(t, f.loads(v), "%+v %d", c, v)
		}
		for _, v := range c.not {
			require.False(t, f.loads(v), "%+v %d", c, v)
		}
	}
}
