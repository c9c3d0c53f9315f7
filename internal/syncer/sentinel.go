package syncer

import (
	"bufio"
	"context"
	"io"
	"net"
	"strconv"
	"strings"
)

// maxSentinel bounds what is read of a Sentinel, or of who only says that it is one. What it says of a master takes it a KiB.
const maxSentinel = 64 << 10

// Elected is what a Sentinel says of a master that it knows by name.
type Elected struct {
	Address  string // host:port; "": it watches none of that name
	Epoch    uint64 // of the failover that has made it the master: a higher one is newer
	Choosing bool   // a failover goes on: another one may be it in a moment
}

// AskSentinel asks the one that o leads to: for its MASTER, not for GET-MASTER-ADDR-BY-NAME, because that comes with the
// epoch, and with whether a failover goes on.
func AskSentinel(ctx context.Context, o Options, name string) (e Elected, err error) {
	w := NewWatch(o)
	defer w.Close()
	err = w.while(ctx, func() error {
		w.c.in = bufio.NewReader(io.LimitReader(w.c.wire, maxSentinel))
		r, err := w.c.ask(stageSentinel, "SENTINEL", "MASTER", name)
		switch {
		case err != nil:
			return err
		case r.isError && strings.HasPrefix(r.text, "ERR No such master"):
			return nil
		case r.isError:
			return w.c.refused(stageSentinel, r.text)
		}
		field := map[string]string{}
		for i := 0; i+1 < len(r.array); i += 2 {
			field[r.array[i]] = r.array[i+1]
		}
		e.Address = net.JoinHostPort(field["ip"], field["port"])
		e.Choosing = strings.Contains(field["flags"], "failover_in_progress")
		if e.Epoch, err = strconv.ParseUint(field["config-epoch"], 10, 64); err != nil {
			return &RefusalError{Kind: KindNotMaster, Master: w.o.Address, Stage: stageSentinel, What: "it doesn't answer as a Sentinel does"}
		}
		return nil
	})
	return e, err
}
