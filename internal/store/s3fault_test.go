package store_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/store"
	"github.com/offloader/offloader/internal/store/s3test"
)

// stream hides that a reader could be read anywhere.
type stream struct{ io.Reader }

// sized is content of a size, no two parts of it alike.
func sized(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(n)}).Read(b) // it never fails
	return b
}

// rig is a server, a bucket on it, and a proxy in between.
type rig struct {
	server *s3test.Server
	bucket string
	proxy  *s3test.Proxy
	store  *store.S3
}

func newRig(t *testing.T, kind s3test.Kind, lock s3test.Lock) *rig {
	t.Helper()
	r := &rig{server: s3test.Start(t, kind)}
	r.bucket, r.proxy = r.server.Bucket(lock), s3test.NewProxy(t, r.server)
	o := s3Options(r.server, r.bucket, "p")
	o.Endpoint = r.proxy.Endpoint()
	r.store = openS3(t, o)
	return r
}

func (r *rig) read(t *testing.T, name string) []byte {
	t.Helper()
	f, err := r.store.Open(t.Context(), name)
	require.NoError(t, err)
	b, err := io.ReadAll(f)
	require.NoError(t, errors.Join(err, f.Close()))
	return b
}

// unfinished is how many uploads in parts of name were neither completed nor aborted.
func (r *rig) unfinished(t *testing.T, name string) int {
	t.Helper()
	out, err := r.server.Client().ListMultipartUploads(t.Context(), &s3.ListMultipartUploadsInput{Bucket: &r.bucket, Prefix: aws.String("p/" + name)})
	require.NoError(t, err)
	return len(out.Uploads)
}

// once does a fault to the first request that is meant.
func once(meant func(*http.Request) bool, f s3test.Fault) func(*http.Request) s3test.Fault {
	var done atomic.Bool
	return func(r *http.Request) s3test.Fault {
		if meant(r) && done.CompareAndSwap(false, true) {
			return f
		}
		return s3test.Fault{}
	}
}

func always(meant func(*http.Request) bool, f s3test.Fault) func(*http.Request) s3test.Fault {
	return func(r *http.Request) s3test.Fault {
		if meant(r) {
			return f
		}
		return s3test.Fault{}
	}
}

func put(r *http.Request) bool {
	return r.Method == http.MethodPut && r.URL.RawQuery == "x-id=PutObject"
}
func putPart(r *http.Request) bool {
	return r.Method == http.MethodPut && r.URL.Query().Has("partNumber")
}
func complete(r *http.Request) bool {
	return r.Method == http.MethodPost && r.URL.Query().Has("uploadId")
}
func get(r *http.Request) bool {
	return r.Method == http.MethodGet && r.URL.Query().Get("x-id") == "GetObject"
}
func del(r *http.Request) bool { return r.Method == http.MethodDelete }

// A request whose answer is lost was carried out: the next try finds the name taken, by us.
func TestS3LostAnswers(t *testing.T) {
	s3test.Each(t, func(t *testing.T, kind s3test.Kind) {
		t.Parallel()
		r := newRig(t, kind, s3test.Plain)
		small, large := sized(1000), sized(20<<20)

		r.proxy.Harm(once(put, s3test.Fault{Lose: true}))
		require.NoError(t, r.store.Put(t.Context(), "small", bytes.NewReader(small)))
		require.Equal(t, small, r.read(t, "small"))

		r.proxy.Harm(once(complete, s3test.Fault{Lose: true}))
		require.NoError(t, r.store.Put(t.Context(), "large", stream{bytes.NewReader(large)}))
		require.Equal(t, large, r.read(t, "large"))
		require.Zero(t, r.unfinished(t, "large"))

		r.proxy.Harm(once(putPart, s3test.Fault{Lose: true}))
		require.NoError(t, r.store.Put(t.Context(), "part", stream{bytes.NewReader(large)}))
		require.Equal(t, large, r.read(t, "part"))

		// The same, but it was somebody else who took the name meanwhile.
		direct := openS3(t, s3Options(r.server, r.bucket, "p"))
		for name, body := range map[string][]byte{"other": small, "otherlarge": large} {
			r.proxy.Harm(once(func(q *http.Request) bool { return put(q) || complete(q) }, s3test.Fault{
				Status: 503, Code: "ServiceUnavailable",
				Before: func() { require.NoError(t, direct.Put(t.Context(), name, strings.NewReader("not ours"))) },
			}))
			require.ErrorIs(t, r.store.Put(t.Context(), name, stream{bytes.NewReader(body)}), fs.ErrExist)
			require.Equal(t, "not ours", string(r.read(t, name)))
			require.Zero(t, r.unfinished(t, name))
		}
	})
}

