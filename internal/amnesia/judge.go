package amnesia

import (
	"slices"
	"time"

	"github.com/offloader/offloader/internal/stream"
	"github.com/offloader/offloader/internal/syncer"
)

// fewKeys is from how many keys on a share of them means something. Of a handful, half may be gone for
// any reason; all of them may not.
const fewKeys = 10

// Forgot tells whether a master that held so many keys before, and comes back with so many now, has
// forgotten some: all of them, or so many that less than a share of them, in percent, is left.
func Forgot(before, now int64, share float64) bool {
	switch {
	case before <= 0 || now >= before || now < 0:
		return false
	case now == 0:
		return true
	}
	return before >= fewKeys && float64(now) < float64(before)/100*share
}

// History is what is held of a master's.
type History struct {
	IDs  []stream.ReplID // that its offsets were counted under, the last one last
	End  stream.Offset
	Seen time.Duration // so long ago the master's last byte came

	RunID string // of the process that it came from, "" where that isn't known
}

// Rewound tells whether a server stands before the end of the history, as one that was started with an old
// dump.rdb, and where it left it. It answers PSYNC with id, and at is the offset where it goes on then.
func (h History) Rewound(m syncer.Master, id stream.ReplID, at stream.Offset) (to stream.Offset, ok bool) {
	if len(h.IDs) == 0 {
		return 0, false
	}
	if id == h.IDs[len(h.IDs)-1] {
		// The same history, and earlier: a machine that was set back to an image of it. A replica that was
		// restarted is briefly behind, too, and then gets the rest from its own master.
		return at, at < h.End && m.Role != "slave"
	}
	to = m.SecondOffset - 1 // PSYNC's count, see syncer.Master
	if !m.Permitted || m.ReplID2 == "" || !slices.Contains(h.IDs, m.ReplID2) || to < 0 || to >= h.End {
		return 0, false
	}
	if m.RunID != "" && m.RunID == h.RunID {
		return 0, false // it ran on: somebody has restored it to an earlier state
	}
	return to, CameBack(m, h.Seen)
}

// slack is what two looks at an uptime in whole seconds can be wrong by.
const slack = 2 * time.Second

// CameBack tells whether a server, whose history is that of a master who last said something so long ago, was
// started since. A replica that was promoted had been running before. It also holds bytes in its backlog from
// before the promotion, while an engine that loads an RDB begins its backlog where that ends (redis, server.c:
// loadDataFromDisk).
func CameBack(m syncer.Master, seen time.Duration) bool {
	if m.BacklogLen > 0 && m.SecondOffset > 0 && m.BacklogFirst < m.SecondOffset {
		return false
	}
	return m.Permitted && m.Uptime <= seen+slack
}
