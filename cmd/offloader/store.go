package main

import (
	"context"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"github.com/offloader/offloader/internal/config"
	"github.com/offloader/offloader/internal/store"
)

// place is the archive that --archive names, as a configuration has it.
func place(archive string) (config.Store, error) {
	scheme, rest, isURL := strings.Cut(archive, "://")
	switch {
	case archive == "":
		return config.Store{}, usagef("say /path, file:///path or s3://bucket/prefix", "--archive is empty")
	case !isURL:
		return config.Store{Type: config.TypeDisk, Path: filepath.Clean(archive)}, nil
	case scheme == "file":
		path, err := url.PathUnescape(rest)
		if err != nil || !strings.HasPrefix(path, "/") {
			return config.Store{}, usagef("say file:///path, with three slashes", "%q has no absolute path", archive)
		}
		return config.Store{Type: config.TypeDisk, Path: filepath.Clean(path)}, nil
	case scheme == "s3":
		o, err := store.ParseS3(archive)
		if err != nil {
			return config.Store{}, usagef("", "%v", err)
		}
		return config.Store{Type: config.TypeS3, UploadInterval: config.DefaultUploadInterval, S3: config.S3{
			Bucket: o.Bucket, Prefix: o.Prefix, Region: o.Region, Endpoint: o.Endpoint, PathStyle: o.PathStyle,
		}}, nil
	}
	return config.Store{}, usagef("say /path, file:///path or s3://bucket/prefix", "%q is no archive: nothing is known of %s://", archive, scheme)
}

// openStore opens a store of the configuration.
func openStore(ctx context.Context, s config.Store, o store.Options) (store.Store, error) {
	if s.Type == config.TypeS3 {
		return openS3(ctx, s.S3, 0, o.Scratch)
	}
	return store.OpenDisk(ctx, s.Path, o)
}

func openS3(ctx context.Context, s config.S3, timeout time.Duration, scratch string) (*store.S3, error) {
	return store.OpenS3(ctx, store.S3Options{
		Bucket: s.Bucket, Prefix: s.Prefix, Region: s.Region, Endpoint: s.Endpoint, PathStyle: s.PathStyle,
		Profile: s.Profile, RoleARN: s.RoleARN, AccessKeyID: s.AccessKeyID, SecretAccessKey: string(s.SecretAccessKey),
		Encryption: s.Encryption, KMSKeyID: s.KMSKeyID, StorageClass: s.StorageClass, Tags: s.Tags,
		LockMode: s.LockMode, LockFor: time.Duration(s.LockFor), Timeout: timeout, Scratch: scratch,
	})
}
