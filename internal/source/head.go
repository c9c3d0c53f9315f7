package source

import (
	"context"
	"fmt"
	"io/fs"
	"time"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/spool"
	"github.com/offloader/offloader/internal/stream"
)

// Head is the newest timeline that has begun, and how far it is. Where the spool holds none it is where
// the stores end. ok is false while there is none.
func (s *Source) Head() (timeline string, h spool.Head, ok bool) {
	s.mu.Lock()
	lost, revive := s.lost, s.revive
	s.mu.Unlock()
	t := s.newest()
	switch {
	case revive != nil:
		return standsIn(revive)
	case t == nil && lost != nil:
		return standsIn(lost)
	case t == nil:
		return "", h, false
	}
	h = t.Head()
	return t.Info().Timeline, h, !h.Closed
}

// Taken is the offset of the snapshot that was taken last, 0 where that isn't known.
func (s *Source) Taken() stream.Offset {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.snapshot == nil {
		return 0
	}
	return s.snapshot.Offset
}

func (s *Source) newest() *spool.Timeline {
	s.mu.Lock()
	src := s.src
	s.mu.Unlock()
	if src == nil {
		return nil
	}
	all := src.Timelines()
	if len(all) == 0 {
		return nil
	}
	return all[len(all)-1]
}

// News is closed when next the Head has changed. Before Run has opened the spool it is nil: nothing has
// begun.
func (s *Source) News() <-chan struct{} {
	s.heard.Store(time.Now().UnixNano())
	s.mu.Lock()
	src := s.src
	s.mu.Unlock()
	if src == nil {
		return nil
	}
	return src.News()
}

// followed tells whether somebody gets the stream as it becomes durable: who does asks for News each time.
func (s *Source) followed() bool { return time.Since(time.Unix(0, s.heard.Load())) < time.Second }

// Tail reads the newest timeline, if it is the named one, behind an offset.
func (s *Source) Tail(timeline string, behind stream.Offset) (*spool.Tail, error) {
	t := s.newest()
	if t == nil || t.Info().Timeline != timeline {
		return nil, fmt.Errorf("timeline %s is not written any more: %w", timeline, fs.ErrNotExist)
	}
	return t.Tail(behind), nil
}

// Catalog is what spool and stores hold of the source, the spool looked into first. A store that doesn't
// answer is left out where another one does.
func (s *Source) Catalog(ctx context.Context) (*archive.Catalog, error) {
	cat, err := s.united(ctx)
	if cat != nil {
		return cat, nil
	}
	return nil, err
}
