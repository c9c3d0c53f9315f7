package config

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// DefaultUploadInterval bounds the age of what a bucket hasn't got.
const DefaultUploadInterval = Duration(time.Second)

// The bounds of upload_interval: the spool is looked at four times a second, and what isn't
// stored is what the loss of this machine costs.
const (
	minUploadInterval = Duration(250 * time.Millisecond)
	maxUploadInterval = Duration(time.Hour)
)

// maxTags is S3's limit for an object.
const maxTags = 10

// The types of stores.
const (
	TypeDisk = "disk"
	TypeS3   = "s3"
)

// Store is where archives are kept.
type Store struct {
	Type           string
	Path           string   // of a disk
	S3             S3       // of a bucket
	UploadInterval Duration // 0: the daemon's own

	Retention *Retention // nil: that of the whole configuration
}

// S3 is a bucket and how to get at it.
type S3 struct {
	Bucket    string
	Prefix    string
	Region    string
	Endpoint  string // "" for AWS
	PathStyle bool

	Profile         string
	RoleARN         string
	AccessKeyID     string // "" for the default chain of AWS
	SecretAccessKey Secret

	Encryption   string // "AES256", "aws:kms", "" for what the bucket does by itself
	KMSKeyID     string
	StorageClass string
	Tags         map[string]string
	LockMode     string // "GOVERNANCE", "COMPLIANCE", "" for none
	LockFor      Duration
}

func (r *reader) stores(n node, c *Config) {
	seen := map[string]bool{}
	for _, item := range r.list(n, "stores") {
		before := len(c.Stores)
		r.store(item, c)
		if len(c.Stores) == before {
			continue // its own error was told
		}
		if where := c.Stores[before].where(); seen[where] {
			r.fail(r.at(item), "this store is named before: "+where)
		} else {
			seen[where] = true
		}
	}
}

// where is the place that a store is, so that it isn't taken for two.
func (s Store) where() string {
	if s.Type == TypeS3 {
		return "s3 bucket " + s.S3.Bucket + " at " + cmp.Or(s.S3.Endpoint, "AWS") + ", prefix " + strings.Trim(s.S3.Prefix, "/")
	}
	return "folder " + filepath.Clean(s.Path)
}

// store reads one. The type decides which fields there are.
func (r *reader) store(n node, c *Config) {
	kind, at := r.peek(n, "type")
	switch kind {
	case TypeDisk, "":
		r.disk(n, c)
	case TypeS3:
		r.s3(n, c)
	default:
		r.fail(at, fmt.Sprintf("%q is not a type of store%s", kind, suggestion(kind, []string{TypeDisk, TypeS3})))
	}
}

func (r *reader) disk(n node, c *Config) {
	s := Store{Type: TypeDisk}
	given := r.mapping(n, "store", []field{
		{"type", func(n node) { r.value(n, &s.Type, notEmpty) }},
		{"path", func(n node) { r.value(n, &s.Path, path) }},
		{"retention", func(n node) { s.Retention = r.retention(n) }},
	})
	if given == nil {
		return
	}
	if !given["type"] {
		r.fail(r.at(n), "this store has no \"type\": say disk, or s3")
	}
	if !given["path"] {
		r.fail(r.at(n), "this store has no \"path\": name the archive's folder")
	}
	c.Stores = append(c.Stores, s)
}

func (r *reader) s3(n node, c *Config) {
	s := Store{Type: TypeS3, UploadInterval: DefaultUploadInterval}
	b := &s.S3
	var id Secret // not secret, but read like one
	given := r.mapping(n, "store", []field{
		{"type", func(n node) { r.value(n, &s.Type, notEmpty) }},
		{"bucket", func(n node) { r.value(n, &b.Bucket, bucketName) }},
		{"prefix", func(n node) { r.value(n, &b.Prefix, prefix) }},
		{"region", func(n node) { r.value(n, &b.Region, notEmpty) }},
		{"endpoint", func(n node) { r.value(n, &b.Endpoint, webAddress) }},
		{"path_style", func(n node) { read(r, n, &b.PathStyle, yesOrNo) }},
		{"upload_interval", func(n node) { read(r, n, &s.UploadInterval, between(minUploadInterval, maxUploadInterval)) }},
		{"profile", func(n node) { r.value(n, &b.Profile, notEmpty) }},
		{"role_arn", func(n node) { r.value(n, &b.RoleARN, roleARN) }},
		{"access_key_id", func(n node) { r.key(n, &id, (*reader).secret) }},
		{"access_key_id_file", func(n node) { r.key(n, &id, (*reader).secretFile) }},
		{"secret_access_key", func(n node) { r.key(n, &b.SecretAccessKey, (*reader).secret) }},
		{"secret_access_key_file", func(n node) { r.key(n, &b.SecretAccessKey, (*reader).secretFile) }},
		{"server_side_encryption", func(n node) { r.encryption(n, b) }},
		{"storage_class", func(n node) { r.value(n, &b.StorageClass, storageClass) }},
		{"tags", func(n node) { r.tags(n, b) }},
		{"object_lock", func(n node) { r.objectLock(n, b) }},
		{"retention", func(n node) { s.Retention = r.retention(n) }},
	})
	if given == nil {
		return
	}
	if !given["bucket"] {
		r.fail(r.at(n), "this store has no \"bucket\"")
	}
	for _, secret := range []string{"access_key_id", "secret_access_key"} {
		if given[secret] && given[secret+"_file"] {
			r.fail(r.where["store."+secret+"_file"], fmt.Sprintf("both %q and %q are given: keep one", secret, secret+"_file"))
		}
	}
	key, secret := given["access_key_id"] || given["access_key_id_file"], given["secret_access_key"] || given["secret_access_key_file"]
	switch {
	case key && !secret:
		r.fail(r.at(n), "there is an access key and no secret for it: add \"secret_access_key_file\"")
	case secret && !key:
		r.fail(r.at(n), "there is a secret and no access key that it belongs to: add \"access_key_id\"")
	case key && given["profile"]:
		r.fail(r.where["store.profile"], "there are both an access key and a \"profile\": keep one")
	}
	if b.AccessKeyID = string(id); id == "" || b.SecretAccessKey == "" {
		b.AccessKeyID, b.SecretAccessKey = "", "" // half of it is nobody's
	}
	c.Stores = append(c.Stores, s)
}

