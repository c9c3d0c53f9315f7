package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/store"
	"github.com/offloader/offloader/internal/store/s3test"
)

// A server that hangs, and one that is gone, end a call in an error within the deadline, and are
// found well again.
func TestS3ServerGoes(t *testing.T) {
	s3test.Each(t, func(t *testing.T, kind s3test.Kind) {
		t.Parallel()
		server := s3test.Start(t, kind)
		o := s3Options(server, server.Bucket(s3test.Plain), "")
		o.Timeout = 2 * time.Second
		s := openS3(t, o)
		patient := o
		patient.Timeout = 10 * time.Second
		large, here := sized(9<<20), sized(40<<20) // more than sockets hold: what has left the server is read all the same
		require.NoError(t, openS3(t, patient).Put(t.Context(), "here", bytes.NewReader(here)))
		reader, err := s.Open(t.Context(), "here")
		require.NoError(t, err)

		all := map[string]func() error{
			"put":          func() error { return s.Put(t.Context(), "f", strings.NewReader("x")) },
			"put in parts": func() error { return s.Put(t.Context(), "f", stream{bytes.NewReader(large)}) },
			"open":         func() error { _, err := s.Open(t.Context(), "here"); return err },
			"list":         func() error { _, err := s.List(t.Context(), ""); return err },
			"dirs":         func() error { _, err := s.Dirs(t.Context(), ""); return err },
			"delete":       func() error { return s.Delete(t.Context(), "here") },
			"read":         func() error { _, err := io.Copy(io.Discard, reader); return err },
		}
		check := func(says, way string) {
			began := time.Now()
			var wg sync.WaitGroup
			for name, call := range all {
				wg.Go(func() {
					err := call()
					assert.ErrorContains(t, err, says, name)
					assert.Contains(t, advice(err), way, name)
				})
			}
			wg.Wait()
			require.Less(t, time.Since(began), 3*o.Timeout)
		}
		server.Pause()
		check("has not answered within 2s", "does the service hang")
		server.Resume()
		require.True(t, bytes.Equal(here, (&rig{store: openS3(t, patient)}).read(t, "here")))
		require.NoError(t, reader.Close())

		delete(all, "read")
		server.Kill()
		check("nothing listens at "+server.Addr(), "does the service run")
		server.Restart()
		require.True(t, bytes.Equal(here, (&rig{store: openS3(t, patient)}).read(t, "here")))
	})
}

// What a disk has changed behind the server's back is never taken for what was stored.
func TestS3DamageIsSeen(t *testing.T) {
	s3test.Each(t, func(t *testing.T, kind s3test.Kind) {
		t.Parallel()
		r := newRig(t, kind, s3test.Plain)
		for name, body := range map[string][]byte{"whole": sized(1 << 20), "parts": sized(33 << 20)} {
			require.NoError(t, r.store.Put(t.Context(), name, bytes.NewReader(body)))
			require.NoError(t, filepath.WalkDir(filepath.Join(r.server.Dir(), r.bucket), func(path string, d fs.DirEntry, err error) error {
				if err != nil || d.IsDir() || !strings.Contains(path, name) {
					return err
				}
				content, err := os.ReadFile(path)
				if err != nil || len(content) < 100_000 {
					return err // its metadata
				}
				content[70_000] ^= 1
				return os.WriteFile(path, content, 0o600)
			}))
			f, err := r.store.Open(t.Context(), name)
			if err == nil {
				_, err = io.Copy(io.Discard, f)
				require.NoError(t, f.Close())
			}
			require.Error(t, err, name)
			require.NotErrorIs(t, err, fs.ErrNotExist)
			var damage *archive.DamageError
			var refused *store.S3Error // MinIO finds out by itself
			require.True(t, errors.As(err, &damage) || errors.As(err, &refused), "%v", err)
		}
	})
}

