package test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Each row of docs/durability.md names tests that are there: folders' names in backquotes, each with its tests
// behind it. One that ends with … is the beginning of several names.
func TestEveryRowOfDurabilityHasATest(t *testing.T) {
	text, err := os.ReadFile("../docs/durability.md")
	require.NoError(t, err)
	all := map[string]map[string]string{} // by folder
	group := regexp.MustCompile("`([a-z]+)`([^`]*)")
	name := regexp.MustCompile(`\bTest\w+…?`)
	rows := 0
	for _, line := range strings.Split(string(text), "\n") {
		row, inTable := strings.CutPrefix(line, "| ")
		if !inTable || strings.HasPrefix(row, "---") || strings.HasPrefix(row, "fails ") {
			continue
		}
		rows++
		cells := strings.Split(strings.TrimSuffix(row, "|"), "|")
		require.Len(t, cells, 6, "%s", line)
		shown := 0
		for _, m := range group.FindAllStringSubmatch(cells[5], -1) {
			folder := filepath.Join("..", "internal", m[1])
			if m[1] == "test" {
				folder = "."
			}
			if all[folder] == nil {
				all[folder] = functions(t, folder)
			}
			for _, test := range name.FindAllString(m[2], -1) {
				shown++
				require.True(t, isThere(all[folder], test), "%s: there is no %s in %s", cells[0], test, folder)
			}
		}
		require.Equal(t, len(name.FindAllString(cells[5], -1)), shown, "%s: a test without its folder", cells[0])
		require.Positive(t, shown, "%s: nothing shows it", cells[0])
	}
	require.Greater(t, rows, 20)
}

func isThere(tests map[string]string, name string) bool {
	beginning, several := strings.CutSuffix(name, "…")
	if !several {
		_, there := tests[name]
		return there
	}
	for test := range tests {
		if strings.HasPrefix(test, beginning) {
			return true
		}
	}
	return false
}
