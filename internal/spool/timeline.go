package spool

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/durable"
	"github.com/offloader/offloader/internal/resp"
	"github.com/offloader/offloader/internal/stream"
)

// Timeline is the spooled part of one timeline. One goroutine appends; the others may do all else
// beside it. Three offsets never fall and never cross:
//
//	Trimmed ≤ Durable ≤ Boundary
type Timeline struct {
	spool *Spool
	dir   string
	info  archive.TimelineInfo

	// syncing is held by whoever fsyncs or replaces files that may be in an fsync; it is taken
	// before mu.
	syncing sync.Mutex

	mu       sync.Mutex
	framer   *resp.Framer
	file     *durable.File // the last chunk
	size     int64         // of it
	retired  []retired     // chunks before it that are not fsynced yet
	chunks   []chunk       // all, the last one too
	boundary stream.Cursor // appended so far
	last     stream.Time   // of the newest byte or sign of life
	replID   stream.ReplID
	failed   error // of the first write or fsync that failed: then nothing more becomes durable
	durable  stream.Cursor
	closed   bool
	head     []byte // a record's header, reused

	dirty chan struct{} // capacity 1: something was appended
	stop  chan struct{}
	news  *news         // the source's
	done  chan struct{} // the committer has ended
}

var errClosed = errors.New("the spooled timeline was closed")

// oneWrite is how long a record may be to be copied behind its header: a copy of that costs less
// than a second write, some 2 µs.
const oneWrite = 16 << 10

// chunk is a file of the stream, from its first offset on.
type chunk struct {
	from stream.Offset
	size int64
}

// retired is a chunk that has had its last byte but not its last fsync.
type retired struct {
	file *durable.File
	end  stream.Cursor
}

// Info is the timeline's timeline.json.
func (t *Timeline) Info() archive.TimelineInfo {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.info
}

// ReplID is the replication id in force at the end.
func (t *Timeline) ReplID() stream.ReplID {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.replID
}

// Boundary is the last one appended, durable or not. A link resumes there.
func (t *Timeline) Boundary() stream.Cursor {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.boundary
}

// Durable is the last boundary that a power cut can't take.
func (t *Timeline) Durable() stream.Cursor {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.durable
}

// Received is how far bytes came, boundary or not, and when the newest sign of life did.
func (t *Timeline) Received() (stream.Offset, stream.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.framer.Offset(), t.last
}

// Trimmed is the first offset that the spool still holds.
func (t *Timeline) Trimmed() stream.Offset {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.chunks[0].from
}

// Failed is the write or fsync error after which the timeline takes nothing more, until Cut.
func (t *Timeline) Failed() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.failed
}

// Append takes the next bytes of the stream, received now. It returns when they are written, not
// when they are durable. After an error the timeline ends at the last boundary: Cut, then go on.
func (t *Timeline) Append(p []byte, now time.Time) error {
	full := t.spool.room(int64(len(p)) + recordSize)
	t.mu.Lock()
	defer t.mu.Unlock()
	if full != nil {
		return t.tooLarge(full, int64(len(p)))
	}
	if err := t.usable(); err != nil {
		return err
	}
	t.last = clamp(t.last, stream.TimeOf(now))
	for len(p) > 0 {
		part := p[:min(len(p), maxRecord)]
		at := t.framer.Offset()
		n, first, blank, err := t.framer.Feed(part)
		if err != nil {
			return err
		}
		if b := t.framer.Boundary(); b.Offset > t.boundary.Offset {
			t.boundary = stream.Cursor{Offset: b.Offset, DB: b.DB, Time: t.last}
		}
		piece := stream.Piece{At: at, Time: t.last, Data: part[:n], First: first, Blank: blank}
		if t.size >= t.spool.chunkSize() && t.boundary.Offset > at {
			// The chunk is full, and can end at the boundary within the piece.
			if piece, err = t.turnWithin(piece); err != nil {
				return err
			}
		}
		if len(piece.Data) > 0 {
			if err := t.write(piece); err != nil {
				return err
			}
		}
		p = p[n:]
	}
	signal(t.dirty)
	return nil
}

