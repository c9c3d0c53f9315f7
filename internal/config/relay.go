package config

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
)

// Relay is where replicas of a source attach.
type Relay struct {
	Listen   string // host:port
	Username string // "" for the default user
	Password Secret // "" for none, on the loopback only
	TLS      *RelayTLS
}

// Same tells whether a daemon can go on as it is, as far as the fields tell: TLS files may hold others.
func (a *Relay) Same(b *Relay) bool {
	if a == nil || b == nil {
		return a == b
	}
	x, y := *a, *b
	if (x.TLS == nil) != (y.TLS == nil) || x.TLS != nil && *x.TLS != *y.TLS {
		return false
	}
	x.TLS, y.TLS = nil, nil
	return x == y
}

// RelayTLS is how those who connect find out who we are, and, with a CAFile, have to say who they are.
type RelayTLS struct{ CertFile, KeyFile, CAFile string }

// Config reads the files.
func (t RelayTLS) Config() (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	as := TLS{CAFile: t.CAFile, CertFile: t.CertFile, KeyFile: t.KeyFile}
	if err := as.certificate(c); err != nil {
		return nil, err
	}
	if t.CAFile != "" {
		if err := as.roots(c); err != nil {
			return nil, err
		}
		c.ClientAuth, c.ClientCAs, c.RootCAs = tls.RequireAndVerifyClientCert, c.RootCAs, (*x509.CertPool)(nil)
	}
	return c, nil
}

// relayAt is a relay that was read, and where.
type relayAt struct {
	place
	listen string
}

func (r *reader) relay(n node, s *Source) {
	l := &Relay{}
	var file string
	for _, name := range []string{"listen", "username", "password", "password_file"} {
		delete(r.where, "relay."+name) // of another source
	}
	given := r.mapping(n, "relay", []field{
		{"listen", func(n node) { r.value(n, &l.Listen, listen) }},
		{"username", func(n node) { r.value(n, &l.Username, notEmpty) }},
		{"password", func(n node) { r.password(n, &l.Password) }},
		{"password_file", func(n node) { r.value(n, &file, notEmpty); r.passwordFile(n, file, &l.Password) }},
		{"tls", func(n node) { l.TLS = r.relayTLS(n) }},
	})
	switch at := r.where["relay.listen"]; {
	case given == nil:
		return
	case !given["listen"]:
		r.fail(r.at(n), `this relay has no "listen": say where replicas attach, like 10.0.0.9:6390`)
		return
	case l.Listen == "": // its own error was told
		return
	case given["password"] && given["password_file"]:
		r.fail(r.where["relay.password_file"], `both "password" and "password_file" are given: keep one`)
	case given["username"] && !given["password"] && !given["password_file"]:
		r.fail(r.where["relay.username"], `there is a "username" and no password for it: add "password_file"`)
	case !given["password"] && !given["password_file"] && !Loopback(l.Listen):
		r.fail(at, fmt.Sprintf(`%s can be reached from other hosts, and everybody there could copy the data: add "password_file", or listen on 127.0.0.1`, l.Listen))
	}
	if _, port, err := net.SplitHostPort(l.Listen); err == nil && port == "0" {
		r.fail(r.where["relay.listen"], "port 0 is a free one, another at each start: replicas need one that stays")
	}
	r.relays = append(r.relays, relayAt{r.where["relay.listen"], l.Listen})
	s.Relay = l
}

func (r *reader) relayTLS(n node) *RelayTLS {
	t := &RelayTLS{}
	given := r.mapping(n, "tls", []field{
		{"cert_file", func(n node) { r.value(n, &t.CertFile, path) }},
		{"key_file", func(n node) { r.value(n, &t.KeyFile, path) }},
		{"ca_file", func(n node) { r.value(n, &t.CAFile, path) }},
	})
	if given == nil {
		return nil
	}
	if !given["cert_file"] || !given["key_file"] {
		r.fail(r.at(n), `replicas are shown a certificate: "tls" of a relay needs "cert_file" and "key_file"`)
		return nil
	}
	if t.CertFile == "" || t.KeyFile == "" {
		return nil // told already
	}
	if _, err := t.Config(); err != nil {
		r.fail(r.where["tls.cert_file"], err.Error())
	}
	return t
}

// relaysWork refuses relays that can't read what they are to serve, and two listeners at one address.
func (r *reader) relaysWork(c *Config) {
	taken := map[string]string{c.HTTP.Listen: "http"}
	for _, l := range r.relays {
		if err := c.Encryption.CanRead("a relay"); err != nil {
			r.fail(l.place, err.Error())
		}
		if other, twice := taken[l.listen]; twice {
			r.fail(l.place, fmt.Sprintf("%s is where %s listens already", l.listen, other))
		}
		taken[l.listen] = "another source's relay"
	}
}
