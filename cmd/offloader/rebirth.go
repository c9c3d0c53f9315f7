package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
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
	// askFor is how long those who followed the source or the relay, and Sentinels, may take to answer.
	askFor = 2 * time.Second
	// seenFor is how long after its last try a server that can't be served still counts as ours.
	seenFor = 10 * time.Second
	// livesFor is how long after its last sign of life a replica counts as one that follows: it gives one each second.
	livesFor = 3 * time.Second
	// promotes is how long a promotion that was decided may take.
	promotes = 10 * time.Second
)

// follower gathers what is known when the server at the source's address turns out to be a replica, and
// has it decided what becomes of it. The link asks, between the server's ROLE and what follows.
func (k *keeper) follower(ctx context.Context, f syncer.Follower) (syncer.Fate, error) {
	l := k.listener()
	if l == nil {
		if k.leadsTo(ctx, f.Upstream) == k.want.Name {
			return k.decided(k.said(), rebirth.Verdict{Why: "it follows this relay, which is not open", Do: "see `offloader status`, and what has its port"})
		}
		return syncer.Upstream, nil // nobody can follow us
	}
	replicas := l.Replicas()
	r, ours, wrong := k.whoIs(ctx, f, replicas, l)
	if !ours && wrong.Why == "" {
		wrong = k.disguised(ctx, f, replicas)
	}
	if wrong.Why != "" {
		return k.decided(k.said(), wrong)
	}
	if !ours {
		return syncer.Upstream, nil
	}
	facts := k.facts(ctx, r.Address)
	facts.Engine = rebirth.Engine{
		ReplID: f.ReplID, Up: f.State == "connected", At: f.Offset, Keys: f.Keys, Loading: f.Loading, Untold: f.Untold,
		Attached: r.State != relay.Away, Copying: r.State == relay.Copying, Acked: r.Offset, Waits: k.replaying.Load(),
		PutOff: r.PutOff, Remedy: r.Hint,
	}
	return k.decided(facts.Order, rebirth.Judge(facts))
}

// decided is what the link is told of a verdict, and whoever has given the word that it was given under.
func (k *keeper) decided(under rebirth.Order, v rebirth.Verdict) (syncer.Fate, error) {
	k.mu.Lock()
	if k.order == under {
		k.verdict = v
	}
	k.mu.Unlock()
	if v.Promote {
		return syncer.Promote, nil
	}
	return 0, &syncer.RebirthError{Master: k.want.Address, Why: v.Why, Do: v.Do}
}

// said is the operator's word.
func (k *keeper) said() rebirth.Order {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.order
}

// facts are those that are not the engine's own.
func (k *keeper) facts(ctx context.Context, engine string) rebirth.Facts {
	order := k.said()
	end, err := k.current().End(ctx)
	return rebirth.Facts{
		Source: k.want.Name, Order: order,
		Unread: err, Timeline: end.Timeline, ReplID: end.ReplID, End: end.Offset, Suspect: end.Suspect, Left: end.Left,
		Words:  func() []rebirth.Word { return k.words(ctx) },
		Others: func() []rebirth.Server { return k.others(ctx, engine) },
	}
}

