package store

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/credentials/stscreds"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go/logging"
)

const (
	// defaultTimeout is how long a request without a body may take, all tries together.
	defaultTimeout = 30 * time.Second
	// slowest is the speed in bytes a second below which a connection counts as hung.
	slowest = 64 << 10
	// A request is tried so often, with pauses that double and are blurred, since all that an
	// overloaded service turned away would come back at once.
	tries      = 4
	firstPause = 150 * time.Millisecond
	// defaultRegion is what services without regions take, and where AWS names the right one.
	defaultRegion = "us-east-1"
)

// S3Options say which bucket, as whom, and how what is put there is kept.
type S3Options struct {
	Bucket    string
	Prefix    string // slashes at its ends don't matter
	Region    string // "" for the environment's
	Endpoint  string // http(s)://host of a service that isn't AWS, "" for AWS
	PathStyle bool   // the bucket stands in the path, not before the host

	// Without keys and profile it is the default chain: environment, files of AWS, the machine's role.
	Profile         string
	AccessKeyID     string
	SecretAccessKey string
	RoleARN         string // a role that is taken on with them

	Encryption   string // "AES256", "aws:kms", "" for the bucket's own
	KMSKeyID     string
	StorageClass string
	Tags         map[string]string
	LockMode     string        // "GOVERNANCE" or "COMPLIANCE": what is put can't be deleted for LockFor
	LockFor      time.Duration // from when it is put

	Timeout time.Duration // of one request without a body, with its repetitions; default 30 s
	Scratch string        // the folder where parts of a stream lie until they are sent; default the system's
}

// S3 is a bucket, or what is below a prefix of it, that is a store.
//
// An object is there whole, with a checksum that the server has verified, and on condition that
// none had its name; so nothing is overwritten, whoever else writes. Every request has a deadline
// and is repeated a few times where that may help. Rights beyond put, get, list and, for
// retention, delete are needed on no bucket but one with versions, see Delete.
type S3 struct {
	o       S3Options
	prefix  string // with a slash at its end, or empty
	client  *s3.Client
	creds   aws.CredentialsProvider
	pause   time.Duration
	unlocks atomic.Int64 // Unix seconds until which the bucket is known to lock nothing
}

// OpenS3 makes a bucket ready to use. Nothing is sent: that the service is away, or refuses, is
// told by what asks it first.
func OpenS3(ctx context.Context, o S3Options) (*S3, error) { return openS3(ctx, o) }

func openS3(ctx context.Context, o S3Options, adjust ...func(*s3.Options)) (*S3, error) {
	if o.Timeout == 0 {
		o.Timeout = defaultTimeout
	}
	o.Prefix = strings.Trim(o.Prefix, "/")
	s := &S3{o: o, prefix: o.Prefix, pause: firstPause}
	if s.prefix != "" {
		s.prefix += "/"
	}
	load := []func(*config.LoadOptions) error{
		config.WithHTTPClient(awshttp.NewBuildableClient().WithTransportOptions(func(t *http.Transport) {
			t.WriteBufferSize, t.ReadBufferSize = 64<<10, 64<<10 // 4 KiB cost a third of the speed
		})),
		config.WithRetryer(func() aws.Retryer { return aws.NopRetryer{} }), // call repeats
		config.WithLogger(logging.Nop{}),
	}
	if o.Region != "" {
		load = append(load, config.WithRegion(o.Region))
	}
	if o.Profile != "" {
		load = append(load, config.WithSharedConfigProfile(o.Profile))
	}
	if o.AccessKeyID != "" {
		load = append(load, config.WithCredentialsProvider(credentials.NewStaticCredentialsProvider(o.AccessKeyID, o.SecretAccessKey, "")))
	}
	c, err := config.LoadDefaultConfig(ctx, load...)
	if err != nil {
		return nil, &S3Error{Store: s.String(), Err: err, hint: "see AWS's configuration: its files, and the variables that begin with AWS_"}
	}
	if c.Region == "" {
		c.Region = defaultRegion
	}
	if o.RoleARN != "" {
		c.Credentials = aws.NewCredentialsCache(stscreds.NewAssumeRoleProvider(sts.NewFromConfig(c), o.RoleARN))
	}
	s.creds = c.Credentials
	s.client = s3.NewFromConfig(c, append([]func(*s3.Options){func(c *s3.Options) {
		c.UsePathStyle = o.PathStyle
		c.DisableLogOutputChecksumValidationSkipped = true
		if o.Endpoint != "" {
			c.BaseEndpoint = aws.String(o.Endpoint)
		}
	}}, adjust...)...)
	return s, nil
}

// key is the object's name in the bucket.
func (s *S3) key(name string) *string { return aws.String(s.prefix + name) }

func (s *S3) bucket() *string { return aws.String(s.o.Bucket) }

// errTimeout is the cause of a request's end that we put to it ourselves.
var errTimeout = errors.New("no answer")

// patience is how long a request with a body of so many bytes may take.
func (s *S3) patience(size int64) time.Duration {
	return s.o.Timeout + time.Duration(size/slowest)*time.Second
}

// call sends one request, again where that may help, until patience ends. One try gets half of
// it: a connection that died unnoticed leaves time for another.
func (s *S3) call(ctx context.Context, op, name string, patience time.Duration, send func(ctx context.Context, try int) error) error {
	whole, cancel := context.WithTimeoutCause(ctx, patience, errTimeout)
	defer cancel()
	pause := s.pause
	for try := 1; ; try++ {
		err := s.try(whole, patience/2, try, send)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case try == tries || !again(err):
			return s.failed(op, name, patience, err)
		}
		select {
		case <-whole.Done():
			return s.failed(op, name, patience, err)
		case <-time.After(pause/2 + rand.N(pause)):
		}
		pause *= 2
	}
}

func (s *S3) try(whole context.Context, patience time.Duration, n int, send func(ctx context.Context, try int) error) error {
	ctx, cancel := context.WithTimeoutCause(whole, patience, errTimeout)
	defer cancel()
	if _, err := s.creds.Retrieve(ctx); err != nil { // it is kept: only here it can be told apart
		return &credentialsError{err}
	}
	err := send(ctx, n)
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("%w: %w", context.Cause(ctx), err)
	}
	return err
}

// credentialsError says that there is nobody to be.
type credentialsError struct{ err error }

func (e *credentialsError) Error() string { return "there are no credentials: " + e.err.Error() }
func (e *credentialsError) Unwrap() error { return e.err }
