package test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	numbers "math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
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

// selfSigned writes a certificate for the loopback, and its key.
func selfSigned(t *testing.T) (cert, key string) {
	t.Helper()
	secret, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: numbers.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	public, err := x509.CreateCertificate(rand.Reader, template, template, &secret.PublicKey, secret)
	require.NoError(t, err)
	private, err := x509.MarshalPKCS8PrivateKey(secret)
	require.NoError(t, err)
	cert, key = filepath.Join(t.TempDir(), "cert.pem"), filepath.Join(t.TempDir(), "key.pem")
	require.NoError(t, os.WriteFile(cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: public}), 0o600))
	require.NoError(t, os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600))
	return cert, key
}

// With a password and TLS, a replica that has both attaches, and one that lacks either doesn't.
func TestRelayLocked(t *testing.T) {
	t.Parallel()
	cert, key := selfSigned(t)
	enginetest.Each(t, func(t *testing.T, kind enginetest.Kind) {
		t.Parallel()
		master := enginetest.Start(t, kind)
		working(t, master, 300)
		d, port := relaying(t, master.Addr(), fmt.Sprintf(", username: replica, password: sesame, tls: {cert_file: %q, key_file: %q, ca_file: %q}", cert, key, cert))
		tls := []string{"--tls-replication", "yes", "--tls-cert-file", cert, "--tls-key-file", key, "--tls-ca-cert-file", cert}
		login := []string{"--masteruser", "replica", "--masterauth", "sesame"}
		at := []string{"--replicaof", fmt.Sprintf("127.0.0.1 %d", port)}
		good := enginetest.Start(t, kind, slices.Concat(tls, login, at)...)
		plain := enginetest.Start(t, kind, slices.Concat(login, at)...)
		wrong := enginetest.Start(t, kind, slices.Concat(tls, []string{"--masteruser", "replica", "--masterauth", "open"}, at)...)
		same(t, master, good)
		require.Eventually(t, func() bool { return strings.Contains(wrong.LogText(), "WRONGPASS") }, 20*time.Second, 10*time.Millisecond)
		require.Equal(t, "down", plain.Info("replication")["master_link_status"])
		require.Equal(t, "down", wrong.Info("replication")["master_link_status"])
		require.Contains(t, d.LogText(), "a peer of the relay gave a wrong password")
		require.NotContains(t, d.LogText(), "sesame")

		m := note(t, master, 1)
		password := filepath.Join(t.TempDir(), "password")
		require.NoError(t, os.WriteFile(password, []byte("sesame\n"), 0o600))
		_, served := d.Serve(append(m.byOffset(), "--username", "replica", "--password-file", password, "--cert-file", cert, "--key-file", key)...).At()
		follow(good, int(number(t, served)))
		reaches(t, good, m.offset)
		follow(plain, int(number(t, served)))
		m.becomes(t, good)
		require.Equal(t, "down", plain.Info("replication")["master_link_status"])
	})
}

// kinds are the engines that the tests run against, by name.
func kinds(t *testing.T) map[string]enginetest.Kind {
	all := map[string]enginetest.Kind{}
	for _, k := range enginetest.All(t) {
		all[k.String()] = k
	}
	return all
}

