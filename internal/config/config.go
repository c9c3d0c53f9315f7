// Package config reads the configuration file, one YAML document, and believes nothing in it.
//
// The text becomes a tree, and the tree is walked field by field against what is known: a field
// that isn't known, is known but not in this version, occurs twice or has a value of the wrong
// kind is an error with its line and column. All of them are told, not only the first, since
// nobody wants to fix a file by restarting a daemon ten times. ${NAME} is replaced by the
// environment's value inside a scalar, after parsing, so what the variable holds can't become
// YAML. What comes back is complete: defaults filled in, passwords read, files of TLS tried.
//
// Only cmd/offloader knows this package; every room behind it has Options of its own.
package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/offloader/offloader/internal/schedule"
)

// Defaults of what a file leaves out.
const (
	DefaultPath    = "/etc/offloader/offloader.yaml"
	DefaultSpool   = "/var/lib/offloader/spool"
	DefaultMaxSize = Size(20 << 30)
	DefaultMinFree = Percent(5)
	DefaultListen  = "127.0.0.1:9390"
	DefaultPort    = "6379" // of a source whose address names none

	DefaultFullSyncs = 4

	DefaultSuspectBelow = Percent(50)
)

// Config is a configuration that was found right.
type Config struct {
	Sources []Source // at least one; names differ by more than case
	Spool   Spool
	Stores  []Store // at least one, each at another place
	Ack     string  // what is acknowledged: "local", what the spool has, or "store", what all stores have
	HTTP    HTTP
	Verify  Verify
	Engine  Engine

	Snapshots Snapshots
	Exports   []Export
	Retention *Retention // nil: nothing is ever deleted

	Encryption Encryption

	MaxAge       MaxAge
	Heartbeat    Heartbeat
	MaxFullSyncs int // how many run at once, over all sources
	Amnesia      Amnesia
}

// Amnesia is when a master that comes back counts as one that has forgotten what it held.
type Amnesia struct {
	SuspectBelow Percent // of the keys that it was last known to hold; none at all counts in any case
}

// Verify is when everything in the archive is read again and checked.
type Verify struct {
	Schedule schedule.Schedule // the zero one: never
	Boot     bool              // a scratch engine is booted from what is archived of each source, too
}

// Engine says where servers lie that scratch engines are made of.
type Engine struct{ Redis, Valkey string } // "": looked for in PATH

// Source is a master that is archived.
type Source struct {
	Name     string
	Address  string // host:port
	Username string // "" for the default user
	Password Secret // "" for none
	TLS      *TLS   // nil for a plain connection
	Announce string // host:port that the master is told, "" for a port opened by ourselves
	Relay    *Relay // nil: replicas of it are not served
}

// Spool is where the live stream becomes durable.
type Spool struct {
	Path    string
	MaxSize Size    // bounds the stream that is spooled
	MinFree Percent // of the file system: with less than that it counts as full
}

// HTTP is the listener for metrics, health and the JSON API.
type HTTP struct {
	Listen string // host:port
}

// Env looks a variable up, as os.LookupEnv does.
type Env func(name string) (string, bool)

// Default is a configuration without sources and stores.
func Default() *Config {
	return &Config{
		Spool: Spool{Path: DefaultSpool, MaxSize: DefaultMaxSize, MinFree: DefaultMinFree},
		Ack:   "local", Snapshots: Snapshots{Method: MethodMaster},
		HTTP: HTTP{Listen: DefaultListen}, MaxFullSyncs: DefaultFullSyncs,
		Amnesia: Amnesia{SuspectBelow: DefaultSuspectBelow},
	}
}

// maxFile bounds the file, and with it the time that its parser can take.
const maxFile = 256 << 10

// Load reads a file. Warnings are for people: what works but shouldn't be so. Every error that
// the file's contents cause is an Errors.
func Load(path string, env Env) (*Config, []string, error) { return load(path, env, false) }

// LoadToRead is Load for who reads the archive or asks the daemon, and attaches to no master: of
// the sources only the names are taken, and an identity that can't be read is no error until it is
// needed. So a restore needs neither the daemon's environment, nor its credentials, which systemd
// takes away when the daemon is down. Beside Errors it gives what could be read: a daemon that goes on
// with the file as it was can still be asked.
func LoadToRead(path string, env Env) (*Config, []string, error) { return load(path, env, true) }

