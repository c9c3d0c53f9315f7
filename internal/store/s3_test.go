package store_test

import (
	"crypto/rand"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/store"
	"github.com/offloader/offloader/internal/store/s3test"
	"github.com/offloader/offloader/internal/store/storetest"
)

// s3Options are those of a store in a bucket of server, with little patience.
func s3Options(server *s3test.Server, bucket, prefix string) store.S3Options {
	return store.S3Options{
		Bucket: bucket, Prefix: prefix, Endpoint: server.Endpoint(), Region: s3test.Region, PathStyle: true,
		AccessKeyID: s3test.AccessKey, SecretAccessKey: s3test.SecretKey, Timeout: 10 * time.Second,
	}
}

func openS3(t *testing.T, o store.S3Options) *store.S3 {
	t.Helper()
	s, err := store.OpenS3With(t.Context(), o, func(*s3.Options) {})
	require.NoError(t, err)
	return s
}

func TestS3(t *testing.T) {
	s3test.Each(t, func(t *testing.T, kind s3test.Kind) {
		t.Parallel()
		server := s3test.Start(t, kind)
		bucket := server.Bucket(s3test.Plain)
		storetest.Run(t, func(t *testing.T) store.Store {
			return openS3(t, s3Options(server, bucket, rand.Text()))
		})
	})
}
