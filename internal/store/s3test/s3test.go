// Package s3test starts real S3 servers for tests: MinIO and Versity S3 Gateway.
//
// They differ where S3 is vague, so what is promised of a bucket is tested on both:
//
//	s3test.Each(t, func(t *testing.T, kind s3test.Kind) {
//		server := s3test.Start(t, kind)
//		bucket := server.Bucket(s3test.Plain)
//		…
//	})
//
// scripts/s3servers builds them. One that is missing fails a test, it doesn't skip it. A server
// listens on the loopback only, has folders of its own, and is gone when its test ends, however
// that is: also when the test binary is killed.
package s3test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/offloader/offloader/internal/engine/enginetest"
)

// Kind is one of the servers.
type Kind string

// The servers there are.
const (
	MinIO     Kind = "minio"
	VersityGW Kind = "versitygw"
)

// Each runs f as a subtest for each server, under its name.
func Each(t *testing.T, f func(t *testing.T, kind Kind)) {
	t.Helper()
	for _, kind := range []Kind{MinIO, VersityGW} {
		t.Run(string(kind), func(t *testing.T) { f(t, kind) })
	}
}

// What its owner may do with a server.
const (
	AccessKey = "AKTESTKEY"
	SecretKey = "not-so-secret"
	Region    = "us-east-1"
)

// boot is how long a server may take to answer; the machine may be busy with others.
const boot = 60 * time.Second

// Server is one that runs, or was killed.
type Server struct {
	t      enginetest.TB
	kind   Kind
	port   int
	dir    string
	log    string
	env    []string
	client *s3.Client

	mu    sync.Mutex
	cmd   *exec.Cmd
	ended chan struct{}
}

// Start starts a server without buckets, and returns when it answers. What its environment must hold,
// NAME=value, stands behind.
func Start(t enginetest.TB, kind Kind, env ...string) *Server {
	t.Helper()
	return StartIn(t, kind, t.TempDir(), env...)
}

// StartIn starts one that has its objects below a folder.
func StartIn(t enginetest.TB, kind Kind, dir string, env ...string) *Server {
	t.Helper()
	s := &Server{t: t, kind: kind, port: enginetest.FreePort(t), dir: dir, log: filepath.Join(t.TempDir(), "log"), env: env}
	for _, dir := range []string{s.Dir(), filepath.Join(s.dir, "versions")} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatalf("%v", err)
		}
	}
	s.client = s3.New(s3.Options{
		BaseEndpoint: aws.String(s.Endpoint()), Region: Region, UsePathStyle: true, Retryer: aws.NopRetryer{},
		Credentials: credentials.NewStaticCredentialsProvider(AccessKey, SecretKey, ""),
	})
	t.Cleanup(func() {
		s.end()
		if t.Failed() {
			t.Logf("%s on %s:\n%s", kind, s.Endpoint(), s.tail())
		}
	})
	s.boot()
	return s
}

// Dir is where the objects lie. A restart keeps them.
func (s *Server) Dir() string { return filepath.Join(s.dir, "data") }

// Addr is where it listens, host and port.
func (s *Server) Addr() string { return "127.0.0.1:" + strconv.Itoa(s.port) }

// Endpoint is its URL.
func (s *Server) Endpoint() string { return "http://" + s.Addr() }

// Client speaks to it as its owner, without repeating anything.
func (s *Server) Client() *s3.Client { return s.client }

// URL is that of an archive in a bucket of it, as --archive takes it.
func (s *Server) URL(bucket, prefix string) string {
	return fmt.Sprintf("s3://%s/%s?endpoint=%s&region=%s&path-style=true", bucket, prefix, url.QueryEscape(s.Endpoint()), Region)
}

// Lock says whether a bucket can lock objects.
type Lock bool

// Plain is a bucket without versions and locks, Locking has both.
const (
	Plain   Lock = false
	Locking Lock = true
)

// Bucket makes one with a name of its own.
func (s *Server) Bucket(lock Lock) string {
	s.t.Helper()
	name := "bucket-" + strings.ToLower(rand.Text()[:10])
	_, err := s.client.CreateBucket(context.Background(), &s3.CreateBucketInput{Bucket: &name, ObjectLockEnabledForBucket: aws.Bool(bool(lock))})
	if err != nil {
		s.t.Fatalf("make a bucket on %s: %v\n%s", s.kind, err, s.tail())
	}
	return name
}

