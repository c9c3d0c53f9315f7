package running

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"

	"github.com/redis/go-redis/v9"
)

// An Error says why a server could not be restored into, and what to do.
type Error struct {
	Server string // its name
	Why    string
	Err    error // may be nil
	hint   string
}

func (e *Error) Error() string {
	s := "can't restore to " + e.Server + ": " + e.Why
	if e.Err != nil {
		if e.Why != "" {
			s += ": "
		}
		s += e.Err.Error()
	}
	return s
}

func (e *Error) Unwrap() error { return e.Err }

// Hint says what to do.
func (e *Error) Hint() string { return e.hint }

func (t *target) errorf(hint, format string, args ...any) error {
	return &Error{Server: t.server.Name, Why: fmt.Sprintf(format, args...), hint: hint}
}

// failed wraps an error of the server, or of the way to it, unless it has its own words.
func (t *target) failed(why string, err error) error {
	var ours *Error
	if err == nil || errors.As(err, &ours) {
		return err
	}
	return &Error{t.server.Name, why, err, hintOf(err)}
}

type handshakeError struct{ error }

func (e *handshakeError) Error() string { return "TLS handshake: " + e.error.Error() }
func (e *handshakeError) Unwrap() error { return e.error }

func connectError(s Server, err error) error {
	hint := hintOf(err)
	if hint == "" {
		hint = "is it the right address, and does a server listen there? a server that speaks TLS is rediss://"
	}
	return &Error{s.Name, "", err, hint}
}

// hintOf is the way out of what servers and connections say.
func hintOf(err error) string {
	var record tls.RecordHeaderError
	var authority x509.UnknownAuthorityError
	var shake *handshakeError
	switch {
	case errors.As(err, &authority):
		return "name the authority that signed its certificate: --ca-file"
	case errors.As(err, &record), errors.As(err, &shake) && (errors.Is(err, io.EOF) || errors.Is(err, context.DeadlineExceeded)):
		return "does the server speak TLS there? one that doesn't is redis://"
	case errors.As(err, &shake):
		return "see --ca-file, --cert-file and --key-file"
	}
	for prefix, hint := range map[string]string{
		"NOAUTH":    "the server wants a password: OFFLOADER_TO_PASSWORD or --password-file",
		"WRONGPASS": "see --username, OFFLOADER_TO_PASSWORD and --password-file",
		"NOPERM":    "give the user the right to it; a restore by commands takes all that the source's clients used, and +info, +restore, +scan",
		"LOADING":   "wait until it has loaded",
		"OOM":       "raise its maxmemory, or name a larger server",
		"READONLY":  "it is somebody's replica: name its master, or say --conflict replace",
		"MISCONF":   "its own persistence fails: see its log",
		"MOVED":     "the cluster moves slots: wait until that is done, and say it again",
		"ASK":       "the cluster moves slots: wait until that is done, and say it again",
		"DENIED":    "its protected mode lets nobody in from other hosts: give it a password",
	} {
		if redis.HasErrorPrefix(err, prefix) {
			return hint
		}
	}
	return ""
}

// isReply tells a server's own no from a connection that fails.
func isReply(err error) bool {
	var reply redis.Error
	return errors.As(err, &reply) && !errors.Is(err, redis.Nil)
}

// interrupted gives an error that came in the middle a word on what is left.
func (t *target) interrupted(ctx context.Context, err error, left string) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	way := hintOf(err)
	var hinted interface{ Hint() string }
	if errors.As(err, &hinted) {
		way = hinted.Hint()
	}
	if way != "" {
		way += "; "
	}
	return &stoppedError{err, way + left}
}

// stoppedError is an error of a restore that had begun.
type stoppedError struct {
	error
	hint string
}

func (e *stoppedError) Unwrap() error { return e.error }

// Hint says what is left on the server.
func (e *stoppedError) Hint() string { return e.hint }
