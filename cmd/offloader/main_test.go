package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/config"
	"github.com/offloader/offloader/internal/crypt"
	"github.com/offloader/offloader/internal/export"
	"github.com/offloader/offloader/internal/plan"
	"github.com/offloader/offloader/internal/replay"
)

func TestExitCodes(t *testing.T) {
	damage := &archive.DamageError{Name: "f", What: "it is cut"}
	tests := []struct {
		err  error
		want int
	}{
		{nil, 0},
		{errors.New("x"), 1},
		{fs.ErrNotExist, 1},
		{context.Canceled, 1},
		{usagef("", "x"), 2},
		{notYet("x"), 2},
		{fmt.Errorf("read: %w", config.Errors{{Msg: "x"}}), 2},
		{&plan.SyntaxError{}, 2},
		{&plan.AmbiguousError{}, 2},
		{&plan.UnknownTimelineError{}, 2},
		{fmt.Errorf("open: %w", &crypt.IdentityError{}), 2},
		{&plan.UnreachableError{}, 3},
		{fmt.Errorf("restore: %w", &plan.UnreachableError{}), 3},
		{damage, 4},
		{&replay.DamagedError{Damage: damage}, 4},
		{&plan.DoubtError{Damage: damage}, 4},
		{&emptyError{"nothing"}, 3},
		{&betweenError{}, 3},
		{&export.CheckError{Why: damage}, 1},
		{errors.Join(nil, damage), 4},
		{errors.Join(&plan.UnreachableError{}, damage), 4},
	}
	for _, tt := range tests {
		require.Equal(t, tt.want, exitCode(tt.err), "%T", tt.err)
	}
}

// words is a terminal that remembers.
func words() (*terminal, *bytes.Buffer, *bytes.Buffer) {
	out, err := &bytes.Buffer{}, &bytes.Buffer{}
	return &terminal{out: out, err: err}, out, err
}

func TestErrorsAreToldOneByOne(t *testing.T) {
	term, out, err := words()
	term.fail(errors.Join(
		usagef("do that", "first"),
		config.Errors{{File: "c", Line: 1, Col: 2, Msg: "second"}, {File: "c", Line: 3, Col: 4, Msg: "third"}},
		fmt.Errorf("fourth: %w and %w", usagef("do this", "a"), errors.New("b")),
	))
	require.Equal(t, "offloader: first\noffloader: hint: do that\noffloader: c:1:2: second\noffloader: c:3:4: third\noffloader: fourth: a and b\noffloader: hint: do this\n", err.String())
	require.Empty(t, out.String())
}

func TestTables(t *testing.T) {
	term, out, _ := words()
	rows := [][]cell{{{"a", "31"}, {"1", ""}, {"x y", ""}}, {{"größer", ""}, {"1,000", ""}, {"", ""}}}
	require.NoError(t, term.table(" ", "lr", rows))
	require.Equal(t, " a           1  x y\n größer  1,000\n", out.String())

	out.Reset()
	term.colour = true
	require.NoError(t, term.table("", "", rows[:1]))
	require.Equal(t, "\x1b[31ma\x1b[0m  1  x y\n", out.String())
}

// Files and pipes get neither colour nor bars, and no-color.org is obeyed.
func TestColour(t *testing.T) {
	f, err := os.CreateTemp(t.TempDir(), "")
	require.NoError(t, err)
	defer func() { require.NoError(t, f.Close()) }()
	term := newTerminal(f, f, func(string) string { return "" })
	require.False(t, term.colour || term.messagesColours || term.live)
	show, end := term.progress("x")
	require.Nil(t, show)
	end()
	require.Equal(t, "x", term.red("x"))
}

func TestFormats(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second: "0 µs", 30 * time.Microsecond: "30 µs", 250 * time.Millisecond: "250 ms", 1500 * time.Millisecond: "1.5 s",
		3*time.Minute + 4*time.Second: "3 m 4 s", 26*time.Hour + 5*time.Minute: "26 h 5 m", 75 * time.Hour: "3 d 3 h",
	} {
		require.Equal(t, want, span(d))
	}
	require.Equal(t, "1.5 GiB", size(3<<29))
	require.Equal(t, "0 B", size(-1))
	require.Equal(t, "1,234,567", count(1234567))
	require.Equal(t, "1 segment", plural(1, "segment", "segments"))
	require.Equal(t, "0 segments", plural(0, "segment", "segments"))
}

func TestPlaces(t *testing.T) {
	for url, want := range map[string]string{"/a/b/": "/a/b", "a": "a", "file:///a%20b": "/a b"} {
		got, err := place(url)
		require.NoError(t, err)
		require.Equal(t, config.Store{Type: "disk", Path: want}, got)
	}
	got, err := place("s3://b/p/?region=eu-west-1")
	require.NoError(t, err)
	require.Equal(t, config.Store{Type: "s3", UploadInterval: config.DefaultUploadInterval, S3: config.S3{Bucket: "b", Prefix: "p", Region: "eu-west-1"}}, got)
	for _, url := range []string{"s3://b/p?reqion=x", "file://host/x", "http://x", ""} {
		_, err := place(url)
		require.Equal(t, exitUsage, exitCode(err), url)
	}
}

// Root may read every spool, so what others see is made here.
func TestASpoolOfAnotherUser(t *testing.T) {
	err := spoolError(fmt.Errorf("look into the spool: %w", &fs.PathError{Op: "open", Path: "/var/lib/offloader/spool", Err: fs.ErrPermission}))
	require.EqualError(t, err, "look into the spool: open /var/lib/offloader/spool: permission denied")
	var hinted interface{ Hint() string }
	require.ErrorAs(t, err, &hinted)
	require.Contains(t, hinted.Hint(), "run this as the user that the daemon runs as, or as root")
	require.Equal(t, 1, exitCode(err))
	require.Equal(t, io.EOF, spoolError(io.EOF))
}
