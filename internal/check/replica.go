package check

import (
	"fmt"

	"github.com/offloader/offloader/internal/stream"
)

// AdviseReplica turns what is known of the server that snapshots are taken of, as a replica of the
// source, into findings. master is nil where that could not be asked.
func AdviseReplica(f, master *Facts, us Ours) []Finding {
	const name = "replica"
	var out, rights findings
	f.rights(&rights, us.User, "replica")
	for _, r := range rights {
		if r.Name == "rights" && r.Level != OK {
			r.Name, r.Message = name, f.Address+": "+r.Message
			out = append(out, r)
		}
	}
	product, version := f.Product()
	id, ours := f.replID(), stream.ReplID("")
	if master != nil {
		ours = master.replID()
	}
	switch {
	case f.sentinel():
		out.add(Fail, name, "name a replica of the source: the Sentinel tells them, by SENTINEL REPLICAS name", "%s is a Sentinel, it holds no data", f.Address)
	case f.Info["loading"] == "1":
		out.add(Warn, name, "wait: it gives no snapshot until then", "%s is loading its dataset, and whose that is isn't known until that is done", f.Address)
	case f.cutOff():
		out.add(Fail, name, fmt.Sprintf("mend its link to %s:%s", f.Info["master_host"], f.Info["master_port"]), "%s is a replica whose own link is down, and gives no snapshot while that is so", f.Address)
	case id == "":
		out.add(Warn, name, "", "%s answers, and may not tell what it is: whether its data are this source's isn't known", f.Address)
	case ours == "":
		out.add(Warn, name, "", "%s is a %s %s; whether its data are this source's isn't known, since the source doesn't tell what it is", f.Address, product, version)
	case id != ours:
		out.add(Fail, name, "name a replica of this source, see INFO replication on the source", "%s has replication id %s, and the source has %s: it is no replica of it, and no snapshot of it is taken", f.Address, id.Short(), ours.Short())
	case f.Info["role"] != "slave":
		out.add(Warn, name, "name a replica, or leave it at method master", "%s is a master itself: it forks for each snapshot, which a replica is there to spare it", f.Address)
	case len(out) == 0:
		out.ok(name, "%s is a replica with the source's data, %s %s: it forks for snapshots, and the master doesn't", f.Address, product, version)
	}
	return out
}

// replID is the replication id that a server goes on under, "" where it didn't tell.
func (f *Facts) replID() stream.ReplID { return stream.ReplID(f.Info["master_replid"]) }
