package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/rogpeppe/go-internal/testscript"
	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/crypt"
	"github.com/offloader/offloader/internal/engine/enginetest"
	"github.com/offloader/offloader/internal/source"
	"github.com/offloader/offloader/internal/spool"
	"github.com/offloader/offloader/internal/store"
	"github.com/offloader/offloader/internal/stream"
	"github.com/offloader/offloader/internal/syncer"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"offloader": main})
}

// The transcripts of testdata/script: what a user types, what comes back, and with which code.
// They find a master at $MASTER, a free port in $FREE, and at $ARCHIVE the archive of a source "cache" (see sample). That at
// $SEALED is encrypted to $RECIPIENT: the identity file $KEY opens it, and $STRANGER doesn't.
func TestScripts(t *testing.T) {
	kind := enginetest.Any(t)
	master := enginetest.Start(t, kind)
	master.Do("ACL", "SETUSER", "reader", "on", ">right", "resetkeys", "resetchannels", "+ping", "+info", "+config|get")
	closed := enginetest.Start(t, kind, "--requirepass", "secret")
	free := enginetest.FreePort(t)
	s := makeSample(t, kind)
	key, stranger := newIdentity(t), newIdentity(t)
	sealed := makeSample(t, kind, key.recipient)
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			e.Setenv("MASTER", master.Addr())
			e.Setenv("CLOSED", closed.Addr())
			e.Setenv("FREE", strconv.Itoa(free))
			e.Setenv("ARCHIVE", s.archive)
			e.Setenv("TIMELINE", s.timeline)
			e.Setenv("BEGIN", s.begin.String())
			e.Setenv("MIDDLE", s.middle.String())
			e.Setenv("INSIDE", (s.middle + 1).String())
			e.Setenv("END", s.end.String())
			e.Setenv("SEALED", sealed.archive)
			e.Setenv("SEALED_MIDDLE", sealed.middle.String())
			e.Setenv("SEALED_INSIDE", (sealed.middle + 1).String())
			e.Setenv("RECIPIENT", key.recipient.String())
			e.Setenv("KEY", key.file)
			e.Setenv("STRANGER", stranger.file)
			e.Setenv("TZ", "UTC")
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"code": code, "flip": flip},
	})
}

// code runs a command and demands its exit code: code 3 offloader restore …
func code(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: code N command [args]")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// flip turns a bit in the middle of the files that a pattern names: flip ar/cache/*/log/*
func flip(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: flip pattern")
	}
	files, err := filepath.Glob(ts.MkAbs(args[0]))
	ts.Check(err)
	if len(files) == 0 {
		ts.Fatalf("nothing matches %s", args[0])
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		ts.Check(err)
		data[len(data)/2] ^= 1
		ts.Check(os.WriteFile(file, data, 0o600))
	}
}

// sample is an archive: five keys; a transaction that writes user:17 and counter; then, at
// middle, a FLUSHALL, and one key more.
type sample struct {
	archive            string
	timeline           string
	begin, middle, end stream.Offset
}

// identityFile is a new key.
type identityFile struct {
	file      string
	recipient crypt.Recipient
}

func newIdentity(t *testing.T) identityFile {
	t.Helper()
	key, err := age.GenerateX25519Identity()
	require.NoError(t, err)
	i := identityFile{file: filepath.Join(t.TempDir(), "key.txt")}
	require.NoError(t, os.WriteFile(i.file, []byte("# made for a test\n"+key.String()+"\n"), 0o600))
	i.recipient, err = crypt.ParseRecipient(key.Recipient().String())
	require.NoError(t, err)
	return i
}

func makeSample(t *testing.T, kind enginetest.Kind, to ...crypt.Recipient) sample {
	t.Helper()
	master := enginetest.Start(t, kind, "--repl-diskless-sync-delay", "0")
	for i := range 5 {
		master.Do("SET", fmt.Sprintf("key:%d", i), "value")
	}
	dir := filepath.Join(t.TempDir(), "archive")
	st, err := store.OpenDisk(t.Context(), dir, store.Options{Write: true})
	require.NoError(t, err)
	sp, err := spool.Open(filepath.Join(dir, ".spool"), spool.Options{MaxSize: 64 << 20})
	require.NoError(t, err)
	encoders, err := source.NewEncoders(1, to...)
	require.NoError(t, err)
	src := source.New(source.Options{Name: "cache", Link: syncer.Options{Address: master.Addr()}, Spool: sp,
		Stores: []source.StoreOptions{{Store: st, Encoders: encoders, Interval: 10 * time.Millisecond}}})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- src.Run(ctx) }()
	reached := func(offset func() stream.Offset) {
		t.Helper()
		require.Eventually(t, func() bool {
			st := src.Status(time.Now())
			return st.State == "streaming" && st.Timeline != "" && st.Durable >= offset() && len(st.Stores) == 1 && st.Stores[0].Stored >= offset()
		}, 20*time.Second, 5*time.Millisecond)
	}
	now := func() stream.Offset { return stream.Offset(master.Offset()) }
	reached(now)
	master.Do("SET", "key:0", "value") // as before: so that there is a segment before begin
	reached(now)
	s := sample{archive: dir, begin: now()}
	tx := master.Client().TxPipeline()
	tx.Set(t.Context(), "user:17", "alice", 0)
	tx.Incr(t.Context(), "counter")
	_, err = tx.Exec(t.Context())
	require.NoError(t, err)
	s.middle = now()
	master.Do("FLUSHALL")
	master.Do("SET", "new", "after the flush")
	s.end = now()
	reached(func() stream.Offset { return s.end })
	s.timeline = src.Status(time.Now()).Timeline
	cancel()
	require.NoError(t, <-ended)
	require.NoError(t, sp.Close())
	return s
}