// What is under a lock is neither deleted nor hidden, and who deletes is told so.
func TestS3Locks(t *testing.T) {
	s3test.Each(t, func(t *testing.T, kind s3test.Kind) {
		t.Parallel()
		server := s3test.Start(t, kind)
		bucket := server.Bucket(s3test.Locking)
		plain := openS3(t, s3Options(server, bucket, "p"))
		o := s3Options(server, bucket, "p")
		o.LockMode, o.LockFor = "GOVERNANCE", time.Hour
		locking := openS3(t, o)

		list, read, put := locking.Try(t.Context())
		require.NoError(t, errors.Join(list, read, put))
		large := sized(17 << 20)
		require.NoError(t, locking.Put(t.Context(), "small", strings.NewReader("x")))
		require.NoError(t, locking.Put(t.Context(), "large", stream{bytes.NewReader(large)}))
		require.NoError(t, plain.Put(t.Context(), "free", strings.NewReader("x")))
		require.NoError(t, plain.Put(t.Context(), "held", strings.NewReader("x")))
		_, err := server.Client().PutObjectLegalHold(t.Context(), &s3.PutObjectLegalHoldInput{
			Bucket: &bucket, Key: aws.String("p/held"), LegalHold: &types.ObjectLockLegalHold{Status: types.ObjectLockLegalHoldStatusOn},
		})
		require.NoError(t, err)

		for _, s := range []*store.S3{plain, locking} {
			for _, name := range []string{"small", "large", "held"} {
				err := s.Delete(t.Context(), name)
				require.Equal(t, err, s.Kept(t.Context(), name), "who asks is told the same")
				require.ErrorIs(t, err, archive.ErrKept, name)
				require.NotErrorIs(t, err, fs.ErrPermission, name)
				var kept *store.KeptError
				require.ErrorAs(t, err, &kept)
				require.NotEmpty(t, kept.Hint())
				if name != "held" {
					require.WithinDuration(t, time.Now().Add(time.Hour), kept.Until, time.Minute)
				}
			}
			require.NoError(t, s.Delete(t.Context(), "nothing"))
			require.NoError(t, s.Kept(t.Context(), "nothing"))
			require.NoError(t, s.Kept(t.Context(), "free"))
			before := server.Versions(bucket)
			untried, err := s.TryDelete(t.Context())
			require.NoError(t, err)
			require.Contains(t, untried, "the bucket has versions")
			require.Equal(t, before, server.Versions(bucket), "there is no trace of it")
		}
		require.Equal(t, large, (&rig{store: plain}).read(t, "large"))
		require.NoError(t, plain.Delete(t.Context(), "free"))
		entries, err := plain.List(t.Context(), "")
		require.NoError(t, err)
		require.Len(t, entries, 3)

		o.Bucket = server.Bucket(s3test.Plain) // where locks are off
		err = openS3(t, o).Put(t.Context(), "f", strings.NewReader("x"))
		require.Error(t, err)
		require.Contains(t, advice(err), "Object Lock")
		list, read, put = openS3(t, o).Try(t.Context())
		require.NoError(t, errors.Join(list, read))
		require.ErrorContains(t, put, "Object Lock is off for the bucket")
	})
}

