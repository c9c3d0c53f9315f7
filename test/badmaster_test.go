package test

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/engine/enginetest"
	"github.com/offloader/offloader/test/blackbox"
)

// A master that can't be archived: the daemon goes on trying and says why and what to do, in its
// log and in its status; check says so before. The archive holds nothing.
func TestBadInputMasters(t *testing.T) {
	t.Parallel()
	kind := enginetest.Any(t)
	open := enginetest.Start(t, kind)
	closed := enginetest.Start(t, kind, "--requirepass", "correct-secret")
	for _, user := range []struct{ name, rights string }{
		{"nopsync", "+replconf +ping +info"}, {"noreplconf", "+psync +ping +info"}, {"off", "+psync +replconf +ping"},
	} {
		args := []any{"ACL", "SETUSER", user.name, ">user-secret", "resetkeys", "resetchannels"}
		if user.name != "off" {
			args = append(args, "on")
		}
		for _, right := range strings.Fields(user.rights) {
			args = append(args, right)
		}
		open.Do(args...)
	}
	for _, row := range []struct {
		name, source string
		says         []string // the daemon, about what is wrong
		hint         []string // and about what to do
		check        []string // what check says
	}{
		{
			"wrong password", fmt.Sprintf("address: %q, password: wrong-secret", closed.Addr()),
			[]string{"password is wrong", "WRONGPASS"}, []string{"check the"},
			[]string{"WRONGPASS", "user and password don't fit together"},
		},
		{
			"no password", fmt.Sprintf("address: %q", closed.Addr()),
			[]string{"wants a password", "NOAUTH"}, []string{"password_file"},
			[]string{"NOAUTH", "password_file"},
		},
		{
			"a password that nobody asked for", fmt.Sprintf("address: %q, password: user-secret", open.Addr()),
			[]string{"has none"}, []string{"take the password away"},
			[]string{"the server has no password", "leave ours out"},
		},
		{
			"unknown user", fmt.Sprintf("address: %q, username: nobody, password: user-secret", open.Addr()),
			[]string{"user or password is wrong"}, []string{"ACL GETUSER nobody"},
			[]string{"WRONGPASS", "ACL SETUSER nobody"},
		},
		{
			"user that is off", fmt.Sprintf("address: %q, username: 'off', password: user-secret", open.Addr()),
			[]string{"the user is off"}, []string{"ACL GETUSER off"},
			[]string{"the user is off"},
		},
		{
			"user without +psync", fmt.Sprintf("address: %q, username: nopsync, password: user-secret", open.Addr()),
			[]string{"right", "psync"}, []string{"ACL SETUSER nopsync", "+psync"},
			[]string{"lacks +psync", "ACL SETUSER nopsync +psync"},
		},
		{
			"user without +replconf", fmt.Sprintf("address: %q, username: noreplconf, password: user-secret", open.Addr()),
			[]string{"right", "replconf"}, []string{"ACL SETUSER noreplconf", "+replconf"},
			[]string{"lacks +replconf", "ACL SETUSER noreplconf +replconf"},
		},
		{
			"no server", fmt.Sprintf("address: '127.0.0.1:%d'", enginetest.FreePort(t)),
			[]string{"nothing listens there"}, []string{"is the server up"},
			[]string{"connection refused", "is the server up"},
		},
		{
			"no such host", "address: 'no-such-host.invalid:6379'",
			[]string{"name can't be resolved"}, []string{"check the address"},
			[]string{"no such host"},
		},
		{
			"a web server", fmt.Sprintf("address: %q", answering(t, "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")),
			[]string{"web server"}, []string{"check the address and the port"},
			[]string{"is it a Redis or Valkey"},
		},
		{
			"garbage", fmt.Sprintf("address: %q", answering(t, "\x00\xff\xfe no such protocol\n")),
			[]string{"no Redis or Valkey"}, []string{"check the address and the port"},
			[]string{"is it a Redis or Valkey"},
		},
		{
			"endless garbage", fmt.Sprintf("address: %q", answering(t, strings.Repeat("x", 8<<20))),
			[]string{"no Redis or Valkey"}, []string{"check the address and the port"},
			[]string{"Redis or Valkey"},
		},
		{
			"a length that can't be", fmt.Sprintf("address: %q", answering(t, "+PONG\r\n$9223372036854775807\r\n")),
			[]string{"no Redis or Valkey"}, []string{"check the address and the port"},
			[]string{"is it a Redis or Valkey"},
		},
		{
			"SSH", fmt.Sprintf("address: %q", answering(t, "SSH-2.0-OpenSSH_9.7\r\n")),
			[]string{"no Redis or Valkey"}, []string{"check the address and the port"},
			[]string{"is it a Redis or Valkey"},
		},
		{
			"one that closes at once", fmt.Sprintf("address: %q", answering(t, "")),
			[]string{"closed the connection"}, []string{"TLS"},
			[]string{"hung up at the first word", "Redis or Valkey"},
		},
		{
			"TLS to a plain port", fmt.Sprintf("address: %q, tls: {}", open.Addr()),
			[]string{"doesn't speak TLS"}, []string{"take tls away"},
			[]string{"may not speak TLS", "leave out"},
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			yaml := fmt.Sprintf("sources: [{name: cache, %s}]\nspool: {path: $DIR/archive/.spool, min_free: 1%%}\nstores: [{type: disk, path: $DIR/archive}]\n", row.source)
			dir := t.TempDir()
			d := blackbox.StartWith(t, dir, yaml)
			s := d.Until("cache", "refused", func(s blackbox.SourceStatus) bool { return s.Error != "" })
			for _, words := range row.says {
				require.Contains(t, s.Error, words)
			}
			for _, words := range row.hint {
				require.Contains(t, s.Hint, words)
				require.Contains(t, d.LogText(), words, "the log says so too")
			}
			require.Contains(t, []string{"connecting", "waiting"}, s.State)
			require.Zero(t, s.Durable)
			require.Zero(t, s.FullResyncs)
			require.Empty(t, s.Timeline)
			people := d.Run("status")
			require.Equal(t, 0, people.Code, "%s", people)
			require.Contains(t, people.Stdout, row.says[0])

			check := d.Run("check")
			require.Equal(t, 1, check.Code, "%s", check)
			for _, words := range row.check {
				require.Contains(t, check.Stdout+check.Stderr, words)
			}
			d.Stop()
			require.Empty(t, files(t, d.Dir, ".spool"), "nothing is archived")
			require.NotContains(t, d.LogText()+people.String()+check.String(), "-secret", "no password is told")
		})
	}
}

// answering listens, and says that to whoever has said something, on and on.
func answering(t *testing.T, what string) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			in := bufio.NewReader(c)
			if _, err := in.ReadByte(); err == nil {
				_, _ = c.Write([]byte(what))
			}
			_ = c.Close()
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-ended
	})
	return l.Addr().String()
}

// files are all below a folder, but for what lies below the names in except.
func files(t *testing.T, dir string, except ...string) (paths []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		for _, name := range except {
			if e.Name() == name {
				return filepath.SkipDir
			}
		}
		if !e.IsDir() {
			paths = append(paths, path)
		}
		return nil
	})
	require.NoError(t, err)
	return paths
}
