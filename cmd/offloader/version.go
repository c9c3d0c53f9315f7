package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// version is set by the linker (-X main.version=…); without it the module's own is told.
var version string

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Tell this program's version",
		Long:    "Tell this program's version, the commit it was built from, and the Go it was built with.\n" + exitCodes,
		Example: "  offloader version\n  offloader version --json",
		Args:    noArgs,
		RunE: func(*cobra.Command, []string) error {
			b := build()
			if a.json {
				return a.term.json(b)
			}
			text := fmt.Sprintf("offloader %s (%s", b.Version, b.Go)
			if b.Commit != "" {
				text += ", commit " + b.Commit
			}
			return a.term.print("%s)", text)
		},
	}
}

// buildInfo is what this program was made of.
type buildInfo struct {
	Version string `json:"version"`
	Go      string `json:"go"`
	Commit  string `json:"commit"` // "" where it was not built in a repository
}

func build() buildInfo {
	b := buildInfo{Version: version, Go: runtime.Version()}
	info, ok := debug.ReadBuildInfo()
	if ok && b.Version == "" {
		b.Version = info.Main.Version
	}
	if b.Version == "" {
		b.Version = "(devel)"
	}
	if !ok {
		return b
	}
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			b.Commit = s.Value
		case s.Key == "vcs.modified" && s.Value == "true" && b.Commit != "":
			b.Commit += "+changes"
		}
	}
	return b
}
