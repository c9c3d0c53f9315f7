package export

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/offloader/offloader/internal/store"
	"github.com/offloader/offloader/internal/stream"
)

// at is a point whose parts are easily told.
func at() Point {
	moment := time.Date(2026, 11, 25, 4, 0, 0, 0, time.FixedZone("", 3600))
	return Point{Source: "cache", Timeline: "20261125T010203.456Z-0123abcd", Offset: 1537789, Time: stream.TimeOf(moment)}
}

func TestTemplates(t *testing.T) {
	for text, want := range map[string]place{
		"/srv/{source}-{time}.rdb":             {path: "/srv/cache-20261125T030000Z.rdb"},
		"/srv//{source}/./{offset}.rdb":        {path: "/srv/cache/1537789.rdb"},
		"dump.rdb":                             {path: "dump.rdb"},
		"file:///srv/a%20b/{timeline}.rdb":     {path: "/srv/a b/20261125T010203.456Z-0123abcd.rdb"},
		"s3://exports/cache/{time}/{time}.rdb": {bucket: store.S3Options{Bucket: "exports"}, key: "cache/20261125T030000Z/20261125T030000Z.rdb"},
		"s3://x-{source}/a%23b?endpoint=http://127.0.0.1:9000&region=r&path-style=true": {
			bucket: store.S3Options{Bucket: "x-cache", Endpoint: "http://127.0.0.1:9000", Region: "r", PathStyle: true}, key: "a#b"},
	} {
		template, err := ParseTemplate(text)
		require.NoError(t, err, text)
		require.Equal(t, text, template.String())
		got, err := parsePlace(template.fill(at()))
		require.NoError(t, err, text)
		require.NotContains(t, got.text, "{")
		got.text = ""
		require.Equal(t, want, got, text)
	}
	for text, want := range map[string]string{
		"":                               "it is empty",
		"/srv/{tme}.rdb":                 "unknown placeholder {tme}",
		"/srv/{Time}.rdb":                "unknown placeholder {Time}",
		"/srv/{}.rdb":                    "unknown placeholder {}",
		"/srv/{time.rdb":                 "has a { without its }",
		"/srv/{{time}}.rdb":              "has a { without its }",
		"/srv/time}.rdb":                 "has a } without its {",
		"/srv/exports/":                  "is a folder: name the file too, like /srv/exports/dump.rdb",
		"/":                              "is a folder",
		".":                              "is a folder",
		"/srv/.{source}":                 "begins with a dot",
		"/srv/a\x00b":                    "is not a path",
		"file://srv/dump.rdb":            "has no absolute path",
		"redis://user:secret@127.0.0.1/": "nothing is known of redis://",
		"s3://exports":                   "names no object",
		"s3://exports/cache/":            "names no object: say s3://bucket/key, like s3://exports/cache/dump.rdb",
		"s3://exports/a//b":              "has a part that is empty",
		"s3://exports/.a/b":              "begins with a dot",
		"s3://exports/a?reqion=x":        `unknown parameter "reqion": did you mean "region"?`,
		"s3://key:secret@exports/a":      "keys don't belong into a URL",
	} {
		_, err := ParseTemplate(text)
		require.ErrorContains(t, err, want, text)
		require.NotContains(t, err.Error(), "secret", text)
		require.NotContains(t, err.Error(), "archive", text)
	}
}

// What is taken for a template leads to one place for each point, whatever its source is called,
// and to another place for another one where it has the placeholder that tells them apart.
func TestAnyTemplate(t *testing.T) {
	part := rapid.OneOf(rapid.SampledFrom([]string{"{source}", "{time}", "{offset}", "{timeline}", "/", "a", ".", "{", "}", "s3://", "?", "%20", "é"}), rapid.StringN(0, 3, -1))
	source := rapid.StringMatching(`[a-zA-Z0-9_-][a-zA-Z0-9._-]{0,20}`)
	rapid.Check(t, func(t *rapid.T) {
		text := strings.Join(rapid.SliceOfN(part, 0, 6).Draw(t, "parts"), "")
		template, err := ParseTemplate(text)
		if err != nil || strings.Contains(text, "..") { // "{offset}/.." is nothing
			return
		}
		p := at()
		p.Source = source.Draw(t, "source")
		p.Offset = stream.Offset(rapid.Int64Range(0, 1<<62).Draw(t, "offset"))
		here, err := parsePlace(template.fill(p))
		if err != nil {
			t.Fatalf("%q was taken, and for %+v it is: %v", template, p, err)
		}
		if (here.path == "") == (here.key == "") {
			t.Fatalf("%q is neither a file nor an object: %+v", template, here)
		}
		next := p
		next.Offset++
		there, err := parsePlace(template.fill(next))
		if err != nil {
			t.Fatal(err)
		}
		here.text, there.text = "", ""
		if template.Has("offset") == reflect.DeepEqual(here, there) {
			t.Fatalf("%q leads to %+v and %+v", template, here, there)
		}
	})
}
