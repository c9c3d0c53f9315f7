// Package rebirth decides whether a source's engine that has come back as a replica of the relay is
// made the master again.
//
// It chooses nothing. Promoted is the engine that stands at the source's address, follows this daemon's
// relay, and holds exactly what was durable last; and it is promoted only while nothing else could be the
// master, and nothing says that what it holds is not what people want. Everything else waits, with a
// reason, for more bytes, for a store, or for the word of an operator (design.md, "Rebirth never
// chooses").
package rebirth

import (
	"fmt"
	"slices"

	"github.com/offloader/offloader/internal/stream"
)

// Order is what an operator has said.
type Order string

// The orders. Without one, nothing is decided that isn't certain.
const (
	None   Order = ""
	Empty  Order = "empty"  // start from nothing
	Latest Order = "latest" // start from what there is
)

// Facts are what is known at one moment.
type Facts struct {
	Source string // its name, for hints
	Order  Order

	Unread   error         // why it isn't known what is archived; nil: it is
	Timeline string        // the newest; "": nothing is archived
	ReplID   stream.ReplID // at its end
	End      stream.Offset // its last durable boundary
	Suspect  string        // why it is suspect; "": it is not
	Left     string        // where the source had gone on from there, to what isn't archived; "": nowhere

	Engine Engine
	// Words and Others are asked for when nothing else stands in the way.
	Words  func() []Word // of the Sentinels that watch it, or did
	Others func() []Server
}

// Engine is the one at the source's address. The first four are what it says there, the rest is what it
// says at the relay.
type Engine struct {
	ReplID  stream.ReplID
	Up      bool          // its link to whom it follows
	At      stream.Offset // where it stands; -1: nowhere
	Keys    int64
	Loading bool
	Untold  string // "INFO" or "ROLE", which it may not be asked for: then nothing of this is known

	Attached bool          // it is connected to the relay
	Copying  bool          // and gets a full copy
	Waits    bool          // for that, until a scratch engine has replayed what is behind the snapshot
	Acked    stream.Offset // that it acknowledged last
	PutOff   string        // why the relay last put it off, and what ends that
	Remedy   string
}

// Server is another one that is known to have followed the source.
type Server struct {
	Address string
	Host    bool  // it is at the source's own host, under another port
	Err     error // why it could not be asked. One that nobody runs is not among the Others
	Refuses bool  // that is its own word: it is there, and doesn't let us ask
	Follows bool  // the relay, at this moment: then it is a replica, and has nothing that we have not
	Archive bool  // it is another daemon, which can't become a master, and may hold more all the same
	Master  bool
	ReplID  stream.ReplID
	Left    stream.ReplID // the history that it went on from under ReplID, "" where there is none
	At      stream.Offset
}

// Word is what a Sentinel says, or said last.
type Word struct {
	Names    string // the address of the master
	Source   bool   // which is the source's
	Epoch    uint64 // of the failover that has made it that: a higher one is newer
	Asked    bool   // it was asked for it now
	Choosing bool   // it is about to name another
	Silent   string // which one says nothing now, and why; "": it was asked, or heard a moment ago
}

// Verdict says whether the engine is promoted, and if not, why, and what to do.
type Verdict struct {
	Promote bool // of Feed: it may have its data
	Why, Do string
}

func wait(do, why string, args ...any) Verdict {
	return Verdict{Why: fmt.Sprintf(why, args...), Do: do}
}

// some is how many of something there are.
func some(n int64, one string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %ss", n, one)
}

// Judge is the decision.
func Judge(f Facts) Verdict {
	e := f.Engine
	ahead := e.ReplID == f.ReplID && e.At > f.End
	switch {
	case e.Untold != "":
		return wait("grant the user +info +role +replicaof there, see configs/offloader.acl", "it may not be asked for %s: where it stands isn't known", e.Untold)
	case f.Order == Empty && e.Keys > 0:
		return wait("leave --empty away, or take the data from the server first", "it holds %s, and was to start from nothing", some(e.Keys, "key"))
	case f.Order == Empty, f.Order == Latest && f.Unread == nil && f.Timeline != "" && ahead: // what there is includes what it has itself
		return Verdict{Promote: true}
	}
	if v := Feed(f); !v.Promote {
		return v
	}
	switch {
	case ahead:
		return wait(f.overrule()+", with what it holds", "it stands at offset %d, and only what is before %d is durable here", e.At, f.End)
	case e.Waits:
		return wait("", "a scratch engine replays what is behind the snapshot, so that nobody reads what is old")
	case e.Loading:
		return wait("", "it loads the snapshot")
	case !e.Attached && e.PutOff != "":
		return wait(e.Remedy, "the relay has put it off: %s", e.PutOff)
	case !e.Attached:
		return wait("", "it is not attached to the relay yet")
	case e.Copying:
		return wait("", "it gets a full copy")
	case !e.Up || e.ReplID != f.ReplID || e.At != f.End || e.Acked != f.End:
		return wait("", "it is at offset %d of %d", max(0, min(e.At, e.Acked)), f.End)
	}
	return Verdict{Promote: true}
}

