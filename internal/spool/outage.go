package spool

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/durable"
)

// outageFile holds an outage that is not over: the link is up again and what was missed is still
// arriving. Its bytes look as if they had been written now, so it is noted before the first of
// them comes; as an event, when the last one has.
const outageFile = "outage.json"

// SetOutage notes that what comes next was written since e.From, behind e.Offset.
func (t *Timeline) SetOutage(e archive.Event) error {
	if err := writeJSON(filepath.Join(t.folder(), outageFile), e); err != nil {
		return fmt.Errorf("note an outage in the spool: %w", err)
	}
	return nil
}

// Outage is the one that was not over when it was last looked at, if there is one.
func (t *Timeline) Outage() (e archive.Event, ok bool, err error) { return readOutage(t.folder()) }

// ClearOutage forgets it: all has arrived, and it is an event now, or nothing had been missed.
func (t *Timeline) ClearOutage() error {
	path := filepath.Join(t.folder(), outageFile)
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return durable.Remove(path)
}

func readOutage(dir string) (e archive.Event, ok bool, err error) {
	return readEvent(filepath.Join(dir, outageFile))
}