// An archiver without the right to delete is one whose job retention isn't. In a bucket with
// versions it must also see that nothing is locked.
func TestS3WithoutRightsToDelete(t *testing.T) {
	s3test.Each(t, func(t *testing.T, kind s3test.Kind) {
		t.Parallel()
		r := newRig(t, kind, s3test.Locking)
		require.NoError(t, r.store.Put(t.Context(), "f", strings.NewReader("x")))
		denied := s3test.Fault{Status: http.StatusForbidden, Code: "AccessDenied"}
		seeLocks := func(r *http.Request) bool { return r.URL.Query().Has("object-lock") }
		for name, meant := range map[string]func(*http.Request) bool{
			"delete":     del,
			"see locks":  seeLocks,
			"see a lock": func(r *http.Request) bool { return r.URL.Query().Has("retention") },
			"see a hold": func(r *http.Request) bool { return r.URL.Query().Has("legal-hold") },
		} {
			r.proxy.Harm(always(meant, denied))
			err := r.store.Delete(t.Context(), "f")
			require.ErrorIs(t, err, archive.ErrKept, name)
			require.ErrorIs(t, err, fs.ErrPermission, name)
			require.Contains(t, advice(err), "grant it s3:")
			require.Equal(t, "x", string(r.read(t, "f")))
		}
		r.proxy.Harm(always(seeLocks, denied))
		_, err := r.store.TryDelete(t.Context())
		require.ErrorIs(t, err, fs.ErrPermission)
		require.Contains(t, advice(err), "grant it s3:GetBucketObjectLockConfiguration")
		r.proxy.Harm(always(func(*http.Request) bool { return false }, denied))
		require.NoError(t, r.store.Delete(t.Context(), "f"))
		_, err = r.store.Open(t.Context(), "f")
		require.ErrorIs(t, err, fs.ErrNotExist)

		// Where there are no versions there is nothing to see, and nothing more to be allowed to.
		r.bucket = r.server.Bucket(s3test.Plain)
		o := s3Options(r.server, r.bucket, "p")
		o.Endpoint = r.proxy.Endpoint()
		s := openS3(t, o)
		require.NoError(t, s.Put(t.Context(), "f", strings.NewReader("x")))
		r.proxy.Harm(always(seeLocks, denied))
		require.NoError(t, s.Delete(t.Context(), "f"))
		entries, err := s.List(t.Context(), "")
		require.NoError(t, err)
		require.Empty(t, entries)

		// It is known before anything is stored, where it can be tried.
		untried, err := s.TryDelete(t.Context())
		require.NoError(t, err)
		require.Empty(t, untried)
		r.proxy.Harm(always(del, denied))
		_, err = s.TryDelete(t.Context())
		require.ErrorIs(t, err, fs.ErrPermission)
		require.Contains(t, advice(err), "grant it s3:DeleteObject")
		r.proxy.Harm(always(func(r *http.Request) bool { return r.URL.Query().Has("versioning") }, denied))
		untried, err = s.TryDelete(t.Context())
		require.NoError(t, err)
		require.Contains(t, untried, "s3:GetBucketVersioning")
	})
}

// Settings of what is put arrive, whichever way it is put.
func TestS3Settings(t *testing.T) {
	server := s3test.Start(t, s3test.MinIO)
	bucket := server.Bucket(s3test.Plain)
	o := s3Options(server, bucket, "/p/q//")
	o.StorageClass, o.Tags = "REDUCED_REDUNDANCY", map[string]string{"team": "a+b: c", "env": "test"}
	s := openS3(t, o)
	require.NoError(t, s.Put(t.Context(), "small", strings.NewReader("x")))
	require.NoError(t, s.Put(t.Context(), "large", stream{bytes.NewReader(sized(9 << 20))}))
	for _, name := range []string{"p/q/small", "p/q/large"} {
		head, err := server.Client().HeadObject(t.Context(), &s3.HeadObjectInput{Bucket: &bucket, Key: &name, ChecksumMode: types.ChecksumModeEnabled})
		require.NoError(t, err)
		require.Equal(t, types.StorageClassReducedRedundancy, head.StorageClass)
		require.Equal(t, types.ChecksumTypeFullObject, head.ChecksumType)
		require.NotContains(t, *head.ChecksumCRC32, "-")
		tags, err := server.Client().GetObjectTagging(t.Context(), &s3.GetObjectTaggingInput{Bucket: &bucket, Key: &name})
		require.NoError(t, err)
		require.Len(t, tags.TagSet, 2)
		require.Contains(t, tags.TagSet, types.Tag{Key: aws.String("team"), Value: aws.String("a+b: c")})
	}
	// Encryption is asked for, and this server has no keys to do it with.
	o.Encryption, o.KMSKeyID = "aws:kms", "a-key"
	require.ErrorContains(t, openS3(t, o).Put(t.Context(), "encrypted", strings.NewReader("x")), "(NotImplemented)")

	// What can't be kept so is told before anything is archived, and nothing is left of the question.
	for what, change := range map[string]func(*store.S3Options){
		"(NotImplemented)": func(*store.S3Options) {},
		"StorageClass":     func(o *store.S3Options) { o.Encryption, o.KMSKeyID, o.StorageClass = "", "", "NONSENSE" },
		"Lock": func(o *store.S3Options) {
			o.Encryption, o.KMSKeyID, o.LockMode, o.LockFor = "", "", "GOVERNANCE", time.Hour
		},
	} {
		wrong := o
		change(&wrong)
		list, read, put := openS3(t, wrong).Try(t.Context())
		require.NoError(t, list)
		require.NoError(t, read)
		require.ErrorContains(t, put, what)
	}
	o.Encryption, o.KMSKeyID = "", ""
	list, read, put := openS3(t, o).Try(t.Context())
	require.NoError(t, errors.Join(list, read, put))
	all, err := openS3(t, o).List(t.Context(), "")
	require.NoError(t, err)
	require.Len(t, all, 2)
}

