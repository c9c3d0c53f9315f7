package running

import (
	"bytes"
	"context"
	"hash/maphash"
	"slices"
	"strconv"

	"github.com/offloader/offloader/internal/carry"
)

// maxHeld bounds how many keys of a server are remembered with --conflict skip: they take 128 MiB.
const maxHeld = 8_000_000

// scanPage is how many keys are asked for at once.
const scanPage = 1000

// held remembers which keys a server had before: by 128 bits of hash each, in order.
type held struct {
	seeds [2]maphash.Seed
	keys  [][2]uint64
}

// remember asks for all keys that are there.
func (t *target) remember(ctx context.Context) (*held, error) {
	h := &held{seeds: [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}}
	for _, n := range t.nodes.all {
		for _, db := range n.about.databases() {
			err := n.scan(ctx, db, func(keys []string) error {
				for _, k := range keys {
					h.keys = append(h.keys, h.hash(db, []byte(k)))
				}
				if len(h.keys) > maxHeld {
					return t.errorf("restore into a server of its own, and bring over what is missing", "it holds more than %d keys, which is as many as --conflict skip can remember", maxHeld)
				}
				return nil
			})
			if err != nil {
				return nil, t.failed("ask for its keys", err)
			}
		}
	}
	slices.SortFunc(h.keys, compare)
	return h, nil
}

func compare(a, b [2]uint64) int {
	return slices.Compare(a[:], b[:])
}

func (h *held) hash(db int, key []byte) (sum [2]uint64) {
	for i, seed := range h.seeds {
		var m maphash.Hash
		m.SetSeed(seed)
		_, _ = m.Write(strconv.AppendInt(nil, int64(db), 10)) // never fails
		_ = m.WriteByte(0)
		_, _ = m.Write(key)
		sum[i] = m.Sum64()
	}
	return sum
}

func (h *held) has(db int, key []byte) bool {
	_, found := slices.BinarySearchFunc(h.keys, h.hash(db, key), compare)
	return found
}

// scan shows all keys of a database, page by page.
func (n *node) scan(ctx context.Context, db int, do func(keys []string) error) error {
	for cursor := uint64(0); ; {
		if err := n.use(ctx, db); err != nil { // do may have gone to another
			return err
		}
		keys, next, err := n.conn.Scan(ctx, cursor, "", scanPage).Result()
		if err == nil && len(keys) > 0 {
			err = do(keys)
		}
		if err != nil {
			return err
		}
		if cursor = next; cursor == 0 {
			return nil
		}
	}
}

// clear deletes what a restore has put into a database, or into all with -1, and leaves what was there before.
func (a *applier) clear(ctx context.Context, only int) error {
	if err := a.nodes.send(ctx); err != nil {
		return err
	}
	for _, n := range a.nodes.all {
		if a.held == nil {
			if err := n.flush(ctx, only); err != nil {
				return err
			}
			continue
		}
		now, err := ask(ctx, n.client)
		if err != nil {
			return err
		}
		for _, db := range now.databases() {
			if only >= 0 && db != only {
				continue
			}
			if err := n.scan(ctx, db, func(keys []string) error { return a.drop(ctx, n, db, keys) }); err != nil {
				return err
			}
		}
	}
	return a.setMark(ctx)
}

// drop deletes those of some keys that were not there before. One at a time, since in a cluster
// a page of them lies in many slots.
func (a *applier) drop(ctx context.Context, n *node, db int, keys []string) error {
	for _, k := range keys {
		if key := []byte(k); !a.held.has(db, key) && !bytes.Equal(key, []byte(markKey)) {
			n.add(db, carry.Words{"UNLINK", key}, origin{"UNLINK", -1})
		}
	}
	return n.send(ctx)
}

// flush empties a server, or one of its databases.
func (n *node) flush(ctx context.Context, db int) error {
	if db < 0 {
		return n.conn.FlushAll(ctx).Err()
	}
	if err := n.use(ctx, db); err != nil {
		return err
	}
	return n.conn.FlushDB(ctx).Err()
}

// tooOld refuses engines that lack what a restore by commands needs.
func (t *target) tooOld(f facts) error {
	if f.major < 7 {
		return t.errorf("restore into an engine from 7.0 on, or into a folder with --format aof-single", "%s is too old to be restored into by commands", f.engine())
	}
	return nil
}
