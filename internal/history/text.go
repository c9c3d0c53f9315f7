package history

import (
	"strconv"

	"github.com/offloader/offloader/internal/plan"
	"github.com/offloader/offloader/internal/resp"
)

// How much of a command is shown: enough to know it again.
const (
	maxArg  = 128
	maxText = 1024
)

// Text is c as one would type it: arguments in double quotes where they need them, with bytes that
// can't be printed as \xHH. A long argument is cut and its length told, and of very many the first
// are shown and their number told. What isn't cut can be given to restore --before as it is.
func Text(c *resp.Command) string {
	var b []byte
	for i := range c.Args {
		if len(b) > maxText {
			return string(cut(b, int64(c.N), "arguments"))
		}
		if i > 0 {
			b = append(b, ' ')
		}
		if c.ArgLen(i) <= maxArg && c.Whole(i) {
			b = append(b, plan.Quote(string(c.Args[i]))...)
			continue
		}
		b = append(b, plan.Quote(string(c.Args[i][:min(maxArg, len(c.Args[i]))]))...)
		b = cut(b, c.ArgLen(i), "bytes")
	}
	if len(c.Args) < c.N {
		b = cut(b, int64(c.N), "arguments")
	}
	return string(b)
}

// cut tells how much there is in all of what was cut.
func cut(b []byte, n int64, of string) []byte {
	b = append(b, "…("...)
	b = strconv.AppendInt(b, n, 10)
	return append(append(append(b, ' '), of...), ')')
}
