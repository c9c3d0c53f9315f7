package engine

import (
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// The products, as timeline.json names them.
const (
	Redis  = "redis"
	Valkey = "valkey"
)

// askFor is how long a program may take to say its version.
const askFor = 10 * time.Second

// Binary is a server's program.
type Binary struct {
	Path    string
	Product string // Redis or Valkey
	Version string // "9.1.2"
}

func (b Binary) String() string { return b.Product + " " + b.Version }

// Find looks for a server of a product that loads RDBs of a version. configured says where those lie that
// a configuration names, by product; others are looked for in PATH, as redis-server and valkey-server. Where
// the product isn't known, "", any does that loads the RDB.
func Find(ctx context.Context, product string, rdb int, configured map[string]string) (Binary, error) {
	wanted := []string{product}
	switch {
	case product != "":
	case rdb >= valkeyRDB:
		wanted = []string{Valkey}
	default:
		wanted = []string{Redis, Valkey}
	}
	none := &NotFoundError{Product: product, RDB: rdb}
	for _, want := range wanted {
		for _, path := range places(want, configured) {
			b, err := ask(ctx, path)
			switch {
			case ctx.Err() != nil:
				return Binary{}, context.Cause(ctx)
			case err != nil:
				none.Unfit = append(none.Unfit, err.Error())
			case b.Product != want:
				none.Unfit = append(none.Unfit, fmt.Sprintf("%s is %s", path, b))
			default:
				why := b.unable(rdb)
				if why == "" {
					return b, nil
				}
				none.Unfit = append(none.Unfit, fmt.Sprintf("%s is %s, and %s", path, b, why))
			}
		}
	}
	return Binary{}, none
}

// FindLike looks for a server that writes RDBs as a master of that product and version does: what it saves, the master
// loads.
func FindLike(ctx context.Context, product, version string, configured map[string]string) (Binary, error) {
	wants := Binary{Product: product, Version: version}.writes()
	b, err := Find(ctx, product, wants, configured)
	if has := b.writes(); err == nil && has != wants {
		err = fmt.Errorf("%s is %s, which writes RDBs of version %d, and those of %s %s are of version %d", b.Path, b, has, product, version, wants)
	}
	return b, err
}

// places are the programs that a product's server may be. Some systems have a valkey under the name
// redis-server, for the sake of scripts.
func places(product string, configured map[string]string) (paths []string) {
	if path := configured[product]; path != "" {
		return []string{path}
	}
	names := []string{Redis, Valkey}
	if product == Valkey {
		names = []string{Valkey, Redis}
	}
	for _, name := range names {
		if path, err := exec.LookPath(name + "-server"); err == nil {
			paths = append(paths, path)
		}
	}
	return paths
}

var versionLine = regexp.MustCompile(`^(Redis|Valkey) server v=([0-9]+(?:\.[0-9]+)+)`)

// ask has a program say what it is.
func ask(ctx context.Context, path string) (Binary, error) {
	ctx, cancel := context.WithTimeout(ctx, askFor)
	defer cancel()
	said := &journal{}
	cmd := exec.CommandContext(ctx, path, "--version")
	cmd.Env, cmd.Stdout, cmd.Stderr, cmd.WaitDelay = environment(), said, said, time.Second
	if err := cmd.Run(); err != nil {
		return Binary{}, fmt.Errorf("%s doesn't say its version: %w", path, err)
	}
	for _, line := range said.last() {
		if m := versionLine.FindStringSubmatch(line); m != nil {
			return Binary{Path: path, Product: strings.ToLower(m[1]), Version: m[2]}, nil
		}
	}
	return Binary{}, fmt.Errorf("%s is neither a redis-server nor a valkey-server, by what it says to --version", path)
}

// valkeyRDB is the first version of an RDB that begins with VALKEY. What lies between it and foreignRDB,
// valkey takes for written by others (rdb.h: RDB_FOREIGN_VERSION_MIN).
const (
	valkeyRDB  = 80
	foreignRDB = 12
)

// newest are the versions of RDBs that redis writes, and from when on.
var newest = []struct{ major, minor, rdb int }{{8, 8, 14}, {8, 6, 13}, {7, 4, 12}, {7, 2, 11}, {7, 0, 10}, {5, 0, 9}}

// unable says why a server can't load an RDB, "" where it can. A redis that is newer than all that is known is
// taken at its word.
func (b Binary) unable(rdb int) string {
	major, minor := b.numbers()
	needs := func(what string) string { return fmt.Sprintf("an RDB of version %d takes %s", rdb, what) }
	switch {
	case b.Product == Valkey && rdb >= valkeyRDB && major < 9:
		return needs("valkey 9.0 or newer")
	case b.Product == Valkey && rdb >= foreignRDB && rdb < valkeyRDB, b.Product == Redis && rdb >= valkeyRDB:
		return needs("the other product")
	case b.Product == Valkey:
		return ""
	}
	for i := len(newest) - 1; i >= 0; i-- {
		n := newest[i]
		if n.rdb < rdb {
			continue
		}
		if major > n.major || major == n.major && minor >= n.minor {
			return ""
		}
		return needs(fmt.Sprintf("redis %d.%d or newer", n.major, n.minor))
	}
	if n := newest[0]; major > n.major || major == n.major && minor > n.minor {
		return ""
	}
	return needs("a newer redis")
}

// writes is the version of the RDBs that a server writes. That of a redis which is newer than all that is known is the
// last known.
func (b Binary) writes() int {
	major, minor := b.numbers()
	switch {
	case b.Product == Valkey && major < 9:
		return foreignRDB - 1
	case b.Product == Valkey:
		return valkeyRDB
	}
	for _, n := range newest {
		if major > n.major || major == n.major && minor >= n.minor {
			return n.rdb
		}
	}
	return 0
}

func (b Binary) numbers() (major, minor int) {
	parts := strings.SplitN(b.Version+".0", ".", 3)
	major, _ = strconv.Atoi(parts[0]) // the version line had digits there
	minor, _ = strconv.Atoi(parts[1])
	return major, minor
}

// A NotFoundError says that there is no server here that could load the archive.
type NotFoundError struct {
	Product string // "": not known
	RDB     int
	Unfit   []string // what there is, and why it won't do
}

func (e *NotFoundError) Error() string {
	what := e.Product
	if what == "" {
		what = "redis or valkey"
	}
	text := fmt.Sprintf("there is no %s here that loads an RDB of version %d", what, e.RDB)
	if len(e.Unfit) > 0 {
		return text + ": " + strings.Join(e.Unfit, "; ")
	}
	return text
}

// Hint says what to do about it.
func (e *NotFoundError) Hint() string {
	product := e.Product
	if product == "" {
		product = Redis
		if e.RDB >= valkeyRDB {
			product = Valkey
		}
	}
	return fmt.Sprintf(`install the master's version of it: %s-server is looked for in PATH, and where a configuration says "engine: {%s: PATH}". It need not run as a service`, product, product)
}
