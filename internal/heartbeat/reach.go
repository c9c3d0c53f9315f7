package heartbeat

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
)

// ports are those of URLs, and of proxies, that name none.
var ports = map[string]string{"http": "80", "https": "443", "socks5": "1080", "socks5h": "1080"}

// Reach connects to whoever is called by a URL, and hangs up: a call would say that all is well. It tells
// what it has reached, and no more of the URL than its host.
func Reach(ctx context.Context, address string) (reached string, err error) {
	return reach(ctx, address, &tls.Config{MinVersion: tls.VersionTLS12})
}

func reach(ctx context.Context, address string, c *tls.Config) (string, error) {
	u, err := url.Parse(address)
	if err != nil {
		return "", errors.New("that is no URL") // err has it
	}
	proxy, err := http.ProxyFromEnvironment(&http.Request{URL: u})
	if err != nil {
		return "", errors.New("the environment's proxy is no URL") // it may hold a password
	}
	if proxy != nil {
		if err := connect(ctx, proxy, nil); err != nil {
			return "", fmt.Errorf("the proxy %s can't be reached: %w", proxy.Host, err)
		}
		return fmt.Sprintf("the proxy %s, by which %s is called, takes a connection", proxy.Host, u.Host), nil
	}
	if u.Scheme != "https" {
		c = nil
	}
	if err := connect(ctx, u, c); err != nil {
		return "", fmt.Errorf("%s can't be reached: %w", u.Host, err)
	}
	if c != nil {
		return u.Host + " takes a connection, and has a certificate that is trusted here", nil
	}
	return u.Host + " takes a connection", nil
}

// connect makes a connection and ends it.
func connect(ctx context.Context, u *url.URL, c *tls.Config) error {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), ports[u.Scheme])))
	if err != nil || c == nil {
		return errors.Join(err, hangUp(conn))
	}
	c = c.Clone()
	c.ServerName = u.Hostname()
	secure := tls.Client(conn, c)
	err = secure.HandshakeContext(ctx)
	return errors.Join(err, hangUp(conn))
}

// hangUp ends a connection, if there is one. A handshake that failed may have ended it.
func hangUp(conn net.Conn) error {
	if conn == nil {
		return nil
	}
	if err := conn.Close(); !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}
