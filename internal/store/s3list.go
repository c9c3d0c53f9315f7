package store

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/offloader/offloader/internal/archive"
)

// List implements Store.
func (s *S3) List(ctx context.Context, dir string) ([]archive.Entry, error) {
	var entries []archive.Entry
	err := s.pages(ctx, dir, "", func(out *s3.ListObjectsV2Output) {
		for _, o := range out.Contents {
			name := strings.TrimPrefix(aws.ToString(o.Key), s.prefix)
			if checkName(name) == nil { // what isn't a file's name wasn't put by us, or is hidden
				entries = append(entries, archive.Entry{Name: name, Size: aws.ToInt64(o.Size)})
			}
		}
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(entries, func(a, b archive.Entry) int { return strings.Compare(a.Name, b.Name) })
	return entries, nil
}

// Dirs implements Store.
func (s *S3) Dirs(ctx context.Context, dir string) ([]string, error) {
	var names []string
	err := s.pages(ctx, dir, "/", func(out *s3.ListObjectsV2Output) {
		for _, p := range out.CommonPrefixes {
			name := strings.TrimSuffix(strings.TrimPrefix(aws.ToString(p.Prefix), s.below(dir)), "/")
			if checkName(name) == nil {
				names = append(names, name)
			}
		}
	})
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// below is the beginning of all keys in dir.
func (s *S3) below(dir string) string {
	if dir == "" {
		return s.prefix
	}
	return s.prefix + dir + "/"
}

// pages shows a listing page by page.
func (s *S3) pages(ctx context.Context, dir, delimiter string, show func(*s3.ListObjectsV2Output)) error {
	if dir != "" {
		if err := checkName(dir); err != nil {
			return err
		}
	}
	in := &s3.ListObjectsV2Input{Bucket: s.bucket(), Prefix: given(s.below(dir)), Delimiter: given(delimiter)}
	for {
		var out *s3.ListObjectsV2Output
		err := s.call(ctx, "list", dir, s.o.Timeout, func(ctx context.Context, _ int) (err error) {
			out, err = s.client.ListObjectsV2(ctx, in)
			return err
		})
		if err != nil {
			return err
		}
		show(out)
		next := out.NextContinuationToken
		switch {
		case !aws.ToBool(out.IsTruncated):
			return nil
		case next == nil, in.ContinuationToken != nil && *next == *in.ContinuationToken:
			return s.failed("list", dir, 0, errors.New("the service says that there is more, and not from where on"))
		}
		in.ContinuationToken = next
	}
}

// words is what the service has to say about a name: fs.ErrNotExist if there is none.
func (s *S3) words(ctx context.Context, name string) error {
	return s.call(ctx, "look for", name, s.o.Timeout, func(ctx context.Context, _ int) error {
		out, err := s.client.ListObjectsV2(ctx, &s3.ListObjectsV2Input{Bucket: s.bucket(), Prefix: s.key(name), MaxKeys: aws.Int32(1)})
		switch {
		case err != nil:
			return err
		case len(out.Contents) > 0 && aws.ToString(out.Contents[0].Key) == *s.key(name):
			return nil
		}
		return fs.ErrNotExist
	})
}
