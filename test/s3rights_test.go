package test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/engine/enginetest"
	"github.com/offloader/offloader/internal/store/s3test"
	"github.com/offloader/offloader/test/blackbox"
)

// Somebody who may put, get and list what is below the prefix, and nothing else, archives and restores: in
// parts, after an upload that failed and that may not be taken away, with snapshots and compaction. Who may delete
// as well tidies up and applies retention. What is refused meanwhile is named.
func TestS3LeastRights(t *testing.T) {
	t.Parallel()
	kind := enginetest.Any(t)
	for name, row := range map[string]struct {
		rights  []string
		refused []string // what may be
	}{
		"without deleting": {[]string{"s3:PutObject", "s3:GetObject"}, []string{"DELETE ", "GET object-lock"}},
		"with deleting":    {[]string{"s3:PutObject", "s3:GetObject", "s3:DeleteObject"}, []string{"DELETE uploadId", "GET object-lock"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := s3test.Start(t, s3test.MinIO)
			bucket, proxy := server.Bucket(s3test.Plain), s3test.NewProxy(t, server)
			refused := watchRefusals(proxy)
			master := enginetest.Start(t, kind)
			master.Do("SET", "noise", noise(t, 12<<20)) // a snapshot that goes in parts

			proxy.Harm(func(r *http.Request) s3test.Fault { // until an upload was given up
				if strings.Contains(r.URL.RawQuery, "partNumber") && !slices.Contains(refused(), "DELETE uploadId") {
					return s3test.Fault{CutUp: 1000}
				}
				return s3test.Fault{}
			})
			yaml := "sources: [{name: cache, address: %q}]\nspool: {path: $DIR/spool, min_free: 1%%}\nretention: {window: 1s}\n" +
				"stores: [{type: s3, bucket: %s, prefix: redis/, region: %s, endpoint: %q, path_style: true, upload_interval: 250ms}]\n"
			d := blackbox.StartWith(t, t.TempDir(), fmt.Sprintf(yaml, master.Addr(), bucket, s3test.Region, proxy.Endpoint()),
				append(server.Keys(bucket, "redis/", row.rights...), "AWS_CONFIG_FILE=/dev/null", "AWS_SHARED_CREDENTIALS_FILE=/dev/null")...)
			d.Streaming("cache")
			for i := range 4 { // segments that compaction replaces
				master.Do("SET", "segment", fmt.Sprint(i))
				stored(t, d, master.Offset())
			}
			d.Do("snapshot")
			master.Do("SET", "between", "1")
			stored(t, d, master.Offset())
			d.WaitFor(1200 * time.Millisecond) // longer than the window: what is before the snapshot may go
			master.Do("SET", "late", "1")
			late := note(t, master, 1)
			stored(t, d, late.offset)
			require.Contains(t, refused(), "DELETE uploadId", "an upload failed")
			d.Stop() // it compacts

			d.Do("verify")
			late.equals(t, kind, d.Restore(late.byOffset()...))
			segments := func() (n int) {
				for _, key := range server.Versions(bucket) {
					if strings.Contains(key, "/log/") {
						n++
					}
				}
				return n
			}
			there := segments()
			r := d.Run("prune")
			if mayDelete := len(row.rights) > 2; mayDelete {
				require.Zero(t, r.Code, "%s", r)
				require.Less(t, segments(), there, "%s", r)
				require.NotContains(t, r.Stderr, "keeps")
			} else {
				require.Equal(t, there, segments())
				require.Greater(t, there, 4, "what compaction has replaced stays")
				require.Equal(t, 1, r.Code, "%s", r)
				require.Contains(t, r.Stderr, "lets us delete nothing, so retention is not this archiver's job there")
			}
			late.equals(t, kind, d.Restore("--latest"))
			for _, what := range refused() {
				require.True(t, slices.ContainsFunc(row.refused, func(may string) bool { return strings.HasPrefix(what, may) }), "%s takes a right that isn't named", what)
			}
		})
	}
}

// watchRefusals collects what is refused: the request's method, and what it asks for beside an object.
func watchRefusals(proxy *s3test.Proxy) func() []string {
	var mu sync.Mutex
	var all []string
	proxy.Watch(func(r *http.Request, status int) {
		if status != http.StatusForbidden {
			return
		}
		what := r.Method + " "
		for _, sub := range []string{"uploadId", "object-lock", "versioning", "list-type", "uploads", "retention", "legal-hold", "tagging"} {
			if r.URL.Query().Has(sub) {
				what += sub
			}
		}
		mu.Lock()
		defer mu.Unlock()
		all = append(all, what)
	})
	return func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(all)
	}
}
