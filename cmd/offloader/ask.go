package main

import (
	"context"
	"errors"
	"sync"

	"github.com/offloader/offloader/internal/rebirth"
	"github.com/offloader/offloader/internal/syncer"
)

// answer is what a server said of itself, or why it didn't.
type answer struct {
	master syncer.Master
	err    error
}

// errNoInfo says that a server lets us in, and tells nothing.
var errNoInfo = errors.New("INFO is not permitted")

// refuses tells that a server is there and doesn't let us ask: one that is silent may be anything.
func (a answer) refuses() bool {
	kind := syncer.KindOf(a.err)
	return errors.Is(a.err, errNoInfo) || kind == syncer.KindPassword || kind == syncer.KindPermission
}

// archive tells that it is another daemon, or our own.
func (a answer) archive() bool { return a.master.Name == "offloader" }

// server is what a rebirth goes by, of what is there.
func (a answer) server(address string) rebirth.Server {
	m := a.master
	return rebirth.Server{Address: address, Err: a.err, Refuses: a.refuses(), Archive: a.archive(), Master: m.Role == "master", ReplID: m.ReplID, Left: m.ReplID2, At: m.Offset}
}

// askAll asks servers what they are, all at once.
func (w want) askAll(ctx context.Context, addresses []string) []answer {
	answers := make([]answer, len(addresses))
	var asked sync.WaitGroup
	for i, address := range addresses {
		asked.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, askFor)
			defer cancel()
			o := w.link() // a replica has its master's users
			o.Address, o.Announce, o.DialTimeout = address, syncer.Announce{}, askFor
			a := look(ctx, o)
			if o.TLS != nil && syncer.KindOf(a.err) == syncer.KindTLS { // the port that a daemon tells the master is plain, and wants no password
				o.TLS, o.Username, o.Password = nil, "", nil
				if plain := look(ctx, o); plain.err == nil && plain.archive() {
					a = plain
				}
			}
			answers[i] = a
		})
	}
	asked.Wait()
	return answers
}

func look(ctx context.Context, o syncer.Options) answer {
	w := syncer.NewWatch(o)
	defer w.Close()
	m, err := w.Look(ctx)
	if err == nil && !m.Permitted {
		err = errNoInfo
	}
	return answer{m, err}
}
