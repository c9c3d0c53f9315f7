package archive

import (
	"fmt"
	"path"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/offloader/offloader/internal/stream"
)

// Folders and files of a timeline.
const (
	timelineFile = "timeline.json"
	logDir       = "log/"
	snapshotDir  = "snapshots/"
	eventDir     = "events/"

	segmentSuffix  = ".aof.zst"
	snapshotSuffix = ".rdb.zst"
	jsonSuffix     = ".json"
	// ageSuffix stands behind the names of encrypted files.
	ageSuffix = ".age"
)

const (
	offsetDigits = 20
	timeDigits   = 13
	sumDigits    = 16
	maxTime      = 9_999_999_999_999 // the last millisecond of 13 digits, in 2286
	maxSource    = 128
	maxKind      = 20
)

// A NameError says why a name is not one of the archive's.
type NameError struct {
	Name string
	What string
}

func (e *NameError) Error() string {
	return fmt.Sprintf("%q is no name of the archive: %s", e.Name, e.What)
}

// CheckSource tells whether name can be that of a source: one folder's name, which doesn't begin
// with a dot.
func CheckSource(name string) error {
	what := ""
	switch {
	case name == "":
		what = "it is empty"
	case len(name) > maxSource:
		what = fmt.Sprintf("it has %d bytes, %d are allowed", len(name), maxSource)
	case name[0] == '.':
		what = "a source's name doesn't begin with a dot"
	case !utf8.ValidString(name):
		what = "it is not UTF-8"
	default:
		for _, r := range name {
			if r == '/' || r == '\\' || !unicode.IsPrint(r) {
				what = fmt.Sprintf("a source's name doesn't hold %q", r)
			}
		}
	}
	if what == "" {
		return nil
	}
	return &NameError{name, what}
}

const timelineLayout = "20060102T150405.000Z"

// TimelineName is that of the timeline that began at that time under that id. Names sort by
// birth. A caller whose name is taken tries the next millisecond.
func TimelineName(began stream.Time, id stream.ReplID) string {
	return began.Go().Format(timelineLayout) + "-" + id.Short()
}

// ParseTimelineName reads what TimelineName forms.
func ParseTimelineName(name string) (began stream.Time, short string, err error) {
	bad := func(what string) (stream.Time, string, error) { return 0, "", &NameError{name, what} }
	at, short, ok := strings.Cut(name, "-")
	if !ok || len(at) != len(timelineLayout) {
		return bad("want a time like 20261123T183152.123Z, a hyphen and 8 digits")
	}
	t, err := time.Parse(timelineLayout, at)
	if err != nil || t.Format(timelineLayout) != at {
		return bad(at + " is no time")
	}
	if len(short) != 8 || !isHex(short) {
		return bad("want 8 hexadecimal digits behind the time")
	}
	return stream.TimeOf(t), short, nil
}

// SegmentName is what a segment's name says of it.
type SegmentName struct {
	stream.Range
	Time0, Time1 stream.Time // of the first and the last byte
	Sum          uint64      // CRC64 of the file as stored
	Encrypted    bool
}

// String is the file's name within the timeline.
func (n SegmentName) String() string {
	return fmt.Sprintf("%s%020d-%020d-%013d-%013d-%016x%s", logDir, n.From, n.To, n.Time0, n.Time1, n.Sum, stored(segmentSuffix, n.Encrypted))
}

// stored is a suffix as a file has it that is perhaps encrypted.
func stored(suffix string, encrypted bool) string {
	if encrypted {
		return suffix + ageSuffix
	}
	return suffix
}

// ParseSegmentName reads what SegmentName.String forms, and nothing else.
func ParseSegmentName(name string) (SegmentName, error) {
	var n SegmentName
	p := parser{name: name, rest: name}
	p.text(logDir)
	n.From = p.offset()
	p.text("-")
	n.To = p.offset()
	p.text("-")
	n.Time0 = p.time()
	p.text("-")
	n.Time1 = p.time()
	p.text("-")
	n.Sum = p.sum()
	p.text(segmentSuffix)
	n.Encrypted = p.encrypted()
	if err := p.end(); err != nil {
		return SegmentName{}, err
	}
	if n.From >= n.To {
		return SegmentName{}, &NameError{name, "its range is empty"}
	}
	if n.Time0 > n.Time1 {
		return SegmentName{}, &NameError{name, "it ends before it begins"}
	}
	return n, nil
}

// SnapshotName is what a snapshot's names say of it. Offset and Time alone tell it from others.
type SnapshotName struct {
	Offset    stream.Offset
	Time      stream.Time
	Encrypted bool // the dataset; its description never is
}

