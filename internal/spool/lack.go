package spool

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/offloader/offloader/internal/stream"
)

// lackFile remembers what the spool let go of before every store had it: for want of room, or since
// a store is new. A store's own listing can't tell that from what retention has deleted there.
const lackFile = "lack.json"

// Lack is what one store may lack of a timeline, and can't get from the spool.
type Lack struct {
	Snapshot bool        `json:"snapshot,omitempty"` // the one that the timeline began with
	Log      []LackRange `json:"log,omitempty"`      // by offset
}

// LackRange is a part of the stream, with the reason why it was let go of.
type LackRange struct {
	stream.Range
	Cause string `json:"cause"`
}

// Lack is what the store of that name may lack.
func (t *Timeline) Lack(store string) (Lack, error) {
	all, err := readLacks(t.folder())
	return all[store], err
}

// SetLack replaces that. It is durable when SetLack returns: before the spool lets go of anything.
func (t *Timeline) SetLack(store string, l Lack) error {
	t.syncing.Lock()
	defer t.syncing.Unlock()
	if t.isClosed() {
		return errClosed
	}
	all, err := readLacks(t.folder())
	if err != nil {
		return err
	}
	if all[store] = l; !l.Snapshot && len(l.Log) == 0 {
		delete(all, store)
	}
	if err := writeJSON(filepath.Join(t.folder(), lackFile), all); err != nil {
		return fmt.Errorf("keep in the spool what a store lacks: %w", err)
	}
	return nil
}

func readLacks(dir string) (map[string]Lack, error) {
	all := map[string]Lack{}
	b, err := os.ReadFile(filepath.Join(dir, lackFile))
	if errors.Is(err, fs.ErrNotExist) {
		return all, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &all)
	}
	if err != nil {
		return nil, fmt.Errorf("read what a store lacks: %w", err)
	}
	return all, nil
}

// storesFile remembers which stores counted when the spool let go of something. A store that isn't
// among them was not written for a while, and may lack whatever is gone.
const storesFile = "stores.json"

// Stores are those that have counted, nil before anything was let go of.
func (t *Timeline) Stores() (names []string, err error) {
	b, err := os.ReadFile(filepath.Join(t.folder(), storesFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &names)
	}
	if err != nil {
		return nil, fmt.Errorf("read which stores have counted: %w", err)
	}
	return names, nil
}

// SetStores replaces them. It is durable when SetStores returns.
func (t *Timeline) SetStores(names []string) error {
	t.syncing.Lock()
	defer t.syncing.Unlock()
	if t.isClosed() {
		return errClosed
	}
	if err := writeJSON(filepath.Join(t.folder(), storesFile), names); err != nil {
		return fmt.Errorf("keep in the spool which stores count: %w", err)
	}
	return nil
}
