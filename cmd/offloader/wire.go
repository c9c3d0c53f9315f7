package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/offloader/offloader/internal/check"
	"github.com/offloader/offloader/internal/config"
)

// masterFlags let `run` and `check` do without a configuration: one source, called main.
type masterFlags struct {
	master       string
	username     string
	passwordFile string
}

func (m *masterFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&m.master, "master", "", "archive this `HOST:PORT` without a configuration, as source main, into --archive")
	flags.StringVar(&m.username, "username", "", "the master's user, with --master (default OFFLOADER_USERNAME)")
	flags.StringVar(&m.passwordFile, "password-file", "", "`FILE` with the master's password, with --master\n(default OFFLOADER_PASSWORD, or a prompt on a terminal)")
}

// configuration is the file's, or one that is made of --master and --archive. Warnings are said.
func (a *app) configuration(ctx context.Context, m masterFlags) (*config.Config, error) {
	if m.master == "" {
		if m.username != "" || m.passwordFile != "" {
			return nil, usagef("a configuration has \"username\" and \"password_file\" of each source", "--username and --password-file go with --master")
		}
		if a.archiveURL != "" {
			return nil, usagef("say --master HOST:PORT too, or leave it out", "--archive goes with --master here")
		}
		return a.loadConfig(config.Load, ", or --master HOST:PORT and --archive DIR")
	}
	if a.configFile != "" {
		return nil, usagef("keep one", "--config and --master don't go together")
	}
	if a.archiveURL == "" {
		return nil, usagef("say where the archive goes: --archive DIR", "--master needs --archive")
	}
	archive, err := place(a.archiveURL)
	if err != nil {
		return nil, err
	}
	c := config.Default()
	source := config.Source{Name: "main", Username: m.username}
	if source.Address, err = config.Address(m.master); err != nil {
		return nil, usagef("", "--master: %v", err)
	}
	if source.Username == "" {
		source.Username, _ = a.env("OFFLOADER_USERNAME")
	}
	if source.Password, err = a.password(ctx, m.passwordFile, source); err != nil {
		return nil, err
	}
	c.Sources = []config.Source{source}
	c.Stores = []config.Store{archive}
	if archive.Type == config.TypeDisk { // a bucket has no place for one: it stays at the default
		c.Spool.Path = filepath.Join(archive.Path, ".spool")
	}
	return c, nil
}

// loadConfig reads --config, or the default file when it exists, by config.Load or
// config.LoadToRead. instead is what may be said in place of --config.
func (a *app) loadConfig(load func(string, config.Env) (*config.Config, []string, error), instead string) (*config.Config, error) {
	file := a.configFile
	if file == "" {
		file = config.DefaultPath
		if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
			return nil, usagef("say --config FILE"+instead, "there is no configuration: %s doesn't exist", file)
		}
	}
	c, warnings, err := load(file, a.env)
	for _, w := range warnings {
		a.term.say("offloader: warning: %s", w)
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return nil, usagef("", "%v", err)
	}
	return c, err
}

// password comes from a file, the environment, or whoever sits at the terminal, if a user is named
// or the master asks for one; never from an argument, which everybody on the machine can read.
func (a *app) password(ctx context.Context, file string, source config.Source) (config.Secret, error) {
	if file != "" {
		password, warning, err := config.ReadPassword(file)
		if err != nil {
			return "", usagef("", "--password-file: %v", err)
		}
		if warning != "" {
			a.term.say("offloader: warning: %s", warning)
		}
		return password, nil
	}
	if password, set := a.env("OFFLOADER_PASSWORD"); set {
		return config.Secret(password), nil
	}
	if !term.IsTerminal(int(a.in.Fd())) {
		if source.Username != "" {
			return "", usagef("say it in OFFLOADER_PASSWORD or --password-file, or on a terminal", "there is a user, %s, and no password for it", source.Username)
		}
		return "", nil
	}
	who := source.Address
	if source.Username != "" {
		who = source.Username + " at " + who
	} else if master := (check.Master{Address: source.Address, Timeout: timeout}); !master.NeedsPassword(ctx) {
		return "", nil
	}
	_, _ = fmt.Fprintf(a.term.err, "Password of %s: ", who)
	typed, err := term.ReadPassword(int(a.in.Fd()))
	a.term.say("")
	if err != nil {
		return "", fmt.Errorf("read the password: %w", err)
	}
	return config.Secret(typed), nil
}

// timeout is how long a person waits for a server's answer.
const timeout = 10 * time.Second

// connection is how a source's TLS is set, nil for none.
func connection(s config.Source) (*tls.Config, error) {
	if s.TLS == nil {
		return nil, nil
	}
	c, err := s.TLS.Config()
	if err != nil {
		return nil, fmt.Errorf("source %s: %w", s.Name, err)
	}
	return c, nil
}