// tooLarge tells of a spool that is full because of what has not ended yet: nothing that a store
// does would make room for a command that is larger than the spool.
func (t *Timeline) tooLarge(full error, more int64) error {
	begun := int64(t.framer.Offset()-t.boundary.Offset) + more
	if limit := t.spool.opts.MaxSize; begun > limit/2 && t.spool.Used()+more > limit-recordSize {
		return &FullError{t.spool.dir, fmt.Sprintf("a command or transaction of more than %s does not fit into %s", humanize.IBytes(uint64(begun)), humanize.IBytes(uint64(limit))),
			"raise spool.max_size to several times the largest value or transaction, and restart the daemon"}
	}
	return full
}

// Alive notes that the link is up and has had nothing to say since the last byte. It isn't
// fsynced: it only narrows what is known of the moments before a crash.
func (t *Timeline) Alive(now time.Time) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.usable(); err != nil {
		return err
	}
	if at := stream.TimeOf(now); at > t.last {
		t.last = at
		return t.write(stream.Piece{At: t.framer.Offset(), Time: at, First: -1})
	}
	return nil
}

// usable fails where nothing may be written.
func (t *Timeline) usable() error {
	if t.closed {
		return errClosed
	}
	return t.failed
}

// turnWithin writes p up to the last boundary, begins a new chunk there and gives the rest of p.
func (t *Timeline) turnWithin(p stream.Piece) (rest stream.Piece, err error) {
	cut := int(t.boundary.Offset - p.At)
	rest = stream.Piece{At: t.boundary.Offset, Time: p.Time, Data: p.Data[cut:], First: 0}
	p.Data = p.Data[:cut]
	if p.First >= cut {
		p.First = -1
	}
	if len(rest.Data) == 0 {
		rest.First = -1
	}
	if err := t.write(p); err != nil {
		return rest, err
	}
	t.failed = t.turn(false)
	return rest, t.failed
}

// write appends a piece to the last chunk, as a record.
func (t *Timeline) write(p stream.Piece) error {
	r := record{Piece: p, boundary: t.boundary.Offset, db: t.boundary.DB}
	t.head = r.appendHead(t.head[:0])
	var err error
	if len(r.Data) <= oneWrite {
		t.head = append(t.head, r.Data...)
		_, err = t.file.Write(t.head)
	} else if _, err = t.file.Write(t.head); err == nil {
		_, err = t.file.Write(r.Data)
	}
	if err != nil {
		t.failed = fmt.Errorf("write the stream to the spool: %w", err)
		return t.failed
	}
	t.grow(recordSize + int64(len(r.Data)))
	return nil
}

func (t *Timeline) grow(n int64) {
	t.size += n
	t.chunks[len(t.chunks)-1].size = t.size
	t.spool.used.Add(n)
}

// turn begins a new chunk at the last boundary. Its name and header become durable with its first
// fsync, or, when what stands behind the boundary in the chunk before is to be dead, at once. Where
// nothing whole came since the last chunk began, the new one takes its place. What fails leaves
// the chunks as they were.
func (t *Timeline) turn(atOnce bool) error {
	head := chunkHead{at: t.boundary, replID: t.replID}
	path := chunkPath(t.dir, t.boundary.Offset)
	last := len(t.chunks) - 1
	replaces := last >= 0 && t.chunks[last].from == t.boundary.Offset
	var f *durable.File
	var err error
	if atOnce || replaces {
		if err = durable.WriteFile(path, head.encode()); err == nil {
			f, err = durable.OpenAppend(path)
		}
	} else if f, err = durable.CreateAppend(path); err == nil {
		if _, err = f.Write(head.encode()); err != nil {
			_ = f.Close() // the write's error says more
		}
	}
	if err != nil {
		return fmt.Errorf("begin a chunk of the spool: %w", err)
	}
	switch {
	case replaces:
		if t.file != nil {
			_ = t.file.Close() // its bytes are dead
		}
		t.spool.used.Add(-t.chunks[last].size)
		t.chunks = t.chunks[:last]
	case t.file != nil:
		t.retired = append(t.retired, retired{t.file, t.boundary})
	}
	t.file, t.size = f, 0
	t.chunks = append(t.chunks, chunk{from: t.boundary.Offset})
	t.grow(headerSize)
	return nil
}