func (n SnapshotName) base() string {
	return fmt.Sprintf("%s%020d-%013d", snapshotDir, n.Offset, n.Time)
}

// RDB is the name of the dataset, within the timeline.
func (n SnapshotName) RDB() string { return n.base() + stored(snapshotSuffix, n.Encrypted) }

// Sidecar is the name of its description. A snapshot exists once this file does.
func (n SnapshotName) Sidecar() string { return n.base() + jsonSuffix }

// ParseSnapshotName reads a name of either file of a snapshot.
func ParseSnapshotName(name string) (n SnapshotName, sidecar bool, err error) {
	p := parser{name: name, rest: name}
	p.text(snapshotDir)
	n.Offset = p.offset()
	p.text("-")
	n.Time = p.time()
	if sidecar = p.rest == jsonSuffix; sidecar {
		p.text(jsonSuffix)
	} else {
		p.text(snapshotSuffix)
		n.Encrypted = p.encrypted()
	}
	if err := p.end(); err != nil {
		return SnapshotName{}, false, err
	}
	return n, sidecar, nil
}

// EventName is what an event's name says of it.
type EventName struct {
	Offset stream.Offset
	Time   stream.Time
	Kind   string
}

// String is the file's name within the timeline.
func (n EventName) String() string {
	return fmt.Sprintf("%s%020d-%013d-%s%s", eventDir, n.Offset, n.Time, n.Kind, jsonSuffix)
}

// ParseEventName reads what EventName.String forms.
func ParseEventName(name string) (EventName, error) {
	var n EventName
	p := parser{name: name, rest: name}
	p.text(eventDir)
	n.Offset = p.offset()
	p.text("-")
	n.Time = p.time()
	p.text("-")
	n.Kind = strings.TrimSuffix(p.rest, jsonSuffix)
	p.text(n.Kind + jsonSuffix)
	if err := p.end(); err != nil {
		return EventName{}, err
	}
	if !isKind(n.Kind) {
		return EventName{}, &NameError{name, "an event's kind is a word of small letters"}
	}
	return n, nil
}

func isKind(s string) bool {
	for _, c := range []byte(s) {
		if c < 'a' || c > 'z' {
			return false
		}
	}
	return s != "" && len(s) <= maxKind
}

func isHex(s string) bool {
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// parser takes a name apart from left to right. The first thing that is wrong stays.
type parser struct {
	name, rest string
	bad        string
}

func (p *parser) text(s string) {
	rest, ok := strings.CutPrefix(p.rest, s)
	if !ok && p.bad == "" {
		p.bad = fmt.Sprintf("want %q at byte %d", s, len(p.name)-len(p.rest))
	}
	p.rest = rest
}

// take cuts n characters off, each of which is a digit, or a hexadecimal one.
func (p *parser) take(n int, hex bool) string {
	if len(p.rest) < n {
		if p.bad == "" {
			p.bad = "it is too short"
		}
		return ""
	}
	s := p.rest[:n]
	for i, c := range []byte(s) {
		if (c < '0' || c > '9') && (!hex || c < 'a' || c > 'f') {
			if p.bad == "" {
				p.bad = fmt.Sprintf("want %d digits at byte %d, got %q", n, len(p.name)-len(p.rest), s[:i+1])
			}
			return ""
		}
	}
	p.rest = p.rest[n:]
	return s
}

func (p *parser) offset() stream.Offset {
	n, err := strconv.ParseInt(p.take(offsetDigits, false), 10, 64)
	if err != nil && p.bad == "" {
		p.bad = "an offset is too large"
	}
	return stream.Offset(n)
}

func (p *parser) time() stream.Time {
	n, _ := strconv.ParseInt(p.take(timeDigits, false), 10, 64) // 13 digits always fit
	return stream.Time(n)
}

func (p *parser) sum() uint64 {
	n, _ := strconv.ParseUint(p.take(sumDigits, true), 16, 64) // 16 digits always fit
	return n
}

// encrypted takes the suffix of encrypted files, where it is there.
func (p *parser) encrypted() bool {
	rest, ok := strings.CutSuffix(p.rest, ageSuffix)
	ok = ok && rest == ""
	if ok {
		p.rest = rest
	}
	return ok
}

func (p *parser) end() error {
	if p.bad == "" && p.rest != "" {
		p.bad = fmt.Sprintf("%q is too much", p.rest)
	}
	if p.bad == "" {
		return nil
	}
	return &NameError{p.name, p.bad}
}

// inTimeline is the name in the archive of a file of a timeline.
func inTimeline(source, timeline, name string) string { return path.Join(source, timeline, name) }
