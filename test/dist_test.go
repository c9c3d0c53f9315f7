package test

import (
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestDist: what make dist makes is installed and works, holds what it should, and is the same to the byte wherever
// and by whomever it is built. One architecture, in a tree without git; make dist makes both.
func TestDist(t *testing.T) {
	t.Parallel()
	dist := func(umask string) (out string, sums string) {
		tree := filepath.Join(t.TempDir(), "offloader")
		copyTree(t, "..", tree)
		cmd := exec.CommandContext(t.Context(), "bash", "-c", "umask "+umask+" && scripts/dist")
		cmd.Dir = tree
		cmd.Env = append(os.Environ(), "ARCHS="+runtime.GOARCH, "VERSION=v9.8.7-6-gabcdef0", "SOURCE_DATE_EPOCH=1750000000", "OUT=dist")
		text, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", text)
		out = filepath.Join(tree, "dist")
		read, err := os.ReadFile(filepath.Join(out, "SHA256SUMS"))
		require.NoError(t, err)
		return out, string(read)
	}
	out, sums := dist("022")
	_, again := dist("077")
	require.Equal(t, sums, again)
	sh := func(line string) string {
		cmd := exec.CommandContext(t.Context(), "bash", "-euo", "pipefail", "-c", line)
		cmd.Dir = out
		text, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s\n%s", line, text)
		return string(text)
	}
	require.Equal(t, 3, strings.Count(sh("sha256sum --check SHA256SUMS"), ": OK"))

	deb := "offloader_9.8.7+6+gabcdef0_" + runtime.GOARCH + ".deb"
	sh("dpkg-deb -x " + deb + " root && dpkg-deb -e " + deb + " control && cd root && md5sum --check --quiet ../control/md5sums")
	require.Contains(t, sh("root/usr/bin/offloader version"), "v9.8.7-6-gabcdef0")
	program, err := elf.Open(filepath.Join(out, "root/usr/bin/offloader"))
	require.NoError(t, err)
	defer program.Close()
	libraries, err := program.ImportedLibraries()
	require.NoError(t, err)
	require.Empty(t, libraries, "it is static")
	for _, page := range []string{"README.md", "docs/operations.md", "configs/offloader.yaml", "configs/alerts.yaml", "configs/redis-rebirth.conf", "copyright"} {
		require.FileExists(t, filepath.Join(out, "root/usr/share/doc/offloader", page))
	}
	licences := sh("cat root/usr/share/doc/offloader/licences.txt")
	for _, module := range []string{"filippo.io/age ", "github.com/klauspost/compress ", "github.com/aws/aws-sdk-go-v2 ", "Go go1"} {
		require.Contains(t, licences, "==== "+module)
	}
	require.Equal(t, "drwxr-xr-x root/root", strings.Join(strings.Fields(sh("dpkg-deb -c " + deb + " | sed -n 1p"))[:2], " "))

	// Its scripts change nothing where no systemd runs, and ask it for the least where one does.
	for script, arguments := range map[string]string{"postinst": "configure", "prerm": "remove", "postrm": "purge"} {
		sh("sh -n control/" + script + " && test -x control/" + script)
		if _, err := os.Stat("/run/systemd/system"); err != nil {
			require.Empty(t, sh("control/"+script+" "+arguments))
		}
	}
	if _, err := exec.LookPath("systemd-analyze"); err == nil { // a container may be without
		unit := "root/usr/lib/systemd/system/offloader.service"
		sh("sed -i s,/usr/bin/offloader,$PWD/root/usr/bin/offloader, " + unit + " && systemd-analyze verify --man=no " + unit)
	}
}
