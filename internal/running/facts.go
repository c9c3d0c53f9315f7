package running

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/offloader/offloader/internal/stream"
)

// facts is what a server says of itself in INFO.
type facts struct {
	info         map[string]string
	valkey       bool
	major, minor int
	keys         map[int]int64 // per database, empty ones left out
}

// errOffloader says that what answers keeps no data.
var errOffloader = errors.New("what answers there is Offloader, a relay or the port that it announces, and holds no data")

// ask asks a server, or a node of a cluster.
func ask(ctx context.Context, c *redis.Client) (facts, error) {
	text, err := c.Info(ctx).Result()
	if err != nil {
		return facts{}, err
	}
	f := facts{info: map[string]string{}, keys: map[int]int64{}}
	for line := range strings.Lines(text) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), ":")
		if !ok {
			continue
		}
		f.info[name] = value
		// db0:keys=12,expires=0,avg_ttl=0
		if db, err := strconv.Atoi(strings.TrimPrefix(name, "db")); err == nil && strings.HasPrefix(name, "db") {
			n, _, _ := strings.Cut(strings.TrimPrefix(value, "keys="), ",")
			if keys, err := strconv.ParseInt(n, 10, 64); err == nil && keys > 0 {
				f.keys[db] = keys
			}
		}
	}
	if f.info["server_name"] == "offloader" {
		return facts{}, errOffloader
	}
	version := f.info["redis_version"]
	if v := f.info["valkey_version"]; v != "" {
		f.valkey, version = true, v
	}
	if _, err := fmt.Sscanf(version, "%d.%d", &f.major, &f.minor); err != nil {
		return facts{}, fmt.Errorf("its INFO tells no version of an engine: %q", version)
	}
	return f, nil
}

func (f facts) engine() string {
	if f.valkey {
		return "valkey " + f.info["valkey_version"]
	}
	return "redis " + f.info["redis_version"]
}

func (f facts) cluster() bool {
	return f.info["cluster_enabled"] == "1" || f.info["redis_mode"] == "cluster"
}
func (f facts) replica() bool { return f.info["role"] == "slave" }
func (f facts) loading() bool { return f.info["loading"] == "1" }

// linked says that a replica has its master.
func (f facts) linked() bool { return f.info["master_link_status"] == "up" }

func (f facts) master() string { return net.JoinHostPort(f.info["master_host"], f.info["master_port"]) }

// offset is how much of the history named replid it has as a replica.
func (f facts) offset() stream.Offset {
	n, err := strconv.ParseInt(f.info["slave_repl_offset"], 10, 64)
	if err != nil {
		return -1
	}
	return stream.Offset(n)
}

func (f facts) replid() stream.ReplID {
	id, err := stream.ParseReplID(f.info["master_replid"])
	if err != nil {
		return ""
	}
	return id
}

// held is how many keys it has, and libraries of functions.
func (f facts) held() (keys, libraries int64) {
	for _, n := range f.keys {
		keys += n
	}
	libraries, _ = strconv.ParseInt(f.info["number_of_libraries"], 10, 64) // before 7.0 there are none
	return keys, libraries
}

func (f facts) databases() []int { return slices.Sorted(maps.Keys(f.keys)) }

// loads tells whether the engine can load an RDB of a version, as far as is known (redis and valkey, rdb.h:
// RDB_VERSION; valkey: RDB_FOREIGN_VERSION_MIN). What a newer one can do isn't known here, and is believed.
func (f facts) loads(rdb int) bool {
	newest := 12
	switch at := f.major*100 + f.minor; {
	case f.valkey && at >= 900:
		return rdb <= 11 || rdb >= 80
	case f.valkey, at >= 702 && at < 704:
		newest = 11
	case at < 700:
		newest = 9
	case at < 702:
		newest = 10
	case at > 800:
		newest = 79
	}
	return rdb <= newest
}
