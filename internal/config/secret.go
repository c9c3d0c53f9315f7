package config

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"strings"
)

// A Secret prints as stars, so that it can't get into a log or a status by mistake.
type Secret string

func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return "***"
}

// GoString, LogValue and MarshalText keep it out of %#v, slog and JSON too.
func (s Secret) GoString() string             { return s.String() }
func (s Secret) LogValue() slog.Value         { return slog.StringValue(s.String()) }
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// maxSecret is more than any password has.
const maxSecret = 64 << 10

// ReadPassword reads a file that holds a password, without the newline that editors put behind
// it. The warning is for people, "" where there is none.
func ReadPassword(file string) (password Secret, warning string, err error) {
	info, err := os.Stat(file)
	if err != nil {
		return "", "", fmt.Errorf("read the password: %w", err)
	}
	if !info.Mode().IsRegular() && info.Mode()&fs.ModeNamedPipe == 0 {
		return "", "", fmt.Errorf("read the password: %s is not a file", file)
	}
	f, err := os.Open(file)
	if err != nil {
		return "", "", fmt.Errorf("read the password: %w", err)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	if err := errors.Join(err, f.Close()); err != nil {
		return "", "", fmt.Errorf("read the password: %w", err)
	}
	if len(text) > maxSecret {
		return "", "", fmt.Errorf("read the password: %s has more than %d bytes, that is no password", file, maxSecret)
	}
	password = Secret(strings.TrimSuffix(strings.TrimSuffix(string(text), "\n"), "\r"))
	if password == "" {
		return "", "", fmt.Errorf("read the password: %s is empty", file)
	}
	if readableByAll(info.Mode()) {
		warning = file + " holds a password and can be read by everyone: chmod o-r it"
	}
	return password, warning, nil
}

func readableByAll(m fs.FileMode) bool { return m.IsRegular() && m&0o004 != 0 }

// TLS is how a connection is encrypted. Empty fields: the system's roots, no certificate of our
// own, the address's host as the server's name.
type TLS struct {
	CAFile, CertFile, KeyFile, ServerName string
}

// Config reads the files. It is called for each connection's options, so renewed certificates
// are taken at the next reload.
func (t TLS) Config() (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.ServerName}
	if t.CAFile != "" {
		if err := t.roots(c); err != nil {
			return nil, err
		}
	}
	if t.CertFile != "" {
		if err := t.certificate(c); err != nil {
			return nil, err
		}
	}
	return c, nil
}

func (t TLS) roots(c *tls.Config) error {
	pem, err := readPEM(t.CAFile)
	if err != nil {
		return fmt.Errorf("read the roots: %w", err)
	}
	c.RootCAs = x509.NewCertPool()
	if !c.RootCAs.AppendCertsFromPEM(pem) {
		return fmt.Errorf("read the roots: %s holds no certificate in PEM form", t.CAFile)
	}
	return nil
}

func (t TLS) certificate(c *tls.Config) error {
	cert, err := readPEM(t.CertFile)
	if err != nil {
		return fmt.Errorf("read our certificate: %w", err)
	}
	key, err := readPEM(t.KeyFile)
	if err != nil {
		return fmt.Errorf("read our certificate's key: %w", err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return fmt.Errorf("use %s with the key %s: %w", t.CertFile, t.KeyFile, err)
	}
	c.Certificates = []tls.Certificate{pair}
	return nil
}

// maxPEM bounds certificate files; a distribution's whole set of roots has 220 KiB.
const maxPEM = 8 << 20

func readPEM(file string) ([]byte, error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxPEM {
		return nil, fmt.Errorf("%s is not a file of certificates", file)
	}
	return os.ReadFile(file)
}
