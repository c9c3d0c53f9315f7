package test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/store/s3test"
	"github.com/offloader/offloader/test/blackbox"
)

// Whom the service takes us for, by everything that the configuration has for it: a profile, whatever else
// the environment says, the files of AWS, and a role, which the service itself gives. What is wrong with it is
// said.
func TestS3Identities(t *testing.T) {
	t.Parallel()
	server := s3test.Start(t, s3test.MinIO)
	bucket, proxy := server.Bucket(s3test.Plain), s3test.NewProxy(t, server)
	var mu sync.Mutex
	var keys, tokens []string // those of the last run
	proxy.Watch(func(r *http.Request, _ int) {
		mu.Lock()
		defer mu.Unlock()
		_, rest, _ := strings.Cut(r.Header.Get("Authorization"), "Credential=")
		key, _, _ := strings.Cut(rest, "/")
		keys, tokens = append(keys, key), append(tokens, r.Header.Get("X-Amz-Security-Token"))
	})

	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		return path
	}
	pair := func(key, secret string) string {
		return fmt.Sprintf("aws_access_key_id=%s\naws_secret_access_key=%s\n", key, secret)
	}
	right, wrong := pair(s3test.AccessKey, s3test.SecretKey), pair("AKNOBODY", "x")
	config := file("config", "[profile archiver]\nregion="+s3test.Region+"\n[profile taken]\nrole_arn=arn:aws:iam::123456789012:role/archiver\nsource_profile=archiver\n")
	chosen, first := file("chosen", "[default]\n"+wrong+"[archiver]\n"+right), file("first", "[default]\n"+right)
	const role = "role_arn: \"arn:aws:iam::123456789012:role/archiver\""
	owner := fmt.Sprintf("access_key_id: %s, secret_access_key_file: %s", s3test.AccessKey, file("secret", s3test.SecretKey))
	stranger := fmt.Sprintf("access_key_id: %s, secret_access_key_file: %s", s3test.AccessKey, file("other", "something else"))
	sts, nowhere := "AWS_ENDPOINT_URL_STS="+server.Endpoint(), "AWS_ENDPOINT_URL_STS=http://127.0.0.1:1"

	for _, row := range []struct {
		name, store string
		credentials string
		env         []string
		says, hint  string // "": all is well
		taken       bool   // by a role
	}{
		{name: "profile", store: "profile: archiver", credentials: chosen, env: []string{"AWS_ACCESS_KEY_ID=AKNOBODY", "AWS_SECRET_ACCESS_KEY=x"}},
		{name: "no profile named", store: "", credentials: chosen, says: "the access key is not known there", hint: "access_key_id"},
		{name: "profile by the environment", store: "", credentials: chosen, env: []string{"AWS_PROFILE=archiver"}},
		{name: "profile that isn't there", store: "profile: archivist", credentials: chosen, says: "archivist", hint: "see AWS's configuration"},
		{name: "files", store: "", credentials: first},
		{name: "key's file", store: strings.ReplaceAll(owner, "access_key_id: "+s3test.AccessKey, "access_key_id_file: "+file("key", s3test.AccessKey+"\n"))},
		{name: "role", store: owner + ", " + role, env: []string{sts}, taken: true},
		{name: "role by a profile", store: "profile: archiver, " + role, credentials: chosen, env: []string{sts}, taken: true},
		{name: "role that the profile names", store: "profile: taken", credentials: chosen, env: []string{sts}, taken: true},
		{name: "role that is refused", store: stranger + ", " + role, env: []string{sts}, says: "the role arn:aws:iam::123456789012:role/archiver can't be taken on: ", hint: "may these credentials call sts:AssumeRole for it?"},
		{name: "nobody gives roles", store: owner + ", " + role, env: []string{nowhere}, says: "role/archiver can't be taken on: ", hint: "AWS_ENDPOINT_URL_STS"},
	} {
		t.Run(row.name, func(t *testing.T) {
			mu.Lock()
			keys, tokens = nil, nil
			mu.Unlock()
			yaml := fmt.Sprintf("sources: [{name: cache, address: \"127.0.0.1:1\"}]\nspool: {path: %s/spool, min_free: 1%%}\nstores: [{type: s3, bucket: %s, prefix: p, region: %s, endpoint: %q, path_style: true, %s}]\nhttp: {listen: \"127.0.0.1:0\"}\n",
				dir, bucket, s3test.Region, proxy.Endpoint(), row.store)
			env := append([]string{"AWS_EC2_METADATA_DISABLED=true", "AWS_CONFIG_FILE=" + config, "AWS_SHARED_CREDENTIALS_FILE=" + row.credentials}, row.env...)
			r := blackbox.Run(t, append(env, "list", "--config", file("c.yaml", yaml), "--json")...)
			if row.says != "" {
				require.Equal(t, 1, r.Code, "%s", r)
				require.Contains(t, r.String(), row.says)
				require.Contains(t, r.String(), row.hint)
				require.NotContains(t, r.String(), "something else", "a secret is nobody's business")
				return
			}
			require.Zero(t, r.Code, "%s", r)
			mu.Lock()
			defer mu.Unlock()
			require.NotEmpty(t, keys)
			for i, key := range keys {
				require.Equal(t, row.taken, key != s3test.AccessKey, "whose keys they are: %s", key)
				require.Equal(t, row.taken, tokens[i] != "")
			}
		})
	}
}
