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

	// Its scripts make the unit's user, once, and take nothing away again. What they would change here they change in a folder.
	scratch := t.TempDir()
	for path, text := range map[string]string{
		"etc/passwd": "root:x:0:0:root:/root:/bin/sh\n", "etc/group": "root:x:0:\n", "var/lib/offloader/archive/k": "v",
		"var/lib/dpkg/status": "", "var/lib/dpkg/info/x": "", "var/lib/dpkg/updates/x": "",
	} {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(scratch, path)), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(scratch, path), []byte(text), 0o600))
	}
	require.NoError(t, os.Remove(filepath.Join(scratch, "var/lib/dpkg/updates/x")))
	users := func() string {
		return sh("cat " + scratch + "/etc/passwd; ls " + scratch + "/var/lib/offloader/archive")
	}
	const user = `^root:.*\noffloader:!?x?:\d+:\d+:[^:]*:/var/lib/offloader:/usr/sbin/nologin\nk\n$`
	unit := sh("cat root/usr/lib/systemd/system/offloader.service")
	require.Contains(t, unit, "\nUser=offloader\nGroup=offloader\nStateDirectory=offloader\n")
	for _, call := range []string{"postinst configure ''", "postinst configure 9.8.6", "prerm remove", "postrm remove", "postrm purge"} {
		said := sh("export PATH=$PATH:/usr/sbin:/sbin DPKG_ROOT=" + scratch + "; sh -n control/" + strings.Fields(call)[0] + " && control/" + call)
		require.Regexp(t, user, users(), call)
		require.Equal(t, call == "postrm purge", strings.Contains(said, "the user offloader stay"), said)
	}
	if os.Getuid() == 0 { // dpkg sets owners
		dpkg := "dpkg --log=" + scratch + "/log --root=" + scratch + " --force-script-chrootless --force-depends "
		sh("rm " + scratch + "/etc/*; echo root:x:0:0:root:/root:/bin/sh >" + scratch + "/etc/passwd; echo root:x:0: >" + scratch + "/etc/group")
		sh(dpkg + "-i " + deb)
		require.Regexp(t, user, users())
		require.Equal(t, "root root 755\n", sh("stat -c '%U %G %a' "+scratch+"/usr/bin/offloader"))
		require.Contains(t, sh(dpkg+"--purge offloader"), "the user offloader stay")
		require.Regexp(t, user, users())
		require.NoFileExists(t, filepath.Join(scratch, "usr/bin/offloader"))
	}
	if _, err := exec.LookPath("systemd-analyze"); err == nil { // a container may be without
		unit := "root/usr/lib/systemd/system/offloader.service"
		sh("sed -i s,/usr/bin/offloader,$PWD/root/usr/bin/offloader, " + unit + " && systemd-analyze verify --man=no " + unit)
	}
}

// TestDropInsOfEngines: whatever the unit of a distribution says, with the drop-in the engine is started again, for ever.
func TestDropInsOfEngines(t *testing.T) {
	for _, engine := range []string{"redis", "valkey"} {
		text, err := os.ReadFile("../configs/" + engine + "-rebirth.conf")
		require.NoError(t, err)
		for _, part := range []string{"[Unit]\nStartLimitIntervalSec=0\n\n[Service]\nExecStart=\nExecStart=/usr/bin/" + engine + "-server ", "\nRestart=always\nRestartSec=1s\n"} {
			require.Contains(t, string(text), part)
		}
		if _, err := exec.LookPath("systemd-analyze"); err != nil { // a container may be without
			continue
		}
		units := t.TempDir()
		unit := filepath.Join(units, engine+"-server.service")
		require.NoError(t, os.Mkdir(unit+".d", 0o755))
		require.NoError(t, os.WriteFile(unit, []byte("[Service]\nType=notify\nExecStart=/bin/false\nRestart=on-failure\n"), 0o600))
		require.NoError(t, os.WriteFile(filepath.Join(unit+".d", "rebirth.conf"), []byte(strings.ReplaceAll(string(text), "/usr/bin/"+engine+"-server", "/bin/true")), 0o600))
		cmd := exec.CommandContext(t.Context(), "systemd-analyze", "verify", "--man=no", unit)
		cmd.Env = append(os.Environ(), "SYSTEMD_UNIT_PATH="+units+":")
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
		require.Empty(t, string(out))
	}
}