func load(path string, env Env, namesOnly bool) (*Config, []string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, nil, fmt.Errorf("read the configuration: %w", err)
	}
	if info.Size() > maxFile {
		return nil, nil, Errors{{File: path, Line: 1, Col: 1, Msg: fmt.Sprintf("the file has %d bytes, a configuration has at most %d", info.Size(), maxFile)}}
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, fmt.Errorf("read the configuration: %w", err)
	}
	r := newReader(path, env)
	r.namesOnly = namesOnly
	c, err := r.whole(text)
	switch {
	case err != nil && namesOnly:
		return c, nil, err
	case err != nil:
		return nil, nil, err
	case r.holdsPassword && readableByAll(info.Mode()):
		r.warnings = append(r.warnings, path+" holds a password and can be read by everyone: chmod o-r it, or use password_file")
	}
	return c, r.warnings, nil
}

// Parse reads a configuration's text; name is what errors call it. It reads the files that
// the text names for secrets and TLS, and changes nothing.
func Parse(name string, text []byte, env Env) (*Config, []string, error) {
	r := newReader(name, env)
	c, err := r.whole(text)
	if err != nil {
		return nil, nil, err
	}
	return c, r.warnings, nil
}

func newReader(name string, env Env) *reader {
	return &reader{file: name, env: env, where: map[string]place{}}
}

// whole reads all of a text, and gives what could be read beside an error.
func (r *reader) whole(text []byte) (*Config, error) {
	c := Default()
	if root := r.parse(text); root != nil {
		r.config(root, c)
	}
	if len(r.errs) > 0 {
		return c, r.sorted()
	}
	return c, nil
}

// config is the table of the file's outermost fields.
func (r *reader) config(n node, c *Config) {
	given := r.mapping(n, "", []field{
		{"sources", func(n node) { r.sources(n, c) }},
		{"spool", func(n node) { r.spool(n, &c.Spool) }},
		{"stores", func(n node) { r.stores(n, c) }},
		{"ack", func(n node) { r.ack(n, c) }},
		{"http", func(n node) {
			r.mapping(n, "http", []field{{"listen", func(n node) { r.value(n, &c.HTTP.Listen, listen) }}})
		}},
		{"encryption", func(n node) { r.encryptTo(n, &c.Encryption) }},
		{"snapshots", func(n node) { r.snapshots(n, c) }},
		{"exports", func(n node) { r.exports(n, c) }},
		{"retention", func(n node) { c.Retention = r.retention(n) }},
		{"verify", func(n node) { r.verify(n, &c.Verify) }},
		{"engine", func(n node) {
			r.mapping(n, "engine", []field{
				{"redis", func(n node) { r.value(n, &c.Engine.Redis, path) }},
				{"valkey", func(n node) { r.value(n, &c.Engine.Valkey, path) }},
			})
		}},
		{"max_age", func(n node) { r.maxAge(n, &c.MaxAge) }},
		{"heartbeat", func(n node) {
			if !r.namesOnly {
				r.heartbeat(n, &c.Heartbeat)
			}
		}},
		{"max_full_syncs", func(n node) { read(r, n, &c.MaxFullSyncs, fullSyncs) }},
		{"amnesia", func(n node) {
			r.mapping(n, "amnesia", []field{{"suspect_below", func(n node) { read(r, n, &c.Amnesia.SuspectBelow, ParsePercent) }}})
		}},
	})
	if given == nil {
		return
	}
	if !given["sources"] {
		r.fail(r.at(n), "there is no \"sources\": name at least one master to archive")
	}
	if !given["stores"] {
		r.fail(r.at(n), "there is no \"stores\": name the place where the archive is kept")
	}
	r.apart(c)
	r.oneReplica(c)
	r.exportsApart(c)
	r.canKeep(c)
	r.relaysWork(c)
	if err := c.Encryption.CanRead("a boot"); c.Verify.Boot && err != nil && !r.namesOnly {
		r.fail(r.where["verify.boot"], err.Error())
	}
}

func (r *reader) sources(n node, c *Config) {
	names := map[string]string{} // folded, to how it was written
	items := r.list(n, "sources")
	for _, item := range items {
		s := r.source(item)
		if s.Name == "" {
			continue // its own error was told
		}
		folded := strings.ToLower(s.Name)
		switch first, twice := names[folded]; {
		case twice && first == s.Name:
			r.fail(r.where["source.name"], fmt.Sprintf("there are two sources called %q", s.Name))
		case twice:
			r.fail(r.where["source.name"], fmt.Sprintf("source %q differs from %q only by case, and not every store tells them apart", s.Name, first))
		}
		names[folded] = s.Name
		c.Sources = append(c.Sources, s)
	}
}