// Cut drops what came after the last boundary, and gives that boundary: the link begins there
// again, perhaps with other bytes. After a failed write or fsync it drops all that is not durable.
func (t *Timeline) Cut() (stream.Cursor, error) {
	t.syncing.Lock()
	defer t.syncing.Unlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return t.boundary, errClosed
	}
	// A framer that met nonsense right behind a boundary stands there too, in a command.
	if t.failed == nil && t.framer.Offset() == t.boundary.Offset && t.framer.Between() {
		return t.boundary, nil
	}
	if t.failed != nil {
		// What the page cache says of those files is no longer worth anything.
		t.boundary = t.durable
		t.closeFiles()
		// The file of a chunk that could not be begun may be there, too.
		if err := removeBehind(t.dir, t.boundary.Offset); err != nil {
			return t.boundary, fmt.Errorf("drop what is not durable: %w", err)
		}
		for n := len(t.chunks) - 1; n > 0 && t.chunks[n].from > t.boundary.Offset; n-- {
			t.spool.used.Add(-t.chunks[n].size)
			t.chunks = t.chunks[:n]
		}
	}
	t.framer = resp.NewFramer(t.boundary)
	if err := t.turn(true); err != nil {
		t.failed = err
		return t.boundary, err
	}
	t.failed = nil
	signal(t.dirty)
	return t.boundary, nil
}

// closeFiles closes what is open to be written.
func (t *Timeline) closeFiles() {
	for _, r := range t.retired {
		_ = r.file.Close()
	}
	t.retired = nil
	if t.file != nil {
		_ = t.file.Close()
		t.file = nil
	}
}

// removeBehind removes the chunks that begin behind an offset, the last one first: never is one
// there without those before it.
func removeBehind(dir string, at stream.Offset) error {
	chunks, err := listChunks(dir)
	for n := len(chunks) - 1; err == nil && n >= 0 && chunks[n].from > at; n-- {
		err = remove(chunkPath(dir, chunks[n].from))
	}
	return err
}

// remove takes a file away, durably. One that an earlier attempt has taken is no error.
func remove(path string) error {
	err := durable.Remove(path)
	if errors.Is(err, fs.ErrNotExist) {
		return durable.SyncDir(filepath.Dir(path))
	}
	return err
}

// SetReplID takes note that the master goes on from the last boundary under another id. The link
// must have Cut before.
func (t *Timeline) SetReplID(id stream.ReplID, cause string, now time.Time) error {
	if id == t.ReplID() {
		return nil
	}
	t.commitOnce() // the event must not survive what it stands behind
	t.mu.Lock()
	if err := t.usable(); err != nil {
		t.mu.Unlock()
		return err
	}
	t.last = clamp(t.last, stream.TimeOf(now))
	event := archive.Event{Kind: archive.EventReplID, Offset: t.boundary.Offset, Time: t.last, ReplID: id, Cause: cause}
	t.mu.Unlock()
	if err := t.AddEvent(event); err != nil {
		return err
	}
	t.syncing.Lock()
	defer t.syncing.Unlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.usable(); err != nil {
		return err
	}
	t.replID = id
	t.news.tell()
	if err := t.turn(true); err != nil {
		t.failed = err
		return err
	}
	signal(t.dirty)
	return nil
}

// AddEvent keeps an event until the stores have it. It is durable when AddEvent returns. One that
// is kept already stays as it is.
func (t *Timeline) AddEvent(e archive.Event) error {
	t.syncing.Lock() // the folder keeps its name, and stays
	defer t.syncing.Unlock()
	if t.isClosed() {
		return errClosed
	}
	return keepEvent(t.folder(), e)
}

// keepEvent writes an event into a timeline's folder.
func keepEvent(dir string, e archive.Event) error {
	path := filepath.Join(dir, e.Name())
	if err := durable.MkdirAll(filepath.Dir(path)); err != nil {
		return fmt.Errorf("keep an event in the spool: %w", err)
	}
	if _, err := os.Stat(path); err == nil {
		return durable.SyncDir(filepath.Dir(path))
	}
	if err := writeJSON(path, e); err != nil {
		return fmt.Errorf("keep an event in the spool: %w", err)
	}
	return nil
}

// DropEvent lets an event go: every store has it.
func (t *Timeline) DropEvent(name string) error {
	return remove(filepath.Join(t.folder(), name))
}

