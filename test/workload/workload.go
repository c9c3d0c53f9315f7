// Package workload writes to an engine what applications might: every data type and nearly every
// command that writes, transactions, scripts and functions, in several databases, with keys that
// expire under way, and values that hold what could be taken for protocol.
//
//	w := workload.New(seed, master)
//	defer w.Close()
//	err := w.Run(ctx, 1000) // and the engine pauses here, for whoever wants to look
//	err = w.Run(ctx, 1000)
//
// The same seed gives the same commands. Random commands fail now and then, as applications' do (a
// key of another type, a group that isn't there), and such a failure is none; an engine that doesn't
// know a command, or its syntax, is one. Missing tells which commands never succeeded: a workload
// that was refused everything proves nothing.
package workload

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/offloader/offloader/internal/engine/enginetest"
)

// databases that are written to: SWAPDB and MOVE make sure that there is something in each.
var databases = []int{0, 0, 0, 1, 1, 2, 9, 15}

// Brief begins the names of keys whose hash fields expire under way. An engine may show fewer of
// their fields the moment it is asked again.
const Brief = "hb:"

// A Workload is one client that writes. It is not safe for concurrent use.
type Workload struct {
	rng     *rand.Rand
	kind    enginetest.Kind
	client  *redis.Client
	conn    *redis.Conn
	actions []action // those that the engine knows, each as often as its weight
	db      int
	ok      map[string]int // commands that succeeded, by name
	n       int            // steps so far
}

// action makes the commands of one step. They are sent in one go, on one connection.
type action struct {
	weight int
	do     func(w *Workload) []command
	needs  func(enginetest.Kind) bool // nil: all engines know it
}

type command []any

func (c command) name() string { return strings.ToUpper(fmt.Sprint(c[0])) }

// New makes a workload. Its connections are its own: they change databases.
func New(seed uint64, master *enginetest.Server) *Workload {
	kind := master.Kind()
	client := redis.NewClient(&redis.Options{
		Addr: master.Addr(), Protocol: 2, DisableIdentity: true, MaxRetries: -1, ReadTimeout: time.Minute, ContextTimeoutEnabled: true,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	})
	w := &Workload{rng: rand.New(rand.NewPCG(seed, 0)), kind: kind, client: client, conn: client.Conn(), ok: map[string]int{}}
	for _, a := range slices.Concat(stringActions, listActions, setActions, sortedSetActions, hashActions, streamActions, keyActions, scriptActions) {
		if a.needs == nil || a.needs(kind) {
			w.actions = append(w.actions, slices.Repeat([]action{a}, a.weight)...)
		}
	}
	return w
}

// Close ends the connections.
func (w *Workload) Close() error { return errors.Join(w.conn.Close(), w.client.Close()) }

// Run does steps more steps.
func (w *Workload) Run(ctx context.Context, steps int) error {
	for range steps {
		w.n++
		if err := w.step(ctx); err != nil {
			return fmt.Errorf("step %d: %w", w.n, err)
		}
	}
	return nil
}

func (w *Workload) step(ctx context.Context) error {
	var send []command
	if w.chance(4) {
		w.db = pick(w, databases...)
		send = append(send, command{"SELECT", w.db})
	}
	switch {
	case w.chance(12): // a transaction of several actions
		send = append(send, command{"MULTI"})
		for range 1 + w.rng.IntN(4) {
			send = append(send, w.action()...)
		}
		send = append(send, command{pick(w, "EXEC", "EXEC", "EXEC", "EXEC", "DISCARD")})
	case w.chance(25): // a client that waits, and one that serves it
		return w.blocked(ctx)
	default:
		send = append(send, w.action()...)
	}
	return w.send(ctx, send)
}

func (w *Workload) action() []command { return w.actions[w.rng.IntN(len(w.actions))].do(w) }

// send sends commands in one go and looks at each answer.
func (w *Workload) send(ctx context.Context, list []command) error {
	answers := make([]*redis.Cmd, len(list))
	_, _ = w.conn.Pipelined(ctx, func(p redis.Pipeliner) error { // each answer has its own error
		for i, c := range list {
			answers[i] = p.Do(ctx, c...)
		}
		return nil
	})
	queued := -1 // the first command of the open transaction
	for i, c := range list {
		err := answers[i].Err()
		if !harmless(err) {
			return fmt.Errorf("%.200q: %w", c, err)
		}
		switch name := c.name(); {
		case name == "MULTI":
			queued = i + 1
			w.ok[name]++
		case name == "EXEC" && err == nil:
			w.ok[name]++
			if err := w.executed(list[queued:i], answers[i]); err != nil {
				return err
			}
			queued = -1
		case name == "DISCARD":
			queued = -1
		case err == nil && queued < 0:
			w.ok[w.label(c)]++
		}
	}
	return nil
}

// executed looks at the answers within a transaction's.
func (w *Workload) executed(list []command, answer *redis.Cmd) error {
	inner, err := answer.Slice()
	if err != nil || len(inner) != len(list) {
		return fmt.Errorf("EXEC of %d commands answered %v %w", len(list), inner, err)
	}
	for i, c := range list {
		if err, failed := inner[i].(error); failed {
			if !harmless(err) {
				return fmt.Errorf("in MULTI: %.200q: %w", c, err)
			}
			continue
		}
		w.ok[w.label(c)]++
	}
	return nil
}

