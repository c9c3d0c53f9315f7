package spool

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/offloader/offloader/internal/archive"
)

// lostFile holds what the timeline before lost when this one began. Both can't be told in one instant, so it
// begins with this one, and stays until the other has the event.
const lostFile = "lost.json"

// Lost is what the timeline before lost when this one began, while that one doesn't have it for certain.
func (t *Timeline) Lost() (e archive.Event, ok bool, err error) {
	return readEvent(filepath.Join(t.folder(), lostFile))
}

// ClearLost forgets it: the timeline before has the event.
func (t *Timeline) ClearLost() error { return remove(filepath.Join(t.folder(), lostFile)) }

// readEvent reads one that need not be there.
func readEvent(path string) (e archive.Event, ok bool, err error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return e, false, nil
	}
	if err != nil {
		return e, false, err
	}
	if err := json.Unmarshal(b, &e); err != nil {
		return e, false, fmt.Errorf("%s: %w", path, err)
	}
	return e, true, nil
}
