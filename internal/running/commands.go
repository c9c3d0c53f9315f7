package running

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/offloader/offloader/internal/carry"
	"github.com/offloader/offloader/internal/rdbwalk"
	"github.com/offloader/offloader/internal/resp"
	"github.com/offloader/offloader/internal/restore"
	"github.com/offloader/offloader/internal/stream"
)

// applier brings snapshot and log over by commands.
type applier struct {
	*target
	by     carry.Translator
	held   *held // nil: all that is on the server is ours
	mark   string
	markDB int // SWAPDB takes it along
}

// command restores by commands.
func (t *target) command(ctx context.Context) error {
	a, err := t.plan(ctx)
	if err != nil {
		return err
	}
	t.begun = true
	if err = a.apply(ctx); err != nil {
		left := "what is there is marked as unfinished: say the same again, and it is removed and begun anew"
		if a.held != nil {
			left = a.tidy(ctx)
		}
		return a.interrupted(ctx, err, left)
	}
	t.report.Format, t.report.Bytes = byCommands, t.total
	return nil
}

// plan finds out, before anything is written, whether all can be carried over.
func (t *target) plan(ctx context.Context) (*applier, error) {
	if err := t.tooOld(t.about); err != nil {
		return nil, err
	}
	t.count = restore.NewCounter(t.r, t.o.Now) // who tried the other way has counted a part
	a := &applier{target: t, mark: markWhole, by: carry.Translator{Cluster: t.about.cluster(), Own: []byte(markKey)}}
	if t.o.Conflict == Skip && t.left == "" {
		held, err := t.remember(ctx)
		if err != nil {
			return nil, err
		}
		if len(held.keys) > 0 || t.libraries > 0 {
			a.held, a.mark, a.by.Held, a.by.NoFunctions = held, markBeside, held.has, t.libraries > 0
		}
	}
	err := a.log(ctx, func(p stream.Piece) { _ = t.count.Piece(p) }, func(c *resp.Command, raw []byte) error {
		_, err := a.by.Take(c, raw)
		return err
	}, nil)
	if err != nil {
		return nil, t.inexact(err)
	}
	if n := t.count.Databases(); t.about.cluster() && n > 1 {
		return nil, t.errorf("restore into a server that is not in cluster mode", "it is a cluster, which has database 0 only, and the data has %d databases", n)
	}
	if err := t.has(ctx, t.count.Databases()); err != nil {
		return nil, err
	}
	a.by.Skipped, a.by.Left = 0, 0
	return a, t.free(ctx)
}

// inexact gives a command that can't be carried over the words of a refusal.
func (t *target) inexact(err error) error {
	var no *carry.CommandError
	if !errors.As(err, &no) {
		return err
	}
	return &Error{t.server.Name, "the log can't be carried over exactly", err,
		"restore to a point before it, or with --output into a folder, or into a server that may be told REPLICAOF; nothing was written"}
}

// log reads the log: each piece is shown, each command given to do, and how far it is to at.
func (a *applier) log(ctx context.Context, piece func(stream.Piece), do func(*resp.Command, []byte) error, at func(stream.Offset)) (err error) {
	pieces := a.r.Stream(ctx)
	defer func() { err = errors.Join(err, pieces.Close()) }()
	log := carry.NewLog(a.r.Start())
	for {
		p, err := pieces.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if piece != nil {
			piece(p)
		}
		if err := log.Each(p, do); err != nil {
			return err
		}
		if at != nil {
			at(p.End())
		}
	}
}

func (a *applier) apply(ctx context.Context) error {
	for _, n := range a.nodes.all {
		n.gone = func(err error) bool { return a.by.Fields && strings.Contains(err.Error(), "no such key") }
	}
	if a.held == nil {
		if err := a.empty(ctx); err != nil {
			return a.failed("empty it", err)
		}
	}
	if err := a.setMark(ctx); err != nil {
		return a.failed("mark it as unfinished", err)
	}
	if err := a.base(ctx); err != nil {
		return err
	}
	err := a.log(ctx, nil, func(c *resp.Command, raw []byte) error {
		orders, err := a.by.Take(c, bytes.Clone(raw))
		for _, o := range orders {
			if err = a.carryOut(ctx, o, c); err != nil {
				break
			}
		}
		return err
	}, func(at stream.Offset) { a.shows(a.r.Info.Bytes + int64(at-a.r.From.Offset)) })
	if err == nil {
		err = a.nodes.send(ctx)
	}
	if err != nil {
		return a.failed("", err)
	}
	return a.failed("put the expiries in their places", a.finish(ctx))
}

