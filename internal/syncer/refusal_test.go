package syncer

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/engine/enginetest"
)

func secret(s string) func() (string, error) { return func() (string, error) { return s, nil } }

// Each user, and what the master's refusal is told as.
func TestUsers(t *testing.T) {
	enginetest.Each(t, func(t *testing.T, kind enginetest.Kind) {
		master := enginetest.Start(t, kind)
		for _, rule := range []string{
			"good on >pw resetkeys resetchannels +psync +replconf +ping", "bare on >pw +psync +replconf",
			"nopsync on >pw +replconf +ping", "noreplconf on >pw +psync +ping", "off off >pw +@all",
		} {
			master.Do(append([]any{"ACL", "SETUSER"}, anys(strings.Fields(rule))...)...)
		}
		for _, c := range []struct {
			user, password string
			kind           Kind
			says, hint     string
		}{
			{"good", "pw", "", "", ""},
			{"bare", "pw", "", "", ""},
			{"good", "wrong", KindPassword, "AUTH: user or password is wrong", "ACL GETUSER good"},
			{"nobody", "pw", KindPassword, "user or password is wrong", "ACL GETUSER nobody"},
			{"off", "pw", KindPassword, "the user is off", "ACL GETUSER off"},
			{"nopsync", "pw", KindPermission, "PSYNC: the user lacks a right", "ACL SETUSER nopsync resetkeys resetchannels +psync +replconf"},
			{"noreplconf", "pw", KindPermission, "REPLCONF: the user lacks a right", "+replconf"},
			{"", "pw", KindPassword, "the master has none for the default user", "take the password away"},
		} {
			t.Run(c.user+" "+c.password, func(t *testing.T) {
				sink := newMemory()
				l, stop := up(t, Options{Address: master.Addr(), Username: c.user, Password: secret(c.password)}, sink)
				defer stop()
				if c.kind == "" {
					caught(t, master, sink)
					return
				}
				s := refusedWith(t, l, c.kind)
				require.Contains(t, s.LastError, c.says)
				require.Contains(t, s.LastHint, c.hint)
				if strings.HasPrefix(s.LastHint, "at the master: ") {
					// What is told to be pasted is enough. The quotes are for shells and redis-cli.
					line := strings.ReplaceAll(strings.TrimPrefix(s.LastHint, "at the master: "), "'", "")
					master.Do(anys(strings.Fields(line))...)
					caught(t, master, sink)
				}
			})
		}
		t.Run("a user that is deleted", func(t *testing.T) {
			sink := newMemory()
			l, _ := up(t, Options{Address: master.Addr(), Username: "good", Password: secret("pw")}, sink)
			caught(t, master, sink)
			master.Do("ACL", "DELUSER", "good")
			refusedWith(t, l, KindClosed)
			refusedWith(t, l, KindPassword)
		})
		t.Run("no password given", func(t *testing.T) {
			master := enginetest.Start(t, kind, "--requirepass", "pw")
			password := ""
			l, stop := up(t, Options{Address: master.Addr(), Password: func() (string, error) { return password, nil }}, newMemory())
			s := refusedWith(t, l, KindPassword)
			require.Contains(t, s.LastError, "the master wants a password")
			stop()
			sink := newMemory()
			up(t, Options{Address: master.Addr(), Password: secret("pw")}, sink)
			caught(t, master, sink)
		})
	})
}

func anys(words []string) []any {
	var a []any
	for _, w := range words {
		a = append(a, w)
	}
	return a
}

