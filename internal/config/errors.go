package config

import (
	"fmt"
	"slices"
	"strings"
)

// notYet is what is said of everything that the design has and this version hasn't.
const notYet = "not in this version"

// An Error is one thing that is wrong in a file, and where.
type Error struct {
	File      string
	Line, Col int // both from 1
	Msg       string
	hint      string
}

func (e *Error) Error() string { return fmt.Sprintf("%s:%d:%d: %s", e.File, e.Line, e.Col, e.Msg) }

// Hint says what to do, "" where Msg does.
func (e *Error) Hint() string { return e.hint }

// Errors is all that is wrong in a file, from top to bottom.
type Errors []*Error

func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i, one := range e {
		lines[i] = one.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap gives the errors one by one.
func (e Errors) Unwrap() []error {
	list := make([]error, len(e))
	for i, one := range e {
		list[i] = one
	}
	return list
}

// Nearest is the known word that was most likely meant, "" where none is near.
func Nearest(word string, known []string) string {
	best, least := "", max(1, len(word)/3)
	for _, k := range known {
		d := distance(strings.ToLower(word), strings.ToLower(k))
		if d <= least && (best == "" || d < distance(strings.ToLower(word), strings.ToLower(best))) {
			best = k
		}
	}
	if best != "" {
		return best
	}
	i := slices.IndexFunc(known, func(k string) bool {
		return len(word) > 2 && (strings.HasPrefix(k, word) || strings.HasPrefix(word, k))
	})
	if i < 0 {
		return ""
	}
	return known[i]
}

// suggestion continues a message about a word that isn't known.
func suggestion(word string, known []string) string {
	if near := Nearest(word, known); near != "" {
		return fmt.Sprintf(": did you mean %q?", near)
	}
	return ": there is " + strings.Join(known, ", ")
}

// distance is the number of letters to insert, drop, replace or swap with their neighbour to
// make b of a.
func distance(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return len(a) + len(b) // no field's name is that long
	}
	var before, last []int
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		before, last, row = last, row, make([]int, len(b)+1)
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
	}
	return row[len(b)]
}
