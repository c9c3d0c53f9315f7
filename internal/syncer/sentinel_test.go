package syncer

import (
	"context"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/engine/enginetest"
)

// What a Sentinel says of its master, also when it has chosen another one, with a newer epoch.
func TestAskSentinel(t *testing.T) {
	enginetest.Each(t, func(t *testing.T, kind enginetest.Kind) {
		t.Parallel()
		master := enginetest.Start(t, kind)
		replica := enginetest.Start(t, kind, "--replicaof", "127.0.0.1", strings.TrimPrefix(master.Addr(), "127.0.0.1:"))
		s := enginetest.Sentinel(t, kind, master.Port())
		ask := func(name string) Elected {
			e, err := AskSentinel(t.Context(), Options{Address: s.Addr()}, name)
			require.NoError(t, err)
			return e
		}
		require.Equal(t, Elected{Address: master.Addr()}, ask("m"))
		require.Equal(t, Elected{}, ask("another"))
		eventually(t, "it knows the replica", func() bool { return strings.Contains(s.LogText(), "+slave slave "+replica.Addr()) })
		master.Kill()
		var e Elected
		eventually(t, "it has chosen the replica", func() bool { e = ask("m"); return e.Address == replica.Addr() && !e.Choosing })
		require.Positive(t, e.Epoch)
	})
}

// Whoever says that it is a Sentinel may be anybody: what it answers takes little memory and little time.
func TestAskWhoIsNoSentinel(t *testing.T) {
	for _, row := range []struct{ says, want string }{
		{"$-1\r\n", "doesn't answer as a Sentinel does"},
		{"*2\r\n$12\r\nconfig-epoch\r\n$1\r\nx\r\n", "doesn't answer as a Sentinel does"},
		{"*1000000000\r\n", "no Redis or Valkey"},
		{"*2\r\n$1000000000\r\n", "no Redis or Valkey"},
		{"*1000\r\n" + strings.Repeat("$500000\r\n"+strings.Repeat("x", 500_000)+"\r\n", 10), "closed the connection"},
		{"", context.DeadlineExceeded.Error()},
	} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		served := make(chan struct{})
		go func() {
			defer close(served)
			nc, err := l.Accept()
			if err != nil {
				return
			}
			defer func() { _ = nc.Close() }()
			_, _ = io.WriteString(nc, row.says)
			_, _ = io.Copy(io.Discard, nc)
		}()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		if row.says == "" {
			ctx, cancel = context.WithTimeout(t.Context(), 200*time.Millisecond)
		}
		_, err = AskSentinel(ctx, Options{Address: l.Addr().String()}, "m")
		require.ErrorContains(t, err, row.want, "%.20q", row.says)
		cancel()
		require.NoError(t, l.Close())
		<-served
	}
}