func (r *reader) source(n node) (s Source) {
	var file string
	delete(r.where, "source.name")
	table := []field{
		{"name", func(n node) { r.value(n, &s.Name, sourceName) }},
		{"address", func(n node) { r.value(n, &s.Address, Address) }},
		{"username", func(n node) { r.value(n, &s.Username, notEmpty) }},
		{"password", func(n node) { r.password(n, &s.Password) }},
		{"password_file", func(n node) { r.value(n, &file, notEmpty); r.passwordFile(n, file, &s.Password) }},
		{"tls", func(n node) { r.tls(n, &s) }},
		{"announce", func(n node) { r.value(n, &s.Announce, announce) }},
		{"sentinel", nil},
		{"relay", func(n node) { r.relay(n, &s) }},
	}
	for i, f := range table {
		if r.namesOnly && f.name != "name" && f.read != nil {
			table[i].read = func(node) {}
		}
	}
	given := r.mapping(n, "source", table)
	if given == nil {
		return Source{}
	}
	if !given["name"] {
		r.fail(r.at(n), "this source has no \"name\"")
	}
	if !given["address"] && !given["sentinel"] {
		r.fail(r.at(n), "this source has no \"address\": say where its master is, like 10.0.0.5:6379")
	}
	if given["password"] && given["password_file"] {
		r.fail(r.where["source.password_file"], "both \"password\" and \"password_file\" are given: keep one")
	}
	if given["username"] && !given["password"] && !given["password_file"] {
		r.fail(r.where["source.username"], "there is a \"username\" and no password for it: add \"password_file\"")
	}
	return s
}

func (r *reader) spool(n node, s *Spool) {
	r.mapping(n, "spool", []field{
		{"path", func(n node) { r.value(n, &s.Path, path) }},
		{"max_size", func(n node) { read(r, n, &s.MaxSize, spoolSize) }},
		{"min_free", func(n node) { read(r, n, &s.MinFree, ParsePercent) }},
	})
}

func (r *reader) ack(n node, c *Config) {
	r.value(n, &c.Ack, func(s string) (string, error) {
		switch s {
		case "local", "store":
			return s, nil
		}
		return "", fmt.Errorf("%q is not a kind of acknowledgement%s", s, suggestion(s, []string{"local", "store"}))
	})
}

func (r *reader) verify(n node, v *Verify) {
	given := r.mapping(n, "verify", []field{
		{"schedule", func(n node) { read(r, n, &v.Schedule, schedule.Parse) }},
		{"boot", func(n node) { read(r, n, &v.Boot, yesOrNo) }},
	})
	if given != nil && !given["schedule"] {
		r.fail(r.at(n), `"verify" has no "schedule": say when, like "0 4 * * *" for each day at 04:00`)
	}
}

// fullSyncs takes how many of them run at once.
func fullSyncs(s string) (int, error) {
	n, err := strconv.Atoi(s)
	switch {
	case err != nil || n < 0:
		return 0, fmt.Errorf("%q is not a number of full syncs: say 1 or more", s)
	case n == 0:
		return 0, errors.New("with 0 full syncs nothing could begin: say 1 or more")
	}
	return n, nil
}

// apart refuses a spool that lies where a store keeps its sources. A folder whose name begins
// with a dot is none of them, so <store>/.spool is free.
func (r *reader) apart(c *Config) {
	spool, err := filepath.Abs(c.Spool.Path)
	if err != nil {
		return // no working folder: whoever opens the spool will tell
	}
	at, given := r.where["spool.path"]
	for _, s := range c.Stores {
		store, err := filepath.Abs(s.Path)
		if err != nil || s.Path == "" {
			continue
		}
		if !given {
			at = r.where["store.path"]
		}
		in, below := inside(store, spool)
		if below && !strings.HasPrefix(in, ".") {
			r.fail(at, fmt.Sprintf("the spool %s lies in the store %s, where sources are: move it out, or call it %s", spool, store, filepath.Join(store, ".spool")))
		} else if _, above := inside(spool, store); above {
			r.fail(at, fmt.Sprintf("the store %s lies in the spool %s: move it out", store, spool))
		}
	}
}

// inside tells whether path is root or below it, and by which first step. Both are absolute.
func inside(root, path string) (first string, ok bool) {
	rel, err := filepath.Rel(root, path)
	if err != nil || rel == ".." || strings.HasPrefix(rel, ".."+string(filepath.Separator)) {
		return "", false
	}
	if rel == "." {
		return "", true
	}
	first, _, _ = strings.Cut(rel, string(filepath.Separator))
	return first, true
}
