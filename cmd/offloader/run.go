package main

import (
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/offloader/offloader/internal/config"
)

func (a *app) runCommand() *cobra.Command {
	var m masterFlags
	var format, level string
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Archive the masters of the configuration, in the foreground",
		Long: `Attach to the masters as a replica and archive their replication streams, until
SIGTERM or SIGINT: then what has come is made durable, brought to the store if that takes seconds
only, and the daemon leaves. A second signal ends it at once; nothing acknowledged is lost by that
either. SIGHUP reads the configuration again: sources that are new, gone or changed are started
and stopped, the others don't notice.

Without a configuration, --master and --archive archive one master as source "main". The password
comes from OFFLOADER_PASSWORD, --password-file or a prompt. What isn't in the archive yet lies in its
folder .spool; where the archive is a bucket, s3://bucket/prefix, it lies in
` + config.DefaultSpool + `, and the credentials come from AWS's environment.

What happens is logged to standard error. See ` + "`offloader status`" + ` for what it is doing.

Exit codes: 0 told to leave; 1 failed; 2 wrong usage or configuration.`,
		Example: "  offloader run\n  offloader run --config offloader.yaml --log-format json\n  offloader run --master 127.0.0.1:6379 --archive /srv/archive",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			hup := make(chan os.Signal, 1)
			signal.Notify(hup, syscall.SIGHUP) // from here on, since it would end us
			defer signal.Stop(hup)
			line := &liveLine{out: a.term.err}
			log, err := newLogger(format, level, line)
			if err != nil {
				return err
			}
			c, err := a.configuration(cmd.Context(), m)
			if err != nil {
				return err
			}
			d := &daemon{log: log, config: c, hup: hup, bound: func(sources, relays int) { boundMemory(a.env, sources, relays) }}
			if a.term.live && format == "text" {
				d.line = line
			}
			if m.master == "" {
				d.load = func() (*config.Config, error) { return a.loadConfig(config.Load, "") }
			}
			return d.run(cmd.Context())
		},
	}
	m.add(cmd)
	cmd.Flags().StringVar(&format, "log-format", "text", "`text` or json")
	cmd.Flags().StringVar(&level, "log-level", "info", "debug, `info`, warn or error")
	return cmd
}

// newLogger logs to w.
func newLogger(format, level string, w io.Writer) (*slog.Logger, error) {
	levels := map[string]slog.Level{"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError}
	l, known := levels[strings.ToLower(level)]
	if !known {
		return nil, usagef("there is debug, info, warn, error", "--log-level %q is not known", level)
	}
	o := &slog.HandlerOptions{Level: l}
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(w, o)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, o)), nil
	}
	return nil, usagef("there is text and json", "--log-format %q is not known", format)
}

// boundMemory has the collector work harder when memory comes near to what so many sources should
// take: 64 MiB for one and 256 MiB for 40, of which the runtime and the program are a part. Usually
// they take half of that. A relay whose replicas all read from the stores at once takes some 2 MiB for each. Who has set GOMEMLIMIT knows better.
func boundMemory(env config.Env, sources, relays int) {
	if _, set := env("GOMEMLIMIT"); !set {
		debug.SetMemoryLimit(40<<20 + int64(sources-1)*4<<20 + int64(relays)*40<<20)
	}
}
