package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/offloader/offloader/internal/config"
	"github.com/offloader/offloader/internal/httpapi"
)

func (a *app) statusCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Tell what the running daemon is doing",
		Long: `Ask the running daemon what it is doing: for each source the state of its link, since when
every moment can be restored, what is received, durable and stored, and what is wrong.

The daemon is found by its spool, which --archive DIR has in DIR/.spool, a configuration at
spool.path, and a daemon that runs with --archive s3://… in ` + config.DefaultSpool + `; or else at
http.listen. One that found its configuration wrong at a reload goes on with the one before, and says
what is wrong.

Exit codes: 0 it answered; 1 it didn't, or can't be reached; 2 wrong usage or configuration.`,
		Example: "  offloader status\n  offloader status --archive /srv/archive\n  offloader status --json | jq '.sources[].not_durable_bytes'",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			spool, listen, wrong := a.whereDaemonIs()
			if wrong != nil && spool == "" {
				return wrong
			}
			answer, err := askDaemon(cmd.Context(), spool, listen)
			switch {
			case err != nil && wrong != nil:
				return wrong
			case err != nil:
				return err
			case wrong != nil: // the daemon goes on with the configuration as it was, and says so
				for _, one := range flatten(wrong) {
					a.term.say("offloader: warning: %v", one)
				}
			}
			var report httpapi.Report
			if err := json.Unmarshal(answer, &report); err != nil || report.Version == "" {
				return fmt.Errorf("what answers there is no offloader, or a much newer one: %.100q", answer)
			}
			if a.json {
				_, err := a.term.out.Write(answer)
				return err
			}
			return a.printStatus(report, time.Now())
		},
	}
}

// whereDaemonIs gives the folder of its spool and the address that it serves, "" where not known; also
// beside an error, where that is about other parts of the configuration.
func (a *app) whereDaemonIs() (spool, listen string, err error) {
	if a.archiveURL != "" {
		if a.configFile != "" {
			return "", "", usagef("keep one", "--config and --archive don't go together here")
		}
		archive, err := place(a.archiveURL)
		if archive.Type == config.TypeS3 {
			return config.DefaultSpool, "", err
		}
		return filepath.Join(archive.Path, ".spool"), "", err
	}
	if _, err := os.Stat(config.DefaultPath); a.configFile == "" && errors.Is(err, fs.ErrNotExist) {
		return "", config.DefaultListen, nil
	}
	c, err := a.loadConfig(config.LoadToRead, ", or --archive DIR")
	if c == nil || err != nil && a.configFile != "" && c.Spool.Path == config.DefaultSpool {
		return "", "", err // by what could be read, another daemon might be meant
	}
	if err != nil && c.HTTP.Listen == config.DefaultListen {
		return c.Spool.Path, "", err // nor is another's port this one's because nothing else could be read
	}
	return c.Spool.Path, c.HTTP.Listen, err
}

// A noDaemonError says that nobody answers.
type noDaemonError struct {
	where string
	err   error
}

func (e *noDaemonError) Error() string { return "no daemon runs " + e.where + ": " + e.err.Error() }
func (e *noDaemonError) Unwrap() error { return e.err }

// Hint says what to do.
func (e *noDaemonError) Hint() string {
	if errors.Is(e.err, fs.ErrPermission) {
		return "ask as root, or as the user that it runs as"
	}
	return "start it with `offloader run`, or say where it is: --archive DIR or --config FILE"
}

// maxAnswer bounds what is read of an answer; a source takes 2 KiB.
const maxAnswer = 16 << 20

// askDaemon gets the status by the spool's socket. Where that folder can't be seen from here, as
// from outside of a container, the port is asked; but not where the socket says that there is no
// daemon: it could only be another one.
func askDaemon(ctx context.Context, spool, listen string) ([]byte, error) {
	var errs []error
	if spool != "" {
		answer, err := get(ctx, httpapi.ClientIn(spool), "http://offloader")
		if err == nil {
			return answer, nil
		}
		errs = append(errs, &noDaemonError{"on the spool " + spool, reason(err)})
		_, unseen := os.Stat(spool)
		if listen == "" || unseen == nil && !errors.Is(err, fs.ErrPermission) {
			return nil, errs[0]
		}
	}
	at := "http://" + reachable(listen)
	answer, err := get(ctx, &http.Client{Timeout: timeout}, at)
	if err != nil {
		return nil, errors.Join(append(errs, &noDaemonError{"at " + at, reason(err)})...)
	}
	return answer, nil
}

// orderDaemon has the daemon do something with a source, by the spool's socket, and gives what it answers when
// that is done. It takes as long as it takes.
func orderDaemon(ctx context.Context, spool, source, what string) ([]byte, error) {
	client := httpapi.ClientIn(spool)
	client.Timeout = 0
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://offloader/api/v1/sources/"+url.PathEscape(source)+"/"+what, http.NoBody)
	if err != nil {
		return nil, err
	}
	response, err := client.Do(request)
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err != nil {
		return nil, &noDaemonError{"on the spool " + spool, reason(err)}
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err := errors.Join(err, response.Body.Close()); err != nil {
		return nil, fmt.Errorf("the daemon has left before it was done: %w", err)
	}
	switch text := strings.TrimSpace(string(body)); response.StatusCode {
	case http.StatusOK:
		return body, nil
	case http.StatusNotFound:
		return nil, usagef("`offloader status` names them", "%s: %q", text, source)
	default:
		return nil, errors.New(text)
	}
}

// reachable is where to reach a listener from this host.
func reachable(listen string) string {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return listen
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port)
}

func get(ctx context.Context, client *http.Client, at string) (body []byte, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, at+"/api/v1/status", nil)
	if err != nil {
		return nil, err
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, response.Body.Close()) }()
	body, err = io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("what answers there is no offloader: it said %s", response.Status)
	}
	return body, err
}

// reason is why a request failed, without the words of package net.
func reason(err error) error {
	var call syscall.Errno
	if errors.As(err, &call) {
		return call // "no such file or directory", "connection refused", "permission denied"
	}
	return err
}
