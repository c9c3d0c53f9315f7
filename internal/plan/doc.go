// Package plan turns what a user wants back into what has to be read for it.
//
// In go a Catalog (what exists) and a Point (a time, an offset, "just before this command", the
// latest); out comes a Plan: one snapshot, the segments that lead from it to the point, and what
// the user should be told. A plan is made of names alone. Where the exact boundary can only be
// found by reading (a time inside a segment, a command), the plan says in which segments to look,
// and package replay looks.
//
// What can't be had is an UnreachableError (exit 3) that names the nearest points that can;
// what isn't clear is a SyntaxError, an AmbiguousError or an UnknownTimelineError (exit 2). The
// package does no I/O, and the clock is an argument.
package plan
