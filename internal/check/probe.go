package check

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// Master is one to look at, and how to get there.
type Master struct {
	Address  string // host:port
	Username string // "" for the default user
	Password string
	TLS      *tls.Config   // nil for a plain connection
	Relay    string        // where the source's relay listens, "" where it has none
	Sample   time.Duration // how long writes are watched to tell their rate
	Timeout  time.Duration // for the connection, and for each answer
}

// Facts is what a master told about itself, and what it wouldn't.
type Facts struct {
	Address string            // where it was asked
	Info    map[string]string // INFO, of all sections asked for; nil where it was refused
	Config  map[string]string // CONFIG GET of what matters here; nil where it was refused
	Refused map[string]string // command to the master's own words
	Psync   string            // the master's words to a PSYNC that can't succeed
	Rate    float64           // bytes of stream a second; of all input where the master counts no stream
	Counted bool              // Rate is of the stream itself
	Waits   bool              // it follows the source's own relay: it waits for its rebirth
}

// settings are what is looked at, by CONFIG GET.
var settings = []string{
	"save", "appendonly", "repl-diskless-sync", "repl-diskless-sync-delay", "repl-backlog-size", "repl-backlog-ttl",
	"repl-timeout", "client-output-buffer-limit", "min-replicas-to-write", "rdbchecksum",
}

// A ConnectError says why a master can't be asked anything.
type ConnectError struct {
	Address string
	Err     error
	hint    string
}

func (e *ConnectError) Error() string {
	if text := e.Err.Error(); strings.Contains(text, e.Address) {
		return text
	}
	return fmt.Sprintf("%s: %v", e.Address, e.Err)
}

func (e *ConnectError) Unwrap() error { return e.Err }

// Hint says what to do.
func (e *ConnectError) Hint() string { return e.hint }

// Ask asks a master what it is. What it refuses is among the facts; an error is a *ConnectError:
// there is no server, no Redis, no way in.
func (m Master) Ask(ctx context.Context) (*Facts, error) {
	line, err := m.dial(ctx)
	if err != nil {
		return nil, &ConnectError{m.Address, err, m.wayIn(err)}
	}
	client := m.client(line)
	conn := client.Conn()
	facts, err := m.ask(ctx, conn)
	if closeErr := errors.Join(conn.Close(), client.Close()); err == nil && closeErr != nil {
		err = &ConnectError{m.Address, closeErr, ""}
	}
	return facts, err
}

// dial connects, by ourselves: which step failed is what a user wants to know.
func (m Master) dial(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, m.Timeout)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", m.Address)
	if err != nil || m.TLS == nil {
		return conn, err
	}
	c := m.TLS.Clone()
	if c.ServerName == "" {
		if c.ServerName, _, err = net.SplitHostPort(m.Address); err != nil {
			return nil, errors.Join(err, conn.Close())
		}
	}
	secure := tls.Client(conn, c)
	if err := secure.HandshakeContext(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("TLS handshake: %w", err), ignoreClosed(conn.Close()))
	}
	return secure, nil
}

// ignoreClosed is err, unless all that it says is that a handshake has hung up already.
func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// client speaks on a connection, and says only what it is told to: no CLIENT SETINFO, no retries.
// The HELLO that it opens with is answered to every user; AUTH comes after, from us, because how
// it fails is what a user wants to know.
func (m Master) client(line net.Conn) *redis.Client {
	var used atomic.Bool
	return redis.NewClient(&redis.Options{
		Addr: m.Address, Protocol: 2, DisableIdentity: true, PoolSize: 1, MaxRetries: -1, DialerRetries: 1,
		Dialer: func(context.Context, string, string) (net.Conn, error) {
			if used.Swap(true) {
				return nil, errors.New("the server hung up")
			}
			return line, nil
		},
		ReadTimeout: m.Timeout, WriteTimeout: m.Timeout,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	})
}