// Versions are all that a bucket holds, also what is hidden by a deletion, and the marks of those.
func (s *Server) Versions(bucket string) []string {
	s.t.Helper()
	out, err := s.client.ListObjectVersions(context.Background(), &s3.ListObjectVersionsInput{Bucket: &bucket})
	if err != nil {
		s.t.Fatalf("list the versions in %s: %v", bucket, err)
	}
	var keys []string
	for _, v := range out.Versions {
		keys = append(keys, *v.Key)
	}
	for _, m := range out.DeleteMarkers {
		keys = append(keys, *m.Key)
	}
	return keys
}

// Kill ends it as a power cut would, and returns when it is gone.
func (s *Server) Kill() { s.end() }

// Pause stops it in the middle of whatever it does; its connections stay open and silent.
func (s *Server) Pause() { s.signal(syscall.SIGSTOP) }

// Resume lets it go on.
func (s *Server) Resume() { s.signal(syscall.SIGCONT) }

func (s *Server) signal(what syscall.Signal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.cmd.Process.Signal(what); err != nil {
		s.t.Fatalf("%v to %s: %v", what, s.kind, err)
	}
}

// Restart starts it again on the same port and folders, after killing it if it still runs.
func (s *Server) Restart() {
	s.t.Helper()
	s.end()
	s.boot()
}

// boot starts the process and waits until it serves.
func (s *Server) boot() {
	s.t.Helper()
	if err := s.launch(); err != nil {
		s.t.Fatalf("start %s: %v: run scripts/s3servers", s.kind, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), boot)
	defer cancel()
	for {
		_, err := s.client.ListBuckets(ctx, &s3.ListBucketsInput{})
		if err == nil {
			return
		}
		select {
		case <-s.ended:
			s.t.Fatalf("%s ended at once: %v\n%s", s.kind, s.cmd.ProcessState, s.tail())
		case <-ctx.Done():
			s.t.Fatalf("%s doesn't serve on %s within %v: %v\n%s", s.kind, s.Addr(), boot, err, s.tail())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// launch starts the process. The goroutine that does so stays on its thread until the process
// is gone, since the kernel's death signal (Pdeathsig) goes by the thread that started it.
func (s *Server) launch() error {
	dir, err := folder()
	if err != nil {
		return err
	}
	log, err := os.OpenFile(s.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	args := []string{"server", "--quiet", "--address", s.Addr(), s.Dir()}
	if s.kind == VersityGW {
		args = []string{"--port", s.Addr(), "--quiet", "posix", "--versioning-dir", filepath.Join(s.dir, "versions"), s.Dir()}
	}
	cmd := exec.Command(filepath.Join(dir, string(s.kind)), args...)
	cmd.Env = append(os.Environ(), "HOME="+s.dir,
		"MINIO_ROOT_USER="+AccessKey, "MINIO_ROOT_PASSWORD="+SecretKey, "MINIO_BROWSER=off", "MINIO_UPDATE=off",
		"ROOT_ACCESS_KEY="+AccessKey, "ROOT_SECRET_KEY="+SecretKey)
	cmd.Env = append(cmd.Env, s.env...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}

	started, ended := make(chan error, 1), make(chan struct{})
	go func() { // end waits for it
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(ended)
		defer func() { _ = log.Close() }()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // how it ended is in cmd.ProcessState
		}
	}()
	err = <-started
	s.mu.Lock()
	s.cmd, s.ended = cmd, ended
	s.mu.Unlock()
	return err
}

// end kills the process, if it still runs, and waits for it.
func (s *Server) end() {
	if s.cmd == nil || s.cmd.Process == nil {
		return
	}
	_ = s.cmd.Process.Kill() // an error says that it is gone already; it works on a stopped one
	<-s.ended
}

// folder is where scripts/s3servers puts what it builds.
func folder() (string, error) {
	start, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for dir := start; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return filepath.Join(dir, ".cache", "s3"), nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("there is no go.mod in " + start + " or above it")
		}
	}
}

// tail is the end of the log, for a failed test.
func (s *Server) tail() string {
	text, err := os.ReadFile(s.log)
	if err != nil {
		return "no log: " + err.Error()
	}
	lines := bytes.SplitAfter(text, []byte("\n"))
	return "the last of its log:\n" + string(bytes.Join(lines[max(0, len(lines)-30):], nil))
}
