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

	"github.com/offloader/offloader/internal/crypt"
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

// maxSecret is more than any password has, or file of keys.
const maxSecret = 64 << 10

// ReadPassword reads a file that holds a password, without the newline that editors put behind
// it. The warning is for people, "" where there is none.
func ReadPassword(file string) (password Secret, warning string, err error) {
	text, open, err := readSecret(file)
	if err != nil {
		return "", "", fmt.Errorf("read the password: %w", err)
	}
	password = Secret(strings.TrimSuffix(strings.TrimSuffix(string(text), "\n"), "\r"))
	if password == "" {
		return "", "", fmt.Errorf("read the password: %s is empty", file)
	}
	if open {
		warning = file + " holds a password and can be read by everyone: chmod o-r it"
	}
	return password, warning, nil
}

// ReadIdentity reads a file of secret keys that open an encrypted archive.
func ReadIdentity(file string) (identity crypt.Identity, warning string, err error) {
	if crypt.IsSecret(file) { // no error may tell it
		return crypt.Identity{}, "", errors.New("read the identity: this is a secret key itself: name the file that holds it")
	}
	text, open, err := readSecret(file)
	if err != nil {
		return crypt.Identity{}, "", fmt.Errorf("read the identity: %w", err)
	}
	if identity, err = crypt.ParseIdentity(file, text); err != nil {
		return crypt.Identity{}, "", fmt.Errorf("read the identity: %w", err)
	}
	if open {
		warning = file + " holds a secret key and can be read by everyone: chmod o-r it"
	}
	return identity, warning, nil
}

// readSecret gives a file's text, and whether everybody can read it.
func readSecret(file string) (text []byte, open bool, err error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, false, err
	}
	if !info.Mode().IsRegular() && info.Mode()&fs.ModeNamedPipe == 0 {
		return nil, false, fmt.Errorf("%s is not a file", file)
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, false, err
	}
	text, err = io.ReadAll(io.LimitReader(f, maxSecret+1))
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, false, err
	}
	if len(text) > maxSecret {
		return nil, false, fmt.Errorf("%s has more than %d bytes, that is no secret of this kind", file, maxSecret)
	}
	return text, readableByAll(info.Mode()), nil
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
