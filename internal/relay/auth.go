package relay

import (
	"crypto/subtle"
	"time"
)

// handshake is how long a peer may take until we know that it may be here.
const handshake = 10 * time.Second

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
		p.l.o.Logger.Warn("a peer of the relay gave a wrong password", "peer", p.nc.RemoteAddr().String())
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
	return false, reply("-NOAUTH Authentication required.")
}