// What passes by itself is waited for, close by, and then the link comes up.
func TestMastersThatCantJustNow(t *testing.T) {
	enginetest.Each(t, func(t *testing.T, kind enginetest.Kind) {
		t.Parallel() // it mostly waits
		t.Run("loading", func(t *testing.T) {
			master := enginetest.Start(t, kind, "--key-load-delay", "2000", "--loading-process-events-interval-bytes", "1024")
			fill(master, 1000)
			reloaded := make(chan error, 1)
			client := master.Client()
			go func() { reloaded <- client.Do(context.Background(), "DEBUG", "RELOAD").Err() }()
			sink := newMemory()
			eventually(t, "it loads", func() bool {
				return strings.Contains(fmt.Sprint(client.Ping(context.Background()).Err()), "LOADING")
			})
			l, _ := up(t, Options{Address: master.Addr()}, sink)
			s := refusedWith(t, l, KindLoading)
			require.Contains(t, s.LastError, "the master is loading its dataset")
			require.NoError(t, <-reloaded)
			caught(t, master, sink)
		})
		t.Run("a script runs", func(t *testing.T) {
			master := enginetest.Start(t, kind, "--busy-reply-threshold", "1")
			client := master.Client()
			done := make(chan error, 1)
			go func() { done <- client.Do(context.Background(), "EVAL", "while true do end", 0).Err() }()
			eventually(t, "it is busy", func() bool {
				return strings.Contains(fmt.Sprint(client.Ping(context.Background()).Err()), "BUSY")
			})
			sink := newMemory()
			l, _ := up(t, Options{Address: master.Addr()}, sink)
			s := refusedWith(t, l, KindBusy)
			require.Contains(t, s.LastHint, "SCRIPT KILL")
			require.NoError(t, client.Do(context.Background(), "SCRIPT", "KILL").Err())
			require.Error(t, <-done)
			caught(t, master, sink)
		})
		for _, stale := range []string{"yes", "no"} {
			t.Run("a replica without its master, stale data "+stale, func(t *testing.T) {
				master := enginetest.Start(t, kind)
				replica := enginetest.Start(t, kind, "--replicaof", "127.0.0.1 "+strconv.Itoa(master.Port()), "--replica-serve-stale-data", stale)
				sink := newMemory()
				_, stop := up(t, Options{Address: replica.Addr()}, sink)
				caught(t, master, sink)
				stop()
				master.Kill()
				eventually(t, "it lost its master", func() bool { return replica.Info("replication")["master_link_status"] == "down" })
				l, _ := up(t, Options{Address: replica.Addr()}, sink)
				s := refusedWith(t, l, KindMasterDown)
				require.Contains(t, s.LastHint, "name the master itself")
				eventually(t, "it was asked again, for the same", func() bool { return l.Status().Errors[KindMasterDown] > 2 })
				require.NotEmpty(t, see(sink, func(m *memory) any { return m.id }), "id and offset are kept")
			})
		}
		t.Run("as many clients as it takes", func(t *testing.T) {
			master := enginetest.Start(t, kind)
			master.Do("CONFIG", "SET", "maxclients", "1")
			sink := newMemory()
			l, _ := up(t, Options{Address: master.Addr()}, sink)
			s := refusedWith(t, l, KindFull)
			require.Contains(t, s.LastHint, "maxclients")
			master.Do("CONFIG", "SET", "maxclients", "100")
			caught(t, master, sink)
		})
		t.Run("it can't save", func(t *testing.T) {
			master := enginetest.Start(t, kind, "--repl-diskless-sync", "no")
			fill(master, 10)
			// A folder in the place of the file that the child writes to.
			dir := filepath.Join(master.Dir(), "dump.rdb")
			require.NoError(t, os.MkdirAll(filepath.Join(dir, "x"), 0o700))
			l, _ := up(t, Options{Address: master.Addr()}, newMemory())
			s := refusedWith(t, l, KindSave)
			require.Contains(t, s.LastHint, "log")
			require.NoError(t, os.RemoveAll(dir))
		})
	})
}

func TestNobodyThere(t *testing.T) {
	for name, address := range map[string]string{
		"nothing listens there": fmt.Sprintf("127.0.0.1:%d", enginetest.FreePort(t)),
		"its name can't be":     "no-such-host.invalid:6379",
		"unknown port":          "127.0.0.1:notaport",
	} {
		t.Run(name, func(t *testing.T) {
			l, _ := up(t, Options{Address: address}, newMemory())
			s := refusedWith(t, l, KindUnreachable)
			require.Contains(t, s.LastError, name)
			require.NotEmpty(t, s.LastHint)
		})
	}
}

func TestNoRedis(t *testing.T) {
	web := httptest.NewServer(http.NotFoundHandler())
	defer web.Close()
	l, stop := up(t, Options{Address: strings.TrimPrefix(web.URL, "http://")}, newMemory())
	require.Contains(t, refusedWith(t, l, KindNotMaster).LastError, "a web server answers there")
	stop()

	for name, says := range map[string]string{
		"another protocol": "SSH-2.0-OpenSSH_9.2\r\n", "binary": "\x00\x01\x02\x03\xff\xfe\r\n", "no line's end": strings.Repeat("x", 100),
		"one endless line": "+" + strings.Repeat("x", 100_000), "a huge bulk": "$99999999999\r\n", "a nested array": "*2\r\n*1\r\n", "an empty line": "\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			l, _ := up(t, Options{Address: saying(t, says)}, newMemory())
			s := refusedWith(t, l, KindNotMaster)
			require.Less(t, len(s.LastError), 500)
			require.NotContains(t, s.LastError, "\x00")
		})
	}
	for name, c := range map[string]struct {
		says string
		kind Kind
	}{
		"protected mode": {"-DENIED Redis is running in protected mode because protected mode is enabled and no password is set for the default user. In this mode connections are only accepted from the loopback interface.\r\n", KindProtected},
		"closes at once": {"", KindClosed},
		"a null":         {"$-1\r\n", KindNotMaster},
	} {
		t.Run(name, func(t *testing.T) {
			l, _ := up(t, Options{Address: saying(t, c.says)}, newMemory())
			refusedWith(t, l, c.kind)
		})
	}
}