// An engine that gets an RDB that it can't load has emptied itself before it says so. Where the version is
// known it gets none, and keeps what it has; where it isn't, it doesn't get one after the other.
func TestRelayPitfall18AnRDBThatTheReplicaCantLoad(t *testing.T) {
	t.Parallel()
	all := kinds(t)
	for _, c := range []struct{ master, replica, says string }{
		{"redis8.0", "valkey8.1", "which valkey 8.1"},
		{"redis8.0", "valkey9.1", "which valkey 9.1"},
		{"valkey9.1", "valkey8.1", "which valkey 8.1"},
		{"valkey9.1", "redis8.0", "this replica is redis or an older valkey"},
	} {
		master, replica := all[c.master], all[c.replica]
		if (master == enginetest.Kind{} || replica == enginetest.Kind{}) {
			continue // narrowed by ENGINES
		}
		t.Run(c.replica+" of "+c.master, func(t *testing.T) {
			t.Parallel()
			m, r := enginetest.Start(t, master), enginetest.Start(t, replica)
			m.Do("SET", "new", "1")
			r.Do("SET", "old", "1")
			d, port := relaying(t, m.Addr(), "")
			follow(r, port)
			require.Eventually(t, func() bool { return strings.Count(r.LogText(), "Can't SYNC now") >= 2 }, 20*time.Second, 10*time.Millisecond)
			require.Equal(t, "1", r.Do("GET", "old"))
			require.NotContains(t, r.LogText(), "Full resync from")
			require.Contains(t, d.LogText(), "the snapshot is an RDB of version")
			require.Contains(t, d.LogText(), c.says)
			require.Equal(t, 1, strings.Count(d.LogText(), "a replica is put off"), "it is said once")
		})
	}
	if m, r := all["redis8.0"], all["redis7.0"]; m != (enginetest.Kind{}) && r != (enginetest.Kind{}) {
		t.Run("a version that isn't told", func(t *testing.T) {
			t.Parallel()
			master, replica := enginetest.Start(t, m), enginetest.Start(t, r)
			d, port := relaying(t, master.Addr(), "")
			follow(replica, port)
			require.Eventually(t, func() bool { return strings.Contains(d.LogText(), "could load none of them") }, 20*time.Second, 10*time.Millisecond)
			require.Less(t, strings.Count(replica.LogText(), "Full resync from"), 6)
		})
	}
}

// Peers that take nothing, say nothing, talk nonsense, hang in a net that has gone, don't know the password or come
// by the thousand are felt by nobody.
func TestRelayBadInputHostilePeers(t *testing.T) {
	t.Parallel()
	enginetest.Each(t, func(t *testing.T, kind enginetest.Kind) {
		t.Parallel()
		master := enginetest.Start(t, kind)
		w := working(t, master, 300)
		master.Do(w.Big("big", 24<<20, false)...)
		d, port := relaying(t, master.Addr(), ", password: sesame")
		at := fmt.Sprintf("127.0.0.1:%d", port)
		connect := func(say string) {
			nc, err := net.Dial("tcp", at)
			require.NoError(t, err)
			t.Cleanup(func() { _ = nc.Close() })
			_, _ = io.WriteString(nc, say) // it may have had to make room already
		}
		gone := blackbox.NewProxy(t, at)
		_, through, err := net.SplitHostPort(gone.Addr())
		require.NoError(t, err)
		lost := enginetest.Start(t, kind, "--masterauth", "sesame", "--replicaof", "127.0.0.1 "+through)
		same(t, master, lost)
		gone.Stall()
		for range 4 { // they know the password, and never read
			connect("AUTH sesame\r\n")
			connect("AUTH sesame\r\nPSYNC ? -1\r\n")
			connect("AUTH sesame\r\nSYNC\r\nFLUSHALL\r\n" + strings.Repeat("\x00", 1<<10))
		}
		for range 250 {
			connect("")
			connect("AUTH guess\r\n")
			connect("PSYNC ? -1\r\n")
			connect("*3\r\n$1000000000\r\n")
		}
		one := enginetest.Start(t, kind, "--masterauth", "sesame", "--replicaof", fmt.Sprintf("127.0.0.1 %d", port))
		same(t, master, one)
		for i := range 3 {
			master.Do(w.Big(fmt.Sprint("more ", i), 8<<20, false)...)
			acknowledged(t, master, 1)
			same(t, master, one)
			end := master.Offset() // the spool has room for two of them, and a disk may be slow
			d.Until("cache", "all is stored", func(s blackbox.SourceStatus) bool { return s.Stores[0].Stored >= end })
		}
		_, peak := d.RSS()
		require.Less(t, peak, int64(128<<20))
		gone.Mend()
		same(t, master, one, lost)
		require.Equal(t, 1, strings.Count(lost.LogText(), "Full resync from"))
		s := d.Source("cache")
		require.Equal(t, "streaming", s.State)
		require.Zero(t, s.PartialResyncs, "the link was never cut")
		require.Equal(t, "1", master.Info("stats")["sync_full"])
	})
}

