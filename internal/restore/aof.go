package restore

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"

	"github.com/offloader/offloader/internal/replay"
	"github.com/offloader/offloader/internal/stream"
)

// Names, text and modes as engines write them by default (redis, aof.c: aofManifest; tried on all
// four). The manifest's last line must end, and no line may be empty.
const (
	folderName   = "appendonlydir"
	baseName     = "appendonly.aof.1.base.rdb"
	incrName     = "appendonly.aof.1.incr.aof"
	manifestName = "appendonly.aof.manifest"
	singleName   = "appendonly.aof"

	manifest = "file " + baseName + " seq 1 type b\nfile " + incrName + " seq 1 type i\n"

	dirMode  = 0o755
	fileMode = 0o644
)

// writer writes the files of one restore.
type writer struct {
	r        *replay.Replay
	dir      string
	progress func(done, total int64)
	total    int64
	done     int64 // bytes in the files
	count    *Counter
}

func (w *writer) write(ctx context.Context, format Format) error {
	if format == AOFSingle {
		return w.single(ctx)
	}
	return w.folder(ctx)
}

// folder writes a multi-part AOF. The log goes first, because keys are counted in that order.
func (w *writer) folder(ctx context.Context) error {
	w.dir = filepath.Join(w.dir, folderName)
	if err := os.Mkdir(w.dir, dirMode); err != nil {
		return err
	}
	if err := os.Chmod(w.dir, dirMode); err != nil { // whatever the umask is
		return err
	}
	log := func(ctx context.Context, p *pipe) error { return w.log(ctx, p, true) }
	if err := w.file(ctx, incrName, log, w.count.log); err != nil {
		return err
	}
	if err := w.file(ctx, baseName, w.base, w.baseCounter()); err != nil {
		return err
	}
	return w.file(ctx, manifestName, func(ctx context.Context, p *pipe) error { return p.write(ctx, []byte(manifest)) }, nil)
}

// single writes base and log into one file for engines before 7.0, to which an annotation is a
// format error. To be counted, the log is read once more before.
func (w *writer) single(ctx context.Context) error {
	if err := w.each(ctx, w.count.Piece); err != nil {
		return err
	}
	return w.file(ctx, singleName, func(ctx context.Context, p *pipe) error {
		if err := w.base(ctx, p); err != nil {
			return err
		}
		return w.log(ctx, p, false)
	}, w.baseCounter())
}

// baseCounter counts the keys of the base once those of the log were counted, nil where that is
// done without reading it.
func (w *writer) baseCounter() func(*pipe) error {
	if w.count.knowsBase() {
		return nil
	}
	return w.count.base
}

// base writes the snapshot's RDB as it is.
func (w *writer) base(ctx context.Context, p *pipe) (err error) {
	rdb, err := w.r.RDB(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rdb.Close()) }()
	return p.readFrom(ctx, rdb)
}

// log writes the stream behind the snapshot. Bare newlines, which a master counts, are left out:
// engines refuse an AOF that has any.
func (w *writer) log(ctx context.Context, p *pipe, annotate bool) error {
	if db := w.r.Info.DB; db != 0 && w.r.StreamBytes() > 0 {
		// An engine reads each file from database 0 on. This isn't part of the stream.
		n := strconv.Itoa(db)
		if err := p.write(ctx, []byte("*2\r\n$6\r\nSELECT\r\n$"+strconv.Itoa(len(n))+"\r\n"+n+"\r\n")); err != nil {
			return err
		}
	}
	var line []byte
	second := int64(-1)
	return w.each(ctx, func(piece stream.Piece) error {
		now := int64(piece.Time) / 1000
		if !annotate || piece.First < 0 || now == second {
			return p.piece(ctx, piece)
		}
		// "#TS:" stands before the first command of a second, as engines put it with
		// aof-timestamp-enabled, for redis-check-aof --truncate-to-timestamp.
		second = now
		rest := piece
		rest.At, rest.Data, rest.First = piece.At+stream.Offset(piece.First), piece.Data[piece.First:], 0
		piece.Data = piece.Data[:piece.First]
		if err := p.piece(ctx, piece); err != nil {
			return err
		}
		line = append(strconv.AppendInt(append(line[:0], "#TS:"...), second, 10), '\r', '\n')
		if err := p.write(ctx, line); err != nil {
			return err
		}
		return p.piece(ctx, rest)
	})
}

// each reads the stream from the snapshot to the point.
func (w *writer) each(ctx context.Context, do func(stream.Piece) error) (err error) {
	pieces := w.r.Stream(ctx)
	defer func() { err = errors.Join(err, pieces.Close()) }()
	for {
		p, err := pieces.Next()
		if err == io.EOF {
			return nil
		}
		if err == nil {
			err = do(p)
		}
		if err != nil {
			return err
		}
	}
}
