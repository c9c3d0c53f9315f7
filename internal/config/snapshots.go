package config

import (
	"errors"
	"fmt"

	"github.com/offloader/offloader/internal/schedule"
)

// Ways to take a snapshot of a timeline that goes on.
const (
	MethodMaster  = "master"  // the master forks for it
	MethodReplica = "replica" // a replica of it does
)

// Snapshots say when more of them are taken, and of whom.
type Snapshots struct {
	Schedule schedule.Schedule // the zero one: only by hand
	Method   string
	Address  string // host:port of the replica, "" for method master
}

func (r *reader) snapshots(n node, c *Config) {
	s := &c.Snapshots
	given := r.mapping(n, "snapshots", []field{
		{"schedule", func(n node) { read(r, n, &s.Schedule, schedule.Parse) }},
		{"method", func(n node) { r.value(n, &s.Method, method) }},
		{"address", func(n node) { r.value(n, &s.Address, Address) }},
	})
	switch {
	case given == nil:
	case s.Method == MethodReplica && !given["address"]:
		r.fail(r.at(n), `method replica needs the replica's "address"`)
	case s.Method != MethodReplica && given["address"]:
		r.fail(r.where["snapshots.address"], `an "address" goes with method replica`)
	}
}

// oneReplica refuses one replica for many masters.
func (r *reader) oneReplica(c *Config) {
	if at, given := r.where["snapshots.address"]; given && len(c.Sources) > 1 {
		r.fail(at, fmt.Sprintf("there are %d sources and one replica: method replica is for a daemon with one source", len(c.Sources)))
	}
}

func method(s string) (string, error) {
	switch s {
	case MethodMaster, MethodReplica:
		return s, nil
	case "merge":
		return "", errors.New(`"method: merge" is ` + notYet + `: say master or replica`)
	}
	return "", fmt.Errorf("%q is no method%s", s, suggestion(s, []string{MethodMaster, MethodReplica}))
}