// What is cut midway is begun again; if that doesn't help nothing is left of it.
func TestS3CutUploads(t *testing.T) {
	s3test.Each(t, func(t *testing.T, kind s3test.Kind) {
		t.Parallel()
		r := newRig(t, kind, s3test.Plain)
		small, large := sized(1<<20), sized(20<<20)
		for name, body := range map[string]io.Reader{
			"small": bytes.NewReader(small), "large": stream{bytes.NewReader(large)}, "file": bytes.NewReader(sized(40 << 20)),
		} {
			cut := func(q *http.Request) bool { return put(q) || putPart(q) }
			r.proxy.Harm(always(cut, s3test.Fault{CutUp: 500_000}))
			err := r.store.Put(t.Context(), name, body)
			require.Error(t, err)
			var failed *store.S3Error
			require.ErrorAs(t, err, &failed)
			_, err = r.store.Open(t.Context(), name)
			require.ErrorIs(t, err, fs.ErrNotExist)
			require.Zero(t, r.unfinished(t, name))
		}
		r.proxy.Harm(once(putPart, s3test.Fault{CutUp: 500_000}))
		require.NoError(t, r.store.Put(t.Context(), "large", stream{bytes.NewReader(large)}))
		require.Equal(t, large, r.read(t, "large"))
		r.proxy.Harm(once(putPart, s3test.Fault{CutUp: 500_000}))
		require.NoError(t, r.store.Put(t.Context(), "file", bytes.NewReader(sized(40<<20))))
		require.Equal(t, sized(40<<20), r.read(t, "file"))
	})
}

// Two that upload the same name in parts: one is refused, and leaves nothing.
func TestS3RacingUploads(t *testing.T) {
	s3test.Each(t, func(t *testing.T, kind s3test.Kind) {
		t.Parallel()
		r := newRig(t, kind, s3test.Plain)
		bodies := [][]byte{sized(17 << 20), sized(18 << 20)}
		errs := make([]error, len(bodies))
		var wg sync.WaitGroup
		for i, b := range bodies {
			wg.Go(func() { errs[i] = r.store.Put(t.Context(), "f", stream{bytes.NewReader(b)}) })
		}
		wg.Wait()
		won := 0
		if errs[0] != nil {
			won = 1
		}
		require.NoError(t, errs[won])
		require.ErrorIs(t, errs[1-won], fs.ErrExist)
		require.Equal(t, bodies[won], r.read(t, "f"))
		require.Zero(t, r.unfinished(t, "f"))
	})
}

// A reader goes on where its connection broke, some times.
func TestS3BrokenReads(t *testing.T) {
	s3test.Each(t, func(t *testing.T, kind s3test.Kind) {
		t.Parallel()
		r := newRig(t, kind, s3test.Plain)
		large := sized(9 << 20)
		require.NoError(t, r.store.Put(t.Context(), "f", bytes.NewReader(large)))
		r.proxy.Harm(always(get, s3test.Fault{Cut: 2 << 20}))
		require.Equal(t, large, r.read(t, "f"), "each connection gives 2 MiB")

		r.proxy.Harm(always(get, s3test.Fault{Cut: 1000}))
		f, err := r.store.Open(t.Context(), "f")
		require.NoError(t, err)
		got, err := io.ReadAll(f)
		require.ErrorIs(t, err, io.ErrUnexpectedEOF)
		require.NoError(t, f.Close())
		require.Less(t, len(got), 10_000)
		require.Equal(t, large[:len(got)], got)
	})
}

// advice is what is advised.
func advice(err error) string {
	var h interface{ Hint() string }
	if errors.As(err, &h) {
		return h.Hint()
	}
	return ""
}

