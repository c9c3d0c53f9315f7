package config

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

type node = ast.Node

// place is a position in the file, both from 1.
type place struct{ line, col int }

// reader walks one file's tree, and remembers what is wrong.
type reader struct {
	file      string
	env       Env
	namesOnly bool // of the sources: no address, no secret, no file of TLS
	anchors   map[string]node
	where     map[string]place // of the values read last: "spool.path"
	errs      Errors
	relays    []relayAt
	warnings  []string

	holdsPassword bool // the text itself does, at least a part of one
}

// field is a name that a mapping knows. One without read is not in this version.
type field struct {
	name string
	read func(node)
}

func (r *reader) fail(at place, msg string) {
	r.errs = append(r.errs, &Error{File: r.file, Line: max(1, at.line), Col: max(1, at.col), Msg: msg})
}

func (r *reader) later(at place, what string) { r.fail(at, what+" is "+notYet) }

// sorted gives the errors from top to bottom, each once: an anchor's contents are read as often
// as they are used.
func (r *reader) sorted() Errors {
	slices.SortStableFunc(r.errs, func(a, b *Error) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Col, b.Col))
	})
	return slices.CompactFunc(r.errs, func(a, b *Error) bool { return *a == *b })
}

// maxNesting is far more than a configuration has. The parser's time grows with the square of
// the nesting, and its stack with it.
const maxNesting = 32

// parse makes a tree of the text: nil where there is none, with the reason among the errors.
func (r *reader) parse(text []byte) node {
	text = []byte(strings.TrimPrefix(string(text), "\ufeff"))
	if len(text) > maxFile {
		r.fail(place{}, fmt.Sprintf("the text has %d bytes, a configuration has at most %d", len(text), maxFile))
		return nil
	}
	if !utf8.Valid(text) {
		r.fail(invalidUTF8(text), "this is no UTF-8 text")
		return nil
	}
	tokens := lexer.Tokenize(string(text))
	if at, deep := tooDeep(tokens); deep {
		r.fail(at, fmt.Sprintf("this is nested more than %d deep", maxNesting))
		return nil
	}
	tree, err := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		r.syntax(err)
		return nil
	}
	return r.document(tree)
}

func invalidUTF8(text []byte) place {
	at := place{1, 1}
	for len(text) > 0 {
		c, size := utf8.DecodeRune(text)
		if c == utf8.RuneError && size == 1 {
			break
		}
		at.col++
		if c == '\n' {
			at = place{at.line + 1, 1}
		}
		text = text[size:]
	}
	return at
}

func tooDeep(tokens token.Tokens) (place, bool) {
	flow, line, dashes := 0, 0, 0
	for _, t := range tokens {
		if t.Position.Line != line {
			line, dashes = t.Position.Line, 0
		}
		switch t.Type {
		case token.SequenceStartType, token.MappingStartType:
			flow++
		case token.SequenceEndType, token.MappingEndType:
			flow--
		case token.SequenceEntryType, token.MappingKeyType, token.AnchorType, token.TagType:
			dashes++ // "- - - x" is three lists on one line
		}
		if flow > maxNesting || flow <= 1 && dashes > maxNesting {
			return spot(t), true
		}
	}
	return place{}, false
}

func (r *reader) syntax(err error) {
	var s *yaml.SyntaxError
	if errors.As(err, &s) && s.Token != nil {
		r.fail(spot(s.Token), s.Message)
		return
	}
	first, _, _ := strings.Cut(err.Error(), "\n")
	r.fail(place{}, first)
}

// document finds the file's only document. A second one would be ignored by most readers of
// YAML, and with it whatever somebody wrote there.
func (r *reader) document(tree *ast.File) node {
	var root node
	for i, d := range tree.Docs {
		switch body := d.Body.(type) {
		case nil:
			if i > 0 && d.Start != nil {
				r.fail(spot(d.Start), "a second document begins here: a configuration is one")
			}
			continue
		case *ast.DirectiveNode:
			continue
		default:
			if root == nil {
				root = body
				continue
			}
			at := r.at(body)
			if d.Start != nil {
				at = spot(d.Start)
			}
			r.fail(at, "a second document begins here: a configuration is one")
		}
	}
	if root == nil {
		if len(r.errs) == 0 {
			r.fail(place{}, "the configuration is empty: it needs at least \"sources\" and \"stores\"")
		}
		return nil
	}
	found := &anchors{named: map[string]node{}}
	ast.Walk(found, root)
	r.anchors = found.named
	return root
}

// anchors collects what aliases stand for.
type anchors struct{ named map[string]node }

// Visit is called with each node of the tree.
func (a *anchors) Visit(n node) ast.Visitor {
	if anchor, ok := n.(*ast.AnchorNode); ok && anchor.Name != nil && anchor.Value != nil {
		a.named[anchor.Name.GetToken().Value] = anchor.Value
	}
	return a
}

// follow takes anchors, aliases and the tag !!str off a node: nil where that leads nowhere,
// which was told then.
func (r *reader) follow(n node) node {
	for range maxNesting {
		switch v := n.(type) {
		case *ast.AnchorNode:
			n = v.Value
		case *ast.AliasNode:
			name := v.Value.GetToken().Value
			target, ok := r.anchors[name]
			if !ok {
				r.fail(r.at(v), fmt.Sprintf("there is no anchor &%s", name))
				return nil
			}
			n = target
		case *ast.TagNode:
			if tag := v.GetToken().Value; tag != "!!str" {
				r.fail(r.at(v), fmt.Sprintf("the tag %s means nothing here", tag))
				return nil
			}
			n = v.Value
		default:
			return n
		}
	}
	r.fail(r.at(n), "this alias stands for itself")
	return nil
}

// at is where a node begins. A mapping's own token is the colon behind its first key.
func (r *reader) at(n node) place {
	switch v := n.(type) {
	case *ast.MappingNode:
		if !v.IsFlowStyle && len(v.Values) > 0 {
			return r.at(v.Values[0].Key)
		}
	case *ast.MappingValueNode:
		return r.at(v.Key)
	}
	if n == nil || n.GetToken() == nil {
		return place{}
	}
	return spot(n.GetToken())
}

func spot(t *token.Token) place { return place{t.Position.Line, t.Position.Column} }
