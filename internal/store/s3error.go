package store

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"time"

	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/smithy-go"
)

// An S3Error says what a bucket, or the way to it, refused.
type S3Error struct {
	Store string
	Op    string // "put", "read", "list", …; "" where it wasn't asked yet
	Name  string // of the file, "" for the store itself
	Code  string // S3's name for it, "" where no such answer came
	Err   error

	what string // in words, "" for those of Err
	hint string
}

func (e *S3Error) Error() string {
	text := "archive " + e.Store
	if e.Op != "" {
		text += ": " + strings.TrimSpace(e.Op+" "+e.Name)
	}
	what := e.what
	if what == "" {
		what = e.Err.Error()
	}
	if e.Code != "" {
		what += " (" + e.Code + ")"
	}
	return text + ": " + what
}

func (e *S3Error) Unwrap() error { return e.Err }

// Hint says what to do about it, "" where that isn't known.
func (e *S3Error) Hint() string { return e.hint }

// refusals are S3's words, ours for them, and a way out.
var refusals = []struct{ code, what, hint string }{
	{"SignatureDoesNotMatch", "the secret key is wrong", "compare the secret key with that of the access key's owner: a copied one often lacks a character"},
	{"InvalidAccessKeyId XAdminUserNotFound", "the access key is not known there", "is it of this service, and still valid? See access_key_id, or AWS_ACCESS_KEY_ID"},
	{"ExpiredToken TokenRefreshRequired InvalidToken", "the credentials have expired", "get new ones; a role or a profile renews them by itself"},
	{"NoSuchBucket", "there is no such bucket", "make it, or compare its name and the endpoint: offloader makes no buckets"},
	{"RequestTimeTooSkewed RequestExpired", "this machine's clock is wrong", "set the clock, and keep it right by NTP: requests are signed with the time"},
	{"AuthorizationHeaderMalformed PermanentRedirect IllegalLocationConstraintException", "the bucket is in another region", "name the bucket's region"},
	{"SlowDown SlowDownWrite SlowDownRead ServiceUnavailable TooManyRequests Throttling", "the service asks for a pause", "nothing, if it goes away by itself; the spool keeps what waits"},
	{"InternalError", "the service has an error", "nothing, if it goes away by itself; the spool keeps what waits"},
	{"XMinioStorageFull InsufficientStorage QuotaExceeded XMinioAdminBucketQuotaExceeded", "the store is full", "make room there; nothing is lost while the spool has room"},
	{"NotImplemented", "", "offloader needs conditional writes (If-None-Match) and CRC32 checksums of a service, and what the configuration asks for: encryption, a storage class, tags"},
	{"BadDigest XAmzContentChecksumMismatch InvalidDigest", "what arrived there is not what was sent", "a part of the network changes bytes; nothing was stored"},
	{"InvalidRequest", "", "with object_lock: is Object Lock switched on for the bucket?"},
}

// rights are what an operation needs.
var rights = map[string]string{
	"put":  "s3:PutObject (with tags s3:PutObjectTagging, with object_lock s3:PutObjectRetention, with a KMS key kms:GenerateDataKey and kms:Decrypt)",
	"read": "s3:GetObject", "look at": "s3:GetObject", "list": "s3:ListBucket on the bucket itself", "look for": "s3:ListBucket on the bucket itself",
	"delete": "s3:DeleteObject",
}

// failed gives an error the words that help.
func (s *S3) failed(op, name string, patience time.Duration, err error) error {
	var kept *S3Error
	if errors.As(err, &kept) {
		return err // told already
	}
	e := &S3Error{Store: s.String(), Op: op, Name: name, Code: code(err), Err: err}
	var refused *net.OpError
	var noHost *net.DNSError
	var untrusted *tls.CertificateVerificationError
	var nobody *credentialsError
	where := s.o.Endpoint
	if where == "" {
		where = "AWS"
	}
	switch status := statusOf(err); {
	case exists(err):
		e.Err, e.Code, e.what = fs.ErrExist, "", "it exists"
	case e.Code == "NoSuchKey", errors.Is(err, fs.ErrNotExist):
		e.Err, e.what = fs.ErrNotExist, "there is none"
	case errors.As(err, &nobody):
		e.what, e.hint = "there are no credentials", "give AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, the machine's role, or access_key_id and secret_access_key_file in the configuration"
		if s.o.RoleARN != "" {
			e.what, e.hint = "the role "+s.o.RoleARN+" can't be taken on: "+last(err), "may these credentials call sts:AssumeRole for it? AWS is asked, or the service that AWS_ENDPOINT_URL_STS names"
		}
	case errors.Is(err, errTimeout), errors.Is(err, context.DeadlineExceeded):
		e.what, e.hint = fmt.Sprintf("%s has not answered within %s", where, patience), "does the service hang, or does a firewall swallow what is sent?"
	case errors.As(err, &noHost):
		e.what, e.hint = noHost.Error(), "is the endpoint's name right? A service that doesn't know buckets as names of hosts wants path_style"
	case errors.As(err, &untrusted):
		e.what, e.hint = untrusted.Error(), "if its authority is one of your own, AWS_CA_BUNDLE names the file that holds it"
	case errors.Is(err, syscall.ECONNREFUSED) && errors.As(err, &refused):
		e.what, e.hint = "nothing listens at "+refused.Addr.String(), "does the service run, and is its port right?"
	case e.Code == "AccessDenied", e.Code == "AllAccessDisabled", e.Code == "Forbidden", status == http.StatusForbidden && !told(e.Code):
		e.what, e.hint = "access is denied", "grant what it takes: "+rights[op]
	default:
		e.explain(err)
	}
	return e
}

