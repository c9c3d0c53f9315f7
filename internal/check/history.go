package check

import (
	"fmt"
	"time"

	"github.com/offloader/offloader/internal/stream"
)

// Archived is where the archive of a source ends: what a link would go on with.
type Archived struct {
	Timeline string
	ReplID   stream.ReplID // of what follows
	Offset   stream.Offset
	Last     time.Time // when the newest byte was received
}

// clockSlack is how far the clocks of three machines may lie apart.
const clockSlack = time.Minute

// costs is what it means to attach to a master that can't go on.
const costs = "attaching means a full sync and a new timeline"

// AdviseHistory tells whether a master goes on with the history that an archive of its source ends with,
// and if not, what is known of why. Ids alone don't tell the same master from another one: a server takes
// a new id at each start without its RDB, and when it gives up its backlog (redis, replication.c:
// replicationCron). But one that was running already when the archive's newest byte was received, shorter
// ago than a backlog is kept, has done neither.
func AdviseHistory(f *Facts, a Archived, now time.Time) []Finding {
	const name = "archive"
	var out findings
	if f.replID() == "" || f.Waits { // it has no history until it gets ours
		return nil
	}
	next := int64(a.Offset) + 1 // what PSYNC asks for
	previous := stream.ReplID(f.Info["master_replid2"]) == a.ReplID
	switch {
	case f.replID() != a.ReplID && !previous:
		f.stranger(&out, a, now)
	case f.replID() != a.ReplID && next > f.number("second_repl_offset"):
		out.add(Warn, name, "", "timeline %s ends at offset %d, and this master took over at %d: what it never had is kept, and a branch begins", a.Timeline, a.Offset, f.number("second_repl_offset")-1)
	case !f.holds(next):
		out.add(Warn, name, "nothing brings back what it has let go: see \"backlog\" for the next time",
			"it has the history of timeline %s, but not in its backlog what follows offset %d, where the archive ends: %s", a.Timeline, a.Offset, costs)
	default:
		out.ok(name, "it has what follows offset %d, where timeline %s ends: the link goes on there, with no full sync", a.Offset, a.Timeline)
	}
	return out
}

// holds tells whether a master can give its stream from a byte on (redis, replication.c: masterTryPartialResync).
func (f *Facts) holds(next int64) bool {
	first := f.number("repl_backlog_first_byte_offset")
	return f.Info["repl_backlog_active"] == "1" && first <= next && next <= first+f.number("repl_backlog_histlen")
}

// defaultTTL is how long the engines keep a backlog, and with it their id, without a replica.
const defaultTTL = time.Hour

// stranger tells of a master that doesn't know the history.
func (f *Facts) stranger(out *findings, a Archived, now time.Time) {
	up, away, ttl := time.Duration(f.number("uptime_in_seconds"))*time.Second, now.Sub(a.Last), defaultTTL
	if setting, told := f.Config["repl-backlog-ttl"]; told {
		ttl = time.Duration(atoi(setting)) * time.Second
	}
	why := fmt.Sprintf("it was running already when the archive's newest byte was received, %s ago, so it is another master, or had more than one failover since", span(away))
	switch {
	case f.Info["role"] == "slave":
		why = "it is a replica, and its ids are those that its own master has now"
	case now.Add(-up).After(a.Last.Add(-clockSlack)):
		why = fmt.Sprintf("it was started %s ago, after the archive's newest byte, and a start without its RDB gives a master a new id", span(up))
	case ttl > 0 && away > ttl:
		why = fmt.Sprintf("nothing was received for %s, and a master without replicas takes a new id after repl-backlog-ttl, %s", span(away), span(ttl))
	}
	out.add(Warn, "archive", "is it the master that was archived before? Another one wants a source of its own: another \"name\"",
		"it doesn't know replication id %s, under which timeline %s ends, so %s: %s", a.ReplID.Short(), a.Timeline, costs, why)
}