// A stream of any length, as a file, takes next to no memory.
func TestS3UploadTakesLittleMemory(t *testing.T) {
	r := newRig(t, s3test.VersityGW, s3test.Plain)
	s := openS3(t, s3Options(r.server, r.bucket, ""))
	require.NoError(t, s.Put(t.Context(), "warm", strings.NewReader("x")))
	const size = 200 << 20
	for name, body := range map[string]io.Reader{"stream": &zeroes{size}, "file": zeroFile(t, size)} {
		used := peak(t, func() { require.NoError(t, s.Put(t.Context(), name, body)) })
		t.Logf("%s: %d KiB", name, used>>10)
		require.Less(t, used, int64(8<<20), name)
	}
}

// Of the parts of a stream nothing is left where they wait. Where they can't, that is told.
func TestS3Scratch(t *testing.T) {
	r := newRig(t, s3test.VersityGW, s3test.Plain)
	o := s3Options(r.server, r.bucket, "p")
	o.Scratch = t.TempDir()
	body := sized(20 << 20)
	require.NoError(t, openS3(t, o).Put(t.Context(), "a", stream{bytes.NewReader(body)}))
	require.True(t, bytes.Equal(body, r.read(t, "a")))
	left, err := os.ReadDir(o.Scratch)
	require.NoError(t, err)
	require.Empty(t, left)

	o.Scratch = filepath.Join(o.Scratch, "nowhere")
	err = openS3(t, o).Put(t.Context(), "b", stream{bytes.NewReader(body)})
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.ErrorContains(t, err, "keep a part of it until it is sent")
	var way interface{ Hint() string }
	require.ErrorAs(t, err, &way)
	require.Contains(t, way.Hint(), "TMPDIR")
}

// Parts grow, so that S3's number of them is enough, and the room for them doesn't but for giants.
func TestS3SizeOfParts(t *testing.T) {
	sum, before := 0, 0
	for n := 1; n <= 10_000; n++ {
		size := store.SizeOfPart(n)
		require.GreaterOrEqual(t, size, before)
		if before, sum = size, sum+size; sum <= 100<<30 {
			require.LessOrEqual(t, size, 32<<20, n)
		}
	}
	require.Greater(t, sum, 480<<30)
}

// A segment is one request, which is what docs/cost.md reckons with: up to 32 MiB, beyond which it goes in parts.
func TestS3RequestsOfASegment(t *testing.T) {
	r := newRig(t, s3test.MinIO, s3test.Plain)
	var requests atomic.Int32
	r.proxy.Watch(func(*http.Request, int) { requests.Add(1) })
	for _, size := range []int{1, 32 << 20, 32<<20 + 1} {
		requests.Store(0)
		require.NoError(t, r.store.Put(t.Context(), fmt.Sprint(size), bytes.NewReader(sized(size))))
		if size <= 32<<20 {
			require.EqualValues(t, 1, requests.Load(), size)
		} else {
			require.Greater(t, requests.Load(), int32(1), size)
		}
	}
}

