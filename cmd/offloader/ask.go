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

// server is what a rebirth goes by, of what is there.
func (a answer) server(address string) rebirth.Server {
	m := a.master
	return rebirth.Server{Address: address, Err: a.err, Refuses: a.refuses(), Archive: m.Name == "offloader", Master: m.Role == "master", ReplID: m.ReplID, Left: m.ReplID2, At: m.Offset}
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
			watch := syncer.NewWatch(o)
			defer watch.Close()
			m, err := watch.Look(ctx)
			if err == nil && !m.Permitted {
				err = errNoInfo
			}
			answers[i] = answer{m, err}
		})
	}
	asked.Wait()
	return answers
}
