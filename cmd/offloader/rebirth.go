package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/offloader/offloader/internal/feed"
	"github.com/offloader/offloader/internal/httpapi"
	"github.com/offloader/offloader/internal/rebirth"
	"github.com/offloader/offloader/internal/relay"
	"github.com/offloader/offloader/internal/stream"
	"github.com/offloader/offloader/internal/syncer"
)

const (
	// remembered is how long after it has left the relay a replica is asked what has become of it.
	remembered = time.Hour
	// askFor is how long it, and who followed the source itself, may take to answer.
	askFor = 2 * time.Second
	// seenFor is how long after its last try a server that can't be served still counts as ours.
	seenFor = 10 * time.Second
)

// follower gathers what is known when the server at the source's address turns out to be a replica, and
// has it decided what becomes of it. The link asks, between the server's ROLE and what follows.
func (k *keeper) follower(ctx context.Context, f syncer.Follower) (syncer.Fate, error) {
	l := k.listener()
	if l == nil {
		return syncer.Upstream, nil // nobody can follow us
	}
	replicas := l.Replicas()
	r, ours, mistaken := k.whoIs(f, replicas, l.Port())
	if mistaken != "" {
		return 0, &syncer.RebirthError{Master: k.want.Address, Why: mistaken, Do: "set replica-announce-ip and replica-announce-port there to what the source's address is here"}
	}
	if !ours {
		return syncer.Upstream, nil
	}
	facts := k.facts(ctx, r.Address)
	facts.Engine = rebirth.Engine{
		ReplID: f.ReplID, Up: f.State == "connected", At: f.Offset, Keys: f.Keys, Loading: f.Loading,
		Attached: r.State != relay.Away, Copying: r.State == relay.Copying, Acked: r.Offset,
	}
	v := rebirth.Judge(facts)
	k.mu.Lock()
	if k.order == facts.Order {
		k.verdict = v
	}
	k.mu.Unlock()
	if v.Promote {
		return syncer.Promote, nil
	}
	return 0, &syncer.RebirthError{Master: k.want.Address, Why: v.Why, Do: v.Do}
}

// facts are those that are not the engine's own.
func (k *keeper) facts(ctx context.Context, engine string) rebirth.Facts {
	k.mu.Lock()
	order := k.order
	k.mu.Unlock()
	end, err := k.current().End(ctx)
	named := k.current().Named()
	if named != "" && k.atSource(ctx, named) {
		named = ""
	}
	return rebirth.Facts{
		Source: k.want.Name, Order: order,
		Unread: err, Timeline: end.Timeline, ReplID: end.ReplID, End: end.Offset, Suspect: end.Suspect, Sentinel: named,
		Others: func() []rebirth.Server { return k.others(ctx, engine) },
	}
}

// admit keeps the source's own engine from getting data while it must not become the master.
func (k *keeper) admit(ctx context.Context, address string) *relay.LaterError {
	if !k.atSource(ctx, address) {
		return nil
	}
	if v := rebirth.Feed(k.facts(ctx, address)); !v.Promote {
		return &relay.LaterError{Why: v.Why}
	}
	return nil
}

// atSource tells whether a replica announces itself at the source's address, which is resolved anew each time.
func (k *keeper) atSource(ctx context.Context, address string) bool {
	host, port, err := net.SplitHostPort(address)
	name, at, _ := net.SplitHostPort(k.want.Address)
	if err != nil || port != at {
		return false
	}
	if host == name {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, askFor)
	defer cancel()
	all, err := net.DefaultResolver.LookupHost(ctx, name)
	return err == nil && slices.Contains(all, host)
}

// whoIs finds the server among the relay's replicas: it is the one that comes from the address that the link
// goes to, and says that it listens on that port. One that follows us, and tells another address, is
// mistaken for somebody else: then what is wrong is told.
func (k *keeper) whoIs(f syncer.Follower, replicas []relay.Replica, port int) (r relay.Replica, ours bool, mistaken string) {
	host, at, err := net.SplitHostPort(f.Remote)
	if err != nil {
		return r, false, ""
	}
	name, _, _ := net.SplitHostPort(k.want.Address)
	var announced []string
	for _, r := range replicas {
		if r.State == relay.Away && time.Since(r.Since.Go()) > seenFor {
			continue
		}
		h, p, err := net.SplitHostPort(r.Address)
		if err == nil && p == at && (h == host || h == name) {
			return r, true, ""
		}
		announced = append(announced, r.Address)
	}
	if h, p, err := net.SplitHostPort(f.Upstream); err != nil || p != fmt.Sprint(port) || !here(h) || len(announced) == 0 {
		return r, false, ""
	}
	return r, false, fmt.Sprintf("it follows this relay, where nobody comes from %s: those who do say %v", f.Remote, announced)
}

// here tells whether an IP is one of this machine's.
func here(host string) bool {
	ip := net.ParseIP(host)
	if ip == nil {
		return false
	}
	all, err := net.InterfaceAddrs()
	return err == nil && slices.ContainsFunc(all, func(a net.Addr) bool {
		n, ok := a.(*net.IPNet)
		return ok && n.IP.Equal(ip)
	})
}