func (m Master) ask(ctx context.Context, conn *redis.Conn) (*Facts, error) {
	if err := m.login(ctx, conn); err != nil {
		return nil, &ConnectError{m.Address, err, m.wayIn(err)}
	}
	f := &Facts{Address: m.Address, Refused: map[string]string{}}
	if err := f.tryPsync(ctx, conn); err != nil {
		return nil, &ConnectError{m.Address, err, m.wayIn(err)}
	}
	// Bare REPLCONF sets nothing and answers OK (replication.c: replconfCommand loops over its
	// arguments, of which there are none).
	f.Refused["replconf"] = refusal(conn.Do(ctx, "REPLCONF").Err())
	f.readInfo(ctx, conn)
	f.Waits = f.follows(ctx, m.Relay)
	f.readConfig(ctx, conn)
	f.watch(ctx, conn, m.Sample)
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return f, nil
}

func (m Master) login(ctx context.Context, conn *redis.Conn) error {
	var err error
	switch {
	case m.Username != "":
		err = conn.AuthACL(ctx, m.Username, m.Password).Err()
	case m.Password != "":
		err = conn.Auth(ctx, m.Password).Err()
	default:
		err = conn.Ping(ctx).Err()
		for _, harmless := range []string{"NOPERM", "LOADING", "MASTERDOWN"} {
			if redis.HasErrorPrefix(err, harmless) {
				err = nil // told further on
			}
		}
	}
	return err
}

// NeedsPassword tells whether a master asks for one. One that can't be reached doesn't.
func (m Master) NeedsPassword(ctx context.Context) bool {
	line, err := m.dial(ctx)
	if err != nil {
		return false
	}
	client := m.client(line)
	err = client.Ping(ctx).Err()
	return client.Close() == nil && redis.HasErrorPrefix(err, "NOAUTH")
}

// tryPsync finds out whether the user may attach, without attaching: rights are looked at
// before anything else. Two things keep it from beginning a sync. Its offset is no number, which
// engines from 7.0 on refuse (replication.c: syncCommand; older ones take it for "a full copy,
// please"). And PING's answer isn't sent yet when it is looked at, since both go out in one
// write, and all engines refuse a PSYNC behind an answer that waits.
func (f *Facts) tryPsync(ctx context.Context, conn *redis.Conn) error {
	pipe := conn.Pipeline()
	ping := pipe.Ping(ctx)
	psync := pipe.Do(ctx, "PSYNC", "?", "notanumber")
	if _, err := pipe.Exec(ctx); err != nil && !isReply(err) {
		return err
	}
	f.Refused["ping"] = refusal(ping.Err())
	if psync.Err() != nil {
		f.Psync = psync.Err().Error()
	}
	return nil
}

// refusal is a master's words where it doesn't let a command pass, else "".
func refusal(err error) string {
	if isReply(err) {
		return err.Error()
	}
	return ""
}

func isReply(err error) bool {
	var reply redis.Error
	return errors.As(err, &reply) && !errors.Is(err, redis.Nil)
}

func (f *Facts) readInfo(ctx context.Context, conn *redis.Conn) {
	text, err := conn.Info(ctx).Result()
	if err != nil {
		f.Refused["info"] = err.Error()
		return
	}
	f.Info = fields(text)
}

// fields reads INFO's lines.
func fields(text string) map[string]string {
	m := map[string]string{}
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			m[name] = value
		}
	}
	return m
}

func (f *Facts) readConfig(ctx context.Context, conn *redis.Conn) {
	for _, name := range settings {
		got, err := conn.ConfigGet(ctx, name).Result()
		if err != nil {
			f.Refused["config|get"] = err.Error()
			return
		}
		if f.Config == nil {
			f.Config = map[string]string{}
		}
		for k, v := range got {
			f.Config[k] = v
		}
	}
}

