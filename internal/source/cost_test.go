package source

import (
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/stretchr/testify/require"
)

// TestCost: the table of docs/cost.md is what follows from when segments are sealed, and from the prices that
// stand above it. What is expected can be put there as it is.
func TestCost(t *testing.T) {
	const (
		month       = 730 * time.Hour
		compression = 3.6
		perPut      = 0.005 / 1000 // $
		perGB       = 0.023        // $ for a month
	)
	round := func(n float64) string { // to what such a number deserves
		to := 1000.0
		if n < 100_000 {
			to = 100
		}
		return humanize.Comma(int64(math.Round(n/to) * to))
	}
	var rows []string
	for _, megabytes := range []float64{1, 10} {
		bytes := megabytes * 1e6 // a second
		each := min(defaultTarget/bytes, defaultSpan.Seconds())
		compacted := month.Seconds() / each
		for _, interval := range []float64{1, 10, 60} {
			small := math.Floor(each/interval) * compacted // compaction ends the interval in which it falls
			rows = append(rows, fmt.Sprintf("| %v MB/s | %v s | %s | %s | %s | %.2f | %.2f |", megabytes, interval, round(small), round(compacted),
				round(small+compacted), (small+compacted)*perPut, bytes*month.Seconds()/compression/1e9*perGB))
		}
	}
	doc, err := os.ReadFile("../../docs/cost.md")
	require.NoError(t, err)
	_, table, found := strings.Cut(string(doc), " --- |\n")
	require.True(t, found)
	table, _, _ = strings.Cut(table, "\n\n")
	require.Equal(t, strings.Join(rows, "\n"), table)

	for _, said := range []string{
		strconv.Itoa(defaultTarget>>20) + " MiB come together every 67.1 s at 1 MB/s and every 6.7 s at 10 MB/s",
		"a compacted one every " + strconv.Itoa(defaultTarget>>20) + " MiB of stream, or every hour",
		"PUT 0.005 $ for 1,000", "storage 0.023 $ a GB", "A month has 730 hours", "compressed 3.6 to 1",
	} {
		require.Contains(t, string(doc), said)
	}
	require.Equal(t, time.Hour, defaultSpan)
	require.Equal(t, time.Minute, lookEvery, "a GET of timeline.json")
}
