package config

import (
	"crypto/tls"
	"errors"
	"fmt"
	"strings"

	"github.com/goccy/go-yaml/ast"
)

// pair is a mapping's key with its value.
type pair struct {
	key   string
	at    place
	value node
}

// mapping reads a node's fields by a table, and tells which were there: nil where the node
// isn't a mapping. where gets the place of each value, as "<what>.<field>".
func (r *reader) mapping(n node, what string, table []field) map[string]bool {
	pairs, ok := r.pairs(n, what, 0)
	if !ok {
		return nil
	}
	given := map[string]bool{}
	for _, p := range pairs {
		if given[p.key] {
			r.fail(p.at, fmt.Sprintf("%q is given twice", p.key))
			continue
		}
		given[p.key] = true
		f, ok := find(table, p.key)
		switch {
		case !ok:
			r.fail(p.at, unknown(p.key, table))
		case f.read == nil:
			r.later(p.at, fmt.Sprintf("%q", p.key))
		default:
			r.where[strings.TrimPrefix(what+"."+p.key, ".")] = r.at(p.value)
			f.read(p.value)
		}
	}
	return given
}

func find(table []field, name string) (field, bool) {
	for _, f := range table {
		if f.name == name {
			return f, true
		}
	}
	return field{}, false
}

// unknown names what was probably meant, also where that will be told to be not in this
// version; nobody is sent to such a field who didn't ask for it.
func unknown(name string, table []field) string {
	var all, now []string
	for _, f := range table {
		all = append(all, f.name)
		if f.read != nil {
			now = append(now, f.name)
		}
	}
	if near := Nearest(name, all); near != "" {
		return fmt.Sprintf("unknown field %q: did you mean %q?", name, near)
	}
	return fmt.Sprintf("unknown field %q: there is %s", name, strings.Join(now, ", "))
}

// pairs are a mapping's fields. Those of a merge (<<: *defaults) come last, and only where the
// mapping itself doesn't have them.
func (r *reader) pairs(n node, what string, depth int) ([]pair, bool) {
	if n = r.follow(n); n == nil {
		return nil, false
	}
	var values []*ast.MappingValueNode
	switch v := n.(type) {
	case *ast.MappingNode:
		values = v.Values
	case *ast.MappingValueNode:
		values = []*ast.MappingValueNode{v}
	default:
		r.fail(r.at(n), r.wrong(n, what, "fields, like {a: b}"))
		return nil, false
	}
	var own, merged []pair
	for _, v := range values {
		if _, merge := v.Key.(*ast.MergeKeyNode); merge {
			if depth == maxNesting {
				r.fail(r.at(v.Key), "this merge is its own part")
				continue
			}
			more, _ := r.pairs(v.Value, what, depth+1)
			merged = append(merged, more...)
			continue
		}
		own = append(own, pair{key: v.Key.GetToken().Value, at: r.at(v.Key), value: v.Value})
	}
	has := map[string]bool{}
	for _, p := range own {
		has[p.key] = true
	}
	for _, p := range merged {
		if !has[p.key] {
			has[p.key] = true
			own = append(own, p)
		}
	}
	return own, true
}

// list gives a sequence's items, at least one.
func (r *reader) list(n node, what string) []node {
	if n = r.follow(n); n == nil {
		return nil
	}
	s, ok := n.(*ast.SequenceNode)
	if !ok {
		r.fail(r.at(n), r.wrong(n, what, "a list: put a dash before each item"))
		return nil
	}
	if len(s.Values) == 0 {
		r.fail(r.at(s), fmt.Sprintf("%q is an empty list", what))
	}
	return s.Values
}

// wrong says that a node is not of the kind that is wanted.
func (r *reader) wrong(n node, what, want string) string {
	if what == "" {
		return "a configuration has fields, like sources and stores, and this is " + kind(n)
	}
	return fmt.Sprintf("%q is %s, it wants %s", what, kind(n), want)
}

func kind(n node) string {
	switch n.(type) {
	case *ast.NullNode:
		return "empty"
	case *ast.MappingNode, *ast.MappingValueNode:
		return "a group of fields"
	case *ast.SequenceNode:
		return "a list"
	}
	return fmt.Sprintf("the single value %q", n.GetToken().Value)
}

// written gives a scalar as it stands there. Numbers and booleans are text too: a password of digits
// needs no quotes.
func (r *reader) written(n node) (string, bool) {
	if n = r.follow(n); n == nil {
		return "", false
	}
	switch v := n.(type) {
	case *ast.LiteralNode:
		return v.Value.Value, true
	case *ast.NullNode, *ast.MappingNode, *ast.MappingValueNode, *ast.SequenceNode:
		r.fail(r.at(n), "this is "+kind(n)+", it wants a single value")
		return "", false
	}
	return n.GetToken().Value, true
}

