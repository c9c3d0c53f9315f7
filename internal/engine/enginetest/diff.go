package enginetest

import (
	"context"
	"fmt"
	"hash/crc64"
	"maps"
	"slices"
	"strings"

	"github.com/redis/go-redis/v9"
)

// shown is how many differing keys a Diff names: more don't tell more.
const shown = 20

// Diff names the keys and functions in which the servers' datasets differ, with what each holds;
// it is empty if they hold the same. It sees more than Digest: expiry to the millisecond, that of
// hash fields, and groups of streams. Keys that expire meanwhile differ.
func Diff(t TB, a, b *Server) string {
	t.Helper()
	inA, inB := a.KeyState(), b.KeyState()
	all := maps.Clone(inA)
	maps.Copy(all, inB)
	var out strings.Builder
	differing := 0
	for _, key := range slices.Sorted(maps.Keys(all)) {
		one, other := inA[key], inB[key]
		if one == other {
			continue
		}
		if differing++; differing <= shown {
			fmt.Fprintf(&out, "%s\n  %s: %s\n  %s: %s\n", key, a.label(), orAbsent(one), b.label(), orAbsent(other))
		}
	}
	if differing > shown {
		fmt.Fprintf(&out, "and %d more\n", differing-shown)
	}
	return out.String()
}

func (s *Server) label() string { return fmt.Sprintf("%s on %s", s.kind, s.Addr()) }

func orAbsent(state string) string {
	if state == "" {
		return "not there"
	}
	return state
}

// KeyState describes each key of each database, and each function library, such that equal
// descriptions mean equal content. Encodings don't count, so engines can be compared.
func (s *Server) KeyState() map[string]string {
	s.t.Helper()
	state := map[string]string{}
	s.functions(state)
	for name := range s.Info("keyspace") {
		var db int
		if n, _ := fmt.Sscanf(name, "db%d", &db); n == 1 {
			s.database(state, db)
		}
	}
	return state
}

func (s *Server) functions(state map[string]string) {
	s.t.Helper()
	libraries, _ := s.Do("FUNCTION", "LIST", "WITHCODE").([]any)
	for _, library := range libraries {
		field := pairs(library)
		state[fmt.Sprintf("function library %v", field["library_name"])] = fmt.Sprintf("%v", field["library_code"])
	}
}

func (s *Server) database(state map[string]string, db int) {
	s.t.Helper()
	ctx, client := context.Background(), s.DB(db)
	for cursor := uint64(0); ; {
		keys, next, err := client.Scan(ctx, cursor, "", 1000).Result()
		if err != nil {
			s.t.Fatalf("%s: scan db %d: %v", s.label(), db, err)
		}
		s.describe(state, client, db, keys)
		if cursor = next; cursor == 0 {
			return
		}
	}
}

// describe asks for a page of keys in one round trip, and again for hashes and streams, in
// which a digest doesn't show everything.
func (s *Server) describe(state map[string]string, client *redis.Client, db int, keys []string) {
	s.t.Helper()
	ctx := context.Background()
	types, expiries, digests := make([]*redis.StatusCmd, len(keys)), make([]*redis.Cmd, len(keys)), make([]*redis.Cmd, len(keys))
	_, err := client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, key := range keys {
			types[i], expiries[i], digests[i] = p.Type(ctx, key), p.Do(ctx, "PEXPIRETIME", key), p.Do(ctx, "DEBUG", "DIGEST-VALUE", key)
		}
		return nil
	})
	if err != nil {
		s.t.Fatalf("%s: describe db %d: %v", s.label(), db, err)
	}
	for i, key := range keys {
		if types[i].Val() == "none" { // expired meanwhile
			continue
		}
		digest, _ := digests[i].Slice()
		text := fmt.Sprintf("%s %v", types[i].Val(), digest)
		if at := expiries[i].Val(); at != int64(-1) {
			text += fmt.Sprintf(" expires %v", at)
		}
		switch {
		case types[i].Val() == "stream":
			more, there := s.stream(client, key)
			if !there {
				continue
			}
			text += " " + more
		case types[i].Val() == "hash" && s.kind.HasHashFieldTTL():
			text += s.fieldExpiry(client, key)
		}
		state[fmt.Sprintf("db %d %q", db, key)] = text
	}
}

// stream describes last ids, groups and what is pending, which no digest covers, unless the stream
// has expired meanwhile.
func (s *Server) stream(client *redis.Client, key string) (text string, there bool) {
	s.t.Helper()
	ctx := context.Background()
	reply, err := client.Do(ctx, "XINFO", "STREAM", key, "FULL", "COUNT", 0).Result()
	if redis.HasErrorPrefix(err, "no such key") {
		return "", false
	}
	if err != nil {
		s.t.Fatalf("%s: %q: %v", s.label(), key, err)
	}
	field := pairs(reply)
	groups, _ := field["groups"].([]any)
	text = fmt.Sprintf("last %v, deleted up to %v, added %v", field["last-generated-id"], field["max-deleted-entry-id"], field["entries-added"])
	for _, group := range groups {
		g := pairs(group)
		text += fmt.Sprintf(", group %q at %v read %v pending %v", g["name"], g["last-delivered-id"], g["entries-read"], g["pending"])
		// When a consumer was last seen is each server's own clock.
		consumers, _ := g["consumers"].([]any)
		for _, consumer := range consumers {
			c := pairs(consumer)
			text += fmt.Sprintf(", consumer %q pending %v", c["name"], c["pel"])
		}
	}
	return text, true
}

// fieldExpiry describes when fields of a hash expire, nothing if none does.
func (s *Server) fieldExpiry(client *redis.Client, key string) string {
	s.t.Helper()
	ctx := context.Background()
	names, err := client.HKeys(ctx, key).Result()
	if err != nil {
		s.t.Fatalf("%s: %q: %v", s.label(), key, err)
	}
	slices.Sort(names)
	sum, some := crc64.New(crc64.MakeTable(crc64.ECMA)), 0
	for page := range slices.Chunk(names, 1000) {
		args := []any{"HPEXPIRETIME", key, "FIELDS", len(page)}
		for _, name := range page {
			args = append(args, name)
		}
		times, err := client.Do(ctx, args...).Slice()
		if err != nil {
			s.t.Fatalf("%s: %q: %v", s.label(), key, err)
		}
		for i, at := range times {
			if at != int64(-1) {
				some++
				_, _ = fmt.Fprintf(sum, "%q %v\n", page[i], at)
			}
		}
	}
	if some == 0 {
		return ""
	}
	return fmt.Sprintf(" %d fields expire, sum %016x", some, sum.Sum64())
}

// pairs reads a flat reply of names and values.
func pairs(reply any) map[string]any {
	m := map[string]any{}
	flat, _ := reply.([]any)
	for i := 0; i+1 < len(flat); i += 2 {
		m[fmt.Sprint(flat[i])] = flat[i+1]
	}
	return m
}