// label is what a command counts as: its name, with the subcommand where it has one.
func (w *Workload) label(c command) string {
	switch name := c.name(); name {
	case "XGROUP", "FUNCTION", "SCRIPT":
		return name + " " + strings.ToUpper(fmt.Sprint(c[1]))
	default:
		return name
	}
}

// harmless tells an answer that random commands get from one that only a wrong command gets.
func harmless(err error) bool {
	if err == nil || errors.Is(err, redis.Nil) {
		return true
	}
	for _, usual := range []string{
		"WRONGTYPE", "NOGROUP", "BUSYGROUP", "BUSYKEY", "ERR no such key", "ERR index out of range", "ERR value is not",
		"ERR hash value is not", "ERR increment", "ERR decrement", "ERR source and destination objects are the same",
		"ERR Library", "ERR Function not found", "ERR The XGROUP subcommand requires the key to exist",
		"ERR The ID specified in XADD", "ERR could not decode requested zset member", "ERR One or more scores can't be converted",
		"ERR Requested group", "NOSCRIPT", "INVALIDOBJ", "ERR user_script", "ERR resulting score is not", "ERR bit offset is not",
		"EXECABORT",
	} {
		if strings.HasPrefix(err.Error(), usual) {
			return true
		}
	}
	return false
}

// blocked has one client wait on a key and another serve it: what the stream shows is neither's
// command.
func (w *Workload) blocked(ctx context.Context) error {
	key, other := w.key("bl"), w.key("l")
	row := pick(w,
		[2]command{{"BLPOP", key, 5}, {"RPUSH", key, w.value(), w.value()}},
		[2]command{{"BRPOP", key, 5}, {"LPUSH", key, w.value()}},
		[2]command{{"BLMOVE", key, other, "LEFT", "RIGHT", 5}, {"RPUSH", key, w.value()}},
		[2]command{{"BRPOPLPUSH", key, other, 5}, {"RPUSH", key, w.value()}},
		[2]command{{"BLMPOP", 5, 1, key, "LEFT", "COUNT", 2}, {"RPUSH", key, w.value(), w.value(), w.value()}},
		[2]command{{"BZPOPMIN", key, 5}, {"ZADD", key, 1, w.value(), 2, w.value()}},
		[2]command{{"BZPOPMAX", key, 5}, {"ZADD", key, 1, w.value()}},
		[2]command{{"BZMPOP", 5, 1, key, "MIN"}, {"ZADD", key, 1, w.value()}},
	)
	waits := w.client.Conn()
	defer func() { _ = waits.Close() }()
	served := make(chan error, 1)
	go func() {
		_, err := waits.Pipelined(ctx, func(p redis.Pipeliner) error {
			p.Do(ctx, "SELECT", w.db)
			p.Do(ctx, row[0]...)
			return nil
		})
		served <- err
	}()
	sent := w.send(ctx, []command{{"SELECT", w.db}, {"DEL", key}, row[1]})
	// The key was gone when it waited, or there was something to take: either way it was served.
	if err := <-served; !harmless(err) {
		return fmt.Errorf("%.100q: %w", row[0], err)
	}
	w.ok[row[0].name()]++
	return sent
}

// Missing are the commands that the workload is meant to have done by now and that never
// succeeded.
func (w *Workload) Missing() (names []string) {
	for _, name := range strings.Fields(everywhere) {
		name = strings.ReplaceAll(name, "_", " ")
		if w.ok[name] == 0 {
			names = append(names, name)
		}
	}
	if w.kind.HasHashFieldTTL() {
		for _, name := range []string{"HPEXPIRE", "HEXPIREAT", "HPERSIST", "HSETEX", "HGETEX"} {
			if w.ok[name] == 0 {
				names = append(names, name)
			}
		}
	}
	return names
}

// everywhere is what every engine knows.
const everywhere = `SET SETNX SETEX PSETEX MSET MSETNX APPEND SETRANGE INCR INCRBY DECR DECRBY INCRBYFLOAT GETSET GETDEL GETEX
	SETBIT BITFIELD BITOP PFADD PFMERGE PFCOUNT
	LPUSH RPUSH LPUSHX RPUSHX LPOP RPOP LINSERT LSET LREM LTRIM LMOVE RPOPLPUSH LMPOP BLPOP BRPOP BLMOVE BLMPOP
	SADD SREM SPOP SMOVE SUNIONSTORE SDIFFSTORE SINTERSTORE
	ZADD ZINCRBY ZREM ZPOPMIN ZPOPMAX ZMPOP ZREMRANGEBYSCORE ZREMRANGEBYRANK ZREMRANGEBYLEX ZUNIONSTORE ZINTERSTORE
	ZDIFFSTORE ZRANGESTORE BZPOPMIN GEOADD GEOSEARCHSTORE
	HSET HSETNX HDEL HINCRBY HINCRBYFLOAT HMSET
	XADD XDEL XTRIM XSETID XGROUP_CREATE XGROUP_CREATECONSUMER XGROUP_DELCONSUMER XGROUP_SETID XGROUP_DESTROY
	XREADGROUP XACK XCLAIM XAUTOCLAIM
	DEL UNLINK RENAME RENAMENX COPY MOVE EXPIRE PEXPIRE EXPIREAT PEXPIREAT PERSIST SORT RESTORE SWAPDB FLUSHDB SELECT
	MULTI EXEC EVAL EVALSHA FUNCTION_LOAD FUNCTION_DELETE FCALL PUBLISH`