// admit keeps the source's own engine from getting data while it must not become the master.
func (k *keeper) admit(ctx context.Context, address string) *relay.LaterError {
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
// mistaken for somebody else: then what is wrong is told. So it is of one that can't get in, or follows another source's relay.
func (k *keeper) whoIs(ctx context.Context, f syncer.Follower, replicas []relay.Replica, l *relay.Listener) (r relay.Replica, ours bool, wrong rebirth.Verdict) {
	host, at, err := net.SplitHostPort(f.Remote)
	if err != nil {
		return r, false, wrong
	}
	name, _, _ := net.SplitHostPort(k.want.Address)
	var announced []string
	served := f.State != "connect" && f.State != "connecting" // or it is put off, unless it has just started
	for _, r := range replicas {
		away := r.State == relay.Away
		if away && (time.Since(r.Since.Go()) > seenFor || f.Untold != "") { // or it may be a master already
			continue
		}
		h, p, err := net.SplitHostPort(r.Address)
		if err == nil && p == at && (h == host || h == name) {
			return r, true, wrong
		}
		if r.Listens() && (served && !away || !served && away && r.PutOff != "") {
			announced = append(announced, r.Address)
		}
	}
	switch follows := k.leadsTo(ctx, f.Upstream); {
	case follows == "":
	case follows != k.want.Name: // what it holds, or is about to, is that one's
		wrong = rebirth.Verdict{Why: "it follows the relay of source " + follows, Do: "have it follow this source's, at " + k.want.Relay.Listen + ": is `replicaof` that of the other in its drop-in?"}
	case f.State != "connected" && l.Refuses(host): // before others that are attached are taken for it
		wrong = rebirth.Verdict{Why: "it follows this relay, and can't get in: a wrong password came from " + host + ", or none",
			Do: "set masteruser and masterauth there, in its configuration file too, to what the relay's username and password are"}
	case len(announced) > 0:
		wrong = mistaken("it follows this relay, where nobody comes from %s: those who do say %v", f.Remote, announced)
	case f.Untold == "" && f.State != "connected":
		wrong = rebirth.Verdict{Why: "it follows this relay, and is not attached to it yet", Do: "see its log, and the daemon's: do masteruser and masterauth suit the relay, and tls-replication?"}
	}
	return r, false, wrong
}

// leadsTo is the source of this daemon whose relay is at an address, "" for none.
func (k *keeper) leadsTo(ctx context.Context, address string) string {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return ""
	}
	name := k.want.Name
	if _, own, err := net.SplitHostPort(k.want.Relay.Listen); err != nil || port != own {
		name = k.relayAt(port)
	}
	if name == "" || !relay.Here(ctx, host) {
		return ""
	}
	return name
}

func mistaken(why string, args ...any) rebirth.Verdict {
	return rebirth.Verdict{Why: fmt.Sprintf(why, args...), Do: "set replica-announce-ip and replica-announce-port there to what the source's address is here"}
}

// disguised finds out whether the server follows us from an address of which we don't know that it is its own: if
// its stream was asked for, it would be our own, and nobody would be the master. Its run id tells.
func (k *keeper) disguised(ctx context.Context, f syncer.Follower, replicas []relay.Replica) (wrong rebirth.Verdict) {
	if f.RunID == "" {
		return wrong
	}
	var attached []string
	for _, r := range replicas {
		if r.Listens() && (r.State != relay.Away || time.Since(r.Since.Go()) < seenFor) {
			attached = append(attached, r.Address)
		}
	}
	for i, a := range k.want.askAll(ctx, attached) {
		if a.err == nil && a.master.RunID == f.RunID {
			return mistaken("it follows this relay, and says there that it is %s, while the source's address leads to %s", attached[i], f.Remote)
		}
	}
	return wrong
}

// others asks those who followed the source, or follow the relay, what they are. Where nobody listens any
// more, nobody is a master.
func (k *keeper) others(ctx context.Context, except string) []rebirth.Server {
	known := k.current().Replicas()
	asked := slices.Concat(known, k.namesakes(ctx))
	slices.Sort(asked)
	asked = slices.DeleteFunc(slices.Compact(asked), func(address string) bool { return address == except || address == k.want.Address })
	at, _, _ := net.SplitHostPort(except)
	name, _, _ := net.SplitHostPort(k.want.Address)
	answers := k.want.askAll(ctx, asked)
	follow := k.following(time.Now()) // after they were asked: who leaves the relay to be a master is not excused by what it was before
	var all []rebirth.Server
	for i, a := range answers {
		if errors.Is(a.err, syscall.ECONNREFUSED) || a.err != nil && !slices.Contains(known, asked[i]) {
			continue
		}
		o := a.server(asked[i])
		host, _, _ := net.SplitHostPort(o.Address)
		o.Host, o.Follows = host == at || host == name, follow[o.Address]
		all = append(all, o)
	}
	return all
}

// following tells the relay's replicas that get the stream, or a copy, and have shown a moment ago that they do: a connection
// may be half open.
func (k *keeper) following(now time.Time) map[string]bool {
	follow := map[string]bool{}
	if l := k.listener(); l != nil {
		for _, r := range l.Replicas() {
			follow[r.Address] = follows(r, now)
		}
	}
	return follow
}

