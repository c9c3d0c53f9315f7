package running

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"

	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"

	"github.com/offloader/offloader/internal/carry"
	"github.com/offloader/offloader/internal/stream"
)

const (
	// Commands go out when so many are together, or so many bytes.
	maxBatch      = 1000
	maxBatchBytes = 1 << 20
)

// node is a server that takes commands: the only one, or one of a cluster's masters. It has one connection, on which
// things happen in order.
type node struct {
	client *redis.Client
	conn   *redis.Conn
	about  facts
	db     int // selected on conn, or by what waits; -1: not known

	waiting []carry.Words
	origins []origin // of those
	bytes   int

	// gone says of an error that a key is missing which may be: all its fields have expired since.
	gone func(error) bool
}

// origin is where a command comes from, for errors.
type origin struct {
	name   string
	offset stream.Offset
}

// nodes are all servers of a restore.
type nodes struct {
	all  []*node
	slot []*node // whose each slot is; nil where there is one server
}

// openNodes connects to the server, and where it is one of a cluster, to all of its masters.
func (t *target) openNodes(ctx context.Context) (*nodes, error) {
	if !t.about.cluster() {
		return &nodes{all: []*node{{client: t.client, conn: t.client.Conn(), about: t.about, db: -1}}}, nil
	}
	if err := t.tooOld(t.about); err != nil {
		return nil, err
	}
	shards, err := t.client.ClusterShards(ctx).Result()
	if err != nil {
		return nil, t.failed("ask for the cluster's shards", err)
	}
	ns := &nodes{slot: make([]*node, carry.Slots)}
	for _, shard := range shards {
		address := t.masterOf(shard)
		if address == "" || len(shard.Slots) == 0 {
			continue
		}
		client := t.to(address)
		n := &node{client: client, conn: client.Conn(), db: -1}
		ns.all = append(ns.all, n)
		if n.about, err = ask(ctx, client); err != nil {
			return ns, t.failed("ask the node "+address, err)
		}
		for _, r := range shard.Slots {
			for i := max(0, r.Start); i <= min(r.End, carry.Slots-1); i++ {
				ns.slot[i] = n
			}
		}
	}
	for i, n := range ns.slot {
		if n == nil {
			return ns, t.errorf("wait until the cluster is whole: CLUSTER INFO", "no node of its cluster serves slot %d", i)
		}
	}
	return ns, nil
}

// masterOf is the address of a shard's master, "" where it has none that lives. A node that doesn't know under which
// name it is reached is where we reached the one that we know.
func (t *target) masterOf(shard redis.ClusterShard) string {
	for _, n := range shard.Nodes {
		if n.Role != "master" || n.Health != "online" {
			continue
		}
		host, port := n.Endpoint, n.Port
		if t.server.TLS != nil {
			port = n.TLSPort
		}
		if host == "" || host == "?" {
			host = n.IP
		}
		if host == "" {
			host = t.remote.String()
		}
		return net.JoinHostPort(host, strconv.FormatInt(port, 10))
	}
	return ""
}

func (ns *nodes) close() {
	if ns == nil {
		return
	}
	for _, n := range ns.all {
		_ = errors.Join(n.conn.Close(), n.client.Close()) // all that was asked was answered
	}
}

// of is the node of a key.
func (ns *nodes) of(key []byte) *node {
	if ns.slot == nil {
		return ns.all[0]
	}
	return ns.slot[carry.SlotOf(key)]
}

// use selects a database, for what is asked at once.
func (n *node) use(ctx context.Context, db int) error {
	if n.db == db {
		return nil
	}
	err := n.conn.Select(ctx, db).Err()
	if err == nil {
		n.db = db
	}
	return err
}

// add lets a command wait to be sent. full says that it is time to.
func (n *node) add(db int, w carry.Words, from origin) (full bool) {
	if n.db != db {
		n.waiting, n.origins, n.db = append(n.waiting, carry.Words{"SELECT", db}), append(n.origins, from), db
	}
	n.waiting, n.origins = append(n.waiting, w), append(n.origins, from)
	for _, a := range w {
		if b, ok := a.([]byte); ok {
			n.bytes += len(b)
		}
	}
	return len(n.waiting) >= maxBatch || n.bytes >= maxBatchBytes
}

// send sends what waits and looks at each answer.
func (n *node) send(ctx context.Context) error {
	if len(n.waiting) == 0 {
		return nil
	}
	pipe := n.conn.Pipeline()
	for _, w := range n.waiting {
		pipe.Do(ctx, w...)
	}
	answers, err := pipe.Exec(ctx)
	for i, a := range answers {
		if e := a.Err(); e != nil && !errors.Is(e, redis.Nil) && (n.gone == nil || !n.gone(e)) {
			if isReply(e) {
				return &carry.CommandError{Command: n.origins[i].name, Offset: n.origins[i].offset, Why: "the server says", Err: e}
			}
			return fmt.Errorf("send %s and what follows: %w", n.origins[i].name, e)
		}
	}
	if err != nil && !isReply(err) && !errors.Is(err, redis.Nil) {
		return err
	}
	n.waiting, n.origins, n.bytes = n.waiting[:0], n.origins[:0], 0
	return nil
}

// send sends what waits for any node, to all side by side.
func (ns *nodes) send(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, n := range ns.all {
		g.Go(func() error { return n.send(ctx) })
	}
	return g.Wait()
}
