package relay

import (
	"crypto/subtle"
	"net"
	"sync"
	"time"
)

const (
	// handshake is how long a peer may take until we know that it may be here.
	handshake = 10 * time.Second
	// refusedFor is how long the log says nothing more of a host that has given a wrong password: a replica tries
	// anew each second.
	refusedFor = time.Minute
	// lately is how long after its last try a host still counts as one that can't get in.
	lately = 10 * time.Second
	// maxRefused is how many hosts are told apart in that.
	maxRefused = 256
)

// Login is what peers have to say. The zero one lets everybody in.
type Login struct {
	Username string // "" for the default user
	Password string
}

func (l Login) needed() bool { return l.Password != "" }

// right tells whether AUTH's one or two arguments are these. It takes as long whatever they are.
func (l Login) right(given []string) bool {
	user, password := "default", given[len(given)-1]
	if len(given) == 2 {
		user = given[0]
	}
	want := l.Username
	if want == "" {
		want = "default"
	}
	same := subtle.ConstantTimeCompare([]byte(user), []byte(want))
	return same&subtle.ConstantTimeCompare([]byte(password), []byte(l.Password)) == 1
}

// auth answers AUTH as the engines do.
func (p *peer) auth(c command) []byte {
	switch {
	case len(c) < 2 || len(c) > 3:
		return wrongArgs(c)
	case !p.l.o.Login.needed():
		return reply("+OK") // there is nothing to protect
	case !p.l.o.Login.right(c[1:]):
		p.l.refused(p.nc.RemoteAddr())
		return reply("-WRONGPASS invalid username-password pair or user is disabled.")
	}
	p.admitted.Store(true)
	return reply("+OK")
}

// knock answers a peer that has not given the password. ok tells whether the command may pass.
func (p *peer) knock(c command) (ok bool, answer []byte) {
	switch c.name() {
	case "AUTH", "HELLO", "QUIT":
		return true, nil
	}
	if c.name() == "REPLCONF" && c.arg(1) == "ACK" {
		return false, nil // never replied to
	}
	if name := c.name(); name == "PSYNC" || name == "SYNC" {
		p.l.refused(p.nc.RemoteAddr())
	}
	return false, reply("-NOAUTH Authentication required.")
}

// refusals counts those who could not get in, by host.
type refusals struct {
	mu sync.Mutex
	of map[string]refusal
}

type refusal struct {
	told  time.Time // when the log was told last
	times int       // since then
	last  time.Time
}

// count takes one more from a host. It gives how many are to be told of now, 0 while the last word is too young. Where
// there are too many hosts, those that come last are one.
func (r *refusals) count(host string, now time.Time) (who string, times int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.of == nil {
		r.of = map[string]refusal{}
	}
	if _, known := r.of[host]; !known && len(r.of) >= maxRefused {
		for other, o := range r.of {
			if now.Sub(o.told) >= refusedFor {
				delete(r.of, other)
			}
		}
		if len(r.of) >= maxRefused {
			host = "others"
		}
	}
	one := r.of[host]
	one.last = now
	if one.times++; now.Sub(one.told) < refusedFor {
		r.of[host] = one
		return host, 0
	}
	r.of[host] = refusal{told: now, last: now}
	return host, one.times
}

// lately tells whether a host could not get in a moment ago.
func (r *refusals) lately(host string, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	one, known := r.of[host]
	return known && now.Sub(one.last) < lately
}

// Refuses tells whether a peer from a host, an IP, gave a wrong password a moment ago, or none.
func (l *Listener) Refuses(host string) bool { return l.refusals.lately(host, time.Now()) }

// refused has it told that a peer can't get in, once a minute for a host.
func (l *Listener) refused(from net.Addr) {
	host, _, err := net.SplitHostPort(from.String())
	if err != nil {
		host = from.String()
	}
	if host, times := l.refusals.count(host, time.Now()); times > 0 {
		l.o.Logger.Warn("a peer of the relay gave a wrong password, or none", "peer", host, "times", times,
			"hint", "where it is a replica: masteruser and masterauth there have to be what the relay's username and password are")
	}
}