// Whatever a size has to do with buffers and parts, what is read is what was put.
func TestS3Sizes(t *testing.T) {
	s3test.Each(t, func(t *testing.T, kind s3test.Kind) {
		t.Parallel()
		r := newRig(t, kind, s3test.Plain)
		const buffer, part = 64 << 10, 8 << 20
		for i, size := range []int{buffer - 1, buffer, buffer + 1, part, part + 1, 32<<20 + 1} {
			body := sized(size)
			all := map[string]io.Reader{"file": bytes.NewReader(body), "stream": stream{bytes.NewReader(body)}, "slow": &halves{body}}
			if size > 2*part { // only for a file this is another way
				delete(all, "stream")
				delete(all, "slow")
			}
			for how, from := range all {
				name := fmt.Sprint(how, i)
				require.NoError(t, r.store.Put(t.Context(), name, from), name)
				require.True(t, bytes.Equal(body, r.read(t, name)), name)
			}
		}
		f := bytes.NewReader([]byte("the first half, the second half"))
		_, err := f.Seek(16, io.SeekStart)
		require.NoError(t, err)
		require.NoError(t, r.store.Put(t.Context(), "rest", f))
		require.Equal(t, "the second half", string(r.read(t, "rest")))
	})
}

// halves gives half of what it is asked for, and its end with the last bytes.
type halves struct{ left []byte }

func (h *halves) Read(p []byte) (int, error) {
	n := copy(p[:(len(p)+1)/2], h.left)
	if h.left = h.left[n:]; len(h.left) == 0 {
		return n, io.EOF
	}
	return n, nil
}

type zeroes struct{ left int }

func (z *zeroes) Read(p []byte) (int, error) {
	n := min(len(p), z.left)
	z.left -= n
	clear(p[:n])
	if n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

func zeroFile(t *testing.T, size int64) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	require.NoError(t, err)
	t.Cleanup(func() { _ = f.Close() })
	require.NoError(t, f.Truncate(size))
	return f
}

// peak is by how much the memory that Go holds grows at most while f runs.
func peak(t *testing.T, f func()) int64 {
	t.Helper()
	defer debug.SetGCPercent(debug.SetGCPercent(20))
	debug.FreeOSMemory()
	sample := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	held := func() int64 {
		metrics.Read(sample)
		return int64(min(sample[0].Value.Uint64()-sample[1].Value.Uint64(), math.MaxInt64))
	}
	before, most := held(), int64(0)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			most = max(most, held())
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
			}
		}
	}()
	f()
	close(stop)
	<-stopped
	runtime.KeepAlive(f)
	return most - before
}

