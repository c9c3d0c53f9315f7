package archive

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"slices"

	"github.com/offloader/offloader/internal/crc64"
	"github.com/offloader/offloader/internal/stream"
)

// Path is the name in the archive of one of the timeline's files.
func (t TimelineInfo) Path(name string) string { return inTimeline(t.Source, t.Timeline, name) }

// Files of a timeline and of a snapshot that have no other names.
const TimelineFile = timelineFile

// Sidecar is the name, within the timeline, of what describes the snapshot.
func (s Snapshot) Sidecar() string { return SnapshotName{Offset: s.Offset, Time: s.Time}.Sidecar() }

// CheckStoredSegment gives the bytes of a segment's file on, as they are stored, and fails with a
// DamageError in place of io.EOF if they don't have the sum of its name. So a file can be copied
// by who can't decrypt it.
func CheckStoredSegment(r io.Reader, file string, sum uint64) io.Reader {
	return &storedSegment{r: r, file: file, want: sum}
}

type storedSegment struct {
	r    io.Reader
	file string
	want uint64
	sum  uint64
}

func (s *storedSegment) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	s.sum = crc64.Update(s.sum, p[:n])
	if err == io.EOF && s.sum != s.want {
		err = &DamageError{Name: s.file, What: fmt.Sprintf("its CRC64 is %016x, its name says %016x", s.sum, s.want)}
	}
	return n, err
}

// CheckStoredSnapshot is the same for a snapshot's file, by its sidecar.
func CheckStoredSnapshot(r io.Reader, file string, info SnapshotInfo) io.Reader {
	return &storedSnapshot{r: r, file: file, info: info, sum: sha256.New()}
}

type storedSnapshot struct {
	r    io.Reader
	file string
	info SnapshotInfo
	sum  hash.Hash
	n    int64
}

func (s *storedSnapshot) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	_, _ = s.sum.Write(p[:n]) // a hash never fails
	s.n += int64(n)
	if err != io.EOF {
		return n, err
	}
	switch sum := hex.EncodeToString(s.sum.Sum(nil)); {
	case s.n != s.info.StoredBytes:
		err = &DamageError{Name: s.file, What: fmt.Sprintf("it has %d bytes, the sidecar says %d", s.n, s.info.StoredBytes)}
	case sum != s.info.StoredSHA256:
		err = &DamageError{Name: s.file, What: "its SHA-256 is not that of the sidecar"}
	}
	return n, err
}

// Missing are the stretches of r that segments, ordered as a Timeline has them, don't hold.
func Missing(segments []Segment, r stream.Range) []stream.Range {
	var missing []stream.Range
	for r.From < r.To {
		_, reached := Cover(segments, r)
		if reached >= r.To {
			break
		}
		next := r.To
		i := slices.IndexFunc(segments, func(s Segment) bool { return s.From > reached })
		if i >= 0 {
			next = min(next, segments[i].From)
		}
		missing = append(missing, stream.Range{From: reached, To: next})
		r.From = next
	}
	return missing
}
