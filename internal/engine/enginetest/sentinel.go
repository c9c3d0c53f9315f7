package enginetest

import (
	"fmt"
	"os"
	"path/filepath"
)

// Sentinel starts one that watches the master at a port, alone, under the name "m". It finds a master dead within a
// second. args are options as on its command line.
func Sentinel(t TB, kind Kind, master int, args ...string) *Server {
	t.Helper()
	conf := filepath.Join(t.TempDir(), "sentinel.conf") // it writes down there what it learns
	text := fmt.Sprintf("sentinel monitor m 127.0.0.1 %d 1\nsentinel down-after-milliseconds m 700\nsentinel failover-timeout m 3000\n", master)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatalf("write a Sentinel's configuration: %v", err)
	}
	return Start(t, kind, append([]string{conf, "--sentinel"}, args...)...)
}