// others asks those who followed the source, or follow the relay, what they are. Where nobody listens any
// more, nobody is a master.
func (k *keeper) others(ctx context.Context, except string) []rebirth.Server {
	known := k.current().Replicas()
	var replicas []relay.Replica
	if l := k.listener(); l != nil {
		replicas = l.Replicas()
	}
	for _, r := range replicas {
		if r.Listens() && (r.State != relay.Away || time.Since(r.Since.Go()) < remembered) {
			known = append(known, r.Address)
		}
	}
	slices.Sort(known)
	known = slices.DeleteFunc(slices.Compact(known), func(address string) bool { return address == except || address == k.want.Address })
	answers := make([]*rebirth.Server, len(known))
	var asked sync.WaitGroup
	for i, address := range known {
		asked.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, askFor)
			defer cancel()
			o := k.want.link() // a replica has its master's users
			o.Address, o.Announce, o.DialTimeout, o.ReplyTimeout = address, syncer.Announce{}, askFor, askFor
			w := syncer.NewWatch(o)
			defer w.Close()
			m, err := w.Look(ctx)
			if err == nil && !m.Permitted {
				err = errors.New("INFO is not permitted")
			}
			if errors.Is(err, syscall.ECONNREFUSED) || m.Name == "offloader" { // another archive can't become a master
				return
			}
			answers[i] = &rebirth.Server{Address: address, Err: err, Master: m.Role == "master", ReplID: m.ReplID, At: m.Offset}
		})
	}
	asked.Wait()
	var all []rebirth.Server
	for _, a := range answers {
		if a != nil {
			all = append(all, *a)
		}
	}
	return all
}

// heard is told when the source's engine may have come, and when it may have all.
func (k *keeper) heard(address string, acked stream.Offset) {
	_, p, err := net.SplitHostPort(address)
	_, port, _ := net.SplitHostPort(k.want.Address)
	if err != nil || p != port {
		return
	}
	if src := k.current(); acked < 0 || src.Ends(acked) {
		src.Hurry()
	}
}

// promote has a source that waits for its rebirth go on by an operator's word. It returns when it is the
// master again.
func (k *keeper) promote(ctx context.Context, order rebirth.Order) error {
	src := k.current()
	if why := src.Link().Rebirth; why == "" {
		return fmt.Errorf("source %s doesn't wait for its rebirth: it is no replica of the relay (see `offloader status`)", k.want.Name)
	}
	before := src.Link().Promoted
	if order == rebirth.Latest {
		end, err := src.End(ctx)
		if err == nil && end.Suspect != "" {
			err = src.Revive(ctx)
		}
		if err != nil {
			return err
		}
	}
	k.mu.Lock()
	if k.order != rebirth.None {
		k.mu.Unlock()
		return errors.New("another word is being carried out")
	}
	k.order, k.verdict = order, rebirth.Verdict{}
	k.mu.Unlock()
	defer func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.order = rebirth.None
	}()
	for src.Hurry(); ; {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(50 * time.Millisecond):
		}
		if src.Link().Promoted != before {
			return nil
		}
		k.mu.Lock()
		v := k.verdict
		k.mu.Unlock()
		if !v.Promote && v.Do != "" {
			return fmt.Errorf("%s (%s)", v.Why, v.Do)
		}
	}
}

// promote is keeper.promote, for the API.
func (f *fleet) promote(ctx context.Context, name, what string) error {
	for _, k := range f.all() {
		if k.want.Name != name {
			continue
		}
		switch order := rebirth.Order(what); order {
		case rebirth.Empty, rebirth.Latest:
			return k.promote(ctx, order)
		case rebirth.None:
		}
		return fmt.Errorf("%q is no word for a source that waits for its rebirth", what)
	}
	return httpapi.ErrNoSource
}

const (
	// What is guessed of an engine before one was measured, in bytes a second, and what it takes to connect.
	guessRDB, guessStream = 100 << 20, 40 << 20
	connects              = time.Second
)

// predict keeps an eye on what a rebirth would take, until ctx ends.
func (k *keeper) predict(ctx context.Context, f *feed.Feed) {
	for {
		wait := 5 * time.Second
		rdb, behind, err := f.Size(ctx)
		k.mu.Lock()
		k.size = nil
		if err == nil {
			k.size = &httpapi.Rebirth{Snapshot: rdb, Log: behind}
		}
		k.mu.Unlock()
		if err != nil {
			wait = time.Second // nothing has begun yet, most often
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// prediction is nil where nothing can be predicted. k.mu is held.
func (k *keeper) prediction() *httpapi.Rebirth {
	if k.size == nil {
		return nil
	}
	p := *k.size
	rates := relay.Rates{}
	if k.relay != nil {
		rates = k.relay.Rates()
	}
	p.Measured = rates.RDB > 0
	if rates.RDB == 0 {
		rates.RDB = guessRDB
	}
	if rates.Stream == 0 {
		rates.Stream = guessStream
	}
	p.Seconds = connects.Seconds() + float64(p.Snapshot)/rates.RDB + float64(p.Log)/rates.Stream
	return &p
}
