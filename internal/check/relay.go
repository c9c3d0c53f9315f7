package check

import (
	"context"
	"errors"
	"net"
	"syscall"

	"github.com/offloader/offloader/internal/relay"
)

// Relay is where a source's replicas are to attach.
type Relay struct {
	Listen   string
	Loopback bool // only this host reaches it
	TLS      bool
	// Running is what the daemon at work on the spool says of it; nil: there is none, or it doesn't have it.
	Running *RunningRelay
}

// follows tells whether a server is a replica of the relay that listens there, on this host.
func (f *Facts) follows(ctx context.Context, listen string) bool {
	_, port, err := net.SplitHostPort(listen)
	return err == nil && f.Info["role"] == "slave" && f.Info["master_port"] == port && relay.Here(ctx, f.Info["master_host"])
}

// RunningRelay is one that a daemon has.
type RunningRelay struct {
	Error    string // why it is not open
	Attached int    // replicas
}

// Check tells whether replicas will find it, and who can listen to what they get. The configuration has made
// sure of a password already, where one is needed.
func (r Relay) Check(ctx context.Context) []Finding {
	var out findings
	r.port(ctx, &out)
	switch {
	case r.Loopback:
		out.ok("relay reach", "servers of this host can attach, and no others")
	case r.TLS:
		out.ok("relay reach", "whoever has the password can attach from other hosts, by TLS")
	default:
		out.add(Warn, "relay reach", "give it relay.tls, or keep it in a network of your own",
			"whoever has the password can attach from other hosts, and the password and all data pass in the clear")
	}
	return out
}

func (r Relay) port(ctx context.Context, out *findings) {
	const another = "give relay.listen another port"
	if r.Running != nil {
		if r.Running.Error != "" {
			out.add(Fail, "relay", another+", or an address of this host", "the daemon that runs can't open %s: %s", r.Listen, r.Running.Error)
			return
		}
		out.ok("relay", "%s is open, replicas attached: %d", r.Listen, r.Running.Attached)
		return
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", r.Listen)
	if err == nil {
		err = l.Close()
	}
	switch {
	case err == nil:
		out.ok("relay", "%s is free for replicas", r.Listen)
	case errors.Is(err, syscall.EADDRINUSE):
		out.add(Fail, "relay", another, "%s is in use by another process", r.Listen)
	default:
		out.add(Fail, "relay", "give relay.listen an address of this host", "%s can't be opened: %v", r.Listen, err)
	}
}
