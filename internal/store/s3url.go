package store

import (
	"fmt"
	"net/url"
	"strconv"
	"strings"
)

// The parameters of an s3:// URL.
const (
	paramEndpoint  = "endpoint"
	paramRegion    = "region"
	paramPathStyle = "path-style"
)

// ParseS3 reads s3://bucket/prefix?endpoint=…&region=…&path-style=true, as String writes it.
// Credentials are not part of it: they come from the environment.
func ParseS3(rawURL string) (S3Options, error) {
	shown := rawURL
	if strings.Contains(rawURL, "@") {
		shown = "s3://…" // it may hold a key
	}
	fail := func(format string, args ...any) (S3Options, error) {
		return S3Options{}, &URLError{shown, fmt.Sprintf(format, args...)}
	}
	u, err := url.Parse(rawURL)
	switch {
	case err != nil:
		return fail("it is no URL")
	case u.Scheme != "s3":
		return fail("it is no s3:// URL")
	case u.User != nil:
		return fail("keys don't belong into a URL, where everybody can read them: give them in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or in a configuration")
	case u.Host == "":
		return fail("it names no bucket: say s3://bucket/prefix")
	case u.Port() != "":
		return fail("%q is no bucket: a service that isn't AWS is named by ?endpoint=https://host:port", u.Host)
	case u.Fragment != "":
		return fail("it has a #: in a prefix say %%23")
	}
	o := S3Options{Bucket: u.Host, Prefix: strings.Trim(u.Path, "/")}
	params, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return fail("what follows the question mark can't be read: %v", err)
	}
	for name, values := range params {
		if len(values) > 1 {
			return fail("%q is given twice", name)
		}
		value := values[0]
		switch name {
		case paramEndpoint:
			if o.Endpoint, err = endpoint(value); err != nil {
				return fail("%v", err)
			}
		case paramRegion:
			o.Region = value
		case paramPathStyle:
			if o.PathStyle, err = strconv.ParseBool(value); err != nil {
				return fail("%s is true or false, not %q", name, value)
			}
		default:
			return fail("unknown parameter %q: %s", name, meant(name))
		}
	}
	return o, nil
}

// meant names the known parameter that begins most like this one.
func meant(name string) string {
	known := []string{paramEndpoint, paramRegion, paramPathStyle}
	plain := strings.NewReplacer("-", "", "_", "")
	best, nearest := 1, "" // one letter in common is chance
	for _, k := range known {
		a, b := strings.ToLower(plain.Replace(name)), plain.Replace(k)
		n := 0
		for n < min(len(a), len(b)) && a[n] == b[n] {
			n++
		}
		if n > best {
			best, nearest = n, k
		}
	}
	if nearest == "" {
		return "there are " + strings.Join(known, ", ")
	}
	return fmt.Sprintf("did you mean %q?", nearest)
}

// endpoint reads where a service listens: http(s)://host or http(s)://host:port.
func endpoint(s string) (string, error) {
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
		return "", fmt.Errorf("%q is no endpoint: say https://host or http://host:port", s)
	case u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "":
		return "", fmt.Errorf("an endpoint is https://host:port and nothing more: the bucket, the prefix and the keys stand elsewhere")
	}
	return u.Scheme + "://" + u.Host, nil
}

// String is the URL that opens the same place, for who has the rights.
func (s *S3) String() string {
	var b strings.Builder
	b.WriteString("s3://" + s.o.Bucket)
	for _, part := range strings.Split(s.o.Prefix, "/") {
		if s.o.Prefix != "" {
			b.WriteString("/" + url.PathEscape(part))
		}
	}
	mark := "?"
	param := func(name, value string) {
		if value == "" {
			return
		}
		// Slashes and colons need no escape here, and an address is read by people.
		b.WriteString(mark + name + "=" + strings.NewReplacer("%3A", ":", "%2F", "/").Replace(url.QueryEscape(value)))
		mark = "&"
	}
	param(paramEndpoint, s.o.Endpoint)
	param(paramRegion, s.o.Region)
	if s.o.PathStyle {
		param(paramPathStyle, "true")
	}
	return b.String()
}