// Trim lets go of whole chunks before the offset to: every store has their bytes, compacted. The
// oldest goes first, and none before it is gone for good: a hole would look like a tear.
func (t *Timeline) Trim(to stream.Offset) error {
	if err := t.turnToTrim(to); err != nil {
		return err
	}
	for {
		t.mu.Lock()
		if t.closed || len(t.chunks) < 2 || t.chunks[1].from > min(to, t.durable.Offset) {
			t.mu.Unlock()
			return nil
		}
		first, dir := t.chunks[0], t.dir
		t.mu.Unlock()
		if err := remove(chunkPath(dir, first.from)); err != nil {
			return fmt.Errorf("trim the spool: %w", err)
		}
		t.mu.Lock()
		t.chunks = t.chunks[1:]
		t.mu.Unlock()
		t.spool.used.Add(-first.size)
	}
}

// turnToTrim begins a new chunk if all of the last one can go then, and that is worth it.
func (t *Timeline) turnToTrim(to stream.Offset) error {
	t.syncing.Lock()
	defer t.syncing.Unlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	worth := t.spool.chunkSize() / 4
	if t.spool.Pressed() {
		worth = 16 << 10 // forty sources may share a small spool
	}
	if t.usable() != nil || to < t.boundary.Offset || t.size <= worth || t.framer.Offset() != t.boundary.Offset {
		return nil
	}
	if err := t.turn(true); err != nil {
		t.failed = err
		return err
	}
	signal(t.dirty)
	return nil
}

// CutAfter is the first place at or behind an offset where a chunk begins: a durable boundary up
// to which the spool can be trimmed without waste. ok is false while there is none.
func (t *Timeline) CutAfter(at stream.Offset) (cut stream.Offset, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, c := range t.chunks {
		if c.from >= at {
			return c.from, c.from <= t.durable.Offset
		}
	}
	return 0, false
}

// rename gives a timeline another name, while no store knows it yet.
func (t *Timeline) rename(name string) error {
	t.syncing.Lock()
	defer t.syncing.Unlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.usable(); err != nil {
		return err
	}
	// A new chunk's first fsync makes its name durable, in the folder that it was made in.
	for _, r := range append(t.retired, retired{file: t.file}) {
		if err := r.file.Sync(); err != nil {
			t.failed = fmt.Errorf("make the stream durable in the spool: %w", err)
			return t.failed
		}
	}
	info, dir := t.info, filepath.Join(filepath.Dir(t.dir), name)
	info.Timeline = name
	err := durable.Rename(t.dir, dir)
	if _, missing := os.Stat(dir); missing == nil { // from here on the folder's name counts
		t.dir, t.info = dir, info
	}
	if err != nil {
		return fmt.Errorf("rename a spooled timeline: %w", err)
	}
	return writeJSON(filepath.Join(dir, timelineFile), info)
}

// setParent takes note that the timeline that this one continues has another name.
func (t *Timeline) setParent(name string) error {
	t.syncing.Lock()
	defer t.syncing.Unlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	parent := *t.info.Parent
	parent.Timeline = name
	info := t.info
	info.Parent = &parent
	if err := writeJSON(filepath.Join(t.dir, timelineFile), info); err != nil {
		return fmt.Errorf("rename the parent of a spooled timeline: %w", err)
	}
	t.info = info
	return nil
}

// Close makes all that was appended durable and ends the committer.
func (t *Timeline) Close() error {
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return nil
	}
	t.closed = true
	t.mu.Unlock()
	close(t.stop)
	<-t.done
	t.news.tell()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closeFiles()
	for _, c := range t.chunks {
		t.spool.used.Add(-c.size) // counted again by whoever opens it again
	}
	return t.failed
}

// removeTimeline forgets a timeline. Without timeline.json the rest is a leftover, so it goes first.
func removeTimeline(dir string) error {
	if err := remove(filepath.Join(dir, timelineFile)); err != nil {
		return err
	}
	return durable.RemoveAll(dir)
}

func (t *Timeline) isClosed() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.closed
}

// folder is where the timeline is.
func (t *Timeline) folder() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.dir
}

func writeJSON(path string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return durable.WriteFile(path, append(b, '\n'))
}

func chunkPath(dir string, from stream.Offset) string {
	return filepath.Join(dir, fmt.Sprintf("%020d%s", from, chunkSuffix))
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