// saying is the address of somebody who says one thing to all who come, and hangs up.
func saying(t *testing.T, what string) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(nc, what)
			if tcp, ok := nc.(*net.TCPConn); ok {
				_ = tcp.CloseWrite()
			}
			_ = nc.SetReadDeadline(time.Now().Add(time.Second))
			_, _ = io.Copy(io.Discard, nc)
			_ = nc.Close()
		}
	}()
	t.Cleanup(func() { _ = ln.Close(); <-done })
	return ln.Addr().String()
}

func TestASentinelIsNoMaster(t *testing.T) {
	kind := enginetest.Any(t)
	dir := t.TempDir()
	conf := filepath.Join(dir, "sentinel.conf")
	require.NoError(t, os.WriteFile(conf, nil, 0o600))
	port := enginetest.FreePort(t)
	process := spawn(t, kind.Tool("server"), conf, "--sentinel", "--port", strconv.Itoa(port), "--dir", dir)
	_ = process
	l, _ := up(t, Options{Address: fmt.Sprintf("127.0.0.1:%d", port)}, newMemory())
	require.Contains(t, refusedWith(t, l, KindNotMaster).LastError, "this is a Sentinel")
}

// spawn starts a program and ends it with the test.
func spawn(t *testing.T, name string, args ...string) *os.Process {
	t.Helper()
	out, err := os.Create(filepath.Join(t.TempDir(), "out"))
	require.NoError(t, err)
	p, err := os.StartProcess(name, append([]string{name}, args...), &os.ProcAttr{Files: []*os.File{nil, out, out}, Sys: &syscall.SysProcAttr{}})
	require.NoError(t, err)
	t.Cleanup(func() {
		_ = p.Kill()
		_, _ = p.Wait()
		_ = out.Close()
	})
	return p
}

func TestTLS(t *testing.T) {
	ca, caPool, caFile := authority(t)
	certFile, keyFile, _ := issue(t, ca, "127.0.0.1")
	_, _, client := issue(t, ca, "client")
	enginetest.Each(t, func(t *testing.T, kind enginetest.Kind) {
		t.Parallel() // it mostly waits
		port := enginetest.FreePort(t)
		master := enginetest.Start(t, kind, "--tls-port", strconv.Itoa(port), "--tls-cert-file", certFile, "--tls-key-file", keyFile,
			"--tls-ca-cert-file", caFile)
		secure := fmt.Sprintf("127.0.0.1:%d", port)
		fill(master, 100)
		good := &tls.Config{RootCAs: caPool, Certificates: []tls.Certificate{client}}

		sink := newMemory()
		_, stop := up(t, Options{Address: secure, TLS: good}, sink)
		caught(t, master, sink)
		require.Empty(t, enginetest.Diff(t, master, restored(t, kind, sink)))
		stop()

		for _, c := range []struct {
			name    string
			address string
			config  *tls.Config
			says    string
			hint    string
		}{
			{"TLS to a plain port", master.Addr(), good, "doesn't speak TLS", "take tls away"},
			{"plain to a TLS port", secure, nil, "", "configure tls"},
			{"an authority that we don't know", secure, &tls.Config{Certificates: []tls.Certificate{client}}, "signed by nobody we know", "ca_file"},
			{"a certificate for another name", secure, &tls.Config{RootCAs: caPool, ServerName: "elsewhere", Certificates: []tls.Certificate{client}}, "for another name", "server_name"},
			{"no certificate of ours", secure, &tls.Config{RootCAs: caPool}, "refuses our certificate, or wants one", "cert_file"},
		} {
			t.Run(c.name, func(t *testing.T) {
				l, stop := up(t, Options{Address: c.address, TLS: c.config, DialTimeout: time.Second}, newMemory())
				defer stop()
				eventually(t, "a failure", func() bool { return l.Status().LastError != "" })
				s := l.Status()
				require.Contains(t, s.LastError, c.says)
				require.Contains(t, s.LastHint, c.hint)
			})
		}
	})
}

func authority(t *testing.T) (tls.Certificate, *x509.CertPool, string) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	file := filepath.Join(t.TempDir(), "ca.pem")
	require.NoError(t, os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: cert}, pool, file
}

func issue(t *testing.T, ca tls.Certificate, name string) (certFile, keyFile string, pair tls.Certificate) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	if ip := net.ParseIP(name); ip != nil {
		template.IPAddresses = []net.IP{ip}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.Leaf, &key.PublicKey, ca.PrivateKey)
	require.NoError(t, err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})
	require.NoError(t, os.WriteFile(certFile, certPEM, 0o600))
	require.NoError(t, os.WriteFile(keyFile, keyPEM, 0o600))
	pair, err = tls.X509KeyPair(certPEM, keyPEM)
	require.NoError(t, err)
	return certFile, keyFile, pair
}
