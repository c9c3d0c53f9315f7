package main

import (
	"fmt"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/restore"
)

// afterAmnesia are the command lines that are left to a user whose source is suspect: to get back what was there before,
// of which timeline before is, and to say that what the master holds now is right.
func (a *app) afterAmnesia(source, before string) []string {
	where := ""
	switch {
	case a.archiveURL != "":
		where = " --archive " + restore.ShellQuote(a.archiveURL)
	case a.configFile != "":
		where = " --config " + restore.ShellQuote(a.configFile)
	}
	where += " --source " + restore.ShellQuote(source)
	var ways []string
	if before != "" {
		ways = append(ways, "what was there before: offloader restore"+where+" --timeline "+before+" --latest --output DIR")
	}
	return append(ways, "if what the master holds now is right: offloader release"+where)
}

// sizes says how many keys there were, and are.
func sizes(k archive.Sizes) string {
	text := func(n int64) string {
		if n < 0 {
			return "an unknown number of keys"
		}
		return plural(n, "key", "keys")
	}
	return fmt.Sprintf("%s before, %s now", text(k.Before), text(k.Now))
}
