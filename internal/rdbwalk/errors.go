package rdbwalk

import "fmt"

// A FormatError says that the bytes are no sound RDB: the structure breaks at Offset.
type FormatError struct {
	Offset int64  // bytes of the RDB before the place
	What   string // "hash: a length can't begin with byte 0x8f"
}

func (e *FormatError) Error() string {
	return fmt.Sprintf("the RDB is damaged at byte %d: %s", e.Offset, e.What)
}

// A ChecksumError says that the RDB came to its end but isn't what the engine wrote.
type ChecksumError struct {
	Want uint64 // as the RDB says
	Got  uint64 // of the bytes received
}

func (e *ChecksumError) Error() string {
	return fmt.Sprintf("the RDB is damaged: its CRC64 is %016x, its last bytes say %016x", e.Got, e.Want)
}

// An UnknownError says that the RDB may well be sound, but can't be walked further: it is newer
// than this program, or from an engine that it doesn't know. Finish can still bring its end and
// the verdict on its checksum.
type UnknownError struct {
	What    string // "type 27"
	Version int    // RDB version number
	Offset  int64  // bytes of the RDB before the place
}

func (e *UnknownError) Error() string {
	return fmt.Sprintf("%s, at byte %d", e.reason(), e.Offset)
}

// reason is what stands in Summary.Unchecked.
func (e *UnknownError) reason() string {
	return fmt.Sprintf("%s of RDB version %d is not known", e.What, e.Version)
}