// Killed in the middle of full copies, the daemon comes back, and so do they.
func TestRelayKilledInMidTransfer(t *testing.T) {
	t.Parallel()
	kind := nth(t, 0)
	master := enginetest.Start(t, kind)
	w := working(t, master, 300)
	for i := range 4 {
		master.Do(w.Big(fmt.Sprint("big ", i), 24<<20, false)...)
	}
	d, port := relaying(t, master.Addr(), "")
	var replicas []*enginetest.Server
	for range 3 {
		replicas = append(replicas, enginetest.Start(t, kind, "--replicaof", fmt.Sprintf("127.0.0.1 %d", port)))
	}
	for range 3 {
		require.Eventually(t, func() bool {
			return slices.ContainsFunc(replicas, func(r *enginetest.Server) bool {
				i := r.Info("replication")
				return i["master_sync_in_progress"] == "1" && i["master_sync_read_bytes"] != "0" || i["master_link_status"] == "up"
			})
		}, 30*time.Second, time.Millisecond)
		d.Kill()
		d.Restart()
	}
	d.Streaming("cache")
	same(t, master, replicas...)
	require.Equal(t, "1", master.Info("stats")["sync_full"])
}

// What is encrypted is served to those who need not know, by who has the identity.
func TestRelayOfAnEncryptedArchive(t *testing.T) {
	t.Parallel()
	kind := enginetest.Any(t)
	master := enginetest.Start(t, kind)
	w := working(t, master, 300)
	port, key := enginetest.FreePort(t), filepath.Join(t.TempDir(), "key.txt")
	yaml := fmt.Sprintf(`
sources: [{name: cache, address: %q, relay: {listen: "127.0.0.1:%d"}}]
spool: {path: $DIR/archive/.spool, max_size: 16MiB, min_free: 1%%}
stores: [{type: disk, path: $DIR/archive}]
`, master.Addr(), port)
	locked := encryption(t, key)
	unreadable := filepath.Join(t.TempDir(), "c.yaml")
	require.NoError(t, os.WriteFile(unreadable, []byte(yaml+locked), 0o600))
	r := blackbox.Run(t, "run", "--config", unreadable)
	require.Equal(t, 2, r.Code, "%s", r)
	require.Contains(t, r.Stderr, `a relay reads what is stored encrypted: "encryption" needs an "identity_file"`)

	d := blackbox.StartWith(t, t.TempDir(), yaml+strings.Replace(locked, "]}", "], identity_file: "+key+"}", 1))
	d.Streaming("cache")
	for i := range 3 {
		master.Do(w.Big(fmt.Sprint("big ", i), 8<<20, false)...)
		d.Durable("cache", master.Offset())
	}
	replica := enginetest.Start(t, kind, "--replicaof", fmt.Sprintf("127.0.0.1 %d", port))
	same(t, master, replica)
	m := note(t, master, 1)
	d.Durable("cache", m.offset)
	d.Stop()
	host, at := d.Serve(append(m.byOffset(), "--identity", key)...).At()
	other := enginetest.Start(t, kind, "--replicaof", host+" "+at)
	reaches(t, other, m.offset)
	m.becomes(t, other)
}