// text gives a scalar with ${NAME} replaced.
func (r *reader) text(n node) (string, bool) {
	s, ok := r.written(n)
	if !ok {
		return "", false
	}
	s, err := expand(s, r.env)
	if err != nil {
		r.fail(r.at(n), err.Error())
		return "", false
	}
	return s, true
}

// read takes a scalar through its parser.
func read[T any](r *reader, n node, to *T, parse func(string) (T, error)) {
	s, ok := r.text(n)
	if !ok {
		return
	}
	v, err := parse(s)
	if err != nil {
		r.fail(r.at(n), err.Error())
		return
	}
	*to = v
}

// value is read for plain strings.
func (r *reader) value(n node, to *string, parse func(string) (string, error)) {
	read(r, n, to, parse)
}

func (r *reader) secret(n node, to *Secret) {
	read(r, n, to, func(s string) (Secret, error) {
		_, err := notEmpty(s)
		return Secret(s), err
	})
}

// password is secret for what keeps a server closed. What comes from the environment isn't in the text.
func (r *reader) password(n node, to *Secret) {
	r.secret(n, to)
	if *to == "" {
		return // its own error was told
	}
	if s, ok := r.written(n); ok {
		rest, err := expand(s, func(string) (string, bool) { return "", true })
		r.holdsPassword = r.holdsPassword || err == nil && rest != ""
	}
}

// passwordFile reads a password. An empty name was told before.
func (r *reader) passwordFile(n node, file string, to *Secret) {
	if file == "" {
		return
	}
	password, warning, err := ReadPassword(file)
	if err != nil {
		r.fail(r.at(n), err.Error())
		return
	}
	if warning != "" {
		r.warnings = append(r.warnings, warning)
	}
	*to = password
}

func (r *reader) tls(n node, s *Source) {
	t := &TLS{}
	given := r.mapping(n, "tls", []field{
		{"ca_file", func(n node) { r.value(n, &t.CAFile, path) }},
		{"cert_file", func(n node) { r.value(n, &t.CertFile, path) }},
		{"key_file", func(n node) { r.value(n, &t.KeyFile, path) }},
		{"server_name", func(n node) { r.value(n, &t.ServerName, notEmpty) }},
	})
	if given == nil {
		return
	}
	switch {
	case given["cert_file"] && !given["key_file"]:
		r.fail(r.where["tls.cert_file"], `"cert_file" needs a "key_file" beside it`)
		return
	case given["key_file"] && !given["cert_file"]:
		r.fail(r.where["tls.key_file"], `"key_file" needs a "cert_file" beside it`)
		return
	}
	if err := t.roots(&tls.Config{}); t.CAFile != "" && err != nil {
		r.fail(r.where["tls.ca_file"], err.Error())
	}
	if err := t.certificate(&tls.Config{}); t.CertFile != "" && t.KeyFile != "" && err != nil {
		r.fail(r.where["tls.cert_file"], err.Error())
	}
	s.TLS = t
}

// peek is a mapping's scalar without reading the rest, "" where it isn't there.
func (r *reader) peek(n node, name string) (string, place) {
	quiet := &reader{env: r.env, anchors: r.anchors, where: map[string]place{}}
	pairs, _ := quiet.pairs(n, "", 0)
	for _, p := range pairs {
		if p.key == name {
			s, _ := quiet.text(p.value)
			return s, r.at(p.value)
		}
	}
	return "", r.at(n)
}

// expand replaces ${NAME} by the environment's value. A bare $ is itself, also before a name:
// passwords have them.
func expand(s string, env Env) (string, error) {
	var b strings.Builder
	for {
		before, rest, ok := strings.Cut(s, "${")
		b.WriteString(before)
		if !ok {
			return b.String(), nil
		}
		name, after, closed := strings.Cut(rest, "}")
		if !closed || !variable(name) {
			// Not a word of it is repeated: it may be a password.
			return "", errors.New("what begins with ${ here is not ${NAME}: a password that holds it goes into a password_file")
		}
		value, set := env(name)
		if !set {
			return "", fmt.Errorf("the environment has no %s", name)
		}
		b.WriteString(value)
		s = after
	}
}

func variable(s string) bool {
	for i, c := range s {
		if c != '_' && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return s != ""
}
