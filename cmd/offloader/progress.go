package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"
	"unicode/utf8"

	"golang.org/x/term"

	"github.com/offloader/offloader/internal/httpapi"
	"github.com/offloader/offloader/internal/source"
	"github.com/offloader/offloader/internal/syncer"
)

const (
	drawEvery = 250 * time.Millisecond // on a terminal
	tellEvery = 5 * time.Second        // in a log
)

// showProgress tells of full syncs while they last, until ctx ends: on one line of a terminal, or
// in the log where line is nil.
func showProgress(ctx context.Context, line *liveLine, log *slog.Logger, sources func(time.Time) []httpapi.Source) error {
	every := tellEvery
	if line != nil {
		every = drawEvery
		defer line.show("")
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-tick.C:
			if all := sources(now); line != nil {
				line.show(syncLine(all, now))
			} else {
				logSyncs(log, all, now)
			}
		}
	}
}

// syncLine tells of the first full sync, and how many more there are. "" where there is none.
func syncLine(sources []httpapi.Source, now time.Time) string {
	text, more := "", 0
	for _, s := range sources {
		switch {
		case s.State != "syncing":
		case text == "":
			text = s.Name + ": full sync, " + syncText(s.Status, now)
		default:
			more++
		}
	}
	if more > 0 {
		text += fmt.Sprintf(" (and %d more)", more)
	}
	return text
}

func logSyncs(log *slog.Logger, sources []httpapi.Source, now time.Time) {
	for _, s := range sources {
		if s.State != "syncing" {
			continue
		}
		args := []any{"source", s.Name, "phase", s.Phase}
		if t := s.Transfer; t != nil {
			args = append(args, "bytes", t.Bytes)
			if t.Total >= 0 {
				args = append(args, "total", t.Total)
			}
			args = append(args, "rate", size(int64(t.Rate))+"/s")
			if t.LeftSeconds >= 0 {
				args = append(args, "left", span(toDuration(t.LeftSeconds)))
			}
		} else {
			args = append(args, "for", span(now.Sub(s.PhaseSince.Go())))
		}
		log.Info("full sync", args...)
	}
}

// syncText is what a full sync is doing: phase, bytes, rate, time left.
func syncText(s source.Status, now time.Time) string {
	switch {
	case s.Transfer != nil:
		return transferred(s.Transfer)
	case s.Phase == syncer.Saving:
		return fmt.Sprintf("the master makes its RDB, for %s now", span(now.Sub(s.PhaseSince.Go())))
	}
	return string(s.Phase)
}

// transferred is how far an RDB has come.
func transferred(t *source.Transfer) string {
	text := "receiving, " + size(t.Bytes)
	if t.Total > 0 {
		text += fmt.Sprintf(" of %s (%d %%)", size(t.Total), 100*t.Bytes/t.Total)
	}
	text += ", " + size(int64(t.Rate)) + "/s"
	if t.LeftSeconds >= 0 {
		text += ", " + span(toDuration(t.LeftSeconds)) + " left"
	}
	return text
}

func toDuration(seconds float64) time.Duration {
	return time.Duration(min(seconds, 1e9) * float64(time.Second)) // 1e9: 30 years
}

// liveLine is a terminal's last line, drawn over and over while other lines pass above it.
type liveLine struct {
	mu   sync.Mutex
	out  io.Writer
	text string
}

// erase goes to the line's beginning and clears it.
const erase = "\r\x1b[K"

// show draws the line anew; "" takes it away.
func (l *liveLine) show(text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if f, ok := l.out.(*os.File); ok {
		if width, _, err := term.GetSize(int(f.Fd())); err == nil && width > 1 && utf8.RuneCountInString(text) >= width {
			text = string([]rune(text)[:width-1]) // a line that wraps can't be cleared
		}
	}
	if text == l.text {
		return
	}
	l.text = text
	_, _ = io.WriteString(l.out, erase+text) // progress that nobody sees is no reason to stop
}

// Write puts whole lines above the live one.
func (l *liveLine) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.text == "" {
		return l.out.Write(p)
	}
	if _, err := io.WriteString(l.out, erase+string(p)+l.text); err != nil {
		return 0, err
	}
	return len(p), nil
}