func follows(r relay.Replica, now time.Time) bool {
	return r.State != relay.Away && now.Sub(r.Seen.Go()) < livesFor
}

// namesakes are all addresses that the source's name has, or had when its server came to the relay: another server may be the
// master at one of them.
func (k *keeper) namesakes(ctx context.Context) (all []string) {
	name, port, err := net.SplitHostPort(k.want.Address)
	if err != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, askFor)
	defer cancel()
	hosts, _ := net.DefaultResolver.LookupHost(ctx, name) // where it fails, the link can't have come to it by that name
	for _, host := range hosts {
		all = append(all, net.JoinHostPort(host, port))
	}
	for _, r := range k.replicas() {
		if r.Own {
			all = append(all, r.Address)
		}
	}
	return all
}

// heard is told when a replica has come, and when it may have all. Only the source's engine is a reason for the link
// to hurry: with others it would come back to a master that is away as often as they acknowledge. And it can't follow us
// and be what our link leads to.
func (k *keeper) heard(address string, own bool, acked stream.Offset) {
	src := k.current()
	switch link := src.Link(); link.Phase {
	case syncer.Saving, syncer.Receiving, syncer.Streaming:
		if own && k.isDue(time.Now()) && k.isAnother(context.Background(), link) {
			src.Doubt(link.Connected)
		}
		return
	case syncer.Stopped:
		return
	case syncer.Waiting, syncer.Connecting, syncer.Handshake:
	}
	// The name may lead there only by now.
	if (acked < 0 || src.Ends(acked)) && (own || k.atSource(context.Background(), address)) {
		src.Hurry()
	}
}

// isDue lets the source be asked once a second, whatever comes to the relay and says that it is the source.
func (k *keeper) isDue(now time.Time) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if now.Sub(k.asked) < time.Second {
		return false
	}
	k.asked = now
	return true
}

// isAnother tells whether the link leads to nobody any more: the server at the source's address is another one than was,
// or another's replica by now. Where the name leads elsewhere, and the one that the link goes to is still there and what
// it was, that one is the source.
func (k *keeper) isAnother(ctx context.Context, link syncer.Status) bool {
	was := link.Master
	same := func(a answer) bool { return a.master.RunID == was.RunID && a.master.Role == was.Role }
	all := k.want.askAll(ctx, []string{k.want.Address, link.Remote})
	named, linked := all[0], all[1]
	return was.Permitted && named.err == nil && !same(named) && (linked.err != nil || !same(linked))
}

// promote has a source that waits for its rebirth go on by an operator's word. When it is the master again it tells
// what that was, and what was given up for it.
func (k *keeper) promote(ctx context.Context, order rebirth.Order) (said string, err error) {
	src := k.current()
	switch st, now := src.Link(), src.Status(time.Now()); {
	case st.Rebirth == "" && now.Error != "": // a right that it lacks, perhaps, or a store that has to tell what was there before
		return "", fmt.Errorf("source %s doesn't wait for its rebirth: %s", k.want.Name, hinted(now.Error, now.Hint))
	case st.Rebirth == "":
		return "", fmt.Errorf("source %s doesn't wait for its rebirth: it is no replica of the relay (see `offloader status`)", k.want.Name)
	}
	if !k.promoting.TryLock() {
		return "", errors.New("another word is being carried out")
	}
	defer k.promoting.Unlock()
	said = k.want.Name + " is the master again"
	before := src.Link().Promoted
	switch order {
	case rebirth.None:
	case rebirth.Empty:
		said += k.givenUp(ctx)
	case rebirth.Latest:
		end, err := src.End(ctx)
		if err == nil && end.Suspect != "" {
			err = src.Revive(ctx)
		}
		if err != nil {
			return "", err
		}
	}
	k.mu.Lock()
	k.order, k.verdict = order, rebirth.Verdict{}
	k.mu.Unlock()
	defer func() {
		k.mu.Lock()
		k.order = rebirth.None
		k.mu.Unlock()
		if src.Link().Promoted == before {
			src.Stay() // or the next rebirth would go by a word that was taken back
		}
	}()
	var decided time.Time
	for src.Hurry(); ; {
		select {
		case <-ctx.Done():
			return "", context.Cause(ctx)
		case <-time.After(50 * time.Millisecond):
		}
		switch {
		case src.Link().Promoted != before:
			return said, nil
		case k.current() != src:
			return "", errors.New("archiving has ended meanwhile, and begins again: see `offloader status`")
		}
		k.mu.Lock()
		v := k.verdict
		k.mu.Unlock()
		switch {
		case !v.Promote && v.Do != "":
			return "", fmt.Errorf("%s (%s)", v.Why, v.Do)
		case !v.Promote:
			decided = time.Time{}
		case decided.IsZero():
			decided = time.Now()
		case time.Since(decided) > promotes:
			st := src.Link()
			return "", fmt.Errorf("it was decided, and could not be done: %s", hinted(st.LastError, st.LastHint))
		}
	}
}