func TestS3URL(t *testing.T) {
	for url, want := range map[string]store.S3Options{
		"s3://bucket":               {Bucket: "bucket"},
		"s3://bucket/":              {Bucket: "bucket"},
		"s3://bucket//redis/prod//": {Bucket: "bucket", Prefix: "redis/prod"},
		"s3://b/p?endpoint=http://127.0.0.1:9000&region=eu-west-1&path-style=true": {Bucket: "b", Prefix: "p", Endpoint: "http://127.0.0.1:9000", Region: "eu-west-1", PathStyle: true},
		"s3://b/p?endpoint=http%3A%2F%2Fh%3A9000%2F":                               {Bucket: "b", Prefix: "p", Endpoint: "http://h:9000"},
		"s3://b/a%20b%3Fc%23/%C3%A4?region=":                                       {Bucket: "b", Prefix: "a b?c#/ä"},
	} {
		got, err := store.ParseS3(url)
		require.NoError(t, err, url)
		require.Equal(t, want, got, url)
		s, err := store.OpenS3(t.Context(), got)
		require.NoError(t, err)
		again, err := store.ParseS3(s.String())
		require.NoError(t, err, s.String())
		require.Equal(t, want, again)
		opened, err := store.OpenURL(t.Context(), url, store.Options{})
		require.NoError(t, err)
		require.Equal(t, s.String(), opened.String())
	}
	for url, says := range map[string]string{
		"s3://":                      "names no bucket",
		"s3:///prefix":               "names no bucket",
		"s3://b:9000/p":              "?endpoint=",
		"s3://key:secret@b/p":        "AWS_SECRET_ACCESS_KEY",
		"s3://b/p#x":                 "%23",
		"s3://b?pathstyle=true":      `did you mean "path-style"?`,
		"s3://b?path_style=true":     `did you mean "path-style"?`,
		"s3://b?end-point=x":         `did you mean "endpoint"?`,
		"s3://b?regoin=x":            `did you mean "region"?`,
		"s3://b?x=1":                 "there are endpoint, region, path-style",
		"s3://b?path-style=maybe":    "true or false",
		"s3://b?region=a&region=b":   "given twice",
		"s3://b?endpoint=127.0.0.1":  "say https://host or http://host:port",
		"s3://b?endpoint=http://h/x": "nothing more",
		"s3://b?endpoint=ftp://h":    "is no endpoint",
		"s3://b/%zz":                 "is no URL",
	} {
		_, err := store.OpenURL(t.Context(), url, store.Options{})
		var bad *store.URLError
		require.ErrorAs(t, err, &bad, url)
		require.ErrorContains(t, err, says, url)
		require.NotContains(t, err.Error(), "secret@")
	}
}

// Two stores whose prefixes begin alike don't see each other.
func TestS3Prefixes(t *testing.T) {
	server := s3test.Start(t, s3test.VersityGW)
	bucket := server.Bucket(s3test.Plain)
	for _, prefix := range []string{"", "red", "redis", "/redis/prod/"} {
		require.NoError(t, openS3(t, s3Options(server, bucket, prefix)).Put(t.Context(), "src/f", strings.NewReader("in "+prefix)))
	}
	_, err := server.Client().PutObject(t.Context(), &s3.PutObjectInput{Bucket: &bucket, Key: aws.String("redis/.hidden/f"), Body: strings.NewReader("x")})
	require.NoError(t, err)
	for prefix, want := range map[string][]string{
		"redis/": {"prod/src/f", "src/f"}, "redis/prod": {"src/f"}, "red": {"src/f"}, "re": nil,
		"": {"red/src/f", "redis/prod/src/f", "redis/src/f", "src/f"},
	} {
		s := openS3(t, s3Options(server, bucket, prefix))
		entries, err := s.List(t.Context(), "")
		require.NoError(t, err)
		var names []string
		for _, e := range entries {
			names = append(names, e.Name)
		}
		require.Equal(t, want, names, prefix)
	}
	dirs, err := openS3(t, s3Options(server, bucket, "redis")).Dirs(t.Context(), "")
	require.NoError(t, err)
	require.Equal(t, []string{"prod", "src"}, dirs)
	require.Equal(t, "in /redis/prod/", string((&rig{store: openS3(t, s3Options(server, bucket, "redis/prod"))}).read(t, "src/f")))
}

// Who is told to stop stops, and is told that it was told.
func TestS3Cancelled(t *testing.T) {
	server := s3test.Start(t, s3test.VersityGW)
	s := openS3(t, s3Options(server, server.Bucket(s3test.Plain), ""))
	require.NoError(t, s.Put(t.Context(), "f", bytes.NewReader(sized(9<<20))))
	ctx, cancel := context.WithCancelCause(t.Context())
	f, err := s.Open(ctx, "f")
	require.NoError(t, err)
	why := errors.New("enough")
	cancel(why)
	_, err = io.Copy(io.Discard, f)
	require.ErrorIs(t, err, why)
	require.NoError(t, f.Close())
	_, err = s.Open(ctx, "f")
	require.ErrorIs(t, err, why)
	require.ErrorIs(t, s.Delete(ctx, "f"), why)
}
