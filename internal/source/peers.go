package source

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/offloader/offloader/internal/durable"
	"github.com/offloader/offloader/internal/relay"
	"github.com/offloader/offloader/internal/stream"
)

const (
	// peersFile keeps in the spool who was the master and who else there is, so that a daemon that is started together with
	// its master knows what that one had gone on to, and whom to ask before it is the master again. It is a cache: without it
	// nobody is known.
	peersFile = "peers.json"
	// remembered is how long after it was last there somebody is known, while the link streams: a master is there,
	// and nobody can have taken its place unseen. While it doesn't, nobody is forgotten.
	remembered = time.Hour
	// returns is how long a replica may be away without having left. One that hears nothing connects anew each minute or so.
	returns = time.Minute
	// So many of a kind are known at most.
	maxPeers, maxSentinels = 256, 32
)

// peers are the master that was there last, the other servers that may be the master when the source's own comes back, and
// the Sentinels, who say which one is.
type peers struct {
	path string // of peersFile
	log  *slog.Logger

	mu    sync.Mutex
	known company

	saving sync.Mutex // held while peersFile is written
	kept   []byte     // what it has
	told   bool       // that it can't be written: it is tried each second
}

// company is what peersFile holds.
type company struct {
	Replicas  []string   `json:"replicas,omitempty"`  // that followed the master when it was last asked, host:port as they announce themselves
	Followers []follower `json:"followers,omitempty"` // of the relay
	Sentinels []Sentinel `json:"sentinels,omitempty"`
	Port      int        `json:"port,omitempty"` // where they find us, 0: nowhere yet

	Master process `json:"master,omitzero"`  // that the last stream came from
	Beyond *place  `json:"beyond,omitempty"` // where the master was that was there last, if no stream of ours leads there, and it still isn't archived
}

// process is a server from its start to its end.
type process struct {
	RunID string `json:"run_id"`
	Role  string `json:"role"`
}

// place is a moment of a history, and what the server held there.
type place struct {
	ReplID stream.ReplID `json:"replid"`
	Offset stream.Offset `json:"offset"`
	RunID  string        `json:"run_id"` // of the process
	Fewest int64         `json:"fewest"` // keys that it has had since it was first seen there, -1 where that isn't known
}

// follower is a replica that is attached to the relay, or was.
type follower struct {
	Address string      `json:"address"`
	Left    stream.Time `json:"left"` // null: it hasn't
}

// Sentinel is one that has been heard.
type Sentinel struct {
	relay.Hello           // its last
	Heard       time.Time `json:"-"` // zero: not by this daemon
}

// open reads what an earlier daemon has left.
func (p *peers) open() {
	b, err := os.ReadFile(p.path)
	var c company
	if err == nil {
		c, err = parseCompany(b)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		p.log.Warn("who else may be the master can't be read: nobody is known until they are seen again", "file", p.path, "error", err)
	}
	p.change(func(was *company) { *was = c })
}

// parseCompany reads what save has written, and takes no more of anything else.
func parseCompany(b []byte) (c company, err error) {
	if err := json.Unmarshal(b, &c); err != nil {
		return company{}, err
	}
	c.Sentinels = slices.DeleteFunc(c.Sentinels, func(s Sentinel) bool { return !s.Valid() })
	c.bound()
	return c, nil
}

// save keeps who is known, if that is not what was kept.
func (p *peers) save() {
	p.saving.Lock()
	defer p.saving.Unlock()
	if p.path == "" {
		return
	}
	b, err := json.MarshalIndent(p.get(), "", "  ")
	if err == nil && !bytes.Equal(b, p.kept) {
		err = durable.WriteFile(p.path, append(b, '\n'))
	}
	switch {
	case err == nil:
		p.kept = b
	case !p.told:
		p.log.Error("who else may be the master won't survive a restart until this can be written", "error", err)
	}
	p.told = err != nil
}

// get is who is known now.
func (p *peers) get() company {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.known
	c.Replicas, c.Followers, c.Sentinels = slices.Clone(c.Replicas), slices.Clone(c.Followers), slices.Clone(c.Sentinels)
	return c
}

// change changes who is known.
func (p *peers) change(f func(*company)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f(&p.known)
}

// meet takes note of who is attached to the relay, and who was.
func (c *company) meet(book []relay.Replica, now time.Time) {
	left := map[string]stream.Time{} // 0: it is there
	for _, r := range book {
		if !r.Listens() {
			continue
		}
		if left[r.Address] = 0; r.State == relay.Away && now.Sub(r.Since.Go()) >= returns {
			left[r.Address] = r.Since
		}
	}
	for i := range c.Followers {
		f := &c.Followers[i]
		at, known := left[f.Address]
		switch {
		case known && (at == 0 || f.Left == 0):
			f.Left = at
		case f.Left == 0: // the book is younger than what an earlier one had in it
			f.Left = stream.TimeOf(now)
		}
		delete(left, f.Address)
	}
	for address, at := range left {
		if at == 0 {
			c.Followers = append(c.Followers, follower{Address: address})
		}
	}
	c.bound()
}

// hear takes note of what a Sentinel says. Where too many are known a new one isn't taken: anybody who reaches the port
// can make some up.
func (c *company) hear(h relay.Hello, now time.Time) {
	i := slices.IndexFunc(c.Sentinels, func(s Sentinel) bool { return s.Sentinel == h.Sentinel && s.Master == h.Master })
	switch {
	case i >= 0:
		c.Sentinels[i] = Sentinel{h, now}
	case len(c.Sentinels) < maxSentinels:
		c.Sentinels = append(c.Sentinels, Sentinel{h, now})
	}
}

// forget lets go of who has not been there for long, where the link has streamed for as long.
func (c *company) forget(connected, now time.Time) {
	if now.Sub(connected) <= remembered {
		return
	}
	c.Followers = slices.DeleteFunc(c.Followers, func(f follower) bool { return f.Left != 0 && now.Sub(f.Left.Go()) > remembered })
	c.Sentinels = slices.DeleteFunc(c.Sentinels, func(s Sentinel) bool { return now.Sub(s.Heard) > remembered })
}

// bound keeps who is there, and of those who have left the last ones.
func (c *company) bound() {
	last := func(f follower) stream.Time { return cmp.Or(f.Left, math.MaxInt64) }
	slices.SortFunc(c.Followers, func(a, b follower) int {
		return cmp.Or(cmp.Compare(last(b), last(a)), cmp.Compare(a.Address, b.Address))
	})
	c.Replicas = c.Replicas[:min(len(c.Replicas), maxPeers)]
	c.Followers = c.Followers[:min(len(c.Followers), maxPeers)]
	c.Sentinels = c.Sentinels[:min(len(c.Sentinels), maxSentinels)]
}
