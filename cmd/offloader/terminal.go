package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/dustin/go-humanize"
	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// terminal is where words come out. Data goes to out, messages and progress to err, so that a
// pipe gets data only. Colour is for terminals, and obeys no-color.org.
type terminal struct {
	out, err        io.Writer
	colour, live    bool // data in colour; progress may be drawn
	messagesColours bool
}

func newTerminal(out, err *os.File, getenv func(string) string) *terminal {
	plain := getenv("NO_COLOR") != "" || getenv("TERM") == "dumb"
	outTTY, errTTY := term.IsTerminal(int(out.Fd())), term.IsTerminal(int(err.Fd()))
	return &terminal{out: out, err: err, colour: outTTY && !plain, messagesColours: errTTY && !plain, live: errTTY}
}

// print writes a line of data. A reader that went away (a closed pipe) is an error: data that
// nobody got was not printed.
func (t *terminal) print(format string, args ...any) error {
	_, err := fmt.Fprintf(t.out, format+"\n", args...)
	return err
}

// say writes a message. There is nobody to tell when that fails.
func (t *terminal) say(format string, args ...any) {
	_, _ = fmt.Fprintf(t.err, format+"\n", args...)
}

// json prints data for programs.
func (t *terminal) json(v any) error {
	e := json.NewEncoder(t.out)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// Colours of messages, on standard error.
func (t *terminal) red(s string) string { return paint(t.messagesColours, "31", s) }
func (t *terminal) dim(s string) string { return paint(t.messagesColours, "2", s) }

func paint(on bool, code, s string) string {
	if !on || code == "" || s == "" {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

// A cell of a table. Colour is a terminal's code ("31" is red), and has no width.
type cell struct{ text, colour string }

// table prints rows in columns two blanks apart. Columns whose name in right has a letter 'r'
// stand to the right: numbers. The last column is not padded.
func (t *terminal) table(indent, align string, rows [][]cell) error {
	var width []int
	for _, row := range rows {
		for i, c := range row {
			if i == len(width) {
				width = append(width, 0)
			}
			width[i] = max(width[i], utf8.RuneCountInString(c.text))
		}
	}
	for _, row := range rows {
		var b strings.Builder
		b.WriteString(indent)
		for i, c := range row {
			pad := strings.Repeat(" ", width[i]-utf8.RuneCountInString(c.text))
			right := i < len(align) && align[i] == 'r'
			if right {
				b.WriteString(pad)
			}
			b.WriteString(paint(t.colour, c.colour, c.text))
			if i < len(row)-1 {
				if !right {
					b.WriteString(pad)
				}
				b.WriteString("  ")
			}
		}
		if err := t.print("%s", strings.TrimRight(b.String(), " ")); err != nil {
			return err
		}
	}
	return nil
}

// size is one for people: 1.5 GiB.
func size(n int64) string { return humanize.IBytes(uint64(max(0, n))) }

// count is a number for people: 1,234,567.
func count(n int64) string { return humanize.Comma(n) }

// span is a duration for people, in two units at most: 1.5 s, 12 m 3 s, 3 d 4 h.
func span(d time.Duration) string {
	d = max(0, d)
	switch {
	case d < time.Millisecond:
		return fmt.Sprintf("%d µs", d.Microseconds())
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < time.Minute:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d < time.Hour:
		return fmt.Sprintf("%d m %d s", int(d.Minutes()), int(d.Seconds())%60)
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h %d m", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%d d %d h", int(d.Hours())/24, int(d.Hours())%24)
}

// clock is an instant for people, local and with its zone, to the millisecond.
func clock(at time.Time) string { return at.Local().Format("2006-01-02 15:04:05.000 MST") }

// progress draws a bar while bytes pass, on a terminal only. total is 0 where nobody knows it.
func (t *terminal) progress(what string) (show func(done, total int64), end func()) {
	if !t.live {
		return nil, func() {}
	}
	bar := progressbar.NewOptions64(-1,
		progressbar.OptionSetWriter(t.err), progressbar.OptionSetDescription(what), progressbar.OptionShowBytes(true), progressbar.OptionShowCount(), progressbar.OptionUseIECUnits(true),
		progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionClearOnFinish(), progressbar.OptionSetWidth(30))
	// A bar that can't be drawn is no reason to stop what it is drawn for.
	show = func(done, total int64) {
		if total > 0 && bar.GetMax64() != total {
			bar.ChangeMax64(total)
		}
		_ = bar.Set64(done)
	}
	return show, func() { _ = bar.Finish() }
}
