package running

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/redis/go-redis/v9"

	"github.com/offloader/offloader/internal/carry"
)

// apart carries out a command whose keys lie in different slots of a cluster: copies of all of them are brought to one slot, the
// command is done there, to the copies, and what became of each goes back.
func (a *applier) apart(ctx context.Context, o carry.Order, from origin) error {
	if err := a.nodes.send(ctx); err != nil {
		return err
	}
	copies, names := carry.Words{}, map[string]string{} // of keys, in order; and the copy of each
	w := slices.Clone(o.Words)
	for _, i := range o.Keys {
		key := fmt.Sprintf("%s", w[i])
		if names[key] == "" {
			names[key] = fmt.Sprintf("{%s}:%d", markKey, len(copies))
			copies = append(copies, key)
		}
		w[i] = names[key]
	}
	work := a.nodes.of([]byte(markKey))
	for _, k := range copies {
		key := fmt.Sprint(k)
		if _, err := a.bring(ctx, key, a.nodes.of([]byte(key)), names[key], work); err != nil {
			return err
		}
	}
	work.add(0, w, from)
	if err := work.send(ctx); err != nil {
		return err
	}
	for _, k := range copies {
		key := fmt.Sprint(k)
		home := a.nodes.of([]byte(key))
		there, err := a.bring(ctx, names[key], work, key, home)
		if err != nil {
			return err
		}
		if !there {
			home.add(0, carry.Words{"DEL", key}, from)
		}
		work.add(0, carry.Words{"DEL", names[key]}, from)
	}
	return a.nodes.send(ctx)
}

// bring copies a key under another name to another node. It tells whether there is such a key.
func (a *applier) bring(ctx context.Context, from string, at *node, to string, on *node) (there bool, err error) {
	value, err := at.conn.Dump(ctx, from).Result()
	if errors.Is(err, redis.Nil) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	expires, err := at.conn.Do(ctx, "PEXPIRETIME", from).Int64()
	if err != nil {
		return false, err
	}
	on.add(0, carry.Words{"RESTORE", to, max(0, expires), []byte(value), "REPLACE", "ABSTTL"}, origin{"RESTORE " + to, -1})
	return true, on.send(ctx)
}
