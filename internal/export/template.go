package export

import (
	"fmt"
	"slices"
	"strings"

	"github.com/offloader/offloader/internal/store"
	"github.com/offloader/offloader/internal/stream"
)

// Point is the moment of a source that is exported.
type Point struct {
	Source   string        `json:"source"`
	Timeline string        `json:"timeline"`
	Offset   stream.Offset `json:"offset"`
	Time     stream.Time   `json:"time"`
}

// timeLayout sorts, and is safe in the name of a file, in a URL and in a shell.
const timeLayout = "20060102T150405Z"

// placeholders are the words in braces that a Template may have.
var placeholders = []struct {
	name  string
	value func(Point) string
}{
	{"source", func(p Point) string { return p.Source }},
	{"time", func(p Point) string { return p.Time.Go().Format(timeLayout) }},
	{"offset", func(p Point) string { return p.Offset.String() }},
	{"timeline", func(p Point) string { return p.Timeline }},
}

// Placeholders are their names.
func Placeholders() []string {
	var names []string
	for _, p := range placeholders {
		names = append(names, p.name)
	}
	return names
}

// sample is any point: a template that is right for it is right for all.
var sample = Point{Source: "source", Timeline: "timeline", Offset: 1, Time: 1}

// A Template says where exports go: a path or an s3:// URL, in which placeholders stand for what
// differs from one export to the next. The zero Template is none.
type Template struct{ text string }

// A PlaceholderError is a word in braces that isn't known.
type PlaceholderError struct{ Name string }

func (e *PlaceholderError) Error() string { return fmt.Sprintf("unknown placeholder {%s}", e.Name) }

// ParseTemplate takes /path, file:///path or s3://bucket/key?endpoint=…, with {source}, {time},
// {offset} and {timeline} where they are wanted. An unknown one is a *PlaceholderError.
func ParseTemplate(text string) (Template, error) {
	t := Template{text}
	rest := text
	for {
		before, after, open := strings.Cut(rest, "{")
		if strings.Contains(before, "}") {
			return Template{}, fmt.Errorf("%q has a } without its {", text)
		}
		if !open {
			break
		}
		name, behind, closed := strings.Cut(after, "}")
		if !closed || strings.Contains(name, "{") {
			return Template{}, fmt.Errorf("%q has a { without its }", text)
		}
		if !slices.Contains(Placeholders(), name) {
			return Template{}, &PlaceholderError{name}
		}
		rest = behind
	}
	if _, err := parsePlace(t.fill(sample)); err != nil {
		return Template{}, err
	}
	return t, nil
}

// String is the text that was parsed.
func (t Template) String() string { return t.text }

// Equal tells whether both were made of the same text.
func (t Template) Equal(o Template) bool { return t.text == o.text }

// Has tells whether a placeholder is in it.
func (t Template) Has(name string) bool { return strings.Contains(t.text, "{"+name+"}") }

func (t Template) fill(p Point) string {
	var pairs []string
	for _, h := range placeholders {
		pairs = append(pairs, "{"+h.name+"}", h.value(p))
	}
	return strings.NewReplacer(pairs...).Replace(t.text)
}

// At is where a source's exports go, as far as that is known beforehand: a path, or a bucket with
// the key as its prefix. It is for whoever has to keep exports out of archives.
func (t Template) At(source string) (path string, bucket store.S3Options) {
	p := sample
	p.Source = source
	where, err := parsePlace(t.fill(p))
	if err != nil {
		return "", bucket // impossible: it was parsed with another source's name
	}
	bucket = where.bucket
	bucket.Prefix = where.key
	return where.path, bucket
}
