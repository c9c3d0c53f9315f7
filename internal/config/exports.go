package config

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/offloader/offloader/internal/export"
	"github.com/offloader/offloader/internal/schedule"
)

// Export is a plain RDB of each source, by the clock.
type Export struct {
	Schedule schedule.Schedule
	To       export.Template
	at       place // of To
}

// Equal tells whether both say the same, wherever they say it.
func (e Export) Equal(o Export) bool { return e.Schedule.Equal(o.Schedule) && e.To.Equal(o.To) }

func (r *reader) exports(n node, c *Config) {
	seen := map[string]bool{}
	for _, item := range r.list(n, "exports") {
		var e Export
		given := r.mapping(item, "export", []field{
			{"schedule", func(n node) { read(r, n, &e.Schedule, schedule.Parse) }},
			{"to", func(n node) { e.at = r.at(n); read(r, n, &e.To, ExportTo) }},
		})
		to := e.To.String()
		switch {
		case given == nil:
			continue
		case !given["schedule"]:
			r.fail(r.at(item), `this export has no "schedule": say when, like "0 3 * * *" for each day at 03:00`)
		case !given["to"]:
			r.fail(r.at(item), `this export has no "to": say where, like s3://bucket/{source}-{time}.rdb or a path`)
		case to == "":
			continue // its own error was told
		case !e.To.Has("time") && !e.To.Has("offset"):
			r.fail(e.at, "each run would write to the same name, and nothing is ever overwritten: put {time} into it")
		case seen[to]:
			r.fail(e.at, "there are two exports to "+to)
		}
		seen[to] = true
		c.Exports = append(c.Exports, e)
	}
}

// ExportTo takes where an export goes.
func ExportTo(s string) (export.Template, error) {
	t, err := export.ParseTemplate(s)
	var unknown *export.PlaceholderError
	if errors.As(err, &unknown) {
		if near := Nearest(unknown.Name, export.Placeholders()); near != "" {
			return t, fmt.Errorf("%w: did you mean {%s}?", err, near)
		}
		return t, fmt.Errorf("%w: there is {%s}", err, strings.Join(export.Placeholders(), "}, {"))
	}
	return t, err
}

// exportsApart refuses exports of which one would be in the way of another, or that lie in an
// archive or the spool, where a folder is a source.
func (r *reader) exportsApart(c *Config) {
	for _, e := range c.Exports {
		if len(c.Sources) > 1 && !e.To.Has("source") {
			r.fail(e.at, fmt.Sprintf("there are %d sources, and each would write to the same name: put {source} into it", len(c.Sources)))
			continue
		}
		for _, s := range c.Sources {
			if in := c.Holding(e.To, s.Name); in != "" {
				r.fail(e.at, "this lies in "+in+", where only offloader's own files belong: say another place")
				break
			}
		}
	}
}

// Holding names the store, or the spool, in which exports of a source would lie; "" if there is
// none.
func (c *Config) Holding(to export.Template, source string) string {
	path, bucket := to.At(source)
	if path != "" && c.Spool.Path != "" && below(c.Spool.Path, path) {
		return "the spool " + c.Spool.Path
	}
	for _, s := range c.Stores {
		prefix := strings.Trim(s.S3.Prefix, "/")
		switch {
		case s.Type == TypeDisk && path != "" && below(s.Path, path):
			return "the archive in the " + s.where()
		case s.Type == TypeS3 && bucket.Bucket == s.S3.Bucket && bucket.Endpoint == s.S3.Endpoint &&
			(prefix == "" || strings.HasPrefix(bucket.Prefix, prefix+"/")):
			return "the archive in " + s.where()
		}
	}
	return ""
}

// below tells whether path lies in the folder root.
func below(root, path string) bool {
	root, err := filepath.Abs(root)
	if err != nil {
		return false // no working folder: whoever opens it will tell
	}
	if path, err = filepath.Abs(path); err != nil {
		return false
	}
	_, ok := inside(root, path)
	return ok
}