// explain finds S3's code among the refusals.
func (e *S3Error) explain(err error) {
	for _, r := range refusals {
		if !slices.Contains(strings.Fields(r.code), e.Code) {
			continue
		}
		e.what, e.hint = r.what, r.hint
		if region := regionOf(err); region != "" && strings.Contains(r.code, "PermanentRedirect") {
			e.hint = "name the bucket's region: " + region
		}
		break
	}
	var sent *smithy.OperationError
	switch {
	case e.what != "":
	case e.Code == "" && errors.As(err, &sent):
		e.what = "the connection broke: " + last(err)
	case e.Code != "":
		e.what = last(err)
	default:
		e.what = err.Error()
	}
	status := statusOf(err)
	if e.Code == "" && status != 0 {
		e.what = fmt.Sprintf("the service answers %d %s", status, http.StatusText(status))
	}
	switch {
	case e.hint != "":
	case status == http.StatusInsufficientStorage:
		e.what, e.hint = "the store is full", "make room there; nothing is lost while the spool has room"
	case status >= http.StatusInternalServerError: // MinIO says no more of an object that its disk has damaged
		e.hint = "nothing, if it goes away by itself; else the service's own log says why: its disks may have damaged what is asked for"
	}
}

func told(code string) bool {
	return slices.ContainsFunc(refusals, func(r struct{ code, what, hint string }) bool {
		return slices.Contains(strings.Fields(r.code), code)
	})
}

// last is the innermost error's text, without the SDK's story of how it got there.
func last(err error) string {
	var api smithy.APIError
	if errors.As(err, &api) && api.ErrorMessage() != "" {
		return api.ErrorMessage()
	}
	for {
		next := errors.Unwrap(err)
		if next == nil {
			return err.Error()
		}
		err = next
	}
}

// code is S3's name for an error, "" where the answer had none. A HEAD's answer has no words, and
// the SDK makes some of the status.
func code(err error) string {
	var ours *S3Error
	if errors.As(err, &ours) {
		return ours.Code
	}
	var api smithy.APIError
	if errors.As(err, &api) && api.ErrorCode() != "UnknownError" {
		return api.ErrorCode()
	}
	return ""
}

func statusOf(err error) int {
	var r *awshttp.ResponseError
	if errors.As(err, &r) {
		return r.HTTPStatusCode()
	}
	return 0
}

// regionOf is the bucket's region, which AWS names when it is asked in another.
func regionOf(err error) string {
	var r *awshttp.ResponseError
	if errors.As(err, &r) && r.Response != nil {
		return r.Response.Header.Get("X-Amz-Bucket-Region")
	}
	return ""
}

// exists tells that a condition was not met: the name is taken.
func exists(err error) bool {
	return code(err) == "PreconditionFailed" || errors.Is(err, fs.ErrExist)
}

// again tells whether a request may do better the next time.
func again(err error) bool {
	var api smithy.APIError
	status := statusOf(err)
	switch c := code(err); {
	case errors.Is(err, errTimeout):
		return true
	case c == "XMinioStorageFull", status == http.StatusInsufficientStorage, status == http.StatusNotImplemented:
		return false
	case status == http.StatusTooManyRequests, status == http.StatusRequestTimeout, status >= 500:
		return true
	case c == "RequestTimeTooSkewed": // the SDK has learnt the service's time from the answer
		return true
	case c == "ConditionalRequestConflict", c == "OperationAborted", c == "RequestTimeout":
		return true
	}
	var sent *smithy.OperationError
	return errors.As(err, &sent) && !errors.As(err, &api) && status == 0 // the connection broke
}
