package running

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

const (
	dialing = 10 * time.Second
	// answering is how long an answer may take: a server that empties or loads a large dataset is busy.
	answering = 2 * time.Minute
)

// dial makes connections to a server.
type dial struct {
	server Server
	client *redis.Client
	local  net.IP // our side of a connection, where the server would find us
	remote net.IP
}

// connect opens the first connection, by ourselves: which step fails is what a user wants to know.
func (d *dial) connect(ctx context.Context) error {
	nc, err := d.line(ctx, d.server.Address)
	if err != nil {
		return connectError(d.server, err)
	}
	if a, ok := nc.LocalAddr().(*net.TCPAddr); ok {
		d.local = a.IP
	}
	if a, ok := nc.RemoteAddr().(*net.TCPAddr); ok {
		d.remote = a.IP
	}
	if err := nc.Close(); err != nil {
		return connectError(d.server, err)
	}
	d.client = d.to(d.server.Address)
	if err := d.client.Ping(ctx).Err(); err != nil && !redis.HasErrorPrefix(err, "MASTERDOWN") {
		return connectError(d.server, err)
	}
	return nil
}

// line is one connection.
func (d *dial) line(ctx context.Context, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialing)
	defer cancel()
	var plain net.Dialer
	nc, err := plain.DialContext(ctx, "tcp", address)
	if err != nil || d.server.TLS == nil {
		return nc, err
	}
	c := d.server.TLS.Clone()
	if c.ServerName == "" {
		if c.ServerName, _, err = net.SplitHostPort(address); err != nil {
			return nil, errors.Join(err, nc.Close())
		}
	}
	secure := tls.Client(nc, c)
	if err := secure.HandshakeContext(ctx); err != nil {
		_ = nc.Close() // the handshake's error is the one to tell
		return nil, &handshakeError{err}
	}
	return secure, nil
}

// to is a client of a server, or of a node of its cluster. It sends what it is told to and nothing twice: an
// INCR that was sent again, because its answer got lost, would count twice.
func (d *dial) to(address string) *redis.Client {
	return redis.NewClient(&redis.Options{
		Addr: address, Username: d.server.Username, Password: d.server.Password,
		Protocol: 2, DisableIdentity: true, PoolSize: 2, MaxRetries: -1, DialerRetries: 1,
		Dialer:      func(ctx context.Context, _, addr string) (net.Conn, error) { return d.line(ctx, addr) },
		ReadTimeout: answering, WriteTimeout: answering, ContextTimeoutEnabled: true,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	})
}

// loopback says that the server is on this host.
func (d *dial) loopback() bool { return d.remote.IsLoopback() }

func (d *dial) close() {
	if d.client != nil {
		_ = d.client.Close() // all that was asked was answered
	}
}