// empty makes sure that nothing is there but what we put there.
func (a *applier) empty(ctx context.Context) error {
	for _, n := range a.nodes.all {
		keys, libraries := n.about.held()
		if keys > 0 {
			if err := n.flush(ctx, -1); err != nil {
				return err
			}
		}
		if libraries > 0 {
			if err := n.conn.FunctionFlush(ctx).Err(); err != nil {
				return err
			}
		}
	}
	return nil
}

func (a *applier) setMark(ctx context.Context) error {
	n := a.nodes.of([]byte(markKey))
	n.add(a.markDB, carry.Words{"SET", markKey, a.mark}, origin{"SET " + markKey, -1})
	return n.send(ctx)
}

// base sends the snapshot.
func (a *applier) base(ctx context.Context) (err error) {
	rdb, err := a.r.RDB(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rdb.Close()) }()
	var raw bytes.Buffer
	walk := rdbwalk.NewWalker(rdb, rdbwalk.Opcodes(), rdbwalk.Copy(func(r *rdbwalk.Record) io.Writer {
		if !r.IsKey() && r.Type != carry.OpFunction {
			return nil
		}
		if raw.Cap() > 4*maxBatchBytes {
			raw = bytes.Buffer{}
		}
		raw.Reset()
		return &raw
	}))
	for walk.Next() {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := a.record(ctx, walk.Record(), raw.Bytes()); err != nil {
			return a.failed("", err)
		}
		a.shows(walk.Offset())
	}
	if err := walk.Err(); err != nil {
		return err
	}
	return a.failed("", a.nodes.send(ctx))
}

func (a *applier) record(ctx context.Context, r *rdbwalk.Record, raw []byte) error {
	if r.Type == carry.OpFunction && !r.IsKey() {
		if a.by.NoFunctions {
			a.by.Left++
			return nil
		}
		return a.everywhere(ctx, carry.Library(raw), origin{"FUNCTION RESTORE", -1})
	}
	if !r.IsKey() {
		return nil
	}
	a.count.Record(r)
	w, err := carry.Record(r, raw, a.r.Info.RDBVersion)
	if err != nil {
		return err
	}
	key, _ := w[1].([]byte)
	if bytes.Equal(key, []byte(markKey)) {
		return nil
	}
	if a.held != nil && a.held.has(r.DB, key) {
		a.by.Skipped++
		return nil
	}
	a.by.PutOff = a.by.PutOff || r.ExpireAt != 0
	a.by.Fields = a.by.Fields || carry.FieldsExpire(r)
	if n := a.nodes.of(key); n.add(r.DB, w, origin{fmt.Sprintf("RESTORE %.64q, a %s", key, r.TypeName()), -1}) {
		return n.send(ctx)
	}
	return nil
}

func (a *applier) carryOut(ctx context.Context, o carry.Order, c *resp.Command) error {
	from := origin{string(c.Args[0][:min(64, len(c.Args[0]))]), c.Start}
	switch o.How {
	case carry.Everywhere:
		return a.everywhere(ctx, o.Words, from)
	case carry.FlushAll:
		a.markDB = 0
		return a.clear(ctx, -1)
	case carry.FlushDB:
		return a.clear(ctx, c.DB)
	case carry.Apart:
		return a.apart(ctx, o, from)
	}
	n := a.nodes.of(o.Key)
	if c.Is("SWAPDB") {
		a.swaps(o.Words)
	}
	if n.add(c.DB, o.Words, from) {
		return n.send(ctx)
	}
	return nil
}