// key reads a part of the credentials. Who reads the archive may be another than the daemon, and
// have others: what can't be had is no error then.
func (r *reader) key(n node, to *Secret, read func(*reader, node, *Secret)) {
	if !r.namesOnly {
		read(r, n, to)
		return
	}
	quiet := *r
	quiet.errs = nil
	read(&quiet, n, to)
	for _, err := range quiet.errs {
		r.warnings = append(r.warnings, err.Error()+"; going on with the credentials that AWS's environment has")
	}
}

func (r *reader) secretFile(n node, to *Secret) {
	var file string
	r.value(n, &file, notEmpty)
	r.passwordFile(n, file, to)
}

func (r *reader) encryption(n node, b *S3) {
	given := r.mapping(n, "server_side_encryption", []field{
		{"type", func(n node) { r.value(n, &b.Encryption, oneOf("a kind of encryption", "AES256", "aws:kms")) }},
		{"kms_key_id", func(n node) { r.value(n, &b.KMSKeyID, notEmpty) }},
	})
	switch {
	case given == nil:
	case !given["type"]:
		r.fail(r.at(n), "this has no \"type\": say AES256 or aws:kms")
	case given["kms_key_id"] && b.Encryption == "AES256":
		r.fail(r.where["server_side_encryption.kms_key_id"], "a key goes with type aws:kms")
	}
}

func (r *reader) objectLock(n node, b *S3) {
	given := r.mapping(n, "object_lock", []field{
		{"mode", func(n node) {
			r.value(n, &b.LockMode, oneOf("a mode of locks", "governance", "compliance"))
			b.LockMode = strings.ToUpper(b.LockMode)
		}},
		{"retain", func(n node) { read(r, n, &b.LockFor, between(Duration(time.Minute), Duration(100*365*day))) }},
	})
	if given != nil && !(given["mode"] && given["retain"]) {
		r.fail(r.at(n), "a lock has a \"mode\", governance or compliance, and how long it is to \"retain\", like 30d")
	}
}

// tags are the user's own names and values.
func (r *reader) tags(n node, b *S3) {
	pairs, ok := r.pairs(n, "tags", 0)
	if !ok {
		return
	}
	if len(pairs) > maxTags {
		r.fail(r.at(n), fmt.Sprintf("an object has at most %d tags, these are %d", maxTags, len(pairs)))
		return
	}
	b.Tags = map[string]string{}
	for _, p := range pairs {
		if _, twice := b.Tags[p.key]; twice {
			r.fail(p.at, fmt.Sprintf("%q is given twice", p.key))
		}
		var value string
		r.value(p.value, &value, func(s string) (string, error) { return s, nil })
		b.Tags[p.key] = value
	}
}

var bucketChars = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{1,62}$`)

func bucketName(s string) (string, error) {
	switch {
	case strings.Contains(s, "://"):
		return "", fmt.Errorf("%q is a URL: name the bucket alone, and \"prefix\" and \"endpoint\" beside it", s)
	case strings.Contains(s, "/"):
		return "", fmt.Errorf("%q is more than a bucket: what follows the slash is the \"prefix\"", s)
	case !bucketChars.MatchString(s):
		return "", fmt.Errorf("%q is no bucket's name: it has letters, digits, dots and dashes", s)
	}
	return s, nil
}

func prefix(s string) (string, error) {
	if strings.ContainsFunc(s, func(c rune) bool { return c < ' ' }) || len(s) > 512 {
		return "", fmt.Errorf("%q can't be a prefix", s)
	}
	return strings.Trim(s, "/"), nil
}

// webAddress takes a service's endpoint.
func webAddress(s string) (string, error) {
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
		return "", fmt.Errorf("%q is no endpoint: say https://host or http://host:port", s)
	case u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "":
		return "", errors.New("an endpoint is https://host:port and nothing more: bucket, prefix and keys have fields of their own")
	}
	return u.Scheme + "://" + u.Host, nil
}

func roleARN(s string) (string, error) {
	if !strings.HasPrefix(s, "arn:") {
		return "", fmt.Errorf("%q is no role: say arn:aws:iam::123456789012:role/name", s)
	}
	return s, nil
}

// storageClass leaves out those whose objects have to be asked for hours ahead.
func storageClass(s string) (string, error) {
	switch s {
	case "":
		return notEmpty(s)
	case "GLACIER", "DEEP_ARCHIVE":
		return "", fmt.Errorf("what is stored as %s can't be read at once, and a restore needs that: say GLACIER_IR or STANDARD_IA", s)
	}
	return s, nil
}

func yesOrNo(s string) (bool, error) {
	switch s {
	case "true":
		return true, nil
	case "false":
		return false, nil
	}
	return false, fmt.Errorf("%q is neither true nor false", s)
}

// oneOf takes one of a few words, whatever its case.
func oneOf(what string, words ...string) func(string) (string, error) {
	return func(s string) (string, error) {
		if i := slices.IndexFunc(words, func(w string) bool { return strings.EqualFold(w, s) }); i >= 0 {
			return words[i], nil
		}
		return "", fmt.Errorf("%q is not %s%s", s, what, suggestion(s, words))
	}
}
