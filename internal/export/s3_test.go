package export

import (
	"bytes"
	"crypto/rand"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/store/s3test"
)

// passing hides that a reader could be read anywhere, which what comes from a master can't.
type passing struct{ io.Reader }

// An object has the key that the template gives, and nothing but the RDB in it, also where it goes
// in parts. What is there is never replaced; what the service gives back changed is taken away, or
// named where that isn't allowed.
func TestAnExportToABucket(t *testing.T) {
	s3test.Each(t, func(t *testing.T, kind s3test.Kind) {
		t.Setenv("AWS_ACCESS_KEY_ID", s3test.AccessKey)
		t.Setenv("AWS_SECRET_ACCESS_KEY", s3test.SecretKey)
		server := s3test.Start(t, kind)
		bucket, proxy := server.Bucket(s3test.Plain), s3test.NewProxy(t, server)
		at := func(key string) Options {
			return to(t, "s3://"+bucket+"/"+key+"?endpoint="+url.QueryEscape(proxy.Endpoint())+"&region="+s3test.Region+"&path-style=true")
		}
		get := func(key string) []byte {
			out, err := server.Client().GetObject(t.Context(), &s3.GetObjectInput{Bucket: &bucket, Key: &key})
			require.NoError(t, err)
			b, err := io.ReadAll(out.Body)
			require.NoError(t, err)
			return b
		}
		value := make([]byte, 20<<20)
		_, err := rand.Read(value)
		require.NoError(t, err)
		small := rdbOf("0011")
		big := rdbOf("0011", append([]byte{0, 1, 'b', 0x80, 0x01, 0x40, 0, 0}, value...)...)
		for key, rdb := range map[string][]byte{"cache/{source}%20{offset}.rdb": small, "{time}": big} {
			r, err := Run(t.Context(), at(key), from(t.Context(), passing{bytes.NewReader(rdb)}))
			require.NoError(t, err)
			require.EqualValues(t, len(rdb), r.Bytes)
		}
		require.Equal(t, small, get("cache/cache 1537789.rdb"))
		require.Equal(t, big, get("20261125T030000Z"))
		for _, rdb := range [][]byte{small, big} {
			_, err := Run(t.Context(), at("{time}"), from(t.Context(), passing{bytes.NewReader(rdb)}))
			var exists *ExistsError
			require.ErrorAs(t, err, &exists)
		}
		require.Equal(t, big, get("20261125T030000Z"))

		flip := func(r *http.Request) s3test.Fault {
			return s3test.Fault{Flip: r.Method == http.MethodGet && strings.Contains(r.URL.Path, "bad")}
		}
		proxy.Harm(flip)
		_, err = Run(t.Context(), at("bad"), from(t.Context(), bytes.NewReader(small)))
		require.ErrorContains(t, err, "was no good, and was taken away")
		proxy.Harm(func(r *http.Request) s3test.Fault {
			if r.Method == http.MethodDelete {
				return s3test.Fault{Status: http.StatusForbidden, Code: "AccessDenied"}
			}
			return flip(r)
		})
		_, err = Run(t.Context(), at("kept-bad"), from(t.Context(), bytes.NewReader(small)))
		require.ErrorContains(t, err, "kept-bad")
		require.ErrorContains(t, err, "it could not be taken away")
		proxy.Harm(func(r *http.Request) s3test.Fault {
			if r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, "unread") {
				return s3test.Fault{Status: http.StatusForbidden, Code: "AccessDenied"}
			}
			return s3test.Fault{}
		})
		_, err = Run(t.Context(), at("unread"), from(t.Context(), bytes.NewReader(small)))
		require.ErrorContains(t, err, "was taken away: it could not be read back")
		require.ErrorContains(t, err, "access is denied")
		var keys []string
		out, err := server.Client().ListObjectsV2(t.Context(), &s3.ListObjectsV2Input{Bucket: &bucket})
		require.NoError(t, err)
		for _, o := range out.Contents {
			keys = append(keys, *o.Key)
		}
		require.ElementsMatch(t, []string{"20261125T030000Z", "cache/cache 1537789.rdb", "kept-bad"}, keys)
	})
}
