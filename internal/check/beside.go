package check

import (
	"errors"
	"syscall"
)

// beside tells what replicas that follow the master itself mean for its rebirth: each of them may have become the master
// when it comes back, or hold more, so each has to answer then. held: one doesn't now.
func (r Through) beside(user string) (out findings, held bool) {
	const name = "rebirth"
	asked := 0
	for _, o := range r.Beside {
		switch {
		case o.Archive: // it can't become one
		case o.Err == nil:
			asked++
		case o.Refuses:
			held = true
			out.add(Warn, name, "there: ACL SETUSER "+user+" on '>PASSWORD' +info +role, and in its file (users are not replicated); or attach it to the relay",
				"replica %s of the master doesn't let our user ask what it is: a rebirth waits for a person then, as it may be the master (%v)", o.Address, o.Err)
		case errors.Is(o.Err, syscall.ECONNREFUSED):
			held = true
			out.add(Warn, name, "set replica-announce-ip and replica-announce-port there to where it can be reached from here, or let a packet filter pass it; a tool that is no server may stay as it is",
				"a replica of the master says that it is %s, where nobody listens: if it became the master, a rebirth would not know", o.Address)
		default:
			held = true
			out.add(Warn, name, "see what is between here and there, or attach it to the relay", "replica %s of the master can't be asked what it is: a rebirth waits for a person then, as it may be the master (%v)", o.Address, o.Err)
		}
	}
	if asked > 0 {
		out.add(OK, name, "attach them to the relay, and nobody has to (docs/operations.md, \"Replicas beside the relay\")",
			"replicas that follow the master itself and let us ask them: %d. Where one of them holds more than is durable here, a person decides", asked)
	}
	if r.More > 0 {
		out.add(OK, name, "", "replicas of the master that were not asked, beyond these: %d", r.More)
	}
	return out, held
}