// watch tells the rate of writes from two looks at the master's count. A master that never had a
// replica counts no stream: then all that its clients send is the bound.
func (f *Facts) watch(ctx context.Context, conn *redis.Conn, sample time.Duration) {
	if f.Info == nil {
		return
	}
	field, section := "total_net_input_bytes", "stats"
	if f.Info["repl_backlog_active"] == "1" || f.number("connected_slaves") > 0 {
		field, section, f.Counted = "master_repl_offset", "replication", true
	}
	look := func() (n int64, at time.Time, ok bool) {
		text, err := conn.Info(ctx, section).Result()
		if err != nil {
			return 0, time.Time{}, false
		}
		n, err = strconv.ParseInt(fields(text)[field], 10, 64)
		return n, time.Now(), err == nil
	}
	first, began, ok := look()
	if !ok {
		return
	}
	wait := time.NewTimer(sample)
	defer wait.Stop()
	select {
	case <-ctx.Done():
		return
	case <-wait.C:
	}
	second, ended, ok := look()
	if took := ended.Sub(began).Seconds(); ok && took > 0 {
		f.Rate = max(0, float64(second-first)/took)
	}
	// A quiet second at night says little: the mean since the server's start is a second witness.
	if up := f.number("uptime_in_seconds"); up > 60 {
		total := f.number("master_repl_offset")
		if !f.Counted {
			total = f.number("total_net_input_bytes")
		}
		f.Rate = max(f.Rate, float64(total)/float64(up))
	}
}

// number is a field of INFO, 0 where it isn't one.
func (f *Facts) number(name string) int64 {
	n, err := strconv.ParseInt(f.Info[name], 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// wayIn says what to do about a connection that didn't come to be, "" where the error says it.
func (m Master) wayIn(err error) string {
	var (
		reply  redis.Error
		dns    *net.DNSError
		header tls.RecordHeaderError
		cert   *tls.CertificateVerificationError
		alert  tls.AlertError
	)
	switch {
	case errors.As(err, &header):
		return "the server doesn't speak TLS on this port: leave out \"tls\", or name its TLS port"
	case errors.As(err, &cert):
		return "name the authority that signed the server's certificate in \"ca_file\", and the name it was given to in \"server_name\""
	case errors.As(err, &alert):
		return "the server refuses our side of TLS: it may want a certificate, in \"cert_file\" and \"key_file\""
	case errors.As(err, &dns):
		return "is the host's name right, and known on this machine?"
	case errors.As(err, &reply):
		return m.wayPast(err)
	case strings.Contains(err.Error(), "connection refused"):
		return "nothing listens there: is the server up, is the port right, and does it \"bind\" this address?"
	case strings.Contains(err.Error(), "TLS handshake"):
		return "the port may not speak TLS: leave out \"tls\", or name the server's TLS port"
	case errors.Is(err, context.DeadlineExceeded) || isTimeout(err):
		return "a firewall may drop what is sent there, or the port may want TLS: see \"tls\""
	case strings.Contains(err.Error(), "EOF") || strings.Contains(err.Error(), "reset by peer"):
		if m.TLS == nil {
			return "the server hung up at the first word: the port may want TLS (see \"tls\"), or it is no Redis or Valkey"
		}
		return "the server hung up: the port may not speak TLS, or it is no Redis or Valkey"
	}
	return "is it a Redis or Valkey that listens there?"
}

func isTimeout(err error) bool {
	var n net.Error
	return errors.As(err, &n) && n.Timeout()
}

// wayPast is wayIn for what the server itself said.
func (m Master) wayPast(err error) string {
	switch {
	case redis.HasErrorPrefix(err, "NOAUTH"):
		return "it wants a password: give password_file, or OFFLOADER_PASSWORD without a configuration"
	case redis.HasErrorPrefix(err, "WRONGPASS"):
		return "user and password don't fit together, or the user is off. On the master: " + aclLine(m.Username)
	case redis.HasErrorPrefix(err, "DENIED"):
		return "protected mode is on: give the server a password, or set \"bind\" and then CONFIG SET protected-mode no"
	case strings.Contains(err.Error(), "without any password configured"):
		return "the server has no password: leave ours out"
	case strings.Contains(err.Error(), "max number of clients"):
		return "the server is full: CONFIG SET maxclients to more"
	}
	return ""
}

// aclLine makes the user that needs least.
func aclLine(user string) string {
	if user == "" || user == "default" {
		user = "offloader"
	}
	return "ACL SETUSER " + user + " on '>PASSWORD' resetkeys resetchannels +psync +replconf +ping +info +role '+config|get'"
}
