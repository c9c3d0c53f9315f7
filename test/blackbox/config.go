package blackbox

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/offloader/offloader/internal/engine/enginetest"
)

// StartWith starts a daemon with a configuration that the test writes itself: all of it but
// "http". Where it says $DIR, it means dir; a store in $DIR/archive and a spool in
// $DIR/archive/.spool is what the other ways to start have. What the environment must hold, NAME=value,
// stands behind; commands that ask about the daemon's archive get it as well.
func StartWith(t TB, dir, yaml string, env ...string) *Daemon {
	t.Helper()
	d := newDaemon(t, dir)
	d.env = env
	d.config = filepath.Join(dir, "offloader.yaml")
	d.url = "http://127.0.0.1:" + strconv.Itoa(enginetest.FreePort(t))
	d.args = []string{"run", "--config", d.config}
	d.where = []string{"--config", d.config}
	d.Rewrite(yaml)
	d.Restart()
	return d
}

// Rewrite gives the daemon another configuration of that kind, to be read at Reload or Restart.
func (d *Daemon) Rewrite(yaml string) {
	d.t.Helper()
	yaml = strings.ReplaceAll(yaml, "$DIR", filepath.Dir(d.config))
	yaml += fmt.Sprintf("\nhttp: {listen: %q}\n", strings.TrimPrefix(d.url, "http://"))
	if err := os.WriteFile(d.config, []byte(yaml), 0o600); err != nil {
		d.t.Fatalf("%v", err)
	}
}

// WaitFor lets a running daemon work for a while. It fails if it ends meanwhile.
func (d *Daemon) WaitFor(span time.Duration) {
	d.t.Helper()
	select {
	case <-d.ended:
		d.t.Fatalf("the daemon ended by itself: %v\n%s", d.cmd.ProcessState, d.tail())
	case <-time.After(span):
	}
}

// Ended tells whether the daemon's process is gone.
func (d *Daemon) Ended() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	select {
	case <-d.ended:
		return true
	default:
		return false
	}
}
