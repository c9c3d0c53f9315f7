package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/offloader/offloader/internal/check"
	"github.com/offloader/offloader/internal/config"
	"github.com/offloader/offloader/internal/heartbeat"
	"github.com/offloader/offloader/internal/store"
)

// places tries for check where the daemon sends things: the stores, where exports go, and who is called
// while all is well. Nothing is left there.
func places(ctx context.Context, c *config.Config, dataset int64) []check.Finding {
	var tries []func() []check.Finding
	for _, s := range c.Stores {
		if s.Type == config.TypeS3 {
			tries = append(tries, func() []check.Finding { return bucket(ctx, s.S3, c.RetentionIn(s) != nil) })
			continue
		}
		tries = append(tries, check.Folder{Name: "store", Path: s.Path, MinFree: c.Spool.MinFree.Of, Needs: dataset, What: "the first snapshot"}.Check)
	}
	folders, buckets := exportPlaces(c)
	for _, dir := range folders {
		tries = append(tries, check.Folder{Name: "export", Path: dir, MinFree: c.Spool.MinFree.Of, Needs: dataset, What: "an export"}.Check)
	}
	for _, o := range buckets {
		tries = append(tries, func() []check.Finding { return exportBucket(ctx, o) })
	}
	if c.Heartbeat.URL != "" {
		tries = append(tries, func() []check.Finding { return beat(ctx, string(c.Heartbeat.URL)) })
	}
	found := make([][]check.Finding, len(tries))
	var g errgroup.Group
	g.SetLimit(atOnce)
	for i, try := range tries {
		g.Go(func() error { found[i] = try(); return nil })
	}
	_ = g.Wait() // what is wrong is a finding
	return slices.Concat(found...)
}

// bucket tells whether a store on S3 can be used, and what is missing for it.
func bucket(ctx context.Context, s config.S3, retention bool) []check.Finding {
	st, err := openS3(ctx, s, timeout, "")
	if err != nil {
		return []check.Finding{failed("store", err)}
	}
	list, read, put := st.Try(ctx)
	if list != nil && read != nil && put != nil {
		return []check.Finding{failed("store", list)} // the way there: the others say the same
	}
	var found []check.Finding
	for _, err := range []error{list, read, put} {
		if err != nil {
			found = append(found, failed("store", err))
		}
	}
	if found != nil {
		return found
	}
	f := check.Finding{Name: "store", Level: check.OK, Message: st.String() + " can be listed, read and written"}
	untried, err := st.TryDelete(ctx)
	switch {
	case untried != "":
		f.Message += "; whether it lets us delete is not tried: " + untried
	case err == nil:
		f.Message += ", and lets us delete"
	case !errors.Is(err, fs.ErrPermission):
		return []check.Finding{f, failed("store", err)}
	case retention:
		refused := failed("store", &refusedError{st.String(), err})
		refused.Level = check.Warn // who may not delete archives as well as anybody
		return []check.Finding{f, refused}
	default:
		f.Message += "; it doesn't let us delete, so small files that compaction has replaced stay there"
	}
	return []check.Finding{f}
}

// exportPlaces are the folders, and the parts of buckets, in which exports of all sources lie, each once.
func exportPlaces(c *config.Config) (folders []string, buckets []store.S3Options) {
	seen := map[string]bool{}
	for _, e := range c.Exports {
		for _, s := range c.Sources {
			file, o := e.To.At(s.Name)
			key := filepath.Dir(file)
			if file == "" {
				o.Prefix = strings.TrimPrefix(path.Dir(o.Prefix), ".")
				key = fmt.Sprintf("s3://%s/%s at %s", o.Bucket, o.Prefix, o.Endpoint)
			}
			switch {
			case seen[key]:
			case file == "":
				buckets = append(buckets, o)
			default:
				folders = append(folders, key)
			}
			seen[key] = true
		}
	}
	return folders, buckets
}

// exportBucket tells whether exports can be put into a part of a bucket, and read back.
func exportBucket(ctx context.Context, o store.S3Options) []check.Finding {
	o.Timeout = timeout
	wrong := func(err error) []check.Finding {
		f := failed("export", err)
		f.Message = strings.TrimPrefix(f.Message, "archive ") // it is none
		return []check.Finding{f}
	}
	st, err := store.OpenS3(ctx, o)
	if err != nil {
		return wrong(err)
	}
	f := check.Finding{Name: "export", Level: check.OK, Message: st.String() + " can be written and read"}
	list, read, put := st.Try(ctx)
	switch {
	case put != nil:
		return wrong(put)
	case list != nil && read != nil: // whoever may not list is denied to read what isn't there
		f.Level, f.Message = check.Warn, st.String()+" can be written; whether it can be read isn't known, since it may not be listed"
		f.Hint = "an export is read back, and taken away where that fails: grant s3:GetObject, and s3:ListBucket to have it tried here"
	case read != nil:
		return wrong(read)
	}
	return []check.Finding{f}
}

// beat tells whether whoever the heartbeat calls can be reached.
func beat(ctx context.Context, url string) []check.Finding {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	reached, err := heartbeat.Reach(ctx, url)
	if err != nil {
		return []check.Finding{{Name: "heartbeat", Level: check.Fail, Message: err.Error(), Hint: "is the host in the heartbeat's URL right, and may this machine connect there?"}}
	}
	return []check.Finding{{Name: "heartbeat", Level: check.OK, Message: reached + "; that is all that was tried, since a call would say that all is well: `offloader status` shows how the daemon's calls go"}}
}