// Feed is the part of the decision that is made before the engine gets any data: while another server may be the
// master, or is ahead, that would have the engine take their place for those who follow it, and a replica of
// its own that has more would lose it (it would get a full copy of less).
func Feed(f Facts) Verdict {
	switch {
	case f.Unread != nil:
		return wait("it goes on by itself when that is over; `offloader promote --source "+f.Source+" --empty` starts from nothing, and what is archived is kept until `offloader release`",
			"what is archived is not known: %v", f.Unread)
	case f.Timeline == "":
		return wait("at a first start: `offloader promote --source "+f.Source+" --empty`", "nothing is archived of it")
	case f.Order == Latest:
		return Verdict{Promote: true}
	case f.Suspect != "":
		return wait("look at `offloader list`; `offloader release` takes what it holds for good, `offloader promote --source "+f.Source+" --latest` goes back to what was before",
			"the newest timeline %s is suspect: %s", f.Timeline, f.Suspect)
	case f.Left != "":
		return wait(f.overrule()+", without that", "the master had gone on to %s before it died, of which nothing is archived", f.Left)
	}
	if v := f.elected(); !v.Promote {
		return v
	}
	for _, o := range f.Others() {
		switch {
		case o.Err != nil && o.Refuses && o.Follows:
		case o.Err != nil && o.Refuses:
			return wait("let our user ask it, with +info +role (users are not replicated), or attach it to the relay; "+f.overrule(), "replica %s may have become the master, and can't be asked: %v", o.Address, o.Err)
		case o.Err != nil && o.Host:
			return wait("if it is the source's port for TLS, or the one without: set replica-announce-port there to the port of its address here, and restart it. Then, and where you know that it is no master, "+f.overrule(),
				"%s, at the source's own host, is a port of the source itself or a replica that may have become the master, and can't be asked: %v", o.Address, o.Err)
		case o.Err != nil:
			return wait("see what "+o.Address+" is; "+f.overrule(), "replica %s may have become the master, and can't be asked: %v", o.Address, o.Err)
		case o.Master:
			return wait("have one of the two follow the other, or name that one as the source; "+f.overrule(), "%s, which was of its replicas or has its name, is a master now", o.Address)
		case o.Archive && o.ReplID == f.ReplID && o.At > f.End:
			return wait("restart the server as a replica of that one's relay, which brings these back; "+f.overrule()+", without these",
				"another Offloader, at %s, has %s more than are durable here", o.Address, some(int64(o.At-f.End), "byte"))
		case (o.ReplID == f.ReplID || o.Left == f.ReplID) && o.At > f.End:
			return wait("promote that one, and name it as the source; "+f.overrule()+", without these", "replica %s has %s more than are durable here", o.Address, some(int64(o.At-f.End), "byte"))
		}
	}
	return Verdict{Promote: true}
}

// elected tells whether the source is what Sentinel names, where there is one. A failover takes more than half of
// the Sentinels, so the word of fewer says nothing: another one may have been chosen without their knowing it. Where they differ, the
// newest failover counts, as it does among themselves. What was only heard, which anybody may have said, is one of those
// that say something, but it outdoes no other's word.
func (f Facts) elected() Verdict {
	words := f.Words()
	var other Word
	said, silent, choosing := 0, "", false
	for _, w := range words {
		choosing = choosing || w.Choosing
		if !w.Source && (other.Names == "" || w.Epoch > other.Epoch) {
			other = w
		}
		if w.Silent == "" {
			said++
		} else if silent == "" {
			silent = w.Silent
		}
	}
	newer := slices.ContainsFunc(words, func(w Word) bool { return w.Source && w.Asked && w.Epoch > other.Epoch })
	switch {
	case other.Names != "" && !newer && other.Silent == "":
		return wait("have Sentinel's choice be the source; "+f.overrule(), "Sentinel names %s as the master", other.Names)
	case other.Names != "" && !newer:
		return wait("have Sentinel's choice be the source; "+f.overrule(), "Sentinel named %s as the master last (%s)", other.Names, other.Silent)
	case choosing:
		return wait("", "a Sentinel is choosing the master")
	case 2*said <= len(words) && len(words) > 0:
		return wait("it goes on when more than half of them say that it is; "+f.overrule(), "whether Sentinel names another master is not known: of %d that watch it %d say something now (%s)", len(words), said, silent)
	}
	return Verdict{Promote: true}
}

// overrule is the word that decides where this can't.
func (f Facts) overrule() string {
	return "`offloader promote --source " + f.Source + " --latest` has it go on all the same"
}
