package main

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/offloader/offloader/internal/engine/enginetest"
)

const (
	clients  = 8
	pipeline = 50 // commands that each client sends before it reads replies
)

// writer appends one command to buf. Each client has one of its own.
type writer func(buf []byte) []byte

// load has clients write the given number of commands, as fast as the master takes them. What
// they write depends on the seed only.
func (b *bench) load(master *enginetest.Server, commands int, make func(r *rand.Rand) writer) {
	b.Helper()
	var g errgroup.Group
	for i := range clients {
		n := commands / clients
		g.Go(func() error { return send(master.Addr(), n, make(rand.New(rand.NewPCG(uint64(i), 42))), 0) })
	}
	b.check(g.Wait(), "write to the master")
}

// send writes n commands over a connection of its own, at most rate a second if that isn't 0.
func send(addr string, n int, next writer, rate int) (err error) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	in := bufio.NewReaderSize(c, 64<<10)
	var buf []byte
	began := time.Now()
	for sent := 0; sent < n; {
		k := min(pipeline, n-sent)
		buf = buf[:0]
		for range k {
			buf = next(buf)
		}
		if _, err := c.Write(buf); err != nil {
			return err
		}
		for range k {
			if err := skipReply(in); err != nil {
				return err
			}
		}
		sent += k
		if rate > 0 {
			time.Sleep(time.Until(began.Add(time.Duration(sent) * time.Second / time.Duration(rate))))
		}
	}
	return nil
}

// skipReply reads one reply that is a line.
func skipReply(in *bufio.Reader) error {
	line, err := in.ReadSlice('\n')
	if err != nil {
		return err
	}
	if line[0] != '+' && line[0] != ':' {
		return fmt.Errorf("the master answered %q", line)
	}
	return nil
}

// bulk appends one argument.
func bulk[T string | []byte](buf []byte, s T) []byte {
	buf = strconv.AppendInt(append(buf, '$'), int64(len(s)), 10)
	return append(append(append(buf, "\r\n"...), s...), "\r\n"...)
}

// key appends a key with a number of 12 digits, as redis-benchmark has them.
func key(buf []byte, prefix string, n int) []byte {
	buf = strconv.AppendInt(append(buf, '$'), int64(len(prefix)+12), 10)
	buf = append(append(buf, "\r\n"...), prefix...)
	for d := 100_000_000_000; d > 0; d /= 10 {
		buf = append(buf, byte('0'+n/d%10))
	}
	return append(buf, "\r\n"...)
}

// sets writes SETs over keys keys with the values that value gives.
func sets(keys int, value func(r *rand.Rand) []byte) func(*rand.Rand) writer {
	return func(r *rand.Rand) writer {
		return func(buf []byte) []byte {
			buf = append(buf, "*3\r\n$3\r\nSET\r\n"...)
			return bulk(key(buf, "key:", r.IntN(keys)), value(r))
		}
	}
}

// fill writes until the master has size bytes of data, by its own count.
func (b *bench) fill(master *enginetest.Server, size int64) {
	docs := newDocuments()
	used := func() int64 {
		n, err := strconv.ParseInt(master.Info("memory")["used_memory_dataset"], 10, 64)
		b.check(err, "read used_memory_dataset")
		return n
	}
	for part, before := 0, used(); used()-before < size; part++ {
		left := size - (used() - before)
		commands := int(min(left, size/4+1)/600) + clients
		b.load(master, commands, func(r *rand.Rand) writer { return mixed(r, docs, fmt.Sprintf("%d:%d:", part, r.Uint32())) })
	}
}

// mixed writes what people keep: documents, sessions as hashes, queues, rankings, sets.
func mixed(r *rand.Rand, docs *documents, prefix string) writer {
	n := 0
	return func(buf []byte) []byte {
		n++
		switch n % 8 {
		case 0:
			buf = append(buf, "*10\r\n$4\r\nHSET\r\n"...)
			buf = key(buf, "session:"+prefix, n/8)
			for _, field := range [...]string{"user", "token", "agent", "seen"} {
				buf = bulk(bulk(buf, field), docs.small(r))
			}
		case 1:
			buf = append(buf, "*4\r\n$4\r\nZADD\r\n"...)
			buf = key(buf, "ranking:"+prefix, n/800)
			buf = bulk(bulk(buf, strconv.Itoa(r.IntN(1e6))), docs.small(r))
		case 2:
			buf = append(buf, "*4\r\n$5\r\nRPUSH\r\n"...)
			buf = bulk(bulk(key(buf, "queue:"+prefix, n/8000), docs.value100(r)), docs.small(r))
		case 3:
			buf = append(buf, "*3\r\n$4\r\nSADD\r\n"...)
			buf = bulk(key(buf, "tags:"+prefix, n/400), docs.small(r))
		default:
			buf = append(buf, "*3\r\n$3\r\nSET\r\n"...)
			buf = bulk(key(buf, "doc:"+prefix, n), docs.next(r))
		}
		return buf
	}
}
