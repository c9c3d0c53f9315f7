package history

import (
	"bytes"

	"github.com/offloader/offloader/internal/keyspace"
	"github.com/offloader/offloader/internal/plan"
	"github.com/offloader/offloader/internal/resp"
)

// matcher is a Query's Key and Command, made ready.
type matcher struct {
	key     []byte
	exact   bool // key has no special signs
	command plan.Point
}

func newMatcher(q Query) *matcher {
	key := []byte(q.Key)
	return &matcher{key: key, exact: !bytes.ContainsAny(key, `*?[\`), command: plan.Point{Kind: plan.Before, Command: q.Command}}
}

// matches tells whether c is asked for.
func (m *matcher) matches(c *resp.Command) bool {
	if len(m.command.Command) == 0 {
		return !hidden(c) && m.touches(c)
	}
	return m.command.Matches(c) && m.touches(c)
}

// touches tells whether c touches a key that is asked for.
func (m *matcher) touches(c *resp.Command) bool {
	if len(m.key) == 0 {
		return true
	}
	keys := keyspace.Of(c)
	switch keys.Scope {
	case keyspace.Every:
		return true
	case keyspace.Unknown:
		for _, a := range c.Args[1:] {
			if m.is(a) {
				return true
			}
		}
		return false
	}
	for i, ok := keys.Next(); ok; i, ok = keys.Next() {
		// A key that was cut is compared as far as it goes: that finds more rather than less.
		if i < len(c.Args) && m.is(c.Args[i]) {
			return true
		}
	}
	return false
}

func (m *matcher) is(key []byte) bool {
	if m.exact {
		return bytes.Equal(m.key, key)
	}
	return glob(m.key, key)
}

// hidden tells the commands that no client sent to write something: masters put them in by themselves.
func hidden(c *resp.Command) bool {
	return c.Is("SELECT") || c.Is("PING") || c.Is("REPLCONF") || c.Is("MULTI") || c.Is("EXEC")
}
