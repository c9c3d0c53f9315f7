package verify

import (
	"context"
	"io"
	"strings"

	"github.com/offloader/offloader/internal/archive"
)

// meter passes files on, keeps the last listing, and tells how much was read.
type meter struct {
	archive.Files
	show        func(done, total int64)
	listed      []archive.Entry
	done, total int64
}

// expect says how much is still to come.
func (m *meter) expect(left int64) { m.total = m.done + left }

// List implements archive.Files.
func (m *meter) List(ctx context.Context, dir string) (entries []archive.Entry, err error) {
	m.listed, err = m.Files.List(ctx, dir)
	return m.listed, err
}

// Open implements archive.Files.
func (m *meter) Open(ctx context.Context, name string) (io.ReadCloser, error) {
	f, err := m.Files.Open(ctx, name)
	if err != nil || m.show == nil || strings.HasSuffix(name, ".json") {
		return f, err
	}
	return &metered{f, m}, nil
}

type metered struct {
	io.ReadCloser
	m *meter
}

func (f *metered) Read(p []byte) (int, error) {
	n, err := f.ReadCloser.Read(p)
	f.m.done += int64(n)
	f.m.show(f.m.done, max(f.m.done, f.m.total))
	return n, err
}
