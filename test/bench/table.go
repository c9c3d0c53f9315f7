package main

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// sample is one quantity, measured in several rounds.
type sample []float64

func (s sample) median() float64 { return s.quantile(0.5) }

// quantile is the value that the share q of the sample doesn't exceed.
func (s sample) quantile(q float64) float64 {
	if len(s) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(s))
	if q == 0.5 && len(s)%2 == 0 {
		return (sorted[len(s)/2-1] + sorted[len(s)/2]) / 2
	}
	return sorted[min(len(s)-1, int(q*float64(len(s))))]
}

// in is the sample as a cell: median, spread, unit.
func (s sample) in(unit string) string {
	if len(s) == 0 {
		return "–"
	}
	if len(s) == 1 {
		return strings.TrimSpace(digits(s[0]) + " " + unit)
	}
	return fmt.Sprintf("%s (%s–%s)", strings.TrimSpace(digits(s.median())+" "+unit), digits(slices.Min(s)), digits(slices.Max(s)))
}

// digits is three of them, as many as the spread of any of this deserves.
func digits(v float64) string {
	switch {
	case v >= 100:
		return strconv.FormatFloat(v, 'f', 0, 64)
	case v >= 10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	case v < 0.1:
		return strconv.FormatFloat(v, 'g', 2, 64)
	}
	return strconv.FormatFloat(v, 'f', 2, 64)
}

// row is a line of the table.
type row struct{ what, ours, other, ratio, bound, holds string }

type table []row

// compare adds the ratio of two samples. bound is what it may be at most, or with atLeast at
// least; 0 says that it is only told.
func (b *bench) compare(what, unit string, ours, other sample, otherIs string, bound float64, atLeast bool) {
	r := row{what: what, ours: ours.in(unit), other: otherIs + ": " + other.in(unit), bound: "told"}
	if m := other.median(); m > 0 {
		ratio := ours.median() / m
		r.ratio = strconv.FormatFloat(ratio, 'f', 2, 64)
		if bound > 0 {
			r.bound, r.holds = limit(bound, atLeast)+" ×", verdict(ratio, bound, atLeast)
		}
	}
	b.add(r)
}

// bounded adds a figure that has a bound of its own.
func (b *bench) bounded(what, unit string, ours sample, other string, bound float64, atLeast bool) {
	v := ours.median()
	if !atLeast {
		v = slices.Max(ours)
	}
	b.add(row{what: what, ours: ours.in(unit), other: other, bound: strings.TrimSpace(limit(bound, atLeast) + " " + unit), holds: verdict(v, bound, atLeast)})
}

func (b *bench) add(r row) {
	b.say("  %s | %s | %s | %s | %s %s", r.what, r.ours, r.other, r.ratio, r.bound, r.holds)
	b.table = append(b.table, r)
}

func limit(bound float64, atLeast bool) string {
	sign := "≤ "
	if atLeast {
		sign = "≥ "
	}
	return sign + strconv.FormatFloat(bound, 'g', -1, 64)
}

func verdict(v, bound float64, atLeast bool) string {
	if v == bound || (v > bound) == atLeast {
		return "yes"
	}
	return "**no**"
}

func (t table) print(w io.Writer) {
	fmt.Fprintln(w, "| what | Offloader | the other | ratio | bound | holds |\n| --- | --- | --- | --- | --- | --- |")
	for _, r := range t {
		fmt.Fprintf(w, "| %s | %s | %s | %s | %s | %s |\n", r.what, r.ours, r.other, r.ratio, r.bound, r.holds)
	}
}