// swaps follows the mark through a SWAPDB.
func (a *applier) swaps(w carry.Words) {
	for i, other := range map[int]int{1: 2, 2: 1} {
		if i < len(w) && fmt.Sprintf("%s", w[i]) == fmt.Sprint(a.markDB) && other < len(w) {
			var db int
			if _, err := fmt.Sscan(fmt.Sprintf("%s", w[other]), &db); err == nil {
				a.markDB = db
			}
			return
		}
	}
}

// everywhere tells all servers the same.
func (a *applier) everywhere(ctx context.Context, w carry.Words, from origin) error {
	for _, n := range a.nodes.all {
		n.add(max(0, n.db), w, from)
	}
	return a.nodes.send(ctx)
}

// finish puts expiries in their places and takes the mark away.
func (a *applier) finish(ctx context.Context) error {
	a.keys = 0
	for _, n := range a.nodes.all {
		now, err := ask(ctx, n.client)
		if err != nil {
			return err
		}
		keys, _ := now.held()
		a.keys += keys
		if !a.by.PutOff {
			continue
		}
		for _, db := range now.databases() {
			if err := n.scan(ctx, db, func(keys []string) error { return n.putBack(ctx, db, keys) }); err != nil {
				return err
			}
		}
	}
	a.keys-- // the mark
	if a.held != nil {
		a.keys = -1 // which are ours isn't known
	}
	n := a.nodes.of([]byte(markKey))
	n.add(a.markDB, carry.Words{"DEL", markKey}, origin{"DEL " + markKey, -1})
	if err := n.send(ctx); err != nil {
		return err
	}
	a.tell()
	return nil
}

// putBack gives keys the expiries that they are to have. Those whose time has passed go.
func (n *node) putBack(ctx context.Context, db int, keys []string) error {
	if err := n.use(ctx, db); err != nil {
		return err
	}
	pipe := n.conn.Pipeline()
	at := make([]*redis.Cmd, len(keys))
	for i, k := range keys {
		at[i] = pipe.Do(ctx, "PEXPIRETIME", k)
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return err
	}
	for i, k := range keys {
		if ms, err := at[i].Int64(); err == nil && ms >= carry.Later {
			n.add(db, carry.Words{"PEXPIREAT", k, ms - carry.Later}, origin{"PEXPIREAT", -1})
		}
	}
	return n.send(ctx)
}

// tell says in the report what isn't as one would think.
func (a *applier) tell() {
	note := func(format string, args ...any) {
		a.report.Notes = append(a.report.Notes, fmt.Sprintf(format, args...))
	}
	if a.by.Skipped > 0 {
		note("%d keys of the snapshot and commands of the log were left out for keys that the server had: these are as they were", a.by.Skipped)
	}
	if a.by.NoFunctions && a.by.Left > 0 {
		note("functions were left out: the server has libraries of its own")
	}
	if a.by.Fields {
		note("some hashes have fields that expire: what the log did to one whose time has passed since is not exact (see docs/limits.md)")
	}
}

// tidy removes what was put beside the server's own keys, and says what is left.
func (a *applier) tidy(ctx context.Context) string {
	late, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	for _, n := range a.nodes.all {
		n.forget()
	}
	err := a.clear(late, -1)
	if err == nil {
		n := a.nodes.of([]byte(markKey))
		n.add(a.markDB, carry.Words{"DEL", markKey}, origin{"DEL " + markKey, -1})
		err = n.send(late)
	}
	if err == nil && a.libraries == 0 {
		err = a.everywhere(late, carry.Words{"FUNCTION", "FLUSH"}, origin{"FUNCTION FLUSH", -1})
	}
	if err != nil {
		return "what was put beside the server's own keys could not be removed (" + err.Error() + "): it has a part of the archive's keys, some with expiries in a far future"
	}
	return "what was put beside the server's own keys was removed again"
}

// forget drops what waits, and takes a new connection: on the old one answers may be outstanding.
func (n *node) forget() {
	_ = n.conn.Close() // it may be broken
	n.conn, n.db, n.waiting, n.origins, n.bytes = n.client.Conn(), -1, nil, nil, 0
}
