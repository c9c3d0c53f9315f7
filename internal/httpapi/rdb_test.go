package httpapi

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/export"
	"github.com/offloader/offloader/internal/stream"
)

// serveRDB serves on a socket in a new folder, and on a port, until the test ends.
func serveRDB(t *testing.T, rdb func(ctx context.Context, source string, use func(export.Point, io.Reader) error) error) (dir string, port net.Addr) {
	t.Helper()
	dir = t.TempDir()
	own, err := ListenIn(t.Context(), dir)
	require.NoError(t, err)
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	r := newRig(well("cache"))
	r.o.RDB = rdb
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx, own, tcp) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-ended)
	})
	return dir, tcp.Addr()
}

func TestADatasetOverTheSocket(t *testing.T) {
	point := export.Point{Source: "cache", Timeline: "t", Offset: 42, Time: stream.TimeOf(noon)}
	data := strings.Repeat("an RDB ", 1<<18)
	cut := errors.New("the master is gone\nfor good")
	var after error // comes behind the data, nil: nothing
	dir, port := serveRDB(t, func(_ context.Context, source string, use func(export.Point, io.Reader) error) error {
		switch source {
		case "cache":
			if after == nil {
				return use(point, strings.NewReader(data))
			}
			return use(point, io.MultiReader(strings.NewReader(data), iotest.ErrReader(after)))
		case "down":
			return cut
		}
		return ErrNoSource
	})
	for _, after = range []error{nil, cut} {
		p, rdb, err := AskRDB(t.Context(), dir, "cache")
		require.NoError(t, err)
		require.Equal(t, point, p)
		got, err := io.ReadAll(rdb)
		require.NoError(t, rdb.Close())
		if after != nil {
			require.EqualError(t, err, "the master is gone for good")
			continue
		}
		require.NoError(t, err)
		require.Equal(t, data, string(got))
	}
	_, _, err := AskRDB(t.Context(), dir, "down")
	require.EqualError(t, err, cut.Error())
	_, _, err = AskRDB(t.Context(), dir, "a/b c")
	require.ErrorIs(t, err, ErrNoSource)
	require.ErrorContains(t, err, `"a/b c"`)

	// What a network can reach gives no data.
	response, err := http.Post("http://"+port.String()+"/api/v1/sources/cache/rdb", "", nil)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	require.Equal(t, http.StatusNotFound, response.StatusCode)
	http.DefaultClient.CloseIdleConnections()
}

// A daemon that dies in the middle, or whoever asked: a part is never taken for the whole.
func TestADatasetThatIsCutOff(t *testing.T) {
	left := make(chan error, 1)
	dir, _ := serveRDB(t, func(ctx context.Context, source string, use func(export.Point, io.Reader) error) error {
		if source == "dies" {
			panic(http.ErrAbortHandler)
		}
		err := use(export.Point{}, io.MultiReader(strings.NewReader(strings.Repeat("x", 1<<20)), stuck{ctx, source}))
		left <- err
		return err
	})
	_, rdb, err := AskRDB(t.Context(), dir, "aborts")
	require.NoError(t, err)
	_, err = io.ReadAll(rdb)
	require.ErrorContains(t, err, "the daemon has left before it was done: unexpected EOF")
	require.NoError(t, rdb.Close())

	ctx, cancel := context.WithCancel(t.Context())
	_, rdb, err = AskRDB(ctx, dir, "waits")
	require.NoError(t, err)
	cancel()
	_, err = io.ReadAll(rdb)
	require.ErrorIs(t, err, context.Canceled)
	require.NoError(t, rdb.Close())
	require.Error(t, <-left, "the master's child is let go as well")

	_, _, err = AskRDB(t.Context(), dir, "dies")
	require.Error(t, err)
	_, _, err = AskRDB(t.Context(), t.TempDir(), "cache")
	require.Error(t, err)
}

// stuck is a reader that dies, or waits until whoever asked has left.
type stuck struct {
	ctx  context.Context
	what string
}

func (u stuck) Read([]byte) (int, error) {
	if u.what == "aborts" {
		panic(http.ErrAbortHandler)
	}
	<-u.ctx.Done()
	return 0, u.ctx.Err()
}
