package main

import (
	"log/slog"
	"net"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"github.com/offloader/offloader/internal/config"
	"github.com/offloader/offloader/internal/running"
)

// toFlags name a server to restore into, and how to get in.
type toFlags struct {
	to, conflict              string
	username, passwordFile    string
	caFile, certFile, keyFile string
}

// ofTo are the flags that go with --to only.
var ofTo = []string{"conflict", "username", "password-file", "ca-file", "cert-file", "key-file"}

func (f *toFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.to, "to", "", "the server to restore into, a `URL`: redis://HOST:PORT, rediss:// with TLS")
	flags.StringVar(&f.conflict, "conflict", "", "what becomes of keys that the server holds: skip (they stay) or replace (all go)")
	flags.StringVar(&f.username, "username", "", "the server's user, with --to (default that of the URL)")
	flags.StringVar(&f.passwordFile, "password-file", "", "`FILE` with the server's password, with --to\n(default OFFLOADER_TO_PASSWORD, or that of the URL)")
	flags.StringVar(&f.caFile, "ca-file", "", "`FILE` with the authorities that the server's certificate may be signed by,\nin PEM form (default the system's)")
	flags.StringVar(&f.certFile, "cert-file", "", "`FILE` with a certificate to show to the server, in PEM form")
	flags.StringVar(&f.keyFile, "key-file", "", "`FILE` with its key")
	_ = cmd.RegisterFlagCompletionFunc("conflict", cobra.FixedCompletions([]string{string(running.Skip), string(running.Replace)}, cobra.ShellCompDirectiveNoFileComp))
}

// toServer is the server of --to, a zero one where there is none.
func (a *app) toServer(f restoreFlags, given func(string) bool) (s running.Server, conflict running.Conflict, err error) {
	if !given("to") {
		for _, name := range ofTo {
			if given(name) {
				return s, "", usagef("say --to redis://HOST:PORT too, or leave it out", "--%s goes with --to", name)
			}
		}
		return s, "", nil
	}
	if f.output != "" || given("format") {
		return s, "", usagef("keep one", "--output and --format write a folder, and --to is a server")
	}
	if given("conflict") {
		if conflict, err = running.ParseConflict(f.conflict); err != nil {
			return s, "", usagef("", "%v", err)
		}
	}
	u, err := serverURL(f.to)
	if err != nil {
		return s, "", err
	}
	s = running.Server{Address: u.Host, Username: u.User.Username(), Name: u.Scheme + "://" + u.Host}
	var open bool
	if s.Password, open = u.User.Password(); open {
		a.term.say("offloader: warning: everybody on this machine can read the password in --to: OFFLOADER_TO_PASSWORD and --password-file hide it")
	}
	if given("username") {
		s.Username = f.username
	}
	if password, set := a.env("OFFLOADER_TO_PASSWORD"); set {
		s.Password = password
	}
	if f.passwordFile != "" {
		password, warning, err := config.ReadPassword(f.passwordFile)
		if err != nil {
			return s, "", usagef("", "--password-file: %v", err)
		}
		if warning != "" {
			a.term.say("offloader: warning: %s", warning)
		}
		s.Password = string(password)
	}
	if s.Username != "" && s.Password == "" {
		return s, "", usagef("say it in OFFLOADER_TO_PASSWORD or --password-file", "there is a user, %s, and no password for it", s.Username)
	}
	err = f.secure(&s, u.Scheme == "rediss")
	return s, conflict, err
}

// secure sets the server's TLS.
func (f toFlags) secure(s *running.Server, secured bool) (err error) {
	switch {
	case !secured && f.caFile+f.certFile+f.keyFile != "":
		return usagef("say rediss://", "--ca-file, --cert-file and --key-file are for TLS, and %s is without", s.Name)
	case !secured:
		return nil
	case (f.certFile == "") != (f.keyFile == ""):
		return usagef("give both", "--cert-file and --key-file go together")
	}
	if s.TLS, err = (config.TLS{CAFile: f.caFile, CertFile: f.certFile, KeyFile: f.keyFile}).Config(); err != nil {
		return usagef("", "%v", err)
	}
	return nil
}

// serverURL reads --to. What is wrong with it is said without it: a password may stand in it.
func serverURL(to string) (*url.URL, error) {
	const say = "say redis://HOST:PORT, or rediss://HOST:PORT with TLS"
	u, err := url.Parse(to)
	switch {
	case err != nil:
		return nil, usagef(say, "--to is no URL")
	case u.Scheme != "redis" && u.Scheme != "rediss":
		return nil, usagef(say, "--to is no server's URL: it begins with %q", u.Scheme)
	case u.RawQuery != "" || u.Fragment != "":
		return nil, usagef(say, "--to has something behind HOST:PORT that isn't known")
	case strings.Trim(u.Path, "/") != "" && u.Path != "/0":
		return nil, usagef("leave it out", "--to ends in %s, and databases keep the numbers that they have in the source", u.Path)
	case u.Hostname() == "":
		return nil, usagef(say, "--to names no host")
	}
	port := u.Port()
	if port == "" {
		port = "6379"
	}
	if u.Host, err = config.Address(net.JoinHostPort(u.Hostname(), port)); err != nil {
		return nil, usagef("", "--to: %v", err)
	}
	return u, nil
}

// quietLogger tells what is wrong, and nothing else.
func (a *app) quietLogger() *slog.Logger {
	return slog.New(slog.NewTextHandler(a.term.err, &slog.HandlerOptions{Level: slog.LevelError}))
}
