package carry

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/offloader/offloader/internal/crc64"
	"github.com/offloader/offloader/internal/rdbwalk"
)

const (
	// maxPayload is what an engine takes as one argument, unless its proto-max-bulk-len says otherwise.
	maxPayload = 512 << 20
	// footerLen is that of a payload: a version, and a checksum.
	footerLen = 2 + 8
	// functionFormat is the first version of the format that has libraries of functions as they are today.
	functionFormat = 10
)

// OpFunction is the type of a record that is a library of functions.
const OpFunction = 245

// Record is the command that makes a key of a snapshot, its expiry put off. raw is the record, version that of the RDB.
func Record(r *rdbwalk.Record, raw []byte, version int) (Words, error) {
	value := raw[r.HeadLen:]
	key := bytes.Clone(r.Key)
	if r.Cut() { // all of it stands before the value, unless it is compressed
		if r.HeadLen < r.KeyLen || !bytes.HasPrefix(raw[r.HeadLen-r.KeyLen:], key) {
			return nil, &CommandError{fmt.Sprintf("RESTORE %.64q", key), -1, fmt.Sprintf("a key of %d bytes is too long", r.KeyLen), nil}
		}
		key = bytes.Clone(raw[r.HeadLen-r.KeyLen : r.HeadLen])
	}
	if len(value) > maxPayload {
		why := fmt.Sprintf("its value has %d bytes, and an engine takes no argument with more than %d", len(value), maxPayload)
		return nil, &CommandError{fmt.Sprintf("RESTORE %.64q", key), -1, why, nil}
	}
	at := int64(0)
	if r.ExpireAt != 0 {
		var err error
		if at, err = PutOff(int64(r.ExpireAt)); err != nil {
			return nil, &CommandError{fmt.Sprintf("RESTORE %.64q", key), -1, err.Error(), nil}
		}
	}
	return Words{"RESTORE", key, at, payload(r.Type, value, formatOf(r.Type, version)), "ABSTTL"}, nil
}

// Library is the command that makes a library of functions of a snapshot.
func Library(raw []byte) Words {
	return Words{"FUNCTION", "RESTORE", payload(raw[0], raw[1:], functionFormat)}
}

// payload is the argument of RESTORE: type, value, and a footer that says which version of the format it is, and a
// checksum (redis, cluster.c: createDumpPayload).
func payload(kind byte, value []byte, version int) []byte {
	p := make([]byte, 0, 1+len(value)+footerLen)
	p = append(append(p, kind), value...)
	p = binary.LittleEndian.AppendUint16(p, uint16(version))
	return binary.LittleEndian.AppendUint64(p, crc64.Update(0, p))
}

// formatOf is the oldest version of the format that has a type, so that engines older than the one that wrote it
// take what they know. What the newest versions brought differs between redis and valkey: it keeps its own.
func formatOf(kind byte, version int) int {
	switch {
	case kind <= 15:
		return min(9, version)
	case kind <= 19:
		return min(10, version)
	case kind <= 21:
		return min(11, version)
	}
	return version
}

// FieldsExpire tells whether a record is a hash with fields that expire.
func FieldsExpire(r *rdbwalk.Record) bool { return r.IsKey() && r.Type >= 22 && r.Type <= 25 }
