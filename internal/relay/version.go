package relay

import (
	"fmt"
	"strconv"
	"strings"
)

// valkeyRDB is the first version of an RDB that begins with VALKEY.
const valkeyRDB = 80

// loads tells whether a replica can load an RDB of a version, as far as is known of the replica: valkey
// says its own version from 8.0 on, redis and older valkeys none. "" is yes, or perhaps. An engine that
// gets one that it can't load has emptied itself before it says so, and asks again at once (pitfall 18).
func loads(replica string, rdb int) (whyNot string) {
	major, _, _ := strings.Cut(replica, ".")
	n, err := strconv.Atoi(major)
	switch {
	case replica == "" && rdb >= valkeyRDB:
		return fmt.Sprintf("the snapshot is an RDB of version %d, which takes valkey 9.0 or newer, and this replica is redis or an older valkey", rdb)
	case replica == "" || err != nil:
		return ""
	case rdb >= valkeyRDB && n < 9, rdb > 11 && rdb < valkeyRDB: // rdb.h: RDB_FOREIGN_VERSION_MIN is 12
		return fmt.Sprintf("the snapshot is an RDB of version %d, which valkey %s can't load", rdb, replica)
	}
	return ""
}

// A versionError says that a replica's engine is another product, or too old.
type versionError struct{ what string }

func (e *versionError) Error() string { return e.what }

// Hint says what to do.
func (e *versionError) Hint() string {
	return "start it with the product and the version that the master had, or a newer one"
}