// givenUp tells what is archived of a source that starts from nothing, and how it comes back; "" for nothing.
func (k *keeper) givenUp(ctx context.Context) string {
	src := k.current()
	end, err := src.End(ctx)
	suspect := src.Suspect()
	st := src.Status(time.Now())
	switch {
	case err == nil && end.Timeline == "":
		return ""
	case err != nil && st.Timeline == "":
		return fmt.Sprintf(", with no data. What is archived of it is given up, and not known: %v. `offloader list` shows it", err)
	case suspect != nil && suspect.Before != "":
		end.Timeline = suspect.Before
	case st.Timeline != "":
		end.Timeline = st.Timeline
	}
	until := ""
	if st.Timeline == end.Timeline {
		until = ", which goes to " + clock(st.DurableTime.Go())
	}
	return fmt.Sprintf(", with no data. What was archived of it is given up: timeline %s%s. It is kept until `offloader release --source %s`, which says that this was right; "+
		"`offloader restore --source %s --timeline %s --latest --output DIR` gives it back", end.Timeline, until, k.want.Name, k.want.Name, end.Timeline)
}

// hinted is what is wrong, with what to do where that is known.
func hinted(wrong, hint string) string {
	if hint == "" {
		return wrong
	}
	return wrong + " (" + hint + ")"
}

// promote is keeper.promote, for the API.
func (f *fleet) promote(ctx context.Context, name, what string) (string, error) {
	for _, k := range f.all() {
		if k.want.Name != name {
			continue
		}
		switch order := rebirth.Order(what); order {
		case rebirth.Empty, rebirth.Latest:
			return k.promote(ctx, order)
		case rebirth.None:
		}
		return "", fmt.Errorf("%q is no word for a source that waits for its rebirth", what)
	}
	return "", httpapi.ErrNoSource
}

const (
	// What is guessed of an engine before one was measured, in bytes a second, and what it takes to connect.
	guessRDB, guessStream = 100 << 20, 40 << 20
	connects              = time.Second
	// engineEvery is how often it is looked for a scratch engine.
	engineEvery = 10 * time.Minute
)

// predict keeps an eye on what a rebirth would take, until ctx ends.
func (k *keeper) predict(ctx context.Context, f *feed.Feed) {
	var looked time.Time
	for {
		if time.Since(looked) > engineEvery && k.canReplay(ctx) {
			looked = time.Now()
		}
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
	rates := relay.Rates{}
	if k.relay != nil {
		rates = k.relay.Rates()
	}
	p := predicted(*k.size, rates, k.able.Load())
	return &p
}

// predicted is what a rebirth would take by its size: an engine connects, loads the snapshot, applies the log behind
// it, each as fast as was measured last. Where a scratch engine does that before, saving and loading come on top.
func predicted(p httpapi.Rebirth, rates relay.Rates, able bool) httpapi.Rebirth {
	p.Measured = rates.RDB > 0
	if rates.RDB == 0 {
		rates.RDB = guessRDB
	}
	if rates.Stream == 0 {
		rates.Stream = guessStream
	}
	p.Seconds = connects.Seconds() + float64(p.Snapshot)/rates.RDB + float64(p.Log)/rates.Stream
	if twice := p.Seconds + 2*float64(p.Snapshot)/rates.RDB; able && p.Log > unseen && twice <= prepares.Seconds()/2 {
		p.Seconds, p.Replayed = twice, true
	}
	return p
}