// From a bucket. While the service is away, who needs only what is spooled is served, and who needs more waits.
func TestRelayOfABucketThatIsAway(t *testing.T) {
	t.Parallel()
	kind := enginetest.Any(t)
	server := s3test.Start(t, s3test.MinIO)
	master := enginetest.Start(t, kind)
	w := working(t, master, 300)
	port := enginetest.FreePort(t)
	d := blackbox.StartWith(t, t.TempDir(), fmt.Sprintf("sources: [{name: cache, address: %q, relay: {listen: '127.0.0.1:%d'}}]\nspool: {path: $DIR/spool, max_size: 32MiB}\nstores: [%s]\n",
		master.Addr(), port, onS3(t, server.Endpoint(), server.Bucket(s3test.Plain))))
	d.Streaming("cache")
	stored := func() {
		t.Helper()
		end := master.Offset()
		d.Until("cache", "all is stored", func(s blackbox.SourceStatus) bool { return s.Stores[0].Stored >= end })
	}
	for i := range 6 {
		master.Do(w.Big(fmt.Sprint("big ", i), 8<<20, false)...)
		stored()
	}
	here := enginetest.Start(t, kind, "--replicaof", fmt.Sprintf("127.0.0.1 %d", port))
	away := enginetest.Start(t, kind, "--replicaof", fmt.Sprintf("127.0.0.1 %d", port))
	same(t, master, here, away)
	follow(away, 1)
	master.Do("SET", "missed", "1")
	stored()

	server.Kill()
	master.Do("SET", "more", "1")
	follow(away, port)
	late := enginetest.Start(t, kind, "--replicaof", fmt.Sprintf("127.0.0.1 %d", port))
	same(t, master, here, away)
	require.Eventually(t, func() bool { return strings.Contains(late.LogText(), "Can't SYNC now") }, 60*time.Second, 10*time.Millisecond)
	require.Equal(t, "streaming", d.Source("cache").State)
	server.Restart()
	same(t, master, here, away, late)
	require.Equal(t, 1, strings.Count(away.LogText(), "Full resync from"))
	require.Equal(t, "1", master.Info("stats")["sync_full"])
}

// Pitfall 10: from a bucket whose every object takes longer than a replica's patience: newlines keep it while it waits for an
// answer. What it can't be told behind one, that a segment is read, costs it a connection, and no progress.
func TestRelayOfABucketThatIsSlow(t *testing.T) {
	t.Parallel() // it waits most of the time
	kind := enginetest.Any(t)
	server := s3test.Start(t, s3test.MinIO)
	proxy := s3test.NewProxy(t, server)
	master := enginetest.Start(t, kind, "--repl-ping-replica-period", "1")
	w := working(t, master, 300)
	port := enginetest.FreePort(t)
	d := blackbox.StartWith(t, t.TempDir(), fmt.Sprintf("sources: [{name: cache, address: %q, relay: {listen: '127.0.0.1:%d'}}]\nspool: {path: $DIR/spool, max_size: 16MiB}\nstores: [%s]\n",
		master.Addr(), port, onS3(t, proxy.Endpoint(), server.Bucket(s3test.Plain))))
	d.Streaming("cache")
	for i := range 2 {
		master.Do(w.Big(fmt.Sprint("big ", i), 8<<20, false)...)
		end := master.Offset()
		d.Until("cache", "all is stored", func(s blackbox.SourceStatus) bool { return s.Stores[0].Stored >= end })
	}
	var mu sync.Mutex
	had, cut := map[string]bool{}, 0
	proxy.Harm(func(r *http.Request) s3test.Fault {
		mu.Lock()
		defer mu.Unlock()
		if r.Method != http.MethodGet || !strings.HasSuffix(r.URL.Path, ".zst") || had[r.URL.Path] {
			return s3test.Fault{}
		}
		return s3test.Fault{Before: func() {
			select {
			case <-r.Context().Done():
				mu.Lock()
				defer mu.Unlock()
				cut++
			case <-time.After(4 * time.Second):
				mu.Lock()
				defer mu.Unlock()
				had[r.URL.Path] = true
			}
		}}
	})
	replica := enginetest.Start(t, kind, "--repl-timeout", "2", "--replicaof", fmt.Sprintf("127.0.0.1 %d", port))
	require.Eventually(t, func() bool { return replica.Offset() >= master.Offset() }, 2*time.Minute, 50*time.Millisecond, "%s", replica.LogText())
	require.Eventually(t, func() bool { return replica.Digest() == master.Digest() }, 20*time.Second, 50*time.Millisecond)
	require.Equal(t, 1, strings.Count(replica.LogText(), "Full resync from"))
	require.NotContains(t, replica.LogText(), "Timeout connecting to the MASTER")
	require.NotContains(t, replica.LogText(), "Timeout receiving bulk data")
	mu.Lock()
	defer mu.Unlock()
	require.GreaterOrEqual(t, len(had), 2, "a snapshot and a segment, or this shows nothing")
	require.Positive(t, cut, "it has lost its patience once, or this shows nothing")
}
