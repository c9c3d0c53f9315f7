package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	systemd "github.com/coreos/go-systemd/v22/daemon"

	"github.com/offloader/offloader/internal/httpapi"
)

const (
	// untilReady is how often the sources are looked at until all have begun.
	untilReady  = 50 * time.Millisecond
	notifyEvery = time.Second
	// mostNamed is how many sources the status line tells of, one by one.
	mostNamed = 5
)

// notifier tells systemd how the daemon is (sd_notify(3)). Without systemd it says nothing.
type notifier struct {
	log     *slog.Logger
	sources func(now time.Time) []httpapi.Source
	said    string // the last status line
}

// run speaks until ctx ends. When alive ends the daemon is stopping. A sign of life is sent only
// after every source has answered: one whose locks are stuck keeps it back, and systemd starts the
// daemon anew.
func (n *notifier) run(alive, ctx context.Context) error {
	if os.Getenv("NOTIFY_SOCKET") == "" {
		return nil
	}
	every := notifyEvery
	watched, err := systemd.SdWatchdogEnabled(false)
	if err != nil {
		n.log.Warn("systemd's watchdog is set wrongly", "error", err)
	}
	if watched > 0 {
		every = min(every, watched/3)
	}
	tick := time.NewTicker(untilReady)
	defer tick.Stop()
	stopping := alive.Done()
	for ready := false; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-stopping:
			n.send(systemd.SdNotifyStopping)
			stopping = nil
		case <-tick.C:
		}
		sources := n.sources(time.Now())
		if !ready && begun(sources) {
			ready = true
			n.ready()
			tick.Reset(every)
		}
		if watched > 0 {
			n.send(systemd.SdNotifyWatchdog)
		}
		if line := statusLine(sources); line != n.said {
			n.said = line
			n.send("STATUS=" + line)
		}
	}
}

// begun tells whether all sources have opened their spools, or failed to.
func begun(sources []httpapi.Source) bool {
	for _, s := range sources {
		if s.Phase == "" {
			return false
		}
	}
	return len(sources) > 0
}

func (n *notifier) ready() { n.send(systemd.SdNotifyReady) }

// reloading says that a reload has begun; ready ends it. systemd compares the time with its own.
func (n *notifier) reloading() {
	n.send(systemd.SdNotifyReloading + "\n" + strings.TrimSpace(systemd.SdNotifyMonotonicUsec()))
}

func (n *notifier) send(state string) {
	if _, err := systemd.SdNotify(false, state); err != nil {
		n.log.Debug("systemd could not be told", "state", state, "error", err)
	}
}

// statusLine is what `systemctl status` shows.
func statusLine(sources []httpapi.Source) string {
	var parts []string
	streaming := 0
	for _, s := range sources {
		if s.State == "streaming" {
			streaming++
		}
		if len(sources) > mostNamed && s.State == "streaming" && s.Ended == "" {
			continue // the others are the news
		}
		part := s.Name + ": " + s.State
		switch {
		case s.State == "streaming":
			part += ", " + size(s.NotDurable) + " not yet durable"
		case s.Transfer != nil:
			part += ", " + transferred(s.Transfer)
		case s.Error != "":
			part += ", " + s.Error
		case s.Why != "":
			part += " " + s.Why
		}
		parts = append(parts, part)
	}
	if len(sources) > mostNamed {
		more := max(0, len(parts)-mostNamed)
		parts = append([]string{fmt.Sprintf("%d of %d sources streaming", streaming, len(sources))}, parts[:len(parts)-more]...)
		if more > 0 {
			parts = append(parts, fmt.Sprintf("and %d more", more))
		}
	}
	return strings.ReplaceAll(strings.Join(parts, "; "), "\n", " ")
}
