package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// SocketName is the socket's, in the folder of the spool.
const SocketName = ".api.sock"

// socketMode lets the owner and the group of the daemon ask it; the spool's folder has the same
// bound.
const socketMode = 0o660

// ListenIn opens the socket in the folder dir, which this process must own (the spool's lock): a
// socket that is there already is what a daemon left that was killed.
func ListenIn(ctx context.Context, dir string) (net.Listener, error) {
	folder, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	l, err := listenAt(ctx, folder)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open the socket %s in %s: %w", SocketName, dir, err), folder.Close())
	}
	l.close = sync.OnceValue(func() error { return errors.Join(l.Listener.Close(), folder.Close()) })
	return l, nil
}

func listenAt(ctx context.Context, folder *os.File) (*socket, error) {
	if err := unix.Unlinkat(int(folder.Fd()), SocketName, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return nil, err
	}
	l, err := new(net.ListenConfig).Listen(ctx, "unix", within(folder))
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(within(folder), socketMode); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return &socket{Listener: l}, nil
}

// within names the socket in an open folder. A socket's path may have 107 bytes only (sun_path);
// this one is short, wherever the folder lies.
func within(folder *os.File) string {
	return fmt.Sprintf("/proc/self/fd/%d/%s", folder.Fd(), SocketName)
}

// socket keeps its folder open: closing removes the file by the path through it.
type socket struct {
	net.Listener
	close func() error
}

func (s *socket) Close() error { return s.close() }

// ClientIn is a client of the daemon that has the spool in the folder dir, whatever host its
// requests name. Where none listens, requests fail with fs.ErrNotExist or ECONNREFUSED.
func ClientIn(dir string) *http.Client {
	return &http.Client{Timeout: answerTime, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			folder, err := os.Open(dir)
			if err != nil {
				return nil, err
			}
			c, err := new(net.Dialer).DialContext(ctx, "unix", within(folder))
			return c, errors.Join(err, folder.Close())
		},
	}}
}
