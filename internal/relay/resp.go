package relay

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// Bounds of what a peer may say. The longest that anybody needs to is a Sentinel's hello.
const (
	maxLine    = 4 << 10
	maxArgs    = 64
	maxCommand = 4 << 10 // bytes of all arguments
	maxQueued  = 16      // commands in a MULTI
)

// command is the words of one, the first in capitals.
type command []string

func (c command) name() string { return c[0] }

// arg is argument n in capitals, "" if there is none.
func (c command) arg(n int) string {
	if n < len(c) {
		return strings.ToUpper(c[n])
	}
	return ""
}

// A protocolError is told to the peer before it is left.
type protocolError struct{ what string }

func (e *protocolError) Error() string { return e.what }

// readCommand reads a command, an array of bulk strings or an inline one. Empty lines are passed
// over: replicas send them to show that they live.
func readCommand(in *bufio.Reader) (command, error) {
	for {
		line, err := readLine(in)
		if err != nil {
			return nil, err
		}
		var c command
		if len(line) > 0 && line[0] == '*' {
			c, err = readArray(in, string(line[1:]))
			if err != nil {
				return nil, err
			}
		} else {
			c = strings.Fields(string(line))
		}
		if len(c) > maxArgs {
			return nil, &protocolError{"too many arguments"}
		}
		if len(c) > 0 {
			c[0] = strings.ToUpper(c[0])
			return c, nil
		}
	}
}

func readArray(in *bufio.Reader, count string) (command, error) {
	n, err := strconv.Atoi(count)
	if err != nil || n > maxArgs {
		return nil, &protocolError{"invalid multibulk length"}
	}
	var c command
	total := 0
	for range n {
		line, err := readLine(in)
		if err != nil {
			return nil, err
		}
		if len(line) == 0 || line[0] != '$' {
			return nil, &protocolError{"expected '$'"}
		}
		size, err := strconv.Atoi(string(line[1:]))
		if err != nil || size < 0 || size > maxCommand {
			return nil, &protocolError{"invalid bulk length"}
		}
		if total += size; total > maxCommand {
			return nil, &protocolError{"too big a command"}
		}
		b := make([]byte, size+2)
		if _, err := io.ReadFull(in, b); err != nil {
			return nil, err
		}
		c = append(c, string(b[:size]))
	}
	return c, nil
}

func readLine(in *bufio.Reader) ([]byte, error) {
	line, err := in.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		return nil, &protocolError{"too big a line"}
	}
	return bytes.TrimRight(line, "\r\n"), err
}

// Replies, as RESP2 has them.

func reply(line string) []byte { return []byte(line + "\r\n") }

func bulk(s string) []byte { return fmt.Appendf(nil, "$%d\r\n%s\r\n", len(s), s) }

func integer(n int64) []byte { return fmt.Appendf(nil, ":%d\r\n", n) }

func array(elements ...[]byte) []byte {
	b := fmt.Appendf(nil, "*%d\r\n", len(elements))
	for _, e := range elements {
		b = append(b, e...)
	}
	return b
}