func TestS3Answers(t *testing.T) {
	s3test.Each(t, func(t *testing.T, kind s3test.Kind) {
		t.Parallel()
		r := newRig(t, kind, s3test.Plain)
		var seen atomic.Int32
		count := func(n int32, f s3test.Fault) func(*http.Request) s3test.Fault {
			seen.Store(0)
			return func(*http.Request) s3test.Fault {
				if seen.Add(1) <= n {
					return f
				}
				return s3test.Fault{}
			}
		}
		for _, c := range []struct {
			fault      s3test.Fault
			again      bool
			says, hint string
		}{
			{s3test.Fault{Status: 500, Code: "InternalError"}, true, "the service has an error (InternalError)", "spool keeps"},
			{s3test.Fault{Status: 503, Code: "SlowDown"}, true, "asks for a pause (SlowDown)", "spool keeps"},
			{s3test.Fault{Status: 502, Code: ""}, true, "answers 502 Bad Gateway", ""},
			{s3test.Fault{Status: 403, Code: "AccessDenied"}, false, "access is denied (AccessDenied)", "s3:PutObject"},
			{s3test.Fault{Status: 507, Code: "XMinioStorageFull"}, false, "the store is full (XMinioStorageFull)", "make room"},
			{s3test.Fault{Status: 507, Code: ""}, false, "the store is full", "make room"},
			{s3test.Fault{Status: 403, Code: "ExpiredToken"}, false, "credentials have expired", "get new ones"},
			{s3test.Fault{Status: 404, Code: ""}, false, "answers 404 Not Found", ""},
			{s3test.Fault{Status: 301, Code: "PermanentRedirect"}, false, "in another region", "region"},
		} {
			r.proxy.Harm(count(1000, c.fault))
			err := r.store.Put(t.Context(), "f", strings.NewReader("x"))
			require.ErrorContains(t, err, c.says)
			require.ErrorContains(t, err, "archive "+r.store.String()+": put f: ")
			require.Contains(t, advice(err), c.hint)
			if c.again {
				require.Equal(t, int32(4), seen.Load(), c.says)
			} else {
				require.Equal(t, int32(1), seen.Load(), c.says)
			}
			_, err = r.store.List(t.Context(), "")
			require.Error(t, err)
			require.NotErrorIs(t, err, fs.ErrNotExist)
			_, err = r.store.Open(t.Context(), "f")
			require.Error(t, err)
			require.NotErrorIs(t, err, fs.ErrNotExist, c.says)

			if c.again { // and then it works
				r.proxy.Harm(count(2, c.fault))
				require.NoError(t, r.store.Put(t.Context(), "f", strings.NewReader("x")))
				r.proxy.Harm(count(2, c.fault))
				require.Equal(t, "x", string(r.read(t, "f")))
				r.proxy.Harm(count(2, c.fault))
				require.NoError(t, r.store.Delete(t.Context(), "f"))
			}
		}
	})
}

// backwards signs an hour ago.
type backwards struct{ v4.HTTPSigner }

func (b backwards) SignHTTP(ctx context.Context, c aws.Credentials, r *http.Request, hash, service, region string, at time.Time, o ...func(*v4.SignerOptions)) error {
	return b.HTTPSigner.SignHTTP(ctx, c, r, hash, service, region, at.Add(-time.Hour), o...)
}

func TestS3WrongSettings(t *testing.T) {
	s3test.Each(t, func(t *testing.T, kind s3test.Kind) {
		t.Parallel()
		server := s3test.Start(t, kind)
		o := s3Options(server, server.Bucket(s3test.Plain), "p")
		for name, c := range map[string]struct {
			wrong      func(*store.S3Options)
			adjust     func(*s3.Options)
			says, hint string
		}{
			"secret": {func(o *store.S3Options) { o.SecretAccessKey += "x" }, nil, "the secret key is wrong (SignatureDoesNotMatch)", "compare"},
			"key":    {func(o *store.S3Options) { o.AccessKeyID = "AKNOBODY" }, nil, "the access key is not known there", "access_key_id"},
			"bucket": {func(o *store.S3Options) { o.Bucket = "nowhere" }, nil, "there is no such bucket (NoSuchBucket)", "make it"},
			"port":   {func(o *store.S3Options) { o.Endpoint = "http://127.0.0.1:1" }, nil, "nothing listens at 127.0.0.1:1", "does the service run"},
			"clock":  {func(*store.S3Options) {}, func(o *s3.Options) { o.HTTPSignerV4 = backwards{v4.NewSigner()} }, "this machine's clock is wrong (RequestTimeTooSkewed)", "NTP"},
		} {
			t.Run(name, func(t *testing.T) {
				wrong := o
				c.wrong(&wrong)
				if c.adjust == nil {
					c.adjust = func(*s3.Options) {}
				}
				s, err := store.OpenS3With(t.Context(), wrong, c.adjust)
				require.NoError(t, err)
				check := func(err error) {
					t.Helper()
					require.ErrorContains(t, err, c.says)
					require.Contains(t, advice(err), c.hint)
					require.NotErrorIs(t, err, fs.ErrNotExist)
					require.NotErrorIs(t, err, fs.ErrExist)
				}
				check(s.Put(t.Context(), "f", strings.NewReader("x")))
				check(s.Put(t.Context(), "f", stream{bytes.NewReader(sized(9 << 20))}))
				_, err = s.Open(t.Context(), "f")
				check(err)
				_, err = s.List(t.Context(), "")
				check(err)
				_, err = s.Dirs(t.Context(), "")
				check(err)
				check(s.Delete(t.Context(), "f"))
			})
		}
	})
}
