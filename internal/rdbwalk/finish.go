package rdbwalk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
)

// trailerLen is the length of the checksum.
const trailerLen = 8

// Finish goes from where Next stopped to the end of the transfer, and says whether the RDB came
// over whole. It is called once, after Next returned false.
//
// Where Next reached the end of the RDB, Finish demands what must follow it: the mark of a
// diskless transfer ("$EOF:<mark>"), or with a nil mark the end of the source, which for a
// transfer of known length ("$<len>") is an io.LimitReader.
//
// Where Next stopped at something unknown, Finish passes over the rest. With a nil mark the
// source's end is the end. With a mark the end is where the bytes received so far end in the
// mark and the checksum before it is that of all bytes before: a master is silent from there on
// until it is answered, so the mark is never followed by anything, while a mark inside of a
// value, which anybody can plant, has no such checksum. An RDB without a checksum proves nothing:
// there Finish waits for the silence itself. doubt, if not nil, is called with true when the
// bytes so far might be all, and with false when that is settled: in doubt, a source should give
// up waiting soon (a second or two), with a timeout (os.ErrDeadlineExceeded), and Finish takes
// that for the end.
//
// Finish returns nil when the RDB is whole and its checksum right or absent; Summary then has
// Length and CRC, and Unchecked where the walk was given up. Otherwise it returns Err, which also
// has the errors that Finish itself met. Without a mark it is a *FormatError if bytes follow the
// RDB, which don't belong to it.
func (w *Walker) Finish(mark []byte, doubt func(bool)) error {
	unknown := new(UnknownError)
	switch {
	case errors.As(w.err, &unknown):
		w.seen.Unchecked = unknown.reason()
		w.err, w.held, w.dst = nil, false, nil
		w.tail(mark, doubt)
		if w.err == nil {
			w.ended = true
			return nil
		}
	case w.err != nil:
	case !w.ended:
		return errors.New("rdbwalk: Finish was called before Next returned false")
	case mark == nil:
		w.demandEnd()
	default:
		w.demandMark(mark)
	}
	return w.err
}

// demandEnd fails unless the source ends here.
func (w *Walker) demandEnd() bool {
	w.doing = "behind the end"
	if w.pos < w.end || w.fill() {
		return w.damaged("more bytes follow")
	}
	if errors.Is(w.rerr, io.EOF) {
		w.err = nil
		return true
	}
	return false
}

// demandMark fails unless the mark comes next.
func (w *Walker) demandMark(mark []byte) bool {
	w.doing = "behind the end"
	if !w.need(len(mark)) {
		return false
	}
	if !bytes.Equal(w.buf[w.pos:w.pos+len(mark)], mark) {
		return w.damaged("the mark that ends the transfer is not there")
	}
	w.pos += len(mark)
	return true
}

// tail passes over the rest of an RDB whose structure is not known. All is summed but the
// last bytes, which are the checksum and the mark if they turn out to be the last.
func (w *Walker) tail(mark []byte, doubt func(bool)) bool {
	if doubt == nil {
		doubt = func(bool) {}
	}
	crcLen := trailerLen
	if w.version < checksumSince {
		crcLen = 0
	}
	back := crcLen + len(mark)
	doubted := false
	defer func() {
		if doubted {
			doubt(false)
		}
	}()
	for {
		w.sum(w.end - back)
		w.pos = w.hashed
		last := w.buf[w.hashed:w.end]
		whole := len(last) == back && bytes.Equal(last[crcLen:], mark)
		if whole && mark != nil && crcLen > 0 && binary.LittleEndian.Uint64(last) == w.crc {
			return w.conclude(last, crcLen)
		}
		if may := whole && mark != nil; may != doubted {
			doubted = may
			doubt(may)
		}
		if w.fill() {
			continue
		}
		over := errors.Is(w.rerr, io.EOF)
		if whole && (over || doubted && timedOut(w.rerr)) {
			w.err = nil
			return w.conclude(w.buf[w.pos:w.end], crcLen) // fill may have moved them
		}
		return false
	}
}

// conclude takes last, checksum and mark, for the end of the RDB.
func (w *Walker) conclude(last []byte, crcLen int) bool {
	w.pos = w.end
	w.seen.Length = w.offset() - int64(len(last)-crcLen)
	if crcLen == 0 {
		w.seen.CRC = CRCAbsent
		return true
	}
	return w.judge(binary.LittleEndian.Uint64(last))
}

// timedOut tells an error that only says that nothing came.
func timedOut(err error) bool {
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout()
}
