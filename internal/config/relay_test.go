package config

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// relays is a configuration whose one source has that relay, in line 4 from column 12 on.
func relays(fields string) string {
	return strings.Replace(good, "    address: 10.0.0.5\n", "    address: 10.0.0.5\n    relay: "+fields+"\n", 1)
}

func TestRelay(t *testing.T) {
	for fields, want := range map[string]Relay{
		"{listen: '127.0.0.1:6390'}":                            {Listen: "127.0.0.1:6390"},
		"{listen: 'localhost:6390'}":                            {Listen: "localhost:6390"},
		"{listen: '[::1]:6390'}":                                {Listen: "[::1]:6390"},
		"{listen: ':6390', password: '${PW}'}":                  {Listen: ":6390", Password: "hunter2"},
		"{listen: '10.0.0.9:6390', username: u, password: pw1}": {Listen: "10.0.0.9:6390", Username: "u", Password: "pw1"},
	} {
		c, _, err := Parse("c", []byte(relays(fields)), environment("PW", "hunter2"))
		require.NoError(t, err, fields)
		require.Equal(t, &want, c.Sources[0].Relay)
		require.True(t, want.Same(c.Sources[0].Relay))
		require.False(t, want.Same(&Relay{Listen: "127.0.0.1:1"}))
		require.False(t, want.Same(nil))
	}
}

func TestRelayThatCantBe(t *testing.T) {
	public, _ := keys(t)
	open := "4:21: 10.0.0.9:6390 can be reached from other hosts, and everybody there could copy the data"
	for text, says := range map[string]string{
		relays("{}"):                                                                          `this relay has no "listen"`,
		relays("{listen: '10.0.0.9:6390'}"):                                                   open,
		relays("{listen: ':6390'}"):                                                           "4:21: :6390 can be reached from other hosts",
		relays("{listen: '127.0.0.1:0'}"):                                                     "4:21: port 0 is a free one",
		relays("{listen: '127.0.0.1'}"):                                                       "is not an address to listen at",
		relays("{listen: '127.0.0.1:1', usr: u}"):                                             `unknown field "usr"`,
		relays("{listen: '127.0.0.1:1', username: u}"):                                        `there is a "username" and no password for it`,
		relays("{listen: '127.0.0.1:1', password: p, password_file: /p}"):                     `both "password" and "password_file" are given`,
		relays("{listen: '127.0.0.1:1', tls: {}}"):                                            `"tls" of a relay needs "cert_file" and "key_file"`,
		relays("{listen: '127.0.0.1:1', tls: {cert_file: /no, key_file: /no}}"):               "read our certificate",
		relays("{listen: '127.0.0.1:9390'}"):                                                  "127.0.0.1:9390 is where http listens already",
		relays("{listen: '127.0.0.1:1'}") + "encryption: {recipients: [" + public[0] + "]}\n": `4:21: a relay reads what is stored encrypted: "encryption" needs an "identity_file"`,
		strings.Replace(relays("{listen: '127.0.0.1:1'}"), "stores:", "  - {name: other, address: b, relay: {listen: '127.0.0.1:1'}}\nstores:", 1): "127.0.0.1:1 is where another source's relay listens already",
	} {
		_, _, err := Parse("c", []byte(text), environment())
		require.ErrorContains(t, err, says, text)
	}
}
